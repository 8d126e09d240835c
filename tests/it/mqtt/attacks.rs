//! Devices that break the protocol: the version's own code where it has one, an end where it
//! has none, and nothing of it at the broker.

use std::io::Write;
use std::time::{Duration, Instant};

use super::pair::{Pair, VERSIONS, message_with, over_https, token, until_closed, world};
use crate::world::mqtt::{
    Broker, CONNACK, CONNECT, DISCONNECT, DeviceSide, Hello, PINGREQ, PINGRESP, PUBACK, PUBLISH,
    Packet, SUBACK, SUBSCRIBE, V5, V31, V311, message, properties, text, user_property, varint,
};
use crate::world::{World, eventually};

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOO_LARGE: u8 = 0x95;
const QUOTA_EXCEEDED: u8 = 0x97;

/// Ends a session by these bytes. In 5.0 the device is told `code`; earlier versions have no
/// word for it.
#[track_caller]
fn ends_a_session(world: &World, broker: &Broker, level: u8, bytes: &[u8], code: u8) {
    let mut pair = Pair::open(world, broker, level);
    let before = message_with(level, 0, "up/x", 0, &[], b"before");
    pair.device.write(&[&before.bytes(), bytes].concat());
    let told = until_closed(&mut pair.device);
    if level == V5 {
        assert_eq!(told.len(), 1, "{bytes:?}");
        assert_eq!((told[0].kind(), told[0].body[0]), (DISCONNECT, code), "{bytes:?}");
    } else {
        assert_eq!(told, [], "{bytes:?}");
    }
    assert_eq!(pair.broker.rest(), [before], "{bytes:?}");
}

/// What a first packet gets that is none.
#[track_caller]
fn first(world: &World, level: u8, bytes: &[u8]) -> Vec<Packet> {
    let mut device = world.acme_mqtt().mqtt(level);
    device.write(bytes);
    until_closed(&mut device)
}

fn connect(body: &[&[u8]]) -> Vec<u8> {
    Packet::new(CONNECT << 4, body.concat()).bytes()
}

#[test]
fn a_second_connect_ends_the_session() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let second = Hello::new(level, "acme-device-1").packet().bytes();
        ends_a_session(&world, &broker, level, &second, PROTOCOL_ERROR);
        // Nor does a CONNECT without a body, or one of another client, come through.
        ends_a_session(&world, &broker, level, &[CONNECT << 4, 0], PROTOCOL_ERROR);
    }
}

#[test]
fn a_packet_that_no_client_sends_ends_the_session() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        for kind in [0, CONNACK, SUBACK, 11, PINGRESP, 15] {
            let packet = Packet::new(kind << 4, [0, 1]).bytes();
            ends_a_session(&world, &broker, level, &packet, PROTOCOL_ERROR);
        }
    }
}

#[test]
fn reserved_flags_qos_3_and_messages_without_a_topic_end_the_session() {
    let (world, broker) = world(|_| {});
    for level in [V311, V5] {
        for broken in [
            &b"\x41\x02\x00\x01"[..],
            b"\x58\x02\x00\x01",
            b"\x60\x02\x00\x01",
            b"\x6a\x02\x00\x01",
            b"\x72\x02\x00\x01",
            b"\x80\x06\x00\x01\x00\x01a\x00",
            b"\xa0\x05\x00\x01\x00\x01a",
            b"\xc1\x00",
            b"\xe1\x00",
            // QoS 3; no topic; a topic that is longer than its packet; no place for the id.
            b"\x36\x06\x00\x01a\x00\x01x",
            b"\x30\x00",
            b"\x30\x01\x00",
            b"\x30\x05\x00\x09abc",
            b"\x32\x06\x00\x03abc\x00",
        ] {
            ends_a_session(&world, &broker, level, broken, MALFORMED);
        }
    }
    // 5.0 has empty topics, for aliases; whether they are set is the broker's to judge.
    for level in [V31, V311] {
        ends_a_session(&world, &broker, level, b"\x30\x03\x00\x00x", PROTOCOL_ERROR);
    }
    let mut pair = Pair::open(&world, &broker, V5);
    pair.device.write(b"\x30\x03\x00\x00\x00");
    assert_eq!(pair.told(0).broker, [Packet::new(0x30, *b"\x00\x00\x00")]);
}

#[test]
fn lengths_of_five_bytes_or_more_bytes_than_needed_end_the_session() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        for broken in [
            &b"\x30\xff\xff\xff\xff\x01"[..],
            b"\x30\x80\x80\x80\x80",
            b"\xc0\x80\x00",
            b"\x82\xff\x00",
        ] {
            ends_a_session(&world, &broker, level, broken, MALFORMED);
        }
    }
}

