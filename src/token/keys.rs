//! A tenant's signing keys and the key set that verifiers fetch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::error::ErrorStack;
use bytes::Bytes;
use jsonwebtoken::signature::Verifier;
use serde::Serialize;

use super::Algorithm;
use super::crypto::{Coordinates, PrivateKey, PublicKey};
use crate::clock::UnixSeconds;

/// An immutable set of keys, newest first. All are published. Of an algorithm's keys that may
/// sign by now, the one that was allowed last signs; of several, the first in the set.
///
/// Keys out of files may sign at any time, so the first of an algorithm signs. To rotate
/// them, put a key in front and take the old one away a lifespan later.
pub struct SigningKeys {
    keys: Vec<PublishedKey>,
    jwks: Bytes,
}

/// A key with the second from which it may sign; before, it is only published.
#[derive(Clone)]
pub(super) struct PublishedKey {
    pub(super) key: Arc<SigningKey>,
    pub(super) sign_from: UnixSeconds,
}

/// For how long a verifier may use a key set that it has fetched (`Cache-Control: max-age`).
/// A key that signs earlier than this after it was published meets verifiers that do not
/// know it.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(300);

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
        let mut loaded = Vec::with_capacity(keys.len());
        let mut faults = Vec::new();
        for (index, (kid, pem)) in keys.iter().enumerate() {
            match keys.iter().take(index).position(|(earlier, _)| earlier == kid) {
                Some(first) => faults.push((index, KeyFault::DuplicateKid { first })),
                None => match SigningKey::load(kid, pem) {
                    Ok(key) => loaded.push(PublishedKey { key: Arc::new(key), sign_from: 0 }),
                    Err(fault) => faults.push((index, fault)),
                },
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(SigningKeys::of(loaded))
    }

    /// `keys`: newest first, each kid once.
    pub(super) fn of(keys: Vec<PublishedKey>) -> SigningKeys {
        let jwks: Vec<&str> = keys.iter().map(|published| published.key.jwk.as_str()).collect();
        let jwks = Bytes::from(format!(r#"{{"keys":[{}]}}"#, jwks.join(",")));
        SigningKeys { keys, jwks }
    }

    /// The JSON Web Key Set (RFC 7517 §5): public parts only.
    pub fn jwks(&self) -> Bytes {
        self.jwks.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// These keys and, behind them, others: published together, and signing in their turn.
    pub fn with(&self, others: &SigningKeys) -> SigningKeys {
        let mut keys = self.keys.clone();
        let new = others.keys.iter().filter(|other| !self.publishes(&other.key.kid));
        keys.extend(new.cloned());
        SigningKeys::of(keys)
    }

    /// Each key's id and algorithm, and whether it is the first of its algorithm.
    pub fn listed(&self) -> impl Iterator<Item = (&Arc<str>, Algorithm, bool)> {
        self.keys.iter().enumerate().map(|(index, published)| {
            let algorithm = published.key.algorithm();
            let before = self.keys.iter().take(index);
            let first = !before.into_iter().any(|key| key.key.algorithm() == algorithm);
            (&published.key.kid, algorithm, first)
        })
    }

    pub fn publishes(&self, kid: &str) -> bool {
        self.published(kid).is_some()
    }

    /// Whether there is a key of this algorithm, be it one that may sign only later.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|published| published.key.algorithm() == algorithm)
    }

    /// The key that signs at this time.
    pub(super) fn signing(&self, algorithm: Algorithm, now: UnixSeconds) -> Option<&SigningKey> {
        let mut signing: Option<&PublishedKey> = None;
        for published in &self.keys {
            if published.key.algorithm() == algorithm
                && published.sign_from <= now
                && signing.is_none_or(|best| published.sign_from > best.sign_from)
            {
                signing = Some(published);
            }
        }
        signing.map(|published| &*published.key)
    }

    /// The key that this kid names.
    pub(super) fn published(&self, kid: &str) -> Option<&SigningKey> {
        self.keys.iter().map(|published| &*published.key).find(|key| *key.kid == *kid)
    }

    /// Whether this kid is published and still names the same key.
    pub(super) fn still_publishes(&self, kid: &str, public_sha256: &[u8; 32]) -> bool {
        self.published(kid).is_some_and(|key| key.public_sha256 == *public_sha256)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|published| &published.key)).finish()
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
    public: PublicKey,
}

impl SigningKey {
    fn load(kid: &str, pem: &[u8]) -> Result<SigningKey, KeyFault> {
        check_kid(kid)?;
        SigningKey::new(kid, PrivateKey::from_pem(pem)?)
    }

    pub(super) fn new(kid: &str, private: PrivateKey) -> Result<SigningKey, KeyFault> {
        check_kid(kid)?;
        let alg = private.algorithm().name();
        let coordinates = private.public_coordinates().map_err(|_| KeyFault::Unsupported)?;
        let public = coordinates
            .decoding_key()
            .and_then(|key| PublicKey::new(private.algorithm().jose(), &key))
            .map_err(|_| KeyFault::Unsupported)?;
        let jwk = Jwk { public: coordinates, usage: "sig", alg, kid };
        let header = Header { alg, typ: "JWT", kid };
        Ok(SigningKey {
            kid: kid.into(),
            public_sha256: private.public_sha256().map_err(|_| KeyFault::Unsupported)?,
            header: URL_SAFE_NO_PAD
                .encode(serde_json::to_vec(&header).map_err(|_| KeyFault::BadKid)?),
            jwk: serde_json::to_string(&jwk).map_err(|_| KeyFault::BadKid)?,
            public,
            private,
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.private.algorithm()
    }

    /// Whether `signature` (base64url) is this key's over `message`, by this key's algorithm
    /// and no other.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        let signature = URL_SAFE_NO_PAD.decode(signature);
        signature.is_ok_and(|signature| self.public.verify(message.as_bytes(), &signature).is_ok())
    }

    pub(super) fn private(&self) -> &PrivateKey {
        &self.private
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

/// A kid stands in JSON, logs and paths of the admin API as it is.
pub(super) fn check_kid(kid: &str) -> Result<(), KeyFault> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match !kid.is_empty() && kid.len() <= 64 && kid.bytes().all(inner) {
        true => Ok(()),
        false => Err(KeyFault::BadKid),
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
