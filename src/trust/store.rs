//! The trust store: built once, then immutable.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use boring::sha::{Sha256, sha256};

use super::ffi::{Fault, NotTaken, Pki, SERIAL};
use super::{IdentityRule, MaterialKind, StaleCrl, TrustFault, TrustMaterial};
use crate::clock::UnixSeconds;

/// Octets of one certificate of a peer, or of one that an operator uploads: keeps the number of
/// names in check that constraints are held against.
pub(super) const MAX_CERTIFICATE_OCTETS: usize = 16 * 1024;

/// A tenant's trust: anchors, intermediates, CRLs and revoked serial numbers, parsed and checked.
///
/// Costs about 2 KiB an anchor or intermediate besides its DER, 16 bytes a serial number of a
/// CRL besides the CRL's DER, and 20 bytes a serial number that is revoked without an issuer.
/// Anchors of equal identity rules share one compiled pattern.
pub struct TrustStore {
    pub(super) pki: Pki,
    anchors: Vec<AnchorInfo>,
    intermediate_subjects: Vec<Vec<u8>>,
    /// Every anchor names its devices by their common name as it stands.
    pub(super) all_by_common_name: bool,
    epoch: Epoch,
}

/// An anchor as the rest of the edge sees it.
#[derive(Clone, Debug)]
pub struct AnchorInfo {
    /// Of the certificate's DER.
    pub sha256: [u8; 32],
    pub not_after: UnixSeconds,
    /// DER of the subject's Name.
    pub subject_der: Vec<u8>,
    pub auto_registration: bool,
    pub identity: IdentityRule,
    pub names_tenant: bool,
}

/// A fingerprint of everything that a trust store decides by. Equal material has an equal
/// epoch on every node and after every restart, in whatever order it is given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch([u8; 32]);

impl Epoch {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Part of the epoch: must change whenever the profile's rules do, so that no session or
/// verdict made under the old rules outlives them.
const PROFILE: &[u8] = b"portcullis trust profile 3\0";

impl TrustStore {
    /// # Errors
    /// Every piece of material that cannot be used, with the reason. There is no store that
    /// leaves one out: a trust store with a hole in it is no trust store.
    pub fn build(material: TrustMaterial) -> Result<TrustStore, Vec<TrustFault>> {
        let mut faults = Faults::default();
        let revoked = serials(&material, &mut faults);
        let epoch = epoch(&material, &revoked);
        let mut pki = Pki::new(material.stale_crl == StaleCrl::Accept);
        let anchors = add_anchors(&mut pki, material.anchors, &mut faults);

        let mut seen = HashSet::new();
        let mut intermediate_subjects = Vec::new();
        for (index, der) in material.intermediates.into_iter().enumerate() {
            // A certificate given twice is one certificate.
            if !seen.insert(sha256(&der)) {
                continue;
            }
            match pki.add_intermediate(der) {
                Ok(ca) => intermediate_subjects.push(ca.subject_der),
                Err(why) => faults.add(MaterialKind::Intermediate, index, &why),
            }
        }
        for (index, der) in material.crls.into_iter().enumerate() {
            if let Err(why) = pki.add_crl(der) {
                faults.add(MaterialKind::Crl, index, &why);
            }
        }
        if let Err(why) = pki.revoke(&revoked) {
            faults.add(MaterialKind::RevokedSerial, 0, &why);
        }
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let all_by_common_name = anchors.iter().all(|anchor| anchor.identity.is_common_name());
        Ok(TrustStore { pki, anchors, intermediate_subjects, all_by_common_name, epoch })
    }

    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Whether there is no anchor, so that no device can be verified.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// In the material's order.
    pub fn anchors(&self) -> &[AnchorInfo] {
        &self.anchors
    }