#[test]
fn subscriptions_that_are_malformed_end_the_session() {
    let (world, broker) = world(|_| {});
    for level in [V311, V5] {
        let p: &[u8] = if level == V5 { &[0] } else { &[] };
        for body in [
            // No id; id 0; no filter; a filter longer than the packet; one that is no UTF-8.
            [&[][..], &[], &[]],
            [&[0, 0], p, b"\x00\x05s/dat\x00"],
            [&[0, 1], p, b""],
            [&[0, 1], p, b"\x00\x09s/dat\x00"],
            [&[0, 1], p, b"\x00\x02\xff\xfe\x00"],
            [&[0, 1], p, b"\x00\x05s/dat"],
        ] {
            let packet = Packet::new(SUBSCRIBE << 4 | 2, body.concat()).bytes();
            ends_a_session(&world, &broker, level, &packet, MALFORMED);
        }
    }
}

#[test]
fn what_is_no_connect_is_closed_without_a_word_and_without_the_broker() {
    let (world, broker) = world(|_| {});
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n"[..],
        b"\x00",
        b"\xc0\x00",
        b"\x30\x08\x00\x05s/uat7",
        b"\xf0\x02\x18\x00",
        // Flags of the CONNECT; five bytes of length; more than needed; no protocol.
        b"\x11\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        b"\x10\xff\xff\xff\xff\x01",
        b"\x10\x8e\x00\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id",
        b"\x10\x00",
        b"\x10\x0e\x00\x04HTTP\x04\x02\x00\x3c\x00\x02id",
        b"\x10\x0e\x00\x04mqtt\x04\x02\x00\x3c\x00\x02id",
    ] {
        assert_eq!(first(&world, V311, bytes), [], "{bytes:?}");
    }
    // The next thing that the broker hears of is a good session.
    Pair::open(&world, &broker, V311);
}

#[test]
fn versions_that_there_are_not_are_told_so() {
    let (world, broker) = world(|_| {});
    let hello = |start: &[u8]| connect(&[start, b"\x02\x00\x3c\x00\x00\x02id"]);
    for (start, level, code) in [
        (&b"\x00\x04MQTT\x06"[..], V5, 0x84),
        (b"\x00\x04MQTT\x7f", V5, 0x84),
        (b"\x00\x04MQTT\x03", V311, 1),
        (b"\x00\x04MQTT\x00", V311, 1),
        (b"\x00\x04MQTT\x84", V311, 1),
        (b"\x00\x06MQIsdp\x05", V311, 1),
    ] {
        let told = first(&world, level, &hello(start));
        assert_eq!(told.len(), 1, "{start:?}");
        assert_eq!((told[0].kind(), &told[0].body[..2]), (CONNACK, &[0, code][..]), "{start:?}");
        assert_eq!(told[0].body.len() > 2, level == V5);
    }
    Pair::open(&world, &broker, V311);
}

#[test]
fn a_connect_that_breaks_the_rules_is_told_in_5_and_closed_before() {
    let (world, broker) = world(|_| {});
    let v5 = |props: &[u8], rest: &[u8]| {
        connect(&[b"\x00\x04MQTT\x05\x02\x00\x3c", &properties(props), rest])
    };
    let id = &text("acme-device-1")[..];
    for (bytes, code) in [
        // Receive maximum 0; a property twice; a property of other packets; AUTH data alone.
        (v5(b"\x21\x00\x00", id), PROTOCOL_ERROR),
        (v5(b"\x21\x00\x05\x21\x00\x05", id), PROTOCOL_ERROR),
        (v5(b"\x27\x00\x00\x00\x00", id), PROTOCOL_ERROR),
        (v5(b"\x23\x00\x05", id), PROTOCOL_ERROR),
        (v5(b"\x16\x00\x01x", id), PROTOCOL_ERROR),
        // Texts that are none, and that end behind the packet.
        (v5(b"", b"\x00\x02\xff\xfe"), MALFORMED),
        (v5(b"", b"\x00\x02a\0"), MALFORMED),
        (v5(&user_property("a\0", "b"), id), MALFORMED),
        (v5(b"", b"\x00\xffacme"), MALFORMED),
        (v5(b"\x26\x00\xffa", id), MALFORMED),
        (connect(&[b"\x00\x04MQTT\x05\x03\x00\x3c\x00", id]), MALFORMED),
        (connect(&[b"\x00\x04MQTT\x05\x22\x00\x3c\x00", id]), MALFORMED),
    ] {
        let told = first(&world, V5, &bytes);
        assert_eq!(told.len(), 1, "{bytes:?}");
        assert_eq!((told[0].kind(), &told[0].body[..2]), (CONNACK, &[0, code][..]), "{bytes:?}");
    }
    for rest in [
        &b"\x02\x00\x3c\x00\x02\xff\xfe"[..],
        b"\x02\x00\x3c\x00\x02a\0",
        b"\x03\x00\x3c\x00\x02id",
        b"\x22\x00\x3c\x00\x02id",
        b"\x02\x00\x3c\x00\xffid",
        b"\x82\x00\x3c\x00\x02id",
        b"",
    ] {
        assert_eq!(first(&world, V311, &connect(&[b"\x00\x04MQTT\x04", rest])), [], "{rest:?}");
        assert_eq!(first(&world, V31, &connect(&[b"\x00\x06MQIsdp\x03", rest])), [], "{rest:?}");
    }
    Pair::open(&world, &broker, V5);
}

