//! The trust store: built once, then immutable.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use boring::sha::{Sha256, sha256};

use super::ffi::{Fault, NotTaken, Pki};
use super::{MaterialKind, StaleCrl, TrustFault, TrustMaterial};
use crate::clock::UnixSeconds;

/// A tenant's trust: anchors, intermediates and CRLs, parsed and checked.
///
/// Costs about 2 KiB an anchor or intermediate besides its DER, and 16 bytes a revoked serial
/// number besides the CRL's DER.
pub struct TrustStore {
    pub(super) pki: Pki,
    anchors: Vec<AnchorInfo>,
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
const PROFILE: &[u8] = b"portcullis trust profile 2\0";

impl TrustStore {
    /// # Errors
    /// Every piece of material that cannot be used, with the reason. There is no store that
    /// leaves one out: a trust store with a hole in it is no trust store.
    pub fn build(material: TrustMaterial) -> Result<TrustStore, Vec<TrustFault>> {
        let epoch = epoch(&material);
        let mut pki = Pki::new(material.stale_crl == StaleCrl::Accept);
        let mut faults = Faults::default();
        let anchors = add_anchors(&mut pki, material.anchors, &mut faults);

        let mut seen = HashMap::new();
        for (index, der) in material.intermediates.into_iter().enumerate() {
            // A certificate given twice is one certificate.
            if seen.insert(sha256(&der), ()).is_some() {
                continue;
            }
            if let Err(why) = pki.add_intermediate(der) {
                faults.add(MaterialKind::Intermediate, index, &why);
            }
        }
        for (index, der) in material.crls.into_iter().enumerate() {
            if let Err(why) = pki.add_crl(der) {
                faults.add(MaterialKind::Crl, index, &why);
            }
        }
        if faults.0.is_empty() { Ok(TrustStore { pki, anchors, epoch }) } else { Err(faults.0) }
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
}

fn add_anchors(pki: &mut Pki, anchors: Vec<super::Anchor>, faults: &mut Faults) -> Vec<AnchorInfo> {
    let mut infos: Vec<AnchorInfo> = Vec::with_capacity(anchors.len());
    let mut seen: HashMap<[u8; 32], (usize, AnchorInfo)> = HashMap::new();
    for (index, anchor) in anchors.into_iter().enumerate() {
        let sha256 = sha256(&anchor.der);
        let vacant = match seen.entry(sha256) {
            Entry::Vacant(vacant) => vacant,
            Entry::Occupied(first) => {
                let (first, info) = first.get();
                if info.auto_registration == anchor.auto_registration {
                    infos.push(info.clone());
                } else {
                    faults.say(
                        MaterialKind::Anchor,
                        index,
                        format!(
                            "the same certificate as trusted certificate {first}, but with \
                             another auto_registration"
                        ),
                    );
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
                };
                vacant.insert((index, info.clone()));
                infos.push(info);
            }
            Err(why) => faults.add(MaterialKind::Anchor, index, &why),
        }
    }
    infos
}

fn epoch(material: &TrustMaterial) -> Epoch {
    let anchors = material.anchors.iter().map(|anchor| {
        let mut hash = Sha256::new();
        hash.update(&[u8::from(anchor.auto_registration)]);
        hash.update(&anchor.der);
        hash.finish()
    });
    let mut hash = Sha256::new();
    hash.update(PROFILE);
    hash.update(&[u8::from(material.stale_crl == StaleCrl::Accept)]);
    hash_set(&mut hash, anchors.collect());
    hash_set(&mut hash, material.intermediates.iter().map(|der| sha256(der)).collect());
    hash_set(&mut hash, material.crls.iter().map(|der| sha256(der)).collect());
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
        let mut reason = reason(why.fault, kind).to_owned();
        if !why.detail.is_empty() {
            reason.push_str(" (");
            reason.push_str(&why.detail);
            reason.push(')');
        }
        self.say(kind, index, reason);
    }

    fn say(&mut self, kind: MaterialKind, index: usize, reason: String) {
        self.0.push(TrustFault { kind, index, reason });
    }
}

fn reason(fault: Fault, kind: MaterialKind) -> &'static str {
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
mod tests {
    use super::*;
    use crate::trust::Anchor;
    use crate::trust::testing::{NOW, Pair};

    fn anchor(pair: &Pair, auto_registration: bool) -> Anchor {
        Anchor { der: pair.root.clone(), auto_registration }
    }

    fn material(anchors: Vec<Anchor>) -> TrustMaterial {
        TrustMaterial { anchors, ..TrustMaterial::default() }
    }

    #[test]
    fn an_epoch_follows_from_the_material_and_not_from_its_order() {
        let (a, b) = (Pair::mint("a", NOW + 1), Pair::mint("b", NOW + 1));
        let epoch = |anchors| *TrustStore::build(material(anchors)).unwrap().epoch();
        let both = epoch(vec![anchor(&a, false), anchor(&b, false)]);
        assert_eq!(both, epoch(vec![anchor(&b, false), anchor(&a, false)]));
        assert_eq!(both, epoch(vec![anchor(&b, false), anchor(&a, false), anchor(&a, false)]));
        assert_ne!(both, epoch(vec![anchor(&a, false)]));
        assert_ne!(both, epoch(vec![anchor(&a, true), anchor(&b, false)]));
        let as_intermediate = TrustMaterial {
            intermediates: vec![b.root.clone()],
            ..material(vec![anchor(&a, false)])
        };
        assert_ne!(both, *TrustStore::build(as_intermediate).unwrap().epoch());
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_place() {
        let pair = Pair::mint("a", NOW + 1);
        let mut material = material(vec![
            anchor(&pair, false),
            Anchor { der: pair.leaf.clone(), auto_registration: false },
            Anchor { der: Vec::new(), auto_registration: false },
        ]);
        material.intermediates = vec![b"garbage".to_vec()];
        material.crls = vec![Vec::new()];
        let faults = TrustStore::build(material).err().unwrap();
        let places: Vec<_> = faults.iter().map(|fault| (fault.kind, fault.index)).collect();
        assert_eq!(
            places,
            [
                (MaterialKind::Anchor, 1),
                (MaterialKind::Anchor, 2),
                (MaterialKind::Intermediate, 0),
                (MaterialKind::Crl, 0),
            ]
        );
        assert_eq!(
            faults[0].to_string(),
            "trusted certificate 1: not a CA certificate: its basic constraints do not say CA:true"
        );
    }
}
