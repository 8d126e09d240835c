//! Tokens that the platform makes: the edge authenticates the device, asks the platform with
//! the validated chain, and hands the answer on. The platform's token is remembered and given
//! again until half of its life has passed; while the platform is down, until it ends.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, HOST};
use http::uri::Scheme;
use http::{HeaderValue, Method, Uri, Version};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_error::{Error, ErrorType, OrErr};
use pingora_http::RequestHeader;
use serde::Deserialize;

use crate::clock::Clock;
use crate::gate::AuthenticatedDevice;
use crate::metrics::{Metrics, TokenResult};
use crate::refusal::{Refusal, Refused};
use crate::token::{Relayed, RelayedTokens};
use crate::upstream::{Picked, Pool};

use super::connection::{Connection, Judged};
use super::forward;
use super::path::TOKEN_PATH;

/// For the platform's whole answer, connecting and further servers included, and for the wait
/// for another request's answer about the same device.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a token is given again that does not say when it ends.
const FALLBACK_LIFESPAN: Duration = Duration::from_secs(600);
/// Requests of all devices that wait for the platform.
const FLIGHTS: usize = 4_096;
/// Of the platform's answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks platforms for tokens.
pub struct Relay {
    connector: Connector,
    tokens: RelayedTokens,
    clock: Clock,
}

/// What the platform said.
enum Fetched {
    /// Status 200, with the whole body, and the token in it.
    Token(Bytes, String),
    /// It answers, and not with a token for this device.
    Refused(u16),
    /// It does not answer, or says that it cannot now.
    Unavailable(Refused),
}

impl Relay {
    /// `capacity`: how many tokens are remembered.
    pub fn new(capacity: u64, clock: Clock) -> Relay {
        let tokens = RelayedTokens::new(capacity, FALLBACK_LIFESPAN, FLIGHTS);
        Relay { connector: Connector::new(None), tokens, clock }
    }

    /// The platform's answer for the device: its current token, or a new one by the half-life
    /// rule. Of concurrent requests of one device one asks the platform.
    ///
    /// # Errors
    /// `PlatformRefused`, `UpstreamUnavailable` or `UpstreamTimeout`.
    pub async fn token(
        &self,
        device: &AuthenticatedDevice,
        connection: &Connection,
        judged: &Judged,
        authority: &str,
        request_id: &str,
        metrics: &Metrics,
    ) -> Result<Bytes, Refused> {
        let tenant = &judged.tenant;
        let epoch = tenant.trust.epoch();
        let current = || {
            let (leaf, now) = (device.leaf_sha256(), self.clock.now());
            self.tokens.get(&tenant.id, device.id(), authority, leaf, epoch, now)
        };
        if let Relayed::Fresh(token) = current() {
            tenant.metrics.token(TokenResult::Reissued);
            return Ok(token.body().clone());
        }
        let asked = async {
            let Some(flight) = self.tokens.flight(&tenant.id, device.id()) else {
                // Whoever flies brings a new one; until then the current one is good.
                return match current() {
                    Relayed::Fresh(token) | Relayed::Stale(token) => {
                        Ok((token.body().clone(), TokenResult::Reissued))
                    }
                    Relayed::None => Err(Refused::new(
                        Refusal::Overloaded,
                        "too many requests wait for the platform's tokens",
                    )),
                };
            };
            let _turn = flight.start().await;
            // Whoever had the turn before may have brought it.
            let stale = match current() {
                Relayed::Fresh(token) => return Ok((token.body().clone(), TokenResult::Reissued)),
                Relayed::Stale(token) => Some(token.body().clone()),
                Relayed::None => None,
            };
            let request = request(connection, judged, authority, request_id, metrics)
                .map_err(|error| unavailable(&error))?;
            match self.fetch(&tenant.upstream, &request).await {
                Fetched::Token(body, jwt) => {
                    self.tokens.put(
                        &tenant.id,
                        device.id(),
                        authority,
                        device.leaf_sha256(),
                        epoch,
                        body.clone(),
                        Some(&jwt),
                        self.clock.now(),
                    );
                    Ok((body, TokenResult::Issued))
                }
                Fetched::Refused(status) => {
                    self.tokens.forget(&tenant.id, device.id());
                    Err(Refused::new(
                        Refusal::PlatformRefused,
                        format!("the platform answered {status} to the request for the token"),
                    ))
                }
                Fetched::Unavailable(refused) => {
                    stale.map(|body| (body, TokenResult::Reissued)).ok_or(refused)
                }
            }
        };
        let (body, result) = tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| {
            // The platform hangs: what is still valid is better than nothing.
            match current() {
                Relayed::Fresh(token) | Relayed::Stale(token) => {
                    Ok((token.body().clone(), TokenResult::Reissued))
                }
                Relayed::None => Err(Refused::new(
                    Refusal::UpstreamTimeout,
                    "the platform gave no token within 10 s",
                )),
            }
        })?;
        tenant.metrics.token(result);
        Ok(body)
    }

    /// Asks the servers of the pool in turn until one answers.
    async fn fetch(&self, pool: &Pool, request: &RequestHeader) -> Fetched {
        let mut tried = Vec::new();
        let mut last =
            Refused::new(Refusal::UpstreamUnavailable, "no server of the upstream is up");
        while tried.len() <= pool.settings().retries {
            let Some(picked) = pool.pick(&tried) else { break };
            let idle = pool.settings().timeouts.idle;
            let mut answer = self.ask(&picked, request, idle).await;
            if matches!(&answer, Err(Unanswered { on_reused: true, .. })) {
                // The server had closed a connection that was kept: it says nothing of the
                // server. Nothing but a token was asked for, so to ask again is safe.
                answer = self.ask(&picked, request, idle).await;
            }
            match answer {
                Ok((200, body)) => match jwt(&body) {
                    Some(jwt) => return Fetched::Token(body, jwt),
                    None => {
                        last = Refused::new(
                            Refusal::UpstreamUnavailable,
                            "the platform answered 200 without a token in the field accessToken",
                        );
                    }
                },
                Ok((status @ 500.., _)) | Ok((status @ 429, _)) => {
                    pool.metrics().failed();
                    last = Refused::new(
                        Refusal::UpstreamUnavailable,
                        format!("the platform answered {status} to the request for the token"),
                    );
                }
                Ok((status, _)) => return Fetched::Refused(status),
                Err(Unanswered { error, .. }) => {
                    pool.metrics().failed();
                    last = unavailable(&error);
                }
            }
            tried.push(picked.index());
        }
        Fetched::Unavailable(last)
    }

    async fn ask(
        &self,
        picked: &Picked,
        request: &RequestHeader,
        idle: Duration,
    ) -> Result<(u16, Bytes), Unanswered> {
        let peer = picked.peer();
        let connected = self.connector.get_http_session(&*peer).await;
        let (mut session, reused) = connected.map_err(|error| {
            picked.not_connected(error.etype());
            Unanswered { error, on_reused: false }
        })?;
        // The connector itself knows the timeouts of connecting only.
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        let answer = exchange(&mut session, request, peer.is_tls()).await;
        let answer = answer.map_err(|error| Unanswered {
            // A server that hangs would hang again.
            on_reused: reused && *error.etype() != ErrorType::ReadTimedout,
            error,
        })?;
        self.connector.release_http_session(session, &*peer, Some(idle)).await;
        Ok(answer)
    }
}

