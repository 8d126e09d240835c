//! A request as Pingora drives it: decide, choose a server, rewrite, answer faults, log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::gate::ClientIdentity;
use crate::metrics::{Answered, Protocol, TokenResult};
use crate::refusal::{Refusal, Refused};
use crate::upstream::Picked;

use super::Edge;
use super::answer::Answer;
use super::connection::{Connection, Cut, Ending, Forwarding, Judged, Upgrade};
use super::decide::{Decision, decide, judge, oauth_token};
use super::forward;
use super::oauth::MAX_FORM;
use super::request_id::{Printable, RequestId};
use super::upgrade::{self, Unfit};

/// Body bytes of a request that the edge answers itself; read and dropped, so that the
/// connection stays usable.
const DRAINED_BODY_BYTES: usize = 64 * 1024;
/// Between an answer that ends an h2 connection and its end.
const H2_CLOSING_TIME: Duration = Duration::from_secs(1);
/// A stream of h2 whose window the peer keeps shut ends after this time.
const H2_WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The edge's side of Pingora's proxy.
pub struct Front {
    edge: Arc<Edge>,
}

impl Front {
    pub fn new(edge: Arc<Edge>) -> Front {
        Front { edge }
    }
}

/// One request, from its header to its last byte.
pub struct Request {
    id: RequestId,
    started: Instant,
    connection: Option<Arc<Connection>>,
    judged: Option<Arc<Judged>>,
    picked: Option<Picked>,
    tried: Vec<usize>,
    upstream_asked: Option<Instant>,
    body_deadline: Option<u64>,
    body_bytes: u64,
    answered: Answered,
    refused: Option<Refused>,
    /// While the request is at the upstream.
    forwarding: Option<Forwarding>,
}

