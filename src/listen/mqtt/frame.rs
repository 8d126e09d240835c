//! Where one control packet ends and the next begins (MQTT 5.0 §2.1, MQTT 3.1.1 §2.2).
//!
//! A [`Framer`] is fed the bytes of one direction as they come. It reads no more of a packet
//! than its owner wants to see: most flow on as they are, whatever their size; the few that
//! the edge has a part in are gathered whole.

/// The bytes of the longest fixed header: a type and four of length.
pub const MAX_HEADER: usize = 5;

/// A fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Packet type and flags.
    pub first: u8,
    /// Bytes of the header itself.
    pub size: usize,
    /// Bytes that follow it.
    pub body: usize,
}

impl Header {
    /// Packet type, 1 to 14 where it is one.
    pub fn kind(self) -> u8 {
        self.first >> 4
    }

    pub fn total(self) -> usize {
        self.size + self.body
    }
}

/// A length that is not one: five bytes, or more than it needs (MQTT 5.0 §1.5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength;

/// Reads a fixed header from the start of `bytes`; `None` where there is more to come.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut body = 0;
    for (index, byte) in rest.iter().take(MAX_HEADER - 1).enumerate() {
        body |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if index > 0 && *byte == 0 {
                return Err(BadLength);
            }
            return Ok(Some(Header { first: *first, size: index + 2, body }));
        }
    }
    if rest.len() >= MAX_HEADER - 1 { Err(BadLength) } else { Ok(None) }
}

/// What the owner of a framer wants of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Let it flow on.
    Pass,
    /// The whole of it; nothing of it flows on by itself.
    Whole,
    /// To decide when more of it is there, up to this many bytes of its body.
    More(usize),
}

/// What a framer's owner does with the packets.
pub trait Packets {
    type Fault: From<BadLength>;

    /// Asked for each packet, with as much of its body as there is.
    fn want(&mut self, header: Header, body: &[u8]) -> Result<Want, Self::Fault>;

    /// Bytes that flow on: parts of packets, or several at once.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), Self::Fault>;

    /// A packet that was wanted whole, header and all.
    fn packet(&mut self, header: Header, packet: &[u8]) -> Result<(), Self::Fault>;
}

/// Finds the packets in one direction of a connection.
#[derive(Default)]
pub struct Framer {
    /// Bytes of the current packet that are still to flow on.
    passing: usize,
    /// The start of a packet that is not decided on, or not whole. Empty for most of the time,
    /// and bounded by what its owner wants to see.
    held: Vec<u8>,
}

impl Framer {
    /// The start of a packet is held.
    pub fn gathers(&self) -> bool {
        !self.held.is_empty()
    }

    /// No packet flows on at this moment: what is held has not been sent.
    pub fn may_insert(&self) -> bool {
        self.passing == 0
    }

