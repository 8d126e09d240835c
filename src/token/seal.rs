//! Private keys as they lie in the registry: sealed, so that who reads the database learns
//! nothing and who writes to it makes no key.
//!
//! A row is sealed with AES-256-GCM under a key that every node derives from the same secret
//! file. Key id, algorithm and both times are authenticated with it: a row with one of them
//! changed does not open. What remains to somebody who may write to the database but has no
//! secret: to delete rows, and to put back rows that were there before.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::hkdf::HkdfSuite;
use boring::rand::rand_bytes;
use boring::symm::{Cipher, decrypt_aead, encrypt_aead};

use super::crypto::PrivateKey;
use super::keys::{SigningKey, check_kid};
use super::{Algorithm, KeyFault};
use crate::clock::UnixSeconds;

/// A managed signing key as the registry keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// `k-<published_at>-<8 hex digits of the public key's SHA-256>`: unique across nodes.
    pub kid: String,
    /// As [`Algorithm::name`] gives it.
    pub algorithm: String,
    /// Base64 over one octet of version, the nonce, the sealed PKCS#8 and the tag.
    pub sealed: String,
    pub published_at: UnixSeconds,
    /// The key does not sign before.
    pub sign_from: UnixSeconds,
}

/// Without `sealed`: it is of no use in a log.
impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .field("published_at", &self.published_at)
            .field("sign_from", &self.sign_from)
            .finish_non_exhaustive()
    }
}

/// What seals private keys. Every node of an edge has the same one. Has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySecret([u8; 32]);

/// Why a text is no secret for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySecretFault {
    #[error(
        "the secret has {0} octets, fewer than {SECRET_LEAST}; `openssl rand -hex 32` writes a good one"
    )]
    TooShort(usize),
    #[error("the secret has {0} octets, more than {SECRET_MOST}; is it the right file?")]
    TooLong(usize),
    #[error(
        "the secret has fewer than {SECRET_LEAST_DISTINCT} different octets, so it is not random; `openssl rand -hex 32` writes a good one"
    )]
    NotRandom,
    #[error("BoringSSL could not derive a key from the secret")]
    Crypto,
}

const SECRET_LEAST: usize = 32;
const SECRET_MOST: usize = 4096;
/// 32 random hex digits have fewer with a chance under (16 over 7) · (7/16)^32 < 10^-7.
const SECRET_LEAST_DISTINCT: usize = 8;

impl KeySecret {
    /// `contents`: of the secret's file, every octet counts, a line break at its end too;
    /// so copy the file, not its text. 32 to 4096 octets, of a random source.
    pub fn from_bytes(contents: &[u8]) -> Result<KeySecret, KeySecretFault> {
        match contents.len() {
            short if short < SECRET_LEAST => return Err(KeySecretFault::TooShort(short)),
            long if long > SECRET_MOST => return Err(KeySecretFault::TooLong(long)),
            _ => {}
        }
        let mut distinct = contents.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < SECRET_LEAST_DISTINCT {
            return Err(KeySecretFault::NotRandom);
        }
        derive(contents).map(KeySecret).map_err(|_| KeySecretFault::Crypto)
    }

    /// Makes a random key and seals it. Takes a good part of a second for RS256.
    pub(super) fn new_key(
        &self,
        algorithm: Algorithm,
        published_at: UnixSeconds,
        sign_from: UnixSeconds,
    ) -> Result<SealedKey, ErrorStack> {
        let (private, pkcs8) = PrivateKey::generate(algorithm)?;
        let [a, b, c, d, ..] = private.public_sha256()?;
        let mut row = SealedKey {
            kid: format!("k-{published_at}-{a:02x}{b:02x}{c:02x}{d:02x}"),
            algorithm: algorithm.name().into(),
            sealed: String::new(),
            published_at,
            sign_from,
        };
        let mut nonce = [0; NONCE];
        rand_bytes(&mut nonce)?;
        let mut tag = [0; TAG];
        let (cipher, aad) = (Cipher::aes_256_gcm(), bound(&row));
        let sealed = encrypt_aead(cipher, &self.0, Some(&nonce), &aad, &pkcs8, &mut tag)?;
        row.sealed = STANDARD.encode([&[VERSION], &nonce[..], &sealed, &tag].concat());
        Ok(row)
    }

