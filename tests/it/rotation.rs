//! Signing keys that the edge makes and rotates itself: published before they sign, retired
//! while their last tokens live, the same on every node and over a restart.

mod schedule;
mod two_nodes;

use serde_json::Value;

use crate::jwt::Jwt;
use crate::verifiers::random_secret;
use crate::world::{Client, Config, Response, World};

const DAY: i64 = 86_400;

/// The defaults: a key signs for 30 days and is published an hour before.
const ROTATION: &str = "{ rotation: { secret_file: keys.secret } }";

fn rotating(edit: impl FnOnce(&World, &mut Config)) -> World {
    World::with(|world, config| {
        world.write_secret("keys.secret", &random_secret());
        config.tokens = ROTATION.into();
        edit(world, config);
    })
}

/// A key as the admin API lists it.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    kid: String,
    state: String,
    source: String,
    published_at: Option<i64>,
    sign_from: Option<i64>,
    retires_at: Option<i64>,
}

/// Newest first.
#[track_caller]
fn listed(response: &Response) -> Vec<Listed> {
    assert_eq!(response.status, 200, "{response:?}");
    let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    let time = |key: &Value, name: &str| {
        let format = &time::format_description::well_known::Rfc3339;
        let text = key.get(name)?.as_str()?;
        Some(time::OffsetDateTime::parse(text, format).unwrap().unix_timestamp())
    };
    let body = response.json();
    let keys = body["keys"].as_array().unwrap().iter().map(|key| Listed {
        kid: text(key, "kid"),
        state: text(key, "state"),
        source: text(key, "source"),
        published_at: time(key, "publishedAt"),
        sign_from: time(key, "signFrom"),
        retires_at: time(key, "retiresAt"),
    });
    keys.collect()
}

fn keys(world: &World) -> Vec<Listed> {
    listed(&world.api("GET", "/edge/signing-keys", Value::Null))
}

fn states(world: &World) -> Vec<(String, String)> {
    keys(world).into_iter().map(|key| (key.kid, key.state)).collect()
}

fn rotate(world: &World, body: Value) -> Response {
    world.api("POST", "/edge/signing-keys/rotate", body)
}

/// acme's device with a certificate of its own: its first token is always a new one.
fn renewed(world: &World, device: &str) -> Client {
    let leaf = world.acme.another(device);
    world.acme_client().identity(&[&leaf, &world.acme.issuing])
}

/// The key that signs now.
fn signer(world: &World) -> String {
    Jwt::of(&renewed(world, "acme-device-9")).kid().to_owned()
}