    /// The DER of the subject's Name of every anchor and every intermediate, in the material's
    /// order. CAs of one name give it more than once.
    pub fn subjects(&self) -> impl Iterator<Item = &[u8]> {
        let anchors = self.anchors.iter().map(|anchor| &anchor.subject_der);
        anchors.chain(&self.intermediate_subjects).map(Vec::as_slice)
    }
}

/// Whether a certificate could be an anchor. Its dates are not looked at, as a trust store
/// does not either before it verifies.
///
/// # Errors
/// Why not, in the words of [`TrustStore::build`].
pub fn check_anchor(der: Vec<u8>) -> Result<(), String> {
    if der.len() > MAX_CERTIFICATE_OCTETS {
        return Err(format!("it has more than {} KiB", MAX_CERTIFICATE_OCTETS / 1024));
    }
    match Pki::new(false).add_anchor(der, 0) {
        Ok(_) => Ok(()),
        Err(why) => Err(reason(&why, MaterialKind::Anchor)),
    }
}

fn add_anchors(pki: &mut Pki, anchors: Vec<super::Anchor>, faults: &mut Faults) -> Vec<AnchorInfo> {
    let mut infos: Vec<AnchorInfo> = Vec::with_capacity(anchors.len());
    let mut seen: HashMap<[u8; 32], (usize, AnchorInfo)> = HashMap::new();
    let mut rules: HashMap<String, IdentityRule> = HashMap::new();
    for (index, anchor) in anchors.into_iter().enumerate() {
        let sha256 = sha256(&anchor.der);
        let vacant = match seen.entry(sha256) {
            Entry::Vacant(vacant) => vacant,
            Entry::Occupied(first) => {
                let (first, info) = first.get();
                match other_setting(info, &anchor) {
                    None => infos.push(info.clone()),
                    Some(setting) => faults.say(
                        MaterialKind::Anchor,
                        index,
                        format!(
                            "the same certificate as trusted certificate {first}, but with \
                             another {setting}"
                        ),
                    ),
                }
                continue;
            }
        };
        let id = u32::try_from(index).unwrap_or(u32::MAX);
        match pki.add_anchor(anchor.der, id) {
            Ok(ca) => {
                let info = AnchorInfo {
                    sha256,
                    not_after: ca.not_after,
                    subject_der: ca.subject_der,
                    auto_registration: anchor.auto_registration,
                    identity: rules
                        .entry(anchor.identity.as_str().to_owned())
                        .or_insert(anchor.identity)
                        .clone(),
                    names_tenant: anchor.names_tenant,
                };
                vacant.insert((index, info.clone()));
                infos.push(info);
            }
            Err(why) => faults.add(MaterialKind::Anchor, index, &why),
        }
    }
    infos
}

/// The setting in which the same certificate, given again, differs.
fn other_setting(known: &AnchorInfo, again: &super::Anchor) -> Option<&'static str> {
    if known.auto_registration != again.auto_registration {
        Some("auto_registration")
    } else if known.identity != again.identity {
        Some("device_identity")
    } else if known.names_tenant != again.names_tenant {
        Some("names_tenant")
    } else {
        None
    }
}

/// The revoked serial numbers, ascending.
fn serials(material: &TrustMaterial, faults: &mut Faults) -> Vec<[u8; SERIAL]> {
    let mut serials = Vec::with_capacity(material.revoked_serials.len());
    for (index, text) in material.revoked_serials.iter().enumerate() {
        match serial(text) {
            Some(serial) => serials.push(serial),
            None => faults.say(
                MaterialKind::RevokedSerial,
                index,
                format!("not a serial number: hexadecimal digits for at most {SERIAL} octets"),
            ),
        }
    }
    serials.sort_unstable();
    serials.dedup();
    serials
}

/// Big-endian, padded with zeros in front.
fn serial(text: &str) -> Option<[u8; SERIAL]> {
    let digits = text.trim_start_matches('0').as_bytes();
    if text.is_empty() || digits.len() > 2 * SERIAL {
        return None;
    }
    let mut serial = [0; SERIAL];
    for (octet, pair) in serial.iter_mut().rev().zip(digits.rchunks(2)) {
        for digit in pair {
            let value = char::from(*digit).to_digit(16)?;
            *octet = *octet << 4 | u8::try_from(value).ok()?;
        }
    }
    Some(serial)
}

