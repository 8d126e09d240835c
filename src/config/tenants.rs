//! A tenant's model and files → `Tenant`.
//!
//! Every fault found here stands in a file that belongs to one tenant, so it makes that
//! tenant unavailable and no other.

use std::collections::HashMap;
use std::sync::Arc;

use super::check::{first_server_name, has_own_keys, rotation, tokens_enabled};
use super::fault::{Fault, Located, Source};
use super::files::{File, Files, certificate_fault, in_file, open};
use super::load::Loaded;
use super::reuse::{Print, Printed, Reused};
use super::tenant_model::TenantModel;
use super::token_model::KeyModel;
use super::trust_files::{TrustFiles, build_trust};
use super::upstream_model::CertificateModel;
use super::values::FileRef;
use crate::metrics::{Metrics, TenantMetrics};
use crate::server_certificate::{KeyKind, ServerCertificate, ServerCertificateFault};
use crate::tenant::{ClientCertificateMode, FileTrust, Tenant, TokenSource};
use crate::token::{Algorithm, KeyFault, ResponseType, SigningKeys, TokenSettings};
use crate::upstream::Pool;

/// Everything that tenants are made with.
pub struct TenantCompiler<'c> {
    pub loaded: &'c Loaded,
    pub pools: &'c HashMap<String, Printed<Pool>>,
    /// The MQTT brokers of the upstreams that have some.
    pub brokers: &'c HashMap<String, Printed<Pool>>,
    /// The edge's own; `None` where there are none, or they are faulty.
    pub keys: Option<&'c Printed<SigningKeys>>,
    pub files: &'c mut Files,
    pub reused: &'c mut Reused,
    pub metrics: &'c Arc<Metrics>,
}

/// A tenant's files, read.
struct Material {
    /// Chain and key.
    certificates: Vec<(Arc<File>, Arc<File>)>,
    trust: TrustFiles,
}

