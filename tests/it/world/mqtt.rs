//! MQTT on both sides of the edge, packet by packet and byte by byte: a device over TLS, a
//! broker that does as the test says, and mosquitto. Nothing here shares code with the edge.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Client, Connection, eventually};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The protocol's level in a CONNECT.
pub const V31: u8 = 3;
pub const V311: u8 = 4;
pub const V5: u8 = 5;

pub const CONNECT: u8 = 1;
pub const CONNACK: u8 = 2;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;
pub const SUBSCRIBE: u8 = 8;
pub const SUBACK: u8 = 9;
pub const UNSUBSCRIBE: u8 = 10;
pub const UNSUBACK: u8 = 11;
pub const PINGREQ: u8 = 12;
pub const PINGRESP: u8 = 13;
pub const DISCONNECT: u8 = 14;
pub const AUTH: u8 = 15;

/// A control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Packet {
    pub fn new(first: u8, body: impl Into<Vec<u8>>) -> Packet {
        Packet { first, body: body.into() }
    }

    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.first];
        out.extend(varint(self.body.len()));
        out.extend(&self.body);
        out
    }
}

pub fn varint(value: usize) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), value);
    loop {
        let byte = u8::try_from(rest % 128).unwrap();
        rest /= 128;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            return out;
        }
    }
}

/// A string or binary value with its length in front.
pub fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut out = u16::try_from(value.len()).unwrap().to_be_bytes().to_vec();
    out.extend(value);
    out
}

/// Properties of MQTT 5.0 with their length in front.
pub fn properties(properties: &[u8]) -> Vec<u8> {
    [varint(properties.len()), properties.to_vec()].concat()
}

pub fn user_property(name: &str, value: &str) -> Vec<u8> {
    [vec![0x26], text(name), text(value)].concat()
}

/// A CONNECT to be filled in.
#[derive(Clone)]
pub struct Hello {
    pub level: u8,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive: u16,
    /// Of MQTT 5.0, without their length.
    pub properties: Vec<u8>,
    /// Topic and message, QoS 0, not retained.
    pub will: Option<(String, Vec<u8>)>,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
}

impl Hello {
    pub fn new(level: u8, client_id: &str) -> Hello {
        Hello {
            level,
            client_id: client_id.into(),
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            user_name: None,
            password: None,
        }
    }

    pub fn credentials(mut self, user_name: &str, password: &str) -> Hello {
        self.user_name = Some(user_name.into());
        self.password = Some(password.into());
        self
    }

    pub fn packet(&self) -> Packet {
        let name = if self.level == V31 { "MQIsdp" } else { "MQTT" };
        let flags = u8::from(self.clean) << 1
            | u8::from(self.will.is_some()) << 2
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.user_name.is_some()) << 7;
        let mut body = [text(name), vec![self.level, flags]].concat();
        body.extend(self.keep_alive.to_be_bytes());
        if self.level == V5 {
            body.extend(properties(&self.properties));
        }
        body.extend(text(&self.client_id));
        if let Some((topic, message)) = &self.will {
            if self.level == V5 {
                body.push(0);
            }
            body.extend(text(topic));
            body.extend(text(message));
        }
        body.extend(self.user_name.iter().flat_map(text));
        body.extend(self.password.iter().flat_map(text));
        Packet::new(CONNECT << 4, body)
    }
}

/// Packets over any byte stream.
pub struct Mqtt<S> {
    pub stream: S,
    pub level: u8,
    unread: Vec<u8>,
}

/// A device over TLS.
pub type DeviceSide = Mqtt<openssl::ssl::SslStream<TcpStream>>;
/// A broker over TCP.
pub type BrokerSide = Mqtt<TcpStream>;

impl Client {
    /// The TLS handshake alone.
    pub fn mqtt(&self, level: u8) -> DeviceSide {
        let connection: Connection = self.connect().unwrap();
        Mqtt::new(connection.tls, level)
    }

    /// The whole way to a CONNACK, which must be a success.
    #[track_caller]
    pub fn mqtt_session(&self, hello: &Hello) -> DeviceSide {
        let mut device = self.mqtt(hello.level);
        device.send(&hello.packet());
        let connack = device.receive();
        assert_eq!((connack.kind(), connack.body[1]), (CONNACK, 0), "{connack:?}");
        device
    }
}

impl<S: Read + Write> Mqtt<S> {
    pub fn new(stream: S, level: u8) -> Mqtt<S> {
        Mqtt { stream, level, unread: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, packet: &Packet) {
        self.write(&packet.bytes());
    }

    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next packet; fails the test where the connection ends.
    #[track_caller]
    pub fn receive(&mut self) -> Packet {
        self.next().expect("a packet and not the end of the connection")
    }

    /// The next packet of this type; those before it are dropped.
    #[track_caller]
    pub fn receive_kind(&mut self, kind: u8) -> Packet {
        loop {
            let packet = self.receive();
            if packet.kind() == kind {
                return packet;
            }
        }
    }

    /// The next packet; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some((packet, size)) = parse(&self.unread) {
                self.unread.drain(..size);
                return Some(packet);
            }
            let mut buf = [0; 16 * 1024];
            match self.stream.read(&mut buf) {
                Ok(n) if n > 0 => self.unread.extend(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return None,
            }
        }
    }

    /// Everything until the connection ends.
    pub fn rest(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// QoS and packet id: 0 is none.
    pub fn publish(&mut self, topic: &str, qos: u8, id: u16, payload: &[u8]) {
        self.send(&publish(self.level, topic, qos, id, payload));
    }

    /// Filters with QoS 1, or the options given.
    pub fn subscribe(&mut self, id: u16, filters: &[(&str, u8)]) {
        let mut body = id.to_be_bytes().to_vec();
        if self.level == V5 {
            body.push(0);
        }
        for (filter, options) in filters {
            body.extend(text(filter));
            body.push(*options);
        }
        self.send(&Packet::new(SUBSCRIBE << 4 | 2, body));
    }

    pub fn unsubscribe(&mut self, id: u16, filters: &[&str]) {
        let mut body = id.to_be_bytes().to_vec();
        if self.level == V5 {
            body.push(0);
        }
        body.extend(filters.iter().flat_map(text));
        self.send(&Packet::new(UNSUBSCRIBE << 4 | 2, body));
    }

    /// Asks and waits for the answer: whatever was sent before has arrived.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&Packet::new(PINGREQ << 4, []));
        let answer = self.receive();
        assert_eq!(answer.kind(), PINGRESP, "{answer:?}");
    }
}

