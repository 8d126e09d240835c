//! Access tokens for devices: a JWT for each device, given again until half of its lifetime
//! has passed (the platform's half-life rule).
//!
//! A token is minted only for a device that the gate has just authenticated. It is given
//! again only on the same terms: same leaf, trust epoch and settings, and a signing key that
//! is still published. Anything else makes a new one.
//!
//! | file | what it does |
//! |---|---|
//! | `claims` | what a token says |
//! | `keys` | keys as they sign and are published |
//! | `key_ring`, `seal` | managed keys: sealed in the registry, rotated by time |
//! | `bearer`, `json` | judges a token that a request carries |
//! | `relay` | tokens that the platform made, by the same half-life rule |

mod bearer;
mod claims;
mod crypto;
mod json;
mod key_ring;
mod keys;
mod relay;
mod seal;
#[cfg(test)]
mod tests;
mod x509;

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

pub use self::bearer::{Bearer, Bearers, MAX_BEARER_BYTES, NOT_BEFORE_LEEWAY, VerifiedBearer};
pub use self::crypto::install_crypto_provider;
pub use self::key_ring::{
    KeyRing, KeyState, KeyStatus, MAX_KEYS, NewKey, ROTATION_SLACK, RotationFault,
    RotationSettings, RotationSettingsFault,
};
pub use self::keys::{JWKS_MAX_AGE, KeyFault, SigningKeys};
pub use self::relay::{Flight, FlightGuard, MAX_KEPT, Relayed, RelayedToken, RelayedTokens};
pub use self::seal::{KeyRingFault, KeySecret, KeySecretFault, RowFault, SealedKey};
pub use self::x509::X509Signer;

/// What signs a token (RFC 7518 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// By its name in a JOSE header.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        [Algorithm::Es256, Algorithm::Rs256].into_iter().find(|known| known.name() == name)
    }

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

/// The longest lifespan that a tenant may ask for, in seconds: 30 days.
pub const MAX_LIFESPAN: u32 = 30 * 86_400;

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
    /// The issuer of OAuth's access tokens and of the metadata, an https URL (RFC 8414 §2);
    /// `None`: OAuth is off.
    pub oauth_issuer: Option<String>,
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

/// What an OAuth client gets.
#[derive(Clone, Debug)]
pub struct IssuedAccess {
    pub token: Arc<Token>,
    /// Signed for this request; else the current token, given again.
    pub fresh: bool,
    /// Seconds that are left of the token's life.
    pub expires_in: i64,
}

impl IssuedAccess {
    /// The successful response (RFC 6749 §5.1), to be sent as `application/json` with
    /// `Cache-Control: no-store`. A token bound by mutual TLS is of the type Bearer
    /// (RFC 8705 §3).
    pub fn body(&self) -> Bytes {
        // A JWT needs no escapes in JSON.
        Bytes::from(format!(
            r#"{{"access_token":"{}","token_type":"Bearer","expires_in":{}}}"#,
            self.token.jwt(),
            self.expires_in,
        ))
    }
}