fn epoch(material: &TrustMaterial, revoked: &[[u8; SERIAL]]) -> Epoch {
    let anchors = material.anchors.iter().map(|anchor| {
        let mut hash = Sha256::new();
        hash.update(&[u8::from(anchor.auto_registration), u8::from(anchor.names_tenant)]);
        let identity = anchor.identity.as_str().as_bytes();
        hash.update(&(identity.len() as u64).to_be_bytes());
        hash.update(identity);
        hash.update(&anchor.der);
        hash.finish()
    });
    let mut hash = Sha256::new();
    hash.update(PROFILE);
    hash.update(&[u8::from(material.stale_crl == StaleCrl::Accept)]);
    hash_set(&mut hash, anchors.collect());
    hash_set(&mut hash, material.intermediates.iter().map(|der| sha256(der)).collect());
    hash_set(&mut hash, material.crls.iter().map(|der| sha256(der)).collect());
    hash.update(&(revoked.len() as u64).to_be_bytes());
    hash.update(revoked.as_flattened());
    Epoch(hash.finish())
}

fn hash_set(hash: &mut Sha256, mut digests: Vec<[u8; 32]>) {
    digests.sort_unstable();
    digests.dedup();
    hash.update(&(digests.len() as u64).to_be_bytes());
    for digest in digests {
        hash.update(&digest);
    }
}

#[derive(Default)]
struct Faults(Vec<TrustFault>);

impl Faults {
    fn add(&mut self, kind: MaterialKind, index: usize, why: &NotTaken) {
        self.say(kind, index, reason(why, kind));
    }

    fn say(&mut self, kind: MaterialKind, index: usize, reason: String) {
        self.0.push(TrustFault { kind, index, reason });
    }
}

fn reason(why: &NotTaken, kind: MaterialKind) -> String {
    let what = describe(why.fault, kind);
    if why.detail.is_empty() { what.to_owned() } else { format!("{what} ({})", why.detail) }
}

fn describe(fault: Fault, kind: MaterialKind) -> &'static str {
    let crl = kind == MaterialKind::Crl;
    match fault {
        Fault::Unparsable if crl => "not a DER CRL as RFC 5280 section 5 has it",
        Fault::Unparsable => "not a DER certificate as RFC 5280 section 4 has it",
        Fault::NotV3 => "not X.509 version 3",
        Fault::Serial => "its serial number is not positive or longer than 20 octets",
        Fault::Key => {
            "its key is not on the list: ECDSA on P-256, P-384 or P-521 as a named curve, Ed25519, \
             RSA of 2048 to 8192 bits in whole octets"
        }
        Fault::NotACa => "not a CA certificate: its basic constraints do not say CA:true",
        Fault::KeyCertSign => "its key usage lacks keyCertSign",
        Fault::CriticalExtension => "it has a critical extension that is not processed here",
        Fault::NotCritical => {
            "its policy constraints or inhibitAnyPolicy are not critical (RFC 5280 sections \
             4.2.1.11 and 4.2.1.14)"
        }
        Fault::KeyIdentifier => {
            "it is self-signed, and its authority key identifier does not name its own key"
        }
        Fault::SignatureAlgorithm => {
            "its signature algorithm is not on the list: ECDSA, RSA PKCS #1 v1.5 or RSA-PSS with \
             SHA-256, SHA-384 or SHA-512, named the same inside and outside"
        }
        Fault::CrlNextUpdate => "it has no nextUpdate, which RFC 5280 section 5.1.2.5 requires",
        Fault::CrlScope => {
            "it covers only a part of its issuer's certificates (delta CRL or issuing \
             distribution point); give the complete CRL"
        }
        Fault::CrlCriticalExtension => "it has a critical extension that is not processed here",
        Fault::CrlIssuerUnknown => {
            "its issuer is neither a trusted certificate nor an intermediate of this tenant; add \
             the issuer's certificate to the intermediates"
        }
        Fault::Signature => {
            "its signature does not verify under any certificate of its issuer given here"
        }
        Fault::CrlSign => "the key usage of its issuer lacks cRLSign",
        _ => "it cannot be processed",
    }
}

#[cfg(test)]
mod tests;
