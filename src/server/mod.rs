//! Wires the parts into a running edge: binds, serves, reloads, drains.

mod generations;
mod key_control;
mod rotation;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

use self::generations::Generations;
use self::key_control::EdgeKeys;
use self::rotation::Rotation;
use crate::admin;
use crate::clock::Clock;
use crate::config::{Compiled, Compiler, Faults, Settings};
use crate::gate::Gate;
use crate::listen::accept::{Worker, bind};
use crate::listen::{Cut, Edge, Listener, TicketKeys, TlsServer, live};
use crate::metrics::{Metrics, Protocol};
use crate::registry::{Registry, RegistryError};

/// Connections to the admin port that wait to be accepted.
const ADMIN_BACKLOG: i32 = 1024;
/// The part of a drain over which sessions are ended.
const DRAIN_SPREAD: f64 = 0.8;
/// How often deadlines of connections are looked at; the error of every one of them.
const SWEEP: Duration = Duration::from_millis(250);
/// How often requests that are under way are judged again.
const JUDGE_FORWARDING: Duration = Duration::from_secs(1);
/// For the registry to be closed at the end.
const REGISTRY_CLOSE: Duration = Duration::from_secs(10);
/// How often the schedule of signing keys is looked at.
const KEY_CLOCK: Duration = Duration::from_secs(1);
/// The same after a key could not be made or written.
const KEY_RETRY: Duration = Duration::from_secs(30);

