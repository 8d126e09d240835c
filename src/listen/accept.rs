//! Accepts connections and drives each from its first byte to its last.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use boring::sha::sha256;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use crate::gate::ClientIdentity;
use crate::limits::Limits;
use crate::metrics::{HandshakeResult, Protocol};
use crate::refusal::{Refusal, Refused};
use crate::tenant::Tenant;

use super::caps::{Place, add_below};
use super::connection::{Connection, Connections, Cut, Established, Judged};
use super::https::Front;
use super::stream::{self, DeviceStream};
use super::tls::{Accepted, Rejected, TlsServer};
use super::transport::Transport;
use super::{Edge, Listener, mqtt, proxy_protocol};

const BACKLOG: i32 = 4096;
/// Streams of one h2 connection at a time. One whose answer is not taken holds up to 450 KiB,
/// most of it between Pingora's tasks (measured): 14 MiB a connection.
const H2_STREAMS: u32 = 32;
/// What one h2 stream may hold of a response in the h2 layer.
const H2_SEND_BUFFER: usize = 32 * 1024;
/// Has the kernel find out about a device that is gone without a word: an MQTT session that asked
/// for no keep-alive has no other end. Rare enough not to wake the radio of a device that sleeps.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(15 * 60))
    .with_interval(Duration::from_secs(60))
    .with_retries(3);
/// How long accepting pauses when the process is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Binds one socket a worker to the same address (SO_REUSEPORT): the kernel spreads
/// connections over them.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    refuse_company(address)?;
    let mut address = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
        if address.is_ipv6() {
            // `[::]` beside `0.0.0.0`: each family has its own listener.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit both.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener: TcpListener = socket.into();
        // Port 0: the others share the port that the first was given.
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

/// Fails where another process listens there: SO_REUSEPORT would silently give it half of the
/// connections.
fn refuse_company(address: SocketAddr) -> io::Result<()> {
    let probe =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        probe.set_only_v6(true)?;
    }
    probe.set_reuse_address(true)?;
    probe.bind(&address.into())?;
    probe.listen(1)
}

/// One worker thread's means to serve connections.
pub struct Worker {
    edge: Arc<Edge>,
    tls: Arc<TlsServer>,
    proxy: Arc<HttpProxy<Front>>,
    shutdown: ShutdownWatch,
}

