//! Verifiers of other people take the edge's tokens, knowing nothing but its key set: PyJWT,
//! joserfc and jose.

use portcullis::clock::Clock;
use serde_json::{Value, json};

use crate::jwt::{Jwt, jwks, kids, tampered};
use crate::oauth::access_token;
use crate::pki::Key;
use crate::tools::{ask, node, python};
use crate::world::{Client, NOW, World};

/// A listener that asks nobody for a certificate: where verifiers fetch the keys.
const FOR_VERIFIERS: &str = "- { bind: \"127.0.0.1:0\", client_certificates: false }";

#[test]
fn other_peoples_verifiers_take_es256_tokens_and_refuse_tampered_ones() {
    tokens_are_taken_and_tampered_ones_refused("ES256");
}

#[test]
fn other_peoples_verifiers_take_rs256_tokens_and_refuse_tampered_ones() {
    tokens_are_taken_and_tampered_ones_refused("RS256");
}

fn tokens_are_taken_and_tampered_ones_refused(algorithm: &str) {
    let world = World::with(|world, config| {
        at_present(world, 0);
        world.write_key("rsa.key", &Key::rsa(2048));
        config.listeners = FOR_VERIFIERS.into();
        config.tokens =
            "{ signing_keys: [{ kid: e, file: k1.key }, { kid: r, file: rsa.key }] }".into();
        config.acme(&format!(
            "tokens: {{ algorithm: {}, oauth: true }}",
            algorithm.to_ascii_lowercase()
        ));
    });
    let client = world.acme_client();
    let token = client.token().unwrap().access_token();
    assert_eq!(Jwt::parse(&token).header["alg"], algorithm);
    let of_another = world.globex_client().token().unwrap().access_token();
    judged(
        &world,
        algorithm,
        "acme.example.com",
        &[(&token, true), (&tampered(&token), false), (&of_another, false), (&token, true)],
    );
    let access = access_token(&client, "acme-device-1");
    judged(
        &world,
        algorithm,
        "https://acme.example.com",
        &[(&access, true), (&tampered(&access), false), (&token, false)],
    );
}

#[test]
fn other_peoples_verifiers_take_tokens_of_before_and_after_a_rotation() {
    let mut world = World::files(|world, config| {
        at_present(world, 2 * 3_600);
        world.write_secret("keys.secret", &random_secret());
        config.listeners = FOR_VERIFIERS.into();
        config.tokens = "{ rotation: { secret_file: keys.secret }, lifespan: 1d }".into();
    });
    world.restart();
    let client = world.acme_client();
    let before = client.token().unwrap().access_token();
    let rotated = world.api("POST", "/edge/signing-keys/rotate", Value::Null);
    assert_eq!(rotated.status, 200, "{rotated:?}");
    world.clock.advance(3_600);
    let after = another_device(&world).token().unwrap().access_token();
    assert_ne!(Jwt::parse(&before).kid(), Jwt::parse(&after).kid());
    assert_eq!(kids(&jwks(&client)).len(), 2);
    judged(
        &world,
        "ES256",
        "acme.example.com",
        &[(&before, true), (&after, true), (&tampered(&after), false)],
    );
}

/// Sets the clock to the machine's, or some seconds before: these verifiers have no other.
pub fn at_present(world: &World, seconds_ago: i64) {
    world.clock.advance(Clock::system().now() - NOW - seconds_ago);
}

pub fn random_secret() -> [u8; 48] {
    let mut secret = [0; 48];
    openssl::rand::rand_bytes(&mut secret).unwrap();
    secret
}

fn another_device(world: &World) -> Client {
    let other = world.acme.another("acme-device-2");
    world.acme_client().identity(&[&other, &world.acme.issuing])
}

/// Holds every verifier's outcomes against what is expected of each token.
#[track_caller]
fn judged(world: &World, algorithm: &str, issuer: &str, tokens: &[(&str, bool)]) {
    let address = world.server().https_addresses()[1];
    let verifier = world.client_at(address, "acme.example.com").anonymous();
    let texts: Vec<&str> = tokens.iter().map(|(token, _)| *token).collect();
    let question = json!({
        "address": address.to_string(),
        "server_name": "acme.example.com",
        "ca": world.server_root.pem(),
        "jwks": jwks(&verifier),
        "algorithm": algorithm,
        "issuer": issuer,
        "audience": "acme.example.com",
        "tokens": texts,
    });
    let expected: Vec<Value> = tokens
        .iter()
        .map(|(token, good)| match good {
            true => Jwt::parse(token).claims["sub"].clone(),
            false => Value::Null,
        })
        .collect();
    let by_python = ask(python("verify_tokens.py"), &question);
    assert_eq!(by_python["pyjwt"], json!(expected), "PyJWT");
    assert_eq!(by_python["joserfc"], json!(expected), "joserfc");
    let by_node = ask(node("verify_tokens.mjs"), &question);
    assert_eq!(by_node["jose"], json!(expected), "jose");
}
