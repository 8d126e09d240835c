//! Devices without SNI: which tenant their certificate names, and that no tenant can draw in
//! the devices of another.

use openssl::ssl::SslVersion;
use serde_json::{Value, json};

use super::{
    NOT_AN_END_ENTITY, Newcomer, UNKNOWN_CA, VERSIONS, claims, prove, refusal, self_signed, serial,
    status,
};
use crate::pki::{COMMON_NAME, Template};
use crate::tls::sessions::offering;
use crate::world::{Api, Client, Config, Failure, World, anchors};

/// The device can help itself by sending SNI.
const AMBIGUOUS: Failure = Failure::Alert(112);
const LISTENER: &str =
    "- { bind: \"127.0.0.1:0\", tenant_by_certificate: { chain: server.pem, key: server.key } }";

/// A world whose second listener finds the tenant by the certificate, with globex and acme
/// without files.
fn start() -> World {
    World::with(bare)
}

fn bare(_: &World, config: &mut Config) {
    config.listeners = LISTENER.into();
    config.acme = String::new();
    config.globex = String::new();
}

/// The device at the second listener without SNI, which says an address as its Host.
fn nameless(world: &World, client: Client) -> Client {
    let address = world.server().https_addresses()[1];
    client.at(address).without_server_name().host(&address.to_string())
}

/// At the second listener, with SNI.
fn named(world: &World, client: Client, name: &str) -> Client {
    client.at(world.server().https_addresses()[1]).server_name(name).host(name)
}

/// Uploads a CA and proves it, so that it names its tenant.
#[track_caller]
fn proven(api: &Api, tenant: &str, ca: &crate::pki::Minted) -> String {
    let fingerprint = api.trust(tenant, ca, true);
    assert_eq!(prove(api, tenant, &fingerprint, ca), 200);
    fingerprint
}

/// The tenant of the device, by its token.
#[track_caller]
fn tenant_of(client: &Client) -> Value {
    claims(&client.token().unwrap().access_token())["ten"].clone()
}

#[test]
fn a_certificate_names_its_tenant_once_possession_of_its_ca_is_proved() {
    for version in VERSIONS {
        let (world, newcomer) = (start(), Newcomer::new());
        let api = world.operator();
        let client = nameless(&world, newcomer.client(&world)).tls(version);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        let fingerprint = api.trust("acme", &newcomer.root, true);
        // By SNI it counts already; without, it needs the proof.
        assert_eq!(newcomer.client(&world).tls(version).get("/").unwrap().status, 200);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        assert_eq!(prove(&api, "acme", &fingerprint, &newcomer.issuing), 400);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        assert_eq!(prove(&api, "acme", &fingerprint, &newcomer.root), 200);
        assert_eq!(tenant_of(&client), "acme");
        for (host, status) in [
            ("127.0.0.1", 200),
            ("[::1]:443", 200),
            ("acme.example.com", 200),
            ("globex.example.com", 421),
            ("unknown.example.org", 421),
        ] {
            assert_eq!(client.clone().host(host).get("/").unwrap().status, status, "{host}");
        }
        let nobody = client.anonymous().get("/").unwrap_err();
        assert_eq!(nobody, Failure::Alert(if version == SslVersion::TLS1_2 { 40 } else { 116 }));
    }
}

#[test]
fn a_code_is_signed_once_within_its_day_and_by_the_ca_that_it_is_for() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let (world, newcomer) = (start(), Newcomer::new());
    let api = world.operator();
    let path = |tenant: &str, fingerprint: &str| format!("{}-pop/{fingerprint}", anchors(tenant));
    let fingerprint = api.trust("acme", &newcomer.root, true);
    let at_globex = api.trust("globex", &newcomer.root, true);
    let code = |path: &str| {
        let asked = api.ask("POST", &format!("{path}/verification-code"), Value::Null).json();
        asked["proofOfPossessionUnsignedVerificationCode"].as_str().unwrap().to_owned()
    };
    let send = |path: &str, code: &str| {
        let signed = STANDARD.encode(newcomer.root.key.sign(code.as_bytes()));
        let body = json!({ "proofOfPossessionSignedVerificationCode": signed });
        api.ask("POST", &format!("{path}/pop"), body).status
    };
    let (acme, globex) = (path("acme", &fingerprint), path("globex", &at_globex));
    assert_eq!(send(&acme, "no code was asked for"), 400);
    let first = code(&acme);
    let second = code(&acme);
    assert_ne!(first, second);
    // Replaced by the second; another tenant's; another text; a day later.
    assert_eq!(send(&acme, &first), 400);
    assert_eq!(send(&acme, &code(&globex)), 400);
    assert_eq!(send(&acme, ""), 400);
    world.clock.advance(86_401);
    assert_eq!(send(&acme, &second), 400);
    let third = code(&acme);
    assert_eq!(send(&acme, &third), 200);
    assert_eq!(send(&acme, &third), 400);
    let client = nameless(&world, newcomer.client(&world));
    assert_eq!(tenant_of(&client), "acme");
}

