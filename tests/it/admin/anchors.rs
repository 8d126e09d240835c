//! Anchors and options from the API: in force with the answer, without a restart.

use serde_json::{Value, json};

use super::{ACME, LIFESPAN, Newcomer, UNKNOWN_CA, VERSIONS, claims, refusal, status};
use crate::world::{Api, Connection, Response, World, anchors};

fn anchor(fingerprint: &str) -> String {
    format!("{ACME}/trusted-certificates/{fingerprint}")
}

/// PUT on acme's anchor.
#[track_caller]
fn change(api: &Api, fingerprint: &str, body: Value) -> Response {
    let response = api.ask("PUT", &anchor(fingerprint), body);
    assert_eq!(response.status, 200, "{response:?}");
    response
}

#[test]
fn an_uploaded_anchor_lets_its_devices_in_with_the_answer() {
    for version in VERSIONS {
        let (world, newcomer) = (World::start(), Newcomer::new());
        let client = newcomer.client(&world).tls(version);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        let fingerprint = world.operator().trust("acme", &newcomer.root, true);
        assert_eq!(client.get("/").unwrap().status, 200);
        let chain = world.upstream.only_request().header("x-ssl-cert-chain")[0].to_owned();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 3);
        let token = client.token().unwrap().access_token();
        assert_eq!(claims(&token)["sub"], "device_newcomer-1");
        let device = world.operator().get(&format!("{ACME}/devices/newcomer-1")).json();
        assert_eq!(
            (&device["status"], &device["registeredBy"]),
            (&"ACTIVE".into(), &"AUTO".into())
        );
        assert_eq!(device["anchorSha256"], *fingerprint);
        // At acme alone.
        assert_eq!(client.server_name("globex.example.com").get("/").unwrap_err(), UNKNOWN_CA);
    }
}

#[test]
fn devices_of_an_anchor_without_auto_registration_wait_for_theirs() {
    let (world, newcomer) = (World::start(), Newcomer::new());
    let fingerprint = world.operator().trust("acme", &newcomer.root, false);
    let mut live = newcomer.client(&world).connect().unwrap();
    assert_eq!(live.token("").unwrap().status, 403);
    change(&world.operator(), &fingerprint, json!({ "autoRegistrationEnabled": true }));
    assert_eq!(newcomer.client(&world).token().unwrap().status, 200);
    change(&world.operator(), &fingerprint, json!({ "autoRegistrationEnabled": false }));
    // Who is registered stays so.
    assert_eq!(newcomer.client(&world).token().unwrap().status, 200);
}

/// What takes an anchor's trust away.
fn ways_to_end_trust() -> [fn(&Api, &str); 2] {
    [
        |api, fingerprint| {
            change(api, fingerprint, json!({ "status": "DISABLED" }));
        },
        |api, fingerprint| {
            assert_eq!(api.ask("DELETE", &anchor(fingerprint), Value::Null).status, 204);
        },
    ]
}

#[test]
fn an_anchor_that_is_disabled_or_deleted_ends_connections_handshakes_and_tickets() {
    for version in VERSIONS {
        for end_trust in ways_to_end_trust() {
            let (world, newcomer) = (World::start(), Newcomer::new());
            let fingerprint = world.operator().trust("acme", &newcomer.root, true);
            let client = newcomer.client(&world).tls(version);
            let session = client.session();
            let connect = || -> Connection { client.connect().unwrap() };
            let (mut asks, mut wants_token) = (connect(), connect());
            assert_eq!((status(&mut asks), status(&mut wants_token)), (200, 200));
            let mut neighbour = world.acme_client().tls(version).connect().unwrap();
            assert_eq!(status(&mut neighbour), 200);
            let forwarded = world.upstream.requests().len();

            end_trust(&world.operator(), &fingerprint);
            assert_eq!(status(&mut asks), 422);
            assert_eq!(wants_token.token("").unwrap().status, 422);
            assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
            assert_eq!(refusal(&client, &session), UNKNOWN_CA);
            assert_eq!(world.upstream.requests().len(), forwarded);
            assert_eq!(status(&mut neighbour), 200);
        }
    }
}

