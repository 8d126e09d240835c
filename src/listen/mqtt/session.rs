//! A session under way: bytes of both sides, in bounded memory, until one of them ends.
//!
//! One task drives both directions. A direction is read only while what it has brought can be
//! sent on, so that a slow reader holds up its writer and nothing piles up here. Between two
//! wakes a session holds no buffers, unless bytes wait.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::metrics::{Direction, TenantMetrics, TokenResult};
use crate::refusal::{Refusal, Refused};

use super::super::Edge;
use super::super::connection::{Connection, Ending};
use super::super::stream::DeviceStream;
use super::super::transport::OUTBOX_BYTES;
use super::admit::requested_token;
use super::codes::{Denied, IMPLEMENTATION_SPECIFIC, NOT_AUTHORIZED};
use super::end::End;
use super::events::{self, Log};
use super::exchange::Exchange;
use super::frame::Framer;

/// What one read takes of a direction.
const READ_BYTES: usize = 32 * 1024;
/// What the edge itself may have to say to a device before that is read no further.
const REPLY_BYTES: usize = 16 * 1024;
/// Reads at the end of a session, of what nobody wants any more: a broker may go on for ever.
const UNREAD_READS: usize = 64;
/// Rounds of one wake, so that a session with much to do lets others have their turn.
const ROUNDS: usize = 16;

thread_local! {
    /// What is read, and what is to be sent of it.
    static BUFFERS: RefCell<(Box<[u8]>, Vec<u8>)> =
        RefCell::new((vec![0; READ_BYTES].into_boxed_slice(), Vec::new()));
}

/// The device's side of a session: TLS, with or without WebSocket in it.
pub trait Device: Send {
    /// Plaintext that has arrived; 0: the device has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Takes everything; the caller bounds it by [`Device::unsent`].
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Bytes that wait to be sent.
    fn unsent(&self) -> usize;

    /// The TLS connection.
    fn stream(&mut self) -> &mut DeviceStream;

    /// For the log.
    const TRANSPORT: &'static str;

    /// How the device broke the rules of what is between TLS and MQTT.
    fn fault(&self) -> Option<Denied> {
        None
    }

    /// The last words of what is between TLS and MQTT; nothing may be put after them.
    fn end(&mut self, _why: &End) {}
}

/// A token that is asked for.
type PendingToken = Pin<Box<dyn Future<Output = Result<String, Refused>> + Send>>;

/// A device and its broker.
pub struct Session<'s, D> {
    edge: &'s Arc<Edge>,
    connection: &'s Arc<Connection>,
    metrics: Arc<TenantMetrics>,
    device: &'s mut D,
    broker: TcpStream,
    exchange: Exchange,
    up: Framer,
    down: Framer,
    /// Waits for the broker to take it.
    to_broker: Vec<u8>,
    /// Waits for the broker's current packet to end.
    replies: Vec<u8>,
    token: Option<PendingToken>,
    /// Largest packet that the device takes.
    max_packet: usize,
    device_ended: bool,
    /// The broker takes nothing more; what it has said may still be read.
    broker_deaf: bool,
    broker_ended: bool,
    /// A packet of the device's is held until it is whole.
    gathers: bool,
    bytes_up: u64,
    bytes_down: u64,
    /// The operator has been told of the first message on an own topic that was not taken.
    warned: bool,
}

