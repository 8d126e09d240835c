//! Exchanges that go on for hours end with the trust in their device, not with the device's
//! next request.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bodies::WEBSOCKET;
use crate::pki::Template;
use crate::world::{Client, Connection, NOW, World, anchors, fingerprint};

/// From a change to the last byte that passes.
const PROMPT: Duration = Duration::from_secs(2);

/// A WebSocket through the edge that the upstream answers.
fn websocket(client: &Client) -> Connection {
    let mut connection = client.connect().unwrap();
    assert_eq!(connection.exchange(WEBSOCKET.as_bytes()).unwrap().status, 101);
    assert!(echoes(&mut connection));
    connection
}

fn echoes(connection: &mut Connection) -> bool {
    connection.send(b"still here?").is_ok()
        && connection.read_some().is_ok_and(|echo| echo == b"still here?")
}

#[track_caller]
fn ends_promptly(connection: &mut Connection) {
    let changed = Instant::now();
    while echoes(connection) {
        assert!(changed.elapsed() < PROMPT, "it goes on");
    }
    connection.until_closed();
    assert!(changed.elapsed() < PROMPT, "ended after {:?}", changed.elapsed());
}

/// A world whose device comes by an uploaded root, beside one of acme's file.
fn uploaded() -> (World, String, Client) {
    let world = World::start();
    let root = Template::ca("Uploaded root").self_signed();
    let fingerprint = world.operator().trust("acme", &root, true);
    let leaf = Template::device("uploaded-1")
        .serial(&[0x5a, 1])
        .validity(NOW - 60, NOW + 3_600)
        .signed_by(&root);
    let client = world.acme_client().identity(&[&leaf]);
    (world, fingerprint, client)
}

#[test]
fn a_websocket_ends_when_its_device_is_trusted_no_longer() {
    let anchor = |fingerprint: &str| format!("{}/{fingerprint}", anchors("acme"));
    type Change = (&'static str, fn(&World, &str, &dyn Fn(&str) -> String));
    let changes: [Change; 5] = [
        ("certificate_revoked", |world, _, _| {
            let list = json!({ "crls": [{ "serialNumberInHex": "5A01" }] });
            let path = format!("{}/settings/crl", anchors("acme"));
            assert_eq!(world.api("PUT", &path, list).status, 204);
        }),
        ("issuer_unknown", |world, print, anchor| {
            let disabled = json!({ "status": "DISABLED" });
            assert_eq!(world.api("PUT", &anchor(print), disabled).status, 200);
        }),
        ("issuer_unknown", |world, print, anchor| {
            assert_eq!(world.api("DELETE", &anchor(print), Value::Null).status, 204);
        }),
        ("device_blocked", |world, _, _| {
            let path = "/tenant/tenants/acme/devices/uploaded-1";
            let blocked = json!({ "status": "BLOCKED" });
            assert_eq!(world.api("PUT", path, blocked).status, 200);
        }),
        ("certificate_expired", |world, _, _| world.clock.advance(3_601)),
    ];
    for (refusal, change) in changes {
        let (world, print, client) = uploaded();
        let mut neighbour = websocket(&world.acme_client());
        let mut connection = websocket(&client);
        change(&world, &print, &anchor);
        ends_promptly(&mut connection);
        assert!(echoes(&mut neighbour), "{refusal}");
        world.refused(refusal, 1.0);
    }
}

#[test]
fn a_websocket_of_a_pinned_certificate_ends_with_its_pin() {
    let world = World::start();
    let leaf = Template::blank("box").self_signed();
    world.operator().pin("acme", "box-1", &leaf);
    let mut connection = websocket(&world.acme_client().identity(&[&leaf]));
    let path = format!("/tenant/tenants/acme/devices/box-1/pins/{}", fingerprint(&leaf));
    assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
    ends_promptly(&mut connection);
}

#[test]
fn a_request_that_the_upstream_holds_open_ends_with_the_trust_in_its_device() {
    let (world, _, client) = uploaded();
    let mut connection = client.connect().unwrap();
    connection.send(b"GET /hang HTTP/1.1\r\nHost: acme.example.com\r\n\r\n").unwrap();
    crate::world::eventually("it is at the upstream", || world.upstream.requests().len() == 1);
    let path = "/tenant/tenants/acme/devices/uploaded-1";
    assert_eq!(world.api("PUT", path, json!({ "status": "BLOCKED" })).status, 200);
    let blocked = Instant::now();
    connection.until_closed();
    assert!(blocked.elapsed() < PROMPT, "ended after {:?}", blocked.elapsed());
    world.refused("device_blocked", 1.0);
}

/// What changes nothing for a device leaves its exchanges alone.
#[test]
fn a_websocket_outlives_changes_that_do_not_concern_it() {
    let (world, print, client) = uploaded();
    let mut connection = websocket(&world.acme_client());
    websocket(&client);
    world.api("DELETE", &format!("{}/{print}", anchors("acme")), Value::Null);
    world.reload().unwrap();
    let option = "/tenant/tenants/acme/options/oauth.internal/device-token.lifespan.seconds";
    assert_eq!(world.api("PUT", option, json!({ "value": 600 })).status, 200);
    let changed = Instant::now();
    while changed.elapsed() < PROMPT {
        assert!(echoes(&mut connection));
    }
}
