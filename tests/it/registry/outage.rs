//! A database that restarts, dies, or cannot be reached any more: who is known is served on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::postgres::Postgres;
use crate::verifiers::random_secret;
use crate::world::{AtEnd, Client, Config, Process, World, eventually, plain_get};

use super::network::Network;
use super::nodes::Pair;
use super::{database, nodes};

/// What a caller waits for the registry at most, and what a busy machine adds.
const DEADLINE: Duration = Duration::from_millis(2_000 + 1_500);

#[test]
fn a_database_that_stops_or_is_killed_costs_known_devices_no_request() {
    let mut postgres = Postgres::start();
    let pair = Pair::on(&postgres.url(), "");
    nodes::until_listening(&postgres, 2);
    known_at(&pair);
    for (round, killed) in [(1, false), (2, true)] {
        under_load(&pair, |served| {
            match killed {
                true => database::kill_9(&postgres.url()),
                false => postgres.stop(),
            }
            for edge in &pair.edges {
                cut_off(
                    &pair.world,
                    edge,
                    &format!("lost-{round}"),
                    "the device registry does not answer",
                );
            }
            served.goes_on();
            postgres.start_again();
            healed(&pair, &format!("found-{round}"));
            served.goes_on();
        });
    }
}

#[test]
fn a_network_that_swallows_everything_holds_up_no_known_device() {
    let postgres = Postgres::start();
    let server = postgres.url().split(['@', '/']).nth(3).unwrap().parse().unwrap();
    let network = Network::to(server);
    let url = postgres.url().replace(&server.to_string(), &network.address().to_string());
    let pair = Pair::on(&url, "");
    known_at(&pair);
    under_load(&pair, |served| {
        network.swallow(true);
        for edge in &pair.edges {
            cut_off(&pair.world, edge, "lost", "the device registry does not answer");
        }
        served.goes_on();
        network.swallow(false);
        healed(&pair, "found");
        served.goes_on();
    });
}

#[test]
fn what_is_known_for_too_long_serves_nobody_by_certificate_until_it_is_read_anew() {
    const KEYS: &str = "/.well-known/jwks.json";
    let mut postgres = Postgres::start();
    let world = World::with(|world, config| {
        world.write_secret("keys.secret", &random_secret());
        config.tokens = "{ rotation: { secret_file: keys.secret } }".into();
        let url = postgres.url();
        config.registry = format!("{{ url: \"{url}\", max_staleness: 5s, poll: 1s }}");
        config.acme("client_certificate: optional");
    });
    let (known, nobody) = (world.acme_client(), world.acme_client().anonymous());
    assert_eq!(known.token().unwrap().status, 200);
    let mut open = known.connect().unwrap();
    assert_eq!(open.get("/inventory").unwrap().status, 200);
    assert_eq!(nobody.get(KEYS).unwrap().status, 200);
    postgres.stop();
    let stopped = Instant::now();
    eventually("it is noticed", || world.metric("portcullis_registry_up") == 0.0);
    assert_eq!(world.admin("/readyz").status, 200);
    assert_eq!(open.get("/inventory").unwrap().status, 200);
    assert_eq!(known.token().unwrap().status, 200);
    assert!(stopped.elapsed() < Duration::from_secs(4), "too slow to tell");

    eventually("memory is stale", || open.token("").unwrap().status == 503);
    // The last poll that was answered was before the stop.
    let taken = stopped.elapsed();
    assert!((3_500..7_000).contains(&taken.as_millis()), "{taken:?}");
    let refused = open.get("/inventory").unwrap();
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!(known.token().unwrap().status, 503);
    assert_eq!(known.get("/inventory").unwrap().status, 503);
    eventually("each is counted", || world.refusals("registry_unavailable") >= 4.0);
    let ready = world.admin("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("registry.max_staleness"), "{}", ready.text());
    assert_eq!(world.admin("/healthz").status, 200);
    assert_eq!(nobody.get("/inventory").unwrap().status, 200);
    // Another node may have published or withdrawn a key.
    assert_eq!(nobody.get(KEYS).unwrap().status, 503);

    postgres.start_again();
    eventually("it is read anew", || known.token().unwrap().status == 200);
    assert_eq!(open.get("/inventory").unwrap().status, 200);
    assert_eq!(nobody.get(KEYS).unwrap().status, 200);
    assert_eq!(world.admin("/readyz").status, 200);
}

#[test]
fn a_server_that_comes_back_with_an_older_state_is_believed() {
    let postgres = Postgres::start();
    let world = World::with(|_, config: &mut Config| {
        config.registry = format!("{{ url: \"{}\", poll: 200ms }}", postgres.url());
    });
    let known = world.acme_client();
    assert_eq!(known.token().unwrap().status, 200);
    let block = json!({ "status": "BLOCKED" });
    let path = "/tenant/tenants/acme/devices/acme-device-1";
    let before = "CREATE TABLE kept AS SELECT * FROM devices;
                  CREATE TABLE kept_version AS SELECT * FROM registry_version";
    database::postgres(&postgres.url(), before);
    assert_eq!(world.api("PUT", path, block).status, 200);
    assert_eq!(known.token().unwrap().status, 403);
    let restore = "BEGIN; DELETE FROM devices; INSERT INTO devices SELECT * FROM kept;
                   UPDATE registry_version SET version = (SELECT version FROM kept_version); COMMIT";
    database::postgres(&postgres.url(), restore);
    eventually("the backup counts", || known.token().unwrap().status == 200);
}

/// The devices of both tenants are registered, and both edges know it.
fn known_at(pair: &Pair) {
    let [here, there] = &pair.edges;
    for (first, second) in [
        (here.acme_client(&pair.world), there.acme_client(&pair.world)),
        (there.globex_client(&pair.world), here.globex_client(&pair.world)),
    ] {
        assert_eq!(first.token().unwrap().status, 200);
        assert_eq!(second.token().unwrap().status, 200);
    }
}

/// An edge without its database: it says so to whoever needs the database.
fn cut_off(world: &World, edge: &Process, name: &str, reason: &str) {
    let stranger = world.acme.another(name);
    let stranger = edge.acme_client(world).identity(&[&stranger, &world.acme.issuing]);
    let started = Instant::now();
    let refused = stranger.token().unwrap();
    assert!(started.elapsed() < DEADLINE, "answered after {:?}", started.elapsed());
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    eventually("the log says what to do", || {
        edge.text().contains("check that PostgreSQL runs, can be reached, takes writes")
    });

    let started = Instant::now();
    let path = "/tenant/tenants/acme/devices/acme-device-1";
    let refused = edge.operator().ask("PUT", path, json!({ "status": "BLOCKED" }));
    assert!(started.elapsed() < DEADLINE, "answered after {:?}", started.elapsed());
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.text().contains("The registry cannot be used now"), "{refused:?}");

    eventually("it is told", || {
        plain_get(edge.admin, "/metrics").text().contains("portcullis_registry_up 0\n")
    });
    let ready = plain_get(edge.admin, "/readyz");
    assert!(ready.text().contains(reason), "{}", ready.text());
    assert_eq!(plain_get(edge.admin, "/healthz").status, 200);
}