#[test]
fn a_tenant_that_uploads_anothers_public_ca_captures_none_of_its_devices() {
    for version in VERSIONS {
        let (world, newcomer) = (start(), Newcomer::new());
        let api = world.operator();
        // Before and after the owner's own upload; the intermediate as well as the root.
        api.trust("globex", &newcomer.root, true);
        let client = nameless(&world, newcomer.client(&world)).tls(version);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        proven(&api, "acme", &newcomer.root);
        let stolen = api.trust("globex", &newcomer.issuing, true);
        assert_eq!(prove(&api, "globex", &stolen, &world.globex.root), 400);
        assert_eq!(tenant_of(&client), "acme");
        let globex = api.get("/tenant/tenants/globex/devices").json();
        assert_eq!(globex["devices"], json!([]));
    }
}

#[test]
fn a_chain_that_leads_to_proven_anchors_of_two_tenants_belongs_to_none() {
    for version in VERSIONS {
        for certificate in [|n: &Newcomer| n.root.clone(), |n: &Newcomer| n.issuing.clone()] {
            let (world, newcomer) = (start(), Newcomer::new());
            let api = world.operator();
            proven(&api, "acme", &newcomer.root);
            let client = nameless(&world, newcomer.client(&world)).tls(version);
            assert_eq!(tenant_of(&client), "acme");
            let second = proven(&api, "globex", &certificate(&newcomer));
            assert_eq!(client.get("/").unwrap_err(), AMBIGUOUS);
            world.refused("tenant_ambiguous", 1.0);
            // With SNI each of the two has it.
            let by_name = named(&world, newcomer.client(&world), "acme.example.com").tls(version);
            assert_eq!(tenant_of(&by_name), "acme");
            let name = "globex.example.com";
            assert_eq!(tenant_of(&by_name.server_name(name).host(name)), "globex");
            let path = format!("{}/{second}", anchors("globex"));
            assert_eq!(api.ask("PUT", &path, json!({ "status": "DISABLED" })).status, 200);
            assert_eq!(tenant_of(&client), "acme");
        }
    }
}

#[test]
fn with_a_server_name_only_that_tenants_anchors_and_pins_count() {
    for version in VERSIONS {
        let (world, newcomer) = (start(), Newcomer::new());
        let api = world.operator();
        proven(&api, "acme", &newcomer.root);
        let pinned = self_signed("meter");
        api.pin("acme", "meter", &pinned);
        let meter = world.client("acme.example.com").identity(&[&pinned]).tls(version);
        let device = newcomer.client(&world).tls(version);
        for (client, refused) in [(device, UNKNOWN_CA), (meter, NOT_AN_END_ENTITY)] {
            assert_eq!(tenant_of(&nameless(&world, client.clone())), "acme");
            assert_eq!(tenant_of(&named(&world, client.clone(), "acme.example.com")), "acme");
            let elsewhere = named(&world, client.clone(), "globex.example.com");
            assert_eq!(elsewhere.get("/").unwrap_err(), refused);
            let nowhere = named(&world, client.clone(), "unknown.example.org");
            assert_eq!(nowhere.get("/").unwrap_err(), Failure::Alert(112));
            // The first listener finds no tenant by a certificate.
            assert_eq!(client.without_server_name().get("/").unwrap_err(), Failure::Alert(112));
        }
    }
}

