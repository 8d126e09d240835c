//! The operators' port: the admin API, and metrics, health and readiness. Never reachable
//! through a listener of devices.
//!
//! A request passes [`host`] (under which name was it sent, by whose page), [`auth`] (who
//! sends it, and how often) and, in [`ask`], the bounds of its principal: a viewer changes
//! nothing, and a credential that is bound to a tenant finds no other. What it may change goes
//! through [`crate::registry::Registry::apply`], which writes the audit trail in the same
//! transaction. Paths and bodies are those of the platform where it has the like; everything
//! is described in `openapi.json`, which the API serves.

mod ask;
mod audit;
mod auth;
mod body;
mod bulk;
mod certificates;
mod connection;
mod crl;
mod csv;
mod devices;
mod error;
mod host;
mod keys;
mod options;
mod places;
mod possession;
mod probes;
mod routes;
mod tenants;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod trusted;

use std::sync::Arc;
use std::time::Duration;

use boring::error::ErrorStack;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use self::auth::Authenticator;
use self::error::ApiError;
use self::places::Places;
use self::tls::Tls;
use crate::admin_settings::AdminSettings;
use crate::listen::Edge;
use crate::server_certificate::ServerCertificateFault;

pub use self::keys::{KeyControl, KeyControlFault, KeyInfo};

/// Bulk registrations at one time.
const UPLOADS: usize = 4;
/// Pieces of work at one time that would hold up a thread which serves others: parsing and
/// checking many certificates, writing a CRL.
const WORKS: usize = 4;
/// Newcomers that wait where every connection is being answered, and how often they look.
const WAITING: usize = 64;
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: usize = 40;

/// What every request of the port shares.
pub struct Admin {
    edge: Arc<Edge>,
    keys: Arc<dyn KeyControl>,
    auth: Authenticator,
    hosts: Vec<String>,
    tls: Option<Arc<Tls>>,
    uploads: Semaphore,
    works: Arc<Semaphore>,
}

/// The port, ready to be served.
pub struct AdminPort(Arc<Admin>);

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminFault {
    #[error("admin.tls.certificate: {0}")]
    Certificate(#[from] ServerCertificateFault),
    #[error("admin.tls.client_ca: the file holds no PEM certificate")]
    ClientCa,
    #[error("admin.tls cannot be set up")]
    Tls(#[from] ErrorStack),
}

impl AdminPort {
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(
        settings: AdminSettings,
        edge: Arc<Edge>,
        keys: Arc<dyn KeyControl>,
    ) -> Result<AdminPort, AdminFault> {
        let tls = settings.tls.as_ref().map(Tls::new).transpose()?.map(Arc::new);
        let clock = edge.gate.clock().clone();
        Ok(AdminPort(Arc::new(Admin {
            auth: Authenticator::new(settings.credentials, clock),
            hosts: settings.hosts,
            tls,
            edge,
            keys,
            uploads: Semaphore::new(UPLOADS),
            works: Arc::new(Semaphore::new(WORKS)),
        })))
    }

    /// Serves until the process ends.
    pub async fn serve(self, listener: TcpListener) {
        let AdminPort(admin) = self;
        let router = routes::router(admin.clone());
        let places = Arc::new(Places::default());
        let waiting = Arc::new(Semaphore::new(WAITING));
        loop {
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!(target: "portcullis::admin", %error, "accept failed");
                    sleep(LOOK).await;
                    continue;
                }
            };
            let (router, tls) = (router.clone(), admin.tls.clone());
            if let Some(place) = places.enter(peer.ip()) {
                tokio::spawn(connection::serve(tcp, peer, tls, router, place));
                continue;
            }
            let Ok(turn) = waiting.clone().try_acquire_owned() else { continue };
            let places = places.clone();
            tokio::spawn(async move {
                for _ in 0..LOOKS {
                    sleep(LOOK).await;
                    if let Some(place) = places.enter(peer.ip()) {
                        drop(turn);
                        return connection::serve(tcp, peer, tls, router, place).await;
                    }
                }
            });
        }
    }
}

impl Admin {
    /// Does what takes long away from the threads that serve. Work that has begun keeps its place
    /// until it is done, also where nobody waits for it any more.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let failed = || ApiError::internal("The request could not be worked on.");
        let place = self.works.clone().acquire_owned().await.map_err(|_| failed())?;
        let placed = move || {
            let done = work();
            drop(place);
            done
        };
        tokio::task::spawn_blocking(placed).await.map_err(|_| failed())
    }
}