    pub(super) fn open(&self, row: &SealedKey) -> Result<SigningKey, RowFault> {
        check_kid(&row.kid).map_err(|_| RowFault::BadKid)?;
        let algorithm = Algorithm::from_name(&row.algorithm).ok_or(RowFault::UnknownAlgorithm)?;
        if row.sealed.len() > SEALED_MOST {
            return Err(RowFault::Unreadable);
        }
        let sealed = STANDARD.decode(&row.sealed).map_err(|_| RowFault::Unreadable)?;
        let Some((&VERSION, rest)) = sealed.split_first() else {
            return Err(RowFault::Unreadable);
        };
        let (nonce, rest) = rest.split_at_checked(NONCE).ok_or(RowFault::Unreadable)?;
        // The tag in its full length: a shorter one could be guessed.
        let at = rest.len().checked_sub(TAG).ok_or(RowFault::Unreadable)?;
        let (sealed, tag) = rest.split_at_checked(at).ok_or(RowFault::Unreadable)?;
        let cipher = Cipher::aes_256_gcm();
        let pkcs8 = decrypt_aead(cipher, &self.0, Some(nonce), &bound(row), sealed, tag)
            .map_err(|_| RowFault::DoesNotOpen)?;
        let private = PrivateKey::from_pkcs8(&pkcs8).map_err(RowFault::Key)?;
        match private.algorithm() == algorithm {
            true => SigningKey::new(&row.kid, private).map_err(RowFault::Key),
            false => Err(RowFault::Key(KeyFault::Unsupported)),
        }
    }
}

const VERSION: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;
/// More than any key that the edge takes needs, RSA of 8192 bits included.
const SEALED_MOST: usize = 16 * 1024;

/// HKDF with SHA-256 (RFC 5869).
fn derive(contents: &[u8]) -> Result<[u8; 32], ErrorStack> {
    let suite = HkdfSuite::new(MessageDigest::sha256());
    let extracted = suite.extract(b"portcullis key secret", contents)?;
    let mut key = [0; 32];
    suite.expand(&extracted, b"portcullis sealed signing keys 1", &mut key)?;
    Ok(key)
}

/// What a sealed key is bound to, each text with its length before it.
fn bound(row: &SealedKey) -> Vec<u8> {
    let mut aad = b"portcullis signing key\0".to_vec();
    for text in [&row.kid, &row.algorithm] {
        aad.extend((text.len() as u64).to_be_bytes());
        aad.extend(text.as_bytes());
    }
    aad.extend(row.published_at.to_be_bytes());
    aad.extend(row.sign_from.to_be_bytes());
    aad
}

/// A row of the registry that is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing key '{kid}' of the registry is not used: {reason}")]
pub struct KeyRingFault {
    /// Fit for a log: `?` in the place of characters that no kid has, at most 64.
    pub kid: String,
    pub reason: RowFault,
}

/// Why a row is not used. No variant holds anything of the row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    #[error("its key id is not 1 to 64 of A-Z a-z 0-9 '.' '_' '-'; delete the row")]
    BadKid,
    #[error("another row has the same key id; delete one")]
    DuplicateKid,
    #[error("this version of the edge does not know its algorithm")]
    UnknownAlgorithm,
    #[error("it is not in the form that this version of the edge writes")]
    Unreadable,
    #[error(
        "it does not open: it was sealed with another secret (give every node the same file), or it was changed in the database (delete the row)"
    )]
    DoesNotOpen,
    #[error("{0}")]
    Key(KeyFault),
    #[error("the registry holds more signing keys than {0}; delete old ones")]
    TooMany(usize),
}

impl KeyRingFault {
    pub(super) fn of(row: &SealedKey, reason: RowFault) -> KeyRingFault {
        let plain = |c: char| match c.is_ascii_alphanumeric() || "._-".contains(c) {
            true => c,
            false => '?',
        };
        KeyRingFault { kid: row.kid.chars().take(64).map(plain).collect(), reason }
    }
}
