//! Mints a root and an end-entity for the room's unit tests.

use boring::asn1::{Asn1Integer, Asn1Time};
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::x509::extension::{BasicConstraints, SubjectAlternativeName};
use boring::x509::{X509, X509Builder, X509Name};

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
        let root_key = key();
        let mut root = builder(&["Root, Inc."], NOW + 2_000_000_000, &root_key);
        let constraints = BasicConstraints::new().critical().ca().build().unwrap();
        root.append_extension(&constraints).unwrap();
        let root_name = name(&["Root, Inc."]);
        let root = sign(root, &root_name, &root_key);

        let common_names: Vec<&str> = common_names.split('|').filter(|n| !n.is_empty()).collect();
        let mut leaf = builder(&common_names, not_after, &key());
        let names = SubjectAlternativeName::new()
            .dns("device.example.com")
            .uri("urn:device:1")
            .build(&leaf.x509v3_context(None, None))
            .unwrap();
        leaf.append_extension(&names).unwrap();
        let leaf = sign(leaf, &root_name, &root_key);
        Pair { root: root.to_der().unwrap(), leaf: leaf.to_der().unwrap() }
    }
}

fn builder(common_names: &[&str], not_after: UnixSeconds, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = Asn1Integer::from_bn(&BigNum::from_u32(0xAB_CDEF).unwrap()).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&name(common_names)).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(NOW - 1_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(not_after).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

fn sign(mut builder: X509Builder, issuer: &X509Name, key: &PKey<Private>) -> X509 {
    builder.set_issuer_name(issuer).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

fn name(common_names: &[&str]) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Fleet").unwrap();
    for common_name in common_names {
        name.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
    }
    name.build()
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}
