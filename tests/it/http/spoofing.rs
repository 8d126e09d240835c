//! No device says who it is by a header: the upstream sees what the edge verified, or nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pki::Minted;
use crate::world::{Recorded, World};

use super::{fold, folded_names, get, with_optional_certificate};

/// Each dialect and the headers in which it says who a device is.
const DIALECTS: [(&str, &[&str]); 5] = [
    ("x-ssl-cert-chain", &["x-ssl-cert-chain"]),
    ("client-cert", &["client-cert", "client-cert-chain"]),
    ("x-forwarded-client-cert", &["x-forwarded-client-cert"]),
    (
        "aws-alb",
        &[
            "x-amzn-mtls-clientcert",
            "x-amzn-mtls-clientcert-issuer",
            "x-amzn-mtls-clientcert-leaf",
            "x-amzn-mtls-clientcert-serial-number",
            "x-amzn-mtls-clientcert-subject",
            "x-amzn-mtls-clientcert-validity",
        ],
    ),
    ("traefik", &["x-forwarded-tls-client-cert", "x-forwarded-tls-client-cert-info"]),
];

/// Headers that some server of the field takes for a device's identity.
const NAMES: [&str; 20] = [
    "X-Ssl-Cert-Chain",
    "X-Ssl-Cert",
    "X-Ssl-Cert-Sha256",
    "X-Ssl-Client-Cert",
    "X-Ssl-Client-Verify",
    "X-Ssl-Client-S-Dn",
    "Ssl-Client-Cert",
    "Ssl-Client-Verify",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Amzn-Mtls-Clientcert",
    "X-Amzn-Mtls-Clientcert-Leaf",
    "X-Amzn-Mtls-Clientcert-Serial-Number",
    "X-Amzn-Mtls-Clientcert-Issuer",
    "X-Amzn-Mtls-Clientcert-Subject",
    "X-Amzn-Mtls-Clientcert-Validity",
    "X-Amzn-Mtls-Clientcert-Anything",
];

#[test]
fn an_upstream_sees_our_identity_or_none_in_every_dialect_and_spelling() {
    for (dialect, ours) in DIALECTS {
        let world = with_optional_certificate(|config| {
            config.acme(&format!("forward: {{ chain: {dialect} }}"));
            config.limits = "header_count: 200\nheader_bytes: 64KiB".into();
        });
        let mut known = world.acme_client().connect().unwrap();
        let mut unknown = world.client("acme.example.com").connect().unwrap();
        for batch in spellings().chunks(100) {
            let lines: String =
                batch.iter().map(|name| format!("{name}: forged-{dialect}\r\n")).collect();
            let request = get("/inventory", &lines);
            assert_eq!(known.exchange(request.as_bytes()).unwrap().status, 200);
            assert_eq!(unknown.exchange(request.as_bytes()).unwrap().status, 200);
        }
        for (index, request) in world.upstream.requests().iter().enumerate() {
            assert!(!request.head.contains("forged"), "{dialect}: {}", request.head);
            let expected: &[&str] = if index % 2 == 0 { ours } else { &[] };
            assert_eq!(identity_names(request), expected, "{dialect}");
            if index % 2 == 0 {
                assert!(says(request, &world.acme.device), "{dialect}: {}", request.head);
            }
        }
    }
}

#[test]
fn a_forged_identity_does_not_pass_by_obsolete_line_folding_or_malformed_names() {
    let world = World::start();
    for line in [
        "X-Harmless: a\r\n X-Ssl-Cert-Chain: forged",
        "X-Harmless: a\r\n\tX-Ssl-Cert-Chain: forged",
        "X-Harmless:\r\n X-Ssl-Cert-Chain: forged",
        "X-Ssl-Cert-Chain : forged",
        "X-Ssl-Cert-Chain\t: forged",
        " X-Ssl-Cert-Chain: forged",
        "X-Ssl\0-Cert-Chain: forged",
        "X-Ssl-Cert-Chain\0: forged",
        "\u{b}X-Ssl-Cert-Chain: forged",
        "X-Harmless: a\rX-Ssl-Cert-Chain: forged",
        "X-Harmless: a\r\rX-Ssl-Cert-Chain: forged",
        "X-Ssl-Cert-Chain\r\n: forged",
        "X-Ssl-Cert-Ch\u{e4}in: forged",
        "X-Ssl-Cert-Chain",
        "X-Harmless: a\0X-Ssl-Cert-Chain: forged",
    ] {
        let mut connection = world.acme_client().connect().unwrap();
        let request = get("/inventory", &format!("{line}\r\n"));
        let response = connection.exchange(request.as_bytes()).unwrap();
        assert_eq!(response.status, 400, "{line:?}");
        connection.until_closed();
    }
    assert!(world.upstream.requests().is_empty(), "{:?}", world.upstream.requests());
}

