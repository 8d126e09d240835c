//! The opening of a session: from the device's first byte to the broker's CONNACK.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::Limits;
use crate::metrics::{TenantMetrics, UpstreamMetrics};
use crate::refusal::{Refusal, Refused};
use crate::upstream::Picked;

use super::super::Edge;
use super::super::connection::{Connection, Terms};
use super::admit::{Admitted, admit};
use super::codes::{
    CLIENT_ID_NOT_VALID, Denied, PACKET_TOO_LARGE, PROTOCOL_ERROR, UNSUPPORTED_PROTOCOL_VERSION,
    Version,
};
use super::connect::{self, Connect, Unreadable};
use super::end::End;
use super::events::Log;
use super::exchange::Exchange;
use super::frame::{Header, header};
use super::session::Device;
use super::wire;

/// A broker that is gone without a word is asked for after this time ...
const BROKER_KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
/// ... and has this long to answer, and to take what is sent to it.
const BROKER_UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Packet types.
const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// A session whose CONNECT the broker has taken.
pub struct Opened {
    pub version: Version,
    pub exchange: Exchange,
    pub terms: Terms,
    pub metrics: Arc<TenantMetrics>,
    pub broker: TcpStream,
    /// Counts the session at its broker.
    pub picked: Picked,
    /// Largest packet that the device takes.
    pub device_max: usize,
    /// For a packet with a reason string; 0 where none is wanted.
    pub room: usize,
    /// What the device has sent behind its CONNECT.
    pub early: Vec<u8>,
    /// What the broker has sent, from its CONNACK on.
    pub first: Vec<u8>,
}

/// Reads the CONNECT, holds it against the device, and has the broker take it. Whoever is refused
/// has been told so, as far as the version can.
///
/// # Errors
/// What becomes of the connection instead.
pub async fn open<D: Device>(
    edge: &Arc<Edge>,
    connection: &Arc<Connection>,
    device: &mut D,
    log: &mut Log,
) -> Result<Opened, End> {
    let limits = edge.generation().limits;
    connection.header_until(edge.connections.after(limits.mqtt_connect_timeout));
    let (connect, early) = read_connect(device, &limits).await?;
    let version = connect.version();
    log.version = Some(version);
    log.set_client_id(connect.client_id());
    connection.header_done();
    let device_max = connect.max_packet();
    let room = if connect.wants_reasons() { device_max } else { 0 };
    let opened = at_broker(edge, connection, device, connect, early, &limits);
    // One deadline for all that the device waits for: registry, token, brokers.
    let opened = timeout(limits.mqtt_connect_timeout, opened).await.unwrap_or_else(|_| {
        let reason = "no CONNACK of the broker's within limits.mqtt_connect_timeout";
        Err(Answer::Denied(Denied::from(Refused::new(Refusal::UpstreamTimeout, reason))))
    });
    let opened = match opened {
        Ok(opened) => opened,
        Err(Answer::DeviceGone) => return Err(End::Device(false)),
        Err(Answer::Refused(bytes, code)) => {
            // A device that is gone cannot be told.
            let _ = device.put(&bytes);
            let reason = format!("the broker refused the CONNECT with code {code:#04x}");
            let refused = Refused::new(Refusal::PlatformRefused, reason);
            return Err(End::Denied(Denied { refused, code }));
        }
        Err(Answer::Denied(denied)) => {
            refuse(device, version, &denied, room);
            return Err(End::Denied(denied));
        }
    };
    let AtBroker { admitted, broker, picked, authenticates, early, first } = opened;
    let Admitted { tenant, device, named, tokens, .. } = admitted;
    Ok(Opened {
        version,
        exchange: Exchange::new(version, tokens, authenticates, limits.mqtt_packet_bytes),
        terms: Terms {
            device,
            named,
            broker: picked.address(),
            forward: tenant.broker_forward.clone(),
        },
        metrics: tenant.metrics.clone(),
        broker,
        picked,
        device_max,
        room,
        early,
        first,
    })
}

