//! Certificates pinned to devices: self-signed ones, as a device makes for itself.

use serde_json::Value;

use super::{ACME, NOT_AN_END_ENTITY, UNKNOWN_CA, VERSIONS, claims, refusal, self_signed, status};
use crate::pki::{DIGITAL_SIGNATURE, Minted, NOT_AFTER, NOT_BEFORE, Template};
use crate::world::{Client, Failure, NOW, Response, World, fingerprint};

/// A device that shows one certificate.
fn client(world: &World, leaf: &Minted) -> Client {
    world.client("acme.example.com").identity(&[leaf])
}

fn unpin(world: &World, tenant: &str, device: &str, leaf: &Minted) -> Response {
    let pin = fingerprint(leaf);
    let path = format!("/tenant/tenants/{tenant}/devices/{device}/pins/{pin}");
    world.api("DELETE", &path, Value::Null)
}

#[test]
fn a_pinned_certificate_is_its_device_whatever_it_says_of_itself() {
    let world = World::start();
    let kinds = [
        ("CA:TRUE", self_signed("meter")),
        ("no extension", Template::blank("meter").self_signed()),
        ("version 1", Template::blank("meter").v1().self_signed()),
        ("no name", Template::blank("").subject(&[]).self_signed()),
        ("another's name", Template::device("acme-device-1").self_signed()),
        ("of a foreign CA", Template::device("meter").signed_by(&self_signed("Foreign"))),
    ];
    for (index, (kind, leaf)) in kinds.iter().enumerate() {
        for version in VERSIONS {
            let client = client(&world, leaf).tls(version);
            let device = format!("meter-{index}");
            let refused = client.get("/").unwrap_err();
            assert!(
                [UNKNOWN_CA, NOT_AN_END_ENTITY, Failure::Alert(42)].contains(&refused),
                "{kind}: {refused:?}"
            );
            let answer = world.operator().pin("acme", &device, leaf);
            assert_eq!(answer.status, 201, "{kind}: {answer:?}");
            assert_eq!(client.get("/").unwrap().status, 200, "{kind}");
            let seen = world.upstream.requests().pop().unwrap();
            let chain = seen.header("x-ssl-cert-chain")[0].to_owned();
            assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 1, "{kind}");
            let token = client.token().unwrap().access_token();
            assert_eq!(claims(&token)["sub"], format!("device_{device}"), "{kind}");
            let shown = world.operator().get(&format!("{ACME}/devices/{device}")).json();
            assert_eq!(shown["pins"][0], fingerprint(leaf), "{kind}");
            assert_eq!(shown["registeredBy"], "MANUAL", "{kind}");
            assert_eq!(unpin(&world, "acme", &device, leaf).status, 204, "{kind}");
        }
    }
}

#[test]
fn a_pin_is_of_one_certificate_and_not_of_its_key_or_its_name() {
    let world = World::start();
    let leaf = self_signed("meter");
    world.operator().pin("acme", "meter", &leaf);
    let renewed =
        Template::blank("meter").basic_constraints(true, None).key(&leaf.key).self_signed();
    assert_eq!(client(&world, &renewed).get("/").unwrap_err(), NOT_AN_END_ENTITY);
    // It is no CA of the tenant's by being pinned.
    let under_it = Template::device("child").signed_by(&leaf);
    let chain = world.client("acme.example.com").identity(&[&under_it, &leaf]);
    assert_eq!(chain.get("/").unwrap_err(), UNKNOWN_CA);
    assert_eq!(client(&world, &leaf).get("/").unwrap().status, 200);
    // Nor is it a device of the next tenant.
    let at_globex = client(&world, &leaf).server_name("globex.example.com");
    assert_eq!(at_globex.get("/").unwrap_err(), NOT_AN_END_ENTITY);
}

