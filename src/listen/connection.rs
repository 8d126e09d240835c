//! Live connections: what is known of each, its deadlines, and the register that finds them.
//!
//! Deadlines are numbers that one sweep compares with the time, not timers of each
//! connection: a request costs a store or two, and an idle connection costs nothing. A
//! connection past its deadline has its socket shut down, which wakes whatever task waits
//! on it; the same way cuts connections at the end of a drain.

#![expect(unsafe_code, reason = "shuts down a socket that another value owns")]

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use atomic_waker::AtomicWaker;
use http::HeaderValue;

use crate::gate::ClientIdentity;
use crate::metrics::Protocol;
use crate::names::{DeviceId, ServerName};
use crate::refusal::Refused;
use crate::tenant::Tenant;
use crate::upstream::{BrokerForward, IdentityHeaders};

use super::peer_chain::PeerChain;

/// One device connection, from accept to close.
pub struct Connection {
    id: u64,
    protocol: Protocol,
    peer: OnceLock<SocketAddr>,
    socket: Mutex<Option<RawFd>>,
    started: Instant,
    read_deadline: AtomicU64,
    write_deadline: AtomicU64,
    end: AtomicU64,
    bodies: Mutex<Vec<u64>>,
    requests: AtomicU64,
    received: AtomicU64,
    /// Requests that are at the upstream.
    forwarding: AtomicUsize,
    /// Whether [`Connections::forwarding`] has told of what is there now.
    met: AtomicBool,
    cut: AtomicU8,
    /// Why what was under way was ended.
    ended: OnceLock<Ending>,
    /// A task that ends the connection itself when it is told to, and says why to the peer.
    task: OnceLock<Task>,
    established: OnceLock<Established>,
    judged: ArcSwapOption<Judged>,
    forwarded_for: OnceLock<Option<HeaderValue>>,
    upgrade: OnceLock<Upgrade>,
}

/// What a finished handshake leaves for the life of the connection.
pub struct Established {
    /// `None` where the client sent no SNI and the listener's default tenant serves it.
    pub server_name: Option<ServerName>,
    pub chain: PeerChain,
    pub asked_for_certificate: bool,
    /// Counts the tenant's connections; given back on close.
    pub tenant_count: Arc<AtomicUsize>,
}

/// Who the device is under one generation of the configuration.
pub struct Judged {
    pub generation: u64,
    pub tenant: Arc<Tenant>,
    pub identity: ClientIdentity,
    /// The forwarding headers of the identity, made with the first forwarded request.
    pub headers: OnceLock<IdentityHeaders>,
}

impl Judged {
    pub fn new(generation: u64, tenant: Arc<Tenant>, identity: ClientIdentity) -> Judged {
        Judged { generation, tenant, identity, headers: OnceLock::new() }
    }
}

/// A WebSocket for MQTT that was asked for and is granted.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The subprotocol.
    pub protocol: &'static str,
}

/// Why the edge shut a connection down by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    None = 0,
    /// The handshake, a header or a body was not complete in time.
    ReadDeadline = 1,
    /// The peer did not take what was sent to it.
    WriteDeadline = 2,
    /// No request within the idle time.
    Idle = 3,
    /// The drain has ended.
    Drained = 4,
    /// A refusal ended the connection.
    Refused = 5,
    /// A header went on past twice its limit.
    HeaderTooLarge = 6,
}

/// Why the edge ends what is under way.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It would be refused now.
    Refused(Refused),
    /// The edge stops.
    Drained,
    /// What the tenant's devices are connected to is another broker now.
    Moved,
}

/// For a task to end its connection in good order.
const ENDING: Duration = Duration::from_secs(2);

/// What ends a connection by itself.
struct Task {
    waker: AtomicWaker,
    terms: Terms,
}

/// What a session was let in by, and must stay so.
pub struct Terms {
    /// As the broker knows it; `None`: without a certificate.
    pub device: Option<DeviceId>,
    /// Without a certificate: the device that its client id would name, and that nobody was.
    pub named: Option<DeviceId>,
    pub broker: SocketAddr,
    pub forward: Arc<BrokerForward>,
}

/// A deadline in the register's milliseconds; 0 is none.
type Deadline = u64;

/// The highest bit of a read deadline marks an idle one, whose passing is no fault.
const IDLE: u64 = 1 << 63;

const SHARDS: usize = 16;

/// All live connections of the process.
pub struct Connections {
    shards: [Mutex<HashMap<u64, Arc<Connection>>>; SHARDS],
    next: AtomicU64,
    start: Instant,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections { shards: Default::default(), next: AtomicU64::new(1), start: Instant::now() }
    }
}

/// A connection in the register; dropping it takes the connection out, before its socket
/// closes.
pub struct Registered {
    connections: Arc<super::Edge>,
    connection: Arc<Connection>,
}

