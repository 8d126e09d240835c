//! The answers that the edge gives itself: tokens, keys, refusals.

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, PRAGMA, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, Method};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::refusal::Refusal;
use crate::token::ResponseType;

use super::oauth::OauthError;

/// The platform's media types, as its clients expect them to the letter.
const TOKEN_TYPE: &str =
    "application/vnd.com.nsn.cumulocity.managedobject+json; charset=UTF-8; ver=0.9";
const ERROR_TYPE: &str = "application/vnd.com.nsn.cumulocity.error+json";
const VENDOR: &str = "application/vnd.com.nsn.cumulocity.";
const JSON: &str = "application/json";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One answer; the body is shared, not copied.
pub struct Answer {
    pub status: u16,
    content_type: &'static str,
    body: Bytes,
    header: Option<(HeaderName, &'static str)>,
    /// An access token of OAuth: `Pragma` too (RFC 6749 §5.1).
    pragma: bool,
    /// The connection ends with this answer.
    pub close: bool,
}

impl Answer {
    pub fn token(response_type: ResponseType, body: Bytes) -> Answer {
        let content_type = match response_type {
            ResponseType::Vendor => TOKEN_TYPE,
            ResponseType::Json => JSON,
        };
        let header = Some((CACHE_CONTROL, "no-store"));
        Answer { status: 200, content_type, body, header, pragma: false, close: false }
    }

    /// RFC 6749 §5.1.
    pub fn access_token(body: Bytes) -> Answer {
        Answer { pragma: true, ..Answer::token(ResponseType::Json, body) }
    }

    /// The tenant's keys. A verifier may keep them as long as a new key is published before
    /// its first use.
    pub fn jwks(body: Bytes) -> Answer {
        let header = Some((CACHE_CONTROL, "public, max-age=300"));
        Answer {
            status: 200,
            content_type: "application/jwk-set+json",
            body,
            header,
            pragma: false,
            close: false,
        }
    }

    /// Metadata of the authorization server (RFC 8414 §3.2).
    pub fn metadata(body: Bytes) -> Answer {
        let header = Some((CACHE_CONTROL, "public, max-age=300"));
        Answer { status: 200, content_type: JSON, body, header, pragma: false, close: false }
    }

    /// RFC 6749 §5.2.
    pub fn oauth_error(error: OauthError) -> Answer {
        let header = Some((CACHE_CONTROL, "no-store"));
        Answer {
            status: error.status(),
            content_type: JSON,
            body: error.body(),
            header,
            pragma: true,
            close: false,
        }
    }

