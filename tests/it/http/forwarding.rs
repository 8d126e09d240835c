//! What the edge tells an upstream besides the chain: where a request came from, which one it
//! is, and less of the chain where it is too long.

use openssl::sha::sha256;

use crate::pki::Template;
use crate::world::World;

use super::{folded_names, get};

#[test]
fn a_chain_over_the_budget_becomes_the_leaf_and_its_fingerprint() {
    let world = World::with(|_, config| config.acme("forward: { header_budget: 1KiB }"));
    let reduced = "portcullis_forward_headers_reduced_total";
    assert_eq!(world.metric(reduced), 0.0);
    assert_eq!(world.acme_client().get("/leaf").unwrap().status, 200);
    let request = world.upstream.only_request();
    let chain = request.header("x-ssl-cert-chain");
    assert_eq!(chain[0].matches("-----BEGIN CERTIFICATE-----").count(), 1);
    let fingerprint = hex(&sha256(&world.acme.device.der));
    assert_eq!(request.header("x-ssl-cert-sha256"), [fingerprint]);
    assert_eq!(world.metric(reduced), 1.0);

    let large = Template::device("large").dns_names(&["x.example"; 80]);
    let large = large.signed_by(&world.acme.issuing);
    let client = world.client("acme.example.com").identity(&[&large, &world.acme.issuing]);
    assert_eq!(client.get("/fingerprint").unwrap().status, 200);
    let requests = world.upstream.requests();
    assert!(requests[1].header("x-ssl-cert-chain").is_empty());
    assert_eq!(requests[1].header("x-ssl-cert-sha256"), [hex(&sha256(&large.der))]);
    assert_eq!(world.metric(reduced), 2.0);
}

#[test]
fn a_chain_within_the_budget_is_sent_whole() {
    let world = World::start();
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    let request = world.upstream.only_request();
    assert!(request.header("x-ssl-cert-sha256").is_empty());
    assert_eq!(world.metric("portcullis_forward_headers_reduced_total"), 0.0);
}

#[test]
fn where_a_request_came_from_is_not_the_devices_to_say() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let forged = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\
                  X-Forwarded-Proto: http\r\nX-Forwarded-Host: evil.example\r\n\
                  X-Forwarded-Port: 1\r\nForwarded: for=192.0.2.3\r\nX-Real-IP: 192.0.2.4\r\n";
    assert_eq!(connection.exchange(get("/", forged).as_bytes()).unwrap().status, 200);
    let request = world.upstream.only_request();
    assert_eq!(request.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.header("x-forwarded-proto"), ["https"]);
    assert_eq!(request.header("x-forwarded-host"), ["acme.example.com"]);
    for name in ["x-forwarded-port", "forwarded", "x-real-ip"] {
        assert!(request.header(name).is_empty(), "{name}");
    }
    assert!(!request.head.contains("192.0.2") && !request.head.contains("evil"));
}

#[test]
fn where_a_request_came_from_is_not_the_devices_to_say_in_any_spelling() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let forged = "X_Forwarded_For: 192.0.2.1\r\nx.forwarded.proto: 192.0.2.1\r\n\
                  X-Forwarded_Host: 192.0.2.1\r\nX_REAL_IP: 192.0.2.1\r\n\
                  X_Forwarded-Port: 192.0.2.1\r\nX_Request_Id: 192.0.2.1\r\n";
    assert_eq!(connection.exchange(get("/", forged).as_bytes()).unwrap().status, 200);
    let request = world.upstream.only_request();
    assert!(!request.head.contains("192.0.2.1"), "{}", request.head);
    let names = folded_names(&request);
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"] {
        assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name}");
    }
}

#[test]
fn a_trusted_balancer_says_where_a_request_came_from() {
    let world = World::with(|_, config| config.acme("forward: { trust_forwarded: true }"));
    let mut connection = world.acme_client().connect().unwrap();
    let kept = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\
                X-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.example\r\n\
                X-Forwarded-Port: 80\r\nForwarded: for=192.0.2.3\r\n";
    assert_eq!(connection.exchange(get("/", kept).as_bytes()).unwrap().status, 200);
    assert_eq!(connection.get("/none").unwrap().status, 200);
    let requests = world.upstream.requests();
    assert_eq!(requests[0].header("x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 127.0.0.1"]);
    assert_eq!(requests[0].header("x-forwarded-proto"), ["http"]);
    assert_eq!(requests[0].header("x-forwarded-host"), ["shop.example"]);
    assert_eq!(requests[0].header("x-forwarded-port"), ["80"]);
    assert_eq!(requests[0].header("forwarded"), ["for=192.0.2.3"]);
    assert_eq!(requests[1].header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(requests[1].header("x-forwarded-proto"), ["https"]);
    assert_eq!(requests[1].header("x-forwarded-host"), ["acme.example.com"]);
}

#[test]
fn each_request_has_an_id_of_ours_that_errors_repeat() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let forged = "X-Request-Id: forged\r\nX-Request-Id: twice\r\n";
    assert_eq!(connection.exchange(get("/a", forged).as_bytes()).unwrap().status, 200);
    let response = connection.exchange(get("/close", forged).as_bytes()).unwrap();
    assert_eq!(response.status, 502);
    let requests = world.upstream.requests();
    let ids: Vec<Vec<&str>> = requests.iter().map(|r| r.header("x-request-id")).collect();
    assert!(ids.iter().all(|id| id.len() == 1 && id[0].len() == 16), "{ids:?}");
    assert!(ids.iter().flatten().all(|id| id.bytes().all(|b| b.is_ascii_hexdigit())), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
    let last = ids.last().unwrap()[0];
    assert_eq!(response.header("x-request-id"), Some(last));
    assert_eq!(response.json()["info"], format!("Request {last}"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
