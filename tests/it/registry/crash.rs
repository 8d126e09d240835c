//! `kill -9` of a whole edge while devices register and operators change things: what either
//! of them was told is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use portcullis::registry::DeviceStatus;
use portcullis::tenant::LIFESPAN_OPTION;
use serde_json::{Value, json};

use crate::pki::Template;
use crate::world::{Api, Process, World, eventually};

use super::{block_on, database, device, open, registers, tenant};

/// What was acknowledged, over all rounds.
#[derive(Default)]
struct Told {
    statuses: BTreeMap<String, DeviceStatus>,
    pins: BTreeMap<[u8; 32], String>,
    anchors: BTreeSet<[u8; 32]>,
    revoked: BTreeSet<String>,
    /// Of the option: acknowledged, and asked for since.
    lifespan: (Option<i64>, Option<i64>),
}

#[test]
fn kill_9_loses_nothing_that_a_device_or_an_operator_was_told() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 100 } else { 20 };
    let world = World::files(|_, config| {
        config.log = "{ format: json, level: info, requests: false }".into();
    });
    let file = world.dir.path().join("edge.db");
    let told: Mutex<Told> = Mutex::default();
    let mut answered = 0;
    for round in 0..rounds {
        let mut process = Process::run(&world);
        let round = Round {
            number: round,
            // Each round kills at another point of the traffic.
            last: 2 + round * 7 % 23,
            process: &process,
            told: &told,
            killed: AtomicBool::new(false),
            count: AtomicUsize::new(0),
        };
        thread::scope(|scope| {
            for thread in 0..2 {
                let (round, world) = (&round, &world);
                scope.spawn(move || round.register_devices(world, thread));
            }
            scope.spawn(|| round.change_things());
        });
        answered += round.count.into_inner();
        process.wait();
        check(&world, &mut told.lock().unwrap());
        assert_eq!(database::sqlite(&file, "PRAGMA integrity_check"), ["ok"]);
        assert!(database::sqlite(&file, "PRAGMA foreign_key_check").is_empty());
    }
    assert!(answered > rounds);
    let told = told.lock().unwrap();
    assert!(!told.pins.is_empty() && !told.anchors.is_empty() && !told.revoked.is_empty());
}

struct Round<'r> {
    number: usize,
    last: usize,
    process: &'r Process,
    told: &'r Mutex<Told>,
    killed: AtomicBool,
    count: AtomicUsize,
}

impl Round<'_> {
    fn register_devices(&self, world: &World, thread: usize) {
        let client = self.process.acme_client(world);
        for number in 0.. {
            let name = format!("device-{}-{thread}-{number}", self.number);
            if self.is_over() || !registers(&client, &world.acme, &name) {
                return self.end();
            }
            self.done(|told| {
                told.statuses.insert(name, DeviceStatus::Active);
            });
        }
    }

    fn change_things(&self) {
        let api = self.process.operator();
        let change = |method, path: &str, body| {
            !self.is_over() && answers(&api, method, &format!("/tenant/tenants/acme/{path}"), body)
        };
        for number in 0.. {
            let name = format!("changed-{}-{number}", self.number);
            let digest = openssl::sha::sha256(name.as_bytes());
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            if !change("POST", &format!("devices/{name}/pins"), json!({ "sha256": hex })) {
                return self.end();
            }
            self.done(|told| {
                told.statuses.insert(name.clone(), DeviceStatus::Active);
                told.pins.insert(digest, name.clone());
            });

            // Neither holds between the question and its answer.
            self.told.lock().unwrap().statuses.remove(&name);
            let body = json!({ "status": "BLOCKED" });
            if !change("PUT", &format!("devices/{name}"), body) {
                return self.end();
            }
            self.done(|told| {
                told.statuses.insert(name, DeviceStatus::Blocked);
            });

            let serial = format!("1{:08X}{number:08X}", self.number);
            let body = json!({ "crls": [{ "serialNumberInHex": serial }] });
            if !change("PUT", "trusted-certificates/settings/crl", body) {
                return self.end();
            }
            self.done(|told| {
                told.revoked.insert(serial);
            });

            let ca = Template::ca(&format!("CA {} {number}", self.number)).self_signed();
            let body = json!({ "name": "uploaded", "status": "ENABLED",
                               "autoRegistrationEnabled": false, "certInPemFormat": ca.pem() });
            if !change("POST", "trusted-certificates", body) {
                return self.end();
            }
            self.done(|told| {
                told.anchors.insert(openssl::sha::sha256(&ca.der));
            });

            let seconds = i64::try_from(300 + self.number * 1_000 + number).unwrap();
            self.told.lock().unwrap().lifespan.1 = Some(seconds);
            let path = format!("options/{}/{}", LIFESPAN_OPTION.0, LIFESPAN_OPTION.1);
            if !change("PUT", &path, json!({ "value": seconds })) {
                return self.end();
            }
            self.done(|told| told.lifespan.0 = Some(seconds));
        }
    }

    fn is_over(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    fn done(&self, tell: impl FnOnce(&mut Told)) {
        tell(&mut self.told.lock().unwrap());
        if self.count.fetch_add(1, Ordering::AcqRel) + 1 == self.last {
            self.process.signal(libc::SIGKILL);
            self.killed.store(true, Ordering::Release);
        }
    }

    /// Nothing but the kill may leave anybody without an answer.
    fn end(&self) {
        eventually("it was the kill", || self.is_over());
    }
}

/// Whether the change was acknowledged; false where the edge was killed meanwhile.
fn answers(api: &Api, method: &str, path: &str, body: Value) -> bool {
    let body = body.to_string();
    let Ok(mut tcp) = TcpStream::connect(api.address) else { return false };
    let request = api.head(method, path, "application/json", body.len()) + &body;
    if tcp.write_all(request.as_bytes()).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    // What came before a reset counts.
    let _ = tcp.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let Some(status) = answer.split(' ').nth(1) else { return false };
    assert!(status.starts_with('2'), "{method} {path}: {answer}");
    true
}

fn check(world: &World, told: &mut Told) {
    let registry = open(world.dir.path());
    let acme = tenant("acme");
    for (name, status) in &told.statuses {
        assert_eq!(registry.status(&acme, &device(name)), Some(*status), "{name}");
    }
    for (digest, name) in &told.pins {
        assert_eq!(registry.pinned(&acme, digest), Some(device(name)));
    }
    let state = registry.tenant(&acme);
    let anchors: BTreeSet<[u8; 32]> = state.anchors.iter().map(|anchor| anchor.sha256).collect();
    assert!(told.anchors.is_subset(&anchors));
    assert!(told.revoked.iter().all(|serial| state.revocations.contains_key(serial)));
    let option = (LIFESPAN_OPTION.0.to_owned(), LIFESPAN_OPTION.1.to_owned());
    let lifespan = state.options.get(&option).map(|value| value.parse().unwrap());
    assert!(lifespan == told.lifespan.0 || lifespan == told.lifespan.1, "{lifespan:?}");
    // What was made and never acknowledged stays, too.
    told.lifespan.0 = lifespan;
    block_on(registry.close());
}
