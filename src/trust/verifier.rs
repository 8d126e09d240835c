//! From a presented chain to a verdict.

use std::sync::Arc;

use boring::sha::sha256;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ffi::{Failure, Fault};
use super::leaf::{self, LeafInfo};
use super::store::TrustStore;
use crate::clock::UnixSeconds;
use crate::names::DeviceId;
use crate::refusal::{Refusal, Refused};

/// Certificates that a peer may present, and certificates that a header may add.
const MAX_PRESENTED: usize = 16;
/// Octets of all of them together.
const MAX_OCTETS: usize = 128 * 1024;
/// Octets of one of them: keeps the number of names in check that constraints are held against.
const MAX_CERTIFICATE_OCTETS: usize = 16 * 1024;

/// Intermediates that a path may have, self-issued ones not counted. A path has at most 16
/// certificates in any case.
pub const MAX_INTERMEDIATES: u32 = 14;

/// What a trust store says of a chain.
#[derive(Clone)]
pub enum Verdict {
    Verified(Arc<VerifiedChain>),
    /// Nothing is wrong with the end-entity certificate by itself, only its path does not
    /// reach an anchor: further certificates might complete it.
    Undecided(Refused),
    Refused(Refused),
}

/// A chain that leads from a device to one of the tenant's anchors, and the device's identity.
/// Only [`TrustStore::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedChain {
    path: VerifiedPath,
    leaf_sha256: [u8; 32],
    device: DeviceId,
    auto_registration: bool,
    info: LeafInfo,
}

/// What [`TrustStore::verify_path`] says.
#[derive(Debug)]
pub enum PathVerdict {
    Verified(VerifiedPath),
    /// As in [`Verdict::Undecided`].
    IssuerUnknown(Refused),
    Refused(Refused),
}

/// A path that leads to one of the tenant's anchors. It proves no identity.
#[derive(Debug)]
pub struct VerifiedPath {
    certificates: Vec<Vec<u8>>,
    anchor: usize,
    valid_until: UnixSeconds,
}

impl TrustStore {
    /// Verifies a device's chain and reads its identity.
    ///
    /// `chain`: as presented, end-entity first, the others in any order. `extra`: further
    /// certificates that may complete the path, from a header: untrusted. At most 16 in
    /// each, 16 KiB a certificate and 128 KiB in all. Takes at most about 50 ms.
    pub fn verify(&self, chain: &[&[u8]], extra: &[&[u8]], now: UnixSeconds) -> Verdict {
        let path = match self.verify_path(chain, extra, MAX_INTERMEDIATES, now) {
            PathVerdict::Verified(path) => path,
            PathVerdict::Refused(refused) => return Verdict::Refused(refused),
            PathVerdict::IssuerUnknown(refused) => {
                return match chain.first().map_or(Ok(()), |leaf| leaf::identity(leaf).map(drop)) {
                    Ok(()) => Verdict::Undecided(refused),
                    Err(fault) => Verdict::Refused(fault),
                };
            }
        };
        let (device, info) = match leaf::read(path.leaf()) {
            Ok(facts) => facts,
            Err(refused) => return Verdict::Refused(refused),
        };
        let Some(anchor) = self.anchors().get(path.anchor) else {
            return Verdict::Refused(refused_internally());
        };
        Verdict::Verified(Arc::new(VerifiedChain {
            leaf_sha256: sha256(path.leaf()),
            device,
            auto_registration: anchor.auto_registration,
            info,
            path,
        }))
    }

    /// Verifies a chain by everything but the device's identity. Parameters as in
    /// [`TrustStore::verify`]; `max_intermediates` counts as pathLenConstraint does, without
    /// self-issued certificates.
    pub fn verify_path(
        &self,
        chain: &[&[u8]],
        extra: &[&[u8]],
        max_intermediates: u32,
        now: UnixSeconds,
    ) -> PathVerdict {
        if let Err(refused) = check_bounds(chain, extra) {
            return PathVerdict::Refused(refused);
        }
        match self.pki.verify(chain.iter().chain(extra).copied(), max_intermediates, now) {
            Ok(path) => PathVerdict::Verified(VerifiedPath {
                certificates: path.certificates,
                anchor: path.anchor as usize,
                valid_until: path.valid_until,
            }),
            Err(failure) if failure.fault == Fault::NoIssuer => {
                PathVerdict::IssuerUnknown(refused(&failure, chain.len()))
            }
            Err(failure) => PathVerdict::Refused(refused(&failure, chain.len())),
        }
    }
}

impl VerifiedChain {
    /// End-entity … anchor, DER: the certificates that were verified, whatever else was
    /// presented.
    pub fn path(&self) -> &[Vec<u8>] {
        &self.path.certificates
    }

    /// The end-entity certificate's DER.
    pub fn leaf(&self) -> &[u8] {
        self.path.leaf()
    }

    pub fn leaf_sha256(&self) -> &[u8; 32] {
        &self.leaf_sha256
    }

    /// The end-entity's common name.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Index into [`TrustStore::anchors`].
    pub fn anchor(&self) -> usize {
        self.path.anchor
    }

