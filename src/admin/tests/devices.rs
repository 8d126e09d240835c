//! Devices and their pins.

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::sha::sha256;
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;

use super::mint::Authority;
use super::{ACME, ACME_OPERATOR, GLOBEX_OPERATOR, VIEWER, World};
use crate::admin::text::hex;
use crate::names::{DeviceId, TenantId};
use crate::registry::DeviceStatus;

fn path(device: &str) -> String {
    format!("{ACME}/devices/{device}")
}

async fn pin(world: &World, device: &str, body: Value) -> super::Answer {
    world.send(ACME_OPERATOR, "POST", &format!("{}/pins", path(device)), body).await
}

async fn register(world: &World, devices: &[&str]) {
    let rows: String = devices.iter().map(|id| format!("{id},CERTIFICATES\n")).collect();
    let csv = format!("ID,AUTH_TYPE\n{rows}");
    let answer =
        world.csv(ACME_OPERATOR, "POST", "/devicecontrol/bulkNewDeviceRequests", &csv).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
}

#[tokio::test]
async fn devices_are_listed_in_pages_by_id() {
    let world = World::new().await;
    register(&world, &["b-1", "a-1", "a-2", "a=3", "c-1"]).await;
    let block = json!({ "status": "BLOCKED" });
    assert_eq!(world.send(ACME_OPERATOR, "PUT", &path("a-2"), block).await.status, 200);
    let ids = |list: &Value| -> Vec<String> {
        let devices = list["devices"].as_array().unwrap();
        devices.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut next = Some(format!("{ACME}/devices?limit=2"));
    let mut seen = Vec::new();
    while let Some(link) = next {
        let page = world.get(VIEWER, &link).await.json();
        seen.extend(ids(&page));
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, ["a-1", "a-2", "a=3", "b-1", "c-1"]);
    for (query, expected) in [
        ("prefix=a", vec!["a-1", "a-2", "a=3"]),
        ("prefix=a%3D", vec!["a=3"]),
        ("prefix=a%25", vec![]),
        ("prefix=_", vec![]),
        ("prefix=%00", vec![]),
        ("prefix='", vec![]),
        ("status=BLOCKED", vec!["a-2"]),
        ("status=ACTIVE&prefix=a-", vec!["a-1"]),
        ("after=b-1", vec!["c-1"]),
    ] {
        let list = world.get(VIEWER, &format!("{ACME}/devices?{query}")).await;
        assert_eq!(ids(&list.json()), expected, "{query}");
    }
    let page =
        world.get(VIEWER, &format!("{ACME}/devices?prefix=a%3D&limit=1&status=ACTIVE")).await;
    let next = page.json()["next"].as_str().unwrap().to_owned();
    assert_eq!(ids(&world.get(VIEWER, &next).await.json()), Vec::<String>::new());
    for odd in ["limit=0", "limit=1001", "limit=x", "status=active", "after=%20", "after="] {
        let answer = world.get(VIEWER, &format!("{ACME}/devices?{odd}")).await;
        assert_eq!(answer.refusal().0, 400, "{odd}");
    }
}

#[tokio::test]
async fn a_device_is_blocked_unblocked_and_forgotten() {
    let world = World::new().await;
    register(&world, &["d1"]).await;
    let (tenant, device) = (TenantId::parse("acme").unwrap(), DeviceId::parse("d1").unwrap());
    let shown = world.get(VIEWER, &path("d1")).await.json();
    let expected = json!({
        "id": "d1", "status": "ACTIVE", "registeredBy": "BULK", "pins": [],
        "registeredAt": "2027-01-15T08:00:00Z", "changedAt": "2027-01-15T08:00:00Z",
    });
    assert_eq!(shown, expected);
    for (status, held) in [("BLOCKED", DeviceStatus::Blocked), ("ACTIVE", DeviceStatus::Active)] {
        let mut object = shown.clone();
        object["status"] = status.into();
        let answer = world.send(ACME_OPERATOR, "PUT", &path("d1"), object).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!(status)));
        assert_eq!(world.registry().status(&tenant, &device), Some(held));
    }
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &path("d1")).await.status, 204);
    assert_eq!(world.registry().status(&tenant, &device), None);
    assert_eq!(world.get(VIEWER, &path("d1")).await.refusal().0, 404);
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &path("d1")).await.refusal().0, 404);
    let block = json!({ "status": "BLOCKED" });
    assert_eq!(world.send(ACME_OPERATOR, "PUT", &path("d1"), block).await.refusal().0, 404);
    assert_eq!(world.get(VIEWER, &path("a%00b")).await.refusal().0, 404);
}

