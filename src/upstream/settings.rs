//! What a pool is made from, and why it may not be.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::names::NameFault;

/// How a server is chosen among the healthy ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests in flight from this process; among equals one after
    /// the other.
    LeastLoaded,
}

#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// From the configuration; a metric label.
    pub name: String,
    pub servers: Vec<SocketAddr>,
    pub balance: Balance,
    /// `None`: cleartext.
    pub tls: Option<UpstreamTls>,
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3), only without TLS.
    pub http2_cleartext: bool,
    pub timeouts: Timeouts,
    /// Further servers to try after one could not be connected to.
    pub retries: usize,
    pub health: HealthSettings,
}

impl PoolSettings {
    pub(super) fn validate(&self) -> Result<(), PoolFault> {
        if self.servers.is_empty() {
            return Err(PoolFault::NoServers);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.servers.iter().find(|server| !seen.insert(**server)) {
            return Err(PoolFault::ServerTwice(*twice));
        }
        let durations = [
            ("connect timeout", self.timeouts.connect),
            ("read timeout", self.timeouts.read),
            ("write timeout", self.timeouts.write),
            ("idle timeout", self.timeouts.idle),
            ("health check's interval", self.health.interval),
            ("health check's timeout", self.health.timeout),
        ];
        match durations.into_iter().find(|(_, duration)| duration.is_zero()) {
            Some((name, _)) => Err(PoolFault::ZeroDuration(name)),
            None => Ok(()),
        }
    }
}

/// TLS towards the servers of a pool.
#[derive(Clone)]
pub struct UpstreamTls {
    /// Sent as SNI and expected in the servers' certificates.
    pub server_name: String,
    /// PEM. `None`: the system's CAs.
    pub ca_pem: Option<Vec<u8>>,
    /// The edge's own certificate, PEM chain (end-entity first) and PEM key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// `false` accepts any certificate: for tests of an installation only.
    pub verify: bool,
    /// Offer h2 by ALPN; a server that declines speaks HTTP/1.1.
    pub http2: bool,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("server_name", &self.server_name)
            .field("own_ca", &self.ca_pem.is_some())
            .field("client_certificate", &self.client.is_some())
            .field("verify", &self.verify)
            .field("http2", &self.http2)
            .finish()
    }
}

/// Deadlines towards a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For TCP and TLS together.
    pub connect: Duration,
    /// Between two reads.
    pub read: Duration,
    /// For one write.
    pub write: Duration,
    /// How long an unused connection is kept for the next request.
    pub idle: Duration,
}

/// Why a pool cannot be made. No variant holds key bytes.
#[derive(Debug, thiserror::Error)]
pub enum PoolFault {
    #[error("an upstream needs at least one server")]
    NoServers,
    #[error("the server {0} is named twice")]
    ServerTwice(SocketAddr),
    #[error("the TLS server name is not valid: {0}")]
    ServerName(#[source] NameFault),
    #[error("the CA file holds no PEM certificate")]
    Ca,
    #[error("the client certificate's chain file holds no PEM certificate")]
    ClientChain,
    #[error("the client certificate's key file holds no unencrypted PEM private key")]
    ClientKey,
    #[error("the client key does not belong to the first certificate of its chain")]
    ClientMismatch,
    #[error("HTTP/2 without TLS cannot be had together with TLS; ask for it inside `tls`")]
    CleartextHttp2OverTls,
    #[error("the health check's path is not a path that starts with '/'")]
    HealthPath,
    #[error("the {0} must be longer than zero")]
    ZeroDuration(&'static str),
}

/// When a server counts as up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Path of a GET; `None`: connecting is enough.
    pub path: Option<String>,
    /// From the end of one round of checks to the next, give or take a tenth.
    pub interval: Duration,
    /// For one check, connecting included.
    pub timeout: Duration,
    /// Failures in a row; a failed connect of a request is one too.
    pub unhealthy_after: u32,
    /// Passed checks in a row.
    pub healthy_after: u32,
}
