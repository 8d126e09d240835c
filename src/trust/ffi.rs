//! The boundary to libpki: mirrors `shim.h` and wraps it so that nothing unsafe leaves here.

#![expect(unsafe_code, reason = "the boundary to libpki, which is C++")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};

use crate::clock::UnixSeconds;

// The shim calls libcrypto, which comes with this crate: keeps it in the link.
use boring_sys as _;

/// The most certificates that one verification takes.
const MAX_CERTIFICATES: usize = 32;
const MAX_PATH: usize = 16;
const DETAIL: usize = 80;
/// Octets of a serial number (RFC 5280 section 4.1.2.2).
pub(super) const SERIAL: usize = 20;

/// What is wrong with a certificate, a path or a CRL. Mirrors `pki_fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Internal,
    Unparsable,
    NotV3,
    Serial,
    Key,
    SignatureAlgorithm,
    Signature,
    NotYetValid,
    Expired,
    NotACa,
    IsACa,
    KeyCertSign,
    LeafKeyUsage,
    ExtendedKeyUsage,
    CriticalExtension,
    NotCritical,
    KeyIdentifier,
    LeafNameConstraints,
    DnsName,
    PathLength,
    NameConstraints,
    Policy,
    Other,
    Revoked,
    CrlNotCurrent,
    NoIssuer,
    DepthLimit,
    IterationLimit,
    Deadline,
    CrlNextUpdate,
    CrlScope,
    CrlCriticalExtension,
    CrlIssuerUnknown,
    CrlSign,
}

/// In the order of `pki_fault`, whose 0 is "no fault".
const FAULTS: [Fault; 34] = [
    Fault::Internal,
    Fault::Unparsable,
    Fault::NotV3,
    Fault::Serial,
    Fault::Key,
    Fault::SignatureAlgorithm,
    Fault::Signature,
    Fault::NotYetValid,
    Fault::Expired,
    Fault::NotACa,
    Fault::IsACa,
    Fault::KeyCertSign,
    Fault::LeafKeyUsage,
    Fault::ExtendedKeyUsage,
    Fault::CriticalExtension,
    Fault::NotCritical,
    Fault::KeyIdentifier,
    Fault::LeafNameConstraints,
    Fault::DnsName,
    Fault::PathLength,
    Fault::NameConstraints,
    Fault::Policy,
    Fault::Other,
    Fault::Revoked,
    Fault::CrlNotCurrent,
    Fault::NoIssuer,
    Fault::DepthLimit,
    Fault::IterationLimit,
    Fault::Deadline,
    Fault::CrlNextUpdate,
    Fault::CrlScope,
    Fault::CrlCriticalExtension,
    Fault::CrlIssuerUnknown,
    Fault::CrlSign,
];

/// What a store says of a CA certificate that it took in.
pub(super) struct Ca {
    pub not_after: UnixSeconds,
    pub subject_der: Vec<u8>,
}

/// Why a store did not take a certificate or a CRL in.
pub(super) struct NotTaken {
    pub fault: Fault,
    /// A fixed text of libpki about `Fault::Unparsable`, else empty.
    pub detail: String,
}

/// A path that was built and verified.
pub(super) struct Path {
    /// End-entity … anchor, DER.
    pub certificates: Vec<Vec<u8>>,
    /// The id that the anchor was added under.
    pub anchor: u32,
    pub valid_until: UnixSeconds,
}

/// Why there is no path.
pub(super) struct Failure {
    pub fault: Fault,
    /// Certificates in the attempt that `fault` is about.
    pub path_len: u32,
    /// Position of the faulty certificate in the attempt; for `Fault::Unparsable`, in what
    /// was handed in.
    pub depth: u32,
    /// Whether the attempt ends in an anchor.
    pub anchored: bool,
    /// Ids of anchors that were reached by good signatures, of 16 attempts at most.
    pub reached: Vec<u32>,
    /// The date that the fault is about.
    pub when: UnixSeconds,
    /// As in `NotTaken`.
    pub detail: String,
}

/// Parsed anchors, intermediates and CRLs.
pub(super) struct Pki {
    raw: NonNull<RawStore>,
    /// What `raw` points into. Boxed, so that it stays in place; freed after `raw`.
    ders: Vec<Box<[u8]>>,
}

// SAFETY: the C++ object has no ties to a thread: its members are plain containers and
// atomically counted references.
unsafe impl Send for Pki {}
// SAFETY: through `&Pki` only `pki_verify` and `pki_verify_pinned` are called, which shim.h
// allows from any number of threads at one time.
unsafe impl Sync for Pki {}

