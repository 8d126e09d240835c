//! Edge and upstream never disagree about what is a request for a token.

use crate::world::{TOKEN_PATH, World};

use super::{get, path_of, with_optional_certificate};

/// Paths that some server reads as the token endpoint's.
const DISGUISES: [&str; 47] = [
    "//devicecontrol/deviceAccessToken",
    "/devicecontrol//deviceAccessToken",
    "/devicecontrol/./deviceAccessToken",
    "/./devicecontrol/deviceAccessToken",
    "/x/../devicecontrol/deviceAccessToken",
    "/../devicecontrol/deviceAccessToken",
    "/devicecontrol/x/../deviceAccessToken",
    "/devicecontrol/deviceAccessToken/",
    "/devicecontrol/deviceAccessToken//",
    "/devicecontrol/deviceAccessToken/.",
    "/devicecontrol/deviceAccessToken/x/..",
    "/devicecontrol/%64eviceAccessToken",
    "/%64%65vicecontrol/deviceAccessToken",
    "/devicecontrol%2fdeviceAccessToken",
    "/devicecontrol%2FdeviceAccessToken",
    "/devicecontrol%252fdeviceAccessToken",
    "/devicecontrol%25252fdeviceAccessToken",
    "/devicecontrol/%252564eviceAccessToken",
    "/%2e/devicecontrol/deviceAccessToken",
    "/%2e%2e/devicecontrol/deviceAccessToken",
    "/devicecontrol/%2E/deviceAccessToken",
    "/x/..%2fdevicecontrol/deviceAccessToken",
    "/devicecontrol;x=y/deviceAccessToken",
    "/devicecontrol/;/deviceAccessToken",
    "/devicecontrol/deviceAccessToken;",
    "/devicecontrol/deviceAccessToken;jsessionid=1",
    "/devicecontrol/deviceAccessToken%3bx",
    "/;x/devicecontrol/deviceAccessToken",
    "/..;/devicecontrol/deviceAccessToken",
    "/devicecontrol\\deviceAccessToken",
    "\\devicecontrol\\deviceAccessToken",
    "/devicecontrol%5cdeviceAccessToken",
    "/devicecontrol/deviceAccessToken%00",
    "/devicecontrol/deviceAccessToken%00.css",
    "/devicecontrol/deviceAccessToken%3Fx",
    "/devicecontrol/deviceAccessToken%23x",
    "/devicecontrol/deviceAccessToken%20",
    "/devicecontrol/%20deviceAccessToken",
    "/devicecontrol/deviceAccessToken%09",
    "/devicecontrol/deviceAccessToken%0d%0a",
    "/devicecontrol%c0%afdeviceAccessToken",
    "/devicecontrol%e0%80%afdeviceAccessToken",
    "/devicecontrol%f0%80%80%afdeviceAccessToken",
    "/%c0%ae%c0%ae/devicecontrol/deviceAccessToken",
    "/DEVICECONTROL/DEVICEACCESSTOKEN",
    "/devicecontrol/deviceaccesstoken",
    "/Devicecontrol%2fDeviceAccessToken",
];

#[test]
fn a_disguised_token_path_never_reaches_the_upstream() {
    let world = World::start();
    for path in DISGUISES {
        for method in ["POST", "GET"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\r\n"
            );
            let mut connection = world.acme_client().connect().unwrap();
            let response = connection.exchange(request.as_bytes()).unwrap();
            assert_eq!(response.status, 400, "{method} {path}");
            assert!(world.upstream.requests().is_empty(), "{method} {path}");
        }
    }
}

