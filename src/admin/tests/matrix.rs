//! Who may do what: every method of every path, asked by every kind of principal.

use std::collections::BTreeSet;

use super::description::description;
use super::{ACME_OPERATOR, ACME_VIEWER, GLOBEX_OPERATOR, OPERATOR, VIEWER, World, request};
use axum::body::Body;

const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The statuses for: nobody, a wrong token, a viewer, acme's viewer, acme's operator, globex'
/// operator, an operator. Requests are empty and things are not there, so an operator is
/// answered 4xx; but never 401 or 403.
const MATRIX: &[(&str, &str, [u16; 7])] = &[
    ("GET", "/metrics", [200; 7]),
    ("GET", "/healthz", [200; 7]),
    ("GET", "/readyz", [200; 7]),
    ("GET", "/openapi.json", [401, 401, 200, 200, 200, 200, 200]),
    ("GET", "/tenant/tenants/{tenant}/trusted-certificates", [401, 401, 200, 200, 200, 404, 200]),
    ("POST", "/tenant/tenants/{tenant}/trusted-certificates", [401, 401, 403, 403, 415, 404, 415]),
    (
        "POST",
        "/tenant/tenants/{tenant}/trusted-certificates/bulk",
        [401, 401, 403, 403, 415, 404, 415],
    ),
    (
        "GET",
        "/tenant/tenants/{tenant}/trusted-certificates/{fingerprint}",
        [401, 401, 404, 404, 404, 404, 404],
    ),
    (
        "PUT",
        "/tenant/tenants/{tenant}/trusted-certificates/{fingerprint}",
        [401, 401, 403, 403, 415, 404, 415],
    ),
    (
        "DELETE",
        "/tenant/tenants/{tenant}/trusted-certificates/{fingerprint}",
        [401, 401, 403, 403, 404, 404, 404],
    ),
    (
        "POST",
        "/tenant/tenants/{tenant}/trusted-certificates-pop/{fingerprint}/verification-code",
        [401, 401, 403, 403, 404, 404, 404],
    ),
    (
        "POST",
        "/tenant/tenants/{tenant}/trusted-certificates-pop/{fingerprint}/pop",
        [401, 401, 403, 403, 415, 404, 415],
    ),
    (
        "POST",
        "/tenant/tenants/{tenant}/trusted-certificates-pop/{fingerprint}/confirmed",
        [401, 401, 403, 403, 403, 404, 404],
    ),
    (
        "GET",
        "/tenant/tenants/{tenant}/trusted-certificates/settings/crl",
        [401, 401, 200, 200, 200, 404, 200],
    ),
    (
        "PUT",
        "/tenant/tenants/{tenant}/trusted-certificates/settings/crl",
        [401, 401, 403, 403, 415, 404, 415],
    ),
    // The credential says which tenant; who sees several names one by `?tenant=`.
    ("GET", "/tenant/trusted-certificates/settings/crl", [401, 401, 400, 200, 200, 200, 400]),
    ("PUT", "/tenant/trusted-certificates/settings/crl", [401, 401, 403, 403, 415, 415, 400]),
    ("GET", "/tenant/tenants/{tenant}/devices", [401, 401, 200, 200, 200, 404, 200]),
    ("GET", "/tenant/tenants/{tenant}/devices/{device}", [401, 401, 404, 404, 404, 404, 404]),
    ("PUT", "/tenant/tenants/{tenant}/devices/{device}", [401, 401, 403, 403, 415, 404, 415]),
    ("DELETE", "/tenant/tenants/{tenant}/devices/{device}", [401, 401, 403, 403, 404, 404, 404]),
    ("POST", "/tenant/tenants/{tenant}/devices/{device}/pins", [401, 401, 403, 403, 415, 404, 415]),
    (
        "DELETE",
        "/tenant/tenants/{tenant}/devices/{device}/pins/{sha256}",
        [401, 401, 403, 403, 404, 404, 404],
    ),
    ("GET", "/tenant/tenants/{tenant}/options", [401, 401, 200, 200, 200, 404, 200]),
    (
        "GET",
        "/tenant/tenants/{tenant}/options/{category}/{key}",
        [401, 401, 404, 404, 404, 404, 404],
    ),
    (
        "PUT",
        "/tenant/tenants/{tenant}/options/{category}/{key}",
        [401, 401, 403, 403, 415, 404, 415],
    ),
    (
        "DELETE",
        "/tenant/tenants/{tenant}/options/{category}/{key}",
        [401, 401, 403, 403, 404, 404, 404],
    ),
    ("POST", "/devicecontrol/bulkNewDeviceRequests", [401, 401, 403, 403, 415, 415, 415]),
    ("POST", "/devicecontrol/newDeviceRequests", [401, 401, 403, 403, 422, 422, 422]),
    ("GET", "/edge/tenants", [401, 401, 200, 200, 200, 200, 200]),
    ("GET", "/edge/audit", [401, 401, 200, 200, 200, 200, 200]),
    ("GET", "/edge/signing-keys", [401, 401, 200, 200, 200, 200, 200]),
    ("POST", "/edge/signing-keys/rotate", [401, 401, 403, 403, 403, 403, 200]),
    ("DELETE", "/edge/signing-keys/{kid}", [401, 401, 403, 403, 403, 403, 404]),
];