#[test]
fn a_pin_names_its_tenant_where_no_other_tenant_has_it() {
    for version in VERSIONS {
        let world = start();
        let api = world.operator();
        let leaf = self_signed("meter");
        let client = nameless(&world, world.client("x.example").identity(&[&leaf])).tls(version);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        api.pin("acme", "ours", &leaf);
        assert_eq!(tenant_of(&client), "acme");
        let session = client.session();
        let mut live = client.connect().unwrap();
        assert_eq!(status(&mut live), 200);
        api.pin("globex", "theirs", &leaf);
        assert_eq!(client.get("/").unwrap_err(), AMBIGUOUS);
        assert_eq!(refusal(&client, &session), AMBIGUOUS);
        // The connection has a tenant, which still has the pin.
        assert_eq!(status(&mut live), 200);
        world.refused("tenant_ambiguous", 2.0);
        let path = "/tenant/tenants/acme/devices/ours";
        assert_eq!(api.ask("DELETE", path, Value::Null).status, 204);
        // For the tenant that the connection has, the certificate is now one of no profile.
        assert_eq!(status(&mut live), 400);
        assert_eq!(tenant_of(&client), "globex");
        assert_eq!(tenant_of(&offering(client.clone(), &session)), "globex");
    }
}

#[test]
fn a_tenant_that_pins_a_device_of_anothers_proven_ca_does_not_capture_it() {
    let (world, newcomer) = (start(), Newcomer::new());
    let api = world.operator();
    proven(&api, "acme", &newcomer.root);
    let client = nameless(&world, newcomer.client(&world));
    assert_eq!(tenant_of(&client), "acme");
    let by_name = named(&world, newcomer.client(&world), "acme.example.com");
    let session = client.session();
    api.pin("globex", "stolen", &newcomer.device);
    assert_eq!(client.get("/").unwrap_err(), AMBIGUOUS);
    assert_eq!(refusal(&client, &session), AMBIGUOUS);
    assert_eq!(tenant_of(&by_name), "acme");
    // A pin of the CA's own tenant is no contradiction.
    api.ask("DELETE", "/tenant/tenants/globex/devices/stolen", Value::Null);
    api.pin("acme", "renamed", &newcomer.device);
    let claims = claims(&client.token().unwrap().access_token());
    assert_eq!((&claims["ten"], &claims["sub"]), (&"acme".into(), &"device_renamed".into()));
    let sibling = Template::device("newcomer-2").signed_by(&newcomer.issuing);
    let sibling = client.clone().identity(&[&sibling, &newcomer.issuing]);
    assert_eq!(tenant_of(&sibling), "acme");
}

/// Else a second tenant of the same CA would be a way around a revocation.
#[test]
fn a_device_that_one_tenant_has_revoked_is_not_left_to_another() {
    for version in VERSIONS {
        let (world, newcomer) = (start(), Newcomer::new());
        let api = world.operator();
        proven(&api, "acme", &newcomer.root);
        let client = nameless(&world, newcomer.client(&world)).tls(version);
        let session = client.session();
        let crl = format!("{}/settings/crl", anchors("acme"));
        let list = json!({ "crls": [{ "serialNumberInHex": serial(&newcomer.device) }] });
        assert_eq!(api.ask("PUT", &crl, list).status, 204);
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(44));
        let second = proven(&api, "globex", &newcomer.root);
        assert_eq!(client.get("/").unwrap_err(), AMBIGUOUS);
        assert_eq!(refusal(&client, &session), AMBIGUOUS);
        assert_eq!(
            api.ask("DELETE", &format!("{}/{second}", anchors("globex")), Value::Null).status,
            204
        );
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(44));
    }
}

/// Else any tenant could shut out the devices of another with its public CA.
#[test]
fn an_anchor_without_proof_shuts_no_device_out_of_its_own_tenant() {
    let (world, newcomer) = (start(), Newcomer::new());
    let api = world.operator();
    proven(&api, "acme", &newcomer.root);
    // Globex has an anchor that names it, so that its others are looked at; one of the same name.
    proven(&api, "globex", &Template::ca("Newcomer root").self_signed());
    api.trust("globex", &newcomer.root, true);
    let client = nameless(&world, newcomer.client(&world));
    assert_eq!(tenant_of(&client), "acme");
    let crl = format!("{}/settings/crl", anchors("globex"));
    let list = json!({ "crls": [{ "serialNumberInHex": serial(&newcomer.device) }] });
    assert_eq!(api.ask("PUT", &crl, list).status, 204);
    let at_globex = named(&world, newcomer.client(&world), "globex.example.com");
    assert_eq!(at_globex.get("/").unwrap_err(), Failure::Alert(44));
    assert_eq!(tenant_of(&client), "acme");
}