#[async_trait]
impl ProxyHttp for Front {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            id: RequestId::new(),
            started: Instant::now(),
            connection: None,
            judged: None,
            picked: None,
            tried: Vec::new(),
            upstream_asked: None,
            body_deadline: None,
            body_bytes: 0,
            answered: Answered::Edge,
            refused: None,
            forwarding: None,
        }
    }

    /// None: responses pass as the upstream made them.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Request) -> Result<bool> {
        let Some(connection) = connection_of(session) else {
            return Error::e_explain(ErrorType::InternalError, "a session without its connection");
        };
        ctx.connection = Some(connection.clone());
        connection.header_done();
        if self.edge.draining() {
            session.set_keepalive(None);
        }
        // The connection's own deadlines replace Pingora's per-read ones.
        session.set_read_timeout(None);
        if session.is_http2() {
            session.set_write_timeout(Some(H2_WRITE_TIMEOUT));
        }
        let mut judged = match judge(&self.edge, &connection).await {
            Ok(judged) => judged,
            Err(refused) => {
                // Known for the log; the connection ends with the answer.
                ctx.judged = connection.judged();
                return self.refuse(session, ctx, refused, true).await;
            }
        };
        let generation = self.edge.generation();
        ctx.judged = Some(judged.clone());
        let limits = &generation.limits;
        if too_large(session.req_header(), limits.header_count, limits.header_bytes) {
            ctx.refused = Some(Refused::new(Refusal::TooLarge, "header_count or header_bytes"));
            let answer = Answer::header_too_large();
            // Over h2 a large header costs its sender a byte a field, and stays in memory until
            // the answer is taken.
            let answer = if session.is_http2() { answer.without_body() } else { answer };
            return self.answer(session, ctx, answer).await;
        }
        self.expect_body(session, ctx, &connection, limits.body_timeout);
        let id = ctx.id.text();
        let request = session.req_header();
        let mut decision = decide(&self.edge, &connection, &mut judged, request, id.as_str()).await;
        ctx.judged = Some(judged.clone());
        if let Decision::OauthForm = decision {
            let Some(form) = read_form(session).await? else {
                ctx.answered = Answered::Token;
                let refused = Refused::new(Refusal::TooLarge, "the form has more than 8 KiB");
                // Over h2 the rest of the body ends with the stream.
                let close = !session.is_http2();
                return self.refuse(session, ctx, refused, close).await;
            };
            let headers = &session.req_header().headers;
            decision = oauth_token(&self.edge, &connection, headers, &form).await;
        }
        match decision {
            // Settled above.
            Decision::OauthForm => Ok(true),
            Decision::RefuseOauth { refused } => {
                ctx.answered = Answered::Token;
                judged.tenant.metrics.token(TokenResult::Refused);
                let answer = Answer::oauth_refusal(refused.refusal);
                ctx.refused = Some(refused);
                self.answer(session, ctx, answer).await
            }
            Decision::Forward => {
                let limit = judged.tenant.limits.body_bytes;
                if announced_bytes(session.req_header()).is_some_and(|bytes| bytes > limit) {
                    let refused =
                        Refused::new(Refusal::TooLarge, "limits.body_bytes of the tenant");
                    return self.refuse(session, ctx, refused, false).await;
                }
                if judged.tenant.broker.is_some()
                    && let Some(asked) = upgrade::asked(session.req_header(), &judged.identity)
                {
                    return self.upgrade(session, ctx, &connection, asked).await;
                }
                ctx.answered = Answered::Upstream;
                ctx.forwarding = Some(connection.forward());
                Ok(false)
            }
            Decision::Answer { answer, by_token_endpoint } => {
                if by_token_endpoint {
                    ctx.answered = Answered::Token;
                    if answer.status != 200 {
                        judged.tenant.metrics.token(TokenResult::Refused);
                    }
                }
                self.answer(session, ctx, answer).await
            }
            Decision::Refuse { refused, by_token_endpoint, close } => {
                if by_token_endpoint {
                    ctx.answered = Answered::Token;
                    judged.tenant.metrics.token(TokenResult::Refused);
                }
                self.refuse(session, ctx, refused, close).await
            }
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Request,
    ) -> Result<()> {
        if session.was_upgraded() {
            // What flows after a 101 is no body.
            return Ok(());
        }
        ctx.body_bytes += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if end_of_stream {
            ctx.body_done();
        }
        if let Some(judged) = &ctx.judged
            && ctx.body_bytes > judged.tenant.limits.body_bytes
        {
            return Error::e_explain(ErrorType::HTTPStatus(413), "limits.body_bytes of the tenant");
        }
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Request) -> Result<Box<HttpPeer>> {
        let Some(judged) = &ctx.judged else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not judged");
        };
        // Before the next choice, the last one gives its place back.
        ctx.picked = None;
        let Some(picked) = judged.tenant.upstream.pick(&ctx.tried) else {
            return Error::e_explain(ErrorType::HTTPStatus(502), "no healthy server in the pool");
        };
        let peer = picked.peer();
        ctx.picked = Some(picked);
        ctx.upstream_asked = Some(Instant::now());
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Request,
    ) -> Result<()> {
        let (Some(connection), Some(judged)) = (&ctx.connection, &ctx.judged) else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not judged");
        };
        forward::rewrite(request, connection, judged, ctx.id.text().as_str(), &self.edge.metrics)
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Request,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        // The upstream has begun to answer: a body that still comes is its affair (a gRPC
        // stream may stay open for hours).
        ctx.body_done();
        if let (Some(judged), Some(asked)) = (&ctx.judged, ctx.upstream_asked.take()) {
            let seconds = asked.elapsed().as_secs_f64();
            judged.tenant.upstream.metrics().answered(response.status.as_u16(), seconds);
        }
        Ok(())
    }

    /// Nothing has been sent to the server: another one is tried, whatever the method.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Request,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let (Some(picked), Some(judged)) = (ctx.picked.take(), &ctx.judged) {
            picked.not_connected(error.etype());
            ctx.upstream_asked = None;
            ctx.tried.push(picked.index());
            let pool = &judged.tenant.upstream;
            pool.metrics().failed();
            error.set_retry(ctx.tried.len() <= pool.settings().retries);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Request,
    ) -> FailToProxy {
        let refused = fault(error);
        if *error.esource() == ErrorSource::Upstream
            && let Some(judged) = &ctx.judged
            && ctx.upstream_asked.is_some()
        {
            judged.tenant.upstream.metrics().failed();
        }
        let status = refused.refusal.http_status();
        if ctx.refused.is_none() && !device_gone(error) {
            ctx.refused = Some(refused.clone());
        }
        let started = session.response_written().is_some();
        if !started && !device_gone(error) {
            let id = ctx.id.text();
            let answer = Answer::refusal(refused.refusal, id.as_str()).closing();
            // A device that is gone cannot be told.
            let _ = answer.send(session, id.as_str()).await;
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Request) {
        ctx.body_done();
        let mut status = session.response_written().map_or(0, |response| response.status.as_u16());
        if ctx.connection.as_deref().is_some_and(|connection| connection.upgrade().is_some()) {
            // Written when Pingora has given the stream back.
            status = 101;
        }
        if let (Some(error), None) = (error, &ctx.refused)
            && !device_gone(error)
        {
            ctx.refused = Some(fault(error));
        }
        if let Some(late) = ctx.connection.as_deref().and_then(overdue)
            && error.is_some()
        {
            // What Pingora saw as a broken connection was a deadline of the edge's.
            ctx.refused = Some(late);
        }
        if ctx.forwarding.take().is_some()
            && let Some(Ending::Refused(ended)) =
                ctx.connection.as_deref().and_then(Connection::ended)
        {
            ctx.refused = Some(ended.clone());
        }
        if let Some(refused) = &ctx.refused {
            self.edge.metrics.refused(Protocol::Https, refused.refusal);
        }
        let seconds = ctx.started.elapsed().as_secs_f64();
        self.edge.metrics.request_done(ctx.answered, seconds);
        if let Some(judged) = &ctx.judged
            && status != 0
        {
            judged.tenant.metrics.request(status);
        }
        if ctx.refused.is_some() || self.edge.generation().log_requests {
            self.log(session, ctx, status, seconds);
        }
    }

    /// Every fault is in the request's one event; Pingora's own lines would hold wire bytes.
    fn suppress_error_log(&self, _: &Session, _: &Request, _: &Error) -> bool {
        true
    }
}

