//! OAuth 2.0 for devices: client credentials with the certificate (RFC 6749 section 4.4,
//! RFC 8705) and the metadata (RFC 8414), where a tenant turns them on.

use openssl::sha::sha256;
use portcullis::registry::DeviceStatus;
use serde_json::{Value, json};

use crate::http2::frames::{DATA, END_STREAM, H2, frame, get, post};
use crate::jwt::{Jwt, encoded, jwks};
use crate::registry::set_status;
use crate::world::{Client, Connection, Failure, NOW, Response, TOKEN_PATH, World};

const TOKEN: &str = "/oauth/token";
const METADATA: &str = "/.well-known/oauth-authorization-server";
const FORM: &str = "application/x-www-form-urlencoded";
const ON: &str = "tokens: { oauth: true }";

fn with_oauth() -> World {
    World::with(|_, config| config.acme(ON))
}

fn good_form(device: &str) -> String {
    format!("grant_type=client_credentials&client_id={device}")
}

/// A token request; `lines`: further header lines.
fn asked(connection: &mut Connection, kind: &str, body: &str, lines: &str) -> Response {
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    let length = body.len();
    let request = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: acme.example.com\r\n{kind}{lines}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    connection.exchange(request.as_bytes()).unwrap()
}

/// The access token of acme's device.
#[track_caller]
pub fn access_token(client: &Client, device: &str) -> String {
    let response = asked(&mut client.connect().unwrap(), FORM, &good_form(device), "");
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["access_token"].as_str().unwrap().to_owned()
}

/// RFC 6749 section 5.2.
#[track_caller]
fn refused(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    let body = response.json();
    assert_eq!(body["error"], error, "{response:?}");
    let description = body["error_description"].as_str().unwrap();
    assert!(!description.contains("device-1") && !description.contains("acme"), "{description}");
}

#[test]
fn without_oauth_its_paths_are_the_platforms() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let response = asked(&mut connection, FORM, &good_form("acme-device-1"), "");
    assert_eq!(response.text(), "POST /oauth/token HTTP/1.1");
    for path in [METADATA, TOKEN, "/OAuth/Token", "//oauth/token", "/oauth%2ftoken"] {
        let response = connection.get(path).unwrap();
        assert_eq!(response.text(), format!("GET {path} HTTP/1.1"), "{path}");
    }
    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 6);
    assert_eq!(requests[0].body, good_form("acme-device-1").as_bytes());
}

#[test]
fn where_one_tenant_has_oauth_the_next_one_has_not() {
    let world = with_oauth();
    assert_eq!(
        world.acme_client().get(METADATA).unwrap().json()["token_endpoint"],
        "https://acme.example.com/oauth/token"
    );
    assert!(world.upstream.requests().is_empty());
    assert_eq!(
        world.globex_client().get(METADATA).unwrap().text(),
        format!("GET {METADATA} HTTP/1.1")
    );
}