    /// Bytes that are held.
    #[cfg(any(test, fuzzing))]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes the next bytes of the direction. After a fault the direction is dead.
    pub fn feed<P: Packets>(&mut self, bytes: &[u8], packets: &mut P) -> Result<(), P::Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.held.is_empty() {
                rest = self.scan(rest, packets)?;
            } else {
                rest = self.complete(rest, packets)?;
            }
        }
        Ok(())
    }

    /// Packets that begin in `bytes`. Neighbours that flow on do so in one piece.
    fn scan<'b, P: Packets>(
        &mut self,
        bytes: &'b [u8],
        packets: &mut P,
    ) -> Result<&'b [u8], P::Fault> {
        let mut at = self.passing.min(bytes.len());
        self.passing -= at;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let decided = match Self::decide(rest, packets) {
                Ok(Some((header, Want::Pass))) => {
                    let end = header.total().min(rest.len());
                    at += end;
                    self.passing = header.total() - end;
                    continue;
                }
                Ok(Some((header, Want::Whole))) if header.total() <= rest.len() => Some(header),
                Ok(_) => None,
                Err(fault) => {
                    // What came before flows on, however the stream was cut.
                    let before = bytes.get(..at).unwrap_or_default();
                    if !before.is_empty() {
                        packets.pass(before)?;
                    }
                    return Err(fault);
                }
            };
            // The end of what flows on.
            let (before, from) = bytes.split_at(at);
            if !before.is_empty() {
                packets.pass(before)?;
            }
            return match decided {
                Some(header) => {
                    let (packet, after) = from.split_at(header.total().min(from.len()));
                    packets.packet(header, packet)?;
                    Ok(after)
                }
                None => {
                    self.held.extend_from_slice(from);
                    Ok(&[])
                }
            };
        }
        packets.pass(bytes)?;
        Ok(&[])
    }

    /// What is wanted of the packet that begins here; `None`: its header is not all there.
    fn decide<P: Packets>(
        rest: &[u8],
        packets: &mut P,
    ) -> Result<Option<(Header, Want)>, P::Fault> {
        let Some(header) = header(rest)? else { return Ok(None) };
        let body = rest.get(header.size..header.total().min(rest.len())).unwrap_or_default();
        Ok(Some((header, packets.want(header, body)?)))
    }

    /// A packet whose start is held. Takes only what it needs of `bytes`.
    fn complete<'b, P: Packets>(
        &mut self,
        bytes: &'b [u8],
        packets: &mut P,
    ) -> Result<&'b [u8], P::Fault> {
        let mut rest = bytes;
        loop {
            let needed = match header(&self.held)? {
                None => self.held.len() + 1,
                Some(header) => {
                    let body = self.held.get(header.size..).unwrap_or_default();
                    match packets.want(header, body)? {
                        Want::Pass => {
                            self.passing = header.total().saturating_sub(self.held.len());
                            let held = std::mem::take(&mut self.held);
                            packets.pass(&held)?;
                            return Ok(rest);
                        }
                        Want::Whole if self.held.len() == header.total() => {
                            let held = std::mem::take(&mut self.held);
                            packets.packet(header, &held)?;
                            return Ok(rest);
                        }
                        Want::Whole => header.total(),
                        Want::More(body) => {
                            let wanted = (header.size + body).min(header.total());
                            // An owner that wants what it has would wait for ever.
                            wanted.max(self.held.len() + 1).min(header.total())
                        }
                    }
                }
            };
            if rest.is_empty() || needed <= self.held.len() {
                return Ok(rest);
            }
            let (now, later) = rest.split_at(rest.len().min(needed - self.held.len()));
            self.held.extend_from_slice(now);
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Bad;

    impl From<BadLength> for Bad {
        fn from(_: BadLength) -> Bad {
            Bad
        }
    }

    /// Wants every packet of type 8 whole, and of type 3 those whose body starts with `x`.
    #[derive(Default)]
    struct Seen {
        passed: Vec<u8>,
        whole: Vec<Vec<u8>>,
        pieces: usize,
    }

    impl Packets for Seen {
        type Fault = Bad;

        fn want(&mut self, header: Header, body: &[u8]) -> Result<Want, Bad> {
            Ok(match (header.kind(), body.first()) {
                (8, _) => Want::Whole,
                (3, Some(b'x')) => Want::Whole,
                (3, None) if header.body > 0 => Want::More(1),
                _ => Want::Pass,
            })
        }

        fn pass(&mut self, bytes: &[u8]) -> Result<(), Bad> {
            self.pieces += 1;
            self.passed.extend_from_slice(bytes);
            Ok(())
        }

        fn packet(&mut self, header: Header, packet: &[u8]) -> Result<(), Bad> {
            assert_eq!(header.total(), packet.len());
            self.whole.push(packet[header.size..].to_vec());
            Ok(())
        }
    }

    const STREAM: &[u8] =
        b"\xc0\x00\x30\x03abc\x82\x02su\x30\x01x\x30\x00\x82\x00\x32\x02yz\xc0\x00";

    #[test]
    fn packets_are_found_wherever_the_stream_is_cut() {
        for first in 0..=STREAM.len() {
            for second in first..=STREAM.len() {
                let mut seen = Seen::default();
                let mut framer = Framer::default();
                for part in [&STREAM[..first], &STREAM[first..second], &STREAM[second..]] {
                    framer.feed(part, &mut seen).unwrap();
                }
                assert!(framer.may_insert() && framer.held.is_empty());
                assert_eq!(seen.passed, b"\xc0\x00\x30\x03abc\x30\x00\x32\x02yz\xc0\x00");
                assert_eq!(seen.whole, [&b"su"[..], b"x", b""], "{first} {second}");
            }
        }
    }

    #[test]
    fn neighbours_that_flow_on_do_so_in_one_piece() {
        let mut seen = Seen::default();
        let mut framer = Framer::default();
        let many = b"\x30\x03abc".repeat(100);
        framer.feed(&many, &mut seen).unwrap();
        assert_eq!((seen.pieces, seen.passed), (1, many));
    }

    #[test]
    fn a_body_streams_and_is_not_held() {
        let mut seen = Seen::default();
        let mut framer = Framer::default();
        framer.feed(b"\x30\xff\xff\xff\x7fa", &mut seen).unwrap();
        assert!(!framer.may_insert());
        assert!(framer.held.is_empty());
        framer.feed(&[b'a'; 1000], &mut seen).unwrap();
        assert_eq!(framer.passing, 268_435_455 - 1001);
    }

    #[test]
    fn what_comes_before_a_fault_flows_on_wherever_the_stream_is_cut() {
        const BROKEN: &[u8] = b"\x30\x03abc\x82\x02su\xc0\x00\x30\xff\xff\xff\xff\xc0\x00";
        for cut in 0..=BROKEN.len() {
            let (mut seen, mut framer) = (Seen::default(), Framer::default());
            let (first, second) = BROKEN.split_at(cut);
            let fed = framer.feed(first, &mut seen).and_then(|()| framer.feed(second, &mut seen));
            assert_eq!(fed, Err(Bad));
            assert_eq!(seen.passed, b"\x30\x03abc\xc0\x00", "{cut}");
            assert_eq!(seen.whole, [b"su"], "{cut}");
        }
    }

    #[test]
    fn lengths_are_four_bytes_at_most_and_no_longer_than_needed() {
        assert_eq!(header(b"\x30\xff\xff\xff\xff"), Err(BadLength));
        assert_eq!(header(b"\x30\xff\xff\xff\xff\x01"), Err(BadLength));
        assert_eq!(header(b"\x30\x80\x00"), Err(BadLength));
        assert_eq!(header(b"\x30\xff\xff\xff"), Ok(None));
        assert_eq!(header(b""), Ok(None));
        assert_eq!(
            header(b"\x10\xff\xff\xff\x7f"),
            Ok(Some(Header { first: 0x10, size: 5, body: 268_435_455 }))
        );
        let mut seen = Seen::default();
        let mut framer = Framer::default();
        framer.feed(b"\x30\xff", &mut seen).unwrap();
        assert_eq!(framer.feed(b"\xff\xff\xff", &mut seen), Err(Bad));
    }
}
