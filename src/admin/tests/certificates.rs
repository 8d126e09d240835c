//! Trusted certificates, and the proof that their keys are at hand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::sha::sha256;
use serde_json::{Value, json};

use super::mint::{Authority, Odd};
use super::{ACME, ACME_OPERATOR, Answer, GLOBEX_OPERATOR, NOW, OPERATOR, VIEWER, World};
use crate::admin::text::{decimal, hex};
use crate::names::TenantId;
use crate::registry::{Actor, AnchorRecord, AnchorStatus, Change, Possession};

fn path() -> String {
    format!("{ACME}/trusted-certificates")
}

fn of(authority: &Authority) -> String {
    format!("{}/{}", path(), hex(&sha256(&authority.der())))
}

fn possession(authority: &Authority, step: &str) -> String {
    let fingerprint = hex(&sha256(&authority.der()));
    format!("{ACME}/trusted-certificates-pop/{fingerprint}/{step}")
}

async fn upload(world: &World, authority: &Authority) -> Answer {
    let body = json!({ "certInPemFormat": authority.pem(), "name": "Plant 7" });
    world.send(ACME_OPERATOR, "POST", &path(), body).await
}

#[tokio::test]
async fn an_uploaded_certificate_is_shown_as_the_platform_shows_it() {
    let world = World::new().await;
    let authority = Authority::new("Plant CA");
    let body = json!({
        "certInPemFormat": STANDARD.encode(authority.der()),
        "autoRegistrationEnabled": true,
        "status": "ENABLED",
    });
    let answer = world.send(ACME_OPERATOR, "POST", &path(), body).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(answer.headers["location"], of(&authority).as_str());
    let serial = authority.certificate.serial_number().to_bn().unwrap();
    let expected = json!({
        "algorithmName": "SHA256withECDSA",
        "autoRegistrationEnabled": true,
        "certInPemFormat": STANDARD.encode(authority.der()),
        "fingerprint": hex(&sha256(&authority.der())),
        "issuer": "CN=Plant CA",
        "name": "Plant CA",
        "notAfter": "2055-07-24T00:00:00Z",
        "notBefore": "2017-07-14T02:40:00Z",
        "serialNumber": decimal(&hex(&serial.to_vec())),
        "status": "ENABLED",
        "subject": "CN=Plant CA",
        "version": 3,
        "proofOfPossessionValid": false,
        "deviceIdentity": "cn",
        "source": "registry",
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(expected["serialNumber"], serial.to_dec_str().unwrap().to_string());
    assert_eq!(world.get(VIEWER, &of(&authority)).await.json(), expected);
    let upper = of(&authority)
        .replace(&hex(&sha256(&authority.der())), &hex(&sha256(&authority.der())).to_uppercase());
    assert_eq!(world.get(VIEWER, &upper).await.json(), expected);
    let state = world.registry().tenant(&TenantId::parse("acme").unwrap());
    assert_eq!(state.anchors[0].der, authority.der());
}

#[tokio::test]
async fn what_was_read_can_be_sent_back_changed() {
    let world = World::new().await;
    let authority = Authority::new("Plant CA");
    assert_eq!(upload(&world, &authority).await.status, 201);
    let mut object = world.get(VIEWER, &of(&authority)).await.json();
    object["status"] = "DISABLED".into();
    object["name"] = "Old plant".into();
    object["deviceIdentity"] = "san_uri:urn:dev:(.*)".into();
    let answer = world.send(ACME_OPERATOR, "PUT", &of(&authority), object.clone()).await;
    assert_eq!((answer.status, answer.json()), (200, object.clone()));
    let partial = json!({ "autoRegistrationEnabled": true });
    object["autoRegistrationEnabled"] = true.into();
    let answer = world.send(ACME_OPERATOR, "PUT", &of(&authority), partial).await;
    assert_eq!((answer.status, answer.json()), (200, object));
    let other = json!({ "certInPemFormat": Authority::new("Other").pem() });
    assert_eq!(world.send(ACME_OPERATOR, "PUT", &of(&authority), other).await.refusal().0, 422);
    for (field, value) in [("name", ""), ("name", "a\nb"), ("deviceIdentity", "nonsense")] {
        let body = json!({ field: value });
        let (status, message) =
            world.send(ACME_OPERATOR, "PUT", &of(&authority), body).await.refusal();
        assert!(status == 422 && message.contains(field), "{field} {value:?}: {message}");
    }
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &of(&authority)).await.status, 204);
    assert_eq!(world.get(VIEWER, &of(&authority)).await.refusal().0, 404);
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &of(&authority)).await.refusal().0, 404);
}

