//! A WebSocket client, frame by frame. Nothing here shares code with the edge.

use std::io::{self, Read, Write};

use super::mqtt::{CONNACK, Hello, Mqtt};
use super::{Client, Connection, Response};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// Of a frame's first byte: the last fragment.
pub const FIN: u8 = 0x80;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The header lines of an opening, the subprotocol aside.
pub const OPENING: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A request for a WebSocket.
pub fn opening(path: &str, host: &str, lines: &[&str]) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

/// The request of a good client of MQTT.
pub fn mqtt_opening(host: &str) -> Vec<u8> {
    opening("/mqtt", host, &[&OPENING[..], &["Sec-WebSocket-Protocol: mqtt"]].concat())
}

/// A frame as a client sends it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The header of a masked frame that announces so many bytes.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..=125), _) => header.push(0x80 | length),
        (_, Ok(length)) => {
            header.push(0x80 | 126);
            header.extend(length.to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header.extend(MASK);
    header
}

/// An open WebSocket. Each write is a binary frame; what is read are the payloads of binary
/// frames.
pub struct WebSocket {
    connection: Connection,
    raw: Vec<u8>,
    payload: Vec<u8>,
    /// Frames other than binary ones, in their order: opcode and payload.
    pub others: Vec<(u8, Vec<u8>)>,
}

impl Client {
    /// The edge's answer to a request for a WebSocket.
    #[track_caller]
    pub fn ask_websocket(&self, request: &[u8]) -> (Response, Connection) {
        let mut connection = self.connect().unwrap();
        let response = connection.exchange(request).unwrap();
        (response, connection)
    }

    /// A WebSocket for MQTT.
    #[track_caller]
    pub fn websocket(&self, level: u8) -> Mqtt<WebSocket> {
        let (response, connection) = self.ask_websocket(&mqtt_opening("acme.example.com"));
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(response.header("sec-websocket-protocol"), Some("mqtt"));
        assert_eq!(response.header("sec-websocket-extensions"), None);
        Mqtt::new(WebSocket::new(connection), level)
    }

    /// The whole way to a CONNACK, which must be a success.
    #[track_caller]
    pub fn websocket_session(&self, hello: &Hello) -> Mqtt<WebSocket> {
        let mut device = self.websocket(hello.level);
        device.send(&hello.packet());
        let connack = device.receive();
        assert_eq!((connack.kind(), connack.body[1]), (CONNACK, 0), "{connack:?}");
        device
    }
}

impl WebSocket {
    fn new(connection: Connection) -> WebSocket {
        WebSocket { connection, raw: Vec::new(), payload: Vec::new(), others: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.connection.send(bytes).unwrap();
    }

    #[track_caller]
    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    /// Reads until a frame of this opcode, which is no data; gives its payload.
    #[track_caller]
    pub fn receive(&mut self, opcode: u8) -> Vec<u8> {
        loop {
            if let Some(at) = self.others.iter().position(|(kind, _)| *kind == opcode) {
                return self.others.remove(at).1;
            }
            assert!(self.advance(), "the connection ended without {opcode:#x}: {:?}", self.others);
        }
    }

    /// The code of the edge's close frame, behind which nothing may come.
    #[track_caller]
    pub fn close_code(&mut self) -> u16 {
        let payload = self.receive(CLOSE);
        let before = self.payload.len();
        while self.advance() {}
        assert!(self.payload.len() == before && self.others.is_empty(), "{:?}", self.others);
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// Reads something; false at the end of the connection.
    fn advance(&mut self) -> bool {
        while !self.parse() {
            match self.connection.read_some() {
                Ok(bytes) => self.raw.extend(bytes),
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes a frame from what was read; a server sends none that is masked or a fragment.
    fn parse(&mut self) -> bool {
        let [first, short, rest @ ..] = &self.raw[..] else { return false };
        let (size, length) = match (short, rest) {
            (0..=125, _) => (2, u64::from(*short)),
            (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
            }
            (126 | 127, _) => return false,
            _ => panic!("a masked frame of a server"),
        };
        let end = size + usize::try_from(length).unwrap();
        if self.raw.len() < end {
            return false;
        }
        assert_eq!(first & 0xf0, FIN, "a fragment, or a bit of an extension");
        let opcode = first & 0x0f;
        let payload = self.raw[size..end].to_vec();
        self.raw.drain(..end);
        match opcode {
            BINARY => {
                assert!(!payload.is_empty(), "an empty frame");
                self.payload.extend(payload);
            }
            opcode => self.others.push((opcode, payload)),
        }
        true
    }
}

impl Read for WebSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.payload.is_empty() {
            if self.others.iter().any(|(opcode, _)| *opcode == CLOSE) || !self.advance() {
                return Ok(0);
            }
        }
        let n = self.payload.len().min(buf.len());
        buf[..n].copy_from_slice(&self.payload[..n]);
        self.payload.drain(..n);
        Ok(n)
    }
}

impl Write for WebSocket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.frame(FIN | BINARY, buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
