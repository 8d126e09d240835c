//! MQTT in a WebSocket (MQTT 5.0 §6): the payloads of binary frames are MQTT's bytes, wherever
//! frames and packets begin and end.
//!
//! Frames are taken apart in the buffer that they are read into. Of what a device sends, a session
//! keeps the start of a header and of a control frame at most, 14 and 125 bytes: a frame may
//! announce what it likes.

use std::io::{self, Cursor};
use std::task::{Context, Poll, ready};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::refusal::Refusal;

use super::super::connection::{Ending, Upgrade};
use super::super::stream::DeviceStream;
use super::super::transport::OUTBOX_BYTES;
use super::super::upgrade;
use super::codes::{Denied, PACKET_TOO_LARGE, PROTOCOL_ERROR};
use super::end::End;
use super::session::Device;

/// The longest header of a frame: two bytes, a length of eight, a mask.
const MAX_HEADER: usize = 14;
/// The longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: u64 = 125;
/// Reads of one wake that bring nothing of MQTT's.
const ROUNDS: usize = 16;

/// A device's WebSocket.
pub struct WebSocket {
    stream: Box<DeviceStream>,
    frames: Frames,
    /// A close frame is sent: nothing follows it.
    closing: bool,
}

impl WebSocket {
    /// Answers the opening. `message`: bytes of the longest message that is taken.
    pub fn open(stream: Box<DeviceStream>, upgrade: &Upgrade, message: usize) -> WebSocket {
        let mut stream = stream;
        // A TLS session that can write no more is found by the next read.
        let _ = stream.encrypt(upgrade::answer(upgrade).as_bytes());
        let limit = u64::try_from(message).unwrap_or(u64::MAX);
        WebSocket { stream, frames: Frames::new(limit), closing: false }
    }

    fn send(&mut self, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        let header = FrameHeader { is_final: true, opcode, mask: None, ..FrameHeader::default() };
        let length = payload.len() as u64;
        let mut frame = Vec::with_capacity(header.len(length) + payload.len());
        header.format(length, &mut frame).map_err(io::Error::other)?;
        frame.extend_from_slice(payload);
        self.stream.encrypt(&frame)
    }

    /// Says what control frames call for. Of pings only the last one is answered where several came
    /// together, or the device does not take what is sent to it (RFC 6455 §5.5.3).
    fn answer(&mut self) -> io::Result<()> {
        if self.closing {
            return Ok(());
        }
        if self.stream.unsent() < OUTBOX_BYTES
            && let Some(ping) = self.frames.ping.take()
        {
            self.send(OpCode::Control(Control::Pong), &ping)?;
        }
        match self.frames.end {
            Some(Over::Closed(code)) => self.close(code),
            Some(Over::Broken(code, _)) => self.close(Some(code)),
            None => Ok(()),
        }
    }

    fn close(&mut self, code: Option<CloseCode>) -> io::Result<()> {
        self.closing = true;
        let code = code.map(|code| u16::from(code).to_be_bytes());
        let payload = code.as_ref().map_or(&[][..], |code| code);
        self.send(OpCode::Control(Control::Close), payload)
    }
}

impl Device for WebSocket {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        for _ in 0..ROUNDS {
            if self.frames.end.is_some() {
                return Poll::Ready(Ok(0));
            }
            let n = ready!(self.stream.poll_fill(cx, buf))?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
            let taken = self.frames.take(buf.get_mut(..n).unwrap_or_default());
            self.answer()?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.closing {
            return Ok(());
        }
        self.send(OpCode::Data(Data::Binary), bytes)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_send(cx))?;
        if self.frames.ping.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.answer()?;
        self.stream.poll_send(cx)
    }

    fn unsent(&self) -> usize {
        self.stream.unsent()
    }

    fn stream(&mut self) -> &mut DeviceStream {
        &mut self.stream
    }

    const TRANSPORT: &'static str = "websocket";

    fn fault(&self) -> Option<Denied> {
        match self.frames.end {
            Some(Over::Broken(CloseCode::Size, reason)) => {
                Some(Denied::packet(PACKET_TOO_LARGE, reason))
            }
            Some(Over::Broken(_, reason)) => Some(Denied::packet(PROTOCOL_ERROR, reason)),
            _ => None,
        }
    }

    fn end(&mut self, why: &End) {
        let code = match why {
            End::Device(_) | End::Broker(_) => CloseCode::Normal,
            End::Released(Ending::Refused(_)) => CloseCode::Policy,
            End::Released(_) => CloseCode::Away,
            End::Denied(denied) => match denied.refused.refusal {
                Refusal::TooLarge => CloseCode::Size,
                Refusal::ProtocolError => CloseCode::Protocol,
                // It may try later.
                refusal if refusal.mqtt_return() == 3 => CloseCode::Again,
                _ => CloseCode::Policy,
            },
        };
        if !self.closing {
            // A device that is gone cannot be told.
            let _ = self.close(Some(code));
        }
    }
}

/// Why no more frames are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The device closed; the answer has its code, if it gave one.
    Closed(Option<CloseCode>),
    /// The device broke the rules: what it is told, and what the log is.
    Broken(CloseCode, &'static str),
}

