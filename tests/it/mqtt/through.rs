//! What goes through: the same bytes as without the edge, and never more than it can pass on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::identity::VERSIONS;
use crate::world::mqtt::{
    Broker, DISCONNECT, Hello, Mosquitto, Mqtt, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet,
    V5, V311, message, publish,
};
use crate::world::{World, eventually};

const DEVICE: &str = "acme-device-1";
const MIB: usize = 1 << 20;
const RETAINED: usize = 100;
const RETAINED_BYTES: usize = 100_000;

/// Bytes that compress and repeat nowhere.
fn payload(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 * 2 + 1;
    std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// Publishes 10 MB of retained messages at QoS 2, straight at the broker.
fn retain(broker: &Mosquitto) {
    let mut platform = broker.session(&Hello::new(V311, "platform"));
    for n in 0..RETAINED {
        let id = u16::try_from(n + 1).unwrap();
        let mut packet = publish(V311, &format!("kept/{n}"), 2, id, &payload(n, RETAINED_BYTES));
        packet.first |= 1;
        platform.send(&packet);
        assert_eq!(platform.receive().kind(), PUBREC);
        platform.send(&Packet::new(PUBREL << 4 | 2, id.to_be_bytes()));
        assert_eq!(platform.receive().kind(), PUBCOMP);
    }
}

/// A client's whole session. What it sends follows from what it has received, so that two of
/// them differ only where the way between does.
struct Session<S> {
    mqtt: Mqtt<S>,
    received: Vec<Packet>,
}

impl<S: Read + Write> Session<S> {
    /// Receives and acknowledges until so many packets of a kind have come.
    fn until(&mut self, kind: u8, count: usize) {
        let mut seen = 0;
        while seen < count {
            let packet = self.mqtt.receive();
            let qos = packet.first >> 1 & 3;
            let id = || packet.body[..2].to_vec();
            match packet.kind() {
                PUBLISH if qos > 0 => {
                    let (_, id, _, _) = message(self.mqtt.level, &packet);
                    let receipt = if qos == 1 { PUBACK } else { PUBREC };
                    self.mqtt.send(&Packet::new(receipt << 4, id.to_be_bytes()));
                }
                PUBREC => self.mqtt.send(&Packet::new(PUBREL << 4 | 2, id())),
                PUBREL => self.mqtt.send(&Packet::new(PUBCOMP << 4, id())),
                _ => {}
            }
            seen += usize::from(packet.kind() == kind);
            self.received.push(packet);
        }
    }

    /// Everything that a device does, and everything that it is told.
    fn whole(mut self, hello: &Hello) -> Vec<Packet> {
        self.mqtt.send(&hello.packet());
        self.mqtt.subscribe(1, &[("kept/#", 2), ("up/#", 2)]);
        // The second halves of QoS 2: each message is through.
        self.until(PUBREL, RETAINED);
        for (n, qos) in [2, 1, 0, 2, 2, 1].into_iter().enumerate() {
            let id = if qos == 0 { 0 } else { u16::try_from(n + 10).unwrap() };
            self.mqtt.publish("up/x", qos, id, &payload(n, 200_000));
            // Its own message comes back.
            self.until(if qos == 2 { PUBREL } else { PUBLISH }, 1);
            if qos > 0 {
                self.mqtt.ping_after(&mut self.received);
            }
        }
        self.mqtt.unsubscribe(2, &["kept/#", "up/#"]);
        self.mqtt.ping_after(&mut self.received);
        self.mqtt.send(&Packet::new(DISCONNECT << 4, []));
        self.received.extend(self.mqtt.rest());
        self.received
    }
}

impl<S: Read + Write> Mqtt<S> {
    /// Takes everything up to the answer to a PINGREQ.
    fn ping_after(&mut self, received: &mut Vec<Packet>) {
        use crate::world::mqtt::{PINGREQ, PINGRESP};
        self.send(&Packet::new(PINGREQ << 4, []));
        loop {
            let packet = self.receive();
            let last = packet.kind() == PINGRESP;
            received.push(packet);
            if last {
                return;
            }
        }
    }
}

#[test]
fn a_session_through_the_edge_equals_one_straight_to_the_broker() {
    for level in VERSIONS {
        let straight = {
            let broker = Mosquitto::start();
            retain(&broker);
            let stream = TcpStream::connect(broker.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let session = Session { mqtt: Mqtt::new(stream, level), received: Vec::new() };
            // The client id that the other broker sees.
            session.whole(&Hello::new(level, "acme/acme-device-1"))
        };
        let broker = Mosquitto::start();
        retain(&broker);
        let world = World::with(|_, config| config.mqtt(broker.address(), ""));
        let session = Session { mqtt: world.acme_mqtt().mqtt(level), received: Vec::new() };
        let mut through = session.whole(&Hello::new(level, DEVICE));
        if level == V5 {
            // The one thing that the edge adds: the largest packet that it takes.
            let maximum = [0x27, 0x00, 0x10, 0x00, 0x00];
            let connack = &mut through[0].body;
            let at = connack.windows(5).position(|bytes| bytes == maximum).expect("a maximum");
            connack.drain(at..at + 5);
            connack[2] -= 5;
        }
        let bytes: usize = straight.iter().map(|packet| packet.body.len()).sum();
        assert!(bytes > RETAINED * RETAINED_BYTES, "{bytes}");
        assert_eq!(straight.len(), through.len());
        for (straight, through) in straight.iter().zip(&through) {
            assert!(straight == through, "{:02x} {:02x}", straight.first, through.first);
        }
    }
}

// ── Slow readers ────────────────────────────────────────────────────────────────────────────

const MESSAGES: usize = 1_024;
/// 64 MiB in all.
const MESSAGE_BYTES: usize = 64 * 1024;

/// The process's resident memory; the edge runs in this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Writes all messages on a thread of its own and counts those that were taken.
fn flood<S: Write + Send + 'static>(
    stream: S,
    level: u8,
) -> (Arc<AtomicUsize>, thread::JoinHandle<S>) {
    let taken: Arc<AtomicUsize> = Arc::default();
    let count = taken.clone();
    let writer = thread::spawn(move || {
        let mut stream = stream;
        for n in 0..MESSAGES {
            let mut payload = vec![b'x'; MESSAGE_BYTES];
            payload[..8].copy_from_slice(&(n as u64).to_be_bytes());
            stream.write_all(&publish(level, "flood", 0, 0, &payload).bytes()).unwrap();
            stream.flush().unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
        stream
    });
    (taken, writer)
}

/// Waits until nothing more is taken, for a second; tells how much was.
fn stalled(taken: &AtomicUsize) -> usize {
    let (mut last, mut since) = (0, Instant::now());
    eventually("the flood stalls", || {
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        last > 0 && since.elapsed() > Duration::from_secs(1)
    });
    last
}

/// Reads all messages and holds them against what was sent. Gives the most memory on the way:
/// a reader that never catches up must not make the edge keep what it has sent.
fn drained<S: Read + Write>(reader: &mut Mqtt<S>) -> usize {
    let mut most = 0;
    for n in 0..MESSAGES {
        most = most.max(resident());
        let (_, _, _, payload) = message(reader.level, &reader.receive());
        assert_eq!(payload[..8], (n as u64).to_be_bytes());
        assert_eq!(payload.len(), MESSAGE_BYTES);
    }
    most
}

#[test]
fn a_device_that_does_not_read_holds_up_its_broker_and_grows_nothing() {
    for level in [V311, V5] {
        let broker = Broker::start();
        let world = World::with(|_, config| config.mqtt(broker.address(), ""));
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, DEVICE).packet());
        let (side, _) = broker.session(level);
        device.receive();
        let before = resident();
        let (taken, writer) = flood(side.stream, level);
        let stalled = stalled(&taken);
        let grown = resident().saturating_sub(before);
        assert!(stalled < MESSAGES, "the broker was never held up");
        assert!(grown < 4 * MIB, "grown by {grown} bytes");
        let grown = drained(&mut device).saturating_sub(before);
        assert!(grown < 8 * MIB, "grown by {grown} bytes while the device caught up");
        drop(writer.join().unwrap());
    }
}

