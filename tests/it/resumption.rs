//! Session tickets: whom they let back in, and when they do not.

use std::net::SocketAddr;

use openssl::ssl::{SslSession, SslStream, SslVersion};
use portcullis::names::{DeviceId, TenantId};
use portcullis::registry::{Actor, Change, DeviceStatus, Outcome};

use crate::pki::{Crl, NOT_BEFORE, Template, tlv};
use crate::tls::hello::{self, ALERT, HANDSHAKE, Hello};
use crate::tls::sessions::{offering, ticket, with_early_data, with_ticket};
use crate::world::{Client, Config, Connection, Failure, NOW, TOKEN_PATH, World};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

/// The alert of a missing certificate.
fn missing(version: SslVersion) -> Failure {
    Failure::Alert(if version == SslVersion::TLS1_2 { 40 } else { 116 })
}

/// One GET with the ticket; whether the handshake was abbreviated.
#[track_caller]
fn resumes(client: Client, session: &SslSession) -> bool {
    let mut connection = offering(client, session).connect().unwrap();
    assert_eq!(connection.get("/").unwrap().status, 200);
    connection.resumed()
}

/// How the edge refuses one GET with the ticket.
#[track_caller]
fn refusal(client: Client, session: &SslSession) -> Failure {
    offering(client, session).get("/").unwrap_err()
}

/// GET for a host that the connection's SNI did not name.
fn get(connection: &mut Connection, host: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    connection.exchange(request.as_bytes()).unwrap().status
}

fn second_listener(world: &World) -> SocketAddr {
    world.server().https_addresses()[1]
}

#[test]
fn a_device_resumes_at_its_own_tenant_and_is_known_as_before() {
    for version in VERSIONS {
        let world = World::start();
        let client = world.acme_client().tls(version);
        let session = client.session();
        assert!(resumes(client.clone(), &session));
        let requests = world.upstream.requests();
        let chain = |n: usize| requests[n].header("x-ssl-cert-chain")[0].to_owned();
        assert_eq!(chain(0), chain(1));
        let resumed =
            "portcullis_handshakes_total{protocol=\"https\",result=\"resumed\",tenant=\"acme\"}";
        assert_eq!(world.metric(resumed), 1.0);
        let token = offering(client, &session).token().unwrap().access_token();
        assert_eq!(claims(&token)["sub"], "device_acme-device-1");
    }
}

#[test]
fn a_resumed_session_is_the_device_of_its_ticket_whatever_key_its_client_now_holds() {
    for version in VERSIONS {
        let world = World::start();
        let session = world.acme_client().tls(version).session();
        let other = world.acme.another("acme-device-2");
        let client = world.acme_client().identity(&[&other, &world.acme.issuing]).tls(version);
        let token = offering(client, &session).token().unwrap().access_token();
        assert_eq!(claims(&token)["sub"], "device_acme-device-1");
    }
}

#[test]
fn a_ticket_of_one_tenant_makes_a_full_handshake_at_another() {
    for version in VERSIONS {
        let world = World::start();
        let session = world.acme_client().tls(version).session();
        let globex = world.globex_client().tls(version);
        assert!(!resumes(globex.clone(), &session));
        let seen = world.upstream.requests().pop().unwrap();
        assert_eq!(seen.header("x-ssl-cert-chain")[0], chain_of(&world, &globex));
        let acme_at_globex = world.acme_client().server_name("globex.example.com").tls(version);
        assert_eq!(refusal(acme_at_globex, &session), Failure::Alert(48));
        assert_eq!(refusal(globex.anonymous(), &session), missing(version));
        assert_eq!(world.upstream.requests().len(), 3);
    }
}

/// The header that a full connection of this client brings the upstream.
fn chain_of(world: &World, client: &Client) -> String {
    client.get("/").unwrap();
    world.upstream.requests().pop().unwrap().header("x-ssl-cert-chain")[0].to_owned()
}

#[test]
fn a_ticket_crosses_no_tenants_that_trust_the_same_ca() {
    for version in VERSIONS {
        let world = World::with(|_, config| {
            config.globex = "trusted_certificates: [{ file: acme-root.pem }]".into();
        });
        let client = world.acme_client().tls(version);
        let session = client.session();
        let at_globex = client.server_name("globex.example.com");
        assert!(!resumes(at_globex.clone(), &session));
        assert_eq!(refusal(at_globex.anonymous(), &session), missing(version));
    }
}