    /// Whether the anchor registers devices on their first call.
    pub fn auto_registration(&self) -> bool {
        self.auto_registration
    }

    /// The last second at which this verdict holds: the earliest notAfter of the path or, where
    /// stale CRLs refuse, nextUpdate of the CRLs that vouch for it.
    pub fn valid_until(&self) -> UnixSeconds {
        self.path.valid_until
    }

    pub fn leaf_info(&self) -> &LeafInfo {
        &self.info
    }
}

impl VerifiedPath {
    fn leaf(&self) -> &[u8] {
        self.certificates.first().map_or(&[], Vec::as_slice)
    }
}

fn check_bounds(chain: &[&[u8]], extra: &[&[u8]]) -> Result<(), Refused> {
    let refuse = |reason| Err(Refused::new(Refusal::CertificateUnsupported, reason));
    if chain.is_empty() {
        return Err(Refused::new(Refusal::CertificateMissing, "the chain is empty"));
    }
    if chain.len() > MAX_PRESENTED {
        return refuse("more than 16 certificates were presented");
    }
    if extra.len() > MAX_PRESENTED {
        return refuse("the header holds more than 16 certificates");
    }
    if chain.iter().chain(extra).any(|der| der.len() > MAX_CERTIFICATE_OCTETS) {
        return refuse("a certificate has more than 16 KiB");
    }
    if chain.iter().chain(extra).map(|der| der.len()).sum::<usize>() > MAX_OCTETS {
        return refuse("the certificates have more than 128 KiB together");
    }
    Ok(())
}

/// `presented`: how many of the certificates were presented; the others come from a header.
fn refused(failure: &Failure, presented: usize) -> Refused {
    let (refusal, what) = describe(failure);
    let reason = match failure.fault {
        Fault::Internal | Fault::Deadline | Fault::IterationLimit | Fault::DepthLimit => what,
        Fault::Unparsable => {
            let detail = match failure.detail.as_str() {
                "" => String::new(),
                detail => format!(" ({detail})"),
            };
            match failure.depth as usize {
                0 => format!("the end-entity certificate: {what}{detail}"),
                n if n < presented => {
                    format!("certificate {n} of the presented chain: {what}{detail}")
                }
                n => format!("certificate {} of the header: {what}{detail}", n - presented),
            }
        }
        _ => {
            let role = match failure.depth {
                0 => "the end-entity",
                depth if failure.anchored && depth + 1 == failure.path_len => "the anchor",
                _ => "an intermediate",
            };
            format!("certificate {} of the path ({role}): {what}", failure.depth)
        }
    };
    Refused::new(refusal, reason)
}

fn describe(failure: &Failure) -> (Refusal, String) {
    use Refusal::{
        CertificateExpired, CertificateMalformed, CertificateRevoked, CertificateUnsupported,
        IssuerUnknown, Overloaded, RevocationUnknown,
    };
    let when = failure.when;
    let (refusal, what) = match failure.fault {
        Fault::Expired => return (CertificateExpired, format!("expired on {}", date(when))),
        Fault::NotYetValid => {
            return (CertificateExpired, format!("not valid before {}", date(when)));
        }
        Fault::CrlNotCurrent => {
            let what = format!(
                "no CRL of its issuer is current; the newest is to be replaced by {}",
                date(when)
            );
            return (RevocationUnknown, what);
        }
        Fault::Revoked => (CertificateRevoked, "revoked"),
        Fault::NoIssuer => (
            IssuerUnknown,
            "its issuer is neither an anchor of this tenant nor among the certificates at hand",
        ),
        Fault::DepthLimit => (IssuerUnknown, "no path of at most 16 certificates"),
        Fault::IterationLimit => (IssuerUnknown, "no path found in 200 steps of the search"),
        Fault::Deadline => (Overloaded, "no path found in 50 ms"),
        Fault::Unparsable => (CertificateMalformed, "does not parse"),
        Fault::Signature => (CertificateMalformed, "its signature does not verify"),
        Fault::NotV3 => (CertificateUnsupported, "not X.509 version 3"),
        Fault::Serial => {
            (CertificateUnsupported, "its serial number is not positive or longer than 20 octets")
        }
        Fault::Key => (CertificateUnsupported, "its key type or size is not on the list"),
        Fault::SignatureAlgorithm => {
            (CertificateUnsupported, "its signature algorithm is not on the list")
        }
        Fault::NotACa => (CertificateUnsupported, "acts as an issuer and is not a CA"),
        Fault::IsACa => (CertificateUnsupported, "is a CA"),
        Fault::KeyCertSign => (CertificateUnsupported, "its key usage lacks keyCertSign"),
        Fault::LeafKeyUsage => {
            (CertificateUnsupported, "its key usage lacks digitalSignature or has keyCertSign")
        }
        Fault::ExtendedKeyUsage => {
            (CertificateUnsupported, "its extended key usage lacks clientAuth")
        }
        Fault::CriticalExtension => {
            (CertificateUnsupported, "it has a critical extension that is not processed here")
        }
        Fault::NotCritical => {
            (CertificateUnsupported, "its policy constraints or inhibitAnyPolicy are not critical")
        }
        Fault::LeafNameConstraints => {
            (CertificateUnsupported, "it has name constraints, which only a CA may have")
        }
        Fault::DnsName => {
            (CertificateUnsupported, "a DNS name of its subject alternative names is malformed")
        }
        Fault::PathLength => {
            (CertificateUnsupported, "the path is longer than a pathLenConstraint permits")
        }
        Fault::NameConstraints => {
            (CertificateUnsupported, "an issuer's name constraints do not permit its names")
        }
        Fault::Policy => (CertificateUnsupported, "an issuer's policy constraints are not met"),
        Fault::Other => (CertificateUnsupported, "path validation fails"),
        Fault::Internal
        | Fault::KeyIdentifier
        | Fault::CrlNextUpdate
        | Fault::CrlScope
        | Fault::CrlCriticalExtension
        | Fault::CrlIssuerUnknown
        | Fault::CrlSign => {
            let internal = refused_internally();
            return (internal.refusal, internal.reason.into_owned());
        }
    };
    (refusal, what.to_owned())
}

