//! A client of HTTP/2 that sends what it is told (RFC 9113), with HPACK of literals only
//! (RFC 7541), and reads frames.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use openssl::ssl::ErrorCode;

use crate::world::{Client, Connection};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

pub const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct H2 {
    pub connection: Connection,
    unread: Vec<u8>,
    next_stream: u32,
}

/// What came back on a stream.
#[derive(Debug, Default)]
pub struct Answer {
    /// 0: none.
    pub status: u16,
    pub body: Vec<u8>,
    pub reset: Option<u32>,
    /// How many header blocks: 2 with trailers.
    pub blocks: usize,
}

impl H2 {
    /// Connects and sends the preface. The edge's own settings empty no table, so that
    /// answers come with literals or static entries.
    pub fn connect(client: &Client) -> H2 {
        H2::with_settings(client, &[(HEADER_TABLE_SIZE, 0)])
    }

    pub fn with_settings(client: &Client, settings: &[(u16, u32)]) -> H2 {
        let connection = client.clone().alpn(b"\x02h2").connect().unwrap();
        assert_eq!(connection.tls.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
        let tcp = connection.tls.get_ref();
        tcp.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut h2 = H2 { connection, unread: Vec::new(), next_stream: 1 };
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat();
        h2.send(&bytes).unwrap();
        h2
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.tls.write_all(bytes)
    }

    /// The next id of a stream of ours.
    pub fn stream(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// Sends a request's header; returns its stream.
    pub fn request(&mut self, fields: &[(&str, &str)], end: bool) -> u32 {
        let stream = self.stream();
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(&frame(HEADERS, flags, stream, &block(fields))).unwrap();
        stream
    }

    /// A GET of acme, answered.
    pub fn get(&mut self, path: &str) -> Answer {
        let stream = self.request(&get(path), true);
        self.answer(stream)
    }

    /// Reads until the stream has ended or the connection has; acknowledges settings on the
    /// way and drops what is of other streams.
    pub fn answer(&mut self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        self.answers(&mut [(stream, &mut answer)]);
        answer
    }

    pub fn answers(&mut self, streams: &mut [(u32, &mut Answer)]) {
        let mut open = streams.len();
        while open > 0 {
            let Some(frame) = self.next(Duration::from_secs(10)) else { return };
            let ours = streams.iter_mut().find(|(stream, _)| *stream == frame.stream);
            let Some((_, answer)) = ours else { continue };
            match frame.kind {
                HEADERS => {
                    answer.blocks += 1;
                    if answer.blocks == 1 {
                        answer.status = status(&frame.payload);
                    }
                }
                DATA => {
                    answer.body.extend(&frame.payload);
                    self.give_window(frame.stream, frame.payload.len());
                }
                RST_STREAM => {
                    answer.reset = Some(u32_of(&frame.payload));
                    open -= 1;
                    continue;
                }
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                open -= 1;
            }
        }
    }

    /// The next frame that came in this time; `None` also where the connection has ended.
    pub fn next(&mut self, within: Duration) -> Option<Frame> {
        let end = Instant::now() + within;
        loop {
            if let Some(frame) = self.take() {
                if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                    let _ = self.send(&super::frames::frame(SETTINGS, ACK, 0, &[]));
                }
                return Some(frame);
            }
            let left = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
            if !self.fill(left) {
                return None;
            }
        }
    }

    /// Reads until the edge says goodbye; the error code of its GOAWAY, if there was one.
    pub fn goodbye(&mut self, within: Duration) -> Option<u32> {
        let end = Instant::now() + within;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let frame = self.next(left)?;
            if frame.kind == GOAWAY {
                return frame.payload.get(4..8).map(u32_of);
            }
        }
        None
    }

    /// Whether the edge ends the connection within this time.
    pub fn ends(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if !self.fill(left) {
                return Instant::now() < end;
            }
        }
        false
    }

    fn give_window(&mut self, stream: u32, bytes: usize) {
        if bytes > 0 {
            let increment = u32::try_from(bytes).unwrap().to_be_bytes();
            let _ = self.send(&frame(WINDOW_UPDATE, 0, 0, &increment));
            let _ = self.send(&frame(WINDOW_UPDATE, 0, stream, &increment));
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head = self.unread.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags, stream) = (head[3], head[4], u32_of(&head[5..9]) & 0x7fff_ffff);
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// Reads once; false where nothing came in this time or the connection has ended.
    fn fill(&mut self, within: Duration) -> bool {
        let tls = &mut self.connection.tls;
        tls.get_ref().set_read_timeout(Some(within)).unwrap();
        let mut chunk = [0; 16 * 1024];
        loop {
            match tls.ssl_read(&mut chunk) {
                Ok(n @ 1..) => {
                    self.unread.extend_from_slice(&chunk[..n]);
                    return true;
                }
                // A session ticket came, and no data with it.
                Err(error)
                    if error.code() == ErrorCode::WANT_READ && error.io_error().is_none() => {}
                _ => return false,
            }
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The fields of a GET of acme.
pub fn get(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "acme.example.com"), (":path", path)]
}

pub fn post(path: &str) -> [(&str, &str); 4] {
    let mut fields = get(path);
    fields[0].1 = "POST";
    fields
}

/// A header block of literals that are never indexed, without Huffman coding.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0x10);
        string(&mut out, name.as_bytes());
        string(&mut out, value.as_bytes());
    }
    out
}

/// A literal that enters the dynamic table; the latest has index 62.
pub fn indexed(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x40];
    string(&mut out, name.as_bytes());
    string(&mut out, value.as_bytes());
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        short @ 0..127 => out.push(short as u8),
        long => {
            out.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                out.push((rest % 128) as u8 | 0x80);
                rest /= 128;
            }
            out.push(rest as u8);
        }
    }
    out.extend(bytes);
}

/// The value of `:status`, which stands first: a static entry, or a literal whose name is one.
fn status(block: &[u8]) -> u16 {
    // Changes of the dynamic table's size come before.
    let block = block.iter().position(|b| b & 0xe0 != 0x20).map_or(&[][..], |at| &block[at..]);
    match block {
        [first @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        [0x08 | 0x18 | 0x48, length, rest @ ..] => {
            let value = &rest[..usize::from(length & 0x7f)];
            if length & 0x80 == 0 {
                return std::str::from_utf8(value).unwrap().parse().unwrap();
            }
            huffman_digits(value)
        }
        _ => panic!("not a status: {block:?}"),
    }
}

/// Digits in the code of RFC 7541 appendix B: 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0u16, |n, bit| n << 1 | u16::from(*bit));
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let short = number(&bits[at..at + 5]);
        let digit = if short < 3 { short } else { number(&bits[at..at + 6]) - 0b01_1001 + 3 };
        at += if short < 3 { 5 } else { 6 };
        value = value * 10 + digit;
    }
    value
}

pub fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