#[test]
fn a_device_gets_an_access_token_that_is_bound_to_its_leaf() {
    let world = with_oauth();
    let client = world.acme_client();
    let mut connection = client.connect().unwrap();
    let form = good_form("acme-device-1");
    let response = asked(&mut connection, FORM, &form, "");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("pragma"), Some("no-cache"));
    let body = response.json();
    let members: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["access_token", "expires_in", "token_type"]);
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(3_600)));

    let token = body["access_token"].as_str().unwrap();
    let jwt = Jwt::parse(token);
    assert!(jwt.verifies(&jwks(&client)));
    let digest = encoded(sha256(&world.acme.device.der));
    assert_eq!(jwt.claims["cnf"], json!({ "x5t#S256": digest }));
    assert_eq!(jwt.claims["iss"], "https://acme.example.com");
    assert_eq!(jwt.claims["aud"], "acme.example.com");
    assert_eq!(jwt.claims["sub"], "device_acme-device-1");
    assert_eq!(jwt.claims["client_id"], "acme-device-1");
    assert_eq!(jwt.claims["ten"], "acme");
    assert_eq!(jwt.claims["exp"], NOW + 3_600);

    // The platform's endpoint has a token of its own, with the platform's issuer and unbound.
    let of_the_platform = Jwt::of(&client).claims;
    assert_eq!(of_the_platform["iss"], "acme.example.com");
    assert_eq!((of_the_platform.get("cnf"), of_the_platform.get("client_id")), (None, None));

    // Until half of its life is over it is given again, with what is left of its life.
    world.clock.advance(1_799);
    let again = asked(&mut connection, FORM, &form, "").json();
    assert_eq!((&again["access_token"], &again["expires_in"]), (&json!(token), &json!(1_801)));
    world.clock.advance(1);
    let new = asked(&mut connection, FORM, &form, "").json();
    assert_ne!(new["access_token"], token);
    assert_eq!(new["expires_in"], 3_600);

    // Another leaf of the device is bound to its own.
    let renewed = world.acme.another("acme-device-1");
    let renewed_client = client.identity(&[&renewed, &world.acme.issuing]);
    let claims = Jwt::parse(&access_token(&renewed_client, "acme-device-1")).claims;
    assert_eq!(claims["cnf"], json!({ "x5t#S256": encoded(sha256(&renewed.der)) }));
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn what_is_no_request_for_client_credentials_is_refused_as_oauth_says() {
    let world = with_oauth();
    let mut connection = world.acme_client().connect().unwrap();
    let good = good_form("acme-device-1");
    let grant = "grant_type=client_credentials";
    for (body, status, error) in [
        ("", 400, "invalid_request"),
        (grant, 400, "invalid_request"),
        ("grant_type=client_credentials&client_id=", 400, "invalid_request"),
        ("client_id=acme-device-1", 400, "invalid_request"),
        ("grant_type=&client_id=acme-device-1", 400, "invalid_request"),
        ("grant_type=password&client_id=acme-device-1", 400, "unsupported_grant_type"),
        ("grant_type=Client_Credentials&client_id=acme-device-1", 400, "unsupported_grant_type"),
        ("grant_type=client_credentials&client_id=acme-device-2", 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=device_acme-device-1", 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=ACME-DEVICE-1", 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=acme-device-1%20", 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=acme-device-1%00", 401, "invalid_client"),
        (&format!("{good}&client_id=acme-device-1"), 400, "invalid_request"),
        (&format!("{good}&client_id=acme-device-2"), 400, "invalid_request"),
        (&format!("{good}&{grant}"), 400, "invalid_request"),
        (&format!("{good}&client_secret=x"), 400, "invalid_request"),
        (&format!("{good}&client_assertion=x"), 400, "invalid_request"),
        (&format!("{good}&scope=admin"), 400, "invalid_scope"),
        (&format!("{good};scope=x"), 401, "invalid_client"),
    ] {
        let response = asked(&mut connection, FORM, body, "");
        refused(&response, status, error);
    }
    for kind in ["", "application/json", "multipart/form-data; boundary=x", "text/plain"] {
        refused(&asked(&mut connection, kind, &good, ""), 400, "invalid_request");
    }
    for lines in ["Authorization: Basic eDp5\r\n", "Authorization: Bearer x\r\n"] {
        refused(&asked(&mut connection, FORM, &good, lines), 400, "invalid_request");
    }
    // What is not known is ignored, and a form may be written in several ways.
    for (kind, body) in [
        (FORM, format!("{good}&scope=&resource=a&resource=b")),
        ("Application/X-WWW-Form-URLEncoded ; charset=UTF-8", good.clone()),
        (FORM, "client_id=acme%2Ddevice%2d1&grant_type=client%5Fcredentials".to_owned()),
    ] {
        let response = asked(&mut connection, kind, &body, "");
        assert_eq!(response.status, 200, "{kind} {body}: {response:?}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_client_without_a_certificate_is_an_invalid_one() {
    let world = World::with(|_, config| {
        config.acme("client_certificate: optional");
        config.acme(ON);
    });
    let anonymous = world.client("acme.example.com");
    for form in [good_form("acme-device-1"), "garbage".to_owned()] {
        let mut connection = anonymous.connect().unwrap();
        refused(&asked(&mut connection, FORM, &form, ""), 401, "invalid_client");
    }
    // The metadata is for everybody.
    assert_eq!(anonymous.get(METADATA).unwrap().status, 200);
    assert!(world.upstream.requests().is_empty());
}

/// Whoever is slow to send the form is judged by what holds when it is there.
#[test]
fn a_device_that_is_blocked_while_it_sends_its_form_gets_no_access_token() {
    let world = with_oauth();
    let client = world.acme_client();
    access_token(&client, "acme-device-1");
    let form = good_form("acme-device-1");
    let (early, late) = form.split_at(10);
    let mut connection = client.connect().unwrap();
    let head = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Type: {FORM}\r\n\
         Content-Length: {}\r\n\r\n{early}",
        form.len()
    );
    connection.send(head.as_bytes()).unwrap();
    // By the time that others have been served, the edge waits for the rest of the form.
    for _ in 0..20 {
        access_token(&client, "acme-device-1");
    }
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    connection.send(late.as_bytes()).unwrap();
    refused(&connection.response().unwrap(), 403, "unauthorized_client");
}

#[test]
fn a_blocked_device_and_one_that_is_not_registered_get_no_access_token() {
    let world = with_oauth();
    let client = world.acme_client();
    access_token(&client, "acme-device-1");
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    let form = good_form("acme-device-1");
    assert_eq!(asked(&mut client.connect().unwrap(), FORM, &form, "").status, 403);
    let world = World::with(|_, config| {
        config.acme = "trusted_certificates: [{ file: acme-root.pem }]".into();
        config.acme(ON);
    });
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(asked(&mut connection, FORM, &form, "").status, 403);
}

#[test]
fn the_oauth_endpoints_take_their_methods_only() {
    let world = with_oauth();
    let mut connection = world.acme_client().connect().unwrap();
    let mut exchange = |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: acme.example.com\r\n\r\n");
        connection.exchange(request.as_bytes()).unwrap()
    };
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "post"] {
        let response = exchange(method, TOKEN);
        assert_eq!((response.status, response.header("allow")), (405, Some("POST")), "{method}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = exchange(method, METADATA);
        assert_eq!(
            (response.status, response.header("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
    assert_eq!(exchange("GET", "/.well-known/oauth-authorization-server?x=y").status, 200);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn the_metadata_tells_where_everything_is_under_the_configured_issuer() {
    for (issuer, tokens) in [
        ("https://acme.example.com", "oauth: true"),
        (
            "https://acme.example.com:8443",
            "oauth: true, oauth_issuer: \"https://{server_name}:8443\"",
        ),
        ("https://id.example.net", "oauth: true, oauth_issuer: \"https://id.example.net\""),
    ] {
        let world = World::with(|_, config| config.acme(&format!("tokens: {{ {tokens} }}")));
        let client = world.acme_client();
        let response = client.get(METADATA).unwrap();
        assert_eq!(response.header("content-type"), Some("application/json"));
        let metadata = response.json();
        assert_eq!(metadata["issuer"], issuer);
        assert_eq!(metadata["token_endpoint"], format!("{issuer}/oauth/token"));
        assert_eq!(metadata["grant_types_supported"], json!(["client_credentials"]));
        assert_eq!(metadata["response_types_supported"], json!([]));
        assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], true);
        let ways = metadata["token_endpoint_auth_methods_supported"].as_array().unwrap();
        assert!(ways.contains(&"tls_client_auth".into()), "{metadata}");
        // What it names is there, and tokens are of that issuer.
        let keys = metadata["jwks_uri"].as_str().unwrap().strip_prefix(issuer).unwrap();
        let keys = client.get(keys).unwrap().json();
        let jwt = Jwt::parse(&access_token(&client, "acme-device-1"));
        assert_eq!(jwt.claims["iss"], issuer);
        assert!(jwt.verifies(&keys));
    }
}

/// RFC 8414 section 3.1 has the metadata of such an issuer elsewhere, and its endpoints would
/// be where the edge has none.
#[test]
fn an_issuer_that_is_no_https_origin_is_refused() {
    for issuer in [
        "http://acme.example.com",
        "acme.example.com",
        "https://acme.example.com/",
        "https://acme.example.com/base",
        "https://acme.example.com?x",
        "https://acme.example.com#x",
        "https://user@acme.example.com",
    ] {
        let started = World::try_with(|_, config| {
            config.acme(&format!("tokens: {{ oauth: true, oauth_issuer: \"{issuer}\" }}"));
        });
        let error = started.err().unwrap_or_else(|| panic!("{issuer} is taken")).to_string();
        assert!(error.contains("issuer"), "{issuer}: {error}");
    }
}

#[test]
fn oauth_over_http2_is_oauth() {
    let world = with_oauth();
    let client = world.acme_client();
    let first = access_token(&client, "acme-device-1");
    let mut h2 = H2::connect(&client);
    let mut ask = |kind: &str, body: &str| {
        let fields = [&post(TOKEN)[..], &[("content-type", kind)]].concat();
        let stream = h2.request(&fields, false);
        // The form comes in two frames.
        let (start, rest) = body.split_at(body.len() / 2);
        h2.send(&frame(DATA, 0, stream, start.as_bytes())).unwrap();
        h2.send(&frame(DATA, END_STREAM, stream, rest.as_bytes())).unwrap();
        let answer = h2.answer(stream);
        (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap())
    };
    let (status, body) = ask(FORM, &good_form("acme-device-1"));
    assert_eq!((status, &body["access_token"]), (200, &json!(first)));
    let (status, body) = ask(FORM, &good_form("acme-device-2"));
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")));
    let (status, body) = ask("application/json", &good_form("acme-device-1"));
    assert_eq!((status, &body["error"]), (400, &json!("invalid_request")));
    // The streams of the connection are not taken down by a refusal.
    assert_eq!(h2.get(TOKEN).status, 405);
    assert_eq!(h2.get(METADATA).status, 200);
    let stream = h2.request(&get("/inventory"), true);
    assert_eq!(h2.answer(stream).status, 200);
    assert_eq!(world.upstream.requests().len(), 1);
}

#[test]
fn a_form_that_is_too_large_is_refused_and_never_taken_for_a_request() {
    let world = with_oauth();
    let form = good_form("acme-device-1");
    // As much as is allowed.
    let mut connection = world.acme_client().connect().unwrap();
    let padding = 8 * 1_024 - form.len() - "&x=".len();
    let most = format!("{form}&x={}", "y".repeat(padding));
    assert_eq!(asked(&mut connection, FORM, &most, "").status, 200);

    let head =
        format!("POST {TOKEN} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Type: {FORM}\r\n");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: acme.example.com\r\n\r\n".repeat(200);
    let chunked = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    for rest in [
        format!("Content-Length: {}\r\n\r\n{most}z", most.len() + 1),
        format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{chunked}"),
    ] {
        let mut connection = world.acme_client().connect().unwrap();
        let response = connection.exchange(format!("{head}{rest}").as_bytes()).unwrap();
        assert_eq!(response.status, 413, "{response:?}");
        assert_eq!(connection.until_closed(), Failure::Closed);
    }
    let mut h2 = H2::connect(&world.acme_client());
    let fields = [&post(TOKEN)[..], &[("content-type", FORM)]].concat();
    let stream = h2.request(&fields, false);
    h2.send(&frame(DATA, 0, stream, form.as_bytes())).unwrap();
    h2.send(&frame(DATA, END_STREAM, stream, &[b'&'; 8 * 1_024])).unwrap();
    assert_eq!(h2.answer(stream).status, 413);
    assert!(world.upstream.requests().is_empty());
}

/// A request that only looks like one of the edge's own is refused by it, so that edge and
/// platform never read one differently.
#[test]
fn disguised_oauth_paths_never_reach_the_upstream() {
    let world = with_oauth();
    let ways: [fn(&str) -> String; 12] = [
        |path| format!("/{path}"),
        |path| format!("{path}/"),
        |path| path.to_ascii_uppercase(),
        |path| format!("/x/..{path}"),
        |path| format!("/.{path}"),
        |path| path.replacen('o', "%6f", 1),
        |path| path.replacen('o', "%256f", 1),
        |path| format!("/{}", path[1..].replacen('/', "%2f", 1)),
        |path| format!("/{}", path[1..].replacen('/', ";x=y/", 1)),
        |path| format!("/{}", path[1..].replacen('/', "\\", 1)),
        |path| format!("{path};x"),
        |path| format!("{path}%00"),
    ];
    for path in [TOKEN, METADATA] {
        for disguise in ways.map(|way| way(path)) {
            for method in ["GET", "POST"] {
                let mut connection = world.acme_client().connect().unwrap();
                let request = format!(
                    "{method} {disguise} HTTP/1.1\r\nHost: acme.example.com\r\n\
                     Content-Length: 0\r\n\r\n"
                );
                let response = connection.exchange(request.as_bytes()).unwrap();
                assert_eq!(response.status, 400, "{method} {disguise}: {response:?}");
            }
        }
        for name in ["X-Original-URL", "X-Rewrite-Url", "X_Original_Uri"] {
            let mut connection = world.acme_client().connect().unwrap();
            let request = format!(
                "GET /x HTTP/1.1\r\nHost: acme.example.com\r\n{name}: https://a{path}\r\n\r\n"
            );
            assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 400, "{name}");
        }
    }
    assert!(world.upstream.requests().is_empty());
    // A method in a header changes nothing.
    let lines = "X-HTTP-Method-Override: GET\r\n";
    let mut connection = world.acme_client().connect().unwrap();
    let response = asked(&mut connection, FORM, &good_form("acme-device-1"), lines);
    assert_eq!(response.status, 200);
    assert_eq!(connection.get(TOKEN_PATH).unwrap().status, 405);
}