#[tokio::test]
async fn certificates_that_cannot_be_anchors_are_refused_with_the_reason() {
    let world = World::new().await;
    for (odd, why) in [
        (Odd::Version1, "version 3"),
        (Odd::NotCa, "not a CA"),
        (Odd::Expired, "validity ended on 2027-01-15T07:59:59Z"),
        (Odd::WeakKey, "key is not on the list"),
    ] {
        let body = json!({ "certInPemFormat": Authority::odd("Odd", odd).pem() });
        let (status, message) = world.send(ACME_OPERATOR, "POST", &path(), body).await.refusal();
        assert!(status == 422 && message.contains(why), "{message}");
    }
    let good = Authority::new("Good");
    let key = String::from_utf8(good.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let key_der = STANDARD.encode(good.key.private_key_to_der_pkcs8().unwrap());
    let two = good.pem() + &Authority::new("Second").pem();
    for (text, why) in [
        (good.pem() + &key, "private key"),
        (key.clone(), "private key"),
        (key_der.clone(), "not a DER certificate"),
        (two, "more than 1"),
        (good.pem().replace("-----END", "MIIB-----END"), "PEM"),
        ("-----BEGIN CERTIFICATE-----\n".to_owned(), "no end"),
        (String::new(), "neither PEM nor base64"),
        ("!".to_owned(), "neither PEM nor base64"),
    ] {
        let body = json!({ "certInPemFormat": text });
        let (status, message) = world.send(ACME_OPERATOR, "POST", &path(), body).await.refusal();
        assert!(status == 422 && message.contains(why), "{why}: {message}");
        assert!(!message.contains(&key_der[..40]), "{message}");
    }
    let missing = world.send(ACME_OPERATOR, "POST", &path(), json!({ "name": "x" })).await;
    assert!(missing.refusal().1.contains("certInPemFormat"));
    assert!(world.registry().tenant(&TenantId::parse("acme").unwrap()).anchors.is_empty());
}

#[tokio::test]
async fn a_certificate_is_trusted_once() {
    let world = World::new().await;
    let authority = Authority::new("Plant CA");
    assert_eq!(upload(&world, &authority).await.status, 201);
    assert_eq!(upload(&world, &authority).await.refusal().0, 409);
    let (status, message) = upload(&world, &world.root).await.refusal();
    assert!(status == 409 && message.contains("configuration file"), "{message}");
    let body = json!({ "certInPemFormat": authority.pem() });
    let globex = "/tenant/tenants/globex/trusted-certificates";
    assert_eq!(world.send(GLOBEX_OPERATOR, "POST", globex, body).await.status, 201);
}

#[tokio::test]
async fn certificates_of_the_configuration_are_shown_and_not_changed() {
    let world = World::new().await;
    let shown = world.get(VIEWER, &of(&world.root)).await.json();
    assert_eq!((&shown["source"], &shown["status"]), (&json!("file"), &json!("ENABLED")));
    assert_eq!(shown["name"], "Configured root");
    let update = world.send(OPERATOR, "PUT", &of(&world.root), json!({ "name": "x" })).await;
    for answer in [
        update,
        world.bare(OPERATOR, "DELETE", &of(&world.root)).await,
        world.bare(OPERATOR, "POST", &possession(&world.root, "confirmed")).await,
        world.bare(OPERATOR, "POST", &possession(&world.root, "verification-code")).await,
    ] {
        let (status, message) = answer.refusal();
        assert!(status == 409 && message.contains("trusted_certificates"), "{message}");
    }
}

#[tokio::test]
async fn of_a_certificate_that_is_uploaded_and_configured_the_configuration_counts() {
    let world = World::new().await;
    // Uploaded first, and configured later.
    let acme = TenantId::parse("acme").unwrap();
    let upload = AnchorRecord {
        sha256: sha256(&world.root.der()),
        der: world.root.der(),
        name: "Uploaded".to_owned(),
        status: AnchorStatus::Disabled,
        auto_registration: false,
        identity: "cn".to_owned(),
        added_at: NOW,
        changed_at: NOW,
        possession: Possession::default(),
    };
    let change = Change::AddAnchors { tenant: acme.clone(), anchors: vec![upload] };
    let actor = Actor { name: "test".to_owned(), peer: None };
    world.registry().apply(&actor, change).await.unwrap();

    let shown = world.get(VIEWER, &of(&world.root)).await.json();
    assert_eq!((&shown["source"], &shown["status"]), (&json!("file"), &json!("ENABLED")));
    let listed = world.get(VIEWER, &path()).await.json();
    assert_eq!(listed["certificates"], json!([shown]));

    let disable = json!({ "status": "DISABLED" });
    let disabled = world.send(ACME_OPERATOR, "PUT", &of(&world.root), disable).await.refusal();
    assert!(disabled.0 == 409 && disabled.1.contains("configuration file"), "{}", disabled.1);
    assert_eq!(world.registry().tenant(&acme).anchors.len(), 1);

    // The upload goes, and nobody is left to think that the certificate went with it.
    let deleted = world.bare(ACME_OPERATOR, "DELETE", &of(&world.root)).await.refusal();
    assert!(deleted.0 == 409 && deleted.1.contains("it stays trusted"), "{}", deleted.1);
    assert!(world.registry().tenant(&acme).anchors.is_empty());
    let again = world.bare(ACME_OPERATOR, "DELETE", &of(&world.root)).await.refusal();
    assert!(again.0 == 409 && !again.1.contains("upload"), "{}", again.1);
}

#[tokio::test]
async fn a_list_of_certificates_is_given_up_past_what_a_tenant_may_have() {
    let world = World::new().await;
    let bulk = format!("{}/bulk", path());
    let list = |entries: usize| json!({ "certificates": vec![json!({}); entries] });
    let (status, message) = world.send(ACME_OPERATOR, "POST", &bulk, list(10_001)).await.refusal();
    assert!(status == 400 && message.contains("more than 10000"), "{message}");
    let (status, message) = world.send(ACME_OPERATOR, "POST", &bulk, list(10_000)).await.refusal();
    assert!(status == 422 && message.contains("Certificate 1 of the list"), "{message}");
}

#[tokio::test]
async fn many_certificates_come_in_together_or_not_at_all() {
    let world = World::new().await;
    let bulk = format!("{}/bulk", path());
    let good: Vec<Authority> = (0..3).map(|n| Authority::new(&format!("CA {n}"))).collect();
    let body = |authorities: &[&Authority]| {
        let list: Vec<Value> =
            authorities.iter().map(|a| json!({ "certInPemFormat": a.pem() })).collect();
        json!({ "certificates": list })
    };
    let odd = Authority::odd("Odd", Odd::NotCa);
    let with_odd = body(&[&good[0], &odd]);
    let (status, message) = world.send(ACME_OPERATOR, "POST", &bulk, with_odd).await.refusal();
    assert!(status == 422 && message.contains("Certificate 2"), "{message}");
    let twice = body(&[&good[0], &good[1], &good[0]]);
    let (status, message) = world.send(ACME_OPERATOR, "POST", &bulk, twice).await.refusal();
    assert!(status == 409 && message.contains("Certificate 3"), "{message}");
    let with_file = body(&[&good[0], &world.root]);
    assert_eq!(world.send(ACME_OPERATOR, "POST", &bulk, with_file).await.refusal().0, 409);
    assert!(world.registry().tenant(&TenantId::parse("acme").unwrap()).anchors.is_empty());
    let all = body(&[&good[0], &good[1], &good[2]]);
    let answer = world.send(ACME_OPERATOR, "POST", &bulk, all).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["certificates"].as_array().unwrap().len(), 3);
    let empty = json!({ "certificates": [] });
    assert_eq!(world.send(ACME_OPERATOR, "POST", &bulk, empty).await.refusal().0, 422);
    let huge = json!({ "certificates": [{ "certInPemFormat": "A".repeat(4 * 1024 * 1024) }] });
    assert_eq!(world.send(ACME_OPERATOR, "POST", &bulk, huge).await.refusal().0, 413);
}