impl Front {
    /// Starts the clock of a body that is announced.
    fn expect_body(
        &self,
        session: &mut Session,
        ctx: &mut Request,
        connection: &Connection,
        timeout: Duration,
    ) {
        // An Upgrade header is no way around: an upgrade that is one announces no body.
        if !session.is_body_empty() {
            let deadline = self.edge.connections.after(timeout);
            connection.body_until(deadline);
            ctx.body_deadline = Some(deadline);
        }
    }

    /// Has the connection become a WebSocket for MQTT, once Pingora is done with the request.
    async fn upgrade(
        &self,
        session: &mut Session,
        ctx: &mut Request,
        connection: &Connection,
        asked: std::result::Result<Upgrade, Unfit>,
    ) -> Result<bool> {
        match asked {
            // What follows would be no WebSocket's.
            Ok(_) if !session.is_body_empty() => {
                let refused =
                    Refused::new(Refusal::ProtocolError, "a request for a WebSocket with a body");
                self.refuse(session, ctx, refused, true).await
            }
            Ok(upgrade) => {
                connection.set_upgrade(upgrade);
                // Whatever its header says of the connection: it is given back, not closed.
                session.set_keepalive(Some(0));
                Ok(true)
            }
            Err(Unfit::Version(refused)) => {
                let answer = Answer::other_websocket_version(ctx.id.text().as_str());
                ctx.refused = Some(refused);
                self.answer(session, ctx, answer).await
            }
            Err(Unfit::Refused(refused)) => self.refuse(session, ctx, refused, true).await,
        }
    }

    async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Request,
        refused: Refused,
        close: bool,
    ) -> Result<bool> {
        let answer = Answer::refusal(refused.refusal, ctx.id.text().as_str());
        ctx.refused = Some(refused);
        if close
            && session.is_http2()
            && let Some(connection) = &ctx.connection
        {
            // An answer closes an h1 connection by itself; this one gets time to arrive. What is
            // refused of one stream (its authority, its size) ends only that stream.
            connection.end_at(self.edge.connections.after(H2_CLOSING_TIME));
        }
        self.answer(session, ctx, if close { answer.closing() } else { answer }).await
    }

    async fn answer(
        &self,
        session: &mut Session,
        ctx: &mut Request,
        mut answer: Answer,
    ) -> Result<bool> {
        if !answer.close && !drained(session).await? {
            answer = answer.closing();
        }
        ctx.body_done();
        answer.send(session, ctx.id.text().as_str()).await?;
        Ok(true)
    }

    fn log(&self, session: &Session, ctx: &Request, status: u16, seconds: f64) {
        let request = session.req_header();
        let tenant = ctx.judged.as_ref().map(|judged| judged.tenant.id.as_str());
        let device = ctx.judged.as_ref().and_then(|judged| match &judged.identity {
            ClientIdentity::Verified(chain) => Some(chain.device().as_str()),
            _ => None,
        });
        let connection = ctx.connection.as_deref();
        let id = ctx.id.text();
        // A refusal is a warning, like that of a connection.
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: "portcullis::request",
                    connection = connection.map_or(0, Connection::id),
                    peer = connection.and_then(Connection::peer).map(tracing::field::display),
                    tenant,
                    device,
                    method = %Printable(request.method.as_str()),
                    path = %Printable(request.uri.path()),
                    status,
                    answered_by = ?ctx.answered,
                    refusal = ctx.refused.as_ref().map(|refused| refused.refusal.label()),
                    reason = ctx.refused.as_ref().map(|refused| refused.reason.as_ref()),
                    duration_ms = seconds * 1e3,
                    request_id = id.as_str(),
                    "request"
                )
            };
        }
        match ctx.refused {
            Some(_) => event!(warn),
            None => event!(info),
        }
    }
}

