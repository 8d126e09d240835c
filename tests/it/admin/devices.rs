//! Devices that are blocked, unblocked and deleted while they are connected.

use serde_json::{Value, json};

use super::{ACME, Newcomer, VERSIONS, status};
use crate::tls::sessions::offering;
use crate::world::{Client, Connection, World};

const DEVICE: &str = "/tenant/tenants/acme/devices/acme-device-1";

fn set(world: &World, status: &str) {
    let answer = world.api("PUT", DEVICE, json!({ "status": status }));
    assert_eq!((answer.status, answer.json()["status"].clone()), (200, status.into()));
}

fn checking_bearers() -> World {
    World::with(|_, config| config.acme("bearers: { verify: true }"))
}

/// A GET with a bearer token, on the connection of another device.
#[track_caller]
fn with_bearer(connection: &mut Connection, token: &str) -> u16 {
    let head = "GET / HTTP/1.1\r\nHost: acme.example.com\r\nAuthorization: Bearer";
    connection.exchange(format!("{head} {token}\r\n\r\n").as_bytes()).unwrap().status
}

fn neighbour(world: &World) -> Client {
    let device = world.acme.another("acme-device-2");
    world.acme_client().identity(&[&device, &world.acme.issuing])
}

#[test]
fn a_device_that_is_blocked_is_refused_with_its_next_request_and_its_token() {
    for version in VERSIONS {
        let world = checking_bearers();
        let client = world.acme_client().tls(version);
        let token = client.token().unwrap().access_token();
        let session = client.session();
        let mut neighbour = neighbour(&world).tls(version).connect().unwrap();
        assert_eq!(with_bearer(&mut neighbour, &token), 200);
        let (mut asks, mut wants_token) = (client.connect().unwrap(), client.connect().unwrap());
        assert_eq!((status(&mut asks), status(&mut wants_token)), (200, 200));
        let forwarded = world.upstream.requests().len();

        set(&world, "BLOCKED");
        assert_eq!(status(&mut asks), 403);
        assert_eq!(wants_token.token("").unwrap().status, 403);
        assert_eq!(client.get("/").unwrap().status, 403);
        assert_eq!(client.token().unwrap().status, 403);
        assert_eq!(offering(client.clone(), &session).get("/").unwrap().status, 403);
        assert_eq!(with_bearer(&mut neighbour, &token), 403);
        assert_eq!(world.upstream.requests().len(), forwarded);
        assert_eq!(status(&mut neighbour), 200);

        set(&world, "ACTIVE");
        assert_eq!(client.get("/").unwrap().status, 200);
        assert_eq!(offering(client.clone(), &session).get("/").unwrap().status, 200);
        assert_eq!(with_bearer(&mut neighbour, &token), 200);
    }
}

#[test]
fn a_deleted_device_is_unknown_until_something_registers_it() {
    for version in VERSIONS {
        let (world, newcomer) = (checking_bearers(), Newcomer::new());
        let anchor = world.operator().trust("acme", &newcomer.root, true);
        let client = newcomer.client(&world).tls(version);
        let token = client.token().unwrap().access_token();
        let mut live = client.connect().unwrap();
        assert_eq!(status(&mut live), 200);
        let path = format!("{ACME}/trusted-certificates/{anchor}");
        world.api("PUT", &path, json!({ "autoRegistrationEnabled": false }));
        assert_eq!(status(&mut live), 200);

        let device = format!("{ACME}/devices/newcomer-1");
        assert_eq!(world.api("DELETE", &device, Value::Null).status, 204);
        assert_eq!(live.token("").unwrap().status, 403);
        assert_eq!(client.token().unwrap().status, 403);
        // Whom the registry does not know is the platform's to refuse, without a token of ours.
        assert_eq!(status(&mut live), 200);
        let mut neighbour = neighbour(&world).tls(version).connect().unwrap();
        assert_eq!(with_bearer(&mut neighbour, &token), 401);
        for (method, body) in
            [("GET", Value::Null), ("DELETE", Value::Null), ("PUT", json!({ "status": "BLOCKED" }))]
        {
            assert_eq!(world.api(method, &device, body).status, 404, "{method}");
        }

        world.api("PUT", &path, json!({ "autoRegistrationEnabled": true }));
        assert_eq!(client.token().unwrap().status, 200);
        assert_eq!(with_bearer(&mut neighbour, &token), 200);
    }
}

#[test]
fn a_blocked_device_comes_back_by_no_registration() {
    let world = World::start();
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    set(&world, "BLOCKED");
    let csv = "ID,AUTH_TYPE\nacme-device-1,CERTIFICATES\n";
    let path = "/devicecontrol/bulkNewDeviceRequests?tenant=acme";
    let report = world.operator().send("POST", path, "text/csv", csv.as_bytes());
    assert_eq!((report.status, &report.json()["numberOfCreated"]), (201, &0.into()));
    let pinned = world.operator().pin("acme", "acme-device-1", &world.acme.device);
    assert_eq!(pinned.json()["status"], "BLOCKED");
    assert_eq!(world.acme_client().get("/").unwrap().status, 403);
    assert_eq!(world.acme_client().token().unwrap().status, 403);
}

#[test]
fn a_device_registered_in_bulk_is_served_under_an_anchor_that_registers_nobody() {
    let (world, newcomer) = (World::start(), Newcomer::new());
    world.operator().trust("acme", &newcomer.root, false);
    let client = newcomer.client(&world);
    assert_eq!(client.token().unwrap().status, 403);
    let csv = "ID;AUTH_TYPE;TENANT\nnewcomer-1;CERTIFICATES;acme\nx y;CERTIFICATES;acme\n\
               other;CERTIFICATES;nobody\n";
    let path = "/devicecontrol/bulkNewDeviceRequests";
    let report = world.operator().send("POST", path, "text/csv", csv.as_bytes()).json();
    assert_eq!(
        (&report["numberOfAll"], &report["numberOfCreated"], &report["numberOfFailed"]),
        (&3.into(), &1.into(), &2.into())
    );
    assert_eq!(client.token().unwrap().status, 200);
}
