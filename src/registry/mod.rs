//! What the edge knows beyond its configuration: devices and who of them is blocked, pins,
//! uploaded anchors, revocations, options, signing keys, and who changed what.
//!
//! The data path asks memory only. One thread owns the store: it writes, each change as one
//! transaction, and follows what other nodes write. Every transaction takes the next number
//! of one version row and stamps what it touches, so that all that is newer than a version can
//! be asked for. Memory follows commits and never runs ahead of them. A caller that gives up
//! leaves nothing half done.

mod audit;
mod changes;
mod connection;
mod error;
mod feed;
mod fitness;
mod memory;
mod pins;
mod postgres;
mod questions;
mod records;
mod schema;
mod settings;
mod sql;
mod sqlite;
mod statuses;
mod store;
#[cfg(test)]
mod tests;
mod text;
mod worker;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use self::error::Place;
use self::memory::Memory;
use self::sql::Location;
use self::store::Store;
use self::worker::{Command, Health, Opening, Order, Reply, Worker};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::names::{DeviceId, TenantId};

pub use self::error::{RegistryError, StoreFault};
pub use self::records::{
    Actor, AnchorRecord, AnchorStatus, AuditQuery, AuditRecord, Change, DeviceOutcome, DeviceQuery,
    DeviceRecord, DeviceStatus, KeyRow, MAX_ANCHORS, MAX_OPTIONS, MAX_PAGE, MAX_PINS,
    MAX_REGISTRATIONS, MAX_REVOCATIONS, MAX_REVOCATIONS_A_CALL, MAX_SIGNING_KEYS, Outcome,
    PinOwner, Possession, Registered, RegisteredBy, Registration, TenantState,
};
pub use self::settings::RegistrySettings;

/// How long a caller waits for the store, queueing included.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many deadlines a caller waits that registers up to [`MAX_REGISTRATIONS`] devices.
const BULK: u32 = 5;

/// The shortest time between two polls.
const MIN_POLL: Duration = Duration::from_millis(10);

/// Commands that wait for the store; further callers wait, within their deadline, to queue.
const QUEUE: usize = 1024;

/// The registry. Cheap to ask: everything without `async` is answered from memory.
pub struct Registry {
    memory: Arc<Memory>,
    commands: mpsc::Sender<Command>,
    health: Arc<Health>,
    place: Place,
    clock: Clock,
    deadline: Duration,
}

impl Registry {
    /// Opens the registry and loads it whole. The store lives on a thread of its own, so the
    /// calling runtime may end before the registry.
    ///
    /// # Errors
    /// Where the store cannot be opened, written to, or read whole.
    pub async fn open(
        settings: RegistrySettings,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Registry>, RegistryError> {
        let location = Location::parse(&settings.url)?;
        let wake = Arc::new(Notify::new());
        let for_store = wake.clone();
        let opening = async move {
            let store: Box<dyn Store> = Box::new(location.open(for_store).await?);
            Ok(store)
        };
        Registry::start(opening, wake, &settings, clock, metrics, DEADLINE).await
    }

    async fn start(
        opening: impl Future<Output = Opening> + Send + 'static,
        wake: Arc<Notify>,
        settings: &RegistrySettings,
        clock: Clock,
        metrics: Arc<Metrics>,
        deadline: Duration,
    ) -> Result<Arc<Registry>, RegistryError> {
        let memory = Arc::new(Memory::default());
        let health = Arc::new(Health::new(metrics, settings.max_staleness));
        let (commands, queue) = mpsc::channel(QUEUE);
        let (opened, ready) = oneshot::channel();
        let poll = settings.poll.max(MIN_POLL);
        Worker { queue, memory: memory.clone(), health: health.clone(), wake, poll }
            .spawn(opening, opened)?;
        let place = ready.await.map_err(|_| RegistryError::Closed)??;
        Ok(Arc::new(Registry { memory, commands, health, place, clock, deadline }))
    }

    pub fn status(&self, tenant: &TenantId, device: &DeviceId) -> Option<DeviceStatus> {
        self.memory.statuses.get(tenant, device)
    }

    /// Whether any certificate is pinned at all.
    pub fn has_pins(&self) -> bool {
        self.memory.pins.any()
    }

    /// Whose the certificate is that is pinned in this tenant.
    pub fn pinned(&self, tenant: &TenantId, leaf_sha256: &[u8; 32]) -> Option<DeviceId> {
        self.memory.pins.get(tenant, leaf_sha256)
    }

    /// Whose pin a certificate is, where nothing has named the tenant.
    pub fn pin_owner(&self, leaf_sha256: &[u8; 32]) -> PinOwner {
        self.memory.pins.owner(leaf_sha256)
    }

    /// The same `Arc` until the tenant's state changes; an empty one for unknown tenants.
    pub fn tenant(&self, tenant: &TenantId) -> Arc<TenantState> {
        self.memory.tenant(tenant)
    }

    /// In the order of their publication; the same `Arc` until the keys change.
    pub fn signing_keys(&self) -> Arc<[KeyRow]> {
        self.memory.signing_keys()
    }

    /// Moves after a tenant's state or the signing keys have changed; not for devices and
    /// pins, which are asked for with each request.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.memory.changes()
    }