impl Connections {
    /// Enters a connection whose handshake must end within `handshake`.
    pub fn register(
        edge: &Arc<super::Edge>,
        protocol: Protocol,
        socket: &impl AsRawFd,
        handshake: Duration,
    ) -> Registered {
        let register = &edge.connections;
        let connection = Arc::new(Connection {
            id: register.next.fetch_add(1, Ordering::Relaxed),
            protocol,
            peer: OnceLock::new(),
            socket: Mutex::new(Some(socket.as_raw_fd())),
            started: Instant::now(),
            read_deadline: AtomicU64::new(register.after(handshake)),
            write_deadline: AtomicU64::new(0),
            end: AtomicU64::new(0),
            bodies: Mutex::default(),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            forwarding: AtomicUsize::new(0),
            met: AtomicBool::new(false),
            cut: AtomicU8::new(Cut::None as u8),
            ended: OnceLock::new(),
            task: OnceLock::new(),
            established: OnceLock::new(),
            judged: ArcSwapOption::empty(),
            forwarded_for: OnceLock::new(),
            upgrade: OnceLock::new(),
        });
        register.shard(connection.id).insert(connection.id, connection.clone());
        edge.metrics.connections(protocol).inc();
        Registered { connections: edge.clone(), connection }
    }

    /// Shuts down every connection that is past a deadline.
    pub fn sweep(&self) {
        let now = self.now();
        for shard in &self.shards {
            for connection in lock(shard).values() {
                connection.expire(now);
            }
        }
    }

