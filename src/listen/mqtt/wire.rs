//! The small packets that the edge itself writes (MQTT 5.0 §3, MQTT 3.1.1 §3).

use super::codes::Version;
use super::frame::header;
use super::topics::ANSWER;

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xb0;
const DISCONNECT: u8 = 0xe0;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;
const REASON_STRING: u8 = 0x1f;

/// How the receipt of a message is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// QoS 1.
    Puback(u16),
    /// QoS 2, first half.
    Pubrec(u16),
    /// QoS 2, second half.
    Pubcomp(u16),
}

/// Appends a fixed header and the body.
fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    length(out, body.len());
    out.extend_from_slice(body);
}

/// A variable byte integer (§1.5.5).
fn length(out: &mut Vec<u8>, value: usize) {
    let mut rest = value;
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// The reason string as a property, where it is wanted.
fn reason_property(reason: Option<&str>) -> Vec<u8> {
    let mut properties = Vec::new();
    if let Some(reason) = reason {
        let mut property = vec![REASON_STRING];
        property.extend_from_slice(&(reason.len() as u16).to_be_bytes());
        property.extend_from_slice(reason.as_bytes());
        length(&mut properties, property.len());
        properties.extend_from_slice(&property);
    } else {
        properties.push(0);
    }
    properties
}

/// Refuses a connection. `code`: of the version.
pub fn connack(version: Version, code: u8, reason: Option<&str>) -> Vec<u8> {
    let mut body = vec![0, code];
    if version == Version::V5 {
        body.extend_from_slice(&reason_property(reason));
    }
    let mut out = Vec::new();
    packet(&mut out, CONNACK, &body);
    out
}

/// Ends a session. Version 5.0 only: earlier ones have no such packet from a server.
pub fn disconnect(code: u8, reason: Option<&str>) -> Vec<u8> {
    let mut body = vec![code];
    body.extend_from_slice(&reason_property(reason));
    let mut out = Vec::new();
    packet(&mut out, DISCONNECT, &body);
    out
}

/// `code`: 5.0 only; earlier versions have no way to say it.
pub fn receipt(out: &mut Vec<u8>, version: Version, receipt: Receipt, code: u8) {
    let (first, id) = match receipt {
        Receipt::Puback(id) => (PUBACK, id),
        Receipt::Pubrec(id) => (PUBREC, id),
        Receipt::Pubcomp(id) => (PUBCOMP, id),
    };
    let [high, low] = id.to_be_bytes();
    match (version, code) {
        (Version::V5, 1..) => packet(out, first, &[high, low, code]),
        _ => packet(out, first, &[high, low]),
    }
}

/// Answers a SUBSCRIBE. `properties`: of 5.0, their length in front.
pub fn suback(out: &mut Vec<u8>, id: u16, properties: &[u8], codes: &[u8]) {
    packet(out, SUBACK, &[&id.to_be_bytes(), properties, codes].concat());
}

/// Answers an UNSUBSCRIBE; before 5.0 there are no codes.
pub fn unsuback(out: &mut Vec<u8>, id: u16, properties: &[u8], codes: &[u8]) {
    packet(out, UNSUBACK, &[&id.to_be_bytes(), properties, codes].concat());
}

/// The message that brings a token: QoS 0, so that it takes no packet id from the broker's.
/// `subscriptions`: the identifiers of the subscriptions that it meets (MQTT 5.0 §3.3.2.3.8).
pub fn answer(out: &mut Vec<u8>, version: Version, subscriptions: &[u32], token: &str) {
    let mut body = Vec::with_capacity(token.len() + 32);
    body.extend_from_slice(&(ANSWER.len() as u16).to_be_bytes());
    body.extend_from_slice(ANSWER.as_bytes());
    if version == Version::V5 {
        let mut properties = Vec::new();
        for id in subscriptions {
            properties.push(SUBSCRIPTION_IDENTIFIER);
            length(&mut properties, *id as usize);
        }
        length(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    // The message id of the platform's token answers, as its clients expect it.
    body.extend_from_slice(b"71,");
    body.extend_from_slice(token.as_bytes());
    packet(out, PUBLISH, &body);
}

/// What an UNSUBACK or SUBACK of the broker holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Ack<'p> {
    pub id: u16,
    /// With their length in front; empty before 5.0.
    pub properties: &'p [u8],
    pub codes: &'p [u8],
}

/// Reads the body of a SUBACK or UNSUBACK.
pub fn ack(version: Version, body: &[u8]) -> Option<Ack<'_>> {
    let (id, rest) = body.split_first_chunk::<2>()?;
    let id = u16::from_be_bytes(*id);
    if version != Version::V5 {
        return Some(Ack { id, properties: &[], codes: rest });
    }
    let (size, length) = variable(rest)?;
    let (properties, codes) = rest.split_at_checked(size + length)?;
    Some(Ack { id, properties, codes })
}

/// A variable byte integer: how many bytes it takes, and its value. `None`: more to come, or
/// none at all.
pub fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((index + 1, value));
        }
    }
    None
}

