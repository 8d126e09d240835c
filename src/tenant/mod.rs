//! A tenant as the edge serves it, and the directory that finds one by server name or by a
//! device's certificate.
//!
//! Both are immutable. The configuration compiles a tenant from its files; [`Assembly`] adds
//! what the registry holds for it. A change of either makes a new directory, which shares
//! every unchanged `Arc<Tenant>` with the old one, and swaps it in whole.

mod assemble;
mod directory;

use std::sync::Arc;

use boring::sha::Sha256;

use crate::metrics::TenantMetrics;
use crate::names::{ServerPattern, TenantId};
use crate::server_certificate::ServerCertificate;
use crate::token::{SigningKeys, TokenSettings};
use crate::trust::{TrustFault, TrustMaterial, TrustStore};
use crate::upstream::{BrokerForward, ForwardSettings, Pool};

pub use assemble::{Assembly, LIFESPAN_OPTION, RowFault};
pub use directory::{Candidates, TenantConflict, TenantDirectory, TenantEntry};

/// Whether a device must show a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificateMode {
    /// The handshake fails without one.
    Required,
    /// Asked for; a device without one is served as anonymous.
    Optional,
    /// Not asked for.
    None,
}

impl ClientCertificateMode {
    fn label(self) -> &'static str {
        match self {
            ClientCertificateMode::Required => "required",
            ClientCertificateMode::Optional => "optional",
            ClientCertificateMode::None => "none",
        }
    }
}

/// Bounds of one tenant.
#[derive(Clone, Copy, Debug)]
pub struct TenantLimits {
    /// Open connections at one time.
    pub connections: usize,
    /// Bytes of one request's body.
    pub body_bytes: u64,
}

/// Who makes a tenant's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The edge signs them.
    Edge,
    /// The platform does; the edge fetches them with the validated chain and hands them on.
    Platform,
}

/// What happens to bearer tokens of requests that are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearers {
    /// Tokens of the edge's own are verified before they are forwarded.
    pub verify: bool,
    pub foreign: ForeignBearers,
}

/// Bearer tokens that are not the edge's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignBearers {
    /// Forwarded untouched: the platform knows them.
    Pass,
    Refuse,
}

impl Default for Bearers {
    fn default() -> Bearers {
        Bearers { verify: false, foreign: ForeignBearers::Pass }
    }
}

/// Everything that the data path needs of a tenant.
#[derive(Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub server_names: Vec<ServerPattern>,
    pub client_certificate: ClientCertificateMode,
    /// The anchors, CRLs and revocations of its files and of the registry.
    pub trust: Arc<TrustStore>,
    /// What its files alone say.
    pub file_trust: Arc<FileTrust>,
    /// A device that presents only its leaf may complete its chain by the header
    /// `X-Ssl-Cert-Chain`.
    pub complete_chain_from_header: bool,
    /// Send the anchors' subjects in CertificateRequest.
    pub send_ca_names: bool,
    /// One ECDSA and one RSA at most.
    pub certificates: Vec<Arc<ServerCertificate>>,
    pub upstream: Arc<Pool>,
    pub forward: ForwardSettings,
    /// MQTT; `None`: not for this tenant.
    pub broker: Option<Arc<Pool>>,
    pub broker_forward: Arc<BrokerForward>,
    /// `None`: the token endpoint is off and answers 404.
    pub tokens: Option<TokenSettings>,
    pub token_source: TokenSource,
    pub bearers: Bearers,
    pub keys: Arc<SigningKeys>,
    /// `keys` are the tenant's, not those of the edge as a whole.
    pub own_keys: bool,
    /// `keys` rotate by themselves and are shared with other nodes.
    pub managed_keys: bool,
    pub limits: TenantLimits,
    pub metrics: Arc<TenantMetrics>,
}

impl Tenant {
    /// What every session ticket of this tenant is bound to: a hash of the tenant's id, its
    /// trust epoch and its certificate mode. Nodes and restarts that agree on these agree on
    /// it; a ticket made under another one makes a full handshake.
    pub fn session_context(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"portcullis session context\0");
        hash.update(self.id.as_str().as_bytes());
        hash.update(b"\0");
        hash.update(self.client_certificate.label().as_bytes());
        hash.update(b"\0");
        hash.update(self.trust.epoch().as_bytes());
        hash.finish()
    }
}

/// The trust of a tenant's files: the store, and the material that the registry adds to.
pub struct FileTrust {
    material: TrustMaterial,
    store: Arc<TrustStore>,
}

impl FileTrust {
    /// # Errors
    /// As [`TrustStore::build`].
    pub fn build(material: TrustMaterial) -> Result<FileTrust, Vec<TrustFault>> {
        let store = Arc::new(TrustStore::build(material.clone())?);
        Ok(FileTrust { material, store })
    }

    pub fn material(&self) -> &TrustMaterial {
        &self.material
    }

    pub fn store(&self) -> &Arc<TrustStore> {
        &self.store
    }
}
