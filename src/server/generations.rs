//! What is in force: compiled from the files, put together with the registry, swapped whole.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use super::rotation::Rotation;
use crate::config::{Compiled, Compiler, Fault, Faults, Settings};
use crate::listen::{Edge, Generation};
use crate::metrics::{CertificateKind, Metrics};
use crate::registry::Registry;
use crate::tenant::{Assembly, TenantDirectory, TenantEntry};
use crate::token::SigningKeys;

/// Makes one generation after the other. Both a reload of the files and a change of the
/// registry make one; they take turns.
pub struct Generations {
    file: PathBuf,
    /// Of the start: what a reload cannot change is compared with these.
    settings: Settings,
    registry: Arc<Registry>,
    rotation: Option<Arc<Rotation>>,
    metrics: Arc<Metrics>,
    /// Held for a whole reload, so that these take turns.
    compiler: Mutex<Compiler>,
    state: Mutex<State>,
    file_keys: ArcSwapOption<SigningKeys>,
}

struct State {
    /// As the files have it, without what the registry adds.
    compiled: Compiled,
    assembly: Assembly,
    /// Of the last generation.
    number: u64,
    version: u64,
    keys: Option<Arc<SigningKeys>>,
    /// Keys of files that sign on until a restart brings those that are made here.
    held_keys: Option<Arc<SigningKeys>>,
}

impl Generations {
    pub fn new(
        file: PathBuf,
        compiler: Compiler,
        compiled: Compiled,
        registry: Arc<Registry>,
        rotation: Option<Arc<Rotation>>,
        metrics: Arc<Metrics>,
    ) -> Generations {
        Generations {
            file,
            settings: compiled.settings.clone(),
            file_keys: ArcSwapOption::new(compiled.edge_keys.clone()),
            registry,
            rotation,
            metrics,
            compiler: Mutex::new(compiler),
            state: Mutex::new(State {
                compiled,
                assembly: Assembly::default(),
                number: 0,
                version: 0,
                keys: None,
                held_keys: None,
            }),
        }
    }

    /// The generation that the edge starts with.
    pub fn first(&self) -> Generation {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.announce_unavailable(&state.compiled);
        self.next(&mut state)
    }

