//! Devices that show only their leaf: the chain is completed by the request's header, or by
//! the intermediates of the tenant.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis::names::{DeviceId, TenantId};
use serde_json::json;

use crate::pki::{Minted, Template};
use crate::world::{Client, Connection, Failure, World, eventually};

#[test]
fn a_leaf_alone_ends_the_handshake_where_completion_is_off() {
    let world = World::start();
    let client = leaf_only(&world);
    let line = header(&[&world.acme.issuing]);
    assert_eq!(client.token_with(&line).unwrap_err(), Failure::Alert(48));
    assert_eq!(client.tls12().token_with(&line).unwrap_err(), Failure::Alert(48));
    eventually("both are counted", || world.refusals("issuer_unknown") == 2.0);
}

#[test]
fn a_leaf_alone_gets_its_token_once_the_header_completes_the_chain() {
    let world = completing();
    let issuing = header(&[&world.acme.issuing]);
    for client in [leaf_only(&world), leaf_only(&world).tls12()] {
        let mut connection = client.connect().unwrap();
        let token = connection.token(&issuing).unwrap().access_token();
        // The verdict holds for this connection: what follows needs no header.
        assert_eq!(connection.token("").unwrap().access_token(), token);
        assert_eq!(connection.get("/inventory").unwrap().status, 200);
    }
    let upstream = world.upstream.requests();
    assert_eq!(upstream.len(), 2);
    for request in upstream {
        assert_eq!(request.header("x-ssl-cert-chain"), [whole_chain(&world)]);
    }
}

#[test]
fn every_form_of_the_chain_header_completes_the_chain() {
    let world = completing();
    let (leaf, issuing, root) = (&world.acme.device, &world.acme.issuing, &world.acme.root);
    let block = |minted: &Minted| {
        let base64 = STANDARD.encode(&minted.der);
        format!("-----BEGIN CERTIFICATE----- {base64} -----END CERTIFICATE-----")
    };
    let whole = [leaf, issuing, root].map(one_line).join(" ");
    let forms = [
        ("leaf first, to the root", whole.clone()),
        ("leaf first", [leaf, issuing].map(one_line).join(" ")),
        ("the intermediates only", one_line(issuing)),
        ("in another order", [root, issuing, leaf].map(one_line).join(" ")),
        ("each certificate's base64 in one block", [leaf, issuing].map(block).join(" ")),
        ("the last END line without its dashes", whole.trim_end_matches('-').to_owned()),
        ("URL-encoded", percent_encoded(&[leaf, issuing].map(Minted::pem).concat(), "")),
        ("URL-encoded but for + / =", percent_encoded(&issuing.pem(), "+/=")),
        ("URL-encoded after it was put on one line", percent_encoded(&one_line(issuing), "+/=")),
    ];
    let client = leaf_only(&world);
    let mut tokens: Vec<String> = Vec::new();
    for (form, value) in &forms {
        let response = client.token_with(&format!("X-Ssl-Cert-Chain: {value}\r\n")).unwrap();
        assert_eq!(response.status, 200, "{form}: {response:?}");
        tokens.push(response.access_token());
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
}

#[test]
fn the_header_completes_the_chain_of_any_request() {
    let world = completing();
    let request = format!(
        "GET /inventory HTTP/1.1\r\nHost: acme.example.com\r\n{}\r\n",
        header(&[&world.acme.issuing])
    );
    let mut connection = leaf_only(&world).connect().unwrap();
    assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 200);
    // What the device sent is gone; the validated chain stands in its place, to the anchor.
    let request = world.upstream.only_request();
    assert_eq!(request.header("x-ssl-cert-chain"), [whole_chain(&world)]);
}

#[test]
fn an_undecided_device_that_completes_nothing_is_refused_and_cut() {
    let world = completing();
    let strange = Template::ca("acme issuing").signed_by(&world.globex.root);
    for (line, status) in [
        (String::new(), 401),
        (header(&[&world.acme.device]), 401),
        ("X-Ssl-Cert-Chain: forged\r\n".to_owned(), 400),
        ("X-Ssl-Cert-Chain: \r\n".to_owned(), 400),
        (header(&[&world.acme.issuing]).repeat(2), 400),
        // An issuer of the right name with another key.
        (header(&[&strange]), 401),
        (header(&[&world.acme.root]), 401),
    ] {
        for request in ["GET /inventory", "POST /devicecontrol/deviceAccessToken"] {
            let mut connection = leaf_only(&world).connect().unwrap();
            let request = format!("{request} HTTP/1.1\r\nHost: acme.example.com\r\n{line}\r\n");
            let response = connection.exchange(request.as_bytes()).unwrap();
            assert_eq!(response.status, status, "{line}: {response:?}");
            assert_eq!(connection.until_closed(), Failure::Closed, "{line}");
        }
    }
    nothing_happened(&world);
}

