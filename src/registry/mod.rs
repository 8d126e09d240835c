//! Which devices are known, and which of them are blocked.
//!
//! The data path asks memory only: every status is held there in a fixed number of bytes.
//! Writes go through one thread, which owns the store and commits what has gathered in the
//! meantime as one transaction; memory follows a commit and never runs ahead of it. A caller
//! that gives up leaves nothing half done.

mod error;
mod sqlite;
mod statuses;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::sqlite::SqliteStore;
use self::statuses::Statuses;
use self::worker::{Command, Health, Opening, Pending, Worker};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::names::{DeviceId, TenantId};

pub use self::error::{RegistryError, StoreFault};
pub use self::store::{DeviceRecord, DeviceStatus, RegisteredBy, Registration, Store, Write};

/// How long a caller waits for the store, queueing included.
const DEADLINE: Duration = Duration::from_secs(2);

/// Commands that wait for the store; further callers wait, within their deadline, to queue.
const QUEUE: usize = 1024;

/// The most rows that one call of [`Devices::list`] gives.
pub const MAX_LIST: u32 = 1000;

/// The registry of devices.
pub struct Devices {
    statuses: Arc<Statuses>,
    commands: mpsc::Sender<Command>,
    health: Arc<Health>,
    clock: Clock,
    deadline: Duration,
}

impl Devices {
    /// Opens the registry and loads every status. `url`: `sqlite:` and a path. The store
    /// lives on a thread of its own, so the calling runtime may end before the registry.
    ///
    /// # Errors
    /// Where the store cannot be opened, written to, or read whole.
    pub async fn open(
        url: &str,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Devices>, RegistryError> {
        let path = sqlite::path(url)?;
        let opening = async {
            let store: Box<dyn Store> = Box::new(SqliteStore::open(path).await?);
            Ok(store)
        };
        Devices::start(opening, clock, metrics, DEADLINE).await
    }

    async fn start(
        opening: impl Future<Output = Opening> + Send + 'static,
        clock: Clock,
        metrics: Arc<Metrics>,
        deadline: Duration,
    ) -> Result<Arc<Devices>, RegistryError> {
        let statuses = Arc::new(Statuses::default());
        let health = Arc::new(Health::new(metrics));
        let (commands, queue) = mpsc::channel(QUEUE);
        let (opened, ready) = oneshot::channel();
        Worker { queue, statuses: statuses.clone(), health: health.clone() }
            .spawn(opening, opened)?;
        ready.await.map_err(|_| RegistryError::Closed)??;
        Ok(Arc::new(Devices { statuses, commands, health, clock, deadline }))
    }

    /// From memory: never waits for the store.
    pub fn status(&self, tenant: &TenantId, device: &DeviceId) -> Option<DeviceStatus> {
        self.statuses.get(tenant, device)
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
    ) -> Result<DeviceStatus, RegistryError> {
        let registration = Registration {
            tenant: tenant.clone(),
            device: device.clone(),
            registered_by: RegisteredBy::Auto,
            at: self.clock.now(),
            leaf_sha256: Some(*leaf_sha256),
            anchor_sha256: Some(*anchor_sha256),
        };
        let stored = self.write(Write::Register(registration)).await?;
        stored.ok_or(RegistryError::NotStored)
    }

    /// Blocks or unblocks a device. `false`: the device is not registered.
    ///
    /// # Errors
    /// As [`Devices::register`]; memory changes if and when the store has.
    pub async fn set_status(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        status: DeviceStatus,
    ) -> Result<bool, RegistryError> {
        let write = Write::SetStatus {
            tenant: tenant.clone(),
            device: device.clone(),
            status,
            at: self.clock.now(),
        };
        Ok(self.write(write).await?.is_some())
    }

    /// One tenant's devices in the order of their ids, those after `after`; at most `limit`
    /// and [`MAX_LIST`] of them.
    pub async fn list(
        &self,
        tenant: &TenantId,
        after: Option<&DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::List {
            tenant: tenant.clone(),
            after: after.cloned(),
            limit: limit.min(MAX_LIST),
            reply,
        };
        self.ask(command, answer).await?
    }

    /// `false` from a failed or unanswered write on, until one succeeds.
    pub fn healthy(&self) -> bool {
        self.health.is_up()
    }

    /// Finishes what is queued and closes the store. Whatever is asked later, but for
    /// [`Devices::status`], fails.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // An error means that the worker is gone, and the store with it.
            let _ = closed.await;
        }
    }

    async fn write(&self, write: Write) -> Result<Option<DeviceStatus>, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let written = self.ask(Command::Write(Pending { write, reply }), answer).await;
        if let Err(RegistryError::Timeout(_)) = written {
            self.health.set(false);
        }
        written?
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, RegistryError> {
        let answered = async {
            self.commands.send(command).await.map_err(|_| RegistryError::Closed)?;
            answer.await.map_err(|_| RegistryError::Closed)
        };
        timeout(self.deadline, answered).await.unwrap_or(Err(RegistryError::Timeout(self.deadline)))
    }
}
