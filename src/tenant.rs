//! A tenant as the edge serves it, and the directory that finds one by server name.
//!
//! Both are immutable. A change of configuration compiles a new directory, which shares
//! every unchanged `Arc<Tenant>` with the old one, and swaps it in whole.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use boring::sha::Sha256;

use crate::metrics::TenantMetrics;
use crate::names::{ServerName, ServerPattern, TenantId};
use crate::server_certificate::ServerCertificate;
use crate::token::{SigningKeys, TokenSettings};
use crate::trust::TrustStore;
use crate::upstream::{ForwardSettings, Pool};

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

/// Everything that the data path needs of a tenant.
pub struct Tenant {
    pub id: TenantId,
    pub server_names: Vec<ServerPattern>,
    pub client_certificate: ClientCertificateMode,
    pub trust: Arc<TrustStore>,
    /// A device that presents only its leaf may complete its chain by the header
    /// `X-Ssl-Cert-Chain`.
    pub complete_chain_from_header: bool,
    /// Send the anchors' subjects in CertificateRequest.
    pub send_ca_names: bool,
    /// One ECDSA and one RSA at most.
    pub certificates: Vec<Arc<ServerCertificate>>,
    pub upstream: Arc<Pool>,
    pub forward: ForwardSettings,
    /// `None`: the token endpoint is off and answers 404.
    pub tokens: Option<TokenSettings>,
    pub keys: Arc<SigningKeys>,
    pub limits: TenantLimits,
    pub metrics: TenantMetrics,
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

/// What stands behind a server name.
#[derive(Clone)]
pub enum TenantEntry {
    Serviceable(Arc<Tenant>),
    /// Configured, but its trust store or certificate could not be loaded: refused, never
    /// served by a laxer rule.
    Unavailable(TenantId),
}

impl TenantEntry {
    pub fn id(&self) -> &TenantId {
        match self {
            TenantEntry::Serviceable(tenant) => &tenant.id,
            TenantEntry::Unavailable(id) => id,
        }
    }
}

/// Finds tenants by server name; the cost of a look-up does not grow with their number.
#[derive(Default)]
pub struct TenantDirectory {
    exact: HashMap<ServerName, TenantEntry>,
    wildcard: HashMap<ServerName, TenantEntry>,
    by_id: HashMap<TenantId, TenantEntry>,
}

/// Two tenants want one name.
#[derive(Debug, thiserror::Error)]
#[error("tenants '{first}' and '{second}' both claim {what}")]
pub struct TenantConflict {
    pub first: TenantId,
    pub second: TenantId,
    pub what: String,
}

impl TenantDirectory {
    /// Adds a tenant under its id and its names.
    ///
    /// # Errors
    /// Where the id or a name is taken; the directory must then be dropped.
    pub fn add(
        &mut self,
        entry: TenantEntry,
        names: &[ServerPattern],
    ) -> Result<(), TenantConflict> {
        let second = entry.id().clone();
        let conflict = |taken: &TenantEntry, what: String| TenantConflict {
            first: taken.id().clone(),
            second: second.clone(),
            what,
        };
        match self.by_id.entry(second.clone()) {
            Entry::Occupied(taken) => return Err(conflict(taken.get(), "the same id".into())),
            Entry::Vacant(free) => free.insert(entry.clone()),
        };
        for pattern in names {
            let slot = match pattern {
                ServerPattern::Exact(name) => self.exact.entry(name.clone()),
                ServerPattern::Wildcard(name) => self.wildcard.entry(name.clone()),
            };
            match slot {
                Entry::Occupied(taken) => return Err(conflict(taken.get(), pattern.to_string())),
                Entry::Vacant(free) => free.insert(entry.clone()),
            };
        }
        Ok(())
    }

    /// Puts tenants in the place of those that are unavailable under the same ids. They are
    /// found by the names that the unavailable ones claim.
    pub fn restore(&mut self, tenants: &HashMap<TenantId, Arc<Tenant>>) {
        let slots = self.exact.values_mut().chain(self.wildcard.values_mut());
        for entry in slots.chain(self.by_id.values_mut()) {
            if let TenantEntry::Unavailable(id) = entry
                && let Some(tenant) = tenants.get(id)
            {
                *entry = TenantEntry::Serviceable(tenant.clone());
            }
        }
    }

    /// Exact name first, then the longest wildcard.
    pub fn find(&self, name: &ServerName) -> Option<&TenantEntry> {
        if let Some(entry) = self.exact.get(name) {
            return Some(entry);
        }
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(entry) = self.wildcard.get(parent) {
                return Some(entry);
            }
            rest = parent;
        }
        None
    }

    pub fn by_id(&self, id: &TenantId) -> Option<&TenantEntry> {
        self.by_id.get(id)
    }

    pub fn entries(&self) -> impl Iterator<Item = &TenantEntry> {
        self.by_id.values()
    }

    /// Tenants that can be served.
    pub fn serviceable(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.entries().filter_map(|entry| match entry {
            TenantEntry::Serviceable(tenant) => Some(tenant),
            TenantEntry::Unavailable(_) => None,
        })
    }
}
