//! From a request's header to a decision: answer it here, forward it, or refuse it.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Method};
use pingora_http::RequestHeader;

use crate::gate::{AuthenticatedDevice, ClientIdentity};
use crate::names::{ServerName, ServerPattern};
use crate::refusal::{Refusal, Refused};
use crate::tenant::{ClientCertificateMode, Tenant, TenantDirectory, TenantEntry, TokenSource};
use crate::trust::Verdict;
use crate::upstream::parse_chain_header;

use super::Edge;
use super::answer::{Answer, accepts_token};
use super::connection::{Connection, Judged};
use super::oauth::{self, OauthError, metadata};
use super::path::{Target, overrides_to_own, target};
use super::verdict::{verdict_of, verdict_off_worker};

const X_SSL_CERT_CHAIN: HeaderName = HeaderName::from_static("x-ssl-cert-chain");

/// What becomes of a request.
pub enum Decision {
    Answer {
        answer: Answer,
        by_token_endpoint: bool,
    },
    /// A token request of OAuth: its body is to be read for [`oauth_token`].
    OauthForm,
    Forward,
    Refuse {
        refused: Refused,
        by_token_endpoint: bool,
        close: bool,
    },
    /// The same in the words of OAuth.
    RefuseOauth {
        refused: Refused,
    },
}

/// Who the device is now: what the handshake found, judged anew after a change of the
/// configuration and at the end of its validity.
///
/// # Errors
/// The connection must end.
pub async fn judge(edge: &Arc<Edge>, connection: &Connection) -> Result<Arc<Judged>, Refused> {
    let (Some(judged), Some(established)) = (connection.judged(), connection.established()) else {
        return Err(Refused::new(Refusal::ProtocolError, "a request before the handshake's end"));
    };
    if let ClientIdentity::Verified(chain) = &judged.identity
        && edge.gate.clock().now() > chain.valid_until()
    {
        return Err(Refused::new(
            Refusal::CertificateExpired,
            "the chain's validity ended while the connection was open",
        ));
    }
    let pin_stands = match &judged.identity {
        ClientIdentity::Verified(chain) => edge.gate.pin_stands(&judged.tenant, chain),
        ClientIdentity::Anonymous | ClientIdentity::Undecided => true,
    };
    if judged.generation == edge.generation_number() && pin_stands {
        return Ok(judged);
    }
    let generation = edge.generation();
    let tenant =
        still_serves(&generation.directory, &judged.tenant, established.server_name.as_ref())?;
    // A verified chain follows from nothing but the trust: a change of keys or options takes
    // nobody's identity, nor the chain that a header has completed.
    let same_trust = tenant.trust.epoch() == judged.tenant.trust.epoch();
    let verified = matches!(judged.identity, ClientIdentity::Verified(_));
    let unchanged = Arc::ptr_eq(&tenant, &judged.tenant) || (same_trust && verified);
    let identity = if unchanged && pin_stands {
        judged.identity.clone()
    } else {
        let verdict = match established.chain.is_empty() {
            true => None,
            false => Some(verdict_of(edge, &tenant, &established.chain).await),
        };
        match verdict {
            None if !established.asked_for_certificate => ClientIdentity::Anonymous,
            verdict => edge.gate.identify(&tenant, verdict)?,
        }
    };
    let judged = Arc::new(Judged::new(generation.number, tenant, identity));
    connection.set_judged(judged.clone());
    Ok(judged)
}

/// The tenant under its new configuration, if it still has the connection's server name.
fn still_serves(
    directory: &TenantDirectory,
    tenant: &Tenant,
    name: Option<&ServerName>,
) -> Result<Arc<Tenant>, Refused> {
    let gone = || Refused::new(Refusal::Misdirected, "the tenant no longer has this server name");
    let entry = directory.by_id(&tenant.id).ok_or_else(gone)?;
    if let Some(name) = name
        && directory.find(name).is_none_or(|found| found.id() != &tenant.id)
    {
        return Err(gone());
    }
    match entry {
        TenantEntry::Serviceable(tenant) => Ok(tenant.clone()),
        TenantEntry::Unavailable(_) => Err(Refused::new(
            Refusal::TenantUnavailable,
            "the tenant's configuration has faults; `portcullis check` lists them",
        )),
    }
}