fn filled(path: &str) -> String {
    path.replace("{tenant}", "acme")
        .replace("{fingerprint}", DIGEST)
        .replace("{sha256}", DIGEST)
        .replace("{device}", "no-such-device")
        .replace("{category}", "oauth.internal")
        .replace("{key}", "device-token.lifespan.seconds")
        .replace("{kid}", "no-such-key")
}

#[test]
fn the_matrix_holds_every_method_of_the_description() {
    let description = description();
    let mut described = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            described.insert((method.to_ascii_uppercase(), path.clone()));
        }
    }
    let tested: BTreeSet<(String, String)> =
        MATRIX.iter().map(|(method, path, _)| ((*method).into(), (*path).into())).collect();
    assert_eq!(tested.len(), MATRIX.len());
    assert_eq!(tested, described);
}

#[tokio::test]
async fn every_principal_may_do_what_the_matrix_says_and_nothing_else() {
    let world = World::new().await;
    let tokens = [
        None,
        Some("wrong-token"),
        Some(VIEWER),
        Some(ACME_VIEWER),
        Some(ACME_OPERATOR),
        Some(GLOBEX_OPERATOR),
        Some(OPERATOR),
    ];
    let description = description();
    let mut wrong = Vec::new();
    for (method, path, expected) in MATRIX {
        for (token, expected) in tokens.iter().zip(expected) {
            // Ten wrong tokens of a minute are more than anybody may present.
            world.clock.advance(60);
            let request = request(method, &filled(path), *token).body(Body::empty()).unwrap();
            let answer = world.ask(request).await;
            if answer.status != *expected {
                wrong.push(format!(
                    "{method} {path} by {token:?}: {}, not {expected}",
                    answer.status
                ));
            }
            let responses = &description["paths"][*path][method.to_ascii_lowercase()]["responses"];
            if !responses[answer.status.to_string()].is_object() {
                wrong.push(format!("{method} {path}: {} is not described", answer.status));
            }
            if answer.status >= 400 {
                answer.refusal();
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn other_methods_are_answered_with_those_that_are_allowed() {
    let world = World::new().await;
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    for path in MATRIX.iter().map(|(_, path, _)| *path).collect::<BTreeSet<&str>>() {
        let mut allowed: BTreeSet<&str> =
            MATRIX.iter().filter(|(_, of, _)| *of == path).map(|(method, _, _)| *method).collect();
        if allowed.contains("GET") {
            allowed.insert("HEAD");
        }
        for method in methods.iter().filter(|method| !allowed.contains(*method)) {
            let answer = world.bare(OPERATOR, method, &filled(path)).await;
            assert_eq!(answer.refusal().0, 405, "{method} {path}");
            let told = answer.headers["allow"].to_str().unwrap();
            let told: BTreeSet<&str> = told.split(',').map(str::trim).collect();
            assert_eq!(told, allowed, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn head_is_answered_as_get_without_a_body() {
    let world = World::new().await;
    for (_, path, _) in MATRIX.iter().filter(|(method, _, _)| *method == "GET") {
        let get = world.get(ACME_OPERATOR, &filled(path)).await;
        let head = world.bare(ACME_OPERATOR, "HEAD", &filled(path)).await;
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty(), "{path}");
        assert_eq!(head.headers.get("content-type"), get.headers.get("content-type"), "{path}");
    }
}