/// The CONNECT, and what came behind it.
async fn read_connect<D: Device>(
    device: &mut D,
    limits: &Limits,
) -> Result<(Connect, Vec<u8>), End> {
    // The tickets of TLS 1.3 leave with the edge's first word. Until then nothing would acknowledge
    // the end of the device's handshake, which a device without TCP_NODELAY waits for before its
    // CONNECT: 40 ms.
    let _ = device.stream().tcp().set_quickack(true);
    let mut received = Vec::new();
    let read = read_packet(device, &mut received, limits.mqtt_connect_bytes, &[CONNECT]).await;
    let header = match read {
        Ok(Some(header)) => header,
        Ok(None) => return Err(End::Device(false)),
        Err(denied) => {
            // What is too large is told to clients of 5.0, whose version has come by then.
            if let Some(version @ Version::V5) = connect::announced(&received) {
                refuse(device, version, &denied, usize::MAX);
            }
            return Err(End::Denied(denied));
        }
    };
    let early = received.split_off(header.total().min(received.len()));
    match Connect::read(header, &received) {
        Ok(connect) => Ok((connect, early)),
        Err(Unreadable { denied, answer_in }) => {
            if let Some(version) = answer_in {
                refuse(device, version, &denied, usize::MAX);
            }
            Err(End::Denied(denied))
        }
    }
}

/// A CONNECT that the broker has taken.
struct AtBroker {
    admitted: Admitted,
    broker: TcpStream,
    picked: Picked,
    authenticates: bool,
    early: Vec<u8>,
    first: Vec<u8>,
}

async fn at_broker<D: Device>(
    edge: &Arc<Edge>,
    connection: &Connection,
    device: &mut D,
    connect: Connect,
    early: Vec<u8>,
    limits: &Limits,
) -> Result<AtBroker, Answer> {
    let (version, authenticates) = (connect.version(), connect.authenticates());
    let stream = device.stream();
    let admitted = admit(edge, connection, stream.tls_version(), stream.tcp(), connect).await;
    let admitted = admitted.map_err(Answer::Denied)?;
    let (mut broker, picked) = connect_to_broker(&admitted).await.map_err(Answer::Denied)?;
    let mut early = early;
    let pool = admitted.tenant.broker.as_ref().map(|pool| pool.metrics());
    let answered = pool.ok_or(Answer::DeviceGone)?;
    let first = connack(device, &mut broker, authenticates, &mut early, limits, answered).await?;
    let first = within_limits(version, first, limits);
    Ok(AtBroker { admitted, broker, picked, authenticates, early, first })
}

/// What the broker has sent, with the largest packet that the edge takes in its CONNACK (MQTT 5.0
/// §3.2.2.3.6): a device that does not know would send a larger one again and again.
fn within_limits(version: Version, first: Vec<u8>, limits: &Limits) -> Vec<u8> {
    if version != Version::V5 {
        return first;
    }
    wire::connack_with_maximum(&first, limits.mqtt_packet_bytes).unwrap_or(first)
}

/// Reads until `bytes` begin with a whole packet of one of these types; `None` where the device
/// ended before. What came after the packet stands behind it.
async fn read_packet<D: Device>(
    device: &mut D,
    bytes: &mut Vec<u8>,
    limit: usize,
    kinds: &[u8],
) -> Result<Option<Header>, Denied> {
    let mut buf = [0; 2048];
    loop {
        // Before its length is believed.
        if bytes.first().is_some_and(|first| !kinds.contains(&(first >> 4))) {
            return Err(Denied::packet(PROTOCOL_ERROR, "a packet that is not due here"));
        }
        if let Some(header) = header(bytes)? {
            if header.total() > limit {
                return Err(Denied::packet(PACKET_TOO_LARGE, "limits.mqtt_connect_bytes"));
            }
            if bytes.len() >= header.total() {
                return Ok(Some(header));
            }
        }
        let n = std::future::poll_fn(|cx| device.poll_fill(cx, &mut buf)).await.unwrap_or(0);
        if n == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(buf.get(..n).unwrap_or_default());
    }
}

/// Connects to a broker and sends it what it is told.
async fn connect_to_broker(admitted: &Admitted) -> Result<(TcpStream, Picked), Denied> {
    let refused = |reason: String| Refused::new(Refusal::UpstreamUnavailable, reason);
    let Some(pool) = &admitted.tenant.broker else {
        return Err(refused("the tenant's upstream has no MQTT brokers".to_owned()).into());
    };
    let settings = pool.settings();
    let mut last = refused("no broker of the upstream is up".to_owned());
    let mut tried = Vec::new();
    while tried.len() <= settings.retries {
        let Some(picked) = pool.pick(&tried) else { break };
        let opened = async {
            let mut tcp = TcpStream::connect(picked.address()).await?;
            tcp.set_nodelay(true)?;
            let socket = SockRef::from(&tcp);
            socket.set_tcp_keepalive(&BROKER_KEEPALIVE)?;
            socket.set_tcp_user_timeout(Some(BROKER_UNACKNOWLEDGED))?;
            tcp.write_all(&admitted.opening).await?;
            Ok::<_, io::Error>(tcp)
        };
        match timeout(settings.timeouts.connect, opened).await {
            Ok(Ok(tcp)) => return Ok((tcp, picked)),
            Ok(Err(error)) => {
                // A fault of this machine (no descriptor, no port) says nothing of the broker.
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::TimedOut
                ) {
                    picked.failed();
                }
                last = refused(format!("the broker cannot be reached: {}", error.kind()));
            }
            Err(_) => {
                picked.failed();
                let reason = "no connection to the broker within timeouts.connect of the upstream";
                last = Refused::new(Refusal::UpstreamTimeout, reason);
            }
        }
        pool.metrics().failed();
        tried.push(picked.index());
    }
    Err(last.into())
}