/// Decides on a request. May replace `judged` where the request completes the chain.
pub async fn decide(
    edge: &Arc<Edge>,
    connection: &Connection,
    judged: &mut Arc<Judged>,
    request: &RequestHeader,
    request_id: &str,
) -> Decision {
    let refuse = |refused| Decision::Refuse { refused, by_token_endpoint: false, close: false };
    let oauth_issuer = oauth_issuer(&judged.tenant);
    if !plain_target(request) {
        return refuse(Refused::new(
            Refusal::ProtocolError,
            "the request's target is neither a path nor an http URL",
        ));
    }
    if repeats_length(request) {
        return refuse(Refused::new(Refusal::ProtocolError, "Content-Length stands twice"));
    }
    if odd_coding(request) {
        return refuse(Refused::new(
            Refusal::ProtocolError,
            "Transfer-Encoding says something else than chunked",
        ));
    }
    if overrides_to_own(&request.headers, oauth_issuer.is_some()) {
        return refuse(Refused::new(
            Refusal::ProtocolError,
            "a header names an endpoint of the edge as the upstream's path",
        ));
    }
    if let Err(refused) = check_authority(edge, connection, judged, request) {
        return refuse(refused);
    }
    let target = target(request.uri.path(), oauth_issuer.is_some());
    match target {
        // A node that has not heard of the others for too long may lack a key that they sign with.
        Target::Jwks if judged.tenant.managed_keys && !edge.gate.registry().fresh() => {
            return refuse(Refused::new(
                Refusal::RegistryUnavailable,
                "the registry has not been read for registry.max_staleness: the keys may be old",
            ));
        }
        Target::Jwks if request.method == Method::GET || request.method == Method::HEAD => {
            return Decision::Answer {
                answer: Answer::jwks(judged.tenant.keys.jwks()),
                by_token_endpoint: false,
            };
        }
        Target::OauthMetadata
            if request.method == Method::GET || request.method == Method::HEAD =>
        {
            let settings = judged.tenant.tokens.as_ref();
            let algorithm = settings.map_or("ES256", |settings| settings.algorithm.name());
            let body = metadata(oauth_issuer.unwrap_or_default(), algorithm);
            return Decision::Answer { answer: Answer::metadata(body), by_token_endpoint: false };
        }
        Target::Jwks | Target::OauthMetadata => {
            let answer = Answer::method_not_allowed("GET, HEAD");
            return Decision::Answer { answer, by_token_endpoint: false };
        }
        Target::Ambiguous => {
            return refuse(Refused::new(
                Refusal::ProtocolError,
                "the path is not an endpoint of the edge, but an upstream could read it as one",
            ));
        }
        Target::Token | Target::OauthToken | Target::Upstream => {}
    }
    if let Err(refused) = complete_chain(edge, connection, judged, &request.headers).await {
        let by_token_endpoint = target != Target::Upstream;
        return Decision::Refuse { refused, by_token_endpoint, close: true };
    }
    match (target, &judged.identity) {
        (Target::Token, _) => token(edge, connection, judged, request, request_id).await,
        (Target::OauthToken, identity) => oauth_form(identity, request),
        (_, ClientIdentity::Verified(chain)) => {
            if let Err(refused) = bearer(edge, judged, Some(chain.leaf_sha256()), request) {
                return refuse(refused);
            }
            match edge.gate.authenticate(&judged.tenant, chain).await {
                // A request that is not for a token carries its own credentials: a device that
                // the registry does not know is the platform's to refuse.
                Ok(_) | Err(Refused { refusal: Refusal::DeviceUnknown, .. }) => Decision::Forward,
                Err(refused) => refuse(refused),
            }
        }
        (_, ClientIdentity::Anonymous)
            if judged.tenant.client_certificate == ClientCertificateMode::Required =>
        {
            refuse(Refused::new(
                Refusal::CertificateMissing,
                "this listener asks for no certificate and the tenant requires one",
            ))
        }
        (_, ClientIdentity::Anonymous) => match bearer(edge, judged, None, request) {
            Ok(()) => Decision::Forward,
            Err(refused) => refuse(refused),
        },
        (_, ClientIdentity::Undecided) => refuse(undecided()),
    }
}

