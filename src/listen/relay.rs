//! Tokens that the platform makes: the edge authenticates the device, asks the platform with
//! the validated chain, and hands the answer on. The platform's token is remembered and given
//! again until half of its life has passed; while the platform is down, until it ends.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method};
use pingora_core::connectors::http::Connector;
use pingora_error::Error;
use pingora_http::RequestHeader;
use serde::Deserialize;

use crate::clock::Clock;
use crate::gate::AuthenticatedDevice;
use crate::metrics::{Metrics, TokenResult};
use crate::refusal::{Refusal, Refused};
use crate::token::{Relayed, RelayedTokens};
use crate::upstream::Pool;

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
    /// Status 200, with the whole body.
    Token(Bytes),
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
        authority: &HeaderValue,
        request_id: &str,
        metrics: &Metrics,
    ) -> Result<Bytes, Refused> {
        let tenant = &judged.tenant;
        let epoch = tenant.trust.epoch();
        let current = || {
            self.tokens.get(&tenant.id, device.id(), device.leaf_sha256(), epoch, self.clock.now())
        };
        if let Relayed::Fresh(token) = current() {
            tenant.metrics.token(TokenResult::Reissued);
            return Ok(token.body().clone());
        }
        let asked = async {
            let flight = self.tokens.flight(&tenant.id, device.id()).ok_or_else(|| {
                Refused::new(
                    Refusal::Overloaded,
                    "too many requests wait for the platform's tokens",
                )
            })?;
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
                Fetched::Token(body) => {
                    self.tokens.put(
                        &tenant.id,
                        device.id(),
                        device.leaf_sha256(),
                        epoch,
                        body.clone(),
                        jwt(&body).as_deref(),
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
            match self.ask(&picked.peer(), request, pool.settings().timeouts.idle).await {
                Ok((200, body)) => return Fetched::Token(body),
                Ok((status @ 500.., _)) | Ok((status @ 429, _)) => {
                    pool.metrics().failed();
                    last = Refused::new(
                        Refusal::UpstreamUnavailable,
                        format!("the platform answered {status} to the request for the token"),
                    );
                }
                Ok((status, _)) => return Fetched::Refused(status),
                Err(error) => {
                    picked.failed();
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
        peer: &pingora_core::upstreams::peer::HttpPeer,
        request: &RequestHeader,
        idle: Duration,
    ) -> Result<(u16, Bytes), Box<Error>> {
        let (mut session, _) = self.connector.get_http_session(peer).await?;
        session.write_request_header(Box::new(request.clone())).await?;
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
                    pingora_error::ErrorType::InvalidHTTPHeader,
                    "the answer to the request for the token is larger than 64 KiB",
                );
            }
            body.extend_from_slice(&part);
        }
        self.connector.release_http_session(session, peer, Some(idle)).await;
        Ok((status, body.freeze()))
    }
}

/// What the platform is asked: as the device would, with what the edge knows of it.
fn request(
    connection: &Connection,
    judged: &Judged,
    authority: &HeaderValue,
    request_id: &str,
    metrics: &Metrics,
) -> Result<RequestHeader, Box<Error>> {
    let mut request = RequestHeader::build(Method::POST, TOKEN_PATH.as_bytes(), Some(8))?;
    request.insert_header(HOST, authority.clone())?;
    request.insert_header(ACCEPT, "application/json")?;
    request.insert_header(CONTENT_LENGTH, "0")?;
    forward::rewrite(&mut request, connection, judged, request_id, metrics)?;
    Ok(request)
}

/// The token in the platform's answer.
fn jwt(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "accessToken")]
        access_token: String,
    }
    serde_json::from_slice::<Body>(body).ok().map(|body| body.access_token)
}

fn unavailable(error: &Error) -> Refused {
    Refused::new(
        Refusal::UpstreamUnavailable,
        format!("the platform could not be asked for the token: {}", error.etype().as_str()),
    )
}
