//! What the trust room says about certificates, in the words of the API.

use std::sync::Arc;

use boring::sha::sha256;

use crate::tenant::{FileTrust, TenantEntry};
use crate::trust::{self, Anchor, IdentityRule};

pub use crate::trust::{CertificateFacts, verify_possession};

/// # Errors
/// Why this is no certificate.
pub fn facts(der: &[u8]) -> Result<CertificateFacts, String> {
    trust::certificate_facts(der).map_err(|fault| fault.to_string())
}

/// # Errors
/// Why no path may end in this certificate.
pub fn check_anchor(der: &[u8]) -> Result<(), String> {
    trust::check_anchor(der.to_vec())
}

/// # Errors
/// What is wrong with a rule of identity.
pub fn check_identity(text: &str) -> Result<(), String> {
    IdentityRule::parse(text).map(drop).map_err(|fault| fault.to_string())
}

/// The certificates of a PEM text, at most `limit`.
///
/// # Errors
/// What is wrong with it; a private key in it first of all.
pub fn certificates(text: &str, limit: usize) -> Result<Vec<Vec<u8>>, String> {
    trust::read_pem(text.as_bytes(), limit).map_err(|fault| fault.to_string())
}

/// An anchor of the configuration file.
pub struct FileAnchor {
    files: Arc<FileTrust>,
    index: usize,
    sha256: [u8; 32],
}

/// None where the tenant's files cannot be used. Hashes each.
pub fn file_anchors(entry: &TenantEntry) -> impl Iterator<Item = FileAnchor> + use<> {
    let files = match entry {
        TenantEntry::Serviceable(tenant) => Some(tenant.file_trust.clone()),
        TenantEntry::Unavailable(_) => None,
    };
    files.into_iter().flat_map(|files| {
        (0..files.material().anchors.len()).filter_map(move |index| {
            let sha256 = sha256(&files.material().anchors.get(index)?.der);
            Some(FileAnchor { files: files.clone(), index, sha256 })
        })
    })
}

/// The anchor of the configuration file with this DER, whose SHA-256 is `sha256`. Nothing is
/// hashed.
pub fn file_anchor(entry: &TenantEntry, der: &[u8], sha256: [u8; 32]) -> Option<FileAnchor> {
    let TenantEntry::Serviceable(tenant) = entry else { return None };
    let files = tenant.file_trust.clone();
    let index = files.material().anchors.iter().position(|anchor| anchor.der == der)?;
    Some(FileAnchor { files, index, sha256 })
}

/// How many the configuration file has.
pub fn file_anchor_count(entry: &TenantEntry) -> usize {
    match entry {
        TenantEntry::Serviceable(tenant) => tenant.file_trust.material().anchors.len(),
        TenantEntry::Unavailable(_) => 0,
    }
}

impl FileAnchor {
    fn anchor(&self) -> Option<&Anchor> {
        self.files.material().anchors.get(self.index)
    }

    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    pub fn der(&self) -> &[u8] {
        self.anchor().map_or(&[], |anchor| &anchor.der)
    }

    pub fn auto_registration(&self) -> bool {
        self.anchor().is_some_and(|anchor| anchor.auto_registration)
    }

    pub fn identity(&self) -> &str {
        self.anchor().map_or("", |anchor| anchor.identity.as_str())
    }
}