#[test]
fn a_ticket_without_server_name_opens_at_its_own_tenant_only() {
    for version in VERSIONS {
        let world = World::with(|_, config| {
            config.listener = "default_tenant: globex".into();
            config.listeners = "- { bind: \"127.0.0.1:0\", default_tenant: acme }".into();
        });
        let session = world.acme_client().tls(version).session();
        let nameless = world.acme_client().without_server_name().tls(version);
        assert_eq!(refusal(nameless.clone(), &session), Failure::Alert(48));
        assert_eq!(refusal(nameless.clone().anonymous(), &session), missing(version));
        let pki = &world.globex;
        let globex = nameless.clone().identity(&[&pki.device, &pki.issuing]);
        let mut connection = offering(globex, &session).connect().unwrap();
        assert_eq!(get(&mut connection, "globex.example.com"), 200);
        assert!(!connection.resumed());
        let at_home = nameless.at(second_listener(&world));
        let mut connection = offering(at_home, &session).connect().unwrap();
        assert_eq!(get(&mut connection, "acme.example.com"), 200);
        assert!(connection.resumed());
    }
}

#[test]
fn a_ticket_taken_to_another_listener_still_opens_at_its_own_tenant_only() {
    for version in VERSIONS {
        let world =
            World::with(|_, config| config.listeners = "- { bind: \"127.0.0.1:0\" }".into());
        let client = world.acme_client().tls(version);
        let session = client.session();
        let (acme, globex) = (client.clone(), world.globex_client().tls(version));
        assert!(resumes(acme.at(second_listener(&world)), &session));
        assert!(!resumes(globex.at(second_listener(&world)), &session));
        let stranger = client.server_name("globex.example.com").at(second_listener(&world));
        assert_eq!(refusal(stranger, &session), Failure::Alert(48));
    }
}

#[test]
fn a_ticket_of_a_listener_without_client_certificates_is_none_where_they_are_asked_for() {
    for version in VERSIONS {
        let world = World::with(|_, config| {
            config.listeners = "- { bind: \"127.0.0.1:0\", client_certificates: false }".into();
        });
        let client = world.acme_client().tls(version);
        let open = client.clone().anonymous().at(second_listener(&world));
        let mut connection = open.connect().unwrap();
        assert_eq!(connection.get("/.well-known/jwks.json").unwrap().status, 200);
        let anonymous = connection.session().unwrap();
        assert_eq!(refusal(client.clone().anonymous(), &anonymous), missing(version));
        assert!(!resumes(client.clone(), &anonymous));
        // And the other way round nobody becomes a device by it.
        let session = client.session();
        let mut connection = offering(open, &session).connect().unwrap();
        assert_eq!(connection.get("/").unwrap().status, 401);
        assert!(!connection.resumed());
    }
}

#[test]
fn after_a_restart_with_the_same_secret_tickets_open_at_their_own_tenant_only() {
    for version in VERSIONS {
        let mut world = World::with(|world, config| {
            world.write_secret("tickets.secret", &[7; 48]);
            config.edge = "session_tickets: { secret_file: tickets.secret }".into();
        });
        let session = world.acme_client().tls(version).session();
        world.restart();
        assert!(resumes(world.acme_client().tls(version), &session));
        assert!(!resumes(world.globex_client().tls(version), &session));
        let at_globex = world.acme_client().server_name("globex.example.com").tls(version);
        assert_eq!(refusal(at_globex, &session), Failure::Alert(48));
        let nobody = world.client("globex.example.com").tls(version);
        assert_eq!(refusal(nobody, &session), missing(version));
        // Another secret is another edge.
        world.write_secret("tickets.secret", &[8; 48]);
        world.restart();
        assert!(!resumes(world.acme_client().tls(version), &session));
    }
}

#[test]
fn after_a_restart_without_a_configured_secret_every_handshake_is_full() {
    for version in VERSIONS {
        let mut world = World::start();
        let session = world.acme_client().tls(version).session();
        world.restart();
        assert!(!resumes(world.acme_client().tls(version), &session));
        let nobody = world.client("acme.example.com").tls(version);
        assert_eq!(refusal(nobody, &session), missing(version));
    }
}

#[test]
fn a_ticket_outlives_one_rotation_of_its_key_and_not_two() {
    for version in VERSIONS {
        let world = World::with(|_, config| config.edge = "session_tickets: { rotate: 1h }".into());
        let client = world.acme_client().tls(version);
        let first = client.session();
        world.clock.advance(3_600);
        let mut connection = offering(client.clone(), &first).connect().unwrap();
        assert_eq!(connection.get("/").unwrap().status, 200);
        assert!(connection.resumed());
        // OpenSSL announces no new ticket of a resumed TLS 1.2 session, but has it.
        let second = match version {
            SslVersion::TLS1_2 => connection.tls.ssl().session().unwrap().to_owned(),
            _ => connection.session().unwrap(),
        };
        assert_ne!(ticket(&first), ticket(&second), "the ticket is not renewed");
        world.clock.advance(3_600);
        assert!(resumes(client.clone(), &second));
        assert!(!resumes(client.clone(), &first));
        assert_eq!(refusal(client.anonymous(), &first), missing(version));
    }
}