/// Takes frames of a client apart (RFC 6455 §5).
struct Frames {
    /// The start of a header that is not whole.
    header: [u8; MAX_HEADER],
    held: usize,
    /// Of the current frame: what is still to come, how it is masked, and what it is.
    left: u64,
    mask: [u8; 4],
    opcode: OpCode,
    /// Of the current message: what was announced of it, and whether more fragments come.
    announced: u64,
    fragmented: bool,
    /// Bytes of the longest message.
    limit: u64,
    /// What has come of a control frame.
    control: Vec<u8>,
    /// The last ping that is not answered.
    ping: Option<Vec<u8>>,
    end: Option<Over>,
}

impl Frames {
    fn new(limit: u64) -> Frames {
        Frames {
            header: [0; MAX_HEADER],
            held: 0,
            left: 0,
            mask: [0; 4],
            opcode: OpCode::Data(Data::Continue),
            announced: 0,
            fragmented: false,
            limit,
            control: Vec::new(),
            ping: None,
            end: None,
        }
    }

    /// Takes the next bytes. What of them is MQTT's stands at their front afterwards; gives how
    /// many these are.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut taken) = (0, 0);
        while from < bytes.len() && self.end.is_none() {
            if self.left == 0 {
                from += self.read_header(bytes.get(from..).unwrap_or_default());
                continue;
            }
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - from);
            let payload = bytes.get_mut(from..from + n).unwrap_or_default();
            unmask(payload, self.mask);
            self.mask.rotate_left(n % 4);
            if matches!(self.opcode, OpCode::Control(_)) {
                self.control.extend_from_slice(payload);
            } else {
                bytes.copy_within(from..from + n, taken);
                taken += n;
            }
            from += n;
            self.left -= n as u64;
            if self.left == 0 {
                self.frame_done();
            }
        }
        taken
    }

    /// Reads the next header as far as `bytes` have it; gives how many of them it took.
    fn read_header(&mut self, bytes: &[u8]) -> usize {
        let room = self.header.get_mut(self.held..).unwrap_or_default();
        let more = room.len().min(bytes.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        let mut cursor = Cursor::new(self.header.get(..self.held + more).unwrap_or_default());
        match FrameHeader::parse(&mut cursor) {
            Ok(None) => {
                self.held += more;
                more
            }
            Ok(Some((header, length))) => {
                let size = usize::try_from(cursor.position()).unwrap_or(MAX_HEADER);
                let took = size.saturating_sub(self.held);
                self.held = 0;
                match self.begin(&header, length, size) {
                    Err(broken) => self.end = Some(broken),
                    Ok(()) if length == 0 => self.frame_done(),
                    Ok(()) => {}
                }
                took
            }
            Err(_) => {
                self.end = Some(Over::Broken(CloseCode::Protocol, "a frame of no known type"));
                more
            }
        }
    }

    fn begin(&mut self, header: &FrameHeader, length: u64, size: usize) -> Result<(), Over> {
        let broken = |reason| Err(Over::Broken(CloseCode::Protocol, reason));
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return broken("a frame of an extension that was not agreed on");
        }
        let Some(mask) = header.mask else { return broken("a frame that is not masked") };
        if size != header.len(length) {
            return broken("a frame whose length takes more bytes than it needs");
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final || length > MAX_CONTROL => {
                return broken("a control frame that is fragmented or too long");
            }
            OpCode::Control(_) => {}
            OpCode::Data(Data::Text) => {
                // MQTT 5.0 [MQTT-6.0.0-1].
                return Err(Over::Broken(CloseCode::Unsupported, "a text frame"));
            }
            OpCode::Data(Data::Continue) if !self.fragmented => {
                return broken("a continuation of nothing");
            }
            OpCode::Data(Data::Continue) => self.announced = self.announced.saturating_add(length),
            OpCode::Data(_) if self.fragmented => {
                return broken("a message in the middle of another");
            }
            OpCode::Data(_) => self.announced = length,
        }
        if let OpCode::Data(_) = header.opcode {
            if self.announced > self.limit {
                let reason = "a WebSocket message larger than limits.mqtt_packet_bytes";
                return Err(Over::Broken(CloseCode::Size, reason));
            }
            self.fragmented = !header.is_final;
        }
        (self.opcode, self.left, self.mask) = (header.opcode, length, mask);
        Ok(())
    }

    fn frame_done(&mut self) {
        let OpCode::Control(control) = self.opcode else { return };
        let payload = std::mem::take(&mut self.control);
        match control {
            Control::Ping => self.ping = Some(payload),
            Control::Close => self.end = Some(closed(&payload)),
            _ => {}
        }
    }
}

