//! The token endpoint as a device sees it.

use crate::world::{Failure, TOKEN_PATH, World};

const VENDOR: &str =
    "application/vnd.com.nsn.cumulocity.managedobject+json; charset=UTF-8; ver=0.9";

#[test]
fn a_device_gets_its_token() {
    let world = World::start();
    let response = world.acme_client().token().unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some(VENDOR));
    assert_eq!(response.access_token().split('.').count(), 3);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn without_a_certificate_the_handshake_ends() {
    let world = World::start();
    let anonymous = world.client("acme.example.com");
    assert_eq!(anonymous.token().unwrap_err(), Failure::Alert(116));
    assert_eq!(anonymous.tls12().token().unwrap_err(), Failure::Alert(40));
}

#[test]
fn other_requests_reach_the_upstream_with_the_validated_chain() {
    let world = World::start();
    let response = world.acme_client().get("/inventory?x=1").unwrap();
    assert_eq!(response.text(), "GET /inventory?x=1 HTTP/1.1");
    let request = world.upstream.only_request();
    let chain = request.header("x-ssl-cert-chain");
    assert_eq!(chain.len(), 1);
    assert_eq!(chain[0].matches("-----BEGIN CERTIFICATE-----").count(), 3);
    assert!(!request.head.contains(TOKEN_PATH));
}
