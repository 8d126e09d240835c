//! Revoked serial numbers in, a CRL out.

use axum::body::Body;
use serde_json::json;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{ACME, ACME_OPERATOR, CONFIG, OPERATOR, VIEWER, World, credentials, request};
use crate::names::TenantId;

const OWN: &str = "/tenant/trusted-certificates/settings/crl";

fn path() -> String {
    format!("{ACME}/trusted-certificates/settings/crl")
}

#[tokio::test]
async fn revoked_serial_numbers_come_back_in_a_signed_crl() {
    let world = World::new().await;
    let body = json!({ "crls": [
        { "serialNumberInHex": "0x0abc", "revocationDate": "2026-12-24T18:00:00Z" },
        { "serialNumberInHex": "FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF:FF" },
    ]});
    assert_eq!(world.send(ACME_OPERATOR, "PUT", OWN, body).await.status, 204);
    let state = world.registry().tenant(&TenantId::parse("acme").unwrap());
    let held: Vec<(&String, &i64)> = state.revocations.iter().collect();
    assert_eq!(held, [(&"ABC".to_owned(), &1_798_135_200), (&"F".repeat(40), &super::NOW)]);

    let answer = world.get(VIEWER, &path()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/pkix-crl");
    let (rest, crl) = CertificateRevocationList::from_der(&answer.body).unwrap();
    assert!(rest.is_empty());
    let serials: Vec<String> = crl
        .iter_revoked_certificates()
        .map(|row| format!("{}@{}", row.raw_serial_as_string(), row.revocation_date.timestamp()))
        .collect();
    let all_ones = format!("00:{}", vec!["ff"; 20].join(":"));
    assert_eq!(serials, ["0a:bc@1798135200".to_owned(), format!("{all_ones}@1800000000")]);
    assert_eq!(crl.issuer().to_string(), "CN=acme, OU=portcullis revocations");
    assert_eq!(crl.last_update().timestamp(), super::NOW);
    assert_eq!(crl.next_update().unwrap().timestamp(), super::NOW + 86_400);
    assert_eq!(crl.crl_number().unwrap().to_string(), super::NOW.to_string());

    // It verifies under the key that signs the tenant's tokens.
    let key = world.directory.path().join("k1.pem");
    let key = openssl::pkey::PKey::private_key_from_pem(&std::fs::read(key).unwrap()).unwrap();
    let parsed = openssl::x509::X509Crl::from_der(&answer.body).unwrap();
    assert!(parsed.verify(&key).unwrap());
}

#[tokio::test]
async fn an_empty_list_is_a_crl_too() {
    let world = World::new().await;
    let answer = world.get(OPERATOR, &format!("{OWN}?tenant=globex")).await;
    let (_, crl) = CertificateRevocationList::from_der(&answer.body).unwrap();
    assert_eq!(crl.iter_revoked_certificates().count(), 0);
}

#[tokio::test]
async fn a_list_comes_as_json_as_csv_or_in_a_form() {
    let world = World::new().await;
    let csv = "serialNumberInHex,revocationDate\n01,2026-01-01\n02,\n";
    assert_eq!(world.csv(ACME_OPERATOR, "PUT", &path(), csv).await.status, 204);
    let form = "--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nserialNumberInHex\r\n03\r\n\r\n--XX--\r\n";
    let request = request("PUT", &path(), Some(ACME_OPERATOR))
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::from(form))
        .unwrap();
    assert_eq!(world.ask(request).await.status, 204);
    let two = "--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nserialNumberInHex\r\n04\r\n\r\n";
    let two = format!("{two}{}--XX--\r\n", two.replace("04", "05"));
    let request = super::request("PUT", &path(), Some(ACME_OPERATOR))
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::from(two))
        .unwrap();
    let (status, message) = world.ask(request).await.refusal();
    assert!(status == 400 && message.contains("second field `file`"), "{message}");
    let again = json!({ "crls": [{ "serialNumberInHex": "1", "revocationDate": "2020-01-01" }] });
    assert_eq!(world.send(ACME_OPERATOR, "PUT", &path(), again).await.status, 204);
    let state = world.registry().tenant(&TenantId::parse("acme").unwrap());
    let serials: Vec<&str> = state.revocations.keys().map(String::as_str).collect();
    assert_eq!(serials, ["1", "2", "3"]);
    assert_eq!(state.revocations["1"], 1_577_836_800);
}

