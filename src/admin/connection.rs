//! One connection of the port: from its first byte to its end, each stretch with a deadline.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::auth::Peer;
use super::places::Place;
use super::tls::Tls;
use crate::clock::Clock;

/// Until the first byte: who connects has something to say.
const FIRST_BYTE: Duration = Duration::from_secs(2);
/// From the first byte to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// From there, or from the answer before, to the end of a request's header.
const HEADER: Duration = Duration::from_secs(5);
/// From connecting, or from the last request whose principal is known, to the end. Who is not
/// known has this much in total. With a client certificate it ends with that at the latest.
const CONNECTION: Duration = Duration::from_secs(60);
/// The same for a bulk registration, which has its own deadlines.
const BULK: Duration = Duration::from_secs(3_700);
/// For the answer that is on its way at the end.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Bytes of a request's header.
const HEADER_BYTES: usize = 16 * 1024;

/// Serves one connection until it ends, its time is over, or its place is given to another.
pub async fn serve(
    tcp: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    router: Router,
    place: Place,
) {
    let session = Session::new(Arc::new(place));
    tokio::select! {
        () = session.place.lost() => {}
        () = begin(tcp, address, tls, router, &session) => {}
    }
}

async fn begin(
    tcp: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    router: Router,
    session: &Session,
) {
    match timeout(FIRST_BYTE, tcp.peek(&mut [0])).await {
        Ok(Ok(1)) => {}
        _ => return,
    }
    let Some(tls) = tls else {
        let peer = Peer { address, tls: false, common_name: None };
        return requests(tcp, peer, router, session).await;
    };
    match timeout(HANDSHAKE, tls.accept(tcp)).await {
        Ok(Ok((stream, certificate))) => {
            if let Some(certificate) = &certificate {
                // By the machine's clock, as TLS has verified it.
                let left = certificate.not_after.saturating_sub(Clock::system().now());
                session.ends_within(Duration::from_secs(u64::try_from(left).unwrap_or_default()));
            }
            let common_name = certificate.map(|certificate| certificate.common_name);
            let peer = Peer { address, tls: true, common_name };
            requests(stream, peer, router, session).await;
        }
        Ok(Err(reason)) => {
            tracing::warn!(target: "portcullis::admin", peer = %address, %reason, "TLS refused");
        }
        Err(_) => {}
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    session: &Session,
) {
    let service = TowerToHyperService::new(router);
    let answer = service_fn(|mut request: Request<Incoming>| {
        session.place.set_busy(true);
        let extensions = request.extensions_mut();
        extensions.insert(peer.clone());
        extensions.insert(session.clone());
        let answered = service.call(request);
        async move {
            let answer = answered.await;
            session.place.set_busy(false);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    tokio::select! {
        // A scraper that goes away early is no event.
        _ = connection.as_mut() => return,
        () = session.ended() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}

/// What a connection learns from its requests.
#[derive(Clone)]
pub struct Session {
    place: Arc<Place>,
    began: Instant,
    /// Milliseconds after `began`.
    ends: Arc<AtomicU64>,
    /// The same; `ends` is never later.
    latest: Arc<AtomicU64>,
}

/// A request of a known principal is being answered.
pub struct Serving(Session);

impl Session {
    fn new(place: Arc<Place>) -> Session {
        let latest = Arc::new(AtomicU64::new(u64::MAX));
        let session = Session { place, began: Instant::now(), ends: Arc::default(), latest };
        session.lasts(CONNECTION);
        session
    }

    /// Moves the connection's end: a known principal asks.
    pub fn serving(&self, bulk: bool) -> Serving {
        self.lasts(if bulk { BULK } else { CONNECTION });
        Serving(self.clone())
    }

    /// Whatever is asked: the certificate that says who asks ends then.
    fn ends_within(&self, from_now: Duration) {
        let latest = self.after(from_now);
        self.latest.store(latest, Ordering::Release);
        self.ends.fetch_min(latest, Ordering::AcqRel);
    }

    fn lasts(&self, from_now: Duration) {
        let end = self.after(from_now).min(self.latest.load(Ordering::Acquire));
        self.ends.store(end, Ordering::Release);
    }

    /// Milliseconds after `began`.
    fn after(&self, from_now: Duration) -> u64 {
        let after = self.began.elapsed().saturating_add(from_now);
        u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
    }

    async fn ended(&self) {
        loop {
            let end = self.began + Duration::from_millis(self.ends.load(Ordering::Acquire));
            let now = Instant::now();
            if end <= now {
                return;
            }
            // The end may come nearer, when a bulk registration is over.
            sleep_until(end.min(now + CONNECTION)).await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.lasts(CONNECTION);
    }
}
