//! A signing key at work on X.509 instead of tokens: the CRL of a tenant's revocations.

use boring::ecdsa::EcdsaSig;
use boring::error::ErrorStack;
use boring::sha::sha256;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Algorithm;
use super::crypto::PrivateKey;
use super::keys::{SigningKey, SigningKeys};
use crate::clock::UnixSeconds;

/// The key that signs tokens at one time.
pub struct X509Signer<'k> {
    key: &'k SigningKey,
    /// The bits of the subjectPublicKey (RFC 5280 §4.1.2.7): a point, or PKCS #1.
    public_key_bits: Vec<u8>,
}

impl SigningKeys {
    /// The key that signs tokens of this algorithm at this time.
    pub fn x509_signer(&self, algorithm: Algorithm, now: UnixSeconds) -> Option<X509Signer<'_>> {
        let key = self.signing(algorithm, now)?;
        let der = key.private().public_der().ok()?;
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&der).ok()?;
        let public_key_bits = parsed.subject_public_key.data.to_vec();
        Some(X509Signer { key, public_key_bits })
    }
}

impl X509Signer<'_> {
    pub fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }

    pub fn public_key_bits(&self) -> &[u8] {
        &self.public_key_bits
    }

    /// 160 bits of the SHA-256 of the public key's bits (RFC 7093 §2 method 1).
    pub fn key_identifier(&self) -> Vec<u8> {
        sha256(&self.public_key_bits).into_iter().take(20).collect()
    }

    /// A signature as certificates and CRLs carry it: of ECDSA, DER and not the fixed length
    /// of a JWS (RFC 5758 §3.2, RFC 4055 §5).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        match self.key.private() {
            PrivateKey::Es256(key) => EcdsaSig::sign(&sha256(message), key)?.to_der(),
            private @ PrivateKey::Rs256(_) => private.sign(message),
        }
    }
}
