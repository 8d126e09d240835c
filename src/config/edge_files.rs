//! The files that are the edge's own, whoever its tenants are.

use std::sync::Arc;

use super::admin_model;
use super::check;
use super::fault::Fault;
use super::files::{Files, in_file, open};
use super::load::Loaded;
use super::reuse::{Print, Reused};
use super::tenants::certificate;
use crate::admin_settings::AdminSettings;
use crate::server_certificate::ServerCertificate;
use crate::token::KeySecret;

/// What the edge's own files hold; each is empty where it is not configured, or its fault has
/// been reported.
pub struct EdgeFiles {
    pub admin: AdminSettings,
    pub ticket_secret: Option<[u8; 32]>,
    pub key_secret: Option<KeySecret>,
    pub registry_password: Option<String>,
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
            registry_password: registry_password(loaded, files, faults),
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
