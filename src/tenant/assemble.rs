//! A tenant's files and its rows in the registry → the tenant that is served.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Tenant, TenantDirectory, TenantEntry};
use crate::names::TenantId;
use crate::registry::{AnchorStatus, Registry, TenantState};
use crate::token::{MAX_LIFESPAN, MIN_LIFESPAN, SigningKeys};
use crate::trust::{Anchor, IdentityRule, MaterialKind, TrustMaterial, TrustStore};

/// The tenant option that sets the lifespan of tokens, in seconds: category and key, as the
/// platform names them.
pub const LIFESPAN_OPTION: (&str, &str) = ("oauth.internal", "device-token.lifespan.seconds");

/// Puts tenants together and remembers what they were made of: a tenant of which nothing has
/// changed comes out as the same `Arc`.
#[derive(Default)]
pub struct Assembly {
    made: HashMap<TenantId, Made>,
}

struct Made {
    compiled: Arc<Tenant>,
    state: Arc<TenantState>,
    edge_keys: Option<Arc<SigningKeys>>,
    entry: TenantEntry,
}

/// A row of the registry that cannot be used, and why. The tenant is served without it, where
/// that trusts less and not more; else not at all.
#[derive(Debug)]
pub struct RowFault {
    pub tenant: TenantId,
    pub reason: String,
}

impl Assembly {
    /// `compiled`: as the configuration has it. `edge_keys`: the keys of tenants without keys
    /// of their own; `None`: those that the configuration gave them.
    pub fn assemble(
        &mut self,
        compiled: &TenantDirectory,
        registry: &Registry,
        edge_keys: Option<&Arc<SigningKeys>>,
    ) -> (TenantDirectory, Vec<RowFault>) {
        let mut faults = Vec::new();
        let mut made = HashMap::with_capacity(self.made.len());
        let directory = compiled.map(|entry| {
            let TenantEntry::Serviceable(compiled) = entry else { return entry.clone() };
            let state = registry.tenant(&compiled.id);
            let edge_keys = edge_keys.filter(|_| !compiled.own_keys && compiled.tokens.is_some());
            let before = self.made.remove(&compiled.id);
            let now = match before {
                Some(made) if made.is_of(compiled, &state, edge_keys) => made,
                before => Made {
                    compiled: compiled.clone(),
                    edge_keys: edge_keys.cloned(),
                    entry: {
                        let trust = before.and_then(|made| made.trust_for(compiled, &state));
                        served(compiled, &state, edge_keys, trust, &mut faults)
                    },
                    state,
                },
            };
            let entry = now.entry.clone();
            made.insert(now.compiled.id.clone(), now);
            entry
        });
        self.made = made;
        (directory, faults)
    }
}

impl Made {
    fn is_of(
        &self,
        compiled: &Arc<Tenant>,
        state: &Arc<TenantState>,
        edge_keys: Option<&Arc<SigningKeys>>,
    ) -> bool {
        let same_keys = match (&self.edge_keys, edge_keys) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_keys && Arc::ptr_eq(&self.compiled, compiled) && Arc::ptr_eq(&self.state, state)
    }

    /// The trust store, where it is made of the same rows.
    fn trust_for(&self, compiled: &Arc<Tenant>, state: &TenantState) -> Option<Arc<TrustStore>> {
        let TenantEntry::Serviceable(tenant) = &self.entry else { return None };
        let same = Arc::ptr_eq(&self.compiled, compiled)
            && self.state.anchors == state.anchors
            && self.state.revocations == state.revocations;
        same.then(|| tenant.trust.clone())
    }
}

fn served(
    compiled: &Arc<Tenant>,
    state: &TenantState,
    edge_keys: Option<&Arc<SigningKeys>>,
    trust_of_before: Option<Arc<TrustStore>>,
    faults: &mut Vec<RowFault>,
) -> TenantEntry {
    let mut fault = |reason| faults.push(RowFault { tenant: compiled.id.clone(), reason });
    let lifespan = lifespan(state, &mut fault);
    let trusts_more = state.anchors.iter().any(|anchor| anchor.status == AnchorStatus::Enabled);
    if edge_keys.is_none() && lifespan.is_none() && !trusts_more && state.revocations.is_empty() {
        return TenantEntry::Serviceable(compiled.clone());
    }
    let trust = match trust_of_before {
        Some(trust) => trust,
        None if !trusts_more && state.revocations.is_empty() => compiled.trust.clone(),
        None => match trust(compiled, state, &mut fault) {
            Some(trust) => trust,
            None => return TenantEntry::Unavailable(compiled.id.clone()),
        },
    };
    let mut tenant = Tenant { trust, ..Tenant::clone(compiled) };
    if let Some(keys) = edge_keys {
        tenant.keys = keys.clone();
        tenant.managed_keys = true;
    }
    if let (Some(tokens), Some(lifespan)) = (&mut tenant.tokens, lifespan) {
        tokens.lifespan = lifespan;
    }
    TenantEntry::Serviceable(Arc::new(tenant))
}

fn lifespan(state: &TenantState, fault: &mut dyn FnMut(String)) -> Option<u32> {
    let (category, key) = LIFESPAN_OPTION;
    let value = state.options.get(&(category.to_owned(), key.to_owned()))?;
    let lifespan = value.parse().ok().filter(|v| (MIN_LIFESPAN..=MAX_LIFESPAN).contains(v));
    if lifespan.is_none() {
        fault(format!("the option {category}/{key} is not {MIN_LIFESPAN} to {MAX_LIFESPAN}"));
    }
    lifespan
}

/// The files' material and the registry's. An anchor that cannot be used is left out, which
/// trusts less; `None` where something else cannot, which could trust more.
fn trust(
    compiled: &Tenant,
    state: &TenantState,
    fault: &mut dyn FnMut(String),
) -> Option<Arc<TrustStore>> {
    let files = compiled.file_trust.material();
    let in_files: HashSet<[u8; 32]> =
        compiled.trust.anchors().iter().map(|anchor| anchor.sha256).collect();
    let mut rows = Vec::new();
    for row in state.anchors.iter().filter(|row| row.status == AnchorStatus::Enabled) {
        // What stands in a file goes by the file.
        if in_files.contains(&row.sha256) {
            continue;
        }
        match IdentityRule::parse(&row.identity) {
            Ok(identity) => rows.push(Anchor {
                der: row.der.clone(),
                auto_registration: row.auto_registration,
                identity,
                names_tenant: row.possession.confirmed,
            }),
            Err(reason) => fault(format!("the anchor {}: {reason}", hex(&row.sha256))),
        }
    }
    loop {
        let mut material: TrustMaterial = files.clone();
        let first = material.anchors.len();
        material.anchors.extend(rows.iter().cloned());
        material.revoked_serials = state.revocations.keys().cloned().collect();
        let found = match TrustStore::build(material) {
            Ok(store) => return Some(Arc::new(store)),
            Err(found) => found,
        };
        let mut unusable = Vec::new();
        for found in found {
            match found.index.checked_sub(first) {
                Some(index) if found.kind == MaterialKind::Anchor && index < rows.len() => {
                    unusable.push(index);
                }
                _ => {
                    fault(found.to_string());
                    return None;
                }
            }
            fault(found.to_string());
        }
        unusable.sort_unstable();
        unusable.dedup();
        for index in unusable.into_iter().rev() {
            rows.remove(index);
        }
    }
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