#[test]
fn a_broker_that_does_not_read_holds_up_its_device_and_grows_nothing() {
    for level in [V311, V5] {
        let broker = Broker::start();
        let world = World::with(|_, config| config.mqtt(broker.address(), ""));
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, DEVICE).packet());
        let (mut side, _) = broker.session(level);
        device.receive();
        let before = resident();
        let (taken, writer) = flood(device.stream, level);
        let stalled = stalled(&taken);
        let grown = resident().saturating_sub(before);
        assert!(stalled < MESSAGES, "the device was never held up");
        assert!(grown < 4 * MIB, "grown by {grown} bytes");
        let grown = drained(&mut side).saturating_sub(before);
        assert!(grown < 8 * MIB, "grown by {grown} bytes while the broker caught up");
        drop(writer.join().unwrap());
    }
}

#[test]
fn a_device_that_asks_for_tokens_and_reads_none_is_held_up_and_grows_nothing() {
    for level in [V311, V5] {
        let broker = Broker::start();
        let world = World::with(|_, config| config.mqtt(broker.address(), ""));
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, DEVICE).packet());
        let (_side, _) = broker.session(level);
        device.receive();
        // An answer is some fifty times as long as its request.
        let requests = publish(level, "s/uat", 0, 0, b"").bytes().repeat(8);
        let before = resident();
        let small = socket2::SockRef::from(device.stream.get_ref());
        small.set_recv_buffer_size(4 * 1024).unwrap();
        let stalled_after = Some(Duration::from_secs(1));
        device.stream.get_ref().set_write_timeout(stalled_after).unwrap();
        let mut sent = 0;
        while sent < 64 * MIB && device.stream.write_all(&requests).is_ok() {
            sent += requests.len();
        }
        let grown = resident().saturating_sub(before);
        assert!(sent < 64 * MIB, "the device was never held up");
        assert!(grown < 4 * MIB, "grown by {grown} bytes after {sent}");
    }
}