/// Everything is as it was, without anybody's doing.
fn healed(pair: &Pair, name: &str) {
    let Pair { edges, world } = pair;
    for edge in edges {
        eventually("it is ready again", || {
            plain_get(edge.admin, "/readyz").text() == "ready\n"
                && plain_get(edge.admin, "/metrics").text().contains("portcullis_registry_up 1\n")
        });
    }
    let [here, there] = edges;
    let leaf = world.acme.another(name);
    let client = |edge: &Process| edge.acme_client(world).identity(&[&leaf, &world.acme.issuing]);
    assert_eq!(client(here).token().unwrap().status, 200);
    let path = format!("/tenant/tenants/acme/devices/{name}");
    let answer = there.operator().ask("PUT", &path, json!({ "status": "BLOCKED" }));
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("the block is known", || client(here).token().unwrap().status == 403);
}

/// Requests of known devices that were answered with 200, which is all of them.
struct Served(AtomicUsize);

impl Served {
    fn goes_on(&self) {
        let before = self.0.load(Ordering::Acquire);
        eventually("devices are served", || self.0.load(Ordering::Acquire) > before + 40);
    }
}

/// Known devices ask both edges all the while; none may ever get anything but its answer, nor
/// wait for it.
fn under_load(pair: &Pair, meanwhile: impl FnOnce(&Served)) {
    let (ended, served) = (AtomicBool::new(false), Served(AtomicUsize::new(0)));
    thread::scope(|scope| {
        let _end = AtEnd(&ended);
        for edge in &pair.edges {
            let (ended, served) = (&ended, &served);
            let clients = [edge.acme_client(&pair.world), edge.globex_client(&pair.world)];
            scope.spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    clients.iter().for_each(|client| visit(client, served));
                }
            });
        }
        served.goes_on();
        meanwhile(&served);
    });
}

/// One connection, some requests.
fn visit(client: &Client, served: &Served) {
    let mut connection = client.connect().unwrap();
    for number in 0..10 {
        let started = Instant::now();
        let answer = match number % 2 {
            0 => connection.token("").unwrap(),
            _ => connection.get("/inventory").unwrap(),
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(1), "a known device waited for {taken:?}");
        served.0.fetch_add(1, Ordering::AcqRel);
    }
}