impl Worker {
    /// `shutdown` turns true when the edge drains.
    pub fn new(edge: Arc<Edge>, tls: Arc<TlsServer>, shutdown: ShutdownWatch) -> Worker {
        let limits = edge.generation().limits;
        let conf = Arc::new(ServerConf { threads: 1, ..ServerConf::default() });
        let mut proxy = HttpProxy::new(Front::new(edge.clone()), conf);
        proxy.handle_init_modules();
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(limits.idle_timeout);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options(&limits));
        Worker { edge, tls, proxy: Arc::new(proxy), shutdown }
    }

    /// Accepts until the edge drains.
    pub async fn serve(
        self: Arc<Worker>,
        listener: Arc<Listener>,
        socket: TcpListener,
    ) -> io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let mut shutdown = self.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = shutdown.changed() => return Ok(()),
            };
            match accepted {
                Ok((tcp, peer)) => self.clone().admit(&listener, tcp, peer),
                // The peer was gone before it was accepted: no fault of ours.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(target: "portcullis::listener", %error, "accept failed");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    }

    /// Gives a newcomer its place, or turns it away.
    fn admit(self: Arc<Worker>, listener: &Arc<Listener>, tcp: TcpStream, peer: SocketAddr) {
        let limits = self.edge.generation().limits;
        let balancer = listener.proxy_protocol.iter().any(|range| range.contains(peer.ip()));
        // A balancer's own address is not a device's: the header will name that.
        let address = (!balancer).then(|| peer.ip());
        match self.edge.caps.enter(address, &limits) {
            Ok(place) => {
                let listener = listener.clone();
                tokio::spawn(async move {
                    self.drive(listener, tcp, peer, balancer, place, limits).await;
                });
            }
            Err(full) => {
                self.edge.metrics.refused(listener.protocol, Refusal::Overloaded);
                // One line a connection, as for every refusal; the caps bound their rate only
                // by what the network brings, so they are the first to be filtered out.
                tracing::warn!(
                    target: "portcullis::overload",
                    %peer,
                    refusal = Refusal::Overloaded.label(),
                    reason = full.reason(),
                    "connection refused"
                );
            }
        }
    }

    async fn drive(
        &self,
        listener: Arc<Listener>,
        tcp: TcpStream,
        peer: SocketAddr,
        balancer: bool,
        place: Place,
        limits: Limits,
    ) {
        let edge = &self.edge;
        let protocol = listener.protocol;
        let registered = Connections::register(edge, protocol, &tcp, limits.handshake_timeout);
        let connection = registered.connection().clone();
        edge.metrics.handshakes_in_flight(protocol).inc();
        let mut transport = Transport::new(tcp, registered, place);
        let accepted = match self.proxied(&mut transport, peer, balancer, &limits).await {
            Ok(()) => self.tls.accept(edge, &listener, transport).await,
            Err(refused) => {
                Err(Box::new(Rejected { refused, tenant: None, leaf: None, stream: None }))
            }
        };
        edge.metrics.handshakes_in_flight(protocol).dec();
        edge.metrics.handshake_took(protocol, connection.age().as_secs_f64());
        let accepted = accepted.and_then(|accepted| within_tenant_cap(edge, accepted));
        match accepted {
            Ok(accepted) => {
                self.serve_accepted(&listener, &connection, accepted, &limits).await;
            }
            Err(rejected) => self.reject(&connection, *rejected).await,
        }
    }

    /// Reads the PROXY header that a balancer owes, and counts the device's address.
    async fn proxied(
        &self,
        transport: &mut Transport,
        peer: SocketAddr,
        balancer: bool,
        limits: &Limits,
    ) -> Result<(), Refused> {
        let mut peer = peer;
        if balancer {
            let address = proxy_protocol::read(transport).await;
            let address =
                address.map_err(|fault| Refused::new(Refusal::ProtocolError, fault.to_string()))?;
            peer = address.unwrap_or(peer);
            transport
                .place()
                .set_address(peer.ip(), limits)
                .map_err(|full| Refused::new(Refusal::Overloaded, full.reason()))?;
        }
        transport.connection().set_peer(peer);
        Ok(())
    }

    async fn serve_accepted(
        &self,
        listener: &Listener,
        connection: &Arc<Connection>,
        accepted: Accepted,
        limits: &Limits,
    ) {
        let edge = &self.edge;
        let Accepted { mut stream, generation, server_name, tenant, identity, chain, resumed } =
            accepted;
        let result = if resumed { HandshakeResult::Resumed } else { HandshakeResult::Full };
        tenant.metrics.handshake(listener.protocol, result);
        stream.get_mut().place().handshake_done();
        let h2 = stream.ssl().selected_alpn_protocol() == Some(b"h2");
        connection.set_established(
            Established {
                server_name,
                chain,
                asked_for_certificate: listener.client_certificates,
                tenant_count: edge.caps.tenant(&tenant.id),
            },
            Judged::new(generation.number, tenant, identity),
        );
        drop(generation);
        if listener.protocol == Protocol::Mqtts {
            let stream = DeviceStream::new(edge.clone(), stream, None, false);
            // On the heap: a connection of HTTP must not carry the room of a session.
            return Box::pin(mqtt::serve(edge, connection, stream)).await;
        }
        let Some(digest) = digest(connection.clone()) else { return };
        let stream = Box::new(DeviceStream::new(edge.clone(), stream, Some(Arc::new(digest)), h2));
        if h2 {
            connection.idle_until(edge.connections.after(limits.idle_timeout));
            self.proxy.process_new(stream, &self.shutdown).await;
        } else if let Some(stream) = self.serve_http1(connection, stream).await {
            return Box::pin(mqtt::serve_websocket(edge, connection, stream)).await;
        }
        closed_by_deadline(edge, connection);
    }

    /// One request after the other. Between them nothing of Pingora's is held. Gives the stream
    /// back where it is to become a WebSocket.
    async fn serve_http1(
        &self,
        connection: &Connection,
        stream: Box<DeviceStream>,
    ) -> Option<Box<DeviceStream>> {
        let mut stream = stream;
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            let limits = self.edge.generation().limits;
            let register = &self.edge.connections;
            // Whoever is undecided owes the request that decides.
            let undecided = connection
                .judged()
                .is_some_and(|judged| matches!(judged.identity, ClientIdentity::Undecided));
            let idle = if undecided { limits.header_timeout } else { limits.idle_timeout };
            connection.idle_until(register.after(idle));
            if self.edge.draining()
                || std::future::poll_fn(|cx| stream.poll_readable(cx)).await.is_err()
            {
                break;
            }
            connection.header_until(register.after(limits.header_timeout));
            // What is over the limit by less than this is answered with 431, not cut.
            stream.expect_header(limits.header_bytes.saturating_mul(2));
            let before = (connection.requests(), connection.bytes_received());
            let mut session = ServerSession::new_http1(stream);
            match settings.take() {
                Some(settings) => settings.apply_to_session(&mut session),
                // 0: no timer of Pingora's; the connection's deadlines hold.
                None => session.set_keepalive(Some(0)),
            }
            let Some(reused) = self.proxy.process_new_http(session, &self.shutdown).await else {
                if connection.upgrade().is_some() {
                    hasty(&self.edge, connection);
                } else if connection.requests() == before.0
                    && connection.bytes_received() > before.1
                {
                    header_refused(&self.edge, connection);
                }
                break;
            };
            let (next, persistent) = reused.consume();
            settings = persistent;
            stream = device_stream(next)?;
            if connection.upgrade().is_some() {
                return Some(stream);
            }
        }
        None
    }

    async fn reject(&self, connection: &Connection, rejected: Rejected) {
        let Rejected { mut refused, tenant, leaf, stream } = rejected;
        if connection.cut() == Cut::ReadDeadline {
            refused = Refused::new(Refusal::Timeout, "limits.handshake_timeout");
        }
        match &tenant {
            Some(tenant) => {
                tenant.metrics.handshake(connection.protocol(), HandshakeResult::Failed)
            }
            None => self.edge.metrics.handshake_without_tenant(connection.protocol()),
        }
        let tenant = tenant.as_deref();
        let what = "handshake failed";
        refused_connection(&self.edge, connection, tenant, leaf, &refused, what);
        if let Some(mut stream) = stream {
            stream::finish(stream.get_mut()).await;
        }
    }
}