#[tokio::test]
async fn a_bad_row_refuses_the_whole_list() {
    let world = World::new().await;
    let row = |serial: &str, date: &str| {
        json!({ "crls": [
            { "serialNumberInHex": "01" },
            { "serialNumberInHex": serial, "revocationDate": date },
        ]})
    };
    for (body, why) in [
        (row("xyz", "2026-01-01"), "Entry 2 of crls: serialNumberInHex"),
        (row("0", "2026-01-01"), "Entry 2 of crls: serialNumberInHex"),
        (row(&"1".repeat(41), "2026-01-01"), "Entry 2 of crls: serialNumberInHex"),
        (row("02", "tomorrow"), "Entry 2 of crls: revocationDate is RFC 3339"),
        (row("02", "2027-01-16T08:00:01Z"), "Entry 2 of crls: revocationDate lies in the future"),
        (json!({ "crls": [] }), "no serial number"),
    ] {
        let (status, message) = world.send(ACME_OPERATOR, "PUT", OWN, body).await.refusal();
        assert!(status == 422 && message.contains(why), "{why}: {message}");
    }
    let rows: String = (1..=5_001).map(|n| format!("{n:x}\n")).collect();
    let csv = format!("serialNumberInHex\n{rows}");
    let (status, message) = world.csv(ACME_OPERATOR, "PUT", OWN, &csv).await.refusal();
    assert!(status == 422 && message.contains("5000"), "{message}");
    let csv = csv.trim_end().rsplit_once('\n').unwrap().0;
    assert_eq!(world.csv(ACME_OPERATOR, "PUT", OWN, csv).await.status, 204);
    let state = world.registry().tenant(&TenantId::parse("acme").unwrap());
    assert_eq!(state.revocations.len(), 5_000);
}

#[tokio::test]
async fn a_revocation_is_dated_a_day_ahead_at_most() {
    let world = World::new().await;
    let csv = |date: &str| format!("serialNumberInHex,revocationDate\n01,\n02,{date}\n");
    let (status, message) =
        world.csv(ACME_OPERATOR, "PUT", OWN, &csv("2036-01-01")).await.refusal();
    assert!(status == 422 && message.contains("Line 3: revocationDate lies in the"), "{message}");
    assert!(message.contains("takes effect at once"), "{message}");
    let state = || world.registry().tenant(&TenantId::parse("acme").unwrap());
    assert!(state().revocations.is_empty());
    let tomorrow = csv("2027-01-16T08:00:00Z");
    assert_eq!(world.csv(ACME_OPERATOR, "PUT", OWN, &tomorrow).await.status, 204);
    assert_eq!(state().revocations["2"], super::NOW + 86_400);
}

#[tokio::test]
async fn who_sees_several_tenants_names_one() {
    let world = World::new().await;
    assert_eq!(world.get(OPERATOR, OWN).await.refusal().0, 400);
    assert_eq!(world.get(OPERATOR, &format!("{OWN}?tenant=acme")).await.status, 200);
    assert_eq!(world.get(OPERATOR, &format!("{OWN}?tenant=nobody")).await.refusal().0, 404);
    assert_eq!(world.get(ACME_OPERATOR, &format!("{OWN}?tenant=globex")).await.refusal().0, 404);
}

#[tokio::test]
async fn a_tenant_without_a_signing_key_has_no_crl() {
    let tokens = "tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }\n";
    let config = CONFIG.replace(tokens, "").replace("    tokens: {}\n", "");
    let world = World::with(credentials(), &config).await;
    let (status, message) = world.get(VIEWER, &path()).await.refusal();
    assert!(status == 404 && message.contains("signing key"), "{message}");
}

#[tokio::test]
async fn a_tenant_that_is_not_served_keeps_its_api() {
    let broken =
        "    trusted_certificates: [{ file: server.key }]\n    upstream: platform\n    tokens";
    let config = CONFIG.replace(
        "    trusted_certificates: [{ file: root.pem }]\n    upstream: platform\n    tokens",
        broken,
    );
    let world = World::with(credentials(), &config).await;
    assert_eq!(world.get(VIEWER, &path()).await.refusal().0, 503);
    let body = json!({ "crls": [{ "serialNumberInHex": "01" }] });
    assert_eq!(world.send(ACME_OPERATOR, "PUT", &path(), body).await.status, 204);
    let tenants = world.get(VIEWER, "/edge/tenants").await.json();
    assert_eq!(tenants["tenants"][0]["state"], "UNAVAILABLE");
}