impl Pki {
    pub fn new(accept_stale_crls: bool) -> Pki {
        // SAFETY: no preconditions.
        let raw = unsafe { pki_store_new(accept_stale_crls.into()) };
        match NonNull::new(raw) {
            Some(raw) => Pki { raw, ders: Vec::new() },
            None => handle_alloc_error(Layout::new::<Pki>()),
        }
    }

    /// Adds an anchor under an id of the caller's choice.
    pub fn add_anchor(&mut self, der: Vec<u8>, id: u32) -> Result<Ca, NotTaken> {
        self.add_ca(der, id.into())
    }

    /// Adds an intermediate: path-building input, not trusted.
    pub fn add_intermediate(&mut self, der: Vec<u8>) -> Result<Ca, NotTaken> {
        self.add_ca(der, -1)
    }

    fn add_ca(&mut self, der: Vec<u8>, id: i64) -> Result<Ca, NotTaken> {
        let mut out = RawCa { not_after: 0, subject: Bytes::EMPTY, detail: [0; DETAIL] };
        let der = self.keep(der);
        // SAFETY: `raw` is a live store that nothing else uses, as `self` is borrowed
        // mutably. `der` lies in `self.ders` and so outlives the store. `out` is valid for
        // writing.
        let code = unsafe { pki_store_add_ca(self.raw.as_ptr(), der, id, &mut out) };
        match fault(code) {
            // SAFETY: without a fault `subject` lies inside `der`.
            None => Ok(Ca { not_after: out.not_after, subject_der: unsafe { out.subject.copy() } }),
            Some(fault) => Err(NotTaken { fault, detail: text(&out.detail) }),
        }
    }

    /// Adds a CRL; after the certificates.
    pub fn add_crl(&mut self, der: Vec<u8>) -> Result<(), NotTaken> {
        let der = self.keep(der);
        // SAFETY: as in `add_ca`.
        let code = unsafe { pki_store_add_crl(self.raw.as_ptr(), der) };
        match fault(code) {
            None => Ok(()),
            Some(fault) => Err(NotTaken { fault, detail: String::new() }),
        }
    }

    /// Replaces the serial numbers that are revoked under every anchor: big-endian, padded with
    /// zeros in front.
    pub fn revoke(&mut self, serials: &[[u8; SERIAL]]) -> Result<(), NotTaken> {
        // SAFETY: `raw` is a live store that nothing else uses, as `self` is borrowed
        // mutably. The slice is alive for the call, which copies it.
        let code = unsafe { pki_store_revoke(self.raw.as_ptr(), serials.as_flattened().into()) };
        match fault(code) {
            None => Ok(()),
            Some(fault) => Err(NotTaken { fault, detail: String::new() }),
        }
    }

    /// Holds one certificate against what a pinned one must meet by itself. Gives the last
    /// second at which it is valid.
    pub fn verify_pinned(&self, der: &[u8], now: UnixSeconds) -> Result<UnixSeconds, Failure> {
        let mut out = RawVerdict::NONE;
        // SAFETY: `raw` is a live store. `der` is alive for the call, after which the shim
        // keeps nothing of it. `out` is valid for writing.
        unsafe { pki_verify_pinned(self.raw.as_ptr(), der.into(), now, &mut out) };
        match fault(out.fault) {
            None => Ok(out.valid_until),
            Some(fault) => Err(out.failure(fault)),
        }
    }

    /// Builds and verifies a path from the first certificate to an anchor. The others are
    /// path-building input in any order. `max_intermediates` counts as pathLenConstraint
    /// does: without self-issued ones.
    pub fn verify<'c>(
        &self,
        certificates: impl Iterator<Item = &'c [u8]>,
        max_intermediates: u32,
        now: UnixSeconds,
    ) -> Result<Path, Failure> {
        let mut chain = [Bytes::EMPTY; MAX_CERTIFICATES];
        let mut count = 0;
        for (slot, der) in chain.iter_mut().zip(certificates) {
            *slot = Bytes::from(der);
            count += 1;
        }
        let mut out = RawVerdict::NONE;
        if count > 0 {
            // SAFETY: `raw` is a live store. The first `count` entries of `chain` borrow
            // slices that live for 'c, longer than this call, after which the shim keeps
            // nothing of them. `out` is valid for writing.
            unsafe {
                pki_verify(
                    self.raw.as_ptr(),
                    chain.as_ptr(),
                    count,
                    max_intermediates,
                    now,
                    &mut out,
                );
            }
        }
        match fault(out.fault) {
            None => Ok(Path {
                certificates: out
                    .path
                    .iter()
                    .take(out.path_len as usize)
                    // SAFETY: without a fault each entry lies inside a certificate of
                    // `chain` or of `self.ders`, all of which are alive here.
                    .map(|der| unsafe { der.copy() })
                    .collect(),
                anchor: out.anchor,
                valid_until: out.valid_until,
            }),
            Some(fault) => Err(out.failure(fault)),
        }
    }

    fn keep(&mut self, der: Vec<u8>) -> Bytes {
        let der = der.into_boxed_slice();
        let bytes = Bytes::from(&*der);
        self.ders.push(der);
        bytes
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `pki_store_new` and is freed only here. `ders` is dropped
        // after this body.
        unsafe { pki_store_free(self.raw.as_ptr()) }
    }
}

