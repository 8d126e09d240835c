//! The thread that owns the store: the one place where rows and memory change.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::statuses::Statuses;
use super::{DeviceRecord, DeviceStatus, RegistryError, Store, StoreFault, Write};
use crate::metrics::Metrics;
use crate::names::{DeviceId, TenantId};

/// Commands taken at once: their writes share one transaction and so one fsync.
const BATCH: usize = 256;

/// How often a store that failed is asked whether it works again.
const PROBE: Duration = Duration::from_secs(2);

/// Rows read at a time while the statuses are loaded; bounds the memory that takes.
const PAGE: u32 = 10_000;

pub(super) type Opening = Result<Box<dyn Store>, RegistryError>;

/// What the worker is asked.
pub(super) enum Command {
    Write(Pending),
    List {
        tenant: TenantId,
        after: Option<DeviceId>,
        limit: u32,
        reply: oneshot::Sender<Result<Vec<DeviceRecord>, RegistryError>>,
    },
    Close(oneshot::Sender<()>),
}

/// A write and who waits for it. A write that nobody waits for any more is left out.
pub(super) struct Pending {
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Option<DeviceStatus>, RegistryError>>,
}

/// Whether the last write succeeded, here and as a metric.
pub(super) struct Health {
    up: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Down, until the store has been opened.
    pub(super) fn new(metrics: Arc<Metrics>) -> Health {
        metrics.registry_up.set(0);
        Health { up: AtomicBool::new(false), metrics }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
        self.metrics.registry_up.set(up.into());
    }
}

pub(super) struct Worker {
    pub(super) queue: mpsc::Receiver<Command>,
    pub(super) statuses: Arc<Statuses>,
    pub(super) health: Arc<Health>,
}

impl Worker {
    /// Starts the thread, which opens the store, loads it, says so, and serves the queue
    /// until it is told to close or nobody can ask any more.
    pub(super) fn spawn(
        self,
        opening: impl Future<Output = Opening> + Send + 'static,
        opened: oneshot::Sender<Result<(), RegistryError>>,
    ) -> Result<(), RegistryError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(RegistryError::Thread)?;
        thread::Builder::new()
            .name("registry".into())
            .spawn(move || runtime.block_on(self.run(opening, opened)))
            .map_err(RegistryError::Thread)?;
        Ok(())
    }

    async fn run(
        self,
        opening: impl Future<Output = Opening>,
        opened: oneshot::Sender<Result<(), RegistryError>>,
    ) {
        let loaded = match opening.await {
            Ok(mut store) => self.load(&mut *store).await.map(|()| store),
            Err(error) => Err(error),
        };
        // Where nobody waits for the answer any more, the queue is closed too.
        match loaded {
            Ok(store) => {
                self.health.set(true);
                let _ = opened.send(Ok(()));
                self.serve(store).await;
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    }

    async fn load(&self, store: &mut dyn Store) -> Result<(), RegistryError> {
        let mut after = None;
        loop {
            let page = store.page(after.as_ref(), PAGE).await;
            let page =
                page.map_err(|fault| RegistryError::opening(store.location().into(), fault))?;
            for (tenant, device, status) in &page {
                self.statuses.set(tenant, device, *status);
            }
            match page.into_iter().next_back() {
                Some((tenant, device, _)) => after = Some((tenant, device)),
                None => return Ok(()),
            }
        }
    }

    async fn serve(mut self, mut store: Box<dyn Store>) {
        let location: Arc<str> = store.location().into();
        let unavailable = |fault: Arc<StoreFault>| RegistryError::Unavailable {
            location: location.clone(),
            fault,
        };
        let mut commands = Vec::with_capacity(BATCH);
        let mut closing = None;
        while closing.is_none() && self.next(&mut *store, &mut commands).await > 0 {
            let mut writes = Vec::new();
            let mut replies = Vec::new();
            let mut reads = Vec::new();
            for command in commands.drain(..) {
                match command {
                    Command::Write(Pending { reply, .. }) if reply.is_closed() => {}
                    Command::Write(Pending { write, reply }) => {
                        writes.push(write);
                        replies.push(reply);
                    }
                    Command::List { tenant, after, limit, reply } => {
                        reads.push((tenant, after, limit, reply));
                    }
                    Command::Close(done) => closing = Some(done),
                }
            }
            match self.commit(&mut *store, &writes).await {
                Ok(outcomes) => {
                    for (reply, outcome) in replies.into_iter().zip(outcomes) {
                        let _ = reply.send(Ok(outcome));
                    }
                }
                Err(fault) => {
                    let fault = Arc::new(fault);
                    for reply in replies {
                        let _ = reply.send(Err(unavailable(fault.clone())));
                    }
                }
            }
            for (tenant, after, limit, reply) in reads {
                let listed = store.list(&tenant, after.as_ref(), limit).await;
                let _ = reply.send(listed.map_err(|fault| unavailable(Arc::new(fault))));
            }
        }
        store.close().await;
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    /// Waits for commands. After a failed write the store is probed meanwhile: an edge that
    /// gets no traffic because it is not ready would otherwise never write again.
    async fn next(&mut self, store: &mut dyn Store, commands: &mut Vec<Command>) -> usize {
        loop {
            let next = self.queue.recv_many(commands, BATCH);
            if self.health.is_up() {
                return next.await;
            }
            match tokio::time::timeout(PROBE, next).await {
                Ok(count) => return count,
                Err(_) => self.health.set(store.probe().await.is_ok()),
            }
        }
    }

    /// Memory is changed here and nowhere else after the load: after the commit, in the
    /// order of the commits, and before anybody is answered.
    async fn commit(
        &self,
        store: &mut dyn Store,
        writes: &[Write],
    ) -> Result<Vec<Option<DeviceStatus>>, StoreFault> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = store.write(writes).await;
        self.health.set(outcomes.is_ok());
        match &outcomes {
            Ok(outcomes) => {
                for (write, outcome) in writes.iter().zip(outcomes) {
                    if let Some(status) = outcome {
                        self.statuses.set(write.tenant(), write.device(), *status);
                    }
                }
            }
            Err(fault) => tracing::error!(
                registry = store.location(),
                writes = writes.len(),
                %fault,
                "the registry could not be written"
            ),
        }
        outcomes
    }
}