impl<'s, D: Device> Session<'s, D> {
    pub fn new(
        edge: &'s Arc<Edge>,
        connection: &'s Arc<Connection>,
        metrics: Arc<TenantMetrics>,
        device: &'s mut D,
        broker: TcpStream,
        exchange: Exchange,
        max_packet: usize,
    ) -> Session<'s, D> {
        Session {
            edge,
            connection,
            metrics,
            device,
            broker,
            exchange,
            up: Framer::default(),
            down: Framer::default(),
            to_broker: Vec::new(),
            replies: Vec::new(),
            token: None,
            max_packet,
            device_ended: false,
            broker_deaf: false,
            broker_ended: false,
            gathers: false,
            bytes_up: 0,
            bytes_down: 0,
            warned: false,
        }
    }

    /// Whether a packet of the edge's own can stand where the stream to the device is now.
    pub fn may_insert(&self) -> bool {
        self.down.may_insert() && !self.exchange.device_done
    }

    /// Until one side ends, or the edge ends it. `early`: what the device has sent behind its
    /// CONNECT; `first`: what the broker has, from its CONNACK on.
    pub async fn run(&mut self, early: Vec<u8>, first: Vec<u8>) -> End {
        if let Err(end) = self.begin(&early, &first) {
            return end;
        }
        // Not held for the session's life.
        drop((early, first));
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn begin(&mut self, early: &[u8], first: &[u8]) -> Result<(), End> {
        self.take(first, &mut Vec::new())?;
        let out = &mut self.to_broker;
        let fed = self.up.feed(early, &mut self.exchange.upward(out, &mut self.replies));
        self.count_up(self.exchange.from_device, self.to_broker.len());
        self.hold_to_deadline();
        fed.map_err(|denied| {
            // What came before the bad packet is good. The socket is new: it takes this much.
            let _ = self.broker.try_write(&self.to_broker);
            End::Denied(denied)
        })
    }

    /// What the session has carried.
    pub fn tell(&self, log: &mut Log) {
        log.messages_from_device = self.exchange.from_device;
        log.messages_to_device = self.exchange.from_broker;
        log.tokens = self.exchange.answered;
        log.messages_not_taken = self.exchange.refused;
        log.bytes_from_device = self.bytes_up;
        log.bytes_to_device = self.bytes_down;
        log.device_ended = self.device_ended;
    }

    /// Lets the broker go. What it has sent and nobody reads would make the kernel reset the
    /// connection, and with it what the device has said last.
    pub fn close(self) {
        let mut unread = [0; 4096];
        for _ in 0..UNREAD_READS {
            if !matches!(self.broker.try_read(&mut unread), Ok(n) if n > 0) {
                break;
            }
        }
    }

    /// A packet that is gathered must be whole in time, or it would be held for ever.
    fn hold_to_deadline(&mut self) {
        let gathers = self.up.gathers();
        if gathers == self.gathers {
            return;
        }
        self.gathers = gathers;
        match gathers {
            true => {
                let limit = self.edge.generation().limits.mqtt_connect_timeout;
                self.connection.header_until(self.edge.connections.after(limit));
            }
            false => self.connection.packet_done(),
        }
    }

    fn count_up(&mut self, messages: u64, bytes: usize) {
        self.bytes_up += bytes as u64;
        self.metrics.mqtt_traffic(Direction::FromDevice, messages, bytes);
    }

    /// Bytes of the broker, on their way to the device.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), End> {
        out.clear();
        let before = self.exchange.from_broker;
        let fed = self.down.feed(bytes, &mut self.exchange.downward(out));
        let messages = self.exchange.from_broker - before;
        self.bytes_down += out.len() as u64;
        self.metrics.mqtt_traffic(Direction::ToDevice, messages, out.len());
        self.device.put(out).map_err(|_| End::Device(false))?;
        fed.map_err(|denied| {
            let reason = denied.refused.reason;
            End::Denied(Denied::live(Refused::new(Refusal::UpstreamUnavailable, reason)))
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.connection.poll_ended(cx) {
            None => {}
            Some(Ending::Refused(refused)) => {
                return Poll::Ready(End::Denied(Denied::live(refused.clone())));
            }
            Some(other) => return Poll::Ready(End::Released(other.clone())),
        }
        for _ in 0..ROUNDS {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One step in each direction; `true` where there may be more to do.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = self.poll_token(cx)?;
        progress |= self.read_device(cx)?;
        if let Some(reason) = self.exchange.refused_first.filter(|_| !self.warned) {
            self.warned = true;
            events::not_taken(self.connection, reason);
        }
        progress |= self.send_to_broker(cx)?;
        progress |= self.read_broker(cx)?;
        if self.down.may_insert() && !self.replies.is_empty() {
            let replies = std::mem::take(&mut self.replies);
            self.device.put(&replies).map_err(|_| End::Device(false))?;
            progress = true;
        }
        let was_full = self.is_full();
        let sent = match self.device.poll_send(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => return Err(End::Device(self.exchange.device_done)),
            Poll::Pending => false,
        };
        if self.broker_ended && sent {
            if self.exchange.device_done {
                // As it must: the device was the first to go.
                return Err(End::Device(true));
            }
            return Err(End::Broker(self.exchange.broker_done));
        }
        if self.device_ended && self.to_broker.is_empty() {
            return Err(End::Device(self.exchange.device_done));
        }
        // What was not read because of it has registered no wake-up.
        Ok(progress || (was_full && !self.is_full()))
    }

    /// So much waits for the device that nothing is done that would bring more.
    fn is_full(&self) -> bool {
        self.device.unsent() >= OUTBOX_BYTES || self.replies.len() >= REPLY_BYTES
    }

    fn read_device(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.device_ended || !self.to_broker.is_empty() || self.is_full() {
            return Ok(false);
        }
        BUFFERS.with_borrow_mut(|(input, out)| {
            let n = match self.device.poll_fill(cx, input) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(_)) | Poll::Ready(Ok(0)) => {
                    self.device_ended = true;
                    return Ok(true);
                }
                Poll::Ready(Ok(n)) => n,
            };
            out.clear();
            let before = self.exchange.from_device;
            let input = input.get(..n).unwrap_or_default();
            let fed = self.up.feed(input, &mut self.exchange.upward(out, &mut self.replies));
            let messages = self.exchange.from_device - before;
            self.count_up(messages, out.len());
            self.hold_to_deadline();
            let written = self.write(cx, out)?;
            self.to_broker.extend_from_slice(out.get(written..).unwrap_or_default());
            out.shrink_to(READ_BYTES);
            fed.map_err(End::Denied)?;
            Ok(true)
        })
    }

    fn send_to_broker(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.to_broker.is_empty() {
            return Ok(false);
        }
        let waiting = std::mem::take(&mut self.to_broker);
        let written = self.write(cx, &waiting)?;
        if written < waiting.len() {
            self.to_broker = waiting;
            self.to_broker.drain(..written);
            return Ok(false);
        }
        Ok(true)
    }

    /// Writes to the broker what it takes now.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, End> {
        if self.broker_deaf {
            return Ok(bytes.len());
        }
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.broker).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) if n > 0 => written += n,
                Poll::Ready(_) => {
                    self.broker_deaf = true;
                    return Ok(bytes.len());
                }
                Poll::Pending => break,
            }
        }
        Ok(written)
    }

    fn read_broker(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.broker_ended || self.device.unsent() >= OUTBOX_BYTES {
            return Ok(false);
        }
        BUFFERS.with_borrow_mut(|(input, out)| {
            let mut buf = ReadBuf::new(input);
            match Pin::new(&mut self.broker).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(_)) => {
                    self.broker_ended = true;
                    return Ok(true);
                }
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    self.broker_ended = true;
                    return Ok(true);
                }
                Poll::Ready(Ok(())) => {}
            }
            self.take(buf.filled(), out)?;
            out.shrink_to(READ_BYTES);
            Ok(true)
        })
    }

    /// Gets the token for the oldest request that waits for one.
    fn poll_token(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.token.is_none() {
            if !self.exchange.wants_token() || self.is_full() {
                return Ok(false);
            }
            let (edge, connection) = (self.edge.clone(), self.connection.clone());
            self.token = Some(Box::pin(requested_token(edge, connection)));
        }
        let Some(token) = &mut self.token else { return Ok(false) };
        let Poll::Ready(token) = token.as_mut().poll(cx) else { return Ok(false) };
        self.token = None;
        let refused = match token {
            Ok(token) if self.exchange.answer(&token, self.max_packet, &mut self.replies) => {
                return Ok(true);
            }
            Ok(_) => Refused::new(Refusal::TooLarge, "the token is larger than the device takes"),
            Err(refused) => {
                let code = match refused.refusal.mqtt_reason() {
                    NOT_AUTHORIZED => NOT_AUTHORIZED,
                    _ => IMPLEMENTATION_SPECIFIC,
                };
                self.exchange.refuse(code, &mut self.replies);
                refused
            }
        };
        self.metrics.token(TokenResult::Refused);
        events::token_refused(self.edge, self.connection, &refused);
        Ok(true)
    }
}
