//! Revocation by serial number.

use std::process::Command;

use serde_json::{Value, json};

use super::{ACME, Newcomer, VERSIONS, refusal, self_signed, serial, status};
use crate::pki::{Minted, Template};
use crate::world::{Failure, World};

const REVOKED: Failure = Failure::Alert(44);

fn path(tenant: &str) -> String {
    format!("/tenant/tenants/{tenant}/trusted-certificates/settings/crl")
}

#[track_caller]
fn revoke(world: &World, serial: &str) {
    let body = json!({ "crls": [{ "serialNumberInHex": serial }] });
    assert_eq!(world.api("PUT", &path("acme"), body).status, 204);
}

#[test]
fn a_revoked_serial_number_ends_connections_handshakes_and_tickets() {
    for version in VERSIONS {
        for revoke_issuing in [false, true] {
            let (world, newcomer) = (World::start(), Newcomer::new());
            world.operator().trust("acme", &newcomer.root, true);
            let client = newcomer.client(&world).tls(version);
            let sibling = Template::device("newcomer-2").signed_by(&newcomer.issuing);
            let sibling = client.clone().identity(&[&sibling, &newcomer.issuing]);
            let session = client.session();
            let (mut live, mut wants_token) =
                (client.connect().unwrap(), client.connect().unwrap());
            assert_eq!((status(&mut live), status(&mut wants_token)), (200, 200));
            let forwarded = world.upstream.requests().len();
            let revoked = if revoke_issuing { &newcomer.issuing } else { &newcomer.device };
            revoke(&world, &serial(revoked));
            assert_eq!(status(&mut live), 401);
            assert_eq!(wants_token.token("").unwrap().status, 401);
            assert_eq!(client.get("/").unwrap_err(), REVOKED);
            assert_eq!(refusal(&client, &session), REVOKED);
            assert_eq!(world.upstream.requests().len(), forwarded);
            match revoke_issuing {
                true => assert_eq!(sibling.get("/").unwrap_err(), REVOKED),
                false => assert_eq!(sibling.get("/").unwrap().status, 200),
            }
            assert_eq!(world.acme_client().tls(version).get("/").unwrap().status, 200);
        }
    }
}

#[test]
fn a_revocation_counts_for_the_files_anchors_and_for_pins_at_its_tenant_alone() {
    let mut world = World::start();
    let same_serial = |issuing: &Minted, name: &str| {
        Template::device(name).serial(&[0x0a, 0xbc, 0xde]).signed_by(issuing)
    };
    let ours = same_serial(&world.acme.issuing, "acme-device-3");
    let theirs = same_serial(&world.globex.issuing, "globex-device-3");
    let pinned = Template::blank("meter").serial(&[0x0a, 0xbc, 0xdf]).self_signed();
    world.operator().pin("acme", "meter", &pinned);
    let ours = world.acme_client().identity(&[&ours, &world.acme.issuing]);
    let theirs = world.globex_client().identity(&[&theirs, &world.globex.issuing]);
    let meter = world.client("acme.example.com").identity(&[&pinned]);
    for client in [&ours, &theirs, &meter] {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    // Any spelling of the number: case, leading zeros.
    revoke(&world, "000abcDE");
    revoke(&world, "abcdf");
    assert_eq!(ours.get("/").unwrap_err(), REVOKED);
    assert_eq!(meter.get("/").unwrap_err(), REVOKED);
    assert_eq!(theirs.get("/").unwrap().status, 200);
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    world.restart();
    let https = world.https();
    assert_eq!(ours.at(https).get("/").unwrap_err(), REVOKED);
    assert_eq!(meter.at(https).get("/").unwrap_err(), REVOKED);
    assert_eq!(theirs.at(https).get("/").unwrap().status, 200);
}

#[test]
fn an_anchor_is_not_revoked_by_its_serial_number() {
    let world = World::start();
    revoke(&world, &serial(&world.acme.root));
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_list_with_one_bad_row_revokes_nothing() {
    let world = World::start();
    let good = serial(&world.acme.device);
    for bad in ["", "xyz", "0", "-1", "1 2", &"ff".repeat(21)] {
        let body = json!({ "crls": [{ "serialNumberInHex": good }, { "serialNumberInHex": bad }] });
        assert_eq!(world.api("PUT", &path("acme"), body).status, 422, "{bad:?}");
        let csv = format!("serialNumberInHex,revocationDate\n{good},\n\"{bad}\",\n");
        let csv = world.operator().send("PUT", &path("acme"), "text/csv", csv.as_bytes());
        assert_eq!(csv.status, 422, "{bad:?}");
    }
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    let csv = format!("serialNumberInHex,revocationDate\r\n{good},2027-01-01T00:00:00Z\r\n");
    let sent = world.operator().send("PUT", &path("acme"), "text/csv", csv.as_bytes());
    assert_eq!(sent.status, 204);
    assert_eq!(world.acme_client().get("/").unwrap_err(), REVOKED);
}

#[test]
fn the_crl_that_the_api_gives_is_one_that_openssl_reads() {
    let world = World::start();
    let revoked = self_signed("meter");
    revoke(&world, &serial(&revoked));
    let response = world.operator().get(&path("acme"));
    assert_eq!(response.header("content-type"), Some("application/pkix-crl"));
    world.write("acme.crl", &response.body);
    let crl = Command::new("openssl")
        .args(["crl", "-inform", "DER", "-noout", "-text", "-in"])
        .arg(world.dir.path().join("acme.crl"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&crl.stdout).into_owned();
    assert!(crl.status.success(), "{crl:?}");
    assert!(text.contains(&format!("Serial Number: {}", serial(&revoked))), "{text}");
    assert!(text.contains("Revocation Date: Jan 15 08:00:00 2027 GMT"), "{text}");
    assert_eq!(world.api("GET", &format!("{ACME}/trusted-certificates"), Value::Null).status, 200);
}
