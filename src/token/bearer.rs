//! Judges a token that a request carries: one of the edge's own, or somebody else's.
//!
//! The order is: is it ours, then is it good. Ours is a token that names a key which the
//! tenant publishes **and** the tenant's issuer. Both are asked for because the platform's
//! own tokens may bear the same issuer (its domain), and any verifier may use a key id such
//! as `k1`.
//!
//! | key id | issuer | signature | |
//! |---|---|---|---|
//! | ours | ours | holds | ours, if the rest holds |
//! | ours | ours | does not hold | refused |
//! | ours | another | holds | refused: tenants share keys, so it was signed here for another tenant |
//! | ours | another | does not hold | foreign: somebody else's key of the same name |
//! | another | any | not asked | foreign |
//!
//! What is [`Bearer::Foreign`] may be the platform's, and only the platform can tell. That is
//! no door: foreign tokens identify nobody here and go to the upstream as they came, which
//! verifies them by the same key set. A token under a key of ours that has left the key set is
//! foreign too, and expired; one that was good here before is refused.
//!
//! What claims to be ours must be exactly what the edge signs: algorithm of the key (RFC 8725
//! §3.1), no header parameter but `alg`, `typ` and `kid` (nothing that names another key, and
//! no `crit`, RFC 7515 §4.1.11), one value for each claim, numbers for times.
//!
//! A platform that signs with a key that it shares with the edge gives it another key id for
//! tokens of its own: under ours its users' tokens would be refused here, being signed by a
//! key of the edge and for no device of the tenant.
//!
//! # What a repeated token costs
//! A device sends the same token with each request, so [`Bearers`] remembers what it found
//! good: the next time a hash and a look-up stand for the parsing and the signature. Nothing
//! else is remembered. Whether the key is still published, times, issuer, audience, tenant
//! and binding are asked each time, of the settings and the connection of that request.

#[cfg(test)]
mod known_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::sha::sha256;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde_json::{Map, Value};

use super::json::{NotOneReading, object};
use super::keys::{SigningKey, SigningKeys};
use super::{TokenSettings, claims};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};

/// No token of ours comes near it; nothing of a longer one is decoded but its header.
pub const MAX_BEARER_BYTES: usize = 8 * 1024;

/// By how many seconds `nbf` and `iat` may lie in the future: a device that has a token of one
/// node may use it on the next one at once, whose clock is a little behind. `exp` has no such
/// leeway.
pub const NOT_BEFORE_LEEWAY: i64 = 60;

/// Good tokens that are remembered; beyond, the one that was sent longest ago is dropped. Of
/// each, a few of its claims are kept, never the token.
const REMEMBERED: u64 = 10_000;

/// What a bearer token is.
#[derive(Debug, PartialEq, Eq)]
pub enum Bearer {
    /// Signed by the edge for this tenant, and good now.
    Ours(VerifiedBearer),
    /// Not for the edge to judge; says nothing about who sends it.
    Foreign,
    /// Claims to be ours and is not good, or is made to be read in two ways. The reason is for
    /// operators and holds nothing of the token.
    Refused(Cow<'static, str>),
}

/// Whose token it is. Made by [`Bearers::check`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBearer {
    device: DeviceId,
}

impl VerifiedBearer {
    pub fn device(&self) -> &DeviceId {
        &self.device
    }
}

/// Judges bearers, and remembers the good ones. One for all tenants of an edge.
pub struct Bearers {
    /// By SHA-256 of the whole token. Only what was good for the tenant that it came to gets
    /// in, so nobody fills it with tokens of their own making.
    good: Cache<[u8; 32], Arc<Signed>>,
}

impl Default for Bearers {
    fn default() -> Bearers {
        Bearers::remembering(REMEMBERED)
    }
}

impl Bearers {
    fn remembering(capacity: u64) -> Bearers {
        let policy = EvictionPolicy::lru();
        Bearers { good: Cache::builder().max_capacity(capacity).eviction_policy(policy).build() }
    }

    /// Judges `token`, which came on a connection with the certificate `leaf_sha256`. Says
    /// nothing of whether the device is registered or blocked: ask the registry.
    pub fn check(
        &self,
        token: &str,
        keys: &SigningKeys,
        settings: &TokenSettings,
        tenant: &TenantId,
        leaf_sha256: Option<&[u8; 32]>,
        now: UnixSeconds,
    ) -> Bearer {
        match self.judge(token, keys, settings, tenant, leaf_sha256, now) {
            Ok(device) => Bearer::Ours(VerifiedBearer { device }),
            Err(NotOurs::Foreign) => Bearer::Foreign,
            Err(NotOurs::Refused(reason)) => Bearer::Refused(Cow::Borrowed(reason)),
        }
    }

