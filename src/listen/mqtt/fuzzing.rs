//! What the fuzz targets of `tests/fuzz` and the random tests run: bytes of a peer in, and what
//! must hold whatever they are.

use super::codes::{Denied, Version};
use super::connect::Connect;
use super::exchange::Exchange;
use super::frame::{Framer, Header, header};
use super::topics::OwnTopic;
use super::wire;

/// Of one direction: the largest packet that is held whole, or a topic and the properties before
/// an alias is found, and their header.
const HELD: usize = 96 * 1024;
/// The edge's token in these sessions.
pub const TOKEN: &str = "head.claims.signature";

/// What becomes of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub to_broker: Vec<u8>,
    pub to_device: Vec<u8>,
    pub answers: usize,
    /// Messages each way, and those that were not taken.
    pub counted: [u64; 3],
    pub fault: Option<Denied>,
}

/// A session on both sides of the exchange.
struct Link {
    version: Version,
    max_answer: usize,
    exchange: Exchange,
    up: Framer,
    down: Framer,
    replies: Vec<u8>,
    outcome: Outcome,
}

/// A session as bytes: two that set it up, then segments, each with its side and length in front.
/// Holds it whole against itself in pieces.
pub fn session(data: &[u8]) -> Outcome {
    let Some(([setup, size], rest)) = data.split_first_chunk::<2>() else {
        return Outcome::default();
    };
    let mut segments = Vec::new();
    let mut rest = rest;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = u16::from_be_bytes(*length);
        let size = usize::from(length & 0x7fff).min(after.len());
        let (segment, after) = after.split_at(size);
        segments.push((length & 0x8000 != 0, segment));
        rest = after;
    }
    let size = usize::from(*size).max(1);
    let whole = run(*setup, &segments, |segment| vec![segment]);
    let pieces = run(*setup, &segments, |segment| segment.chunks(size).collect());
    assert_eq!(whole, pieces, "a stream means what it means however it is cut");
    whole
}

/// Runs segments, each in the pieces that `cut` makes of it. `setup`: the version, then a bit each
/// for no tokens, AUTH, a small limit, a device that takes no token.
pub fn run<'s>(
    setup: u8,
    segments: &[(bool, &'s [u8])],
    mut cut: impl FnMut(&'s [u8]) -> Vec<&'s [u8]>,
) -> Outcome {
    let mut link = Link::new(setup);
    for (broker, segment) in segments {
        for piece in cut(segment) {
            if let Err(denied) = link.feed(*broker, piece) {
                link.outcome.fault = Some(denied);
                break;
            }
        }
        link.settle();
        if link.outcome.fault.is_some() {
            break;
        }
    }
    no_own_topics(link.version, &link.outcome.to_broker);
    let exchange = &link.exchange;
    link.outcome.counted = [exchange.from_device, exchange.from_broker, exchange.refused];
    link.outcome
}

/// The form that [`session`] takes; `true`: the broker's.
pub fn segments(setup: u8, size: u8, parts: &[(bool, &[u8])]) -> Vec<u8> {
    let mut data = vec![setup, size];
    for (broker, bytes) in parts {
        for piece in bytes.chunks(0x7fff) {
            let side = if *broker { 0x8000 } else { 0 };
            data.extend_from_slice(&(piece.len() as u16 | side).to_be_bytes());
            data.extend_from_slice(piece);
        }
    }
    data
}

/// A first packet. What the broker reads is what was judged.
pub fn connect(data: &[u8]) {
    let Ok(Some(header)) = header(data) else { return };
    let Some(packet) = data.get(..header.total()) else { return };
    let Ok(read) = Connect::read(header, packet) else { return };
    let seen = judged(&read);
    let Ok(written) = read.write() else { return };
    let again = super::frame::header(&written).ok().flatten();
    let again = again.and_then(|header| Connect::read(header, &written).ok());
    assert_eq!(again.as_ref().map(judged), Some(seen), "a CONNECT changes on its way");
}

/// All that is read of a CONNECT.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    version: Version,
    names: [Option<String>; 3],
    password: Option<Vec<u8>>,
    authenticates: bool,
    max_packet: usize,
    wants_reasons: bool,
}

fn judged(connect: &Connect) -> Seen {
    let names = [Some(connect.client_id()), connect.user_name(), connect.will_topic()];
    Seen {
        version: connect.version(),
        names: names.map(|name| name.map(str::to_owned)),
        password: connect.password().map(<[u8]>::to_vec),
        authenticates: connect.authenticates(),
        max_packet: connect.max_packet(),
        wants_reasons: connect.wants_reasons(),
    }
}

impl Link {
    fn new(setup: u8) -> Link {
        let version = match setup & 3 {
            0 => Version::V31,
            1 => Version::V311,
            _ => Version::V5,
        };
        let limit = if setup & 16 == 0 { 1 << 20 } else { 256 };
        Link {
            version,
            max_answer: if setup & 32 == 0 { usize::MAX } else { 16 },
            exchange: Exchange::new(version, setup & 4 == 0, setup & 8 != 0, limit),
            up: Framer::default(),
            down: Framer::default(),
            replies: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    fn feed(&mut self, broker: bool, bytes: &[u8]) -> Result<(), Denied> {
        let fed = if broker {
            let mut downward = self.exchange.downward(&mut self.outcome.to_device);
            self.down.feed(bytes, &mut downward)
        } else {
            let to_broker = &mut self.outcome.to_broker;
            self.up.feed(bytes, &mut self.exchange.upward(to_broker, &mut self.replies))
        };
        assert!(self.up.held() <= HELD && self.down.held() <= HELD, "too much is held");
        fed
    }

    /// What a session does between two reads.
    fn settle(&mut self) {
        while self.exchange.wants_token() {
            let answered = self.exchange.answer(TOKEN, self.max_answer, &mut self.replies);
            self.outcome.answers += usize::from(answered);
        }
        if self.down.may_insert() {
            self.outcome.to_device.append(&mut self.replies);
        }
    }
}

/// Reads what the broker was sent as a broker does, as far as it goes.
fn no_own_topics(version: Version, stream: &[u8]) {
    let mut rest = stream;
    while let Ok(Some(header)) = header(rest) {
        let body = rest.get(header.size..header.total().min(rest.len())).unwrap_or_default();
        let own = texts(version, header, body).iter().any(|text| match header.kind() {
            3 => OwnTopic::of(text).is_some(),
            _ => std::str::from_utf8(text).is_ok_and(|text| OwnTopic::of_filter(text).is_some()),
        });
        assert!(!own, "a topic of the edge's reaches the broker");
        rest = rest.get(header.total()..).unwrap_or_default();
    }
}

/// The topic of a message, or the filters of a subscription.
fn texts(version: Version, header: Header, body: &[u8]) -> Vec<&[u8]> {
    let mut texts = Vec::new();
    let mut rest = body;
    let options = match header.kind() {
        3 => return text(body).map(|(topic, _)| topic).into_iter().collect(),
        8 => 1,
        10 => 0,
        _ => return texts,
    };
    rest = rest.get(2..).unwrap_or_default();
    if version == Version::V5
        && let Some((size, length)) = wire::variable(rest)
    {
        rest = rest.get(size + length..).unwrap_or_default();
    }
    while let Some((filter, after)) = text(rest) {
        texts.push(filter);
        rest = after.get(options..).unwrap_or_default();
    }
    texts
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