#[test]
fn an_anchor_that_is_enabled_again_lets_its_devices_in_again() {
    let (world, newcomer) = (World::start(), Newcomer::new());
    let fingerprint = world.operator().trust("acme", &newcomer.root, true);
    let client = newcomer.client(&world);
    for _ in 0..3 {
        assert_eq!(client.get("/").unwrap().status, 200);
        let shown = change(&world.operator(), &fingerprint, json!({ "status": "DISABLED" }));
        assert_eq!(shown.json()["status"], "DISABLED");
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        change(&world.operator(), &fingerprint, json!({ "status": "ENABLED" }));
    }
}

#[test]
fn a_tenant_without_files_trusts_what_was_uploaded_and_nothing_before() {
    for version in VERSIONS {
        let mut world = World::with(|_, config| config.acme = String::new());
        let client = world.acme_client().tls(version);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        assert_eq!(world.globex_client().get("/").unwrap().status, 200);
        let fingerprint = world.operator().trust("acme", &world.acme.root, true);
        assert_eq!(client.get("/").unwrap().status, 200);
        world.restart();
        let client = world.acme_client().tls(version);
        assert_eq!(client.get("/").unwrap().status, 200);
        world.reload().unwrap();
        assert_eq!(client.get("/").unwrap().status, 200);
        let mut live = client.connect().unwrap();
        assert_eq!(status(&mut live), 200);
        assert_eq!(world.api("DELETE", &anchor(&fingerprint), Value::Null).status, 204);
        assert_eq!(status(&mut live), 422);
        assert_eq!(client.get("/").unwrap_err(), UNKNOWN_CA);
        world.restart();
        assert_eq!(world.acme_client().tls(version).get("/").unwrap_err(), UNKNOWN_CA);
    }
}

#[test]
fn an_anchor_of_the_file_is_shown_and_is_not_the_apis_to_change() {
    let world = World::start();
    let list = world.api("GET", &anchors("acme"), Value::Null).json();
    let of_file = &list["certificates"][0];
    assert_eq!(of_file["source"], "file");
    let path = anchor(of_file["fingerprint"].as_str().unwrap());
    for (method, body) in [("DELETE", Value::Null), ("PUT", json!({ "status": "DISABLED" }))] {
        let refused = world.api(method, &path, body);
        assert_eq!(refused.status, 409);
        assert!(refused.text().contains("configuration"), "{}", refused.text());
    }
    let again = json!({ "certInPemFormat": world.acme.root.pem() });
    assert_eq!(world.api("POST", &anchors("acme"), again).status, 409);
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn the_lifespan_option_counts_for_new_tokens_and_ends_with_its_deletion() {
    let mut world = World::start();
    let life = |world: &World, device: &str| {
        let device = world.acme.another(device);
        let client = world.acme_client().identity(&[&device, &world.acme.issuing]);
        let claims = claims(&client.token().unwrap().access_token());
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    assert_eq!(life(&world, "before"), 3600);
    let set = |seconds: Value| world.api("PUT", LIFESPAN, json!({ "value": seconds }));
    assert_eq!(set("600".into()).status, 200);
    assert_eq!(life(&world, "set"), 600);
    assert_eq!(world.globex_client().token().unwrap().access_token().split('.').count(), 3);
    for bad in [json!("299"), json!(299), json!(2_592_001), json!("1h"), json!("600.5"), json!("")]
    {
        let refused = set(bad.clone());
        assert_eq!(refused.status, 422, "{bad}");
        assert!(refused.text().contains("300"), "{}", refused.text());
    }
    assert_eq!(life(&world, "kept"), 600);
    world.restart();
    assert_eq!(life(&world, "restarted"), 600);
    assert_eq!(world.api("DELETE", LIFESPAN, Value::Null).status, 204);
    assert_eq!(life(&world, "deleted"), 3600);
    assert_eq!(world.api("DELETE", LIFESPAN, Value::Null).status, 404);
}