    fn judge(
        &self,
        token: &str,
        keys: &SigningKeys,
        settings: &TokenSettings,
        tenant: &TenantId,
        leaf_sha256: Option<&[u8; 32]>,
        now: UnixSeconds,
    ) -> Result<DeviceId, NotOurs> {
        // What is longer is never good, and not worth a hash.
        let name = (token.len() <= MAX_BEARER_BYTES).then(|| sha256(token.as_bytes()));
        let known = name.and_then(|name| self.good.get(&name));
        let signed = match &known {
            Some(signed) if keys.still_publishes(&signed.kid, &signed.key_sha256) => signed.clone(),
            Some(_) => {
                return Err(Refused(
                    "the token was signed here, under a key that is not published or no longer",
                ));
            }
            None => Arc::new(Signed::read(token, keys, settings)?),
        };
        signed.check(settings, tenant, leaf_sha256, now)?;
        if let (None, Some(name)) = (known, name) {
            self.good.insert(name, signed.clone());
        }
        Ok(signed.device.clone())
    }
}

enum NotOurs {
    Foreign,
    Refused(&'static str),
}

use NotOurs::{Foreign, Refused};

/// Tenants share the edge's keys, and each has an issuer of its own.
const OF_ANOTHER_TENANT: NotOurs = Refused("the token was signed here for another tenant");

/// What a token of ours says, once its signature holds. Whether it is good is asked anew for
/// each request.
struct Signed {
    kid: Arc<str>,
    /// A kid that was given to another key is another key.
    key_sha256: [u8; 32],
    issuer: Box<str>,
    audience: Box<str>,
    tenant: Box<str>,
    device: DeviceId,
    /// The later one of `nbf` and `iat`.
    starts: Option<UnixSeconds>,
    expires: UnixSeconds,
    /// `cnf`: base64url of the SHA-256 of the one certificate that it is good with.
    bound_to: Option<Box<str>>,
}

impl Signed {
    /// Reads a token under one of `keys` and of an issuer of ours, and verifies its signature.
    fn read(token: &str, keys: &SigningKeys, settings: &TokenSettings) -> Result<Signed, NotOurs> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Foreign);
        };
        let header = decoded_header(header)?;
        let key = match header.get("kid") {
            Some(Value::String(kid)) => keys.published(kid).ok_or(Foreign)?,
            _ => return Err(Foreign),
        };
        if token.len() > MAX_BEARER_BYTES {
            return Err(Refused("the token is longer than 8 KiB"));
        }
        let claims = decoded_claims(payload)?;
        let (message, _) = token.rsplit_once('.').ok_or(Foreign)?;
        let issuer = match claims.get("iss") {
            Some(Value::String(issuer)) if is_issuer(settings, issuer) => issuer,
            // The key's own algorithm, whatever the header says: what counts is who signed.
            Some(Value::String(_)) | None => {
                return Err(match key.verifies(message, signature) {
                    true => OF_ANOTHER_TENANT,
                    false => Foreign,
                });
            }
            Some(_) => return Err(Refused("the token's issuer is not a text")),
        };
        check_header(&header, key)?;
        if !key.verifies(message, signature) {
            return Err(Refused("the token's signature is not that of the key it names"));
        }
        let (not_before, issued) = (time(&claims, "nbf")?, time(&claims, "iat")?);
        Ok(Signed {
            kid: key.kid().clone(),
            key_sha256: *key.public_sha256(),
            issuer: issuer.as_str().into(),
            // One text, as the edge writes it: a list of audiences is not from here.
            audience: text(&claims, "aud").ok_or(OF_ANOTHER_AUDIENCE)?.into(),
            tenant: text(&claims, "ten").ok_or(NAMES_ANOTHER_TENANT)?.into(),
            device: text(&claims, "sub")
                .and_then(|subject| subject.strip_prefix(claims::SUBJECT_PREFIX))
                .and_then(|device| DeviceId::parse(device).ok())
                .ok_or(Refused("the token's subject is not a device"))?,
            starts: not_before.max(issued),
            expires: time(&claims, "exp")?.ok_or(Refused("the token has no end (exp)"))?,
            bound_to: bound_to(&claims)?.map(Into::into),
        })
    }

    /// Everything that may change while the token stays the same.
    fn check(
        &self,
        settings: &TokenSettings,
        tenant: &TenantId,
        leaf_sha256: Option<&[u8; 32]>,
        now: UnixSeconds,
    ) -> Result<(), NotOurs> {
        if !is_issuer(settings, &self.issuer) {
            return Err(OF_ANOTHER_TENANT);
        }
        if self.expires <= now {
            return Err(Refused("the token has expired"));
        }
        let latest = now.saturating_add(NOT_BEFORE_LEEWAY);
        if self.starts.is_some_and(|at| at > latest) {
            return Err(Refused(
                "the token is from the future; do the clocks of the edge's nodes differ?",
            ));
        }
        if *self.audience != *settings.audience {
            return Err(OF_ANOTHER_AUDIENCE);
        }
        if *self.tenant != *tenant.as_str() {
            return Err(NAMES_ANOTHER_TENANT);
        }
        // Bound to a certificate (RFC 8705 §3.1): good with that one only.
        let Some(bound_to) = &self.bound_to else { return Ok(()) };
        let leaf = leaf_sha256
            .ok_or(Refused("the token is bound to a certificate, and the connection has none"))?;
        match **bound_to == *URL_SAFE_NO_PAD.encode(leaf) {
            true => Ok(()),
            false => {
                Err(Refused("the token is bound to another certificate than the connection's"))
            }
        }
    }
}