#[tokio::test]
async fn pages_hold_every_certificate_once() {
    let world = World::new().await;
    let authorities: Vec<Authority> = (0..11).map(|n| Authority::new(&format!("{n}"))).collect();
    for authority in &authorities {
        assert_eq!(upload(&world, authority).await.status, 201);
    }
    let mut seen = Vec::new();
    let mut next = Some(format!("{}?withTotalPages=true&withTotalElements=true", path()));
    let mut pages = 0;
    while let Some(link) = next {
        let page = world.get(VIEWER, &link).await.json();
        pages += 1;
        let statistics = json!({
            "pageSize": 5, "currentPage": pages, "totalPages": 3, "totalElements": 12,
        });
        assert_eq!(page["statistics"], statistics);
        assert_eq!(page.get("prev").is_some(), pages > 1);
        let listed = page["certificates"].as_array().unwrap();
        seen.extend(listed.iter().map(|c| c["fingerprint"].as_str().unwrap().to_owned()));
        next = page["next"].as_str().map(str::to_owned);
    }
    let mut all: Vec<String> =
        authorities.iter().chain([&world.root]).map(|a| hex(&sha256(&a.der()))).collect();
    all.sort();
    assert_eq!((pages, seen), (3, all));
    let far = world.get(VIEWER, &format!("{}?currentPage=18446744073709551615", path())).await;
    assert_eq!(far.json()["certificates"], json!([]));
    for odd in ["pageSize=4", "pageSize=2001", "currentPage=0", "pageSize=x", "currentPage=-1"] {
        assert_eq!(world.get(VIEWER, &format!("{}?{odd}", path())).await.refusal().0, 400, "{odd}");
    }
    let one = world.get(VIEWER, &format!("{}?pageSize=2000", path())).await.json();
    assert_eq!(one["statistics"], json!({ "pageSize": 2000, "currentPage": 1 }));
    assert_eq!(one["certificates"].as_array().unwrap().len(), 12);
}

