//! From a presented chain to a verdict.

use std::sync::Arc;

use boring::sha::sha256;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::IdentityRule;
use super::ffi::{Failure, Fault};
use super::leaf::{self, LeafInfo};
use super::store::{MAX_CERTIFICATE_OCTETS, TrustStore};
use crate::clock::UnixSeconds;
use crate::names::DeviceId;
use crate::refusal::{Refusal, Refused};

/// Certificates that a peer may present, and certificates that a header may add.
const MAX_PRESENTED: usize = 16;
/// Octets of all of them together.
const MAX_OCTETS: usize = 128 * 1024;

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

/// A chain that leads from a device to one of the tenant's anchors, and the device's identity;
/// or a pinned certificate alone. Only [`TrustStore::verify`] and [`TrustStore::verify_pinned`]
/// make one.
#[derive(Debug)]
pub struct VerifiedChain {
    certificates: Vec<Vec<u8>>,
    anchor: Option<NamedAnchor>,
    valid_until: UnixSeconds,
    leaf_sha256: [u8; 32],
    device: DeviceId,
    auto_registration: bool,
    info: LeafInfo,
}

/// What a verdict keeps of the anchor. By value: a verdict is remembered by the epoch, which
/// says nothing of the anchors' order.
#[derive(Debug)]
struct NamedAnchor {
    sha256: [u8; 32],
    names_tenant: bool,
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
                return match chain.first().map_or(Ok(()), |leaf| self.could_name(leaf)) {
                    Ok(()) => Verdict::Undecided(refused),
                    Err(fault) => Verdict::Refused(fault),
                };
            }
        };
        let Some(anchor) = self.anchors().get(path.anchor) else {
            return Verdict::Refused(refused_internally());
        };
        let (device, info) = match leaf::read(path.leaf(), &anchor.identity) {
            Ok(facts) => facts,
            Err(refused) => return Verdict::Refused(refused),
        };
        Verdict::Verified(Arc::new(VerifiedChain {
            leaf_sha256: sha256(path.leaf()),
            device,
            auto_registration: anchor.auto_registration,
            info,
            anchor: Some(NamedAnchor { sha256: anchor.sha256, names_tenant: anchor.names_tenant }),
            valid_until: path.valid_until,
            certificates: path.certificates,
        }))
    }

    /// Verifies an end-entity certificate that is pinned to a device, which the caller has
    /// looked up by the very same octets.
    ///
    /// It must parse, have a key on the list, be valid now, not be revoked by serial number,
    /// and have at most 16 KiB. Who issued it, its extensions and its names do not count: the
    /// usual pinned certificate is self-signed and says `CA:true`. The verdict is never
    /// `Undecided`, knows no anchor, and must not outlive the pin: do not cache it.
    pub fn verify_pinned(&self, leaf_der: &[u8], device: &DeviceId, now: UnixSeconds) -> Verdict {
        if let Err(refused) = check_bounds(&[leaf_der], &[]) {
            return Verdict::Refused(refused);
        }
        let valid_until = match self.pki.verify_pinned(leaf_der, now) {
            Ok(valid_until) => valid_until,
            Err(failure) => return Verdict::Refused(refused(&failure, 1)),
        };
        match leaf::read_info(leaf_der) {
            Ok(info) => Verdict::Verified(Arc::new(VerifiedChain {
                certificates: vec![leaf_der.to_vec()],
                anchor: None,
                valid_until,
                leaf_sha256: sha256(leaf_der),
                device: device.clone(),
                auto_registration: false,
                info,
            })),
            Err(refused) => Verdict::Refused(refused),
        }
    }

    /// Whether a chain that is refused leads all the same, by good signatures, to an anchor
    /// that decides whose device it is where no SNI does. Verifies anew; parameters as in
    /// [`TrustStore::verify`].
    pub fn disowns(&self, chain: &[&[u8]], now: UnixSeconds) -> bool {
        if check_bounds(chain, &[]).is_err() {
            return false;
        }
        let Err(failure) = self.pki.verify(chain.iter().copied(), MAX_INTERMEDIATES, now) else {
            return false;
        };
        let mut reached = failure.reached.iter();
        reached.any(|id| self.anchors().get(*id as usize).is_some_and(|anchor| anchor.names_tenant))
    }

    /// Whether an anchor of this store might name the device of an end-entity whose path is
    /// not complete. Which anchor will decide is not known yet, so only what no anchor could
    /// name is refused: anything but one good common name, where all of them go by that.
    fn could_name(&self, leaf: &[u8]) -> Result<(), Refused> {
        if self.all_by_common_name {
            leaf::identity(leaf, &IdentityRule::default()).map(drop)
        } else {
            Ok(())
        }
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
    /// presented. Of a pinned certificate: itself alone.
    pub fn path(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// The end-entity certificate's DER.
    pub fn leaf(&self) -> &[u8] {
        self.certificates.first().map_or(&[], Vec::as_slice)
    }

    pub fn leaf_sha256(&self) -> &[u8; 32] {
        &self.leaf_sha256
    }

    /// Whom the end-entity names by the anchor's [`IdentityRule`], or whom it is pinned to.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// SHA-256 of the anchor that the path ends in; `None`: the end-entity is pinned.
    pub fn anchor(&self) -> Option<&[u8; 32]> {
        self.anchor.as_ref().map(|anchor| &anchor.sha256)
    }

    /// Whether the anchor decides whose device this is where no SNI does.
    pub fn names_tenant(&self) -> bool {
        self.anchor.as_ref().is_some_and(|anchor| anchor.names_tenant)
    }

    /// Whether the anchor registers devices on their first call.
    pub fn auto_registration(&self) -> bool {
        self.auto_registration
    }

    /// The last second at which this verdict holds: the earliest notAfter of the path or, where
    /// stale CRLs refuse, nextUpdate of the CRLs that vouch for it.
    pub fn valid_until(&self) -> UnixSeconds {
        self.valid_until
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
mod tests;
