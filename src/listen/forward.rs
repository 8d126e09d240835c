//! What the upstream sees of a device: the tenant's identity headers, where the request came
//! from, and nothing that a device made up.

use std::net::IpAddr;

use http::header::{HeaderName, HeaderValue};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;

use crate::gate::ClientIdentity;
use crate::metrics::Metrics;
use crate::upstream::same_folded;

use super::connection::{Connection, Judged};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Rewrites a request's header for the upstream. Runs after Pingora has removed what is
/// hop-by-hop, so that no `Connection` header can take the injected headers out again.
pub fn rewrite(
    request: &mut RequestHeader,
    connection: &Connection,
    judged: &Judged,
    request_id: &str,
    metrics: &Metrics,
) -> Result<()> {
    if !request.raw_path().starts_with(b"/")
        && let Some(target) = request.uri.path_and_query().cloned()
    {
        // Absolute form is for proxies (RFC 9112 §3.2.2); the platform is asked in origin form.
        request.set_raw_path(target.as_str().as_bytes())?;
    }
    let forward = &judged.tenant.forward;
    let trusted = forward.trust_forwarded;
    strip(request, |name| {
        forward.strips(name)
            || same_folded(name, X_REQUEST_ID.as_str())
            || (!trusted && tells_the_way(name))
    });
    if let ClientIdentity::Verified(chain) = &judged.identity {
        let headers = judged.headers.get_or_init(|| forward.identity_headers(chain));
        if headers.reduced {
            metrics.forward_headers_reduced.inc();
        }
        for (name, value) in &headers.list {
            request.insert_header(name.clone(), value.clone())?;
        }
    }
    forwarded_for(request, connection)?;
    if !request.headers.contains_key(&X_FORWARDED_PROTO) {
        request.insert_header(X_FORWARDED_PROTO, HTTPS)?;
    }
    if !request.headers.contains_key(&X_FORWARDED_HOST)
        && let Some(host) = request.headers.get(http::header::HOST).cloned()
    {
        request.insert_header(X_FORWARDED_HOST, host)?;
    }
    request.insert_header(X_REQUEST_ID, request_id)
}

/// Headers that tell where a request came from, in any spelling: `Forwarded` (RFC 7239),
/// `X-Forwarded-*`, `X-Real-IP`.
fn tells_the_way(name: &HeaderName) -> bool {
    const PREFIXES: [&[u8]; 2] = [b"x-forwarded-", b"x-real-ip"];
    let name = name.as_str().as_bytes();
    let folded = |prefix: &&[u8]| {
        name.len() >= prefix.len()
            && name.iter().zip(prefix.iter()).all(|(byte, want)| {
                byte == want || (*want == b'-' && !byte.is_ascii_alphanumeric())
            })
    };
    match name.first() {
        Some(b'x') => PREFIXES.iter().any(folded),
        Some(b'f') => name == b"forwarded",
        _ => false,
    }
}

/// Appends the device's address to what is trusted, or stands alone.
fn forwarded_for(request: &mut RequestHeader, connection: &Connection) -> Result<()> {
    let Some(peer) = connection.peer() else { return Ok(()) };
    let own = connection.forwarded_for(|| address_value(peer.ip()));
    let Some(own) = own else { return Ok(()) };
    let before: Vec<&HeaderValue> = request.headers.get_all(&X_FORWARDED_FOR).iter().collect();
    if before.is_empty() {
        return request.insert_header(X_FORWARDED_FOR, own);
    }
    let mut list = Vec::with_capacity(64);
    for value in before {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(own.as_bytes());
    let list = HeaderValue::from_maybe_shared(bytes::Bytes::from(list))
        .or_err(ErrorType::InvalidHTTPHeader, "X-Forwarded-For")?;
    request.insert_header(X_FORWARDED_FOR, list)
}

fn address_value(address: IpAddr) -> Option<HeaderValue> {
    HeaderValue::from_str(&address.to_canonical().to_string()).ok()
}

fn strip(request: &mut RequestHeader, strips: impl Fn(&HeaderName) -> bool) {
    // Almost no request has any: look first, collect only what is found.
    let found: Vec<HeaderName> =
        request.headers.keys().filter(|name| strips(name)).cloned().collect();
    for name in found {
        request.remove_header(&name);
    }
}