/// How a close frame is answered (RFC 6455 §5.5.1 and §7.4).
fn closed(payload: &[u8]) -> Over {
    match payload {
        [] => Over::Closed(None),
        [high, low, reason @ ..] => {
            let code = CloseCode::from(u16::from_be_bytes([*high, *low]));
            if code.is_allowed() && str::from_utf8(reason).is_ok() {
                Over::Closed(Some(code))
            } else {
                Over::Broken(CloseCode::Protocol, "a close frame without a code that is one")
            }
        }
        [_] => Over::Broken(CloseCode::Protocol, "a close frame without a code that is one"),
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = bytes.as_chunks_mut::<4>();
    let wide = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A frame whose first byte is `first`.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            n @ 0..126 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 126);
                frame.extend((n as u16).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    /// What comes of bytes that arrive in pieces that end where `cuts` say.
    fn taken(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Frames) {
        let mut frames = Frames::new(1_000);
        let (mut all, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            let mut piece = bytes[at..cut].to_vec();
            at = cut;
            let n = frames.take(&mut piece);
            all.extend_from_slice(&piece[..n]);
        }
        (all, frames)
    }

    fn broken(bytes: &[u8]) -> CloseCode {
        match taken(bytes, &[]).1.end {
            Some(Over::Broken(code, _)) => code,
            other => panic!("{other:?}: {bytes:?}"),
        }
    }

    #[test]
    fn payloads_are_one_stream_wherever_the_frames_are_cut() {
        let long = vec![7; 200];
        let bytes = [
            frame(0x82, b"one"),
            frame(0x02, b"tw"),
            frame(0x89, b"ping"),
            frame(0x00, b""),
            frame(0x80, b"o"),
            frame(0x82, &long),
            frame(0x8a, b"unasked"),
            frame(0x82, b"end"),
        ]
        .concat();
        let want = [b"onetwo", &long[..], b"end"].concat();
        for first in 0..=bytes.len() {
            for second in [first, (first + 1).min(bytes.len()), bytes.len()] {
                let (all, frames) = taken(&bytes, &[first, second]);
                assert_eq!(all, want, "{first} {second}");
                assert_eq!(frames.ping.as_deref(), Some(&b"ping"[..]));
                assert!(frames.end.is_none() && frames.control.is_empty());
            }
        }
    }

    #[test]
    fn a_frame_is_not_held_however_long_it_says_it_is() {
        let mut frames = Frames::new(u64::MAX);
        let mut header = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
        assert_eq!(frames.take(&mut header), 0);
        for _ in 0..100 {
            assert_eq!(frames.take(&mut [0; 1_000]), 1_000);
        }
        assert_eq!(frames.control.capacity(), 0);
    }

    #[test]
    fn what_breaks_the_rules_of_frames_ends_them() {
        let size = CloseCode::Size;
        assert_eq!(broken(&frame(0x81, b"text")), CloseCode::Unsupported);
        assert_eq!(broken(b"\x82\x01x"), CloseCode::Protocol);
        assert_eq!(broken(&frame(0xc2, b"")), CloseCode::Protocol);
        assert_eq!(broken(&frame(0x83, b"")), CloseCode::Protocol);
        assert_eq!(broken(&frame(0x8b, b"")), CloseCode::Protocol);
        assert_eq!(broken(&frame(0x80, b"")), CloseCode::Protocol);
        assert_eq!(broken(&[frame(0x02, b"a"), frame(0x82, b"b")].concat()), CloseCode::Protocol);
        assert_eq!(broken(&frame(0x09, b"")), CloseCode::Protocol);
        assert_eq!(broken(&frame(0x89, &[0; 126])), CloseCode::Protocol);
        assert_eq!(broken(&[&b"\x82\xfe\x00\x05"[..], &MASK].concat()), CloseCode::Protocol);
        assert_eq!(broken(&frame(0x82, &[0; 1_001])), size);
        assert_eq!(broken(&[frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat()), size);
        assert_eq!(
            broken(&[&b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], &MASK].concat()),
            size
        );
        for close in [&b"x"[..], &1005_u16.to_be_bytes(), b"\x03\xe8\xff"] {
            assert_eq!(broken(&frame(0x88, close)), CloseCode::Protocol);
        }
    }

    #[test]
    fn bytes_of_no_meaning_are_frames_or_their_end() {
        // Xorshift: the same bytes each time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut ended = 0;
        for _ in 0..20_000 {
            let mut frames = Frames::new(random() % 300);
            for _ in 0..8 {
                let length = (random() % 40) as usize;
                let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
                // Most begin as a frame does.
                if let [first, second, ..] = &mut bytes[..]
                    && random() % 4 > 0
                {
                    (*first, *second) = (0x80 | *first & 0x0a, 0x80 | *second & 0x1f);
                }
                assert!(frames.take(&mut bytes) <= length);
                assert!(frames.control.len() <= 125 && frames.held < MAX_HEADER);
            }
            ended += usize::from(frames.end.is_some());
        }
        assert!(ended > 1_000 && ended < 20_000, "{ended}");
    }

    #[test]
    fn nothing_behind_a_close_frame_is_read() {
        let bytes = [frame(0x82, b"a"), frame(0x88, b"\x03\xe8bye"), frame(0x82, b"b")].concat();
        let (all, frames) = taken(&bytes, &[]);
        assert_eq!((all, frames.end), (b"a".to_vec(), Some(Over::Closed(Some(CloseCode::Normal)))));
    }
}