#[test]
fn a_connect_is_refused_by_its_length_before_its_body_comes() {
    let (world, broker) = world(|_| {});
    for length in [varint(64 * 1024), varint(268_435_455)] {
        let start = |name: &[u8]| [&[CONNECT << 4][..], &length, name].concat();
        let told = first(&world, V5, &start(b"\x00\x04MQTT\x05\x02\x00\x3c"));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind(), told[0].body[1]), (CONNACK, TOO_LARGE));
        assert_eq!(first(&world, V311, &start(b"\x00\x04MQTT\x04\x02\x00\x3c")), []);
        assert_eq!(first(&world, V311, &start(b"")), []);
    }
    Pair::open(&world, &broker, V311);
}

#[test]
fn user_properties_in_numbers_are_bounded_with_the_connect_that_holds_them() {
    let (world, broker) = world(|config| config.limits = "mqtt_connect_bytes: 4KiB".into());
    let hello = |count| Hello {
        properties: user_property("n", "").repeat(count),
        ..Hello::new(V5, "acme-device-1")
    };
    Pair::with(&world.acme_mqtt(), &broker, &hello(128));
    // Read, each takes many times its bytes: their number has a bound of its own.
    for (count, code) in [(129, QUOTA_EXCEEDED), (700, TOO_LARGE)] {
        let told = first(&world, V5, &hello(count).packet().bytes());
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind(), told[0].body[1]), (CONNACK, code));
    }
    Pair::with(&world.acme_mqtt(), &broker, &hello(0));
}

#[test]
fn a_connect_that_drips_or_never_comes_is_cut_at_its_deadline() {
    let (world, _broker) = world(|config| config.limits = "mqtt_connect_timeout: 1s".into());
    let began = Instant::now();
    let mut silent = world.acme_mqtt().mqtt(V311);
    let mut dripping = world.acme_mqtt().mqtt(V311);
    dripping.write(b"\x10\xe0\xd4\x03\x00\x04MQTT\x04");
    assert_eq!(until_closed(&mut silent), []);
    // Each byte is in time for itself.
    eventually("the one that drips is cut", || {
        dripping.stream.write_all(b"x").and_then(|()| dripping.stream.flush()).is_err()
    });
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    let timeouts = "portcullis_refusals_total{protocol=\"mqtts\",reason=\"timeout\"}";
    eventually("both are counted", || world.metric(timeouts) == 2.0);
}

#[test]
fn a_subscription_that_is_begun_and_not_ended_is_cut_at_its_deadline() {
    let (world, broker) = world(|config| config.limits = "mqtt_connect_timeout: 1s".into());
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let mut neighbour = Pair::open(&world, &broker, level);
        let began = Instant::now();
        pair.device.write(&[&[0x82][..], &varint(60_000), &[0; 50_000]].concat());
        assert_eq!(until_closed(&mut pair.device), []);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
        // A session that owes nothing goes on over the same time.
        neighbour.device.send(&Packet::new(0xc0, []));
        assert_eq!(neighbour.broker.receive().kind(), 12);
    }
}

#[test]
fn a_packet_that_is_larger_than_allowed_ends_the_session_before_it_comes() {
    let (world, broker) = world(|config| config.limits = "mqtt_packet_bytes: 4KiB".into());
    for level in VERSIONS {
        for length in [4094, 268_435_455] {
            let start = [&[0x30][..], &varint(length), b"\x00\x04up/x"].concat();
            ends_a_session(&world, &broker, level, &start, TOO_LARGE);
            // Its length is enough.
            ends_a_session(&world, &broker, level, &start[..start.len() - 6], TOO_LARGE);
        }
        let mut pair = Pair::open(&world, &broker, level);
        let largest = 4096 - 3 - 6 - usize::from(level == V5);
        let allowed = message_with(level, 0, "up/x", 0, &[], &vec![b'x'; largest]);
        assert_eq!(allowed.bytes().len(), 4096);
        pair.device.send(&allowed);
        assert_eq!(pair.told(0).broker, [allowed]);
    }
}

