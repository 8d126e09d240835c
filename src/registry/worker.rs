//! The thread that owns the store: the one place where rows and memory change.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep_until;

use super::error::Place;
use super::memory::Memory;
use super::reader::{Lifeline, Reply};
use super::store::Store;
use super::{Actor, Change, Outcome, Registered, Registration, RegistryError, StoreFault};
use crate::clock::UnixSeconds;
use crate::metrics::Metrics;

/// Commands taken at once: their registrations share one transaction and so one fsync.
const BATCH: usize = 256;

/// How often a store that could not be written is asked whether it can be again.
const PROBE: Duration = Duration::from_secs(2);

const TOO_MANY_DEVICES: &str = "a tenant has at most 10000000 devices";

pub(super) type Opening = Result<Box<dyn Store>, RegistryError>;

/// What the worker is asked. What nobody waits for any more is left out.
pub(super) enum Command {
    Register(Registration, Reply<Registered>),
    Apply(Box<Order>, Reply<Outcome>),
    Close(oneshot::Sender<()>),
}

/// A change that somebody asks for.
pub(super) struct Order {
    pub(super) actor: Actor,
    pub(super) at: UnixSeconds,
    pub(super) change: Change,
}

/// Whether the store can be read and written, here and as a metric, and how long ago memory
/// was held against it.
pub(super) struct Health {
    readable: AtomicBool,
    writable: AtomicBool,
    metrics: Arc<Metrics>,
    started: Instant,
    /// Milliseconds from `started` to the end of memory's freshness.
    fresh_until: AtomicU64,
    max_staleness: Duration,
}

impl Health {
    /// Down, until the store has been opened.
    pub(super) fn new(metrics: Arc<Metrics>, max_staleness: Duration) -> Health {
        metrics.registry_up.set(0);
        Health {
            readable: AtomicBool::new(false),
            writable: AtomicBool::new(true),
            metrics,
            started: Instant::now(),
            fresh_until: AtomicU64::new(0),
            max_staleness,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.readable.load(Ordering::Relaxed) && self.writable.load(Ordering::Relaxed)
    }

    pub(super) fn is_fresh(&self) -> bool {
        millis(self.started.elapsed()) < self.fresh_until.load(Ordering::Relaxed)
    }

    /// As the last write went; one that was not answered in time has failed.
    pub(super) fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Relaxed);
        self.metrics.registry_up.set(self.is_up().into());
    }

    /// Memory has all that the store had at `asked`.
    fn read(&self, asked: Instant) {
        let until = asked.duration_since(self.started).saturating_add(self.max_staleness);
        self.fresh_until.store(millis(until), Ordering::Relaxed);
        self.set_readable(true);
    }

    fn set_readable(&self, readable: bool) {
        self.readable.store(readable, Ordering::Relaxed);
        self.metrics.registry_up.set(self.is_up().into());
    }

    fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) struct Worker {
    pub(super) queue: mpsc::Receiver<Command>,
    pub(super) memory: Arc<Memory>,
    pub(super) health: Arc<Health>,
    pub(super) wake: Arc<Notify>,
    pub(super) poll: Duration,
    /// The most devices that a change may leave a tenant with.
    pub(super) most_devices: u64,
    /// The reader is closed before the store: whoever closes SQLite's file last clears up,
    /// which a connection that only reads cannot.
    pub(super) reader: Lifeline,
}