/// A packet with a reason string, where that is wanted and the packet is then not larger than
/// the device takes (MQTT 5.0 §3.2.2.3.9, §3.14.2.2.3). `room`: 0 where it is not wanted.
pub fn fitting(room: usize, reason: &str, packet: impl Fn(Option<&str>) -> Vec<u8>) -> Vec<u8> {
    let whole = packet(Some(reason));
    if whole.len() <= room { whole } else { packet(None) }
}

/// Bytes that begin with a CONNACK of 5.0, with this Maximum Packet Size in it, or a smaller one
/// that stands there. `None` where its properties cannot be read.
pub fn connack_with_maximum(bytes: &[u8], maximum: usize) -> Option<Vec<u8>> {
    let header = header(bytes).ok()??;
    let (connack, rest) = bytes.split_at_checked(header.total())?;
    let (start, properties) = connack.get(header.size..)?.split_at_checked(2)?;
    let (size, bytes_of) = variable(properties)?;
    let properties = properties.get(size..size + bytes_of)?;
    let mut kept = Vec::with_capacity(properties.len() + 5);
    let mut maximum = u32::try_from(maximum).ok()?;
    let mut at = properties;
    while !at.is_empty() {
        let (property, next) = at.split_at_checked(property_size(at)?)?;
        match property.split_first() {
            Some((&MAXIMUM_PACKET_SIZE, value)) => {
                maximum = maximum.min(u32::from_be_bytes(value.try_into().ok()?));
            }
            _ => kept.extend_from_slice(property),
        }
        at = next;
    }
    kept.push(MAXIMUM_PACKET_SIZE);
    kept.extend_from_slice(&maximum.to_be_bytes());
    let mut body = start.to_vec();
    length(&mut body, kept.len());
    body.extend_from_slice(&kept);
    let mut out = Vec::with_capacity(bytes.len() + 8);
    packet(&mut out, CONNACK, &body);
    out.extend_from_slice(rest);
    Some(out)
}

/// Bytes of the property that `bytes` begin with: of those that a CONNACK has (MQTT 5.0
/// §3.2.2.3).
fn property_size(bytes: &[u8]) -> Option<usize> {
    let (kind, value) = bytes.split_first()?;
    let text = |value: &[u8]| {
        value.first_chunk::<2>().map(|length| 2 + usize::from(u16::from_be_bytes(*length)))
    };
    Some(
        1 + match kind {
            // Maximum QoS, Retain, Wildcard, Identifiers and Shared Subscription Available.
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            // Server Keep Alive, Receive Maximum, Topic Alias Maximum.
            0x13 | 0x21 | 0x22 => 2,
            // Session Expiry Interval, Maximum Packet Size.
            0x11 | 0x27 => 4,
            // Assigned Client Identifier, Authentication Method and Data, Response Information, Server
            // Reference, Reason String.
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text(value)?,
            // User Property.
            0x26 => {
                let name = text(value)?;
                name + text(value.get(name..)?)?
            }
            _ => return None,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_maximum_packet_size_stands_in_a_connack() {
        let with = |bytes: &[u8]| connack_with_maximum(bytes, 1 << 20).unwrap();
        let ours = [0x27, 0, 0x10, 0, 0];
        let expected = [&[0x20, 8, 0, 0, 5], &ours[..]].concat();
        assert_eq!(with(&[0x20, 3, 0, 0, 0]), expected);
        // A larger one of the broker's, among others, and a packet behind it.
        let broker =
            b"\x20\x13\x01\x00\x10\x22\x00\x0a\x27\x7f\xff\xff\xff\x26\x00\x01a\x00\x02bc\xd0\x00";
        let expected =
            [&b"\x20\x13\x01\x00\x10\x22\x00\x0a\x26\x00\x01a\x00\x02bc"[..], &ours, b"\xd0\x00"]
                .concat();
        assert_eq!(with(broker), expected);
        let smaller = [0x20, 8, 0, 0, 5, 0x27, 0, 0, 0x10, 0];
        assert_eq!(with(&smaller), smaller);
    }

    #[test]
    fn a_connack_that_cannot_be_read_stays_as_it_is() {
        for odd in [&[0x20, 2, 0, 0][..], &[0x20, 4, 0, 0, 1, 0x99], &[0x20, 4, 0, 0, 9, 0x27], &[]]
        {
            assert_eq!(connack_with_maximum(odd, 1 << 20), None, "{odd:x?}");
        }
    }
}