const OF_ANOTHER_AUDIENCE: NotOurs = Refused("the token is for another audience");
const NAMES_ANOTHER_TENANT: NotOurs = Refused("the token is another tenant's");

fn is_issuer(settings: &TokenSettings, issuer: &str) -> bool {
    issuer == settings.issuer || settings.oauth_issuer.as_deref() == Some(issuer)
}

/// The header of what may be a JWS.
fn decoded_header(encoded: &str) -> Result<Map<String, Value>, NotOurs> {
    if encoded.len() > MAX_BEARER_BYTES {
        return Err(Refused("the token's header is longer than 8 KiB"));
    }
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Foreign)?;
    let header = object(&json).map_err(|fault| match fault {
        NotOneReading::NoObject => Foreign,
        NotOneReading::RepeatedName => Refused("a name stands twice in the token's header"),
    })?;
    // An unsecured JWS (RFC 7515 §6) is nobody's credential, whoever is said to issue it.
    match header.get("alg") {
        Some(Value::String(alg)) if alg.eq_ignore_ascii_case("none") => {
            Err(Refused("the token is not signed (alg none)"))
        }
        _ => Ok(header),
    }
}

/// The claims of a token that names a key of ours.
fn decoded_claims(encoded: &str) -> Result<Map<String, Value>, NotOurs> {
    let json = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| Refused("the token's claims are not base64url"))?;
    object(&json).map_err(|fault| match fault {
        NotOneReading::NoObject => Refused("the token's claims are not a JSON object"),
        NotOneReading::RepeatedName => Refused("a name stands twice in the token's claims"),
    })
}

fn check_header(header: &Map<String, Value>, key: &SigningKey) -> Result<(), NotOurs> {
    if text(header, "alg") != Some(key.algorithm().name()) {
        return Err(Refused("the token's algorithm is not that of the key it names"));
    }
    if header.get("typ").is_some_and(|typ| typ != "JWT") {
        return Err(Refused("the token is of another type than JWT"));
    }
    match header.keys().all(|name| ["alg", "typ", "kid"].contains(&name.as_str())) {
        true => Ok(()),
        false => Err(Refused(
            "the token's header has more than the edge writes (such as crit, jku, jwk, x5u or x5c)",
        )),
    }
}

fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<UnixSeconds>, NotOurs> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    value.as_i64().map(Some).ok_or(Refused("a time of the token is not a whole number"))
}

/// The certificate that the token is bound to; one that is bound to something else is not
/// good here at all.
fn bound_to(claims: &Map<String, Value>) -> Result<Option<&str>, NotOurs> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    match confirmation {
        Value::Object(members) if members.len() == 1 => text(members, claims::CERTIFICATE_SHA256),
        _ => None,
    }
    .map(Some)
    .ok_or(Refused("the token is bound to something else than a certificate"))
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
    members.get(name).and_then(Value::as_str)
}