#[test]
fn a_bare_line_feed_hides_no_identity() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let request = get("/inventory", "X-Harmless: a\nX-Ssl-Cert-Chain: forged\r\n");
    let status = connection.exchange(request.as_bytes()).unwrap().status;
    for request in world.upstream.requests() {
        assert!(!request.head.contains("forged"), "{}", request.head);
        assert_eq!(identity_names(&request), ["x-ssl-cert-chain"]);
    }
    assert!(status == 200 || status == 400, "{status}");
}

#[test]
fn a_device_without_a_certificate_gets_no_token_by_a_header() {
    let world = with_optional_certificate(|_| {});
    let chain = [&world.acme.device, &world.acme.issuing].map(one_line).join(" ");
    let anonymous = world.client("acme.example.com");
    for lines in [String::new(), format!("X-Ssl-Cert-Chain: {chain}\r\n")] {
        assert_eq!(anonymous.token_with(&lines).unwrap().status, 401);
    }
    assert!(world.upstream.requests().is_empty());
    assert_eq!(world.acme_client().token().unwrap().status, 200);
}

#[test]
fn a_header_naming_another_device_neither_mints_its_token_nor_reaches_the_upstream() {
    let world = World::start();
    let other = one_line(&world.acme.another("acme-device-2"));
    let lines = format!("X-Ssl-Cert-Chain: {other}\r\n");
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.token(&lines).unwrap().status, 401);
    let mut connection = world.acme_client().connect().unwrap();
    let response = connection.exchange(get("/inventory", &lines).as_bytes()).unwrap();
    assert_eq!(response.status, 200);
    let request = world.upstream.only_request();
    assert!(says(&request, &world.acme.device));
    assert!(!request.head.contains(&other), "{}", request.head);
}

#[test]
fn an_extra_name_is_stripped_in_every_spelling_and_trusting_forwarded_strips_no_less() {
    let world = World::with(|_, config| {
        config.acme("forward: { strip: [X-My-Identity, \"Acme-*\"], trust_forwarded: true }");
    });
    let lines = "x_my_IDENTITY: forged\r\nX-My-Identity: forged\r\nACME_Device: forged\r\n\
                 Acme.Role: forged\r\nX-Forwarded-Client-Cert: forged\r\n\
                 X-Forwarded-Tls-Client-Cert: forged\r\nX-My-Identities: kept\r\n";
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.exchange(get("/", lines).as_bytes()).unwrap().status, 200);
    let request = world.upstream.only_request();
    assert!(!request.head.contains("forged"), "{}", request.head);
    assert_eq!(request.header("x-my-identities"), ["kept"]);
}

#[test]
fn trailers_never_reach_the_upstream() {
    let world = World::start();
    let trailers: String = NAMES.iter().map(|name| format!("{name}: forged\r\n")).collect();
    let request = format!(
        "POST /inventory HTTP/1.1\r\nHost: acme.example.com\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Ssl-Cert-Chain, Client-Cert\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
    );
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 200);
    // What was left of it on the upstream's connection would be read with the next request.
    assert_eq!(connection.get("/after").unwrap().text(), "GET /after HTTP/1.1");
    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert_eq!(requests[0].body, b"hello");
    for request in requests {
        assert!(!request.head.contains("forged"), "{}", request.head);
        assert!(request.header("trailer").is_empty());
        assert!(says(&request, &world.acme.device));
    }
}

