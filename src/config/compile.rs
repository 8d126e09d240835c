//! Files → everything that the edge runs by.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::check;
use super::edge_files::EdgeFiles;
use super::fault::{Fault, Faults};
use super::files::Files;
use super::load::{Loaded, load};
use super::pools;
use super::reuse::{Printed, Reused};
use super::settings::Settings;
use super::tenants::{TenantCompiler, signing_keys};
use crate::metrics::Metrics;
use crate::names::TenantId;
use crate::tenant::{TenantDirectory, TenantEntry};
use crate::token::SigningKeys;
use crate::upstream::Pool;

/// Compiles a configuration, again and again as it changes.
///
/// Whatever is the same as in an earlier compile and still in use comes out as the same
/// `Arc`: a tenant, a pool, a trust store, a certificate, a set of signing keys. Content
/// counts, not names or times of files.
pub struct Compiler {
    metrics: Arc<Metrics>,
    reused: Reused,
}

/// What a configuration comes to.
pub struct Compiled {
    pub directory: TenantDirectory,
    /// Every pool of the file, whether a tenant uses it or not.
    pub pools: Vec<Arc<Pool>>,
    pub settings: Settings,
    /// The edge's own keys of `tokens.signing_keys`; `None` where there is no such section.
    pub edge_keys: Option<Arc<SigningKeys>>,
    /// Tenants whose own files cannot be used, and why: in `directory` they are
    /// [`TenantEntry::Unavailable`]. For a check each of these is a fault.
    pub unavailable: Vec<(TenantId, Faults)>,
}

impl Compiler {
    pub fn new(metrics: Arc<Metrics>) -> Compiler {
        Compiler { metrics, reused: Reused::default() }
    }

    /// Reads `file`, what it includes and what these name; each file once.
    ///
    /// # Errors
    /// Where the text of a configuration file is wrong, or a file that belongs to the edge or
    /// to a pool cannot be used. The faults of single tenants' files are then among them, so
    /// that everything is told at once. Without an error, those make tenants unavailable.
    pub fn compile(&mut self, file: &Path) -> Result<Compiled, Faults> {
        let compiled = self.attempt(file);
        self.reused.prune();
        compiled
    }

    fn attempt(&mut self, file: &Path) -> Result<Compiled, Faults> {
        let mut faults = Vec::new();
        let Some(loaded) = load(file, &mut faults) else { return Err(Faults::sorted(faults)) };
        check::cross_references(&loaded, &mut faults);

        let mut files = Files::default();
        let edge_files = EdgeFiles::read(&loaded, &mut files, &mut self.reused, &mut faults);
        let keys = self.edge_keys(&loaded, &mut files, &mut faults);
        let (source, models) = (&loaded.source, &loaded.edge.upstreams);
        let pools: HashMap<String, Printed<Pool>> = models
            .iter()
            .filter_map(|model| {
                let pools = &mut self.reused.pools;
                let pool =
                    pools::compile(source, model, &mut files, pools, &self.metrics, &mut faults)?;
                Some((model.name.value.clone(), pool))
            })
            .collect();

        let brokers: HashMap<String, Printed<Pool>> = models
            .iter()
            .filter_map(|model| {
                let pools = &mut self.reused.pools;
                let pool =
                    pools::compile_brokers(source, model, pools, &self.metrics, &mut faults)?;
                Some((model.name.value.clone(), pool))
            })
            .collect();

        let mut tenants = TenantCompiler {
            loaded: &loaded,
            pools: &pools,
            brokers: &brokers,
            keys: keys.as_ref(),
            files: &mut files,
            reused: &mut self.reused,
            metrics: &self.metrics,
        };
        let results: Vec<_> = loaded
            .tenants
            .iter()
            .map(|(source, model)| (model, tenants.compile(source, model)))
            .collect();

        if !faults.is_empty() || files.exposed() {
            faults.extend(results.into_iter().filter_map(|(_, result)| result.err()).flatten());
            return Err(Faults::sorted(faults));
        }
        let mut directory = TenantDirectory::default();
        let mut unavailable = Vec::new();
        for (model, result) in results {
            let id = model.id.value.clone();
            let names: Vec<_> = model.server_names.iter().map(|name| name.value.clone()).collect();
            let entry = match result {
                Ok(tenant) => TenantEntry::Serviceable(tenant),
                Err(faults) => {
                    unavailable.push((id.clone(), Faults::sorted(faults)));
                    TenantEntry::Unavailable(id)
                }
            };
            // `check` has seen to it that no two tenants claim one name.
            directory.add(entry, &names).map_err(|conflict| {
                Faults(vec![Fault::at(&loaded.source, model.at, conflict.to_string())])
            })?;
        }
        let pools = models.iter().flat_map(|model| {
            let name = &model.name.value;
            [pools.get(name), brokers.get(name)].into_iter().flatten()
        });
        Ok(Compiled {
            directory,
            pools: pools.map(|(pool, _)| pool.clone()).collect(),
            settings: Settings::new(&loaded, edge_files),
            edge_keys: keys.map(|(keys, _)| keys),
            unavailable,
        })
    }

    fn edge_keys(
        &mut self,
        loaded: &Loaded,
        files: &mut Files,
        faults: &mut Vec<Fault>,
    ) -> Option<Printed<SigningKeys>> {
        let keys = loaded.edge.tokens.as_ref()?.signing_keys.as_ref()?;
        signing_keys(&loaded.source, keys, files, &mut self.reused, faults)
    }
}
