//! Wires the parts into a running edge: binds, serves, reloads, drains.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::admin;
use crate::clock::Clock;
use crate::config::{Compiled, Compiler, Fault, Faults, Settings};
use crate::gate::Gate;
use crate::listen::accept::{Worker, bind};
use crate::listen::{Cut, Edge, Generation, HttpsListener, TicketKeys, TlsServer};
use crate::metrics::{CertificateKind, Metrics};
use crate::registry::{Devices, RegistryError};
use crate::tenant::TenantEntry;

/// How often deadlines of connections are looked at; the error of every one of them.
const SWEEP: Duration = Duration::from_millis(250);

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
    #[error("cannot start the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A running edge. Dropping it without [`Server::drain`] cuts every connection.
pub struct Server {
    edge: Arc<Edge>,
    file: PathBuf,
    compiler: Mutex<Compiler>,
    settings: Settings,
    next_generation: AtomicU64,
    https: Vec<SocketAddr>,
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
        let registry = Devices::open(&settings.registry_url, clock.clone(), metrics.clone());
        let devices = background.block_on(registry)?;
        let gate = Gate::new(
            clock.clone(),
            metrics.clone(),
            devices,
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
        let admin_socket = TcpListener::bind(settings.admin)
            .map_err(|source| StartError::Bind { address: settings.admin, source })?;
        admin_socket.set_nonblocking(true)?;
        let admin = admin_socket.local_addr()?;
        let mut listeners = Vec::new();
        let mut https = Vec::new();
        for listener in &settings.listeners {
            let sockets = bind(listener.bind, settings.workers)
                .map_err(|source| StartError::Bind { address: listener.bind, source })?;
            if let Some(socket) = sockets.first() {
                https.push(socket.local_addr()?);
            }
            listeners.push((Arc::new(listener.clone()), sockets));
        }

        announce(&compiled, &metrics);
        let pools = compiled.pools.clone();
        let first = generation(1, compiled);
        let edge = Arc::new(Edge::new(gate, metrics, tickets, first));
        {
            let _inside = background.enter();
            for pool in &pools {
                pool.ensure_health(background.handle());
            }
            let admin_socket = tokio::net::TcpListener::from_std(admin_socket)?;
            background.spawn(admin::serve(admin_socket, edge.clone()));
            background.spawn(sweep(edge.clone()));
        }
        let (shutdown, watch) = watch::channel(false);
        let workers = start_workers(&edge, listeners, settings.workers, &watch)?;
        edge.metrics.config_reload_successful.set(1);
        Ok(Server {
            edge,
            file,
            compiler: Mutex::new(compiler),
            settings,
            next_generation: AtomicU64::new(2),
            https,
            admin,
            shutdown,
            workers,
            background: Some(background),
        })
    }
}

impl Server {
    /// Where devices are served, in the order of the configuration.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.https
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
        let started = Instant::now();
        let mut compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = &self.edge.metrics;
        let compiled = match compiler.compile(&self.file) {
            Ok(compiled) => compiled,
            Err(faults) => return Err(self.reload_failed(faults)),
        };
        let mut compiled = compiled;
        let kept = self.keep_running(&mut compiled);
        for what in self.settings.needing_restart(&compiled.settings) {
            tracing::warn!(
                target: "portcullis::config",
                setting = what,
                "this change takes effect after a restart"
            );
        }
        announce(&compiled, metrics);
        if let Some(background) = &self.background {
            for pool in &compiled.pools {
                pool.ensure_health(background.handle());
            }
        }
        let number = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let tenants = compiled.directory.entries().count();
        self.edge.swap(generation(number, compiled));
        if !kept.is_empty() {
            return Err(self.reload_failed(Faults(kept)));
        }
        metrics.config_reloads_ok.inc();
        metrics.config_reload_successful.set(1);
        tracing::info!(
            target: "portcullis::config",
            generation = number,
            tenants,
            duration_ms = started.elapsed().as_secs_f64() * 1e3,
            "configuration in force"
        );
        Ok(())
    }

    fn reload_failed(&self, faults: Faults) -> Faults {
        self.edge.metrics.config_reloads_failed.inc();
        self.edge.metrics.config_reload_successful.set(0);
        tracing::error!(
            target: "portcullis::config",
            file = %self.file.display(),
            "reload failed; only what these faults concern stays as it was, be it the edge as a \
             whole or single tenants:\n{faults}"
        );
        faults
    }

    /// A tenant that is served now and whose files have broken keeps its running state: a
    /// reload takes nobody down. One that was not served before stays refused. Gives the faults
    /// of those that were kept.
    fn keep_running(&self, compiled: &mut Compiled) -> Vec<Fault> {
        let running = self.edge.generation();
        let mut kept = HashMap::new();
        let mut faults = Vec::new();
        compiled.unavailable.retain(|(id, found)| match running.directory.by_id(id) {
            Some(TenantEntry::Serviceable(tenant)) => {
                kept.insert(id.clone(), tenant.clone());
                faults.extend(found.0.iter().cloned());
                false
            }
            _ => true,
        });
        compiled.directory.restore(&kept);
        faults
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
                while !edge.connections.is_empty() && Instant::now() < end {
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
            background.block_on(self.edge.gate.devices().close());
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

fn generation(number: u64, compiled: Compiled) -> Generation {
    Generation {
        number,
        limits: compiled.settings.limits,
        log_requests: compiled.settings.log.requests,
        directory: compiled.directory,
    }
}

/// Says which tenants are refused and why, and sets the gauges of this generation.
fn announce(compiled: &Compiled, metrics: &Metrics) {
    for (tenant, faults) in &compiled.unavailable {
        tracing::error!(
            target: "portcullis::config",
            tenant = tenant.as_str(),
            "this tenant is not served:\n{faults}"
        );
    }
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    metrics.tenants_serviceable.set(count(compiled.directory.serviceable().count()));
    metrics.tenants_refused.set(count(compiled.unavailable.len()));
    let mut expiries = Vec::new();
    for tenant in compiled.directory.serviceable() {
        for certificate in &tenant.certificates {
            let sha256 = *certificate.sha256();
            expiries.push((CertificateKind::Server, sha256, certificate.not_after()));
        }
        for anchor in tenant.trust.anchors() {
            expiries.push((CertificateKind::Anchor, anchor.sha256, anchor.not_after));
        }
    }
    expiries.sort_unstable_by_key(|(kind, sha256, _)| (*kind as u8, *sha256));
    expiries.dedup();
    metrics.set_certificate_expiry(expiries);
}

async fn sweep(edge: Arc<Edge>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        edge.connections.sweep();
    }
}

/// One thread for each worker, each with a runtime of its own: a connection lives on one
/// thread from its first byte to its last.
fn start_workers(
    edge: &Arc<Edge>,
    listeners: Vec<(Arc<HttpsListener>, Vec<TcpListener>)>,
    workers: usize,
    watch: &watch::Receiver<bool>,
) -> Result<Vec<thread::JoinHandle<()>>, StartError> {
    let tls = Arc::new(TlsServer::new()?);
    let mut by_worker: Vec<Vec<(Arc<HttpsListener>, TcpListener)>> = Vec::new();
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
    sockets: Vec<(Arc<HttpsListener>, TcpListener)>,
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