#[tokio::test]
async fn a_certificate_is_pinned_by_its_pem_its_base64_or_its_digest() {
    let world = World::new().await;
    let certificate = Authority::new("self-signed device");
    let digest = hex(&sha256(&certificate.der()));
    let answer = pin(&world, "d1", json!({ "certInPemFormat": certificate.pem() })).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(answer.headers["location"], format!("{}/pins/{digest}", path("d1")).as_str());
    assert_eq!(answer.json()["pins"], json!([digest]));
    assert_eq!(answer.json()["registeredBy"], "MANUAL");
    let tenant = TenantId::parse("acme").unwrap();
    let owner = world.registry().pinned(&tenant, &sha256(&certificate.der()));
    assert_eq!(owner, DeviceId::parse("d1").ok());
    let base64 = STANDARD.encode(certificate.der());
    for again in [json!({ "certInPemFormat": base64 }), json!({ "sha256": digest.to_uppercase() })]
    {
        let answer = pin(&world, "d1", again.clone()).await;
        assert_eq!((answer.status, &answer.json()["pins"]), (200, &json!([digest])), "{again}");
        assert_eq!(pin(&world, "d2", again).await.refusal().0, 409);
    }
    let unpin = format!("{}/pins/{digest}", path("d1"));
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &unpin).await.status, 204);
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &unpin).await.refusal().0, 404);
    let odd = format!("{}/pins/xyz", path("d1"));
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &odd).await.refusal().0, 404);
}

#[tokio::test]
async fn thingsboards_credentials_id_goes_with_its_certificate_alone() {
    let world = World::new().await;
    let certificate = Authority::new("device");
    let base64 = STANDARD.encode(certificate.der());
    let sha3 = openssl::hash::MessageDigest::sha3_256();
    let id = hex(&openssl::hash::hash(sha3, base64.as_bytes()).unwrap());
    let (status, message) = pin(&world, "d1", json!({ "credentialsId": id })).await.refusal();
    assert!(status == 422 && message.contains("sha256"), "{message}");
    let wrong = json!({ "credentialsId": "00".repeat(32), "certInPemFormat": base64 });
    assert_eq!(pin(&world, "d1", wrong).await.refusal().0, 422);
    let both = json!({ "credentialsId": id, "sha256": "00".repeat(32) });
    assert_eq!(pin(&world, "d1", both).await.refusal().0, 422);
    let right = json!({ "credentialsId": id, "certInPemFormat": base64 });
    assert_eq!(pin(&world, "d1", right).await.status, 201);
}

#[tokio::test]
async fn bad_pins_are_refused_with_the_reason() {
    let world = World::new().await;
    let key = super::mint::new_key().private_key_to_pem_pkcs8().unwrap();
    let key = String::from_utf8(key).unwrap();
    for (body, why) in [
        (json!({}), "certInPemFormat, or sha256"),
        (json!({ "sha256": "ab" }), "64 hex digits"),
        (json!({ "sha256": "ab".repeat(32), "certInPemFormat": "AA==" }), "not both"),
        (json!({ "certInPemFormat": "AA==" }), "certificate"),
        (json!({ "certInPemFormat": key }), "private key"),
    ] {
        let (status, message) = pin(&world, "d1", body).await.refusal();
        assert!(status == 422 && message.contains(why), "{why}: {message}");
    }
    assert_eq!(pin(&world, "a%3Ab", json!({ "sha256": "ab".repeat(32) })).await.refusal().0, 422);
    for n in 0..16 {
        let body = json!({ "sha256": format!("{n:064x}") });
        assert_eq!(pin(&world, "d1", body).await.status, 201);
    }
    let one_more = json!({ "sha256": format!("{:064x}", 16) });
    assert_eq!(pin(&world, "d1", one_more).await.refusal().0, 422);
}

#[tokio::test]
async fn devices_of_another_tenant_are_out_of_reach() {
    let world = World::new().await;
    register(&world, &["d1"]).await;
    for method in ["GET", "DELETE"] {
        assert_eq!(world.bare(GLOBEX_OPERATOR, method, &path("d1")).await.refusal().0, 404);
    }
    let own = "/tenant/tenants/globex/devices/d1";
    assert_eq!(world.get(GLOBEX_OPERATOR, own).await.refusal().0, 404);
    assert_eq!(world.get(VIEWER, &path("d1")).await.status, 200);
}

/// What is logged while it is held, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn only_what_has_changed_is_logged_as_a_change() {
    let world = World::new().await;
    let log = Log::default();
    let writer = log.clone();
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    let layer = layer.with_writer(move || writer.clone());
    let _logged = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let pins = format!("{ACME}/devices/d1/pins");
    for (status, events) in [(201, 1), (200, 1)] {
        let pin = json!({ "sha256": "ab".repeat(32) });
        assert_eq!(world.send(ACME_OPERATOR, "POST", &pins, pin).await.status, status);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("device.pin").count(), events, "{status}: {text}");
    }
}
