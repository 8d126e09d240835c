//! OAuth 2.0 for devices: the token endpoint for the client credentials grant (RFC 6749 §4.4)
//! with mutual TLS as the client's authentication and certificate-bound tokens (RFC 8705), and
//! its metadata (RFC 8414). Off unless a tenant's configuration turns it on, because both
//! paths may be the platform's.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::json;

use crate::names::DeviceId;

use super::path::{JWKS_PATH, OAUTH_TOKEN_PATH};

/// Octets of a token request's body.
pub const MAX_FORM: usize = 8 * 1024;

/// Why a token request is not granted (RFC 6749 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OauthError {
    InvalidRequest(&'static str),
    InvalidClient(&'static str),
    InvalidScope,
    UnsupportedGrantType,
}

impl OauthError {
    pub fn status(self) -> u16 {
        match self {
            OauthError::InvalidClient(_) => 401,
            _ => 400,
        }
    }

    /// The operator's reason; ours, holds nothing of the request.
    pub fn reason(self) -> &'static str {
        match self {
            OauthError::InvalidRequest(reason) | OauthError::InvalidClient(reason) => reason,
            OauthError::InvalidScope => "no scopes are known here: leave `scope` out",
            OauthError::UnsupportedGrantType => "grant_type is not client_credentials",
        }
    }

    pub fn body(self) -> Bytes {
        let error = match self {
            OauthError::InvalidRequest(_) => "invalid_request",
            OauthError::InvalidClient(_) => "invalid_client",
            OauthError::InvalidScope => "invalid_scope",
            OauthError::UnsupportedGrantType => "unsupported_grant_type",
        };
        json!({ "error": error, "error_description": self.reason() }).to_string().into()
    }
}

/// Checks a token request of the device that the certificate proves. `client_id` is required
/// and must be the device's (RFC 8705 §2): it tells whose token the client believes to ask for.
///
/// # Errors
/// What RFC 6749 §5.2 says for it.
pub fn check(headers: &HeaderMap, body: &[u8], device: &DeviceId) -> Result<(), OauthError> {
    use OauthError::{InvalidClient, InvalidRequest, InvalidScope, UnsupportedGrantType};
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(InvalidRequest("the body is not application/x-www-form-urlencoded"));
    }
    let text = str::from_utf8(body).map_err(|_| InvalidRequest("the body is not UTF-8"))?;
    let (mut grant_type, mut client_id, mut scope) = (None, None, None);
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let slot = match &*name {
            "grant_type" => &mut grant_type,
            "client_id" => &mut client_id,
            "scope" => &mut scope,
            // RFC 6749 §2.3: one way to authenticate in a request.
            "client_secret" | "client_assertion" => {
                return Err(InvalidRequest("the certificate authenticates, nothing beside it"));
            }
            // RFC 6749 §3.2: parameters that are not known are ignored.
            _ => continue,
        };
        if slot.replace(value.into_owned()).is_some() {
            return Err(InvalidRequest("a parameter stands twice"));
        }
    }
    if headers.contains_key(AUTHORIZATION) {
        return Err(InvalidRequest("the certificate authenticates, nothing beside it"));
    }
    match grant_type.as_deref() {
        None | Some("") => return Err(InvalidRequest("grant_type is missing")),
        Some("client_credentials") => {}
        Some(_) => return Err(UnsupportedGrantType),
    }
    match client_id.as_deref() {
        None | Some("") => return Err(InvalidRequest("client_id is missing")),
        Some(id) if id == device.as_str() => {}
        Some(_) => return Err(InvalidClient("client_id is not the device of the certificate")),
    }
    match scope.as_deref() {
        None | Some("") => Ok(()),
        Some(_) => Err(InvalidScope),
    }
}

/// RFC 8414 §2, RFC 8705 §3.3. `issuer`: an https URL without a slash at its end.
pub fn metadata(issuer: &str, algorithm: &str) -> Bytes {
    json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}{OAUTH_TOKEN_PATH}"),
        "jwks_uri": format!("{issuer}{JWKS_PATH}"),
        "grant_types_supported": ["client_credentials"],
        // Required by RFC 8414; there is no authorization endpoint.
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["tls_client_auth", "self_signed_tls_client_auth"],
        "tls_client_certificate_bound_access_tokens": true,
        // Not registered for access tokens by RFC 8414; verifiers use it all the same.
        "access_token_signing_alg_values_supported": [algorithm],
    })
    .to_string()
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn checked(body: &str) -> Result<(), OauthError> {
        let mut headers = HeaderMap::new();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
        headers.insert(CONTENT_TYPE, form);
        check(&headers, body.as_bytes(), &DeviceId::parse("device-1").unwrap())
    }

    #[test]
    fn a_token_request_names_its_grant_and_its_device() {
        assert_eq!(checked("grant_type=client_credentials&client_id=device-1"), Ok(()));
        assert_eq!(checked("client_id=device%2D1&grant_type=client_credentials&x=y&x=z"), Ok(()));
        assert_eq!(checked("grant_type=client_credentials&client_id=device-1&scope="), Ok(()));
        for (body, status) in [
            ("", 400),
            ("grant_type=client_credentials", 400),
            ("client_id=device-1", 400),
            ("grant_type=password&client_id=device-1", 400),
            ("grant_type=client_credentials&client_id=device-2", 401),
            ("grant_type=client_credentials&client_id=device-1%00", 401),
            ("grant_type=client_credentials&client_id=device-1&client_id=device-1", 400),
            ("grant_type=client_credentials&client_id=device-1&client_secret=x", 400),
            ("grant_type=client_credentials&client_id=device-1&scope=admin", 400),
        ] {
            assert_eq!(checked(body).unwrap_err().status(), status, "{body}");
        }
    }

    #[test]
    fn a_request_that_is_no_form_or_brings_another_credential_is_refused() {
        let device = DeviceId::parse("device-1").unwrap();
        let body = b"grant_type=client_credentials&client_id=device-1";
        let mut headers = HeaderMap::new();
        assert!(check(&headers, body, &device).is_err());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        assert!(check(&headers, body, &device).is_ok());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert!(check(&headers, body, &device).is_err());
        assert!(check(&headers, b"\xff", &device).is_err());
    }
}