#[test]
fn a_device_with_a_chain_of_any_size_is_let_in_again() {
    for version in VERSIONS {
        let world = World::start();
        // The chain travels in the ticket, and a hello of more than 16 KiB is refused.
        for (bytes, resumed) in [(4_000, true), (14_000, false), (15_500, false), (60_000, false)] {
            let filler = |octets| tlv(0x04, &vec![0; octets]);
            let leaf =
                Template::device("large").extension("1.2.3.4", false, &filler(bytes % 15_000));
            let leaf = leaf.signed_by(&world.acme.issuing);
            let more = Template::ca("More").extension("1.2.3.4", false, &filler(15_000));
            let more = more.self_signed();
            let mut chain = vec![&leaf, &world.acme.issuing];
            chain.resize(2 + bytes / 15_000, &more);
            let client = world.acme_client().identity(&chain).tls(version);
            let mut connection = client.connect().unwrap();
            assert_eq!(connection.get("/").unwrap().status, 200, "{bytes}");
            let client = match connection.session() {
                Some(session) => client.resuming(&session),
                None => client,
            };
            let mut connection = client.connect().unwrap();
            assert_eq!(connection.get("/").unwrap().status, 200, "{bytes}");
            assert_eq!(connection.resumed(), resumed, "{bytes}");
        }
    }
}

#[test]
fn a_ticket_of_which_one_bit_differs_makes_a_full_handshake() {
    for version in VERSIONS {
        let world = World::start();
        let client = world.acme_client().tls(version);
        let session = client.session();
        let whole = ticket(&session);
        // Name, IV, body and MAC.
        for at in [0, 15, 16, 31, 32, whole.len() / 2, whole.len() - 32, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let changed = with_ticket(&session, &changed);
            assert!(!resumes(client.clone(), &changed), "octet {at}");
            assert_eq!(refusal(client.clone().anonymous(), &changed), missing(version), "{at}");
        }
        for length in [1, 16, 32, 64, whole.len() - 1] {
            let cut = with_ticket(&session, &whole[..length]);
            assert!(!resumes(client.clone(), &cut), "{length} octets");
        }
        assert!(resumes(client, &with_ticket(&session, &whole)));
    }
}

#[test]
fn a_ticket_of_one_version_opens_nothing_in_another() {
    let world = World::start();
    let (older, newer) = (world.acme_client().tls12(), world.acme_client().tls(SslVersion::TLS1_3));
    let (session12, session13) = (older.session(), newer.session());
    let downgraded = with_ticket(&session12, &ticket(&session13));
    assert!(!resumes(older.clone(), &downgraded));
    assert_eq!(refusal(older.anonymous(), &downgraded), missing(SslVersion::TLS1_2));
    let upgraded = with_ticket(&session13, &ticket(&session12));
    assert!(!resumes(newer.clone(), &upgraded));
    assert_eq!(refusal(newer.anonymous(), &upgraded), missing(SslVersion::TLS1_3));
}

#[test]
fn a_tls12_hello_after_a_hello_retry_request_ends_the_handshake() {
    let world = World::start();
    let newer = world.acme_client().tls(SslVersion::TLS1_3);
    let session = newer.session();
    // The edge has no P-521, so it asks for another hello.
    let retried = newer.clone().groups("P-521:P-256");
    assert!(resumes(retried.clone(), &session));
    let first = Hello::of(&offering(retried, &session));
    let older = world.acme_client().tls12();
    let downgraded = with_ticket(&older.session(), &ticket(&session));
    for second in [older.clone(), offering(older, &downgraded)] {
        let answer = hello::sent_after_answer(world.https(), &first, &Hello::of(&second));
        let kinds: Vec<u8> = answer.iter().map(|(kind, _)| *kind).collect();
        // The request to retry (with the record that middleboxes want), then the alert.
        assert_eq!(kinds.iter().filter(|kind| **kind == HANDSHAKE).count(), 1, "{kinds:?}");
        assert_eq!(kinds.last(), Some(&ALERT), "{kinds:?}");
    }
}