impl TenantCompiler<'_> {
    /// # Errors
    /// What keeps this tenant from being served; empty where the fault lies in a part of the
    /// edge that the tenant uses and is reported there.
    pub fn compile(
        &mut self,
        source: &Source,
        model: &TenantModel,
    ) -> Result<Arc<Tenant>, Vec<Fault>> {
        let mut faults = Vec::new();
        let keys = self.keys(source, model, &mut faults);
        let material = self.read(source, model, &mut faults);
        let pool = self.pools.get(&model.upstream.value);
        let parts = match (material, pool, keys) {
            (Some(material), Some(pool), Some(keys)) => (material, pool, keys),
            (Some(material), ..) => {
                self.build_parts(source, model, &material, &mut faults);
                return Err(faults);
            }
            (None, ..) => return Err(faults),
        };
        let (material, (pool, pool_print), (keys, keys_print)) = parts;
        let tokens = self.token_settings(model);
        // That there is no key at all, `check` has reported.
        if let Some(tokens) = tokens
            .as_ref()
            .filter(|tokens| !keys.is_empty() && !self.signs(model, &keys, tokens.algorithm))
        {
            let at = model.tokens.as_ref().map_or(model.at, |own| own.algorithm.at);
            let name = tokens.algorithm.name();
            let message = format!("no signing key of tenant `{}` is for {name}", model.id.value);
            faults.push(Fault::at(source, at, message).help("add a key of that kind"));
        }

        let mut print = Print::new("tenant");
        print.part(&model.digest).part(pool_print).part(&keys_print);
        let broker = self.brokers.get(&model.upstream.value);
        print.part(broker.map_or(&[], |(_, print)| print));
        if let Some(tokens) = &tokens {
            print.part(&tokens.lifespan.to_be_bytes());
        }
        material.print(&mut print);
        let print = print.finish();
        if faults.is_empty()
            && let Some(tenant) = self.reused.tenants.get(&print)
        {
            return Ok(tenant);
        }
        let Some((certificates, trust)) = self.build_parts(source, model, &material, &mut faults)
        else {
            return Err(faults);
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        self.reused.tenants.get_or_make(print, || {
            Ok(Arc::new(Tenant {
                id: model.id.value.clone(),
                server_names: model.server_names.iter().map(|name| name.value.clone()).collect(),
                client_certificate: model.client_certificate,
                trust: trust.store().clone(),
                file_trust: trust,
                complete_chain_from_header: model.complete_chain_from_header,
                send_ca_names: model.send_ca_names,
                certificates,
                upstream: pool.clone(),
                forward: model.forward.clone(),
                broker: broker.map(|(pool, _)| pool.clone()),
                broker_forward: Arc::new(model.mqtt.forward.clone()),
                tokens,
                token_source: match model.tokens.as_ref().is_some_and(|tokens| tokens.relay) {
                    true => TokenSource::Platform,
                    false => TokenSource::Edge,
                },
                bearers: model.bearers,
                keys,
                own_keys: has_own_keys(model),
                managed_keys: false,
                limits: model.limits,
                metrics: Arc::new(TenantMetrics::new(self.metrics.clone(), model.id.value.clone())),
            }))
        })
    }

    /// `None` where a file cannot be read.
    fn read(
        &mut self,
        source: &Source,
        model: &TenantModel,
        faults: &mut Vec<Fault>,
    ) -> Option<Material> {
        let mut all = |list: &mut dyn Iterator<Item = &FileRef>| -> Option<Vec<Arc<File>>> {
            let read: Vec<_> =
                list.map(|file| open(source, file, self.files.read(&file.path), faults)).collect();
            read.into_iter().collect()
        };
        let chains = all(&mut model.certificates.iter().map(|certificate| &certificate.chain));
        let trusted = all(&mut model.trusted.iter().flatten().map(|trusted| &trusted.file));
        let intermediates = all(&mut model.intermediates.iter());
        let crls = all(&mut model.crls.iter());
        let keys: Vec<_> = model
            .certificates
            .iter()
            .map(|certificate| {
                let file = &certificate.key;
                open(source, file, self.files.read_secret(&file.path), faults)
            })
            .collect();
        let keys: Option<Vec<_>> = keys.into_iter().collect();
        Some(Material {
            certificates: chains?.into_iter().zip(keys?).collect(),
            trust: TrustFiles { trusted: trusted?, intermediates: intermediates?, crls: crls? },
        })
    }

    /// Server certificates and trust store; `None` where one of them cannot be had.
    fn build_parts(
        &mut self,
        source: &Source,
        model: &TenantModel,
        material: &Material,
        faults: &mut Vec<Fault>,
    ) -> Option<(Vec<Arc<ServerCertificate>>, Arc<FileTrust>)> {
        let certificates = self.certificates(source, model, material, faults);
        let trust = self.trust(source, model, material, faults);
        Some((certificates?, trust?))
    }

    fn certificates(
        &mut self,
        source: &Source,
        model: &TenantModel,
        material: &Material,
        faults: &mut Vec<Fault>,
    ) -> Option<Vec<Arc<ServerCertificate>>> {
        let mut kinds: Vec<KeyKind> = Vec::new();
        let mut certificates = Vec::new();
        for (named, (chain, key)) in model.certificates.iter().zip(&material.certificates) {
            match make_certificate(chain, key, self.reused) {
                Ok(certificate) if kinds.contains(&certificate.key_kind()) => {
                    let fault = Fault::at(source, named.chain.at, "two certificates of one kind");
                    faults
                        .push(fault.help("a tenant has at most one ECDSA and one RSA certificate"));
                }
                Ok(certificate) => {
                    kinds.push(certificate.key_kind());
                    certificates.push(certificate);
                }
                Err(reason) => faults.push(certificate_fault(source, named, &reason)),
            }
        }
        (certificates.len() == model.certificates.len()).then_some(certificates)
    }

    fn trust(
        &mut self,
        source: &Source,
        model: &TenantModel,
        material: &Material,
        faults: &mut Vec<Fault>,
    ) -> Option<Arc<FileTrust>> {
        let print = material.trust.print(model);
        let trust = self
            .reused
            .trust
            .get_or_make(print, || build_trust(source, model, &material.trust))
            .map_err(|found| faults.extend(found))
            .ok()?;
        // Without the key, anchors are what the registry holds, be it nothing yet.
        if trust.store().is_empty()
            && model.trusted.is_some()
            && model.client_certificate != ClientCertificateMode::None
        {
            let message =
                format!("tenant `{}` asks for client certificates and trusts none", model.id.value);
            let help = "add `trusted_certificates`, or leave the key out where `portcullis trust \
                        add` brings them, or write `client_certificate: none`";
            faults.push(Fault::at(source, model.id.at, message).help(help));
            return None;
        }
        Some(trust)
    }

    /// The keys that sign and are published; `None` where they cannot be had.
    fn keys(
        &mut self,
        source: &Source,
        model: &TenantModel,
        faults: &mut Vec<Fault>,
    ) -> Option<Printed<SigningKeys>> {
        let own = model.tokens.as_ref().and_then(|tokens| tokens.signing_keys.as_deref());
        match own {
            _ if !tokens_enabled(self.loaded, model) => {
                signing_keys(source, &[], self.files, self.reused, faults)
            }
            Some(keys) => signing_keys(source, keys, self.files, self.reused, faults),
            // Whoever signs without any key, `check` has reported; a relay signs nothing.
            None if self.loaded.edge.tokens.is_none() => {
                signing_keys(source, &[], self.files, self.reused, faults)
            }
            None => self.keys.cloned(),
        }
    }

    /// Whether there is, or will be, a key that signs by this algorithm.
    fn signs(&self, model: &TenantModel, keys: &SigningKeys, algorithm: Algorithm) -> bool {
        keys.has(algorithm)
            || (!has_own_keys(model)
                && rotation(self.loaded).is_some_and(|made| made.algorithms.contains(&algorithm)))
    }

    fn token_settings(&self, model: &TenantModel) -> Option<TokenSettings> {
        if !tokens_enabled(self.loaded, model) {
            return None;
        }
        // Where the placeholder is used there is such a name: `check` has seen to it.
        let name = first_server_name(model).map(|name| name.as_str()).unwrap_or_default();
        let claim = |claim: Option<&Located<String>>| match claim {
            Some(claim) => claim.value.replace("{server_name}", name),
            None => name.to_owned(),
        };
        let own = model.tokens.as_ref();
        let inherited = self.loaded.edge.tokens.as_ref().map_or(3_600, |edge| edge.lifespan);
        Some(TokenSettings {
            issuer: claim(own.and_then(|own| own.issuer.as_ref())),
            audience: claim(own.and_then(|own| own.audience.as_ref())),
            lifespan: own.and_then(|own| own.lifespan).unwrap_or(inherited),
            algorithm: own.map_or(Algorithm::Es256, |own| own.algorithm.value),
            bind_certificate: own.is_some_and(|own| own.bind_certificate),
            response_type: own.map_or(ResponseType::Vendor, |own| own.response_type),
            oauth_issuer: own.filter(|own| own.oauth).map(|own| match &own.oauth_issuer {
                Some(issuer) => claim(Some(issuer)),
                None => format!("https://{name}"),
            }),
        })
    }
}

