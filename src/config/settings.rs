//! What is the same for all tenants.

use std::sync::Arc;
use std::time::Duration;

use super::check;
use super::edge_files::EdgeFiles;
use super::load::Loaded;
use super::model::{ListenerModel, LogSettings};
use crate::admin_settings::AdminSettings;
use crate::limits::Limits;
use crate::listen::Listener;
use crate::registry::RegistrySettings;
use crate::server_certificate::ServerCertificate;
use crate::token::{KeySecret, RotationSettings};

/// No `Debug`: it holds secrets.
#[derive(Clone)]
pub struct Settings {
    /// Threads that serve devices.
    pub workers: usize,
    pub listeners: Vec<Listener>,
    /// Where the admin API, metrics, health and readiness are served.
    pub admin: AdminSettings,
    pub registry: RegistrySettings,
    /// Signing keys that the edge makes itself, and what seals them.
    pub rotation: Option<(RotationSettings, KeySecret)>,
    /// SHA-256 of the configured secret; `None`: one is drawn at each start.
    pub ticket_secret: Option<[u8; 32]>,
    /// How long a ticket key seals; it opens for twice as long.
    pub ticket_rotation: Duration,
    pub limits: Limits,
    /// Chain verdicts that are remembered; each takes up to about 8 KiB.
    pub verdict_cache: u64,
    /// Current tokens that are remembered; each takes about 2 KiB.
    pub token_cache: u64,
    /// Tenants that get metric series of their own.
    pub tenant_series: usize,
    pub log: LogSettings,
    /// How long open requests may take to end when the edge stops.
    pub drain_timeout: Duration,
}

impl Settings {
    pub(super) fn new(loaded: &Loaded, files: EdgeFiles) -> Settings {
        let edge = &loaded.edge;
        let caches = &edge.limits.caches;
        Settings {
            workers: edge.workers,
            listeners: edge.listeners.iter().zip(files.by_certificate).map(listener).collect(),
            admin: files.admin,
            registry: RegistrySettings {
                url: files.registry_url,
                max_staleness: edge.registry.max_staleness,
                poll: edge.registry.poll,
            },
            rotation: check::rotation_settings(loaded).zip(files.key_secret),
            ticket_secret: files.ticket_secret,
            ticket_rotation: edge.tickets.rotate,
            limits: edge.limits.limits,
            verdict_cache: caches.verdicts,
            token_cache: caches.tokens,
            tenant_series: caches.tenant_series,
            log: edge.log,
            drain_timeout: edge.drain_timeout,
        }
    }

    /// What differs in `new` and is read at a start only.
    pub fn needing_restart<'s>(&'s self, new: &'s Settings) -> impl Iterator<Item = &'static str> {
        [
            ("workers", self.workers != new.workers),
            ("listeners", self.listeners != new.listeners),
            ("admin", self.admin != new.admin),
            ("registry", self.registry != new.registry),
            ("tokens.rotation", self.rotation != new.rotation),
            ("session_tickets.secret_file", self.ticket_secret != new.ticket_secret),
            ("session_tickets.rotate", self.ticket_rotation != new.ticket_rotation),
            ("limits.idle_timeout, for h2", self.limits.idle_timeout != new.limits.idle_timeout),
            ("limits.header_bytes, for h2", self.limits.header_bytes != new.limits.header_bytes),
            ("limits.verdict_cache", self.verdict_cache != new.verdict_cache),
            ("limits.token_cache", self.token_cache != new.token_cache),
            ("limits.tenant_series", self.tenant_series != new.tenant_series),
            ("log.format", self.log.format != new.log.format),
            ("log.level", self.log.level != new.log.level),
            ("drain_timeout", self.drain_timeout != new.drain_timeout),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
    }
}

fn listener((model, by_certificate): (&ListenerModel, Option<Arc<ServerCertificate>>)) -> Listener {
    Listener {
        protocol: model.protocol,
        bind: model.bind.value,
        default_tenant: model.default_tenant.as_ref().map(|id| id.value.clone()),
        tenant_by_certificate: by_certificate,
        proxy_protocol: model.proxy_protocol.clone(),
        client_certificates: model.client_certificates,
    }
}
