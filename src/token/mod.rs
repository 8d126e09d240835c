//! Access tokens for devices: a JWT for each device, given again until half of its lifetime
//! has passed (the platform's half-life rule).
//!
//! A token is minted only for a device that the gate has just authenticated. It is given
//! again only on the same terms: same leaf, trust epoch and settings, and a signing key that
//! is still published. Anything else makes a new one.

mod claims;
mod crypto;
mod keys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use boring::error::ErrorStack;
use boring::sha::Sha256;
use bytes::Bytes;
use moka::ops::compute::{CompResult, Op};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::{Clock, UnixSeconds};
use crate::names::{DeviceId, TenantId};
use crate::trust::Epoch;

pub use self::crypto::install_crypto_provider;
pub use self::keys::{KeyFault, SigningKeys};

/// What signs a token (RFC 7518 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// The name in a JOSE header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }
}

/// The media type of the token endpoint's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseType {
    /// The platform's own type.
    Vendor,
    /// `application/json`.
    Json,
}

/// The shortest lifespan that the platform allows, in seconds.
pub const MIN_LIFESPAN: u32 = 300;

/// How one tenant's tokens are made.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    pub issuer: String,
    pub audience: String,
    /// Seconds; less than [`MIN_LIFESPAN`] is refused, never clamped.
    pub lifespan: u32,
    pub algorithm: Algorithm,
    /// Bind the token to the device's certificate (`cnf`, RFC 8705 §3.1).
    pub bind_certificate: bool,
    pub response_type: ResponseType,
}

/// A request of a device that the gate has authenticated.
pub struct TokenRequest<'a> {
    pub tenant: &'a TenantId,
    pub device: &'a DeviceId,
    pub leaf_sha256: &'a [u8; 32],
    pub epoch: &'a Epoch,
    pub settings: &'a TokenSettings,
    pub keys: &'a SigningKeys,
}

/// What a device gets.
#[derive(Clone, Debug)]
pub struct Issued {
    pub token: Arc<Token>,
    /// Signed for this request; else the current token, given again.
    pub fresh: bool,
}