impl Material {
    fn print(&self, print: &mut Print) {
        // How many files there are of each kind, the digest of the mapping says.
        for file in self.certificates.iter().flat_map(|(chain, key)| [chain, key]) {
            print.part(&file.sha256);
        }
        for file in self.trust.all() {
            print.part(&file.sha256);
        }
    }
}

/// Loads a server certificate, or takes over the same one; `None` where its fault has been
/// reported.
pub fn certificate(
    source: &Source,
    named: &CertificateModel,
    files: &mut Files,
    reused: &mut Reused,
    faults: &mut Vec<Fault>,
) -> Option<Arc<ServerCertificate>> {
    let chain = open(source, &named.chain, files.read(&named.chain.path), faults);
    let key = open(source, &named.key, files.read_secret(&named.key.path), faults);
    let (chain, key) = (chain?, key?);
    make_certificate(&chain, &key, reused)
        .map_err(|reason| faults.push(certificate_fault(source, named, &reason)))
        .ok()
}

fn make_certificate(
    chain: &File,
    key: &File,
    reused: &mut Reused,
) -> Result<Arc<ServerCertificate>, ServerCertificateFault> {
    let mut print = Print::new("certificate");
    print.part(&chain.sha256).part(&key.sha256);
    reused.certificates.get_or_make(print.finish(), || {
        ServerCertificate::from_pem(&chain.bytes, &key.bytes).map(Arc::new)
    })
}

/// Loads signing keys, or takes over the same ones.
pub fn signing_keys(
    source: &Source,
    models: &[KeyModel],
    files: &mut Files,
    reused: &mut Reused,
    faults: &mut Vec<Fault>,
) -> Option<Printed<SigningKeys>> {
    let mut print = Print::new("signing keys");
    let read: Vec<_> = models
        .iter()
        .map(|key| open(source, &key.file, files.read_secret(&key.file.path), faults))
        .collect();
    let read = read.into_iter().collect::<Option<Vec<_>>>()?;
    for (key, file) in models.iter().zip(&read) {
        print.part(key.kid.value.as_bytes()).part(&file.sha256);
    }
    let print = print.finish();
    let keys = reused.keys.get_or_make(print, || {
        let pems = models.iter().zip(&read);
        let pems = pems.map(|(key, file)| (key.kid.value.clone(), file.bytes.clone())).collect();
        SigningKeys::load(pems).map(Arc::new)
    });
    match keys {
        Ok(keys) => Some((keys, print)),
        Err(found) => {
            for (index, reason) in found {
                let Some(key) = models.get(index) else { continue };
                match reason {
                    // `check` has reported it.
                    KeyFault::DuplicateKid { .. } => {}
                    KeyFault::BadKid => {
                        let fault = Fault::at(source, key.kid.at, reason.to_string());
                        faults.push(fault.help("such as `k1`"));
                    }
                    _ => faults.push(in_file(source, &key.file, &reason)),
                }
            }
            None
        }
    }
}