#[test]
fn a_foreign_end_entity_in_the_header_is_refused() {
    let world = completing();
    let other = world.acme.another("acme-device-2");
    let foreign = header(&[&other, &world.acme.issuing]);
    assert_eq!(leaf_only(&world).token_with(&foreign).unwrap().status, 401);
    let hidden = header(&[&world.acme.device, &world.acme.issuing, &other]);
    assert_eq!(leaf_only(&world).token_with(&hidden).unwrap().status, 401);
    nothing_happened(&world);

    // The handshake's own chain was whole: the header is held against the leaf all the same.
    let world = World::start();
    assert_eq!(world.acme_client().token_with(&foreign).unwrap().status, 401);
    nothing_happened(&world);
    let own = header(&[&world.acme.device, &world.acme.issuing, &world.acme.root]);
    assert_eq!(world.acme_client().token_with(&own).unwrap().status, 200);
}

#[test]
fn a_foreign_header_on_a_verified_connection_is_replaced_upstream() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let other = world.acme.another("acme-device-2");
    let request = format!(
        "GET /inventory HTTP/1.1\r\nHost: acme.example.com\r\n{}\r\n",
        header(&[&other, &world.acme.issuing])
    );
    assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 200);
    let request = world.upstream.only_request();
    assert_eq!(request.header("x-ssl-cert-chain"), [whole_chain(&world)]);
}

#[test]
fn a_header_without_a_certificate_proves_nothing() {
    let world = World::with(|_, config| {
        config.acme("client_certificate: optional\ncomplete_chain_from_header: true");
    });
    let chain = header(&[&world.acme.device, &world.acme.issuing, &world.acme.root]);
    let anonymous = world.client("acme.example.com");
    assert_eq!(anonymous.token_with(&chain).unwrap().status, 401);
    nothing_happened(&world);

    let mut connection = anonymous.connect().unwrap();
    let request = format!("GET /inventory HTTP/1.1\r\nHost: acme.example.com\r\n{chain}\r\n");
    assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 200);
    assert!(world.upstream.only_request().header("x-ssl-cert-chain").is_empty());
    assert!(!registered(&world));
}

#[test]
fn intermediates_of_the_tenant_complete_the_chain_without_a_header() {
    let world = World::with(|world, config| {
        world.write("issuing.pem", world.acme.issuing.pem());
        config.acme("intermediates: [issuing.pem]");
    });
    for client in [leaf_only(&world), leaf_only(&world).tls12()] {
        assert_eq!(client.token().unwrap().status, 200);
    }
    assert_eq!(leaf_only(&world).get("/inventory").unwrap().status, 200);
    let request = world.upstream.only_request();
    assert_eq!(request.header("x-ssl-cert-chain"), [whole_chain(&world)]);
}

#[test]
fn an_intermediate_that_is_itself_an_anchor_needs_no_completion() {
    let world = World::with(|world, config| {
        world.write("issuing.pem", world.acme.issuing.pem());
        config.acme =
            "trusted_certificates: [{ file: issuing.pem, auto_registration: true }]".into();
    });
    assert_eq!(leaf_only(&world).token().unwrap().status, 200);
    assert_eq!(leaf_only(&world).get("/inventory").unwrap().status, 200);
    let chain = [&world.acme.device, &world.acme.issuing].map(one_line).join(" ");
    assert_eq!(world.upstream.only_request().header("x-ssl-cert-chain"), [chain]);
}

/// What changes no trust costs no device its verdict.
#[test]
fn a_completed_chain_outlives_a_change_of_options_and_no_change_of_trust() {
    let world = completing();
    let mut connection = leaf_only(&world).connect().unwrap();
    assert_eq!(connection.token(&header(&[&world.acme.issuing])).unwrap().status, 200);
    let path = "/tenant/tenants/acme/options/oauth.internal/device-token.lifespan.seconds";
    assert_eq!(world.api("PUT", path, json!({ "value": 600 })).status, 200);
    assert_eq!(connection.get("/inventory").unwrap().status, 200);
    world.operator().trust("acme", &Template::ca("Another root").self_signed(), false);
    assert_eq!(connection.get("/inventory").unwrap().status, 401);
}

