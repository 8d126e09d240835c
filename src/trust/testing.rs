//! Mints what the room's unit tests verify.

#[path = "../../tests/it/pki.rs"]
#[expect(dead_code, reason = "the integration tests use what the unit tests do not")]
pub mod pki;

use pki::{COMMON_NAME, ORGANIZATION, SUBJECT_ALT_NAME, Template, sequence, tlv};

pub use pki::{NOT_AFTER, NOT_BEFORE};

use super::{Anchor, TrustMaterial, TrustStore};
use crate::clock::UnixSeconds;

/// 2027-01-15, when everything minted here is valid.
pub const NOW: UnixSeconds = 1_800_000_000;

/// A self-signed root and an end-entity that it signed, DER.
pub struct Pair {
    pub root: Vec<u8>,
    pub leaf: Vec<u8>,
}

impl Pair {
    /// `common_names`: one for each, divided by a vertical bar. `not_after`: of the end-entity.
    pub fn mint(common_names: &str, not_after: UnixSeconds) -> Pair {
        let fleet = (ORGANIZATION, 0x0c, &b"Fleet"[..]);
        let root = Template::ca("").subject(&[fleet, (COMMON_NAME, 0x0c, b"Root, Inc.")]);
        let root = root.self_signed();
        let names = common_names.split('|').filter(|name| !name.is_empty());
        let names = names.map(|name| (COMMON_NAME, 0x0c, name.as_bytes()));
        let subject: Vec<_> = std::iter::once(fleet).chain(names).collect();
        let leaf = Template::device("")
            .subject(&subject)
            .serial(&[0, 0xAB, 0xCD, 0xEF])
            .validity(NOW - 1_000, not_after);
        let leaf = with_sans(leaf, &[(DNS, b"device.example.com"), (URI, b"urn:device:1")]);
        Pair { leaf: leaf.signed_by(&root).der, root: root.der }
    }
}

/// Tags of subject alternative names.
pub const DNS: u8 = 0x82;
pub const URI: u8 = 0x86;

/// Replaces the subject alternative names: tag and octets, unchecked.
pub fn with_sans(template: Template, names: &[(u8, &[u8])]) -> Template {
    let names: Vec<Vec<u8>> = names.iter().map(|(tag, octets)| tlv(*tag, octets)).collect();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    template.extension(SUBJECT_ALT_NAME, false, &sequence(&names))
}

/// A store of these anchors and nothing else.
pub fn store(anchors: Vec<Anchor>) -> TrustStore {
    build(TrustMaterial { anchors, ..TrustMaterial::default() })
}

pub fn build(material: TrustMaterial) -> TrustStore {
    match TrustStore::build(material) {
        Ok(store) => store,
        Err(faults) => panic!("{faults:?}"),
    }
}
