//! The chain that a device presented, shared with BoringSSL rather than copied.

#![expect(unsafe_code, reason = "shares BoringSSL's certificate buffers")]

use std::ptr::NonNull;
use std::slice;

use boring::ssl::SslRef;
use boring_sys as ffi;
use foreign_types_shared::ForeignTypeRef;

/// Certificates in DER as presented, end-entity first; empty where none was sent.
#[derive(Default)]
pub struct PeerChain(Box<[Certificate]>);

impl PeerChain {
    /// The peer's chain of a finished handshake, of one that is at certificate verification,
    /// or of a resumed session (the ticket carries it).
    pub fn of(ssl: &SslRef) -> PeerChain {
        // SAFETY: `ssl` is alive. The stack, where there is one, belongs to the session and
        // is only read here; each buffer is kept by a reference of its own.
        unsafe {
            let stack = ffi::SSL_get0_peer_certificates(ssl.as_ptr());
            if stack.is_null() {
                return PeerChain::default();
            }
            let count = ffi::OPENSSL_sk_num(stack.cast());
            let certificates = (0..count).filter_map(|index| {
                let buffer = ffi::OPENSSL_sk_value(stack.cast(), index);
                let buffer = NonNull::new(buffer.cast::<ffi::CRYPTO_BUFFER>())?;
                ffi::CRYPTO_BUFFER_up_ref(buffer.as_ptr());
                Some(Certificate(buffer))
            });
            PeerChain(certificates.collect())
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Octets of all certificates together.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|certificate| certificate.der().len()).sum()
    }

    pub fn ders(&self) -> Vec<&[u8]> {
        self.0.iter().map(Certificate::der).collect()
    }

    pub fn leaf(&self) -> Option<&[u8]> {
        self.0.first().map(Certificate::der)
    }
}

/// One reference to a `CRYPTO_BUFFER`, which is immutable and counted atomically.
struct Certificate(NonNull<ffi::CRYPTO_BUFFER>);

// SAFETY: a CRYPTO_BUFFER never changes after its creation and its count is atomic.
unsafe impl Send for Certificate {}
// SAFETY: as above.
unsafe impl Sync for Certificate {}

impl Certificate {
    fn der(&self) -> &[u8] {
        // SAFETY: the reference held by `self` keeps the bytes alive and unchanged.
        unsafe {
            let data = ffi::CRYPTO_BUFFER_data(self.0.as_ptr());
            slice::from_raw_parts(data, ffi::CRYPTO_BUFFER_len(self.0.as_ptr()))
        }
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that this value owns.
        unsafe { ffi::CRYPTO_BUFFER_free(self.0.as_ptr()) }
    }
}