#[test]
fn the_verdict_of_a_completed_chain_ends_with_its_connection() {
    let world = completing();
    let (client, issuing) = (leaf_only(&world), header(&[&world.acme.issuing]));
    let mut completed = [client.connect().unwrap(), client.connect().unwrap()];
    for connection in &mut completed {
        assert_eq!(connection.token(&issuing).unwrap().status, 200);
    }

    // Another connection of the same device, new or resumed, is undecided again.
    assert_eq!(client.token().unwrap().status, 401);
    let [first, second] = &completed;
    let resume = |from: &Connection| {
        let connection = client.clone().resuming(&from.session().unwrap()).connect().unwrap();
        assert!(connection.resumed());
        connection
    };
    assert_eq!(resume(first).get("/inventory").unwrap().status, 401);
    assert_eq!(resume(second).token(&issuing).unwrap().status, 200);
    // The first two have kept their own.
    for connection in &mut completed {
        assert_eq!(connection.token("").unwrap().status, 200);
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_change_of_trust_undoes_a_completed_chain() {
    let world = completing();
    let mut connection = leaf_only(&world).connect().unwrap();
    let issuing = header(&[&world.acme.issuing]);
    assert_eq!(connection.token(&issuing).unwrap().status, 200);
    world.write("acme-root.pem", world.globex.root.pem());
    world.reload().unwrap();
    assert_eq!(connection.token(&issuing).unwrap().status, 401);
    assert_eq!(connection.until_closed(), Failure::Closed);
}

#[test]
fn a_leaf_that_is_bad_by_itself_is_never_undecided() {
    let world = completing();
    let expired = Template::device("acme-device-1").validity(1_600_000_000, 1_700_000_000);
    let server = Template::server(&["acme-device-1"]);
    let broken = Template::device("a/b");
    for (template, alert) in [(expired, 45), (server, 43), (broken, 43)] {
        let leaf = template.signed_by(&world.acme.issuing);
        let client = world.acme_client().identity(&[&leaf]);
        assert_eq!(client.token().unwrap_err(), Failure::Alert(alert));
    }
}

#[test]
fn attempts_to_complete_a_chain_are_capped_for_each_address_and_minute() {
    let world = World::with(|_, config| {
        config.acme("complete_chain_from_header: true");
        config.limits = "undecided_attempts_per_address: 3".into();
    });
    let client = leaf_only(&world);
    for _ in 0..3 {
        assert_eq!(client.token().unwrap().status, 401);
    }
    let issuing = header(&[&world.acme.issuing]);
    let limited = client.token_with(&issuing).unwrap();
    assert_eq!(limited.status, 429);
    assert_eq!(limited.header("retry-after"), Some("60"));
    eventually("it is counted", || world.refusals("rate_limited") == 1.0);
    // Devices with their whole chain are not concerned.
    assert_eq!(world.acme_client().token().unwrap().status, 200);
    world.clock.advance(60);
    assert_eq!(client.token_with(&issuing).unwrap().status, 200);
}

#[test]
fn a_zero_cap_refuses_every_undecided_chain() {
    let world = World::with(|_, config| {
        config.acme("complete_chain_from_header: true");
        config.limits = "undecided_attempts_per_address: 0".into();
    });
    let mut connection = leaf_only(&world).connect().unwrap();
    let response = connection.token(&header(&[&world.acme.issuing])).unwrap();
    assert_eq!(response.status, 429);
    assert_eq!(connection.until_closed(), Failure::Closed);
    nothing_happened(&world);
}

fn completing() -> World {
    World::with(|_, config| {
        config.acme("complete_chain_from_header: true");
        config.limits = "undecided_attempts_per_address: 1000".into();
    })
}

fn leaf_only(world: &World) -> Client {
    world.acme_client().identity(&[&world.acme.device])
}

/// The line `X-Ssl-Cert-Chain` as the platform documents it.
fn header(chain: &[&Minted]) -> String {
    let chain: Vec<String> = chain.iter().copied().map(one_line).collect();
    format!("X-Ssl-Cert-Chain: {}\r\n", chain.join(" "))
}

fn one_line(minted: &Minted) -> String {
    minted.pem().trim_end().replace('\n', " ")
}

fn whole_chain(world: &World) -> String {
    [&world.acme.device, &world.acme.issuing, &world.acme.root].map(one_line).join(" ")
}

fn percent_encoded(text: &str, plain: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || plain.contains(c) {
            encoded.push(c);
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
    }
    encoded
}

fn registered(world: &World) -> bool {
    let (acme, device) = (TenantId::parse("acme"), DeviceId::parse("acme-device-1"));
    let registry = world.server().edge().gate.registry();
    registry.status(&acme.unwrap(), &device.unwrap()).is_some()
}

/// Nothing has been forwarded, and no device is registered.
#[track_caller]
fn nothing_happened(world: &World) {
    assert!(world.upstream.requests().is_empty());
    assert!(!registered(world));
    assert_eq!(world.metric("portcullis_tokens_total{result=\"issued\",tenant=\"acme\"}"), 0.0);
}