impl Request {
    fn body_done(&mut self) {
        if let (Some(deadline), Some(connection)) = (self.body_deadline.take(), &self.connection) {
            connection.body_done(deadline);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // A request whose task ends early must not leave its deadline behind.
        self.body_done();
    }
}

fn connection_of(session: &Session) -> Option<Arc<Connection>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<Connection>>().cloned()
}

/// The deadline that the edge ended the connection for.
fn overdue(connection: &Connection) -> Option<Refused> {
    let reason = match connection.cut() {
        Cut::ReadDeadline => "limits.body_timeout",
        Cut::WriteDeadline => "the device did not take what was sent to it",
        Cut::Drained => "the edge stops and drain_timeout has passed",
        Cut::Idle | Cut::Refused | Cut::HeaderTooLarge | Cut::None => return None,
    };
    Some(Refused::new(Refusal::Timeout, reason))
}

fn too_large(request: &RequestHeader, count: usize, bytes: usize) -> bool {
    let path = request.raw_path().len();
    let fields = request.headers.iter();
    let size: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    request.headers.len() > count || size + path + 16 > bytes
}

fn announced_bytes(request: &RequestHeader) -> Option<u64> {
    if request.headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    request.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a small body to its end; false where it is too large to, or will not come before the
/// answer (RFC 9110 §10.1.1).
async fn drained(session: &mut Session) -> Result<bool> {
    if session.req_header().headers.contains_key(EXPECT) && !session.is_body_done() {
        return Ok(false);
    }
    let mut left = DRAINED_BODY_BYTES;
    while !session.is_body_done() {
        match session.read_request_body().await.map_err(|error| error.into_down())? {
            None => break,
            Some(bytes) if bytes.len() > left => return Ok(false),
            Some(bytes) => left -= bytes.len(),
        }
    }
    Ok(true)
}

/// The whole of a small body; `None` where it is larger.
async fn read_form(session: &mut Session) -> Result<Option<Vec<u8>>> {
    let mut form = Vec::new();
    while let Some(bytes) = session.read_request_body().await.map_err(|error| error.into_down())? {
        if form.len() + bytes.len() > MAX_FORM {
            return Ok(None);
        }
        form.extend_from_slice(&bytes);
    }
    Ok(Some(form))
}

/// The device closed or reset its connection: no refusal of the edge's.
fn device_gone(error: &Error) -> bool {
    *error.esource() == ErrorSource::Downstream
        && matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        )
}

/// What an error of Pingora's means to the device.
fn fault(error: &Error) -> Refused {
    let refusal = match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(413), _) => Refusal::TooLarge,
        (ErrorType::HTTPStatus(502), _) => Refusal::UpstreamUnavailable,
        (ErrorType::HTTPStatus(_), _) => Refusal::ProtocolError,
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, ErrorSource::Upstream) => {
            Refusal::UpstreamTimeout
        }
        (_, ErrorSource::Upstream) => Refusal::UpstreamUnavailable,
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, _) => Refusal::Timeout,
        (_, ErrorSource::Downstream) => Refusal::ProtocolError,
        _ => Refusal::UpstreamUnavailable,
    };
    let reason = match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(413), _) => "limits.body_bytes of the tenant",
        (ErrorType::HTTPStatus(502), _) => "no server of the upstream is up",
        (ErrorType::ConnectRefused, _) => "the upstream refused the connection",
        (ErrorType::ConnectTimedout, _) => "no connection within timeouts.connect of the upstream",
        (ErrorType::ReadTimedout, ErrorSource::Upstream) => {
            "no answer within timeouts.read of the upstream"
        }
        (ErrorType::ConnectionClosed, ErrorSource::Upstream) => {
            "the upstream closed the connection without an answer"
        }
        (ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert, ErrorSource::Upstream) => {
            "the TLS handshake with the upstream failed: its certificate, ca_file or server_name"
        }
        (kind, source) => {
            let reason = format!("{} {}", source.as_str(), kind.as_str());
            return Refused::new(refusal, reason.trim().to_owned());
        }
    };
    Refused::new(refusal, reason)
}
