//! What the edge knows beyond its configuration: devices and who of them is blocked, pins,
//! uploaded anchors, revocations, options, signing keys, and who changed what.
//!
//! The data path asks memory only. One thread owns the store: it writes, each change as one
//! transaction, and follows what other nodes write. A second one answers operators' questions,
//! over a connection of its own, so that no question holds up a write. Every transaction takes the next number
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
mod reader;
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

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use self::error::Place;
use self::memory::Memory;
use self::reader::{Question, Reader, Reply};
use self::sql::Location;
use self::store::{Answers, Store};
use self::worker::{Command, Health, Opening, Order, Worker};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::names::{DeviceId, TenantId};

pub use self::error::{RegistryError, StoreFault};
pub use self::records::{
    AUDIT_KEPT, Actor, AnchorRecord, AnchorStatus, AuditQuery, AuditRecord, Change, DeviceOutcome,
    DeviceQuery, DeviceRecord, DeviceStatus, KeyRow, MAX_ANCHORS, MAX_DEVICES, MAX_OPTIONS,
    MAX_PAGE, MAX_PINS, MAX_REGISTRATIONS, MAX_REVOCATIONS, MAX_REVOCATIONS_A_CALL,
    MAX_SIGNING_KEYS, Outcome, PinOwner, Possession, PossessionStep, Registered, RegisteredBy,
    Registration, TenantState,
};
pub use self::settings::RegistrySettings;

/// How long a caller waits for the store, queueing included.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long whoever asks a question waits for the answer, queueing included.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);

/// Questions that wait; further ones are refused.
const QUESTIONS: usize = 64;

/// How many deadlines a caller waits that registers up to [`MAX_REGISTRATIONS`] devices.
const BULK: u32 = 5;

/// The shortest time between two polls.
const MIN_POLL: Duration = Duration::from_millis(10);

/// Commands that wait for the store; further callers wait, within their deadline, to queue.
const QUEUE: usize = 1024;

/// Whether a registry could be opened by this url, by its text alone.
///
/// # Errors
/// What is wrong with it; never repeats any of it.
pub fn check_url(url: &str) -> Result<(), RegistryError> {
    Location::parse(url).map(drop)
}

/// Whether the way to the registry leaves this machine, and nothing in the url says how it is
/// protected there.
pub fn is_unprotected(url: &str) -> bool {
    matches!(Location::parse(url), Ok(Location::Postgres(postgres)) if postgres.leaves_the_machine())
        && !url.contains("sslmode=")
}

/// The registry. Cheap to ask: everything without `async` is answered from memory.
pub struct Registry {
    memory: Arc<Memory>,
    commands: mpsc::Sender<Command>,
    questions: mpsc::Sender<Question>,
    health: Arc<Health>,
    place: Place,
    clock: Clock,
    bounds: Bounds,
}

/// How long and how much.
#[derive(Clone, Copy)]
struct Bounds {
    deadline: Duration,
    question_deadline: Duration,
    devices: u64,
}

