//! The files that are the edge's own, whoever its tenants are.

use std::sync::Arc;

use super::admin_model;
use super::check;
use super::fault::Fault;
use super::files::{Files, in_file, open};
use super::load::{Loaded, base};
use super::reuse::{Print, Reused};
use super::tenants::certificate;
use crate::admin_settings::AdminSettings;
use crate::registry;
use crate::server_certificate::ServerCertificate;
use crate::token::KeySecret;

/// What the edge's own files hold; each is empty where it is not configured, or its fault has
/// been reported.
pub struct EdgeFiles {
    pub admin: AdminSettings,
    pub ticket_secret: Option<[u8; 32]>,
    pub key_secret: Option<KeySecret>,
    /// With the password of its file.
    pub registry_url: String,
    /// One for each listener.
    pub by_certificate: Vec<Option<Arc<ServerCertificate>>>,
}

impl EdgeFiles {
    /// Reads all of them; each fault is reported where its file is named.
    pub fn read(
        loaded: &Loaded,
        files: &mut Files,
        reused: &mut Reused,
        faults: &mut Vec<Fault>,
    ) -> EdgeFiles {
        let (source, edge) = (&loaded.source, &loaded.edge);
        let by_certificate = edge.listeners.iter().map(|listener| {
            let named = listener.tenant_by_certificate.as_ref()?;
            certificate(source, named, files, reused, faults)
        });
        EdgeFiles {
            by_certificate: by_certificate.collect(),
            admin: admin_model::compile(source, &edge.admin, files, faults),
            ticket_secret: ticket_secret(loaded, files, faults),
            key_secret: key_secret(loaded, files, faults),
            registry_url: checked_registry_url(loaded, files, faults),
        }
    }
}

fn ticket_secret(loaded: &Loaded, files: &mut Files, faults: &mut Vec<Fault>) -> Option<[u8; 32]> {
    const LEAST: usize = 32;
    let named = loaded.edge.tickets.secret_file.as_ref()?;
    let file = open(&loaded.source, named, files.read_secret(&named.path), faults)?;
    if file.bytes.len() < LEAST {
        let message = format!("the ticket secret has fewer than {LEAST} octets");
        let help = "make one with `openssl rand -out tickets.secret 48`";
        faults.push(Fault::at(&loaded.source, named.at, message).help(help));
        return None;
    }
    let mut print = Print::new("ticket secret");
    print.part(&file.bytes);
    Some(print.finish())
}

fn key_secret(loaded: &Loaded, files: &mut Files, faults: &mut Vec<Fault>) -> Option<KeySecret> {
    let named = &check::rotation(loaded)?.secret_file;
    let file = open(&loaded.source, named, files.read_secret(&named.path), faults)?;
    let secret = KeySecret::from_bytes(&file.bytes);
    let fault = |reason| {
        in_file(&loaded.source, named, &reason)
            .help("make one with `openssl rand -out keys.secret 48`")
    };
    secret.map_err(|reason| faults.push(fault(reason))).ok()
}

fn checked_registry_url(loaded: &Loaded, files: &mut Files, faults: &mut Vec<Fault>) -> String {
    let named = &loaded.edge.registry.url;
    let url = registry_url(loaded, registry_password(loaded, files, faults).as_deref());
    if let Err(reason) = registry::check_url(&url) {
        let help = "see `registry.url` in the annotated example";
        faults.push(Fault::at(&loaded.source, named.at, reason.to_string()).help(help));
    } else if registry::is_unprotected(&url) {
        let message =
            "PostgreSQL on another machine, and nothing says how the way there is protected";
        let help = "add `?sslmode=verify-full` (with `sslrootcert=` and the absolute path of a CA of \
                    your own), or `?sslmode=disable` where the network is trusted: who is on the way \
                    can add an anchor";
        faults.push(Fault::at(&loaded.source, named.at, message).help(help));
    }
    url
}

fn registry_password(
    loaded: &Loaded,
    files: &mut Files,
    faults: &mut Vec<Fault>,
) -> Option<String> {
    let named = loaded.edge.registry.password_file.as_ref()?;
    let file = open(&loaded.source, named, files.read_secret(&named.path), faults)?;
    let line = str::from_utf8(&file.bytes).map(str::trim_ascii_end);
    match line {
        Ok(line) if !line.is_empty() && !line.chars().any(char::is_control) => {
            Some(line.to_owned())
        }
        _ => {
            faults.push(in_file(&loaded.source, named, &"not a password in one line of UTF-8"));
            None
        }
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