/// Why there is no CONNACK that opens a session.
enum Answer {
    /// The broker's own refusal, and its code.
    Refused(Vec<u8>, u8),
    DeviceGone,
    Denied(Denied),
}

/// Waits for the broker's CONNACK, and carries an authentication to and fro before it. Gives
/// what the broker has sent: the CONNACK and perhaps more.
async fn connack<D: Device>(
    device: &mut D,
    broker: &mut TcpStream,
    authenticates: bool,
    early: &mut Vec<u8>,
    limits: &Limits,
    pool: &UpstreamMetrics,
) -> Result<Vec<u8>, Answer> {
    let asked = Instant::now();
    let broken = |reason: &'static str| {
        Answer::Denied(Refused::new(Refusal::UpstreamUnavailable, reason).into())
    };
    let mut bytes = Vec::new();
    let mut buf = [0; 2048];
    loop {
        let speaks = bytes.first().is_none_or(|first| matches!(first >> 4, CONNACK | AUTH));
        let header = header(&bytes).ok().filter(|_| speaks);
        let header = header.ok_or_else(|| broken("the broker does not speak MQTT"))?;
        let Some(header) = header.filter(|header| bytes.len() >= header.total()) else {
            if bytes.len() > limits.mqtt_connect_bytes {
                return Err(broken(
                    "the broker's CONNACK is larger than limits.mqtt_connect_bytes",
                ));
            }
            match broker.read(&mut buf).await {
                Ok(n) if n > 0 => bytes.extend_from_slice(buf.get(..n).unwrap_or_default()),
                _ => return Err(broken("the broker closed without a CONNACK")),
            }
            continue;
        };
        match (header.kind(), bytes.get(header.size + 1)) {
            (CONNACK, Some(0)) => {
                pool.answered(200, asked.elapsed().as_secs_f64());
                return Ok(bytes);
            }
            (CONNACK, Some(code)) => {
                let code = *code;
                pool.answered(403, asked.elapsed().as_secs_f64());
                bytes.truncate(header.total());
                return Err(Answer::Refused(bytes, code));
            }
            (AUTH, _) if authenticates => {
                let rest = bytes.split_off(header.total());
                device.put(&bytes).map_err(|_| Answer::DeviceGone)?;
                std::future::poll_fn(|cx| device.poll_send(cx))
                    .await
                    .map_err(|_| Answer::DeviceGone)?;
                bytes = rest;
                let limit = limits.mqtt_connect_bytes;
                let read = read_packet(device, early, limit, &[AUTH, DISCONNECT]).await;
                let Some(header) = read.map_err(Answer::Denied)? else {
                    return Err(Answer::DeviceGone);
                };
                let later = early.split_off(header.total());
                let sent = broker.write_all(early).await;
                sent.map_err(|_| broken("the broker closed without a CONNACK"))?;
                if header.kind() == DISCONNECT {
                    return Err(Answer::DeviceGone);
                }
                *early = later;
            }
            _ => return Err(broken("the broker's first packet is no CONNACK")),
        }
    }
}

/// Says a refusal as far as the version can. `room`: for a reason string.
fn refuse<D: Device>(device: &mut D, version: Version, denied: &Denied, room: usize) {
    let refusal = denied.refused.refusal;
    let code = match (version, denied.code) {
        (Version::V5, code) => code,
        (_, UNSUPPORTED_PROTOCOL_VERSION) => 1,
        (_, CLIENT_ID_NOT_VALID) if refusal == Refusal::ProtocolError => 2,
        _ => refusal.mqtt_return(),
    };
    let connack = |reason: Option<&str>| wire::connack(version, code, reason);
    // A device that is gone cannot be told.
    let _ = device.put(&wire::fitting(room, refusal.mqtt_message(), connack));
}