#[test]
fn early_data_is_never_taken() {
    let world = World::start();
    let client = world.acme_client().tls(SslVersion::TLS1_3);
    let mut connection = client.connect().unwrap();
    connection.get("/ticket").unwrap();
    // No ticket allows it; so the client is made to believe that one does.
    let session = with_early_data(&connection.session().unwrap());
    for request in [
        format!(
            "POST {TOKEN_PATH} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\r\n"
        ),
        "GET /early HTTP/1.1\r\nHost: acme.example.com\r\n\r\n".to_owned(),
    ] {
        let mut ssl = offering(client.clone(), &session).ssl(&Default::default());
        ssl.set_connect_state();
        let mut stream = SslStream::new(ssl, hello::connect(world.https())).unwrap();
        assert_eq!(stream.write_early_data(request.as_bytes()).unwrap(), request.len());
        stream.do_handshake().unwrap();
        assert!(stream.ssl().session_reused());
        let late = b"GET /late HTTP/1.1\r\nHost: acme.example.com\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut stream, late).unwrap();
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
        assert!(answer.ends_with("GET /late HTTP/1.1"), "{answer}");
    }
    let paths: Vec<String> = world
        .upstream
        .requests()
        .iter()
        .map(|r| r.head.split(' ').nth(1).unwrap().into())
        .collect();
    assert_eq!(paths, ["/ticket", "/late", "/late"]);
    for result in ["issued", "reissued", "refused"] {
        let series = format!("portcullis_tokens_total{{result=\"{result}\",tenant=\"acme\"}}");
        assert_eq!(world.metric(&series), 0.0, "{result}");
    }
}

/// A change that takes a device's right away, and what it is told then: the alert of its next
/// handshake, with the ticket from before or without, and the status of the next request on
/// the connection that it has open.
#[track_caller]
fn stale(
    prepare: impl Fn(&World, &mut Config),
    device: impl Fn(&World) -> Client,
    change: impl Fn(&World),
    alert: u8,
    status: u16,
) {
    for version in VERSIONS {
        let world = World::with(|world, config| prepare(world, config));
        let client = device(&world).tls(version);
        let mut live = client.connect().unwrap();
        assert_eq!(live.get("/before").unwrap().status, 200);
        let session = live.session().unwrap();
        assert!(resumes(client.clone(), &session));
        let served = world.upstream.requests().len();
        change(&world);
        assert_eq!(refusal(client.clone(), &session), Failure::Alert(alert), "by ticket");
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(alert), "in full");
        assert_eq!(live.get("/after").unwrap().status, status, "on the open connection");
        assert_eq!(live.until_closed(), Failure::Closed);
        assert_eq!(world.upstream.requests().len(), served);
        // Others are not touched.
        assert_eq!(world.globex_client().get("/").unwrap().status, 200);
    }
}

#[test]
fn an_anchor_that_a_reload_removes_ends_sessions_and_connections() {
    stale(
        |_, _| {},
        World::acme_client,
        |world| {
            world.write("acme-root.pem", Template::ca("acme root").self_signed().pem());
            world.reload().unwrap();
        },
        48,
        422,
    );
}

#[test]
fn a_crl_that_a_reload_brings_ends_sessions_and_connections() {
    stale(
        |world, config| {
            world.write("acme.crl", Crl::of(&world.acme.issuing).der());
            world.write("acme-issuing.pem", world.acme.issuing.pem());
            config.acme("intermediates: [acme-issuing.pem]");
            config.acme("crls: { files: [acme.crl] }");
        },
        World::acme_client,
        |world| {
            let crl = Crl::of(&world.acme.issuing).revoke(&world.acme.device);
            world.write("acme.crl", crl.der());
            world.reload().unwrap();
        },
        44,
        401,
    );
}

#[test]
fn a_leaf_that_expires_ends_sessions_and_connections() {
    stale(
        |_, _| {},
        |world| {
            let leaf = Template::device("short").validity(NOT_BEFORE, NOW + 100);
            let leaf = leaf.signed_by(&world.acme.issuing);
            world.acme_client().identity(&[&leaf, &world.acme.issuing])
        },
        |world| world.clock.advance(101),
        45,
        401,
    );
}

#[test]
fn an_intermediate_that_expires_ends_sessions_and_connections() {
    stale(
        |_, _| {},
        |world| {
            let issuing = Template::ca("short issuing").validity(NOT_BEFORE, NOW + 100);
            let issuing = issuing.signed_by(&world.acme.root);
            let leaf = Template::device("long").signed_by(&issuing);
            world.acme_client().identity(&[&leaf, &issuing])
        },
        |world| world.clock.advance(101),
        45,
        401,
    );
}

