//! Finds tenants: by server name, by id, and by the names of certificates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use boring::sha::sha256;

use super::Tenant;
use crate::names::{ServerName, ServerPattern, TenantId};

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
    /// By SHA-256 of the DER Name of an anchor or intermediate: the tenants that a device
    /// without SNI may come to by it.
    by_issuer: HashMap<[u8; 32], Vec<Arc<Tenant>>>,
}

/// Tenants that a chain may belong to.
pub enum Candidates {
    Few(Vec<Arc<Tenant>>),
    /// More than are tried: the chain decides nothing.
    TooMany,
}

/// Tenants that a chain is tried at; each costs a verification.
const MAX_CANDIDATES: usize = 16;

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

    /// The same directory with other tenants behind it. `change` is asked once for each
    /// entry; what it gives must have the same id.
    pub fn map(&self, mut change: impl FnMut(&TenantEntry) -> TenantEntry) -> TenantDirectory {
        let by_id: HashMap<_, _> =
            self.by_id.iter().map(|(id, entry)| (id.clone(), change(entry))).collect();
        let mapped = |slots: &HashMap<ServerName, TenantEntry>| {
            slots
                .iter()
                .filter_map(|(name, entry)| Some((name.clone(), by_id.get(entry.id())?.clone())))
                .collect()
        };
        let (exact, wildcard) = (mapped(&self.exact), mapped(&self.wildcard));
        let mut by_issuer: HashMap<[u8; 32], Vec<Arc<Tenant>>> = HashMap::new();
        for entry in by_id.values() {
            let TenantEntry::Serviceable(tenant) = entry else { continue };
            if !tenant.trust.anchors().iter().any(|anchor| anchor.names_tenant) {
                continue;
            }
            for subject in tenant.trust.subjects() {
                let tenants = by_issuer.entry(sha256(subject)).or_default();
                // One more than is ever looked at tells that they are too many.
                if tenants.len() <= MAX_CANDIDATES
                    && !tenants.iter().any(|known| Arc::ptr_eq(known, tenant))
                {
                    tenants.push(tenant.clone());
                }
            }
        }
        TenantDirectory { exact, wildcard, by_id, by_issuer }
    }

    /// Tenants of which some anchor or intermediate has one of these DER Names, and of which
    /// some anchor names its tenant.
    pub fn candidates<'n>(&self, issuers: impl IntoIterator<Item = &'n [u8]>) -> Candidates {
        let mut found: Vec<Arc<Tenant>> = Vec::new();
        for issuer in issuers {
            for tenant in self.by_issuer.get(&sha256(issuer)).into_iter().flatten() {
                if !found.iter().any(|known| Arc::ptr_eq(known, tenant)) {
                    found.push(tenant.clone());
                }
                if found.len() > MAX_CANDIDATES {
                    return Candidates::TooMany;
                }
            }
        }
        Candidates::Few(found)
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
