//! What holds for every path: names, origins, limits, the format of refusals.

use axum::body::Body;
use serde_json::json;

use super::{ACME, ACME_OPERATOR, GLOBEX_OPERATOR, OPERATOR, VIEWER, World, request};

#[tokio::test]
async fn a_request_under_a_foreign_name_or_of_a_foreign_page_is_refused() {
    let world = World::new().await;
    let with = |host: &str, origin: Option<&str>| {
        let mut request = http::Request::builder()
            .method("POST")
            .uri("/edge/signing-keys/rotate")
            .header("authorization", format!("Bearer {OPERATOR}"))
            .header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(world.ask(with("evil.example.com", None)).await.refusal().0, 421);
    let foreign = with("127.0.0.1", Some("https://evil.example.com"));
    assert_eq!(world.ask(foreign).await.refusal().0, 403);
    assert!(world.keys.rotated.lock().unwrap().is_empty());
    let own = with("admin.example.com", Some("http://admin.example.com"));
    let answer = world.ask(own).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    assert!(!answer.headers.contains_key("set-cookie"));
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_preflight_is_not_answered() {
    let world = World::new().await;
    let request = http::Request::builder()
        .method("OPTIONS")
        .uri("/edge/tenants")
        .header("host", "127.0.0.1")
        .header("origin", "https://evil.example.com")
        .header("access-control-request-method", "GET");
    let answer = world.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.refusal().0, 403);
}

#[tokio::test]
async fn who_has_no_credential_learns_nothing_about_paths() {
    let world = World::new().await;
    for path in ["/no/such/path", "/edge/tenants", "/tenant/tenants/no-such/devices"] {
        let answer = world.ask(request("PATCH", path, None).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.refusal().0, 401, "{path}");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    let answer = world.get(VIEWER, "/no/such/path").await;
    assert_eq!(answer.refusal().0, 404);
}

#[tokio::test]
async fn without_credentials_the_api_is_off_and_says_so() {
    let world = World::with(Vec::new(), super::CONFIG).await;
    let (status, message) = world.get(OPERATOR, "/edge/tenants").await.refusal();
    assert_eq!(status, 403);
    assert!(message.contains("admin.credentials"), "{message}");
    let probe = http::Request::builder().uri("/healthz").body(Body::empty()).unwrap();
    assert_eq!(world.ask(probe).await.status, 200);
}

#[tokio::test]
async fn too_many_wrong_tokens_are_told_when_to_come_back() {
    let world = World::new().await;
    for _ in 0..10 {
        assert_eq!(world.get("wrong", "/edge/tenants").await.refusal().0, 401);
    }
    let answer = world.get("wrong", "/edge/tenants").await;
    assert_eq!(answer.refusal().0, 429);
    // The right one comes from the same address.
    assert_eq!(world.get(OPERATOR, "/edge/tenants").await.status, 200);
    let seconds: i64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    world.clock.advance(seconds);
    assert_eq!(world.get("wrong", "/edge/tenants").await.refusal().0, 401);
}

#[tokio::test]
async fn a_tenant_that_is_not_there_and_one_of_others_look_the_same() {
    let world = World::new().await;
    let missing = world.get(GLOBEX_OPERATOR, "/tenant/tenants/nobody/devices").await;
    let foreign = world.get(GLOBEX_OPERATOR, &format!("{ACME}/devices")).await;
    assert_eq!(missing.status, 404);
    assert_eq!((missing.status, missing.body), (foreign.status, foreign.body));
    for odd in ["%00", "..%2f", "%ff", "A", "a%20b", "'%20OR%201=1"] {
        let answer = world.get(OPERATOR, &format!("/tenant/tenants/{odd}/devices")).await;
        assert_eq!(answer.refusal().0, 404, "{odd}");
    }
}

#[tokio::test]
async fn bad_bodies_are_refused_in_the_format_of_every_refusal() {
    let world = World::new().await;
    let path = format!("{ACME}/devices/d1");
    let put = |kind: Option<&str>, body: Vec<u8>| {
        let mut request = request("PUT", &path, Some(ACME_OPERATOR));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        world.ask(request.body(Body::from(body)).unwrap())
    };
    let json = Some("application/json");
    assert_eq!(put(None, b"{}".to_vec()).await.refusal().0, 415);
    assert_eq!(put(Some("text/plain"), b"{}".to_vec()).await.refusal().0, 415);
    for body in ["", "{", "[]", "null", "{\"status\":1}", "{\"status\":\"active\"}", "{}"] {
        assert_eq!(put(json, body.into()).await.refusal().0, 400, "{body}");
    }
    let (status, message) = put(json, br#"{"stauts":"BLOCKED"}"#.to_vec()).await.refusal();
    assert!(status == 400 && message.contains("stauts"), "{message}");
    let twice = br#"{"status":"BLOCKED","status":"ACTIVE"}"#.to_vec();
    assert_eq!(put(json, twice).await.refusal().0, 400);
    assert_eq!(put(json, vec![b' '; 1024 * 1024 + 1]).await.refusal().0, 413);
    assert_eq!(put(json, "[".repeat(100_000).into_bytes()).await.refusal().0, 400);
    let long = format!("{{\"{}\":1}}", "x".repeat(100_000));
    assert!(put(json, long.into_bytes()).await.refusal().1.len() < 500);
    let vendor = Some("application/vnd.com.nsn.cumulocity.device+json; charset=UTF-8");
    assert_eq!(put(vendor, br#"{"status":"BLOCKED"}"#.to_vec()).await.refusal().0, 404);
}

#[tokio::test]
async fn a_list_is_no_object_at_any_place_of_a_body() {
    let world = World::new().await;
    let device = format!("{ACME}/devices/m1");
    let pins = format!("{device}/pins");
    let pin = json!({ "sha256": "ab".repeat(32) });
    assert_eq!(world.send(OPERATOR, "POST", &pins, pin).await.status, 201);
    let option = format!("{ACME}/options/oauth.internal/device-token.lifespan.seconds");
    let certificates = format!("{ACME}/trusted-certificates");
    let bulk = format!("{certificates}/bulk");
    let crl = format!("{certificates}/settings/crl");
    let pem = super::mint::Authority::new("Another root").pem();
    for (method, path, body) in [
        ("PUT", &device, json!(["BLOCKED"])),
        ("POST", &pins, json!([null, "cd".repeat(32), null])),
        ("PUT", &option, json!([600])),
        ("POST", &certificates, json!([pem, "Name"])),
        ("POST", &bulk, json!([[{ "certInPemFormat": pem }]])),
        ("POST", &bulk, json!({ "certificates": [[pem]] })),
        ("PUT", &crl, json!([[{ "serialNumberInHex": "01" }]])),
        ("PUT", &crl, json!({ "crls": [["01", "2026-01-01"]] })),
        ("PUT", &crl, json!({ "crls": [["01"]] })),
        ("POST", &"/edge/signing-keys/rotate".to_owned(), json!([])),
        ("POST", &"/edge/signing-keys/rotate".to_owned(), json!(["ES256"])),
    ] {
        let (status, message) = world.send(OPERATOR, method, path, body.clone()).await.refusal();
        assert!(status == 400 && message.contains("an object"), "{path} {body}: {message}");
    }
    let kept = world.get(OPERATOR, &device).await.json();
    assert_eq!((&kept["status"], &kept["pins"]), (&json!("ACTIVE"), &json!(["ab".repeat(32)])));
    let trail = world.get(OPERATOR, "/edge/audit").await.json();
    assert_eq!(trail["records"].as_array().unwrap().len(), 1, "{trail}");
}

#[tokio::test]
async fn unknown_parameters_of_a_query_are_refused_by_name() {
    let world = World::new().await;
    for path in [
        format!("{ACME}/devices?stauts=BLOCKED"),
        format!("{ACME}/trusted-certificates?pagesize=5"),
        format!("{ACME}/trusted-certificates/settings/crl?tenant=acme"),
        "/edge/audit?tenants=acme".to_owned(),
    ] {
        let (status, message) = world.get(OPERATOR, &path).await.refusal();
        let name = path.split(['?', '=']).nth(1).unwrap();
        assert!(status == 400 && message.contains(name), "{path}: {status} {message}");
    }
    let twice = world.get(OPERATOR, &format!("{ACME}/devices?limit=1&limit=2")).await;
    assert_eq!(twice.refusal().0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::new().await;
    let request = request("PUT", &format!("{ACME}/devices/d1"), Some(OPERATOR))
        .header("content-type", "application/json")
        .body(Body::new(Never))
        .unwrap();
    assert_eq!(world.ask(request).await.refusal().0, 408);
}

/// A body of which nothing ever comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_trail_under_its_principal() {
    let world = World::new().await;
    let device = format!("{ACME}/devices/d1");
    let pin = json!({ "sha256": "ab".repeat(32) });
    assert_eq!(world.send(ACME_OPERATOR, "POST", &format!("{device}/pins"), pin).await.status, 201);
    let block = json!({ "status": "BLOCKED" });
    assert_eq!(world.send(OPERATOR, "PUT", &device, block).await.status, 200);
    let trail = world.get(OPERATOR, "/edge/audit").await.json();
    let records = trail["records"].as_array().unwrap();
    assert_eq!(records.len(), 2, "{trail}");
    assert!(records[0]["actor"].as_str().unwrap().contains("operator"));
    assert!(records[1]["actor"].as_str().unwrap().contains("acme-operator"));
    assert!(records[1]["actor"].as_str().unwrap().contains("192.0.2.1"), "{trail}");
    assert_eq!(records[0]["tenant"], "acme");
    assert_eq!(records[0]["time"], "2027-01-15T08:00:00Z");
}