/// Why no token can be made. Each is a fault of the edge or its configuration, none of the
/// device.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("no signing key for {} is configured", .0.name())]
    NoSigningKey(Algorithm),
    #[error("a token lifespan of {0} s is below the minimum of {MIN_LIFESPAN} s")]
    LifespanTooShort(u32),
    #[error("BoringSSL could not sign a token or draw random bytes")]
    Crypto(#[from] ErrorStack),
    #[error("the claims of a token could not be written as JSON")]
    Claims(#[from] serde_json::Error),
}

/// Makes tokens and remembers each device's current one.
pub struct TokenService {
    /// By [`cache_key`]. At its capacity it drops the token that was asked for longest ago;
    /// that device then gets a new one before its time.
    current: Cache<[u8; 32], Arc<Token>>,
    clock: Clock,
}

impl TokenService {
    /// `capacity`: how many current tokens are remembered; each takes 1 to 2 KiB.
    pub fn new(capacity: u64, clock: Clock) -> TokenService {
        // LRU: moka's default policy may decline a new entry, and the token of a device
        // that asks seldom would never become its current one.
        let current =
            Cache::builder().max_capacity(capacity).eviction_policy(EvictionPolicy::lru()).build();
        TokenService { current, clock }
    }

    /// The device's current token, or a new one. Of concurrent requests of one device one
    /// signs, and the others get what it signed.
    pub fn token(&self, request: &TokenRequest<'_>) -> Result<Issued, TokenFault> {
        let key = cache_key(request.tenant, request.device);
        if let Some(token) = self.current.get(&key)
            && token.serves(request, self.clock.now())
        {
            return Ok(Issued { token, fresh: false });
        }
        let outcome = self.current.entry_by_ref(&key).and_try_compute_with(|current| {
            // The time is read anew: another request may have signed since.
            let now = self.clock.now();
            match current {
                Some(entry) if entry.value().serves(request, now) => Ok(Op::Nop),
                _ => Token::mint(request, now).map(|token| Op::Put(Arc::new(token))),
            }
        })?;
        let fresh = !matches!(outcome, CompResult::Unchanged(_));
        let token = match outcome.into_entry() {
            Some(entry) => entry.into_value(),
            None => Arc::new(Token::mint(request, self.clock.now())?),
        };
        Ok(Issued { token, fresh })
    }

    /// Drops a device's current token; the next request gets a new one.
    pub fn forget(&self, tenant: &TenantId, device: &DeviceId) {
        self.current.invalidate(&cache_key(tenant, device));
    }
}

/// SHA-256 over the length-prefixed names: fixed size, made without allocating, and no two
/// pairs of names share one.
fn cache_key(tenant: &TenantId, device: &DeviceId) -> [u8; 32] {
    let mut hash = Sha256::new();
    for name in [tenant.as_str(), device.as_str()] {
        hash.update(&(name.len() as u64).to_be_bytes());
        hash.update(name.as_bytes());
    }
    hash.finish()
}

/// A signed token with the answer that carries it.
pub struct Token {
    /// `{"accessToken":"<JWT>"}`.
    body: Bytes,
    issued_at: UnixSeconds,
    terms: Terms,
}

/// What must still hold for a token to be given again.
struct Terms {
    leaf_sha256: [u8; 32],
    epoch: Epoch,
    issuer: Box<str>,
    audience: Box<str>,
    lifespan: u32,
    algorithm: Algorithm,
    bind_certificate: bool,
    kid: Arc<str>,
    /// A kid that was given to another key is another key.
    key_sha256: [u8; 32],
}

const BODY_START: &str = r#"{"accessToken":""#;
const BODY_END: &str = r#""}"#;

impl Token {
    /// The JWT alone.
    pub fn jwt(&self) -> &str {
        self.body
            .strip_prefix(BODY_START.as_bytes())
            .and_then(|rest| rest.strip_suffix(BODY_END.as_bytes()))
            .and_then(|jwt| std::str::from_utf8(jwt).ok())
            .unwrap_or_default()
    }

    /// The token endpoint's answer, made once.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn expires_at(&self) -> UnixSeconds {
        self.issued_at.saturating_add(self.terms.lifespan.into())
    }

    fn mint(request: &TokenRequest<'_>, now: UnixSeconds) -> Result<Token, TokenFault> {
        let settings = request.settings;
        if settings.lifespan < MIN_LIFESPAN {
            return Err(TokenFault::LifespanTooShort(settings.lifespan));
        }
        let key = request
            .keys
            .signing(settings.algorithm)
            .ok_or(TokenFault::NoSigningKey(settings.algorithm))?;
        let jwt = key.sign(&claims::encoded(request, now)?)?;
        Ok(Token {
            body: Bytes::from([BODY_START, &jwt, BODY_END].concat()),
            issued_at: now,
            terms: Terms {
                leaf_sha256: *request.leaf_sha256,
                epoch: *request.epoch,
                issuer: settings.issuer.as_str().into(),
                audience: settings.audience.as_str().into(),
                lifespan: settings.lifespan,
                algorithm: settings.algorithm,
                bind_certificate: settings.bind_certificate,
                kid: key.kid().clone(),
                key_sha256: *key.public_sha256(),
            },
        })
    }

    fn serves(&self, request: &TokenRequest<'_>, now: UnixSeconds) -> bool {
        let age = now.saturating_sub(self.issued_at);
        // A clock that was set back finds tokens from its future; they are not valid yet.
        let first_half = age >= 0 && age.saturating_mul(2) < self.terms.lifespan.into();
        first_half && self.terms.hold(request)
    }
}

impl Terms {
    fn hold(&self, request: &TokenRequest<'_>) -> bool {
        let settings = request.settings;
        self.leaf_sha256 == *request.leaf_sha256
            && self.epoch == *request.epoch
            && self.lifespan == settings.lifespan
            && self.algorithm == settings.algorithm
            && self.bind_certificate == settings.bind_certificate
            && *self.issuer == *settings.issuer
            && *self.audience == *settings.audience
            && request.keys.still_publishes(&self.kid, &self.key_sha256)
    }
}

/// A token is a credential: never shown.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("kid", &self.terms.kid)
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}