/// The path that is decided on must be the very bytes that are forwarded: a target that does
/// not parse as one (no leading slash, odd bytes, a fragment) would be read by others.
fn plain_target(request: &RequestHeader) -> bool {
    let raw = request.raw_path();
    let path = request.uri.path().as_bytes();
    match raw.first() {
        Some(b'/') => raw.split(|b| *b == b'?').next() == Some(path),
        Some(b'*') => raw == b"*",
        _ => ["http://", "https://"].iter().any(|scheme| {
            raw.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme.as_bytes()))
        }),
    }
}

/// Pingora frames by the last coding and forwards `chunked` alone: what another coding did to
/// the body would be lost.
fn odd_coding(request: &RequestHeader) -> bool {
    let codings = request.headers.get_all(TRANSFER_ENCODING).iter();
    codings
        .into_iter()
        .any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Pingora takes a length that is said twice alike for one, and sends it on twice; RFC 9110
/// §8.6 lets a server refuse it.
fn repeats_length(request: &RequestHeader) -> bool {
    let mut lengths = request.headers.get_all(CONTENT_LENGTH).iter();
    lengths.next().is_some_and(|length| length.as_bytes().contains(&b','))
        || lengths.next().is_some()
}

async fn token(
    edge: &Arc<Edge>,
    connection: &Connection,
    judged: &Judged,
    request: &RequestHeader,
    request_id: &str,
) -> Decision {
    let tenant = &judged.tenant;
    let answer = |answer| Decision::Answer { answer, by_token_endpoint: true };
    let refuse = |refused| Decision::Refuse { refused, by_token_endpoint: true, close: false };
    let Some(settings) = &tenant.tokens else { return answer(Answer::feature_off()) };
    if request.method != Method::POST {
        return answer(Answer::method_not_allowed("POST"));
    }
    if !accepts_token(&request.headers) {
        return answer(Answer::not_acceptable());
    }
    let ClientIdentity::Verified(chain) = &judged.identity else {
        return refuse(Refused::new(
            Refusal::CertificateMissing,
            "a token request without a client certificate",
        ));
    };
    if let Some(established) = connection.established()
        && let Err(refused) = header_certificates(&request.headers, established.chain.leaf())
    {
        return refuse(refused);
    }
    let device = match edge.gate.authenticate(tenant, chain).await {
        Ok(device) => device,
        Err(refused) => return refuse(refused),
    };
    let body = match tenant.token_source {
        TokenSource::Edge => {
            edge.gate.token(tenant, &device).map(|issued| issued.token.body().clone())
        }
        TokenSource::Platform => {
            let (name, metrics) = (platform_name(connection, tenant), &edge.metrics);
            let relay = edge.relay.token(&device, connection, judged, name, request_id, metrics);
            match relay.await {
                Ok(body) => is_still(edge, connection, &device).await.map(|()| body),
                Err(refused) => Err(refused),
            }
        }
    };
    match body {
        Ok(body) => answer(Answer::token(settings.response_type, body)),
        Err(refused) => refuse(refused),
    }
}

/// As whom the platform is asked: by the name that the device asked for, else by the tenant's.
pub fn platform_name<'a>(connection: &'a Connection, tenant: &'a Tenant) -> &'a str {
    let asked = connection.established().and_then(|established| established.server_name.as_ref());
    let own = || {
        tenant.server_names.iter().find_map(|pattern| match pattern {
            ServerPattern::Exact(name) => Some(name),
            ServerPattern::Wildcard(_) => None,
        })
    };
    asked.or_else(own).map_or("localhost", ServerName::as_str)
}

/// Where OAuth is on: the issuer of its tokens.
fn oauth_issuer(tenant: &Tenant) -> Option<&str> {
    tenant.tokens.as_ref()?.oauth_issuer.as_deref()
}

/// Whether the body of an OAuth token request is worth reading.
fn oauth_form(identity: &ClientIdentity, request: &RequestHeader) -> Decision {
    if request.method != Method::POST {
        let answer = Answer::method_not_allowed("POST");
        return Decision::Answer { answer, by_token_endpoint: true };
    }
    if request.headers.contains_key(EXPECT) {
        return oauth_error(OauthError::InvalidRequest("Expect is not supported here"));
    }
    match identity {
        ClientIdentity::Verified(_) => Decision::OauthForm,
        ClientIdentity::Anonymous | ClientIdentity::Undecided => {
            oauth_error(OauthError::InvalidClient("no client certificate"))
        }
    }
}

/// The platform may have taken seconds to answer: whoever is blocked or no longer trusted by
/// then gets nothing of it.
pub async fn is_still(
    edge: &Arc<Edge>,
    connection: &Connection,
    device: &AuthenticatedDevice,
) -> Result<(), Refused> {
    let judged = judge(edge, connection).await?;
    let ClientIdentity::Verified(chain) = &judged.identity else {
        return Err(Refused::new(Refusal::CertificateMissing, "no longer verified"));
    };
    let now = edge.gate.authenticate(&judged.tenant, chain).await?;
    if now.id() != device.id() {
        return Err(Refused::new(
            Refusal::DeviceUnknown,
            "the certificate came to name another device while its token was fetched",
        ));
    }
    Ok(())
}

/// Answers a token request of OAuth, once its body is there. Everything is asked now: the body
/// may have taken its time.
pub async fn oauth_token(
    edge: &Arc<Edge>,
    connection: &Connection,
    headers: &HeaderMap,
    body: &[u8],
) -> Decision {
    let issued = async {
        let judged = judge(edge, connection).await?;
        let ClientIdentity::Verified(chain) = &judged.identity else {
            return Ok(Err(OauthError::InvalidClient("no client certificate")));
        };
        let device = edge.gate.authenticate(&judged.tenant, chain).await?;
        if let Err(error) = oauth::check(headers, body, device.id()) {
            return Ok(Err(error));
        }
        edge.gate.access_token(&judged.tenant, &device).map(Ok)
    };
    match issued.await {
        Ok(Ok(issued)) => Decision::Answer {
            answer: Answer::access_token(issued.body()),
            by_token_endpoint: true,
        },
        Ok(Err(error)) => oauth_error(error),
        Err(refused) => Decision::RefuseOauth { refused },
    }
}

fn oauth_error(error: OauthError) -> Decision {
    Decision::Answer { answer: Answer::oauth_error(error), by_token_endpoint: true }
}

/// Holds the bearer token of a request that would be forwarded against the tenant's rule.
/// Other credentials are the platform's affair.
fn bearer(
    edge: &Edge,
    judged: &Judged,
    leaf_sha256: Option<&[u8; 32]>,
    request: &RequestHeader,
) -> Result<(), Refused> {
    if !judged.tenant.bearers.verify {
        return Ok(());
    }
    let refuse = |reason: &'static str| Refused::new(Refusal::TokenRefused, reason);
    let mut values = request.headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(()) };
    if values.next().is_some() {
        return Err(refuse("two Authorization headers"));
    }
    let value = value.as_bytes().trim_ascii();
    let scheme = value.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(());
    }
    let token = value.get(scheme.len()..).unwrap_or_default().trim_ascii();
    let token = str::from_utf8(token).map_err(|_| refuse("a bearer token that is not ASCII"))?;
    edge.gate.check_bearer(&judged.tenant, token, leaf_sha256)
}