/// Why no token can be made. Each is a fault of the edge or its configuration, none of the
/// device.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("no signing key for {} is published, or none of them may sign yet", .0.name())]
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
        self.issue(request, Kind::Device).map(|(issued, _)| issued)
    }

    /// The device's current OAuth access token, or a new one (RFC 6749 §4.4): always bound to
    /// its certificate (RFC 8705 §3), whatever the settings say, and with the device as its
    /// `client_id` (RFC 8693 §4.3). Apart from the token of [`TokenService::token`]: each has
    /// its own half-life.
    pub fn access_token(&self, request: &TokenRequest<'_>) -> Result<IssuedAccess, TokenFault> {
        let (Issued { token, fresh }, now) = self.issue(request, Kind::Access)?;
        let expires_in = token.expires_at().saturating_sub(now);
        Ok(IssuedAccess { token, fresh, expires_in })
    }

    /// A token with the time at which it was found good.
    fn issue(
        &self,
        request: &TokenRequest<'_>,
        kind: Kind,
    ) -> Result<(Issued, UnixSeconds), TokenFault> {
        let key = cache_key(kind, request.tenant, request.device);
        let mut now = self.clock.now();
        if let Some(token) = self.current.get(&key)
            && token.serves(request, kind, now)
        {
            return Ok((Issued { token, fresh: false }, now));
        }
        let outcome = self.current.entry_by_ref(&key).and_try_compute_with(|current| {
            // The time is read anew: another request may have signed since.
            now = self.clock.now();
            match current {
                Some(entry) if entry.value().serves(request, kind, now) => Ok(Op::Nop),
                _ => Token::mint(request, kind, now).map(|token| Op::Put(Arc::new(token))),
            }
        })?;
        let fresh = !matches!(outcome, CompResult::Unchanged(_));
        let token = match outcome.into_entry() {
            Some(entry) => entry.into_value(),
            None => Arc::new(Token::mint(request, kind, now)?),
        };
        Ok((Issued { token, fresh }, now))
    }

    /// Drops a device's current tokens; the next request gets a new one.
    pub fn forget(&self, tenant: &TenantId, device: &DeviceId) {
        for kind in [Kind::Device, Kind::Access] {
            self.current.invalidate(&cache_key(kind, tenant, device));
        }
    }
}

/// The tokens that a device may have at one time, one of each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The token endpoint's.
    Device,
    /// OAuth's.
    Access,
    /// The platform's own, relayed.
    Relayed,
}

impl Kind {
    fn issuer(self, settings: &TokenSettings) -> &str {
        match (self, &settings.oauth_issuer) {
            (Kind::Access, Some(issuer)) => issuer,
            _ => &settings.issuer,
        }
    }

    fn binds(self, settings: &TokenSettings) -> bool {
        self == Kind::Access || settings.bind_certificate
    }
}

/// SHA-256 over the kind and the length-prefixed names: fixed size, made without allocating,
/// and no two pairs of names share one.
fn cache_key(kind: Kind, tenant: &TenantId, device: &DeviceId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(match kind {
        Kind::Device => b"d",
        Kind::Access => b"a",
        Kind::Relayed => b"r",
    });
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

    fn mint(request: &TokenRequest<'_>, kind: Kind, now: UnixSeconds) -> Result<Token, TokenFault> {
        let settings = request.settings;
        if settings.lifespan < MIN_LIFESPAN {
            return Err(TokenFault::LifespanTooShort(settings.lifespan));
        }
        let key = request
            .keys
            .signing(settings.algorithm, now)
            .ok_or(TokenFault::NoSigningKey(settings.algorithm))?;
        let jwt = key.sign(&claims::encoded(request, kind, now)?)?;
        Ok(Token {
            body: Bytes::from([BODY_START, &jwt, BODY_END].concat()),
            issued_at: now,
            terms: Terms {
                leaf_sha256: *request.leaf_sha256,
                epoch: *request.epoch,
                issuer: kind.issuer(settings).into(),
                audience: settings.audience.as_str().into(),
                lifespan: settings.lifespan,
                algorithm: settings.algorithm,
                bind_certificate: kind.binds(settings),
                kid: key.kid().clone(),
                key_sha256: *key.public_sha256(),
            },
        })
    }

    fn serves(&self, request: &TokenRequest<'_>, kind: Kind, now: UnixSeconds) -> bool {
        let age = now.saturating_sub(self.issued_at);
        // A clock that was set back finds tokens from its future; they are not valid yet.
        let first_half = age >= 0 && age.saturating_mul(2) < self.terms.lifespan.into();
        first_half && self.terms.hold(request, kind)
    }
}

impl Terms {
    fn hold(&self, request: &TokenRequest<'_>, kind: Kind) -> bool {
        let settings = request.settings;
        self.leaf_sha256 == *request.leaf_sha256
            && self.epoch == *request.epoch
            && self.lifespan == settings.lifespan
            && self.algorithm == settings.algorithm
            && self.bind_certificate == kind.binds(settings)
            && *self.issuer == *kind.issuer(settings)
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