#[test]
fn a_message_of_256_mb_flows_through_or_stalls_and_takes_no_memory() {
    let (world, broker) = world(|config| config.limits = "mqtt_packet_bytes: 256MiB".into());
    let mut pair = Pair::open(&world, &broker, V311);
    let start = [&[0x30][..], &varint((256 << 20) - 5), b"\x00\x04up/x"].concat();
    pair.device.write(&start);
    pair.device.write(b"drip");
    let mut taken = vec![0; start.len() + 4];
    std::io::Read::read_exact(&mut pair.broker.stream, &mut taken).unwrap();
    assert_eq!(taken, [&start[..], b"drip"].concat(), "what has come flows on at once");
    let before = resident();
    // While the broker reads nothing, the device can send no more than sockets hold.
    let chunk = vec![b'x'; 64 * 1024];
    let tcp = pair.device.stream.get_ref();
    tcp.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while sent < 64 << 20 && pair.device.stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "the edge has taken {sent} bytes that the broker did not");
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for {sent}");
}

#[test]
fn a_device_that_reads_nothing_holds_up_its_broker_and_takes_no_memory() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V311);
    let before = resident();
    let chunk = message_with(V311, 0, "down/x", 0, &[], &vec![b'x'; 64 * 1024]).bytes();
    pair.broker.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while sent < 64 << 20 && pair.broker.stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "the edge has taken {sent} bytes that the device did not");
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for {sent}");
}

/// Memory of this process, in which the edge runs too.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// A session from its first byte: subscriptions for both, requests, messages of both sides.
fn session(level: u8) -> Vec<u8> {
    let p: &[u8] = if level == V5 { &[0] } else { &[] };
    let subscribe = [&[0, 1], p, &text("s/dat"), &[1], &text("up/#"), &[1]].concat();
    [
        Hello::new(level, "d:acme-device-1").packet(),
        Packet::new(SUBSCRIBE << 4 | 2, subscribe),
        message_with(level, 2, "s/uat", 2, &[], b""),
        message_with(level, 2, "up/x", 3, &[], &[b'x'; 200]),
        Packet::new(PINGREQ << 4, []),
    ]
    .map(|packet| packet.bytes())
    .concat()
}

/// Sends it in pieces, plays the broker, and gives what both sides got, the token aside.
#[track_caller]
fn played(world: &World, broker: &Broker, level: u8, pieces: &[&[u8]]) -> [Vec<Packet>; 2] {
    let mut device: DeviceSide = world.acme_mqtt().mqtt(level);
    for piece in pieces {
        device.write(piece);
    }
    let (mut side, connect) = broker.session(level);
    let mut at_broker = vec![connect];
    let subscribe = side.receive();
    let p: &[u8] = if level == V5 { &[0] } else { &[] };
    side.send(&Packet::new(SUBACK << 4, [&[0, 1], p, &[1]].concat()));
    at_broker.push(subscribe);
    at_broker.extend(side.until_ping());
    let mut at_device = Vec::new();
    let mut answers = 0;
    while answers == 0 || at_device.len() < 4 {
        let packet = device.receive();
        match packet.kind() {
            PUBLISH => {
                assert_eq!(message(level, &packet).0, "s/dat");
                assert_eq!(token(level, &packet), over_https(world));
                answers += 1;
            }
            _ => at_device.push(packet),
        }
    }
    // The edge's own receipt comes between the broker's packets, wherever there is room.
    at_device.sort_by_key(Packet::kind);
    [at_broker, at_device]
}

#[test]
fn a_session_that_comes_byte_by_byte_or_cut_anywhere_is_the_same_session() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let bytes = session(level);
        let whole = played(&world, &broker, level, &[&bytes]);
        let kinds: Vec<u8> = whole.concat().iter().map(Packet::kind).collect();
        assert_eq!(kinds, [CONNECT, SUBSCRIBE, PUBLISH, CONNACK, PUBACK, SUBACK, PINGRESP]);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(played(&world, &broker, level, &single), whole);
        for at in 1..80 {
            let (first, second) = bytes.split_at(at);
            assert_eq!(played(&world, &broker, level, &[first, second]), whole, "{at}");
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20 {
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let size = 1 + usize::try_from(state >> 40).unwrap() % 60;
                let (piece, after) = rest.split_at(rest.len().min(size));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(played(&world, &broker, level, &pieces), whole);
        }
    }
}