#[tokio::test]
async fn a_signed_code_proves_possession() {
    let world = World::new().await;
    let authority = Authority::new("Plant CA");
    assert_eq!(upload(&world, &authority).await.status, 201);
    let signed = |signature: &[u8]| json!({ "proofOfPossessionSignedVerificationCode": STANDARD.encode(signature) });
    let pop = possession(&authority, "pop");
    let early = world.send(ACME_OPERATOR, "POST", &pop, signed(b"x")).await;
    assert_eq!(early.refusal().0, 400);
    let shown =
        world.bare(ACME_OPERATOR, "POST", &possession(&authority, "verification-code")).await;
    assert_eq!(shown.status, 200);
    let shown = shown.json();
    let code = shown["proofOfPossessionUnsignedVerificationCode"].as_str().unwrap();
    assert_eq!(shown["proofOfPossessionVerificationCodeUsableUntil"], "2027-01-16T08:00:00Z");
    assert_eq!(shown["proofOfPossessionValid"], false);
    for wrong in [Authority::new("Plant CA").sign(code), authority.sign("another"), Vec::new()] {
        let answer = world.send(ACME_OPERATOR, "POST", &pop, signed(&wrong)).await;
        assert_eq!(answer.refusal().0, 400);
    }
    let garbage = json!({ "proofOfPossessionSignedVerificationCode": "%%%" });
    assert_eq!(world.send(ACME_OPERATOR, "POST", &pop, garbage).await.refusal().0, 400);
    let right = signed(&authority.sign(code));
    let answer = world.send(ACME_OPERATOR, "POST", &pop, right.clone()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let proven = answer.json();
    assert_eq!(proven["proofOfPossessionValid"], true);
    assert!(proven.get("proofOfPossessionUnsignedVerificationCode").is_none());
    assert_eq!(world.send(ACME_OPERATOR, "POST", &pop, right).await.refusal().0, 400);
}

#[tokio::test]
async fn a_code_lives_for_one_day() {
    let world = World::new().await;
    let authority = Authority::new("Plant CA");
    assert_eq!(upload(&world, &authority).await.status, 201);
    let shown =
        world.bare(ACME_OPERATOR, "POST", &possession(&authority, "verification-code")).await;
    let code =
        shown.json()["proofOfPossessionUnsignedVerificationCode"].as_str().unwrap().to_owned();
    world.clock.advance(24 * 3600 + 1);
    assert!(world.clock.now() > NOW);
    let signed = STANDARD.encode(authority.sign(&code));
    let body = json!({ "proofOfPossessionSignedVerificationCode": signed });
    let answer = world.send(ACME_OPERATOR, "POST", &possession(&authority, "pop"), body).await;
    assert_eq!(answer.refusal().0, 400);
}

#[tokio::test]
async fn possession_is_confirmed_by_hand_only_by_who_sees_every_tenant() {
    let world = World::new().await;
    let authority = Authority::new("Plant CA");
    assert_eq!(upload(&world, &authority).await.status, 201);
    let path = possession(&authority, "confirmed");
    assert_eq!(world.bare(ACME_OPERATOR, "POST", &path).await.refusal().0, 403);
    let answer = world.bare(OPERATOR, "POST", &path).await;
    assert_eq!((answer.status, &answer.json()["proofOfPossessionValid"]), (200, &json!(true)));
}
