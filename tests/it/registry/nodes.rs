//! Two edges on one database: what one of them is told is in force at the other.

use std::cell::Cell;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::pki::{Minted, Template};
use crate::postgres::Postgres;
use crate::world::{Client, Failure, Process, World, eventually, plain_get};

use super::database;

const JSON_LOG: &str = "{ format: json, level: info, requests: false }";
const SECOND: Duration = Duration::from_secs(1);

/// Two edges of one configuration. The edges end before their database does.
pub struct Pair {
    pub edges: [Process; 2],
    pub world: World,
}

impl Pair {
    /// `keys`: further ones under `registry`.
    pub fn on(url: &str, keys: &str) -> Pair {
        let world = World::files(|_, config| {
            config.registry = format!("{{ url: \"{url}\"{keys} }}");
            config.log = JSON_LOG.into();
        });
        Pair { edges: [Process::run(&world), Process::run(&world)], world }
    }
}

#[test]
fn a_change_at_one_edge_is_in_force_at_the_other_within_a_second() {
    let postgres = Postgres::start();
    // So seldom that only PostgreSQL's word can be in time.
    let pair = Pair::on(&postgres.url(), ", poll: 60s, max_staleness: 1h");
    until_listening(&postgres, 2);
    every_change_of_the_first_reaches_the_second(&pair);
}

#[test]
fn without_a_word_of_postgresql_changes_come_by_polling() {
    let postgres = Postgres::start();
    let url = postgres.url();
    database::postgres(&url, "CREATE ROLE edge LOGIN; GRANT ALL ON SCHEMA public TO edge");
    let pair = Pair::on(&url.replace("postgres@", "edge@"), ", poll: 200ms");
    until_listening(&postgres, 2);
    for edge in &pair.edges {
        assert_eq!(edge.operator().get("/tenant/tenants/acme/devices").status, 200);
    }
    // Two connections for each edge's changes and questions, none left to listen by.
    database::postgres(&url, "ALTER ROLE edge CONNECTION LIMIT 4");
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name = 'portcullis listener'";
    assert_eq!(database::postgres(&url, sql), ["t", "t"]);

    every_change_of_the_first_reaches_the_second(&pair);
    assert_eq!(listeners(&postgres), 0);
    for edge in &pair.edges {
        assert_eq!(plain_get(edge.admin, "/readyz").status, 200);
    }
    database::postgres(&url, "ALTER ROLE edge CONNECTION LIMIT -1");
    until_listening(&postgres, 2);
}

#[test]
fn two_edges_on_one_file_of_sqlite_see_each_others_changes() {
    let pair = Pair::on("sqlite:edge.db", ", poll: 200ms");
    every_change_of_the_first_reaches_the_second(&pair);
    for edge in &pair.edges {
        assert_eq!(plain_get(edge.admin, "/readyz").status, 200);
    }
}

/// Anchor, device, pin, option, revocation; each made and, where it can be, taken back.
fn every_change_of_the_first_reaches_the_second(pair: &Pair) {
    let Pair { edges: [here, there], world } = pair;
    let api = here.operator();
    let known = there.acme_client(world);
    let of = |leaf: &Minted| known.clone().identity(&[leaf]);
    let ask = |method: &str, path: &str, body: Value| {
        let answer = api.ask(method, &format!("/tenant/tenants/acme/{path}"), body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    };

    let root = Template::ca("Uploaded root").self_signed();
    let uploaded = of(&Template::device("uploaded-1").signed_by(&root));
    assert_eq!(served(&uploaded), Err(Failure::Alert(48)));
    let fingerprint = api.trust("acme", &root, true);
    in_force("the anchor", || served(&uploaded) == Ok(200));
    let anchor = format!("trusted-certificates/{fingerprint}");
    ask("PUT", &anchor, json!({ "status": "DISABLED" }));
    in_force("its end", || served(&uploaded) == Err(Failure::Alert(48)));

    assert_eq!(served(&known), Ok(200));
    ask("PUT", "devices/acme-device-1", json!({ "status": "BLOCKED" }));
    in_force("the block", || served(&known) == Ok(403));
    ask("PUT", "devices/acme-device-1", json!({ "status": "ACTIVE" }));
    in_force("the end of the block", || served(&known) == Ok(200));

    let leaf = Template::blank("anything").self_signed();
    let pinned = of(&leaf);
    assert_ne!(served(&pinned), Ok(200));
    let digest = crate::world::fingerprint(&leaf);
    ask("POST", "devices/pinned-1/pins", json!({ "sha256": digest }));
    in_force("the pin", || served(&pinned) == Ok(200));
    ask("DELETE", &format!("devices/pinned-1/pins/{digest}"), Value::Null);
    in_force("the pin's end", || served(&pinned) != Ok(200));

    let option = "options/oauth.internal/device-token.lifespan.seconds";
    ask("PUT", option, json!({ "value": "600" }));
    let number = Cell::new(0);
    in_force("the option", || {
        // Each a new device: one that has a token keeps it for half of its life.
        number.set(number.get() + 1);
        let leaf = world.acme.another(&format!("lifespan-{}", number.get()));
        let client = known.clone().identity(&[&leaf, &world.acme.issuing]);
        lifespan(&client.token().unwrap().access_token()) == 600
    });

    let leaf = world.acme.another("revoked-1");
    let revoked = known.clone().identity(&[&leaf, &world.acme.issuing]);
    assert_eq!(served(&revoked), Ok(200));
    let serial = X509::from_der(&leaf.der).unwrap().serial_number().to_bn().unwrap();
    let row = json!({
        "serialNumberInHex": serial.to_hex_str().unwrap().to_string(),
        "revocationDate": "2026-01-01",
    });
    ask("PUT", "trusted-certificates/settings/crl", json!({ "crls": [row] }));
    in_force("the revocation", || served(&revoked) == Err(Failure::Alert(44)));
}

fn served(client: &Client) -> Result<u16, Failure> {
    client.token().map(|response| response.status)
}

fn in_force(what: &str, is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    eventually(what, is_so);
    let taken = started.elapsed();
    assert!(taken < SECOND, "{what} was in force after {taken:?}");
}

fn lifespan(token: &str) -> i64 {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
}

/// Connections over which an edge is told of changes.
fn listeners(postgres: &Postgres) -> usize {
    let sql = "SELECT pid::text FROM pg_stat_activity
               WHERE application_name = 'portcullis listener' AND query LIKE 'LISTEN%'";
    database::postgres(&postgres.url(), sql).len()
}

pub fn until_listening(postgres: &Postgres, count: usize) {
    eventually("the edges listen", || listeners(postgres) >= count);
}
