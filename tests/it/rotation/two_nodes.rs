//! Two nodes over one PostgreSQL, while devices ask both and the clock runs.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::jwt::{Jwt, jwks, kids};
use crate::postgres::Postgres;
use crate::verifiers::random_secret;
use crate::world::{AtEnd, Client, Config, Connection, World, eventually};

use super::{DAY, ROTATION, keys, rotate};

/// What a verifier may keep a key set for, as its `Cache-Control` says.
const KEPT: i64 = 300;

/// Devices ask both nodes without end, with leaves in turn so that most tokens are new ones. A
/// verifier of each node's tokens knows only what the **other** node has published, up to 300 s
/// ago. Keys rotate by command and by schedule.
#[test]
fn a_rotation_under_load_on_two_nodes_of_one_registry_fails_no_verification() {
    let postgres = Postgres::start();
    let secret = random_secret();
    let of_one_edge = |world: &World, config: &mut Config| {
        world.write_secret("keys.secret", &secret);
        config.registry = format!("{{ url: \"{}\", poll: 100ms }}", postgres.url());
        config.tokens = ROTATION.into();
    };
    let one = World::with(of_one_edge);
    let mut two = World::files(|world, config| {
        world.write("acme-root.pem", one.acme.root.pem());
        of_one_edge(world, config);
    });
    two.clock = one.clock.clone();
    two.restart();
    let nodes = [&one, &two];
    let at = |node: &World, leaf| {
        let client = Client::new(node.https(), "acme.example.com", &node.server_root);
        client.identity(&[leaf, &one.acme.issuing])
    };
    let leaves = [
        one.acme.device.clone(),
        one.acme.another("acme-device-1"),
        one.acme.another("acme-device-2"),
    ];
    let rounds = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let (done, signers) = (AtomicBool::new(false), [(); 2].map(|()| Mutex::new(BTreeSet::new())));
    std::thread::scope(|scope| {
        let _end = AtEnd(&done);
        for index in 0..2 {
            let (rounds, done, signers, leaves) = (&rounds, &done, &signers, &leaves);
            let (clock, at) = (&one.clock, &at);
            scope.spawn(move || {
                let connect = |leaf| at(nodes[index], leaf).connect().unwrap();
                let mut devices: Vec<Connection> = leaves.iter().map(connect).collect();
                let mut other = at(nodes[1 - index], &leaves[0]).connect().unwrap();
                let mut known: Option<(i64, Value)> = None;
                while !done.load(Ordering::Acquire) {
                    for device in &mut devices {
                        let token = Jwt::parse(&device.token("").unwrap().access_token());
                        let now = clock.now();
                        if known.as_ref().is_none_or(|(fetched, _)| now - fetched > KEPT) {
                            let fetched = other.get("/.well-known/jwks.json").unwrap().json();
                            known = Some((now, fetched));
                        }
                        let (fetched, jwks) = known.as_ref().unwrap();
                        assert!(
                            token.verifies(jwks),
                            "{} s after it was fetched {jwks} does not verify {}",
                            now - fetched,
                            token.header
                        );
                        signers[index].lock().unwrap().insert(token.kid().to_owned());
                    }
                    rounds[index].fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let go_on = |seconds: i64| {
            one.clock.advance(seconds);
            let goal: Vec<usize> = rounds.iter().map(|r| r.load(Ordering::Acquire) + 2).collect();
            eventually("all have gone round", || {
                rounds.iter().zip(&goal).all(|(r, goal)| r.load(Ordering::Acquire) >= *goal)
            });
        };
        let minutes = |count: usize| (0..count).for_each(|_| go_on(60));
        let signed = || [0, 1].map(|index| signers[index].lock().unwrap().len());

        minutes(10);
        let first = keys(&one).pop().unwrap();
        assert_eq!(keys(&one), keys(&two));
        assert_eq!(signed(), [1, 1], "both nodes sign with the same key");
        // By command, at the second node.
        assert_eq!(rotate(&two, Value::Null).status, 200);
        minutes(65);
        assert_eq!(signed(), [2, 2]);
        // By schedule, whichever node is first.
        let newest = &keys(&one)[0];
        let due = newest.sign_from.unwrap() + 30 * DAY - 3_600;
        go_on(due - one.clock.now());
        eventually("one key more is published by both", || {
            nodes.iter().all(|node| keys(node).len() == 3)
        });
        minutes(65);
        assert_eq!(signed(), [3, 3]);
        eventually("the first key leaves both key sets", || {
            nodes.iter().all(|node| {
                let jwks = jwks(&at(node, &leaves[0]));
                kids(&jwks).len() == 2 && !kids(&jwks).contains(&&*first.kid)
            })
        });
        minutes(3);
    });
    assert_eq!(*signers[0].lock().unwrap(), *signers[1].lock().unwrap());
}