#[test]
fn a_pinned_certificate_counts_within_its_dates() {
    for version in VERSIONS {
        let world = World::start();
        let blank = || Template::blank("meter").key_usage(DIGITAL_SIGNATURE);
        let expired = blank().validity(NOT_BEFORE, NOW - 1).self_signed();
        let early = blank().validity(NOW + 60, NOT_AFTER).self_signed();
        let ending = blank().validity(NOT_BEFORE, NOW + 60).self_signed();
        for (device, leaf) in [("expired", &expired), ("early", &early), ("ending", &ending)] {
            assert_eq!(world.operator().pin("acme", device, leaf).status, 201, "{device}");
        }
        let client = |leaf| client(&world, leaf).tls(version);
        assert_eq!(client(&expired).get("/").unwrap_err(), Failure::Alert(45));
        assert_eq!(client(&early).get("/").unwrap_err(), Failure::Alert(45));
        let session = client(&ending).session();
        let mut live = client(&ending).connect().unwrap();
        assert_eq!(status(&mut live), 200);
        world.clock.advance(61);
        assert_eq!(status(&mut live), 401);
        assert_eq!(refusal(&client(&ending), &session), Failure::Alert(45));
        assert_eq!(client(&early).get("/").unwrap().status, 200);
    }
}

#[test]
fn a_pin_that_is_taken_back_ends_connections_handshakes_and_tickets() {
    for version in VERSIONS {
        for delete_device in [false, true] {
            let world = World::start();
            let leaf = self_signed("meter");
            world.operator().pin("acme", "meter", &leaf);
            let client = client(&world, &leaf).tls(version);
            let session = client.session();
            let (mut live, mut wants_token) =
                (client.connect().unwrap(), client.connect().unwrap());
            assert_eq!((status(&mut live), status(&mut wants_token)), (200, 200));
            let forwarded = world.upstream.requests().len();
            if delete_device {
                let path = format!("{ACME}/devices/meter");
                assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
            } else {
                assert_eq!(unpin(&world, "acme", "meter", &leaf).status, 204);
                assert_eq!(unpin(&world, "acme", "meter", &leaf).status, 404);
            }
            // Judged anew as the certificate that it is without the pin: of no profile.
            assert_eq!(status(&mut live), 400);
            assert_eq!(wants_token.token("").unwrap().status, 400);
            assert_eq!(client.get("/").unwrap_err(), NOT_AN_END_ENTITY);
            assert_eq!(refusal(&client, &session), NOT_AN_END_ENTITY);
            assert_eq!(world.upstream.requests().len(), forwarded);
        }
    }
}

#[test]
fn one_certificate_is_one_device_of_a_tenant_and_another_of_the_next() {
    for version in VERSIONS {
        let world = World::start();
        let leaf = self_signed("meter");
        let api = world.operator();
        assert_eq!(api.pin("acme", "ours", &leaf).status, 201);
        assert_eq!(api.pin("acme", "ours", &leaf).status, 200);
        assert_eq!(api.pin("acme", "another", &leaf).status, 409);
        assert_eq!(api.get(&format!("{ACME}/devices/another")).status, 404);
        assert_eq!(api.pin("globex", "theirs", &leaf).status, 201);
        let at_acme = client(&world, &leaf).tls(version);
        let at_globex = at_acme.clone().server_name("globex.example.com");
        let who = |client: &Client| claims(&client.token().unwrap().access_token());
        let (ours, theirs) = (who(&at_acme), who(&at_globex));
        assert_eq!((&ours["sub"], &ours["ten"]), (&"device_ours".into(), &"acme".into()));
        assert_eq!((&theirs["sub"], &theirs["ten"]), (&"device_theirs".into(), &"globex".into()));
        assert_eq!(unpin(&world, "acme", "ours", &leaf).status, 204);
        assert_eq!(at_acme.get("/").unwrap_err(), NOT_AN_END_ENTITY);
        assert_eq!(at_globex.get("/").unwrap().status, 200);
    }
}

#[test]
fn a_pinned_certificate_of_a_trusted_ca_is_the_device_that_it_is_pinned_to() {
    let world = World::start();
    let (device, issuing) = (&world.acme.device, &world.acme.issuing);
    let sub = || claims(&world.acme_client().token().unwrap().access_token())["sub"].clone();
    assert_eq!(sub(), "device_acme-device-1");
    let mut live = world.acme_client().connect().unwrap();
    assert_eq!(status(&mut live), 200);
    assert_eq!(world.operator().pin("acme", "renamed", device).status, 201);
    assert_eq!(sub(), "device_renamed");
    // What is open stays what it was, until it is judged anew.
    assert_eq!(status(&mut live), 200);
    let neighbour = world.acme.another("acme-device-2");
    let neighbour = world.acme_client().identity(&[&neighbour, issuing]);
    assert_eq!(neighbour.get("/").unwrap().status, 200);
    assert_eq!(unpin(&world, "acme", "renamed", device).status, 204);
    assert_eq!(sub(), "device_acme-device-1");
}