/// The authority must belong to the connection's tenant (RFC 9110 §7.4).
fn check_authority(
    edge: &Edge,
    connection: &Connection,
    judged: &Judged,
    request: &RequestHeader,
) -> Result<(), Refused> {
    let refuse = |reason: &'static str| Refused::new(Refusal::Misdirected, reason);
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refused::new(Refusal::ProtocolError, "two Host headers")),
        (host, None) => {
            host.map(|value| value.to_str().map_err(|_| refuse("the Host is not ASCII")))
        }
    };
    let host = host.transpose()?;
    let authority = match (request.uri.authority().map(|a| a.as_str()), host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(refuse("the request's authority and its Host differ"));
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Err(refuse("the request names no authority")),
    };
    let name = host_of(authority).ok_or_else(|| refuse("the authority is malformed"))?;
    let server_name = connection.established().and_then(|e| e.server_name.as_ref());
    if server_name.is_some_and(|sni| sni.as_str().eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    match ServerName::parse(name) {
        Ok(name) => match edge.generation().directory.find(&name) {
            Some(entry) if entry.id() == &judged.tenant.id => Ok(()),
            Some(_) => Err(refuse("the authority belongs to another tenant")),
            None => Err(refuse("the authority belongs to no tenant")),
        },
        // A client that came without SNI came by address, and may say so.
        Err(_) if server_name.is_none() && is_address(name) => Ok(()),
        Err(_) => Err(refuse("the authority is not a host name")),
    }
}

