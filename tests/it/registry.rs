//! Devices in the registry: registered by their first call, blocked by an operator, kept over
//! restarts, faults of the disk and `kill -9`. Below: many edges on one database, what breaks
//! a database, and what an edge finds when it starts.

mod crash;
mod database;
mod disk;
mod network;
mod nodes;
mod outage;
mod start;

use std::fs::{self, File};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portcullis::clock::Clock;
use portcullis::metrics::Metrics;
use portcullis::names::{DeviceId, TenantId};
use portcullis::registry::{
    Actor, Change, DeviceQuery, DeviceStatus, Outcome, RegisteredBy, Registry, RegistrySettings,
};

use crate::pki::Minted;
use crate::world::{Client, Config, NOW, Process, TenantPki, World, eventually};

#[test]
fn the_first_call_registers_a_device_for_good() {
    let mut world = World::start();
    assert!(world.acme_client().token().unwrap().status == 200);
    assert_eq!(world.metric("portcullis_devices_registered_total{tenant=\"acme\"}"), 1.0);

    let query = DeviceQuery {
        tenant: tenant("acme"),
        after: None,
        limit: 10,
        status: None,
        id_prefix: None,
    };
    let list = block_on(world.server().edge().gate.registry().devices(query));
    let [record] = list.unwrap().try_into().unwrap();
    assert_eq!(record.device.as_str(), "acme-device-1");
    assert_eq!(record.status, DeviceStatus::Active);
    assert_eq!(record.registered_by, RegisteredBy::Auto);
    assert_eq!(record.registered_at, NOW);
    assert_eq!(record.leaf_sha256, Some(openssl::sha::sha256(&world.acme.device.der)));
    assert_eq!(record.anchor_sha256, Some(openssl::sha::sha256(&world.acme.root.der)));

    // From now on no device is registered by itself; the known one needs no registration.
    world.configure(&no_auto_registration());
    world.restart();
    assert_eq!(world.acme_client().token().unwrap().status, 200);
    let stranger = world.acme.another("acme-device-2");
    let stranger = world.acme_client().identity(&[&stranger, &world.acme.issuing]);
    assert_eq!(stranger.token().unwrap().status, 403);
}

#[test]
fn a_proxied_request_registers_a_device_too() {
    let world = World::start();
    assert_eq!(world.acme_client().get("/inventory").unwrap().status, 200);
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    let registry = world.server().edge().gate.registry().clone();
    assert_eq!(registry.status(&acme, &device("acme-device-1")), Some(DeviceStatus::Active));
    assert_eq!(registry.status(&globex, &device("acme-device-1")), None);
}

#[test]
fn an_unregistered_device_gets_no_token_but_its_own_credentials_are_the_platforms_to_judge() {
    let world = World::with(|_, config| *config = no_auto_registration());
    let client = world.acme_client();
    assert_eq!(client.token().unwrap().status, 403);
    assert_eq!(client.get("/inventory").unwrap().status, 200);
    assert_eq!(world.upstream.requests().len(), 1);
    assert_eq!(world.metric("portcullis_devices_registered_total{tenant=\"acme\"}"), 0.0);
}

#[test]
fn a_blocked_device_is_refused_everywhere_and_over_a_restart() {
    let mut world = World::start();
    let mut open = world.acme_client().connect().unwrap();
    assert_eq!(open.token("").unwrap().status, 200);
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);

    // The connection that was open is refused with its next request.
    assert_eq!(open.token("").unwrap().status, 403);
    assert_eq!(open.get("/inventory").unwrap().status, 403);
    world.restart();
    let client = world.acme_client();
    assert_eq!(client.token().unwrap().status, 403);
    let response = client.get("/inventory").unwrap();
    assert_eq!((response.status, &response.json()["error"]), (403, &"security/forbidden".into()));
    assert!(world.upstream.requests().is_empty());

    // Another device of the tenant, and a device of that name elsewhere, are not concerned.
    let other = world.acme.another("acme-device-2");
    let other = world.acme_client().identity(&[&other, &world.acme.issuing]);
    assert_eq!(other.token().unwrap().status, 200);
    let namesake = world.globex.another("acme-device-1");
    let namesake = world.globex_client().identity(&[&namesake, &world.globex.issuing]);
    assert_eq!(namesake.token().unwrap().status, 200);

    set_status(&world, "acme-device-1", DeviceStatus::Active);
    assert_eq!(client.token().unwrap().status, 200);
}