impl Worker {
    /// Starts the thread, which opens the store, loads it, says so, and serves the queue
    /// until it is told to close or nobody can ask any more.
    pub(super) fn spawn(
        self,
        opening: impl Future<Output = Opening> + Send + 'static,
        opened: Reply<Place>,
    ) -> Result<(), RegistryError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(RegistryError::Thread)?;
        thread::Builder::new()
            .name("registry".into())
            .spawn(move || runtime.block_on(self.run(opening, opened)))
            .map_err(RegistryError::Thread)?;
        Ok(())
    }

    async fn run(self, opening: impl Future<Output = Opening>, opened: Reply<Place>) {
        let mut store = match opening.await {
            Ok(store) => store,
            // Where nobody waits for the answer any more, the queue is closed too.
            Err(error) => return drop(opened.send(Err(error))),
        };
        let place = store.place().clone();
        if let Err(fault) = self.follow(&mut *store).await {
            store.close().await;
            return drop(opened.send(Err(RegistryError::opening(place, fault))));
        }
        let _ = opened.send(Ok(place));
        self.serve(store).await;
    }

    async fn serve(mut self, mut store: Box<dyn Store>) {
        let mut commands = Vec::with_capacity(BATCH);
        let (mut next_poll, mut next_probe) = (Instant::now() + self.poll, Instant::now());
        loop {
            let now = Instant::now();
            if now >= next_poll {
                self.poll(&mut *store).await;
                next_poll = Instant::now() + self.poll;
            }
            // An edge that gets no traffic because it is not ready would otherwise never
            // write again.
            if !self.health.is_writable() && now >= next_probe {
                self.health.set_writable(store.probe().await.is_ok());
                next_probe = Instant::now() + PROBE;
            }
            tokio::select! {
                count = self.queue.recv_many(&mut commands, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    if let Some(done) = self.work(&mut *store, &mut commands).await {
                        self.reader.end().await;
                        store.close().await;
                        let _ = done.send(());
                        return;
                    }
                }
                () = self.wake.notified() => self.poll(&mut *store).await,
                () = sleep_until(next_poll.into()) => {}
            }
        }
        self.reader.end().await;
        store.close().await;
    }

    /// Does what has gathered: registrations in one transaction, then the others one by one.
    async fn work(
        &self,
        store: &mut dyn Store,
        commands: &mut Vec<Command>,
    ) -> Option<oneshot::Sender<()>> {
        let (mut registrations, mut replies) = (Vec::new(), Vec::new());
        let mut others = Vec::new();
        for command in commands.drain(..) {
            match command {
                Command::Register(registration, reply) if !reply.is_closed() => {
                    registrations.push(registration);
                    replies.push(reply);
                }
                Command::Register(..) => {}
                other => others.push(other),
            }
        }
        if !registrations.is_empty() {
            self.register(store, &registrations, replies).await;
        }
        let mut closing = None;
        for command in others {
            match command {
                Command::Register(..) => {}
                Command::Apply(order, reply) if !reply.is_closed() => {
                    let applied = self.apply(store, &order).await;
                    let fault = |fault| unavailable(store.place(), Arc::new(fault));
                    // Whoever gave up meanwhile has its deadline's error.
                    let _ = reply.send(applied.map_err(fault));
                }
                Command::Close(done) => closing = Some(done),
                // Nobody waits.
                Command::Apply(..) => {}
            }
        }
        closing
    }

    /// Memory follows the commit and never runs ahead of it, and knows before anybody is
    /// answered.
    async fn register(
        &self,
        store: &mut dyn Store,
        registrations: &[Registration],
        replies: Vec<Reply<Registered>>,
    ) {
        let asked = Instant::now();
        let done = match self.written(store.register(registrations).await, store.place()) {
            Ok(done) => done,
            Err(fault) => {
                let fault = Arc::new(fault);
                for reply in replies {
                    let _ = reply.send(Err(unavailable(store.place(), fault.clone())));
                }
                return;
            }
        };
        for (registration, outcome) in registrations.iter().zip(&done.outcomes) {
            let Registration { tenant, device, .. } = registration;
            self.memory.statuses.set(tenant, device, outcome.status);
        }
        if done.in_step {
            self.health.read(asked);
        } else {
            // Its failure is the next poll's to repair: what was asked for is done.
            self.poll(store).await;
        }
        for (reply, outcome) in replies.into_iter().zip(done.outcomes) {
            let _ = reply.send(Ok(outcome));
        }
    }

    async fn apply(&self, store: &mut dyn Store, order: &Order) -> Result<Outcome, StoreFault> {
        let Order { actor, at, change } = order;
        if self.would_overfill(change) {
            return Ok(Outcome::Limit(TOO_MANY_DEVICES));
        }
        let outcome = self.written(store.apply(actor, *at, change).await, store.place())?;
        // Also where nothing has changed: what stood in the way may be another node's.
        match self.follow(store).await {
            Ok(()) => Ok(outcome),
            Err(fault) => {
                self.health.set_readable(false);
                Err(StoreFault::Commit(Box::new(fault)))
            }
        }
    }

    /// By memory, since to count ten million rows with each change would take too long: what
    /// other nodes add within a poll comes on top.
    fn would_overfill(&self, change: &Change) -> bool {
        let statuses = &self.memory.statuses;
        let (tenant, new) = match change {
            Change::RegisterDevices { tenant, devices } => {
                let new = devices.iter().filter(|one| statuses.get(tenant, &one.device).is_none());
                (tenant, new.count())
            }
            Change::PinCertificate { tenant, device, .. } => {
                (tenant, usize::from(statuses.get(tenant, device).is_none()))
            }
            _ => return false,
        };
        // Where nothing is new, a full tenant may send its list again.
        new > 0 && statuses.count(tenant).saturating_add(new as u64) > self.most_devices
    }

    fn written<T>(&self, written: Result<T, StoreFault>, place: &Place) -> Result<T, StoreFault> {
        self.health.set_writable(written.is_ok());
        if let Err(fault) = &written {
            tracing::error!(registry = %place, %fault, "the registry could not be written");
        }
        written
    }

    /// Follows, and says where that ceases to work and where it works again.
    async fn poll(&self, store: &mut dyn Store) {
        let was_readable = self.health.is_readable();
        match self.follow(store).await {
            Ok(()) if !was_readable => {
                tracing::info!(registry = %store.place(), "the registry can be read again");
            }
            Ok(()) => {}
            Err(fault) => {
                self.health.set_readable(false);
                if was_readable {
                    tracing::error!(
                        registry = %store.place(),
                        %fault,
                        "the registry could not be read; serving from memory"
                    );
                }
            }
        }
    }

    /// Brings memory up to what the store has now.
    async fn follow(&self, store: &mut dyn Store) -> Result<(), StoreFault> {
        let asked = Instant::now();
        if let Some(feed) = store.follow().await? {
            self.memory.take(feed);
        }
        self.health.read(asked);
        Ok(())
    }
}

fn unavailable(place: &Place, fault: Arc<StoreFault>) -> RegistryError {
    RegistryError::Unavailable { place: place.clone(), fault }
}