/// The host of `host[:port]`; no user information, no other decoration.
pub fn host_of(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        let (host, rest) = authority.split_at(authority.find(']')? + 1);
        return valid_port(rest).then_some(host);
    }
    let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    valid_port(rest).then_some(host)
}

fn valid_port(rest: &str) -> bool {
    rest.is_empty()
        || rest.strip_prefix(':').is_some_and(|port| {
            !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
        })
}

fn is_address(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    bare.parse::<std::net::IpAddr>().is_ok()
}

fn undecided() -> Refused {
    Refused::new(
        Refusal::ChainIncomplete,
        "the device sent only its leaf and the request does not complete the chain",
    )
}

/// Completes an undecided chain by the request's header; the verdict then holds for this
/// connection. Header certificates are path-building input and prove nothing themselves.
async fn complete_chain(
    edge: &Arc<Edge>,
    connection: &Connection,
    judged: &mut Arc<Judged>,
    headers: &HeaderMap,
) -> Result<(), Refused> {
    if !matches!(judged.identity, ClientIdentity::Undecided) {
        return Ok(());
    }
    let Some(established) = connection.established() else { return Err(undecided()) };
    if let Some(peer) = connection.peer()
        && !edge.attempts.allow(peer.ip(), edge.generation().limits.undecided_attempts_per_address)
    {
        return Err(Refused::new(
            Refusal::RateLimited,
            "too many attempts to complete a chain from this address",
        ));
    }
    let extra = header_certificates(headers, established.chain.leaf())?;
    if extra.is_empty() {
        return Err(undecided());
    }
    let chain = established.chain.ders().into_iter().map(<[u8]>::to_vec).collect();
    match verdict_off_worker(edge, &judged.tenant, chain, extra).await {
        Verdict::Verified(chain) => {
            let identity = ClientIdentity::Verified(chain);
            let completed = Judged::new(judged.generation, judged.tenant.clone(), identity);
            *judged = Arc::new(completed);
            connection.set_judged(judged.clone());
            Ok(())
        }
        Verdict::Undecided(refused) => Err(Refused::new(
            Refusal::ChainIncomplete,
            format!("the header does not complete the chain: {}", refused.reason),
        )),
        Verdict::Refused(refused) => Err(refused),
    }
}

/// The CA certificates of `X-Ssl-Cert-Chain`, as a device sends it.
///
/// # Errors
/// 400 where it cannot be parsed, 401 where an end-entity certificate in it is not the one
/// of the TLS handshake.
fn header_certificates(
    headers: &HeaderMap,
    tls_leaf: Option<&[u8]>,
) -> Result<Vec<Vec<u8>>, Refused> {
    let malformed = |reason: String| Refused::new(Refusal::CertificateMalformed, reason);
    let mut values = headers.get_all(X_SSL_CERT_CHAIN).iter();
    let Some(value) = values.next() else { return Ok(Vec::new()) };
    if values.next().is_some() {
        return Err(malformed("X-Ssl-Cert-Chain stands twice".into()));
    }
    let mut authorities = Vec::new();
    let certificates = parse_chain_header(value.as_bytes())
        .map_err(|fault| malformed(format!("X-Ssl-Cert-Chain: {fault}")))?;
    for der in certificates {
        if tls_leaf == Some(der.as_slice()) {
            continue;
        }
        let (_, certificate) = x509_parser::parse_x509_certificate(&der)
            .map_err(|_| malformed("X-Ssl-Cert-Chain: a certificate does not parse".into()))?;
        if !certificate.is_ca() {
            return Err(Refused::new(
                Refusal::CertificateMissing,
                "X-Ssl-Cert-Chain holds an end-entity certificate other than the handshake's",
            ));
        }
        authorities.push(der);
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        assert_eq!(host_of("a.example"), Some("a.example"));
        assert_eq!(host_of("a.example:8443"), Some("a.example"));
        assert_eq!(host_of("[::1]:8443"), Some("[::1]"));
        for odd in ["a.example:", "a.example:x", "a.example:123456", "a:1:2", "[::1", "[::1]x"] {
            assert_eq!(host_of(odd), None, "{odd}");
        }
        assert!(is_address("192.0.2.1") && is_address("[::1]") && !is_address("a.example"));
    }
}
