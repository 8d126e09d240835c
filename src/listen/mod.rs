//! Sockets, deadlines and protocols: everything that meets a device.
//!
//! The way of a connection: [`accept`] takes it and counts it ([`caps`]), reads a PROXY
//! header where one is due, makes the TLS handshake ([`tls`], [`verdict`]) and drives its requests;
//! [`https`] is Pingora's view of a request, [`decide`] what becomes of it, [`answer`] what
//! the edge says itself ([`relay`] fetches a platform's tokens, [`oauth`] reads token requests of
//! OAuth), [`forward`] what the upstream sees. [`mqtt`] has the other protocol, behind TLS or in
//! a WebSocket, which [`upgrade`] tells from other requests.

pub mod accept;
mod answer;
mod attempts;
mod caps;
mod connection;
mod decide;
mod forward;
mod https;
pub mod live;
#[cfg(fuzzing)]
pub mod mqtt;
#[cfg(not(fuzzing))]
mod mqtt;
mod oauth;
mod path;
mod peer_chain;
mod proxy_protocol;
mod relay;
mod request_id;
mod sni;
mod stream;
mod tickets;
mod tls;
mod transport;
mod upgrade;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::gate::Gate;
use crate::ip_range::IpRange;
use crate::limits::Limits;
use crate::metrics::{Metrics, Protocol};
use crate::names::TenantId;
use crate::server_certificate::ServerCertificate;
use crate::tenant::TenantDirectory;

pub use caps::subscriber;
pub use connection::{Connections, Cut};
pub use https::Front;
pub use tickets::TicketKeys;
pub use tls::TlsServer;

/// Chains that are verified at the same time on the blocking pool.
const VERIFICATIONS: usize = 4;

/// Where devices are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub protocol: Protocol,
    pub bind: SocketAddr,
    /// Serves clients that send no SNI.
    pub default_tenant: Option<TenantId>,
    /// What clients that send no SNI are shown, whose tenant their certificate then names.
    pub tenant_by_certificate: Option<Arc<ServerCertificate>>,
    /// Peers that start with a PROXY protocol header; empty: none does.
    pub proxy_protocol: Vec<IpRange>,
    /// Off: asks no device for a certificate, and serves what needs none.
    pub client_certificates: bool,
}

/// One generation of the configuration, swapped whole.
pub struct Generation {
    pub number: u64,
    /// Of the registry's memory that the tenants were put together from, or an earlier one.
    pub registry_version: u64,
    pub directory: TenantDirectory,
    pub limits: Limits,
    /// One log event for each request.
    pub log_requests: bool,
}

/// What every connection of the process shares.
pub struct Edge {
    generation: ArcSwap<Generation>,
    pub gate: Gate,
    pub metrics: Arc<Metrics>,
    pub tickets: TicketKeys,
    pub connections: Connections,
    caps: Arc<caps::Caps>,
    verifications: Semaphore,
    attempts: attempts::Attempts,
    relay: relay::Relay,
    in_force: watch::Sender<u64>,
    draining: AtomicBool,
}

impl Edge {
    /// `tokens`: how many tokens of platforms are remembered.
    pub fn new(
        gate: Gate,
        metrics: Arc<Metrics>,
        tickets: TicketKeys,
        tokens: u64,
        first: Generation,
    ) -> Edge {
        Edge {
            in_force: watch::Sender::new(first.registry_version),
            relay: relay::Relay::new(tokens, gate.clock().clone()),
            generation: ArcSwap::from_pointee(first),
            attempts: attempts::Attempts::new(gate.clock().clone()),
            gate,
            metrics,
            tickets,
            connections: Connections::default(),
            caps: Arc::default(),
            verifications: Semaphore::new(VERIFICATIONS),
            draining: AtomicBool::new(false),
        }
    }

    /// The configuration in force. Hold it for one handshake or request, not longer.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    pub fn generation_number(&self) -> u64 {
        self.generation.load().number
    }

    /// Puts the next generation in force: new connections see it at once, live ones with
    /// their next request, or within a second where one is under way.
    pub fn swap(&self, next: Generation) {
        let version = next.registry_version;
        self.generation.store(Arc::new(next));
        self.in_force.send_replace(version);
    }

    /// Waits until the registry's memory of this version is in force. `false`: it is not after
    /// `limit`; it will be, later.
    pub async fn follows(&self, version: u64, limit: Duration) -> bool {
        let mut in_force = self.in_force.subscribe();
        let reached = in_force.wait_for(|reached| *reached >= version);
        tokio::time::timeout(limit, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// No connection is kept for another request from now on.
    pub fn start_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
