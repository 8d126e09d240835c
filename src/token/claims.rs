//! What a device's token says.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::rand::rand_bytes;
use serde::Serialize;

use super::{Kind, TokenFault, TokenRequest};
use crate::clock::UnixSeconds;

/// Before the device's id in `sub`.
pub(super) const SUBJECT_PREFIX: &str = "device_";

/// The member of `cnf` that names a certificate (RFC 8705 §3.1).
pub(super) const CERTIFICATE_SHA256: &str = "x5t#S256";

/// The claims of a new token, ready to stand in a JWS: base64url over JSON.
pub(super) fn encoded(
    request: &TokenRequest<'_>,
    kind: Kind,
    now: UnixSeconds,
) -> Result<String, TokenFault> {
    let settings = request.settings;
    let claims = Claims {
        jti: random_uuid()?,
        iss: kind.issuer(settings),
        aud: &settings.audience,
        sub: format!("{SUBJECT_PREFIX}{}", request.device),
        tci: random_uuid()?,
        iat: now,
        nbf: now,
        exp: now.saturating_add(settings.lifespan.into()),
        tfa: false,
        ten: request.tenant.as_str(),
        xsrf_token: random_text()?,
        client_id: (kind == Kind::Access).then_some(request.device.as_str()),
        cnf: kind
            .binds(settings)
            .then(|| Confirmation { x5t_s256: URL_SAFE_NO_PAD.encode(request.leaf_sha256) }),
    };
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?))
}

/// The claims that the platform's own device tokens carry.
#[derive(Serialize)]
struct Claims<'a> {
    /// A random UUID, new for each token.
    jti: String,
    iss: &'a str,
    aud: &'a str,
    /// `device_` and the common name of the leaf: the platform's user of this device.
    sub: String,
    /// The client instance. The platform gives one to each login; a device's login is its
    /// token request, so this is a random UUID, new for each token and unrelated to `jti`.
    tci: String,
    iat: UnixSeconds,
    nbf: UnixSeconds,
    exp: UnixSeconds,
    /// No second factor was used.
    tfa: bool,
    /// The tenant's id.
    ten: &'a str,
    /// Random; what the platform compares with `X-XSRF-TOKEN` where the token is a cookie.
    #[serde(rename = "xsrfToken")]
    xsrf_token: String,
    /// In an access token: the OAuth client, which is the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
}

/// Proof of possession by mutual TLS (RFC 8705 §3.1).
#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    x5t_s256: String,
}

/// A version 4 UUID (RFC 9562 §5.4) in its text form.
fn random_uuid() -> Result<String, TokenFault> {
    let mut bytes = [0; 16];
    rand_bytes(&mut bytes)?;
    let version_4 = u128::from_be_bytes(bytes) & !(0xf << 76) | 0x4 << 76;
    let bits = version_4 & !(0b11 << 62) | 0b10 << 62;
    Ok(format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        bits >> 96,
        bits >> 80 & 0xffff,
        bits >> 64 & 0xffff,
        bits >> 48 & 0xffff,
        bits & 0xffff_ffff_ffff,
    ))
}

/// 120 random bits as 20 characters.
fn random_text() -> Result<String, TokenFault> {
    let mut bytes = [0; 15];
    rand_bytes(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