fn refused_internally() -> Refused {
    Refused::new(Refusal::CertificateMalformed, "the verifier failed")
}

fn date(when: UnixSeconds) -> String {
    OffsetDateTime::from_unix_timestamp(when)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {when}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::{NOW, Pair};
    use crate::trust::{Anchor, TrustMaterial};

    fn store(pair: &Pair) -> TrustStore {
        let anchors = vec![Anchor { der: pair.root.clone(), auto_registration: true }];
        TrustStore::build(TrustMaterial { anchors, ..TrustMaterial::default() }).unwrap()
    }

    #[test]
    fn a_verified_chain_says_who_the_device_is_and_how_it_is_known() {
        let pair = Pair::mint("device-1", NOW + 500);
        let Verdict::Verified(chain) = store(&pair).verify(&[&pair.leaf], &[], NOW) else {
            panic!("not verified");
        };
        assert_eq!(chain.device().as_str(), "device-1");
        assert_eq!(chain.path(), [pair.leaf.clone(), pair.root.clone()]);
        assert_eq!(chain.leaf_sha256(), &sha256(&pair.leaf));
        assert_eq!((chain.anchor(), chain.auto_registration()), (0, true));
        assert_eq!(chain.valid_until(), NOW + 500);
        let info = chain.leaf_info();
        assert_eq!(info.subject, "CN=device-1,O=Fleet");
        assert_eq!(info.issuer, "CN=Root\\, Inc.,O=Fleet");
        assert_eq!(info.serial_hex, "ABCDEF");
        assert_eq!((info.not_before, info.not_after), (NOW - 1_000, NOW + 500));
        assert_eq!(info.dns_names, ["device.example.com"]);
        assert_eq!(info.uris, ["urn:device:1"]);
    }

    #[test]
    fn an_identity_is_exactly_one_common_name_that_is_a_device_id() {
        for common_names in ["", "a|b", "a b", "a:b", "../a", "a\u{202e}b", "a+b", "caf\u{e9}"] {
            let pair = Pair::mint(common_names, NOW + 500);
            let stranger = Pair::mint("device-1", NOW + 500);
            // Known issuer or not: it is no device either way.
            for store in [store(&pair), store(&stranger)] {
                match store.verify(&[&pair.leaf], &[], NOW) {
                    Verdict::Refused(refused) => {
                        assert!(matches!(
                            refused.refusal,
                            Refusal::CertificateUnsupported | Refusal::CertificateMalformed
                        ));
                    }
                    _ => panic!("{common_names:?} was let through"),
                }
            }
        }
    }

    #[test]
    fn reasons_name_the_certificate_and_the_date() {
        let pair = Pair::mint("device-1", NOW - 1);
        let Verdict::Refused(refused) = store(&pair).verify(&[&pair.leaf], &[], NOW) else {
            panic!("not refused");
        };
        assert_eq!(refused.refusal, Refusal::CertificateExpired);
        assert_eq!(
            refused.reason,
            "certificate 0 of the path (the end-entity): expired on 2027-01-15T07:59:59Z"
        );
    }

    #[test]
    fn an_end_entity_without_its_issuer_is_undecided_until_the_issuer_comes() {
        let pair = Pair::mint("device-1", NOW + 500);
        let empty = TrustStore::build(TrustMaterial::default()).unwrap();
        assert!(empty.is_empty());
        assert!(matches!(empty.verify(&[&pair.leaf], &[], NOW), Verdict::Undecided(_)));
        assert!(matches!(empty.verify(&[&pair.leaf], &[&pair.root], NOW), Verdict::Undecided(_)));
        assert!(matches!(empty.verify(&[&pair.leaf], &[b"0"], NOW), Verdict::Refused(_)));
        assert!(matches!(empty.verify(&[], &[], NOW), Verdict::Refused(_)));
    }
}