#[test]
fn the_database_is_its_owners_alone() {
    let world = World::start();
    assert_eq!(world.acme_client().token().unwrap().status, 200);
    for name in ["edge.db", "edge.db-wal", "edge.db-shm"] {
        let mode = fs::metadata(world.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn while_the_registry_cannot_be_written_known_devices_are_served() {
    let world = World::start();
    let known = world.acme_client();
    assert_eq!(known.token().unwrap().status, 200);
    assert_eq!(world.admin("/readyz").status, 200);

    let lock = WriteLock::take(world.dir.path());
    let stranger = world.acme.another("acme-device-2");
    let stranger = world.acme_client().identity(&[&stranger, &world.acme.issuing]);
    assert_eq!(stranger.token().unwrap().status, 503);
    assert_eq!(world.metric("portcullis_registry_up"), 0.0);
    // No reason for a balancer to take the known devices elsewhere, or nowhere.
    let ready = world.admin("/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("the device registry does not answer"), "{}", ready.text());
    assert_eq!(world.admin("/healthz").status, 200);
    assert_eq!(known.token().unwrap().status, 200);
    assert_eq!(known.get("/inventory").unwrap().status, 200);

    lock.release();
    assert_eq!(stranger.token().unwrap().status, 200);
    assert_eq!(world.metric("portcullis_registry_up"), 1.0);
    assert_eq!(world.admin("/readyz").text(), "ready\n");
}

#[test]
fn kill_9_loses_no_device_that_was_answered() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 1_000 } else { 20 };
    let world = World::files(|_, config| {
        config.log = "{ format: json, level: info, requests: false }".into();
    });
    let answered: Mutex<Vec<DeviceId>> = Mutex::default();
    for round in 0..rounds {
        let mut process = Process::run(&world);
        let (killed, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        // Each round kills at another point of the traffic.
        let last = 1 + round * 7 % 23;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (world, process, answered) = (&world, &process, &answered);
                let (killed, count) = (&killed, &count);
                scope.spawn(move || {
                    let client = process.acme_client(world);
                    let mut number = 0;
                    while !killed.load(Ordering::Acquire) {
                        let name = format!("device-{round}-{thread}-{number}");
                        number += 1;
                        if !registers(&client, &world.acme, &name) {
                            eventually("it was the kill", || killed.load(Ordering::Acquire));
                            return;
                        }
                        answered.lock().unwrap().push(device(&name));
                        if count.fetch_add(1, Ordering::AcqRel) + 1 == last {
                            process.signal(libc::SIGKILL);
                            killed.store(true, Ordering::Release);
                        }
                    }
                });
            }
        });
        process.wait();
        let registry = open(world.dir.path());
        let answered = answered.lock().unwrap();
        assert!(answered.len() > round);
        for device in answered.iter() {
            assert_eq!(registry.status(&tenant("acme"), device), Some(DeviceStatus::Active));
        }
        block_on(registry.close());
    }
}

/// Whether a new device got its first token; false where the edge was killed meanwhile.
fn registers(client: &Client, pki: &TenantPki, name: &str) -> bool {
    let leaf: Minted = pki.another(name);
    match client.clone().identity(&[&leaf, &pki.issuing]).token() {
        Ok(response) => {
            assert_eq!(response.status, 200, "{response:?}");
            true
        }
        Err(_) => false,
    }
}

fn open(folder: &Path) -> std::sync::Arc<Registry> {
    let settings = RegistrySettings::new(format!("sqlite:{}", folder.join("edge.db").display()));
    block_on(Registry::open(settings, Clock::manual(NOW), Metrics::new().unwrap())).unwrap()
}

/// The write lock of the registry's database, as another process would hold it.
pub struct WriteLock(File);

impl WriteLock {
    pub fn take(folder: &Path) -> WriteLock {
        let shared_memory = folder.join("edge.db-shm");
        let lock = WriteLock(File::options().read(true).write(true).open(shared_memory).unwrap());
        eventually("the lock is free", || lock.set(libc::F_WRLCK));
        lock
    }

    pub fn release(self) {
        assert!(self.set(libc::F_UNLCK));
        // Never closed: that would take SQLite's own locks, which are the process's, with it.
        let _ = self.0.into_raw_fd();
    }

    /// The lock of the open file rather than of the process, so that it keeps out an SQLite
    /// in this process.
    fn set(&self, kind: libc::c_int) -> bool {
        // WAL_WRITE_LOCK, which stands at byte 120 of the shared memory.
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 120,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open, and the structure lives through the call.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) == 0 }
    }
}

fn no_auto_registration() -> Config {
    Config { acme: "trusted_certificates: [{ file: acme-root.pem }]".into(), ..Config::default() }
}

pub fn set_status(world: &World, name: &str, status: DeviceStatus) {
    let change = Change::SetDeviceStatus { tenant: tenant("acme"), device: device(name), status };
    let applied = block_on(world.server().edge().gate.registry().apply(&Actor::edge(), change));
    assert_eq!(applied.unwrap(), Outcome::Done);
}

fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).unwrap()
}

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}