const BOUNDS: Bounds =
    Bounds { deadline: DEADLINE, question_deadline: QUESTION_DEADLINE, devices: MAX_DEVICES };

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
        let answers = Box::new(location.reader());
        let wake = Arc::new(Notify::new());
        let for_store = wake.clone();
        let opening = async move {
            let store: Box<dyn Store> = Box::new(location.open(for_store).await?);
            Ok(store)
        };
        Registry::start(opening, answers, wake, &settings, clock, metrics, BOUNDS).await
    }

    async fn start(
        opening: impl Future<Output = Opening> + Send + 'static,
        answers: Box<dyn Answers>,
        wake: Arc<Notify>,
        settings: &RegistrySettings,
        clock: Clock,
        metrics: Arc<Metrics>,
        bounds: Bounds,
    ) -> Result<Arc<Registry>, RegistryError> {
        let memory = Arc::new(Memory::default());
        let health = Arc::new(Health::new(metrics, settings.max_staleness));
        let (commands, queue) = mpsc::channel(QUEUE);
        let (opened, ready) = oneshot::channel();
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let reader = Reader { queue: asked, answers, deadline: bounds.question_deadline };
        let worker = Worker {
            queue,
            memory: memory.clone(),
            health: health.clone(),
            wake,
            poll: settings.poll.max(MIN_POLL),
            most_devices: bounds.devices,
            reader: reader.spawn()?,
        };
        worker.spawn(opening, opened)?;
        let place = ready.await.map_err(|_| RegistryError::Closed)??;
        Ok(Arc::new(Registry { memory, commands, questions, health, place, clock, bounds }))
    }

    pub fn status(&self, tenant: &TenantId, device: &DeviceId) -> Option<DeviceStatus> {
        self.memory.statuses.get(tenant, device)
    }

    /// How many devices memory has of a tenant: what the store had last.
    pub fn known_devices(&self, tenant: &TenantId) -> u64 {
        self.memory.statuses.count(tenant)
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

    /// Moves after a device's status, a pin or anything else that is known may have changed.
    /// Devices that register on their first call do not move it: nobody had met them.
    pub fn moved(&self) -> u64 {
        self.memory.taken()
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
        self.write(self.bounds.deadline, |reply| Command::Register(registration, reply)).await
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
            Change::RegisterDevices { .. } => self.bounds.deadline * BULK,
            _ => self.bounds.deadline,
        };
        let order = Box::new(Order { actor: actor.clone(), at: self.clock.now(), change });
        self.write(deadline, |reply| Command::Apply(order, reply)).await
    }

    /// A page of one tenant's devices, from the store.
    ///
    /// # Errors
    /// After five seconds at the latest; at once where too many questions wait.
    pub async fn devices(&self, query: DeviceQuery) -> Result<Vec<DeviceRecord>, RegistryError> {
        self.ask(|reply| Question::Devices(query, reply)).await
    }

    /// One device, from the store.
    ///
    /// # Errors
    /// After five seconds at the latest; at once where too many questions wait.
    pub async fn device(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<DeviceRecord>, RegistryError> {
        let (tenant, device) = (tenant.clone(), device.clone());
        self.ask(|reply| Question::Device(tenant, device, reply)).await
    }

    /// How many devices a tenant has, from the store.
    ///
    /// # Errors
    /// After five seconds at the latest; at once where too many questions wait.
    pub async fn device_count(&self, tenant: &TenantId) -> Result<u64, RegistryError> {
        let tenant = tenant.clone();
        self.ask(|reply| Question::Count(tenant, reply)).await
    }

    /// A page of the audit trail, newest first, from the store. It reaches back for
    /// [`AUDIT_KEPT`].
    ///
    /// # Errors
    /// After five seconds at the latest; at once where too many questions wait.
    pub async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditRecord>, RegistryError> {
        self.ask(|reply| Question::Audit(query, reply)).await
    }

    /// Finishes what is queued to be written, breaks off questions, and closes the store.
    /// Whatever is asked of the store later fails; memory stays.
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
        let (reply, answer) = oneshot::channel();
        let written = async {
            self.commands.send(command(reply)).await.map_err(|_| RegistryError::Closed)?;
            answer.await.map_err(|_| RegistryError::Closed)?
        };
        let written = self.within(deadline, written).await;
        if let Err(RegistryError::Timeout { .. }) = written {
            self.health.set_writable(false);
        }
        written
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(Reply<T>) -> Question,
    ) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.questions.try_send(question(reply)).map_err(|refused| match refused {
            TrySendError::Full(_) => RegistryError::Busy { place: self.place.clone() },
            TrySendError::Closed(_) => RegistryError::Closed,
        })?;
        let answered = async { answer.await.map_err(|_| RegistryError::Closed)? };
        self.within(self.bounds.question_deadline, answered).await
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        asked: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let late = || RegistryError::Timeout { place: self.place.clone(), after: deadline };
        timeout(deadline, asked).await.unwrap_or_else(|_| Err(late()))
    }
}