    /// A refusal in the words of RFC 6749 §5.2, with the status that says the same elsewhere.
    pub fn oauth_refusal(refusal: Refusal) -> Answer {
        let (status, message) = (refusal.http_status(), refusal.public_message());
        let error = match status {
            403 => "unauthorized_client",
            // RFC 6749 §4.1.2.1 has the word for it, if for another endpoint.
            500.. => "temporarily_unavailable",
            _ => "invalid_client",
        };
        let body = format!(r#"{{"error":"{error}","error_description":"{message}"}}"#);
        let header = Some((CACHE_CONTROL, "no-store"));
        Answer {
            status,
            content_type: JSON,
            body: body.into(),
            header,
            pragma: true,
            close: status == 401,
        }
    }

    pub fn method_not_allowed(allow: &'static str) -> Answer {
        Answer::error(405, "devicecontrol/methodNotAllowed", "The method is not allowed here.", "")
            .with(ALLOW, allow)
    }

    pub fn not_acceptable() -> Answer {
        Answer::error(406, "devicecontrol/notAcceptable", "The Accept header cannot be met.", "")
    }

    pub fn feature_off() -> Answer {
        let message = "Device access tokens are not enabled for this tenant.";
        Answer::error(404, "devicecontrol/notFound", message, "")
    }

    pub fn header_too_large() -> Answer {
        Answer::error(431, "general/headerTooLarge", "The request header is too large.", "")
            .closing()
    }

    /// The public side of a refusal.
    pub fn refusal(refusal: Refusal, request_id: &str) -> Answer {
        let status = refusal.http_status();
        let answer =
            Answer::error(status, error_name(refusal), refusal.public_message(), request_id);
        match status {
            429 => answer.with(RETRY_AFTER, "60"),
            503 => answer.with(RETRY_AFTER, "5"),
            // The connection is not to blame for a token.
            401 if refusal == Refusal::TokenRefused => {
                answer.with(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")
            }
            400 | 401 | 408 | 413 | 421 => answer.closing(),
            _ => answer,
        }
    }

    /// RFC 6455 §4.4: the version that is spoken here.
    pub fn other_websocket_version(request_id: &str) -> Answer {
        Answer::refusal(Refusal::ProtocolError, request_id).with(SEC_WEBSOCKET_VERSION, "13")
    }

    /// Nothing to wait for where a peer of h2 keeps its window shut.
    pub fn without_body(mut self) -> Answer {
        self.body = Bytes::new();
        self
    }

    pub fn closing(mut self) -> Answer {
        self.close = true;
        self
    }

    pub async fn send(self, session: &mut Session, request_id: &str) -> Result<()> {
        if self.close {
            session.set_keepalive(None);
        }
        let mut header = ResponseHeader::build(self.status, Some(6))?;
        header.insert_header(CONTENT_TYPE, self.content_type)?;
        header.insert_header(CONTENT_LENGTH, self.body.len())?;
        if let Some((name, value)) = self.header {
            header.insert_header(name, value)?;
        }
        if self.pragma {
            header.insert_header(PRAGMA, "no-cache")?;
        }
        if self.status >= 400 {
            header.insert_header(X_REQUEST_ID, request_id)?;
        }
        let head = session.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(header), false).await?;
        session.write_response_body(Some(if head { Bytes::new() } else { self.body }), true).await
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Answer {
        self.header = Some((name, value));
        self
    }

    /// Every text here is ours and needs no escaping in JSON.
    fn error(status: u16, name: &'static str, message: &'static str, request_id: &str) -> Answer {
        let info =
            if request_id.is_empty() { String::new() } else { format!("Request {request_id}") };
        let body = format!(r#"{{"error":"{name}","message":"{message}","info":"{info}"}}"#);
        Answer {
            status,
            content_type: ERROR_TYPE,
            body: body.into(),
            header: None,
            pragma: false,
            close: false,
        }
    }
}

fn error_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::CertificateMissing
        | Refusal::CertificateExpired
        | Refusal::CertificateRevoked
        | Refusal::RevocationUnknown
        | Refusal::ChainIncomplete
        | Refusal::TokenRefused => "security/unauthorized",
        Refusal::DeviceUnknown | Refusal::DeviceBlocked | Refusal::PlatformRefused => {
            "security/forbidden"
        }
        Refusal::IssuerUnknown
        | Refusal::CertificateMalformed
        | Refusal::CertificateUnsupported => "security/invalidCertificateChain",
        Refusal::RateLimited => "general/tooManyRequests",
        Refusal::Overloaded | Refusal::TenantUnavailable | Refusal::RegistryUnavailable => {
            "general/unavailable"
        }
        Refusal::UpstreamUnavailable => "general/badGateway",
        Refusal::UpstreamTimeout => "general/gatewayTimeout",
        Refusal::ServerNameUnknown | Refusal::TenantAmbiguous | Refusal::Misdirected => {
            "general/misdirectedRequest"
        }
        Refusal::TooLarge => "general/tooLarge",
        Refusal::Timeout => "general/timeout",
        Refusal::ProtocolError => "general/badRequest",
    }
}

/// Whether the token's media type is acceptable (RFC 9110 §12.5.1): no Accept header, or a
/// range that covers JSON or the platform's own type with a quality above zero.
pub fn accepts_token(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            quality.is_some_and(|q| q.parse::<f32>() == Ok(0.0))
        });
        let is = |known: &str| kind.eq_ignore_ascii_case(known);
        let vendor =
            kind.get(..VENDOR.len()).is_some_and(|start| start.eq_ignore_ascii_case(VENDOR));
        let covers = vendor || is("*/*") || is("application/*") || is(JSON);
        covers && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::JWKS_MAX_AGE;
    use http::HeaderValue;

    fn accepts(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        accepts_token(&headers)
    }

    #[test]
    fn keys_may_be_kept_for_as_long_as_rotation_counts_on() {
        let (_, value) = Answer::jwks(Bytes::new()).header.unwrap();
        assert_eq!(value, format!("public, max-age={}", JWKS_MAX_AGE.as_secs()));
    }

    #[test]
    fn accept_is_met_by_json_the_vendor_type_anything_or_nothing() {
        assert!(accepts(&[]));
        assert!(accepts(&["application/json"]));
        assert!(accepts(&["*/*"]));
        assert!(accepts(&["text/html, application/json;q=0.5"]));
        assert!(accepts(&["text/html", "Application/JSON"]));
        assert!(accepts(&["application/vnd.com.nsn.cumulocity.managedobject+json;ver=0.9"]));
        assert!(!accepts(&["text/html"]));
        assert!(!accepts(&["application/json;q=0"]));
        assert!(!accepts(&["application/xml, text/*"]));
    }
}