    /// Memory was held against the store within [`RegistrySettings::max_staleness`], by
    /// monotonic time. Who decides by memory that is not fresh may let a device in that was
    /// blocked meanwhile.
    pub fn fresh(&self) -> bool {
        self.health.is_fresh()
    }

    /// `false` from a failed or unanswered write, or a failed poll on, until one succeeds.
    pub fn healthy(&self) -> bool {
        self.health.is_up()
    }

    /// Registers a device on its first call. A device that is known already keeps all it
    /// has: the answer is its stored status, so a blocked device stays blocked.
    ///
    /// # Errors
    /// After two seconds at the latest. The registration may still come to pass; to ask
    /// again is always safe.
    pub async fn register(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        leaf_sha256: &[u8; 32],
        anchor_sha256: &[u8; 32],
    ) -> Result<Registered, RegistryError> {
        let registration = Registration {
            tenant: tenant.clone(),
            device: device.clone(),
            registered_by: RegisteredBy::Auto,
            at: self.clock.now(),
            leaf_sha256: Some(*leaf_sha256),
            anchor_sha256: Some(*anchor_sha256),
            device_type: None,
            name: None,
        };
        self.write(self.deadline, |reply| Command::Register(registration, reply)).await
    }

    /// Makes a change. When it returns, the change and its row of the audit trail are durable
    /// and memory has it. Where nothing has changed, nothing is audited.
    ///
    /// # Errors
    /// After two seconds at the latest, ten for [`Change::RegisterDevices`]; the change may
    /// still come to pass. `Unfit` at once where the change is out of bounds.
    pub async fn apply(&self, actor: &Actor, change: Change) -> Result<Outcome, RegistryError> {
        fitness::check(actor, &change).map_err(RegistryError::Unfit)?;
        let deadline = match change {
            Change::RegisterDevices { .. } => self.deadline * BULK,
            _ => self.deadline,
        };
        let order = Box::new(Order { actor: actor.clone(), at: self.clock.now(), change });
        self.write(deadline, |reply| Command::Apply(order, reply)).await
    }

    /// A page of one tenant's devices, from the store.
    ///
    /// # Errors
    /// After two seconds at the latest.
    pub async fn devices(&self, query: DeviceQuery) -> Result<Vec<DeviceRecord>, RegistryError> {
        // PostgreSQL would refuse the NUL, which is in no id.
        if query.id_prefix.as_ref().is_some_and(|prefix| prefix.contains('\0')) {
            return Ok(Vec::new());
        }
        self.ask(self.deadline, |reply| Command::Devices(query, reply)).await
    }

    /// One device, from the store.
    ///
    /// # Errors
    /// After two seconds at the latest.
    pub async fn device(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<DeviceRecord>, RegistryError> {
        let (tenant, device) = (tenant.clone(), device.clone());
        self.ask(self.deadline, |reply| Command::Device(tenant, device, reply)).await
    }

    /// How many devices a tenant has, from the store.
    ///
    /// # Errors
    /// After two seconds at the latest.
    pub async fn device_count(&self, tenant: &TenantId) -> Result<u64, RegistryError> {
        let tenant = tenant.clone();
        self.ask(self.deadline, |reply| Command::Count(tenant, reply)).await
    }

    /// A page of the audit trail, newest first, from the store.
    ///
    /// # Errors
    /// After two seconds at the latest.
    pub async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditRecord>, RegistryError> {
        self.ask(self.deadline, |reply| Command::Audit(query, reply)).await
    }

    /// Finishes what is queued and closes the store. Whatever is asked of the store later
    /// fails; memory stays.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // An error means that the worker is gone, and the store with it.
            let _ = closed.await;
        }
    }

    async fn write<T>(
        &self,
        deadline: Duration,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, RegistryError> {
        let written = self.ask(deadline, command).await;
        if let Err(RegistryError::Timeout { .. }) = written {
            self.health.set_writable(false);
        }
        written
    }

    async fn ask<T>(
        &self,
        deadline: Duration,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let answered = async {
            self.commands.send(command(reply)).await.map_err(|_| RegistryError::Closed)?;
            answer.await.map_err(|_| RegistryError::Closed)?
        };
        let late = || RegistryError::Timeout { place: self.place.clone(), after: deadline };
        timeout(deadline, answered).await.unwrap_or_else(|_| Err(late()))
    }
}
