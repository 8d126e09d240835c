//! Judges a token that a request carries: one of the edge's own, or somebody else's.
//!
//! The order is: is it ours, then is it good. Ours is a token that names a key which the
//! tenant publishes **and** the tenant's issuer. Both are asked for because the platform's
//! own tokens may bear the same issuer (its domain), and any verifier may use a key id such
//! as `k1`. So what names our issuer but no key of ours is [`Bearer::Foreign`]: it may be the
//! platform's, and only the platform can tell. That is no door: foreign tokens identify
//! nobody here and go to the upstream as they came, which verifies them by the same key set.
//! A token under a key of ours that has left the key set is foreign too, and expired.
//!
//! What claims to be ours must be exactly what the edge signs: algorithm of the key (RFC 8725
//! §3.1), no header parameter but `alg`, `typ` and `kid` (nothing that names another key, and
//! no `crit`, RFC 7515 §4.1.11), one value for each claim, numbers for times.
//!
//! A platform that signs with a key that it shares with the edge gives it another key id for
//! tokens of its own: under ours its users' tokens would be refused here, having no
//! `device_` for a subject.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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

/// Whose token it is. Made by [`check_bearer`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBearer {
    device: DeviceId,
}

impl VerifiedBearer {
    pub fn device(&self) -> &DeviceId {
        &self.device
    }
}

/// Judges `token`, which came on a connection with the certificate `leaf_sha256`. Says nothing
/// of whether the device is registered or blocked: ask the registry.
pub fn check_bearer(
    token: &str,
    keys: &SigningKeys,
    settings: &TokenSettings,
    tenant: &TenantId,
    leaf_sha256: Option<&[u8; 32]>,
    now: UnixSeconds,
) -> Bearer {
    match judge(token, keys, settings, tenant, leaf_sha256, now) {
        Ok(device) => Bearer::Ours(VerifiedBearer { device }),
        Err(NotOurs::Foreign) => Bearer::Foreign,
        Err(NotOurs::Refused(reason)) => Bearer::Refused(Cow::Borrowed(reason)),
    }
}

enum NotOurs {
    Foreign,
    Refused(&'static str),
}

use NotOurs::{Foreign, Refused};

fn judge(
    token: &str,
    keys: &SigningKeys,
    settings: &TokenSettings,
    tenant: &TenantId,
    leaf_sha256: Option<&[u8; 32]>,
    now: UnixSeconds,
) -> Result<DeviceId, NotOurs> {
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
    let claims = decoded_claims(payload, settings)?;
    check_header(&header, key)?;
    let (message, _) = token.rsplit_once('.').ok_or(Foreign)?;
    if !key.verifies(message, signature) {
        return Err(Refused("the token's signature is not that of the key it names"));
    }
    check_times(&claims, now)?;
    // One text, as the edge writes it: a list of audiences is not from here.
    if text(&claims, "aud") != Some(&settings.audience) {
        return Err(Refused("the token is for another audience"));
    }
    if text(&claims, "ten") != Some(tenant.as_str()) {
        return Err(Refused("the token is another tenant's"));
    }
    check_binding(&claims, leaf_sha256)?;
    text(&claims, "sub")
        .and_then(|subject| subject.strip_prefix(claims::SUBJECT_PREFIX))
        .and_then(|device| DeviceId::parse(device).ok())
        .ok_or(Refused("the token's subject is not a device"))
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

/// The claims of a token that names a key of ours, if they name our issuer too.
fn decoded_claims(encoded: &str, settings: &TokenSettings) -> Result<Map<String, Value>, NotOurs> {
    let json = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| Refused("the token's claims are not base64url"))?;
    let claims = object(&json).map_err(|fault| match fault {
        NotOneReading::NoObject => Refused("the token's claims are not a JSON object"),
        NotOneReading::RepeatedName => Refused("a name stands twice in the token's claims"),
    })?;
    match claims.get("iss") {
        Some(Value::String(iss))
            if *iss == settings.issuer || settings.oauth_issuer.as_ref() == Some(iss) =>
        {
            Ok(claims)
        }
        Some(Value::String(_)) | None => Err(Foreign),
        Some(_) => Err(Refused("the token's issuer is not a text")),
    }
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

fn check_times(claims: &Map<String, Value>, now: UnixSeconds) -> Result<(), NotOurs> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            value.as_i64().map(Some).ok_or(Refused("a time of the token is not a whole number"))
        }
    };
    let (expires, not_before, issued) = (time("exp")?, time("nbf")?, time("iat")?);
    let expires = expires.ok_or(Refused("the token has no end (exp)"))?;
    if expires <= now {
        return Err(Refused("the token has expired"));
    }
    let latest = now.saturating_add(NOT_BEFORE_LEEWAY);
    if not_before.is_some_and(|at| at > latest) || issued.is_some_and(|at| at > latest) {
        return Err(Refused(
            "the token is from the future; do the clocks of the edge's nodes differ?",
        ));
    }
    Ok(())
}

/// A token that is bound to a certificate (RFC 8705 §3.1) is good with that one only; one
/// that is bound to something else is not good here at all.
fn check_binding(
    claims: &Map<String, Value>,
    leaf_sha256: Option<&[u8; 32]>,
) -> Result<(), NotOurs> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(()) };
    let bound_to = match confirmation {
        Value::Object(members) if members.len() == 1 => text(members, claims::CERTIFICATE_SHA256),
        _ => None,
    }
    .ok_or(Refused("the token is bound to something else than a certificate"))?;
    let leaf = leaf_sha256
        .ok_or(Refused("the token is bound to a certificate, and the connection has none"))?;
    match bound_to == URL_SAFE_NO_PAD.encode(leaf) {
        true => Ok(()),
        false => Err(Refused("the token is bound to another certificate than the connection's")),
    }
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
    members.get(name).and_then(Value::as_str)
}