/// Counts the connection under its tenant, or refuses it.
fn within_tenant_cap(edge: &Edge, accepted: Accepted) -> Result<Accepted, Box<Rejected>> {
    let limit = accepted.tenant.limits.connections;
    if add_below(&edge.caps.tenant(&accepted.tenant.id), limit) {
        return Ok(accepted);
    }
    let refused = Refused::new(Refusal::Overloaded, "limits.connections of the tenant is reached");
    accepted.alert(refused.refusal);
    Err(Box::new(Rejected {
        refused,
        tenant: Some(accepted.tenant),
        leaf: accepted.chain.leaf().map(sha256),
        stream: Some(accepted.stream),
    }))
}

fn h2_options(limits: &Limits) -> H2Options {
    let mut options = H2Options::new();
    options
        .max_concurrent_streams(H2_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(H2_SEND_BUFFER)
        .max_concurrent_reset_streams(10)
        .max_pending_accept_reset_streams(20);
    options
}

fn digest(connection: Arc<Connection>) -> Option<ProxyDigest> {
    let response = ResponseHeader::build(200, Some(0)).ok()?;
    let user_data: Box<dyn Any + Send + Sync> = Box::new(connection);
    Some(ProxyDigest::new(Box::new(response), Some(user_data)))
}

fn device_stream(stream: Stream) -> Option<Box<DeviceStream>> {
    stream.into_any().downcast().ok()
}

/// A request whose header never became one.
fn header_refused(edge: &Edge, connection: &Connection) {
    let refused = match connection.cut() {
        Cut::ReadDeadline => Refused::new(Refusal::Timeout, "limits.header_timeout"),
        Cut::Drained | Cut::Idle | Cut::Refused => return,
        Cut::HeaderTooLarge => Refused::new(Refusal::TooLarge, "limits.header_bytes, twice over"),
        _ => Refused::new(
            Refusal::ProtocolError,
            "the request's header is malformed, too large or incomplete",
        ),
    };
    let judged = connection.judged();
    let tenant = judged.as_ref().map(|judged| judged.tenant.as_ref());
    refused_connection(edge, connection, tenant, leaf_of(connection), &refused, "request refused");
}

/// Bytes behind a request for a WebSocket and before its answer (RFC 6455 §4.1): Pingora has read
/// them with the header, and keeps no connection then.
fn hasty(edge: &Edge, connection: &Connection) {
    let refused =
        Refused::new(Refusal::ProtocolError, "bytes before the WebSocket's opening was answered");
    let judged = connection.judged();
    let tenant = judged.as_ref().map(|judged| judged.tenant.as_ref());
    refused_connection(edge, connection, tenant, leaf_of(connection), &refused, "connection cut");
}

/// A connection that the edge itself ended, where no request's event says so.
fn closed_by_deadline(edge: &Edge, connection: &Connection) {
    if connection.cut() == Cut::WriteDeadline {
        let refused = Refused::new(Refusal::Timeout, "the device did not take what was sent to it");
        let judged = connection.judged();
        let tenant = judged.as_ref().map(|judged| judged.tenant.as_ref());
        refused_connection(
            edge,
            connection,
            tenant,
            leaf_of(connection),
            &refused,
            "connection cut",
        );
    }
}

fn leaf_of(connection: &Connection) -> Option<[u8; 32]> {
    connection.established()?.chain.leaf().map(sha256)
}

/// Lower-case hexadecimal.
struct Hex([u8; 32]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The one event of a connection that failed.
fn refused_connection(
    edge: &Edge,
    connection: &Connection,
    tenant: Option<&Tenant>,
    leaf: Option<[u8; 32]>,
    refused: &Refused,
    what: &'static str,
) {
    edge.metrics.refused(connection.protocol(), refused.refusal);
    tracing::warn!(
        target: "portcullis::connection",
        connection = connection.id(),
        peer = connection.peer().map(tracing::field::display),
        tenant = tenant.map(|tenant| tenant.id.as_str()),
        // What names a device that has no name here: `openssl x509 -fingerprint -sha256`.
        leaf_sha256 = leaf.map(|digest| tracing::field::display(Hex(digest))),
        refusal = refused.refusal.label(),
        reason = refused.reason.as_ref(),
        duration_ms = connection.age().as_secs_f64() * 1e3,
        "{what}"
    );
}
