//! Whom a tenant trusts: validates a device's certificate chain and says who the device is.
//!
//! A [`TrustStore`] is built once from a tenant's [`TrustMaterial`] and never changes. It
//! finds a path from the end-entity certificate to one of the tenant's anchors with BoringSSL's
//! libpki (RFC 5280 section 6, with backtracking), then holds it against the edge's profile:
//!
//! - Every certificate: X.509 v3; serial number positive and of at most 20 octets; key ECDSA on
//!   P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits; signed with one of these
//!   keys, ECDSA and RSA with SHA-256, SHA-384 or SHA-512. (libpki itself knows no Ed25519;
//!   `ed25519.cc` adds it.)
//! - Issuers: `CA:true`, keyCertSign where a key usage stands, policy limits critical.
//! - End-entity: not a CA; digitalSignature and no keyCertSign where a key usage stands;
//!   clientAuth or anyExtendedKeyUsage where an extended key usage stands (RFC 5280 section
//!   4.2.1.12 reads the latter as "not restricted", and so does this edge); no name
//!   constraints; DNS names that are DNS names.
//! - Identity: as the path's anchor says it ([`IdentityRule`]), a
//!   [`DeviceId`](crate::names::DeviceId). Unless it says otherwise: one common name in the
//!   whole subject, encoded as UTF8String, PrintableString or IA5String.
//!
//! Key identifiers guide the search and are not required. Anchors may be roots, self-signed
//! CAs or intermediates; their own dates and constraints count.
//!
//! **Revocation** is by the tenant's CRLs. An issuer is a name and a key. Where the tenant has
//! a CRL of an issuer, every certificate of that issuer below the anchor needs a current CRL that does
//! not list it ([`StaleCrl`]); where it has none, certificates of that issuer are not checked.
//! A CA that changes its key under the same name is another issuer and needs a CRL of its own.
//! Besides, [`TrustMaterial::revoked_serials`] names serial numbers without an issuer: each is
//! revoked under every anchor, but no anchor is revoked by one.
//!
//! **Pinned** certificates ([`TrustStore::verify_pinned`]) are trusted for being themselves and
//! know no anchor; they never help to build a path.

mod cache;
mod certificate;
mod facts;
mod ffi;
mod identity;
mod leaf;
mod pem;
mod possession;
mod store;
#[cfg(test)]
mod testing;
mod verifier;

use std::collections::BTreeSet;
use std::fmt;

pub use cache::{VerdictCache, VerdictKey};
pub use facts::{CertificateFacts, FactsFault, certificate_facts, issuers};
pub use identity::{IdentityFault, IdentityRule};
pub use leaf::LeafInfo;
pub use pem::{PemContent, PemFault, read_pem, read_pem_objects};
pub use possession::verify_possession;
pub use store::{AnchorInfo, Epoch, TrustStore, check_anchor};
pub use verifier::{MAX_INTERMEDIATES, PathVerdict, Verdict, VerifiedChain, VerifiedPath};

/// A certificate that paths may end in.
#[derive(Clone, Debug, Default)]
pub struct Anchor {
    pub der: Vec<u8>,
    /// A device whose path ends here is registered on its first call.
    pub auto_registration: bool,
    /// Who a device is whose path ends here.
    pub identity: IdentityRule,
    /// A device without SNI may come to the tenant by this anchor.
    pub names_tenant: bool,
}

/// What happens to a certificate whose issuer has CRLs, none of which is current: past its
/// nextUpdate, or before its thisUpdate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleCrl {
    /// Refused with `Refusal::RevocationUnknown`.
    #[default]
    Refuse,
    /// Accepted, unless one of them lists it.
    Accept,
}

/// What a trust store is built from. All of it is DER.
#[derive(Clone, Debug, Default)]
pub struct TrustMaterial {
    /// None: no device is trusted.
    pub anchors: Vec<Anchor>,
    /// Certificates that help to complete paths; not trusted by themselves.
    pub intermediates: Vec<Vec<u8>>,
    /// Complete CRLs, each of an issuer that is an anchor or an intermediate here.
    pub crls: Vec<Vec<u8>>,
    pub stale_crl: StaleCrl,
    /// Serial numbers in hex, of at most 20 octets, zeros in front and letter case without
    /// meaning. Each is revoked under every anchor of the store, for every certificate of a
    /// path but the anchor, and for pinned certificates.
    pub revoked_serials: BTreeSet<String>,
}

/// Which list of [`TrustMaterial`] a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaterialKind {
    Anchor,
    Intermediate,
    Crl,
    RevokedSerial,
}

impl fmt::Display for MaterialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MaterialKind::Anchor => "trusted certificate",
            MaterialKind::Intermediate => "intermediate",
            MaterialKind::Crl => "CRL",
            MaterialKind::RevokedSerial => "revoked serial number",
        })
    }
}

/// Why a piece of trust material cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {index}: {reason}")]
pub struct TrustFault {
    pub kind: MaterialKind,
    /// Position in its list of [`TrustMaterial`], from 0.
    pub index: usize,
    /// For the operator; ours, holds nothing of the material.
    pub reason: String,
}
