//! A tenant's signing keys and the key set that verifiers fetch.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::error::ErrorStack;
use bytes::Bytes;
use serde::Serialize;

use super::Algorithm;
use super::crypto::{Coordinates, PrivateKey};

/// An immutable set of keys, newest first: the first of an algorithm signs, all are
/// published. To rotate, put a key in front and take the old one away a lifespan later.
pub struct SigningKeys {
    keys: Vec<SigningKey>,
    jwks: Bytes,
}

/// Why a signing key cannot be used. No variant holds key bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("a key id is 1 to 64 of A-Z a-z 0-9 '.' '_' '-'")]
    BadKid,
    #[error("the same key id is given to key {first} of the list")]
    DuplicateKid {
        /// Its place in the list, from 0.
        first: usize,
    },
    #[error("the file holds no unencrypted PEM private key (PKCS#8, SEC1 or PKCS#1)")]
    Unreadable,
    #[error("the key is neither ECDSA on P-256 nor RSA of 2048 to 8192 bits")]
    Unsupported,
}

impl SigningKeys {
    /// `keys`: key ids with PEM private keys, newest first.
    ///
    /// # Errors
    /// All faults at once, each with its place in `keys`.
    pub fn load(keys: Vec<(String, Vec<u8>)>) -> Result<SigningKeys, Vec<(usize, KeyFault)>> {
        let mut loaded: Vec<SigningKey> = Vec::with_capacity(keys.len());
        let mut faults = Vec::new();
        for (index, (kid, pem)) in keys.iter().enumerate() {
            match keys.iter().take(index).position(|(earlier, _)| earlier == kid) {
                Some(first) => faults.push((index, KeyFault::DuplicateKid { first })),
                None => match SigningKey::load(kid, pem) {
                    Ok(key) => loaded.push(key),
                    Err(fault) => faults.push((index, fault)),
                },
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let jwks: Vec<&str> = loaded.iter().map(|key| key.jwk.as_str()).collect();
        let jwks = Bytes::from(format!(r#"{{"keys":[{}]}}"#, jwks.join(",")));
        Ok(SigningKeys { keys: loaded, jwks })
    }

    /// The JSON Web Key Set (RFC 7517 §5): public parts only.
    pub fn jwks(&self) -> Bytes {
        self.jwks.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn publishes(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| *key.kid == *kid)
    }

    /// Whether tokens can be signed by this algorithm.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        self.signing(algorithm).is_some()
    }

    /// The key that signs.
    pub(super) fn signing(&self, algorithm: Algorithm) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.private.algorithm() == algorithm)
    }

    /// Whether this kid is published and still names the same key.
    pub(super) fn still_publishes(&self, kid: &str, public_sha256: &[u8; 32]) -> bool {
        self.keys.iter().any(|key| *key.kid == *kid && key.public_sha256 == *public_sha256)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

/// One key, parsed when it was loaded.
pub(super) struct SigningKey {
    kid: Arc<str>,
    private: PrivateKey,
    /// SHA-256 of the SubjectPublicKeyInfo.
    public_sha256: [u8; 32],
    /// The JOSE header of every token that this key signs, base64url.
    header: String,
    jwk: String,
}

impl SigningKey {
    fn load(kid: &str, pem: &[u8]) -> Result<SigningKey, KeyFault> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if kid.is_empty() || kid.len() > 64 || !kid.bytes().all(inner) {
            return Err(KeyFault::BadKid);
        }
        let private = PrivateKey::from_pem(pem)?;
        let alg = private.algorithm().name();
        let public = private.public_coordinates().map_err(|_| KeyFault::Unsupported)?;
        let jwk = Jwk { public, usage: "sig", alg, kid };
        let header = Header { alg, typ: "JWT", kid };
        Ok(SigningKey {
            kid: kid.into(),
            public_sha256: private.public_sha256().map_err(|_| KeyFault::Unsupported)?,
            header: URL_SAFE_NO_PAD
                .encode(serde_json::to_vec(&header).map_err(|_| KeyFault::BadKid)?),
            jwk: serde_json::to_string(&jwk).map_err(|_| KeyFault::BadKid)?,
            private,
        })
    }

    pub(super) fn kid(&self) -> &Arc<str> {
        &self.kid
    }

    pub(super) fn public_sha256(&self) -> &[u8; 32] {
        &self.public_sha256
    }

    /// A JWS in compact form (RFC 7515 §3.1) over claims that are base64url already.
    pub(super) fn sign(&self, claims: &str) -> Result<String, ErrorStack> {
        let mut jws = [&self.header, ".", claims].concat();
        let signature = self.private.sign(jws.as_bytes())?;
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
        Ok(jws)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.private.algorithm())
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

#[derive(Serialize)]
struct Jwk<'a> {
    #[serde(flatten)]
    public: Coordinates,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    kid: &'a str,
}