    /// Connections that have something at the upstream: all, or those that came to it since this
    /// was asked for last.
    pub fn forwarding(&self, all: bool) -> Vec<Arc<Connection>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let busy = |c: &&Arc<Connection>| {
                c.forwarding.load(Ordering::Relaxed) > 0
                    && (!c.met.swap(true, Ordering::Relaxed) || all)
            };
            found.extend(lock(shard).values().filter(busy).cloned());
        }
        found
    }

    /// Ends a connection with what is under way on it. A task of its own gets time to do so in
    /// good order.
    pub fn end(&self, connection: &Connection, ending: Ending) {
        // Of several reasons the first counts.
        if connection.ended.set(ending).is_err() {
            return;
        }
        match connection.task.get() {
            Some(task) => {
                connection.end_at(self.after(ENDING));
                task.waker.wake();
            }
            None => connection.shut_down(Cut::Refused),
        }
    }

    /// Ends the part of the connections with a task of their own that is due when `done` of a
    /// drain has passed, 0 to 1: never all at once.
    pub fn end_due(&self, done: f64) {
        for shard in &self.shards {
            let due = |c: &&Arc<Connection>| c.task.get().is_some() && c.turn() <= done;
            let due: Vec<_> = lock(shard).values().filter(due).cloned().collect();
            for connection in due {
                self.end(&connection, Ending::Drained);
            }
        }
    }

    /// Shuts down every connection that waits between requests.
    pub fn cut_idle(&self) {
        for shard in &self.shards {
            for connection in lock(shard).values() {
                if connection.read_deadline.load(Ordering::Relaxed) & IDLE != 0 {
                    connection.shut_down(Cut::Drained);
                }
            }
        }
    }

    /// Shuts down every connection.
    pub fn cut_all(&self, cut: Cut) {
        for shard in &self.shards {
            for connection in lock(shard).values() {
                connection.shut_down(cut);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The deadline `duration` from now.
    pub fn after(&self, duration: Duration) -> Deadline {
        let ms = self.start.elapsed().saturating_add(duration).as_millis();
        u64::try_from(ms).unwrap_or(IDLE - 1).clamp(1, IDLE - 1)
    }

    fn now(&self) -> Deadline {
        self.after(Duration::ZERO)
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

impl Connection {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The device's address: the socket's, or the one that a trusted PROXY header gave.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.get().copied()
    }

    pub fn set_peer(&self, peer: SocketAddr) {
        // A second call would be a second PROXY header, which is never parsed.
        let _ = self.peer.set(peer);
    }

    /// Time since the connection was accepted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The peer's address as a header's value, made once.
    pub fn forwarded_for(&self, make: impl Fn() -> Option<HeaderValue>) -> Option<HeaderValue> {
        self.forwarded_for.get_or_init(make).clone()
    }

    pub fn established(&self) -> Option<&Established> {
        self.established.get()
    }

    pub fn set_established(&self, established: Established, judged: Judged) {
        self.read_deadline.store(0, Ordering::Relaxed);
        self.judged.store(Some(Arc::new(judged)));
        let _ = self.established.set(established);
    }

    pub fn judged(&self) -> Option<Arc<Judged>> {
        self.judged.load_full()
    }

    pub fn set_judged(&self, judged: Arc<Judged>) {
        self.judged.store(Some(judged));
    }

    pub fn cut(&self) -> Cut {
        match self.cut.load(Ordering::Acquire) {
            1 => Cut::ReadDeadline,
            2 => Cut::WriteDeadline,
            3 => Cut::Idle,
            4 => Cut::Drained,
            5 => Cut::Refused,
            6 => Cut::HeaderTooLarge,
            _ => Cut::None,
        }
    }

    /// No request is being read until `deadline`.
    pub fn idle_until(&self, deadline: Deadline) {
        self.read_deadline.store(deadline | IDLE, Ordering::Relaxed);
    }

    /// A request's header has begun and must be complete at `deadline`.
    pub fn header_until(&self, deadline: Deadline) {
        self.read_deadline.store(deadline, Ordering::Relaxed);
    }

    /// Of a session: nothing is owed.
    pub fn packet_done(&self) {
        self.read_deadline.store(0, Ordering::Relaxed);
    }

    /// Requests whose header was complete.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Counts bytes of plaintext from the device.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A header is complete; nothing is owed but the bodies that were announced.
    pub fn header_done(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let bodies = lock(&self.bodies);
        self.read_deadline.store(bodies.iter().copied().min().unwrap_or(0), Ordering::Relaxed);
    }

    /// A body must be complete at `deadline`. Of several on one connection the earliest
    /// counts.
    pub fn body_until(&self, deadline: Deadline) {
        let mut bodies = lock(&self.bodies);
        bodies.push(deadline);
        self.read_deadline.store(bodies.iter().copied().min().unwrap_or(0), Ordering::Relaxed);
    }

    /// The body that had `deadline` is complete, or no longer wanted.
    pub fn body_done(&self, deadline: Deadline) {
        let mut bodies = lock(&self.bodies);
        if let Some(index) = bodies.iter().position(|body| *body == deadline) {
            bodies.swap_remove(index);
        }
        self.read_deadline.store(bodies.iter().copied().min().unwrap_or(0), Ordering::Relaxed);
    }

    /// The connection ends at `deadline`, whatever is under way.
    pub fn end_at(&self, deadline: Deadline) {
        self.end.store(deadline, Ordering::Relaxed);
    }

    /// The peer is behind in taking what it was sent; 0 once it has caught up.
    pub fn write_until(&self, deadline: Deadline) {
        self.write_deadline.store(deadline, Ordering::Relaxed);
    }

    /// A request goes to the upstream; it is there until what this gives is dropped.
    pub fn forward(self: &Arc<Connection>) -> Forwarding {
        self.met.store(false, Ordering::Relaxed);
        self.forwarding.fetch_add(1, Ordering::Relaxed);
        Forwarding(self.clone())
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// No further request comes: the connection becomes a WebSocket.
    pub fn set_upgrade(&self, upgrade: Upgrade) {
        // A second one would be a second request, which is never read.
        let _ = self.upgrade.set(upgrade);
    }

    pub fn upgrade(&self) -> Option<&Upgrade> {
        self.upgrade.get()
    }

    /// From now on the connection is ended by its own task.
    pub fn has_task(&self, terms: Terms) {
        self.task.get_or_init(|| Task { waker: AtomicWaker::new(), terms });
    }

    /// Of a session: what it was let in by.
    pub fn terms(&self) -> Option<&Terms> {
        self.task.get().map(|task| &task.terms)
    }

    /// Why the connection is to end; else whoever polls is woken when it is to.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Option<&Ending> {
        if let Some(task) = self.task.get() {
            task.waker.register(cx.waker());
        }
        self.ended.get()
    }

    /// Why [`Connections::end`] was called.
    pub fn ended(&self) -> Option<&Ending> {
        self.ended.get()
    }

    /// Where in the order of a drain the connection stands, 0 to 1.
    fn turn(&self) -> f64 {
        // Neighbours are far apart (Knuth's multiplicative hash).
        let spread = (self.id as u32).wrapping_mul(2_654_435_769);
        f64::from(spread) / f64::from(u32::MAX)
    }

    /// Says why the connection ends, where nobody has said so yet; true if so.
    pub fn mark(&self, cut: Cut) -> bool {
        let none = Cut::None as u8;
        self.cut.compare_exchange(none, cut as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub fn shut_down(&self, cut: Cut) {
        let socket = lock(&self.socket);
        if let Some(fd) = *socket
            && self.mark(cut)
        {
            // SAFETY: the descriptor is open: `Registered` empties `socket` under this
            // lock before the stream that owns the descriptor closes it.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = socket2::SockRef::from(&fd).shutdown(Shutdown::Both);
        }
    }

    fn expire(&self, now: Deadline) {
        let read = self.read_deadline.load(Ordering::Relaxed);
        let write = self.write_deadline.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        if end != 0 && end <= now {
            self.shut_down(Cut::Refused);
        } else if read != 0 && read & !IDLE <= now {
            self.shut_down(if read & IDLE != 0 { Cut::Idle } else { Cut::ReadDeadline });
        } else if write != 0 && write <= now {
            self.shut_down(Cut::WriteDeadline);
        }
    }
}

/// A request that is at the upstream.
pub struct Forwarding(Arc<Connection>);

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.forwarding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registered {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.connection.socket).take();
        self.connections.connections.shard(self.connection.id).remove(&self.connection.id);
        self.connections.metrics.connections(self.connection.protocol).dec();
        if let Some(established) = self.connection.established.get() {
            established.tenant_count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A poisoned lock means a panic elsewhere; what it guards here is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
