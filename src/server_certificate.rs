//! A server certificate with its key, ready to be offered in any number of handshakes.

#![expect(unsafe_code, reason = "boring does not make X.509 credentials")]

use std::fmt;

use boring::hash::MessageDigest;
use boring::pkey::{Id, PKey, Private};
use boring::ssl::SslCredential;
use boring::x509::X509;
use boring_sys as ffi;
use foreign_types_shared::ForeignType;

use crate::clock::UnixSeconds;

/// One certificate chain and its private key. Tenants that name the same files share one
/// value, so that a wildcard certificate is held once, however many tenants stand behind it.
pub struct ServerCertificate {
    credential: SslCredential,
    key_kind: KeyKind,
    sha256: [u8; 32],
    not_after: UnixSeconds,
}

/// By certificate: whoever has two keys for one certificate has two certificates.
impl PartialEq for ServerCertificate {
    fn eq(&self, other: &ServerCertificate) -> bool {
        self.sha256 == other.sha256
    }
}

impl Eq for ServerCertificate {}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("key_kind", &self.key_kind)
            .finish_non_exhaustive()
    }
}

/// A tenant may hold one server certificate of each kind; the client's signature algorithms
/// choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Ecdsa,
    Rsa,
}

/// Why a server certificate cannot be used. No variant holds key bytes.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateFault {
    #[error("the chain file holds no PEM certificate")]
    NoCertificate,
    #[error("the chain file is not valid PEM")]
    BadChain,
    #[error("the key file holds no unencrypted PEM private key")]
    BadKey,
    #[error("the key does not belong to the first certificate of the chain")]
    Mismatch,
    #[error("the key is neither ECDSA (P-256, P-384, P-521) nor RSA of 2048 to 8192 bits")]
    UnsupportedKey,
}

impl ServerCertificate {
    /// `chain`: PEM, end-entity first. `key`: PEM, PKCS#8 or traditional.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<ServerCertificate, ServerCertificateFault> {
        use ServerCertificateFault as Fault;
        let chain = X509::stack_from_pem(chain).map_err(|_| Fault::BadChain)?;
        let end_entity = chain.first().ok_or(Fault::NoCertificate)?;
        let key = PKey::private_key_from_pem(key).map_err(|_| Fault::BadKey)?;
        let key_kind = match key.id() {
            Id::EC if [256, 384, 521].contains(&key.bits()) => KeyKind::Ecdsa,
            Id::RSA if (2048..=8192).contains(&key.bits()) => KeyKind::Rsa,
            _ => return Err(Fault::UnsupportedKey),
        };
        let public = end_entity.public_key().map_err(|_| Fault::UnsupportedKey)?;
        if !public.public_eq(&key) {
            return Err(Fault::Mismatch);
        }
        let digest = end_entity.digest(MessageDigest::sha256()).map_err(|_| Fault::BadChain)?;
        let sha256 = <[u8; 32]>::try_from(&*digest).map_err(|_| Fault::BadChain)?;
        let not_after = unix_seconds(end_entity.not_after()).ok_or(Fault::BadChain)?;
        let credential = credential(&chain, &key).ok_or(Fault::Mismatch)?;
        Ok(ServerCertificate { credential, key_kind, sha256, not_after })
    }

    pub fn credential(&self) -> &SslCredential {
        &self.credential
    }

    pub fn key_kind(&self) -> KeyKind {
        self.key_kind
    }

    /// SHA-256 of the end-entity's DER.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    pub fn not_after(&self) -> UnixSeconds {
        self.not_after
    }
}

fn unix_seconds(time: &boring::asn1::Asn1TimeRef) -> Option<UnixSeconds> {
    let epoch = boring::asn1::Asn1Time::from_unix(0).ok()?;
    let diff = epoch.diff(time).ok()?;
    Some(i64::from(diff.days) * 86_400 + i64::from(diff.secs))
}

fn credential(chain: &[X509], key: &PKey<Private>) -> Option<SslCredential> {
    let ders: Vec<Vec<u8>> = chain.iter().map(|c| c.to_der().ok()).collect::<Option<_>>()?;
    // SAFETY: every pointer handed out lives until the end of the block; the buffers and the
    // key are reference-counted by BoringSSL, so the credential keeps what it needs. On any
    // failure the credential, which this block owns, is freed by `SslCredential`'s drop.
    unsafe {
        let raw = ffi::SSL_CREDENTIAL_new_x509();
        if raw.is_null() {
            return None;
        }
        let credential = SslCredential::from_ptr(raw);
        let buffers: Vec<*mut ffi::CRYPTO_BUFFER> = ders
            .iter()
            .map(|der| ffi::CRYPTO_BUFFER_new(der.as_ptr(), der.len(), std::ptr::null_mut()))
            .collect();
        let whole = buffers.iter().all(|buffer| !buffer.is_null());
        let done = whole
            && ffi::SSL_CREDENTIAL_set1_cert_chain(raw, buffers.as_ptr().cast(), buffers.len())
                == 1
            && ffi::SSL_CREDENTIAL_set1_private_key(raw, key.as_ptr()) == 1;
        for buffer in buffers {
            ffi::CRYPTO_BUFFER_free(buffer);
        }
        ffi::ERR_clear_error();
        done.then_some(credential)
    }
}