#[test]
fn a_crl_that_goes_stale_ends_sessions_and_connections() {
    stale(
        |world, config| {
            let crl = Crl::of(&world.acme.issuing).current(NOT_BEFORE, NOW + 100);
            world.write("acme.crl", crl.der());
            world.write("acme-issuing.pem", world.acme.issuing.pem());
            config.acme("intermediates: [acme-issuing.pem]");
            config.acme("crls: { files: [acme.crl] }");
        },
        World::acme_client,
        |world| world.clock.advance(101),
        46,
        401,
    );
}

#[test]
fn a_blocked_device_resumes_to_nothing() {
    for version in VERSIONS {
        let world = World::start();
        let client = world.acme_client().tls(version);
        client.token().unwrap().access_token();
        let mut live = client.connect().unwrap();
        live.get("/before").unwrap();
        let session = live.session().unwrap();
        block(&world, "acme", "acme-device-1");
        let mut resumed = offering(client, &session).connect().unwrap();
        assert_eq!(resumed.token("").unwrap().status, 403);
        assert!(resumed.resumed());
        assert_eq!(resumed.get("/after").unwrap().status, 403);
        assert_eq!(live.token("").unwrap().status, 403);
        assert_eq!(live.get("/after").unwrap().status, 403);
        assert!(world.upstream.requests().iter().all(|r| !r.head.contains("/after")));
    }
}

fn block(world: &World, tenant: &str, device: &str) {
    let (tenant, device) = (TenantId::parse(tenant).unwrap(), DeviceId::parse(device).unwrap());
    let registry = world.server().edge().gate.registry();
    let change = Change::SetDeviceStatus { tenant, device, status: DeviceStatus::Blocked };
    let actor = Actor::edge();
    let blocking = registry.apply(&actor, change);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let outcome = runtime.block_on(blocking).unwrap();
    assert_eq!(outcome, Outcome::Done, "the device is not registered");
}

#[test]
fn a_tenant_that_comes_to_require_certificates_lets_no_anonymous_session_in() {
    for version in VERSIONS {
        let trusts = "trusted_certificates: [{ file: acme-root.pem, auto_registration: true }]";
        let mode = |mode: &str| Config {
            acme: format!("{trusts}\nclient_certificate: {mode}"),
            ..Config::default()
        };
        let world = World::with(|_, config| *config = mode("optional"));
        let client = world.client("acme.example.com").tls(version);
        let mut live = client.connect().unwrap();
        assert_eq!(live.get("/before").unwrap().status, 200);
        let session = live.session().unwrap();
        assert!(resumes(client.clone(), &session));
        world.configure(&mode("required"));
        world.reload().unwrap();
        assert_eq!(refusal(client, &session), missing(version));
        assert_eq!(live.get("/after").unwrap().status, 401);
    }
}

#[test]
fn a_server_name_that_a_reload_moves_takes_no_connection_with_it() {
    for version in VERSIONS {
        let moved = |name: &str| Config {
            tenants: format!(
                "- id: initech\n  server_names: [{name}]\n  upstream: platform\n  \
                 certificate: {{ chain: server.pem, key: server.key }}\n  \
                 trusted_certificates: [{{ file: acme-root.pem }}]"
            ),
            ..Config::default()
        };
        let world = World::with(|_, config| *config = moved("initech.example.com"));
        let client = world.acme_client().server_name("dev.acme.example.com").tls(version);
        let mut live = client.connect().unwrap();
        assert_eq!(live.get("/before").unwrap().status, 200);
        let session = live.session().unwrap();
        world.configure(&moved("dev.acme.example.com"));
        world.reload().unwrap();
        // Same CA, same name, another tenant.
        assert_eq!(live.get("/after").unwrap().status, 421);
        assert!(!resumes(client, &session));
    }
}

#[test]
fn a_chain_that_a_header_completed_is_not_completed_in_the_ticket() {
    for version in VERSIONS {
        let world = World::with(|_, config| config.acme("complete_chain_from_header: true"));
        let client = world.acme_client().identity(&[&world.acme.device]).tls(version);
        let header = world.acme.issuing.pem().replace('\n', " ");
        let header = format!("X-Ssl-Cert-Chain: {}\r\n", header.trim_end());
        let mut connection = client.connect().unwrap();
        connection.token(&header).unwrap().access_token();
        let session = connection.session().unwrap();
        let mut resumed = offering(client.clone(), &session).connect().unwrap();
        let refused = resumed.get("/");
        assert!(resumed.resumed());
        assert_eq!(refused.unwrap().status, 401);
        assert!(world.upstream.requests().is_empty());
        offering(client, &session).token_with(&header).unwrap().access_token();
    }
}

fn claims(token: &str) -> serde_json::Value {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}