#[test]
fn a_ticket_of_a_device_without_sni_is_resolved_anew() {
    for version in VERSIONS {
        let (world, newcomer) = (start(), Newcomer::new());
        let api = world.operator();
        let anchor = proven(&api, "acme", &newcomer.root);
        let client = nameless(&world, newcomer.client(&world)).tls(version);
        let session = client.session();
        let resume = || {
            let mut connection = offering(client.clone(), &session).connect().unwrap();
            assert_eq!(status(&mut connection), 200);
            assert!(connection.resumed());
            connection
        };
        assert_eq!(claims(&resume().token("").unwrap().access_token())["ten"], "acme");
        // A second tenant proves the same CA: whose device it is, nobody knows.
        let mut live = resume();
        let second = proven(&api, "globex", &newcomer.root);
        assert_eq!(refusal(&client, &session), AMBIGUOUS);
        // What is open came to acme before.
        assert_eq!(claims(&live.token("").unwrap().access_token())["ten"], "acme");
        let delete = |tenant: &str, fingerprint: &str| {
            let path = format!("{}/{fingerprint}", anchors(tenant));
            assert_eq!(api.ask("DELETE", &path, Value::Null).status, 204);
        };
        delete("globex", &second);
        resume();
        delete("acme", &anchor);
        assert_eq!(status(&mut live), 422);
        assert_eq!(refusal(&client, &session), UNKNOWN_CA);
        // The ticket holds a chain and no tenant: it is the next owner's.
        proven(&api, "globex", &newcomer.root);
        assert_eq!(tenant_of(&offering(client.clone(), &session)), "globex");
    }
}

#[test]
fn tickets_cross_no_line_between_devices_with_sni_and_without() {
    for version in VERSIONS {
        let (world, newcomer) = (start(), Newcomer::new());
        proven(&world.operator(), "acme", &newcomer.root);
        let without = nameless(&world, newcomer.client(&world)).tls(version);
        let with = named(&world, newcomer.client(&world), "acme.example.com").tls(version);
        let elsewhere = newcomer.client(&world).tls(version);
        let (ticket_without, ticket_with) = (without.session(), with.session());
        for (client, session, ticket) in [
            (&with, &ticket_without, false),
            (&elsewhere, &ticket_without, false),
            (&without, &ticket_with, false),
            (&with, &ticket_with, true),
            (&elsewhere, &ticket_with, true),
            (&without, &ticket_without, true),
        ] {
            let mut connection = offering(client.clone(), session).connect().unwrap();
            assert_eq!(status(&mut connection), 200);
            assert_eq!(connection.resumed(), ticket);
        }
        // Without its certificate the holder of a ticket is nobody across that line.
        for (client, session) in [(&with, &ticket_without), (&without, &ticket_with)] {
            let refused = offering(client.clone().anonymous(), session).get("/").unwrap_err();
            let missing = if version == SslVersion::TLS1_2 { 40 } else { 116 };
            assert_eq!(refused, Failure::Alert(missing));
        }
        let globex = with.clone().server_name("globex.example.com");
        assert_eq!(refusal(&globex, &ticket_without), UNKNOWN_CA);
    }
}

#[test]
fn a_chain_is_tried_at_sixteen_tenants_and_is_nobodys_beyond() {
    let names: Vec<String> = (0..17).map(|n| format!("crowd-{n}")).collect();
    let world = World::with(|world, config| {
        bare(world, config);
        for name in &names {
            config.tenants.push_str(&format!(
                "- {{ id: {name}, server_names: [{name}.example.com], upstream: platform, \
                 certificate: {{ chain: server.pem, key: server.key }} }}\n"
            ));
        }
    });
    let api = world.operator();
    // CAs of one name with keys of their own.
    let ca = || Template::ca("x").subject(&[(COMMON_NAME, 0x0c, b"Everyone's CA")]).self_signed();
    let cas: Vec<_> = names.iter().map(|_| ca()).collect();
    let device = |n: usize| {
        let device = Template::device(&format!("device-{n}")).signed_by(&cas[n]);
        nameless(&world, world.client("x.example").identity(&[&device]))
    };
    for (name, ca) in names[..16].iter().zip(&cas) {
        proven(&api, name, ca);
    }
    for n in [0, 7, 15] {
        assert_eq!(tenant_of(&device(n)), names[n]);
    }
    assert_eq!(device(16).get("/").unwrap_err(), UNKNOWN_CA);
    let last = proven(&api, &names[16], &cas[16]);
    assert_eq!(device(0).get("/").unwrap_err(), AMBIGUOUS);
    assert_eq!(device(16).get("/").unwrap_err(), AMBIGUOUS);
    let path = format!("{}/{last}", anchors(&names[16]));
    assert_eq!(api.ask("DELETE", &path, Value::Null).status, 204);
    assert_eq!(tenant_of(&device(15)), names[15]);
}
