//! The thread, over a store that fails or hangs when it is told to.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::reader::Silent;
use super::*;
use crate::registry::feed::Feed;
use crate::registry::store::{Registrations, Store};

struct Faulty {
    place: Place,
    failing: Arc<AtomicBool>,
    hangs: bool,
}

impl Faulty {
    fn fault(&self) -> Result<(), StoreFault> {
        match self.failing.load(Ordering::Acquire) {
            true => Err(StoreFault::Row("a fault of the test")),
            false => Ok(()),
        }
    }
}

#[async_trait(?Send)]
impl Store for Faulty {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn register(&mut self, devices: &[Registration]) -> Result<Registrations, StoreFault> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.fault()?;
        let outcome = Registered { status: DeviceStatus::Active, created: true };
        Ok(Registrations { outcomes: vec![outcome; devices.len()], in_step: true })
    }

    async fn apply(&mut self, _: &Actor, _: i64, _: &Change) -> Result<Outcome, StoreFault> {
        self.fault().map(|()| Outcome::Done)
    }

    async fn follow(&mut self) -> Result<Option<Feed>, StoreFault> {
        Ok(None)
    }

    async fn probe(&mut self) -> Result<(), StoreFault> {
        self.fault()
    }

    async fn close(self: Box<Self>) {}
}

async fn faulty(
    failing: &Arc<AtomicBool>,
    hangs: bool,
    metrics: &Arc<Metrics>,
    deadline: Duration,
) -> Arc<Registry> {
    let place = Place::sqlite(Path::new("faulty"));
    let store = Faulty { place, failing: failing.clone(), hangs };
    let opening = async {
        let store: Box<dyn Store> = Box::new(store);
        Ok(store)
    };
    let settings = RegistrySettings {
        poll: Duration::from_millis(20),
        max_staleness: Duration::from_millis(300),
        ..RegistrySettings::new("sqlite:faulty")
    };
    let clock = Clock::manual(0);
    let answers = Box::new(Silent(Place::sqlite(Path::new("faulty"))));
    let bounds = Bounds { deadline, devices: 3, ..BOUNDS };
    Registry::start(opening, answers, Arc::default(), &settings, clock, metrics.clone(), bounds)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_failed_write_changes_nothing_in_memory_and_health_until_one_succeeds() {
    let (metrics, failing) = (metrics(), Arc::new(AtomicBool::new(true)));
    let registry = faulty(&failing, false, &metrics, DEADLINE).await;
    assert!(registry.healthy());
    assert_eq!(metrics.registry_up.get(), 1);

    let error = register(&registry, "a").await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }));
    assert!(error.to_string().contains("a fault of the test"));
    assert_eq!(registry.status(&acme(), &device("a")), None);
    // Polls that succeed do not make it healthy.
    sleep(Duration::from_millis(100)).await;
    assert!(!registry.healthy());
    assert_eq!(metrics.registry_up.get(), 0);
    let error = registry.apply(&operator(), option("k", Some("v"))).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }));

    failing.store(false, Ordering::Release);
    register(&registry, "a").await.unwrap();
    assert!(registry.healthy());
    assert_eq!(metrics.registry_up.get(), 1);
}

#[tokio::test]
async fn a_store_that_can_be_written_again_is_found_out_without_traffic() {
    let (metrics, failing) = (metrics(), Arc::new(AtomicBool::new(true)));
    let registry = faulty(&failing, false, &metrics, DEADLINE).await;
    register(&registry, "a").await.unwrap_err();
    failing.store(false, Ordering::Release);
    eventually("it is healthy", || registry.healthy()).await;
    assert_eq!(metrics.registry_up.get(), 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_ends_the_wait_by_the_deadline_and_memory_ages() {
    let metrics = metrics();
    let registry = faulty(&Arc::default(), true, &metrics, Duration::from_millis(50)).await;
    assert!(registry.fresh());
    let error = register(&registry, "a").await.unwrap_err();
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error}");
    assert_eq!(registry.status(&acme(), &device("a")), None);
    assert!(!registry.healthy());
    assert_eq!(metrics.registry_up.get(), 0);
    eventually("memory is stale", || !registry.fresh()).await;
}

#[tokio::test]
async fn a_full_tenant_gets_no_more_devices_by_changes_and_may_send_its_list_again() {
    let registry = faulty(&Arc::default(), false, &metrics(), DEADLINE).await;
    let full = Outcome::Limit("a tenant has at most 10000000 devices");
    register(&registry, "a").await.unwrap();
    assert_eq!(apply(&registry, bulk(&["a", "b", "c", "d"])).await, full);
    assert_eq!(apply(&registry, bulk(&["a", "b", "c"])).await, Outcome::Done);
    for id in ["b", "c", "d"] {
        register(&registry, id).await.unwrap();
    }
    // A first call is not bounded: four devices are there.
    assert_eq!(registry.known_devices(&acme()), 4);
    assert_eq!(apply(&registry, bulk(&["a", "b", "c", "d"])).await, Outcome::Done);
    assert_eq!(apply(&registry, bulk(&["d", "e"])).await, full);
    assert_eq!(apply(&registry, pin("e", LEAF)).await, full);
    assert_eq!(apply(&registry, pin("a", LEAF)).await, Outcome::Done);
    let elsewhere = Change::PinCertificate {
        tenant: tenant("umbrella"),
        device: device("e"),
        leaf_sha256: LEAF,
    };
    assert_eq!(apply(&registry, elsewhere).await, Outcome::Done);
}

#[tokio::test]
async fn a_closed_registry_answers_from_memory_and_takes_no_writes() {
    let home = Home::sqlite();
    let registry = home.open().await;
    register(&registry, "a").await.unwrap();
    registry.close().await;
    registry.close().await;
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    assert!(matches!(register(&registry, "b").await, Err(RegistryError::Closed)));
    assert!(matches!(registry.devices(page(1)).await, Err(RegistryError::Closed)));
}