/// No answer of a server.
struct Unanswered {
    error: Box<Error>,
    /// On a connection that had been kept from an earlier request.
    on_reused: bool,
}

/// Sends the request and reads the whole answer.
async fn exchange(
    session: &mut HttpSession,
    request: &RequestHeader,
    tls: bool,
) -> Result<(u16, Bytes), Box<Error>> {
    let mut header = Box::new(request.clone());
    if session.as_http2().is_some() {
        for_http2(&mut header, tls)?;
    }
    session.write_request_header(header).await?;
    session.finish_request_body().await?;
    loop {
        session.read_response_header().await?;
        let informational =
            session.response_header().is_some_and(|header| header.status.is_informational());
        if !informational {
            break;
        }
    }
    let status = session.response_header().map_or(0, |header| header.status.as_u16());
    let mut body = BytesMut::new();
    while let Some(part) = session.read_response_body().await? {
        if body.len() + part.len() > MAX_ANSWER {
            return Error::e_explain(
                ErrorType::InvalidHTTPHeader,
                "the answer to the request for the token is larger than 64 KiB",
            );
        }
        body.extend_from_slice(&part);
    }
    Ok((status, body.freeze()))
}

/// What the platform is asked: as the device would, with what the edge knows of it.
fn request(
    connection: &Connection,
    judged: &Judged,
    authority: &str,
    request_id: &str,
    metrics: &Metrics,
) -> Result<RequestHeader, Box<Error>> {
    let mut request = RequestHeader::build(Method::POST, TOKEN_PATH.as_bytes(), Some(8))?;
    request.insert_header(HOST, authority)?;
    request.insert_header(ACCEPT, "application/json")?;
    request.insert_header(CONTENT_LENGTH, "0")?;
    forward::rewrite(&mut request, connection, judged, request_id, metrics)?;
    Ok(request)
}

/// Turns `Host` into `:authority` (RFC 9113 §8.3.1), which Pingora's proxy does by itself and
/// its connector does not.
fn for_http2(request: &mut RequestHeader, tls: bool) -> Result<(), Box<Error>> {
    let host = request.remove_header(&HOST);
    let uri = Uri::builder()
        .scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default())
        .path_and_query(TOKEN_PATH)
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "the authority of a token request")?;
    request.set_uri(uri);
    request.set_version(Version::HTTP_2);
    Ok(())
}

/// The token in the platform's answer.
pub fn jwt(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "accessToken")]
        access_token: String,
    }
    let body = serde_json::from_slice::<Body>(body).ok()?;
    (!body.access_token.is_empty()).then_some(body.access_token)
}

fn unavailable(error: &Error) -> Refused {
    let refusal = match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Refusal::UpstreamTimeout,
        _ => Refusal::UpstreamUnavailable,
    };
    Refused::new(
        refusal,
        format!("the platform could not be asked for the token: {}", error.etype().as_str()),
    )
}