/// Why the edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(Faults),
    #[error("cannot listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the device registry cannot be opened")]
    Registry(#[from] RegistryError),
    #[error("cannot start")]
    Io(#[from] io::Error),
    #[error("cannot start BoringSSL")]
    Tls(#[from] boring::error::ErrorStack),
    #[error("the admin port cannot be served")]
    Admin(#[from] admin::AdminFault),
    #[error("cannot start the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A running edge. Dropping it without [`Server::drain`] cuts every connection.
pub struct Server {
    edge: Arc<Edge>,
    generations: Arc<Generations>,
    settings: Settings,
    https: Vec<SocketAddr>,
    mqtts: Vec<SocketAddr>,
    admin: SocketAddr,
    shutdown: watch::Sender<bool>,
    workers: Vec<thread::JoinHandle<()>>,
    background: Option<Runtime>,
}

/// A configuration that is good, with nothing bound yet.
pub struct Prepared {
    file: PathBuf,
    metrics: Arc<Metrics>,
    compiler: Compiler,
    compiled: Compiled,
}

impl Prepared {
    /// Compiles the configuration.
    ///
    /// # Errors
    /// Every fault that keeps the edge as a whole from running.
    pub fn new(file: &Path) -> Result<Prepared, StartError> {
        let metrics = Metrics::new()?;
        let mut compiler = Compiler::new(metrics.clone());
        let compiled = compiler.compile(file).map_err(StartError::Config)?;
        Ok(Prepared { file: file.to_path_buf(), metrics, compiler, compiled })
    }

    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Binds every address and serves.
    pub fn start(self, clock: Clock) -> Result<Server, StartError> {
        let Prepared { file, metrics, compiler, compiled } = self;
        metrics.set_max_tenant_series(compiled.settings.tenant_series);
        crate::token::install_crypto_provider();
        raise_descriptors(compiled.settings.limits.connections);
        let background = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .enable_all()
            .build()?;
        let settings = compiled.settings.clone();
        let registry = Registry::open(settings.registry.clone(), clock.clone(), metrics.clone());
        let registry = background.block_on(registry)?;
        let rotation = settings.rotation.clone().map(|(rotation, secret)| {
            let files = compiled.edge_keys.clone();
            Arc::new(Rotation::new(rotation, secret, registry.clone(), clock.clone(), files))
        });
        if let Some(rotation) = &rotation {
            background.block_on(rotation.keep_schedule());
        }
        let gate = Gate::new(
            clock.clone(),
            metrics.clone(),
            registry.clone(),
            settings.verdict_cache,
            settings.token_cache,
        );
        let secret = match settings.ticket_secret {
            Some(secret) => secret,
            None => TicketKeys::random_secret()
                .ok_or_else(|| io::Error::other("the machine gives no randomness"))?,
        };
        let tickets = TicketKeys::new(secret, settings.ticket_rotation, clock);

        // First the address that cannot be shared: a second edge on the same file ends here,
        // before the kernel gives it connections of the one that serves.
        let bind_admin = settings.admin.bind;
        let admin_socket = TcpListener::bind(bind_admin)
            .map_err(|source| StartError::Bind { address: bind_admin, source })?;
        admin_socket.set_nonblocking(true)?;
        // The standard library's own is short: under a flood a monitor would wait a second.
        socket2::SockRef::from(&admin_socket).listen(ADMIN_BACKLOG)?;
        let admin = admin_socket.local_addr()?;
        let mut listeners = Vec::new();
        let (mut https, mut mqtts) = (Vec::new(), Vec::new());
        for listener in &settings.listeners {
            let sockets = bind(listener.bind, settings.workers)
                .map_err(|source| StartError::Bind { address: listener.bind, source })?;
            if let Some(socket) = sockets.first() {
                match listener.protocol {
                    Protocol::Https => https.push(socket.local_addr()?),
                    Protocol::Mqtts => mqtts.push(socket.local_addr()?),
                }
            }
            listeners.push((Arc::new(listener.clone()), sockets));
        }

        let admin_settings = &settings.admin;
        if !admin_settings.bind.ip().is_loopback()
            && admin_settings.tls.is_none()
            && !admin_settings.credentials.is_empty()
        {
            tracing::warn!(
                target: "portcullis::admin",
                bind = %admin_settings.bind,
                "the admin API takes bearer tokens without TLS where others can listen: configure \
                 admin.tls, or bind it to 127.0.0.1"
            );
        }
        let pools = compiled.pools.clone();
        let generations = Arc::new(Generations::new(
            file,
            compiler,
            compiled,
            registry.clone(),
            rotation.clone(),
            metrics.clone(),
        ));
        let first = generations.first();
        let edge = Arc::new(Edge::new(gate, metrics, tickets, settings.token_cache, first));
        {
            let _inside = background.enter();
            for pool in &pools {
                pool.ensure_health(background.handle());
            }
            let admin_socket = tokio::net::TcpListener::from_std(admin_socket)?;
            let keys =
                Arc::new(EdgeKeys { generations: generations.clone(), rotation: rotation.clone() });
            let port = admin::AdminPort::new(settings.admin.clone(), edge.clone(), keys)?;
            background.spawn(port.serve(admin_socket));
            background.spawn(follow(edge.clone(), generations.clone(), registry));
            background.spawn(sweep(edge.clone()));
            background.spawn(judge_forwarding(edge.clone()));
            if let Some(rotation) = rotation {
                background.spawn(keep_schedule(rotation));
            }
        }
        let (shutdown, watch) = watch::channel(false);
        let workers = start_workers(&edge, listeners, settings.workers, &watch)?;
        edge.metrics.config_reload_successful.set(1);
        Ok(Server {
            edge,
            generations,
            settings,
            https,
            mqtts,
            admin,
            shutdown,
            workers,
            background: Some(background),
        })
    }
}

impl Server {
    /// Where devices are served by HTTPS, in the order of the configuration.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.https
    }

    /// The same for MQTT.
    pub fn mqtts_addresses(&self) -> &[SocketAddr] {
        &self.mqtts
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Compiles the configuration anew and swaps it in whole.
    ///
    /// # Errors
    /// Every fault. Where they concern the edge as a whole, the running configuration stays in
    /// force; where they concern single tenants that are being served, these stay as they are
    /// and everything else is swapped in.
    pub fn reload(&self) -> Result<(), Faults> {
        self.generations.reload(&self.edge, |compiled| {
            if let Some(background) = &self.background {
                for pool in &compiled.pools {
                    pool.ensure_health(background.handle());
                }
            }
        })
    }

    /// Stops accepting, lets requests end within the drain timeout, then cuts what is left.
    pub fn drain(mut self) {
        let timeout = self.settings.drain_timeout;
        tracing::info!(target: "portcullis::server", ?timeout, "draining");
        self.edge.start_drain();
        let _ = self.shutdown.send(true);
        let end = Instant::now() + timeout;
        let edge = self.edge.clone();
        if let Some(background) = &self.background {
            background.block_on(async move {
                let start = Instant::now();
                while !edge.connections.is_empty() && Instant::now() < end {
                    // Sessions end one after the other over most of the time, so that they come
                    // back one after the other.
                    let spread = timeout.mul_f64(DRAIN_SPREAD).as_secs_f64().max(f64::MIN_POSITIVE);
                    edge.connections.end_due(start.elapsed().as_secs_f64() / spread);
                    // Again each time: a connection becomes idle when its request ends.
                    edge.connections.cut_idle();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let left = edge.connections.len();
                if left > 0 {
                    tracing::warn!(target: "portcullis::server", left, "cutting what is left");
                    edge.connections.cut_all(Cut::Drained);
                }
            });
        }
        self.stop();
    }

    fn stop(&mut self) {
        self.edge.start_drain();
        // Nobody is left to hear it where every worker has ended.
        let _ = self.shutdown.send(true);
        if let Some(background) = &self.background {
            let edge = self.edge.clone();
            // Again and again: a connection may have been accepted just before.
            background.block_on(async move {
                while !edge.connections.is_empty() {
                    edge.connections.cut_all(Cut::Drained);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!(target: "portcullis::server", "a worker had panicked");
            }
        }
        if let Some(background) = self.background.take() {
            // What was answered is durable already: a disk that hangs must not hold up the end.
            let closing = self.edge.gate.registry().close();
            let closed = background.block_on(async { timeout(REGISTRY_CLOSE, closing).await });
            if closed.is_err() {
                tracing::warn!(
                    target: "portcullis::server",
                    "the device registry did not close in time; what was answered is stored"
                );
            }
            background.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.background.is_some() {
            self.stop();
        }
    }
}

/// A connection takes a descriptor, and another one at the upstream while a request runs.
fn raise_descriptors(connections: usize) {
    let wanted =
        u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(256);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(descriptors) if descriptors >= wanted => {}
        Ok(descriptors) => tracing::warn!(
            target: "portcullis::server",
            descriptors,
            wanted,
            "limits.connections needs more file descriptors than this process may have; raise \
             LimitNOFILE (systemd) or `ulimit -n`, or lower the limit"
        ),
        Err(error) => tracing::warn!(
            target: "portcullis::server",
            %error,
            "the limit of file descriptors cannot be read"
        ),
    }
}

/// Rotates signing keys by their schedule. Apart from [`follow`]: a key that cannot be written
/// must not hold up a revocation.
async fn keep_schedule(rotation: Arc<Rotation>) {
    loop {
        let pause = if rotation.keep_schedule().await { KEY_CLOCK } else { KEY_RETRY };
        tokio::time::sleep(pause).await;
    }
}

/// Takes in what changes in the registry, at once, and what changes by time alone.
async fn follow(edge: Arc<Edge>, generations: Arc<Generations>, registry: Arc<Registry>) {
    let mut changes = registry.changes();
    loop {
        let (edge, generations) = (edge.clone(), generations.clone());
        // Thousands of tenants may be to be put together: not on the thread that sweeps.
        let followed = tokio::task::spawn_blocking(move || generations.follow(&edge)).await;
        if followed.is_err() {
            tracing::error!(
                target: "portcullis::registry",
                "a change of the registry could not be put in force; it is tried again"
            );
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(KEY_CLOCK) => {}
        }
    }
}

async fn sweep(edge: Arc<Edge>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        edge.connections.sweep();
    }
}

/// A change of trust or of a device reaches requests that are under way.
async fn judge_forwarding(edge: Arc<Edge>) {
    let mut rounds = live::Rounds::default();
    let mut ticks = tokio::time::interval(JUDGE_FORWARDING);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        rounds.judge(&edge).await;
    }
}

/// One thread for each worker, each with a runtime of its own: a connection lives on one
/// thread from its first byte to its last.
fn start_workers(
    edge: &Arc<Edge>,
    listeners: Vec<(Arc<Listener>, Vec<TcpListener>)>,
    workers: usize,
    watch: &watch::Receiver<bool>,
) -> Result<Vec<thread::JoinHandle<()>>, StartError> {
    let tls = Arc::new(TlsServer::new()?);
    let mut by_worker: Vec<Vec<(Arc<Listener>, TcpListener)>> = Vec::new();
    by_worker.resize_with(workers, Vec::new);
    for (listener, sockets) in listeners {
        for (worker, socket) in by_worker.iter_mut().zip(sockets) {
            worker.push((listener.clone(), socket));
        }
    }
    let mut threads = Vec::with_capacity(workers);
    for (index, sockets) in by_worker.into_iter().enumerate() {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (edge, tls, watch) = (edge.clone(), tls.clone(), watch.clone());
        let run = move || runtime.block_on(work(edge, tls, watch, sockets));
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
    }
    Ok(threads)
}

/// A worker's life: serve until the drain begins, then until the last connection has gone.
async fn work(
    edge: Arc<Edge>,
    tls: Arc<TlsServer>,
    shutdown: watch::Receiver<bool>,
    sockets: Vec<(Arc<Listener>, TcpListener)>,
) {
    let worker = Arc::new(Worker::new(edge.clone(), tls, shutdown));
    let mut serving = tokio::task::JoinSet::new();
    for (listener, socket) in sockets {
        serving.spawn(worker.clone().serve(listener, socket));
    }
    while let Some(ended) = serving.join_next().await {
        if let Ok(Err(error)) = ended {
            tracing::error!(target: "portcullis::listener", %error, "a listener ended");
        }
    }
    // Connections of this worker still run as tasks here; `drain` cuts them in the end.
    while !edge.connections.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
