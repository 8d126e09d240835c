//! What is the same for all tenants.

use std::sync::Arc;
use std::time::Duration;

use super::check;
use super::edge_files::EdgeFiles;
use super::load::{Loaded, base};
use super::model::{ListenerModel, LogSettings};
use crate::admin_settings::AdminSettings;
use crate::limits::Limits;
use crate::listen::HttpsListener;
use crate::registry::RegistrySettings;
use crate::server_certificate::ServerCertificate;
use crate::token::{KeySecret, RotationSettings};

/// No `Debug`: it holds secrets.
#[derive(Clone)]
pub struct Settings {
    /// Threads that serve devices.
    pub workers: usize,
    pub listeners: Vec<HttpsListener>,
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
                url: registry_url(loaded, files.registry_password.as_deref()),
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

fn listener(
    (model, by_certificate): (&ListenerModel, Option<Arc<ServerCertificate>>),
) -> HttpsListener {
    HttpsListener {
        bind: model.bind.value,
        default_tenant: model.default_tenant.as_ref().map(|id| id.value.clone()),
        tenant_by_certificate: by_certificate,
        proxy_protocol: model.proxy_protocol.clone(),
        client_certificates: model.client_certificates,
    }
}

/// A relative path starts at the configuration file, wherever the edge is started.
fn registry_url(loaded: &Loaded, password: Option<&str>) -> String {
    let url = &loaded.edge.registry.url.value;
    let Some(path) = url.strip_prefix("sqlite:") else {
        return match password {
            Some(password) => with_password(url, password),
            None => url.clone(),
        };
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    let directory = base(&loaded.source).to_string_lossy();
    if path.starts_with(['/', ':']) || directory.is_empty() {
        return format!("sqlite:{path}");
    }
    format!("sqlite:{directory}/{path}")
}

/// As the query's parameter, which stands wherever the user does.
fn with_password(url: &str, password: &str) -> String {
    let mut escaped = String::with_capacity(password.len());
    for byte in password.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}password={escaped}")
}