    /// Takes in what has changed in the registry, and keys whose time has come.
    pub fn follow(&self, edge: &Edge) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let version = *self.registry.changes().borrow();
        let same_keys = match (&state.keys, self.keys(&state)) {
            (Some(known), Some(now)) => Arc::ptr_eq(known, &now),
            (None, None) => true,
            _ => false,
        };
        if version == state.version && same_keys {
            return;
        }
        let next = self.next(&mut state);
        tracing::debug!(
            target: "portcullis::registry",
            generation = next.number,
            version,
            "a change of the registry is in force"
        );
        edge.swap(next);
    }

    /// Compiles the files anew and swaps the outcome in whole.
    ///
    /// # Errors
    /// Every fault. Where they concern the edge as a whole, the running configuration stays in
    /// force; where they concern single tenants that are being served, these stay as they are
    /// and everything else is swapped in.
    pub fn reload(&self, edge: &Edge, started: impl FnOnce(&Compiled)) -> Result<(), Faults> {
        let began = Instant::now();
        let mut compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let mut compiled = match compiler.compile(&self.file) {
            Ok(compiled) => compiled,
            Err(faults) => return Err(self.reload_failed(faults)),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rotation.is_none() && compiled.settings.rotation.is_some() {
            // Keys are made here only after a restart: until then the old ones sign.
            compiled.edge_keys = state.compiled.edge_keys.clone();
            state.held_keys = compiled.edge_keys.clone();
        } else {
            state.held_keys = None;
        }
        let kept = keep_running(&state.compiled.directory, &mut compiled);
        for what in self.settings.needing_restart(&compiled.settings) {
            tracing::warn!(
                target: "portcullis::config",
                setting = what,
                "this change takes effect after a restart"
            );
        }
        self.announce_unavailable(&compiled);
        started(&compiled);
        let tenants = compiled.directory.entries().count();
        self.file_keys.store(compiled.edge_keys.clone());
        state.compiled = compiled;
        let next = self.next(&mut state);
        let number = next.number;
        edge.swap(next);
        if !kept.is_empty() {
            return Err(self.reload_failed(Faults(kept)));
        }
        self.metrics.config_reloads_ok.inc();
        self.metrics.config_reload_successful.set(1);
        tracing::info!(
            target: "portcullis::config",
            generation = number,
            tenants,
            duration_ms = began.elapsed().as_secs_f64() * 1e3,
            "configuration in force"
        );
        Ok(())
    }

    /// The edge's keys of the configuration's files. Does not wait for a reload.
    pub fn file_keys(&self) -> Option<Arc<SigningKeys>> {
        self.file_keys.load_full()
    }

    fn next(&self, state: &mut State) -> Generation {
        // Before the registry is read: what changes meanwhile is read again.
        let version = *self.registry.changes().borrow();
        let keys = self.keys(state);
        let (directory, faults) =
            state.assembly.assemble(&state.compiled.directory, &self.registry, keys.as_ref());
        // Not before it is done: what failed half-way is tried again.
        (state.version, state.keys) = (version, keys);
        for fault in faults {
            tracing::error!(
                target: "portcullis::registry",
                tenant = fault.tenant.as_str(),
                reason = fault.reason,
                "a row of the registry cannot be used"
            );
        }
        self.measure(&directory);
        state.number += 1;
        let settings = &state.compiled.settings;
        Generation {
            number: state.number,
            registry_version: state.version,
            limits: settings.limits,
            log_requests: settings.log.requests,
            directory,
        }
    }

    /// The keys of tenants without keys of their own, where the edge makes keys itself.
    fn keys(&self, state: &State) -> Option<Arc<SigningKeys>> {
        match &self.rotation {
            Some(rotation) => Some(rotation.keys(state.compiled.edge_keys.as_ref())),
            None => state.held_keys.clone(),
        }
    }

    fn reload_failed(&self, faults: Faults) -> Faults {
        self.metrics.config_reloads_failed.inc();
        self.metrics.config_reload_successful.set(0);
        tracing::error!(
            target: "portcullis::config",
            file = %self.file.display(),
            "reload failed; only what these faults concern stays as it was, be it the edge as a \
             whole or single tenants:\n{faults}"
        );
        faults
    }

    fn announce_unavailable(&self, compiled: &Compiled) {
        for (tenant, faults) in &compiled.unavailable {
            tracing::error!(
                target: "portcullis::config",
                tenant = tenant.as_str(),
                "this tenant is not served:\n{faults}"
            );
        }
    }

    /// Sets the gauges of a generation.
    fn measure(&self, directory: &TenantDirectory) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (mut serviceable, mut refused) = (0, 0);
        let mut expiries = Vec::new();
        let shown = self.settings.listeners.iter().filter_map(|l| l.tenant_by_certificate.as_ref());
        expiries.extend(shown.map(|certificate| {
            (CertificateKind::Server, *certificate.sha256(), certificate.not_after())
        }));
        for entry in directory.entries() {
            let TenantEntry::Serviceable(tenant) = entry else {
                refused += 1;
                continue;
            };
            serviceable += 1;
            for certificate in &tenant.certificates {
                let sha256 = *certificate.sha256();
                expiries.push((CertificateKind::Server, sha256, certificate.not_after()));
            }
            for anchor in tenant.trust.anchors() {
                expiries.push((CertificateKind::Anchor, anchor.sha256, anchor.not_after));
            }
        }
        self.metrics.tenants_serviceable.set(count(serviceable));
        self.metrics.tenants_refused.set(count(refused));
        expiries.sort_unstable_by_key(|(kind, sha256, _)| (*kind as u8, *sha256));
        expiries.dedup();
        self.metrics.set_certificate_expiry(expiries);
    }
}

/// A tenant that is served now and whose files have broken keeps its running state: a reload
/// takes nobody down. One that was not served before stays refused. Gives the faults of those
/// that were kept.
fn keep_running(running: &TenantDirectory, compiled: &mut Compiled) -> Vec<Fault> {
    let mut kept = HashMap::new();
    let mut faults = Vec::new();
    compiled.unavailable.retain(|(id, found)| match running.by_id(id) {
        Some(TenantEntry::Serviceable(tenant)) => {
            kept.insert(id.clone(), tenant.clone());
            faults.extend(found.0.iter().cloned());
            false
        }
        _ => true,
    });
    if !kept.is_empty() {
        compiled.directory = compiled.directory.map(|entry| match kept.get(entry.id()) {
            Some(tenant) => TenantEntry::Serviceable(tenant.clone()),
            None => entry.clone(),
        });
    }
    faults
}