#[test]
fn endless_trailers_end_the_connection() {
    let world = World::with(|_, config| config.limits = "body_timeout: 3s".into());
    let mut connection = world.acme_client().connect().unwrap();
    let head = "POST /inventory HTTP/1.1\r\nHost: acme.example.com\r\n\
                Transfer-Encoding: chunked\r\n\r\n0\r\n";
    connection.send(head.as_bytes()).unwrap();
    let line = format!("X-Trailer: {}\r\n", "x".repeat(1000));
    // The edge stops taking them long before this is through.
    let sent = (0..100_000).take_while(|_| connection.send(line.as_bytes()).is_ok()).count();
    assert!(sent < 10_000, "{sent} KB of trailers were taken");
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn no_connection_header_takes_ours_away() {
    for (dialect, ours) in DIALECTS {
        let world = World::with(|_, config| {
            config.acme(&format!("forward: {{ chain: {dialect} }}"));
        });
        let listed = ours.join(", ");
        for (value, expected) in [
            (listed.clone(), 200),
            (listed.to_uppercase(), 200),
            (format!("close, {listed}"), 200),
            (format!("{listed}, X-Request-Id"), 200),
            (format!("{}, Host", ours[0]), 400),
            ("X-Forwarded-For".into(), 400),
            ("x-forwarded-proto, close".into(), 400),
            (format!("\"{}\"", ours[0]), 400),
            (":authority".into(), 400),
            ([ours[0]; 12].join(","), 400),
            ("a,b,c,d,e,f,g,h,i,j,k,l,X-Ssl-Cert-Chain".into(), 400),
        ] {
            check_connection_header(&world, ours, &value, expected);
        }
        let twice = format!("{}\r\nConnection: {listed}", ours[0]);
        check_connection_header(&world, ours, &twice, 200);
    }
}

#[track_caller]
fn check_connection_header(world: &World, ours: &[&str], value: &str, expected: u16) {
    let before = world.upstream.requests().len();
    let mut connection = world.acme_client().connect().unwrap();
    let forged = format!("Connection: {value}\r\n{}: forged\r\n", ours[0]);
    let response = connection.exchange(get("/inventory", &forged).as_bytes()).unwrap();
    assert_eq!(response.status, expected, "Connection: {value}");
    let requests = world.upstream.requests();
    if expected != 200 {
        assert_eq!(requests.len(), before, "Connection: {value}");
        return;
    }
    assert_eq!(requests.len(), before + 1);
    let request = requests.last().unwrap();
    assert_eq!(identity_names(request), ours, "Connection: {value}");
    assert!(says(request, &world.acme.device));
    assert_eq!(request.header("host"), ["acme.example.com"]);
    assert_eq!(request.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.header("x-request-id").len(), 1);
}

#[test]
fn a_body_survives_a_connection_header_that_names_its_length() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let request = "POST /inventory HTTP/1.1\r\nHost: acme.example.com\r\n\
                   Connection: Content-Length\r\nContent-Length: 34\r\n\r\n\
                   GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let status = connection.exchange(request.as_bytes()).unwrap().status;
    assert!(status == 200 || status == 400, "{status}");
    for request in world.upstream.requests() {
        assert_eq!(request.body.len(), 34, "{request:?}");
        assert!(request.head.starts_with("POST /inventory "));
    }
}

/// Every name in every spelling that some upstream folds to it, and each twice.
fn spellings() -> Vec<String> {
    let with = |by: char| move |name: &str| name.replace('-', &by.to_string());
    let alternating = |name: &str| -> String {
        let chars = name.chars().enumerate();
        chars.map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c }).collect()
    };
    let mut all = Vec::new();
    for name in NAMES {
        all.extend([name.to_owned(), name.to_owned()]);
        all.extend([name.to_lowercase(), name.to_uppercase(), alternating(name)]);
        all.extend(['_', '.', '!', '~', '\'', '|'].map(|by| with(by)(name)));
        all.push(name.replacen('-', "_", 1));
        all.push(with('_')(&name.to_uppercase()));
    }
    all
}

/// The names among a request's that say who a device is, sorted.
fn identity_names(request: &Recorded) -> Vec<String> {
    let known: Vec<String> = NAMES.iter().map(|name| fold(name)).collect();
    let means = |name: &String| known.contains(name) || name.starts_with("x-amzn-mtls");
    let mut names: Vec<String> = folded_names(request).into_iter().filter(means).collect();
    names.sort();
    names
}

/// Whether the identity headers hold this very certificate.
fn says(request: &Recorded, certificate: &Minted) -> bool {
    let der = STANDARD.encode(&certificate.der);
    let plain = percent_decoded(&request.head).replace([' ', '\r', '\n'], "");
    plain.contains(&der)
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut out, part| {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[2..]);
            }
            None => out.push_str(part),
        }
        out
    })
}

/// As a device writes a certificate into the header.
pub fn one_line(certificate: &Minted) -> String {
    certificate.pem().trim_end().replace('\n', " ")
}
