//! Tokens that were found good before.

use serde_json::json;

use super::tests::{HEADER, LEAF, NOW, World, claims, ours, refused};
use super::*;
use crate::token::tests::{p256, pem};

impl World {
    /// A token that this world's `bearers` know to be good.
    fn known(&self, changes: &[(&str, Value)]) -> String {
        let token = self.signed(HEADER, &claims(changes).to_string());
        assert_eq!(self.check(&token), ours());
        assert!(self.bearers.good.contains_key(&sha256(token.as_bytes())));
        token
    }

    fn check_at(&self, token: &str, now: UnixSeconds) -> Bearer {
        self.bearers.check(token, &self.keys, &self.settings, &self.tenant, Some(&LEAF), now)
    }
}

#[test]
fn a_known_token_is_looked_up_by_its_whole_text() {
    let world = World::new();
    let token = world.known(&[]);
    let signed = world.bearers.good.get(&sha256(token.as_bytes())).unwrap();
    // Nothing is parsed or verified of a text that is known.
    world.bearers.good.insert(sha256(b"no token"), signed);
    assert_eq!(world.check_at("no token", NOW), ours());
    let (message, signature) = token.rsplit_once('.').unwrap();
    refused(world.check(&format!("{message}.{}", "A".repeat(86))), "signature");
    let (header, claims) = message.split_once('.').unwrap();
    assert_eq!(world.check(&format!("{header} .{claims}.{signature}")), Bearer::Foreign);
    refused(world.check(&format!("{header}.{claims}A.{signature}")), "");
    refused(world.check(&format!("{token}=")), "signature");
}

#[test]
fn a_known_token_ends_with_its_time_and_waits_for_it() {
    let world = World::new();
    let token = world.known(&[("nbf", json!(NOW + 10)), ("iat", json!(NOW - 10))]);
    assert_eq!(world.check_at(&token, NOW + 3_599), ours());
    for now in [NOW + 3_600, i64::MAX] {
        refused(world.check_at(&token, now), "expired");
    }
    assert_eq!(world.check_at(&token, NOW - 50), ours(), "the clock was set back");
    for now in [NOW - 51, 0, i64::MIN] {
        refused(world.check_at(&token, now), "future");
    }
    let token = world.known(&[("nbf", json!(NOW - 10)), ("iat", json!(NOW + 10))]);
    refused(world.check_at(&token, NOW - 51), "future");
    let token = world.known(&[("nbf", Value::Null), ("iat", Value::Null)]);
    assert_eq!(world.check_at(&token, i64::MIN), ours());
}

#[test]
fn a_known_token_is_held_against_the_settings_of_each_request() {
    let mut world = World::new();
    let token = world.known(&[]);
    let good = world.settings.clone();
    world.settings.issuer = "new.example.com".into();
    refused(world.check_at(&token, NOW), "signed here for another tenant");
    world.settings.oauth_issuer = Some(good.issuer.clone());
    assert_eq!(world.check_at(&token, NOW), ours());
    world.settings = TokenSettings { audience: "new.example.com".into(), ..good.clone() };
    refused(world.check_at(&token, NOW), "audience");
    world.settings = good;
    world.tenant = TenantId::parse("umbrella").unwrap();
    refused(world.check_at(&token, NOW), "another tenant's");
    world.tenant = TenantId::parse("acme").unwrap();
    assert_eq!(world.check_at(&token, NOW), ours());
}

#[test]
fn a_known_token_is_good_with_its_certificate_only() {
    let world = World::new();
    let bound = world.known(&[("cnf", json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(LEAF) }))]);
    refused(world.check_on(&bound, Some(&[8; 32])), "another certificate");
    refused(world.check_on(&bound, None), "the connection has none");
    assert_eq!(world.check_on(&bound, Some(&LEAF)), ours());
    assert_eq!(world.check_on(&world.known(&[]), None), ours(), "bound to nothing");
}

#[test]
fn a_known_token_is_refused_once_its_key_is_no_longer_published() {
    let mut world = World::new();
    let token = world.known(&[]);
    let good = std::mem::replace(&mut world.keys, SigningKeys::load(vec![]).unwrap());
    refused(world.check_at(&token, NOW), "not published");
    world.keys = SigningKeys::load(vec![("rsa".into(), pem(&world.rsa))]).unwrap();
    refused(world.check_at(&token, NOW), "not published");
    // Another key of the same name, and the same key by another name.
    world.keys = SigningKeys::load(vec![("ec".into(), pem(&p256()))]).unwrap();
    refused(world.check_at(&token, NOW), "not published");
    world.keys = SigningKeys::load(vec![("new".into(), pem(&world.ec))]).unwrap();
    refused(world.check_at(&token, NOW), "not published");
    world.keys = good;
    assert_eq!(world.check_at(&token, NOW), ours());
}

#[test]
fn only_good_tokens_are_remembered_and_no_more_than_the_bound() {
    let mut world = World::new();
    for odd in [
        ("iss", json!("other.example.com")),
        ("aud", json!("other.example.com")),
        ("ten", json!("umbrella")),
        ("sub", json!("admin")),
        ("exp", json!(NOW)),
        ("nbf", json!(NOW + 61)),
        ("cnf", json!({ "x5t#S256": "AAAA" })),
    ] {
        assert_ne!(world.with_claims(&[odd]), ours());
    }
    world.check("opaque");
    world.bearers.good.run_pending_tasks();
    assert_eq!(world.bearers.good.entry_count(), 0);

    world.bearers = Bearers::remembering(10);
    let tokens: Vec<String> = (0..50).map(|n| world.known(&[("jti", json!(n))])).collect();
    world.bearers.good.run_pending_tasks();
    assert_eq!(world.bearers.good.entry_count(), 10);
    assert!(world.bearers.good.contains_key(&sha256(tokens[49].as_bytes())));
    assert_eq!(world.check(&tokens[0]), ours(), "a forgotten one is judged anew");
}
