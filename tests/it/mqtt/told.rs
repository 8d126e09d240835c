//! What the two sides of the edge are told, taken apart: CONNECT and CONNACK.

use crate::world::mqtt::{CONNACK, CONNECT, Hello, Packet, V5, read_varint};
use crate::world::{Client, Config};

/// A CONNECT as a broker gets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub level: u8,
    pub flags: u8,
    pub keep_alive: u16,
    /// Each with its identifier, in order of their bytes; of 5.0.
    pub properties: Vec<Vec<u8>>,
    pub client_id: String,
    /// Properties, topic, message.
    pub will: Option<(Vec<u8>, String, Vec<u8>)>,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
}

impl Told {
    #[track_caller]
    pub fn of(packet: &Packet) -> Told {
        assert_eq!(packet.first, CONNECT << 4, "{packet:?}");
        let mut rest = &packet.body[..];
        let name = take(&mut rest);
        let (level, flags) = (rest[0], rest[1]);
        let expected: &[u8] = if level == 3 { b"MQIsdp" } else { b"MQTT" };
        assert_eq!(name, expected);
        let keep_alive = u16::from_be_bytes([rest[2], rest[3]]);
        rest = &rest[4..];
        let mut properties = if level == V5 { split(&take_properties(&mut rest)) } else { vec![] };
        properties.sort();
        let client_id = String::from_utf8(take(&mut rest)).unwrap();
        let will = (flags & 0x04 != 0).then(|| {
            let properties = if level == V5 { take_properties(&mut rest) } else { vec![] };
            (properties, String::from_utf8(take(&mut rest)).unwrap(), take(&mut rest))
        });
        let user_name = (flags & 0x80 != 0).then(|| String::from_utf8(take(&mut rest)).unwrap());
        let password = (flags & 0x40 != 0).then(|| take(&mut rest));
        assert!(rest.is_empty(), "{packet:?}");
        Told { level, flags, keep_alive, properties, client_id, will, user_name, password }
    }

    /// Names and values, sorted.
    pub fn user_properties(&self) -> Vec<(String, String)> {
        let ours = self.properties.iter().filter(|property| property[0] == 0x26);
        let mut pairs: Vec<_> = ours
            .map(|property| {
                let mut rest = &property[1..];
                let name = String::from_utf8(take(&mut rest)).unwrap();
                (name, String::from_utf8(take(&mut rest)).unwrap())
            })
            .collect();
        pairs.sort();
        pairs
    }
}

/// A string or binary value, without its length.
fn take(rest: &mut &[u8]) -> Vec<u8> {
    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    let value = rest[2..2 + length].to_vec();
    *rest = &rest[2 + length..];
    value
}

fn take_properties(rest: &mut &[u8]) -> Vec<u8> {
    let (length, size) = read_varint(rest).unwrap();
    let properties = rest[size..size + length].to_vec();
    *rest = &rest[size + length..];
    properties
}

/// The properties of a CONNECT, one by one (MQTT 5.0 §2.2.2.2).
fn split(properties: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (properties, Vec::new());
    while let Some(kind) = rest.first() {
        let mut value = &rest[1..];
        match kind {
            0x11 | 0x27 => value = &value[4..],
            0x21 | 0x22 => value = &value[2..],
            0x17 | 0x19 => value = &value[1..],
            0x15 | 0x16 => drop(take(&mut value)),
            0x26 => drop((take(&mut value), take(&mut value))),
            other => panic!("no property of a CONNECT: {other:#x}"),
        }
        let (property, next) = rest.split_at(rest.len() - value.len());
        all.push(property.to_vec());
        rest = next;
    }
    all
}

/// A CONNACK that refuses: its code and, in 5.0, its reason string.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: u8,
    pub reason: Option<String>,
}

/// Sends a CONNECT that must be refused, after which the edge must close.
#[track_caller]
pub fn refused(client: &Client, hello: &Hello) -> Refused {
    let mut device = client.mqtt(hello.level);
    device.send(&hello.packet());
    let connack = device.receive();
    let told = of_connack(hello.level, &connack);
    assert_eq!(device.next(), None, "the edge closes after a refusal");
    told
}

#[track_caller]
pub fn of_connack(level: u8, packet: &Packet) -> Refused {
    assert_eq!((packet.first, packet.body[0]), (CONNACK << 4, 0), "{packet:?}");
    let code = packet.body[1];
    assert_ne!(code, 0, "{packet:?}");
    if level != V5 {
        assert_eq!(packet.body.len(), 2);
        return Refused { code, reason: None };
    }
    let mut rest = &packet.body[2..];
    let properties = take_properties(&mut rest);
    assert!(rest.is_empty());
    let reason = properties.split_first().map(|(kind, mut text)| {
        assert_eq!(*kind, 0x1f, "{packet:?}");
        let reason = take(&mut text);
        assert!(text.is_empty(), "{packet:?}");
        String::from_utf8(reason).unwrap()
    });
    Refused { code, reason }
}

/// What the edge says in each version: a return code of 3.1 and 3.1.1, a reason code of 5.0,
/// which comes with a reason.
#[track_caller]
pub fn is_refused(client: &Client, hello: &Hello, v3: u8, v5: u8) {
    let told = refused(client, hello);
    let expected = if hello.level == V5 { v5 } else { v3 };
    assert_eq!(told.code, expected, "{} {:?} {told:?}", hello.level, hello.client_id);
    assert_eq!(told.reason.is_some(), hello.level == V5, "{told:?}");
}

/// acme's devices may come without a certificate.
pub fn optional(config: &mut Config) {
    config.acme("client_certificate: optional");
}