pub fn publish(level: u8, topic: &str, qos: u8, id: u16, payload: &[u8]) -> Packet {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if level == V5 {
        body.push(0);
    }
    body.extend(payload);
    Packet::new(PUBLISH << 4 | qos << 1, body)
}

/// Topic, packet id (0 at QoS 0), properties without their length, and payload.
pub fn message(level: u8, packet: &Packet) -> (String, u16, Vec<u8>, Vec<u8>) {
    assert_eq!(packet.kind(), PUBLISH, "{packet:?}");
    let length = usize::from(u16::from_be_bytes([packet.body[0], packet.body[1]]));
    let topic = String::from_utf8(packet.body[2..2 + length].to_vec()).unwrap();
    let mut rest = &packet.body[2 + length..];
    let mut id = 0;
    if packet.first & 0x06 != 0 {
        id = u16::from_be_bytes([rest[0], rest[1]]);
        rest = &rest[2..];
    }
    let mut props = Vec::new();
    if level == V5 {
        let (length, size) = read_varint(rest).unwrap();
        props = rest[size..size + length].to_vec();
        rest = &rest[size + length..];
    }
    (topic, id, props, rest.to_vec())
}

pub fn read_varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn parse(bytes: &[u8]) -> Option<(Packet, usize)> {
    let (length, size) = read_varint(bytes.get(1..)?)?;
    let end = 1 + size + length;
    let body = bytes.get(1 + size..end)?;
    Some((Packet::new(bytes[0], body), end))
}

/// A broker that does as the test says.
pub struct Broker {
    listener: TcpListener,
}

impl Broker {
    pub fn start() -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Broker { listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection that sends something: health checks only connect.
    #[track_caller]
    pub fn accept(&self, level: u8) -> BrokerSide {
        let mut speaks = None;
        eventually("somebody speaks to the broker", || {
            let Ok((stream, _)) = self.listener.accept() else { return false };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.set_nodelay(true).unwrap();
            if stream.peek(&mut [0]).is_ok_and(|n| n > 0) {
                speaks = Some(stream);
            }
            speaks.is_some()
        });
        Mqtt::new(speaks.unwrap(), level)
    }

    /// The next session: its CONNECT, answered with success.
    #[track_caller]
    pub fn session(&self, level: u8) -> (BrokerSide, Packet) {
        let mut broker = self.accept(level);
        let connect = broker.receive();
        assert_eq!(connect.kind(), CONNECT, "{connect:?}");
        broker.accept_session();
        (broker, connect)
    }
}

impl BrokerSide {
    pub fn accept_session(&mut self) {
        let body: &[u8] = if self.level == V5 { &[0, 0, 0] } else { &[0, 0] };
        self.send(&Packet::new(CONNACK << 4, body));
    }

    /// What has been sent to the broker and not read, now that the device is through: reads
    /// until a PINGREQ, which it answers.
    #[track_caller]
    pub fn until_ping(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let packet = self.receive();
            if packet.kind() == PINGREQ {
                self.send(&Packet::new(PINGRESP << 4, []));
                return packets;
            }
            packets.push(packet);
        }
    }
}

/// mosquitto, from Debian's package. Killed when it is dropped.
pub struct Mosquitto {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Mosquitto {
    pub fn start() -> Mosquitto {
        Mosquitto::with("")
    }

    /// Further lines of its configuration.
    pub fn with(lines: &str) -> Mosquitto {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Mosquitto::at(free, lines)
    }

    /// The same on an address: a broker that comes back.
    pub fn at(address: SocketAddr, lines: &str) -> Mosquitto {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("mosquitto.conf");
        let port = address.port();
        let user = "user root\nallow_anonymous true\nmax_queued_messages 100000";
        let conf = format!("listener {port} 127.0.0.1\n{user}\n{lines}\n");
        std::fs::write(&file, conf).unwrap();
        let child = Command::new("mosquitto")
            .args(["-c".as_ref(), file.as_os_str()])
            .env("PATH", path())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("mosquitto (Debian: mosquitto) runs; `make test` installs it");
        eventually("mosquitto listens", || TcpStream::connect(address).is_ok());
        Mosquitto { child, address, _dir: dir }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client without the edge between.
    pub fn session(&self, hello: &Hello) -> BrokerSide {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Mqtt::new(stream, hello.level);
        client.send(&hello.packet());
        let connack = client.receive();
        assert_eq!((connack.kind(), connack.body[1]), (CONNACK, 0), "{connack:?}");
        client
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian keeps mosquitto where only root's path leads.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