#[test]
fn targets_in_raw_bytes_or_other_forms_are_read_alike_or_refused() {
    let world = World::start();
    for target in [
        &b"/devicecontrol\xc0\xafdeviceAccessToken"[..],
        b"/devicecontrol/deviceAccessToken\xc0\x80",
        b"/devicecontrol/deviceAccessToken\x00",
        b"/devicecontrol/deviceAccessToken\x0b",
        b"/devicecontrol/deviceAccessToken\x09",
        b"/devicecontrol/deviceAccessToken\xff",
        b"devicecontrol/deviceAccessToken",
        b"./devicecontrol/deviceAccessToken",
        b"///devicecontrol/deviceAccessToken",
        b"//acme.example.com/devicecontrol/deviceAccessToken",
        b"///acme.example.com/devicecontrol/deviceAccessToken",
        b"/\\acme.example.com/devicecontrol/deviceAccessToken",
        b"https:/devicecontrol/deviceAccessToken",
        b"https:devicecontrol/deviceAccessToken",
        b"https:///devicecontrol/deviceAccessToken",
        b"https://acme.example.com//devicecontrol/deviceAccessToken",
        b"https://acme.example.com\\devicecontrol/deviceAccessToken",
        b"https://acme.example.com/devicecontrol/%64eviceAccessToken",
        b"ftp://acme.example.com/devicecontrol/deviceAccessToken/",
        b"/#/../devicecontrol/deviceAccessToken",
        b"?/../devicecontrol/deviceAccessToken",
        b"*/devicecontrol/deviceAccessToken",
        b"/devicecontrol/deviceAccessToken#/inventory",
    ] {
        let mut request = b"POST ".to_vec();
        request.extend(target);
        request.extend(b" HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\r\n");
        let mut connection = world.acme_client().connect().unwrap();
        let status = connection.exchange(&request).unwrap().status;
        let target = String::from_utf8_lossy(target);
        // A few of them are the endpoint by the rules (a fragment is no part of a target), or
        // nobody's; what matters is that no upstream reads one as the endpoint.
        for request in world.upstream.requests() {
            assert!(!path_of(&request).to_lowercase().contains("token"), "{target}: {request:?}");
        }
        assert!(matches!(status, 200 | 400 | 404 | 405 | 421), "{target}: {status}");
    }
}

#[test]
fn the_endpoint_in_absolute_form_or_with_a_query_is_the_endpoint() {
    let world = World::start();
    for target in [
        format!("https://acme.example.com{TOKEN_PATH}"),
        format!("http://acme.example.com{TOKEN_PATH}"),
        format!("{TOKEN_PATH}?"),
        format!("{TOKEN_PATH}?x=/inventory"),
    ] {
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\r\n"
        );
        let mut connection = world.acme_client().connect().unwrap();
        let response = connection.exchange(request.as_bytes()).unwrap();
        assert_eq!(response.access_token().split('.').count(), 3, "{target}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn no_method_but_post_gets_a_token() {
    let world = World::start();
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "Post", "POSTX"] {
        let request = format!(
            "{method} {TOKEN_PATH} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\r\n"
        );
        let mut connection = world.acme_client().connect().unwrap();
        let response = connection.exchange(request.as_bytes()).unwrap();
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("POST"), "{method}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_method_override_changes_nothing_at_the_edge() {
    let world = World::start();
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"] {
        let mut connection = world.acme_client().connect().unwrap();
        let lines = format!("{name}: POST\r\n");
        let request = get(&format!("{TOKEN_PATH}?_method=POST"), &lines);
        assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 405, "{name}");
        let response = connection.token(&format!("{name}: GET\r\n")).unwrap();
        assert_eq!(response.status, 200, "{name}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_path_override_does_not_bring_a_token_request_to_the_upstream() {
    let world = World::start();
    for name in ["X-Original-URL", "X-Rewrite-URL", "x_original_url", "X-Original-Uri"] {
        for path in [TOKEN_PATH, "//devicecontrol/deviceAccessToken?x=y"] {
            let mut connection = world.acme_client().connect().unwrap();
            let request = get("/inventory", &format!("{name}: {path}\r\n"));
            let status = connection.exchange(request.as_bytes()).unwrap().status;
            let requests = world.upstream.requests();
            assert!(
                requests.iter().all(|r| !r.head.contains("deviceAccessToken")),
                "{name}: {requests:?}"
            );
            assert_eq!(status, 400, "{name}");
        }
    }
}

#[test]
fn the_keys_are_public_and_their_path_is_taken_to_the_letter() {
    let world = with_optional_certificate(|_| {});
    let anonymous = world.client("acme.example.com");
    let response = anonymous.get("/.well-known/jwks.json").unwrap();
    assert_eq!(response.json()["keys"][0]["kid"], "k1");
    for path in ["/.well-known/JWKS.json", "/.well-known//jwks.json", "/.well-known/jwks%2ejson"] {
        assert_eq!(anonymous.get(path).unwrap().status, 400, "{path}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn paths_that_only_resemble_go_to_the_upstream_as_they_came() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    for path in [
        "/devicecontrol/deviceAccessTokens",
        "/devicecontrol/operations?next=/devicecontrol/deviceAccessToken",
        "/a%2fb;c//d/./e",
        "/service/devicecontrol/deviceAccessToken",
        "/inventory/%E2%82%AC?q=%00",
    ] {
        let response = connection.get(path).unwrap();
        assert_eq!(response.text(), format!("GET {path} HTTP/1.1"));
    }
}