fn fault(code: u32) -> Option<Fault> {
    let index = (code as usize).checked_sub(1)?;
    Some(FAULTS.get(index).copied().unwrap_or(Fault::Internal))
}

fn text(detail: &[u8; DETAIL]) -> String {
    detail
        .iter()
        .take_while(|b| **b != 0)
        .filter(|b| (0x20..0x7f).contains(*b))
        .map(|b| char::from(*b))
        .collect()
}

#[repr(C)]
struct RawStore([u8; 0]);

#[derive(Clone, Copy)]
#[repr(C)]
struct Bytes {
    data: *const u8,
    len: usize,
}

impl Bytes {
    const EMPTY: Bytes = Bytes { data: ptr::null(), len: 0 };

    /// # Safety
    /// `data` points to `len` readable bytes, or `len` is 0.
    unsafe fn copy(self) -> Vec<u8> {
        if self.data.is_null() || self.len == 0 {
            return Vec::new();
        }
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }.to_vec()
    }
}

impl From<&[u8]> for Bytes {
    fn from(slice: &[u8]) -> Bytes {
        Bytes { data: slice.as_ptr(), len: slice.len() }
    }
}

#[repr(C)]
struct RawCa {
    not_after: i64,
    subject: Bytes,
    detail: [u8; DETAIL],
}

#[repr(C)]
struct RawVerdict {
    fault: u32,
    path_len: u32,
    depth: u32,
    anchored: u32,
    anchor: u32,
    reached_len: u32,
    reached: [u32; MAX_PATH],
    when: i64,
    valid_until: i64,
    path: [Bytes; MAX_PATH],
    detail: [u8; DETAIL],
}

impl RawVerdict {
    /// Says `PKI_INTERNAL`, until something else is written.
    const NONE: RawVerdict = RawVerdict {
        fault: 1,
        path_len: 0,
        depth: 0,
        anchored: 0,
        anchor: 0,
        reached_len: 0,
        reached: [0; MAX_PATH],
        when: 0,
        valid_until: 0,
        path: [Bytes::EMPTY; MAX_PATH],
        detail: [0; DETAIL],
    };

    fn failure(&self, fault: Fault) -> Failure {
        Failure {
            fault,
            path_len: self.path_len,
            depth: self.depth,
            anchored: self.anchored != 0,
            reached: self.reached.iter().take(self.reached_len as usize).copied().collect(),
            when: self.when,
            detail: text(&self.detail),
        }
    }
}

unsafe extern "C" {
    fn pki_store_new(accept_stale_crls: std::ffi::c_int) -> *mut RawStore;
    fn pki_store_free(store: *mut RawStore);
    fn pki_store_add_ca(store: *mut RawStore, der: Bytes, anchor_id: i64, out: *mut RawCa) -> u32;
    fn pki_store_add_crl(store: *mut RawStore, der: Bytes) -> u32;
    fn pki_store_revoke(store: *mut RawStore, serials: Bytes) -> u32;
    fn pki_verify_pinned(store: *const RawStore, der: Bytes, now: i64, out: *mut RawVerdict);
    fn pki_verify(
        store: *const RawStore,
        chain: *const Bytes,
        n: usize,
        max_intermediates: u32,
        now: i64,
        out: *mut RawVerdict,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::NOW;
    use crate::trust::testing::pki::Template;

    #[test]
    fn revoked_serial_numbers_are_found_in_whatever_order_they_were_given() {
        let serial = |n: u8| {
            let mut octets = [0; SERIAL];
            octets[SERIAL - 1] = n;
            octets
        };
        let mut pki = Pki::new(false);
        assert!(pki.revoke(&[9, 3, 7, 5, 1].map(serial)).is_ok());
        for n in 1..=10 {
            let der = Template::blank("device-1").serial(&[n]).self_signed().der;
            let fault = pki.verify_pinned(&der, NOW).err().map(|failure| failure.fault);
            assert_eq!(fault, [1, 3, 5, 7, 9].contains(&n).then_some(Fault::Revoked), "{n}");
        }
    }
}
