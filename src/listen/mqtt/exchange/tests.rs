//! The exchange against streams of packets, cut and broken in every way.

use super::super::fuzzing::{Outcome, TOKEN, connect, run, segments, session};
use super::*;

const V31: u8 = 0;
const V311: u8 = 1;
const V5: u8 = 2;
const NO_TOKENS: u8 = 4;
const SMALL_DEVICE: u8 = 32;
const DEVICE: bool = false;
const BROKER: bool = true;

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let (mut out, mut rest) = (vec![first], body.len());
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// `flags`: DUP, QoS and RETAIN; `properties`: without their length, of 5.0.
fn publish(version: u8, flags: u8, topic: &str, id: u16, properties: &[u8], of: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    let id = if flags & 6 == 0 { &[][..] } else { &id[..] };
    let length = match properties.len() {
        short @ 0..128 => vec![short as u8],
        long => {
            vec![(long % 128) as u8 | 0x80, (long / 128 % 128) as u8 | 0x80, (long >> 14) as u8]
        }
    };
    let properties = if version == V5 { [&length, properties].concat() } else { Vec::new() };
    packet(0x30 | flags, &[&text(topic), id, &properties, of])
}

fn subscribe(version: u8, id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(|f| [text(f), vec![1]].concat()).collect();
    packet(0x82, &[&id.to_be_bytes(), no_properties(version), &filters])
}

fn unsubscribe(version: u8, id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(text).collect();
    packet(0xa2, &[&id.to_be_bytes(), no_properties(version), &filters])
}

fn suback(version: u8, id: u16, codes: &[u8]) -> Vec<u8> {
    packet(0x90, &[&id.to_be_bytes(), no_properties(version), codes])
}

fn unsuback(version: u8, id: u16, codes: &[u8]) -> Vec<u8> {
    let codes = if version == V5 { codes } else { &[] };
    packet(0xb0, &[&id.to_be_bytes(), no_properties(version), codes])
}

fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()])
}

fn no_properties(version: u8) -> &'static [u8] {
    if version == V5 { &[0] } else { &[] }
}

fn answer(version: u8, properties: &[u8]) -> Vec<u8> {
    publish(version, 0, "s/dat", 0, properties, format!("71,{TOKEN}").as_bytes())
}

/// A session with all that the exchange has a part in, what each side gets of it, and how large
/// its other messages are.
struct Recorded {
    parts: Vec<(bool, Vec<u8>)>,
    to_broker: Vec<u8>,
    to_device: Vec<u8>,
}

fn recorded(version: u8, payload: usize) -> Recorded {
    let v = version;
    let large = vec![b'x'; payload];
    let refused = |first: u8, id: u16| match v {
        V5 => packet(first, &[&id.to_be_bytes(), &[0x87]]),
        _ => ack(first, id),
    };
    let refused_filter = [0, 0x80, 0x87][usize::from(v)];
    let mut parts = Vec::new();
    let (mut to_broker, mut to_device) = (Vec::new(), Vec::new());
    // Each step: what one side says; what of it, or for it, reaches the broker; the device.
    let mut step = |broker: bool, said: &[Vec<u8>], up: &[Vec<u8>], down: &[Vec<u8>]| {
        parts.push((broker, said.concat()));
        to_broker.extend(up.concat());
        to_device.extend(down.concat());
    };
    let other =
        [subscribe(v, 1, &["up/#"]), publish(v, 2, "up/data", 3, &[], &large), ack(0xc0, 0)];
    step(
        DEVICE,
        &[
            other[0].clone(),
            publish(v, 0, "s/uat", 0, &[], b""),
            subscribe(v, 2, &["s/dat", "other", "s/uat"]),
            other[1].clone(),
        ],
        &[other[0].clone(), subscribe(v, 2, &["other"]), other[1].clone()],
        &[answer(v, &[])],
    );
    let echo = publish(v, 2, "up/data", 1, &[], &large);
    step(
        BROKER,
        &[suback(v, 2, &[1]), suback(v, 1, &[1]), echo.clone(), ack(0x40, 3)],
        &[],
        &[suback(v, 2, &[0, 1, refused_filter]), suback(v, 1, &[1]), echo, ack(0x40, 3)],
    );
    let theirs = publish(v, 4, "s/uat/", 6, &[], b"y");
    step(
        DEVICE,
        &[
            publish(v, 3, "s/uat", 4, &[], b"retained"),
            publish(v, 4, "s/uat", 5, &[], b""),
            theirs.clone(),
            ack(0x62, 5),
            ack(0x62, 6),
            publish(v, 2, "s/dat", 8, &[], b"71,mine"),
            ack(0x40, 1),
        ],
        &[theirs, ack(0x62, 6), ack(0x40, 1)],
        &[
            ack(0x70, 5),
            refused(0x40, 8),
            ack(0x40, 4),
            answer(v, &[]),
            ack(0x50, 5),
            answer(v, &[]),
        ],
    );
    if v == V5 {
        let alias = |n: u8| [0x26, 0, 1, b'k', 0, 1, b'v', 0x23, 0, n];
        let theirs = [
            publish(v, 0, "elsewhere", 0, &alias(1), b"z"),
            publish(v, 0, "", 0, &alias(1), b"z"),
            publish(v, 0, "elsewhere", 0, &alias(2), b"z"),
            publish(v, 0, "", 0, &alias(2), b"z"),
        ];
        step(
            DEVICE,
            &[
                theirs[0].clone(),
                publish(v, 0, "s/uat", 0, &alias(2), b""),
                theirs[1].clone(),
                publish(v, 0, "", 0, &alias(2), b""),
                theirs[2].clone(),
                theirs[3].clone(),
            ],
            &theirs,
            &[answer(v, &[]), answer(v, &[])],
        );
    }
    step(BROKER, &[ack(0x50, 6), ack(0x70, 6)], &[], &[ack(0x50, 6), ack(0x70, 6)]);
    step(
        DEVICE,
        &[unsubscribe(v, 9, &["s/dat", "other", "s/dat"]), unsubscribe(v, 10, &["s/dat"])],
        &[unsubscribe(v, 9, &["other"])],
        &[unsuback(v, 10, &[0x11])],
    );
    step(BROKER, &[unsuback(v, 9, &[0])], &[], &[unsuback(v, 9, &[0, 0, 0x11])]);
    step(DEVICE, &[vec![0xe0, 0]], &[vec![0xe0, 0]], &[]);
    Recorded { parts, to_broker, to_device }
}

impl Recorded {
    fn parts(&self) -> Vec<(bool, &[u8])> {
        self.parts.iter().map(|(broker, bytes)| (*broker, bytes.as_slice())).collect()
    }
}

/// Seeded, so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % below.max(1)
    }
}

fn up(setup: u8, packets: &[Vec<u8>]) -> Outcome {
    run(setup, &[(DEVICE, &packets.concat())], |segment| vec![segment])
}

#[track_caller]
fn refused_with(outcome: &Outcome, code: u8) {
    assert_eq!(outcome.fault.as_ref().map(|fault| fault.code), Some(code), "{outcome:?}");
}

#[test]
fn five_hundred_random_splits_of_a_session_mean_the_same_in_each_version() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for version in [V31, V311, V5] {
        let recorded = recorded(version, 40_000);
        for split in 0..=500 {
            let outcome = run(version, &recorded.parts(), |mut segment| {
                let longest = [1, 7, 300, 50_000][random.below(4)].max(segment.len() / 2_000);
                let mut pieces = Vec::new();
                while split > 0 && !segment.is_empty() {
                    let (piece, rest) =
                        segment.split_at(segment.len().min(1 + random.below(longest)));
                    pieces.push(piece);
                    segment = rest;
                }
                pieces.push(segment);
                pieces
            });
            assert_eq!(outcome.fault, None);
            assert!(outcome.to_broker == recorded.to_broker, "{version} {split}");
            assert!(outcome.to_device == recorded.to_device, "{version} {split}");
            assert_eq!(outcome.answers, if version == V5 { 5 } else { 3 });
        }
    }
}

#[test]
fn a_session_cut_at_each_byte_means_the_same_in_each_version() {
    for version in [V31, V311, V5] {
        let recorded = recorded(version, 300);
        let length = recorded.parts.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
        for at in 0..=length {
            let outcome = run(version, &recorded.parts(), |segment| {
                let (first, second) = segment.split_at(at.min(segment.len()));
                vec![first, second]
            });
            assert!(outcome.to_broker == recorded.to_broker, "{version} {at}");
            assert!(outcome.to_device == recorded.to_device, "{version} {at}");
        }
    }
}

#[test]
fn no_broken_session_breaks_a_rule_of_the_exchange() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let sessions: Vec<Vec<u8>> = [V31, V311, V5, V5 | 16, V311 | NO_TOKENS, V5 | SMALL_DEVICE]
        .into_iter()
        .map(|setup| segments(setup, 3, &recorded(setup & 3, 40).parts()))
        .collect();
    // Splices that reach further in than single bits do.
    let pieces: Vec<Vec<u8>> = vec![
        text("s/uat"),
        text("s/dat"),
        b"$share/g/".to_vec(),
        vec![0x23, 0, 2],
        vec![0xff, 0xff, 0xff, 0x7f],
        publish(V5, 0, "", 0, &[0x23, 0, 1], b""),
        publish(V311, 4, "s/uat", 5, &[], b""),
        subscribe(V311, 2, &["s/dat", "other"]),
        suback(V5, 2, &[0, 0, 0]),
    ];
    let (mut whole, mut faults) = (0, 0);
    for _ in 0..30_000 {
        let mut input = sessions[random.below(sessions.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(input.len() + 1);
            let to = at + random.below(input.len() - at + 1);
            match random.below(6) {
                0 => input.truncate(at.max(20)),
                1 if at < input.len() => input[at] ^= 1 << random.below(8),
                2 if at < input.len() => input[at] = random.below(256) as u8,
                3 => drop(input.drain(at..to.min(at + 8))),
                4 => input[at..to].reverse(),
                _ => {
                    let piece = &pieces[random.below(pieces.len())];
                    input.splice(at..at, piece.iter().copied());
                }
            }
        }
        match session(&input).fault {
            Some(_) => faults += 1,
            None => whole += 1,
        }
    }
    assert!(whole > 1_000 && faults > 1_000, "{whole} {faults}");
}

#[test]
fn no_broken_connect_is_read_as_another_than_the_broker_reads() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let properties = b"\x11\x00\x00\x00\x05\x21\x00\x0a\x27\x00\x01\x00\x00\x22\x00\x03\x17\x00\
        \x26\x00\x01a\x00\x01b\x15\x00\x01m\x16\x00\x01d";
    let rest = b"\x00\x04id-1\x00\x02w/\x00\x01m\x00\x04user\x00\x04pass";
    let v5 = [
        &[properties.len() as u8],
        &properties[..],
        b"\x00\x04id-1\x05\x18\0\0\0\x01\x00\x02w/",
        b"\x00\x01m\x00\x04user\x00\x04pass",
    ]
    .concat();
    let seeds = [
        packet(0x10, &[b"\x00\x06MQIsdp\x03\xce\x00\x3c", rest]),
        packet(0x10, &[b"\x00\x04MQTT\x04\xce\x00\x3c", rest]),
        packet(0x10, &[b"\x00\x04MQTT\x05\xce\x00\x3c", &v5]),
        packet(0x10, &[b"\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x00"]),
    ];
    for seed in &seeds {
        let header = super::super::frame::header(seed).unwrap().unwrap();
        assert!(super::super::connect::Connect::read(header, seed).is_ok(), "{seed:?}");
    }
    for _ in 0..50_000 {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(3) {
            let at = 2 + random.below(input.len() - 2);
            match random.below(3) {
                0 => input[at] ^= 1 << random.below(8),
                1 => input[at] = random.below(256) as u8,
                _ => input.swap(at, 2 + random.below(at - 1)),
            }
        }
        connect(&input);
    }
}

#[test]
fn of_many_requests_at_once_sixteen_are_answered_and_the_others_told() {
    let requests: Vec<_> = (1..=20).map(|id| publish(V5, 2, "s/uat", id, &[], b"")).collect();
    let outcome = up(V5, &requests);
    assert_eq!((outcome.answers, outcome.counted[2]), (16, 4));
    let told: Vec<u8> = (17..=20)
        .flat_map(|id: u16| packet(0x40, &[&id.to_be_bytes(), &[QUOTA_EXCEEDED]]))
        .collect();
    assert_eq!(&outcome.to_device[..told.len()], told);
    // Where 3.1.1 has no code the receipt alone keeps the device from sending it again.
    let requests: Vec<_> = (1..=20).map(|id| publish(V311, 2, "s/uat", id, &[], b"")).collect();
    let outcome = up(V311, &requests);
    assert_eq!((outcome.answers, outcome.to_broker.len()), (16, 0));
    assert!(outcome.to_device.starts_with(&ack(0x40, 17)));
}

#[test]
fn what_a_session_remembers_is_bounded() {
    let alias = |n: u16| publish(V5, 0, "s/dat", 0, &[0x23, 0, n as u8], b"");
    let many = |count: u16| (1..=count).map(alias).collect::<Vec<_>>();
    assert_eq!(up(V5, &many(16)).fault, None);
    refused_with(&up(V5, &many(17)), TOPIC_ALIAS_INVALID);
    // The same one again takes no further place.
    let again: Vec<_> = (0..40).map(|_| alias(1)).collect();
    assert_eq!(up(V5, &again).fault, None);

    let second_halves = |count| (1..=count).map(|id| publish(V311, 4, "s/uat", id, &[], b""));
    assert_eq!(up(V311, &second_halves(32).collect::<Vec<_>>()).fault, None);
    let outcome = up(V311, &second_halves(33).collect::<Vec<_>>());
    refused_with(&outcome, RECEIVE_MAXIMUM_EXCEEDED);

    let halves = |count: u16| (1..=count).map(|id| subscribe(V311, id, &["s/dat", "other"]));
    assert_eq!(up(V311, &halves(64).collect::<Vec<_>>()).fault, None);
    refused_with(&up(V311, &halves(65).collect::<Vec<_>>()), QUOTA_EXCEEDED);

    let body = vec![b'x'; 5 * 1024];
    refused_with(&up(V5, &[publish(V5, 0, "s/uat", 0, &[], &body)]), PACKET_TOO_LARGE);
    let filter = "x".repeat(1024);
    let filters = vec![filter.as_str(); 65];
    refused_with(&up(V311, &[subscribe(V311, 1, &filters)]), PACKET_TOO_LARGE);
    refused_with(&up(V311, &[unsubscribe(V311, 1, &filters)]), PACKET_TOO_LARGE);
    let release = packet(0x62, &[&[0, 5], &body]);
    let own = publish(V5, 4, "s/uat", 5, &[], b"");
    refused_with(&up(V5, &[own, release.clone()]), PACKET_TOO_LARGE);
    assert_eq!(up(V5, &[release]).fault, None);
}

#[test]
fn an_alias_is_found_behind_other_properties_but_not_behind_any_number() {
    let own = publish(V5, 0, "s/uat", 0, &[0x23, 0, 1], b"");
    let padded = |bytes: usize| {
        let mut properties = vec![0x01, 1, 0x02, 0, 0, 0, 9, 0x03, 0, 1, b't', 0x08, 0, 1, b'r'];
        while properties.len() < bytes {
            properties.extend([&[0x26][..], &text([b'n'; 100]), &text([b'v'; 100])].concat());
        }
        properties.extend([0x09, 0, 1, 7, 0x23, 0, 1]);
        publish(V5, 0, "", 0, &properties, b"")
    };
    let outcome = up(V5, &[own.clone(), padded(3_000)]);
    assert_eq!((outcome.fault, outcome.answers, outcome.to_broker.len()), (None, 2, 0));
    let outcome = up(V5, &[own, padded(17_000)]);
    refused_with(&outcome, PACKET_TOO_LARGE);
    // Without an alias of the edge's nobody looks.
    let theirs = padded(17_000);
    assert_eq!(up(V5, std::slice::from_ref(&theirs)).to_broker, theirs);
}

#[test]
fn a_property_that_no_client_sends_hides_no_alias() {
    let own = publish(V5, 0, "s/uat", 0, &[0x23, 0, 1], b"");
    // A subscription identifier, a string that is longer than what there is, a length without end.
    for properties in [&[0x0b, 1, 0x23, 0, 1][..], &[0x03, 0, 9, b't'], &[0x02, 0]] {
        let outcome = up(V5, &[own.clone(), publish(V5, 0, "t/q", 0, properties, b"")]);
        refused_with(&outcome, PROTOCOL_ERROR);
        assert_eq!(outcome.to_broker, b"", "{properties:?}");
    }
}

#[test]
fn a_token_that_the_device_does_not_take_is_not_sent_and_not_acknowledged_as_one() {
    let outcome = up(V5 | SMALL_DEVICE, &[publish(V5, 2, "s/uat", 3, &[], b"")]);
    assert_eq!(outcome.answers, 0);
    assert_eq!(outcome.to_device, packet(0x40, &[&[0, 3, IMPLEMENTATION_SPECIFIC]]));
}

#[test]
fn in_3_1_a_packet_that_is_sent_again_has_dup_and_later_versions_reserve_it() {
    let again = |mut packet: Vec<u8>| {
        packet[0] |= 8;
        packet
    };
    let other = again(subscribe(V31, 1, &["other"]));
    let packets = [
        other.clone(),
        again(subscribe(V31, 2, &["s/dat", "more"])),
        publish(V31, 4, "s/uat", 5, &[], b""),
        again(ack(0x62, 5)),
        again(ack(0x62, 6)),
        again(unsubscribe(V31, 7, &["s/dat"])),
    ];
    let outcome = up(V31, &packets);
    assert_eq!((outcome.fault, outcome.answers), (None, 1));
    let expected = [other, subscribe(V31, 2, &["more"]), again(ack(0x62, 6))].concat();
    assert_eq!(outcome.to_broker, expected);
    for version in [V311, V5] {
        for packet in &packets[..4] {
            if packet[0] & 8 != 0 {
                refused_with(&up(version, std::slice::from_ref(packet)), MALFORMED_PACKET);
            }
        }
    }
}

#[test]
fn a_refused_second_quality_request_has_no_second_half_in_5_and_has_one_before() {
    let packets = |v| [publish(v, 4, "s/uat", 5, &[], b""), ack(0x62, 5)];
    let outcome = up(V5 | NO_TOKENS, &packets(V5));
    assert_eq!(outcome.to_device, packet(0x50, &[&[0, 5, NOT_AUTHORIZED]]));
    // A release of what was refused is the broker's to answer.
    assert_eq!(outcome.to_broker, ack(0x62, 5));
    let outcome = up(V311 | NO_TOKENS, &packets(V311));
    assert_eq!(outcome.to_device, [ack(0x50, 5), ack(0x70, 5)].concat());
    assert_eq!(outcome.to_broker, b"");
}

#[test]
fn an_answer_bears_the_identifier_of_each_subscription_that_it_meets() {
    let with_identifier = |id: u16, identifier: u8, filter: &str| {
        packet(0x82, &[&id.to_be_bytes(), &[2, 0x0b, identifier], &text(filter), &[0]])
    };
    let request = publish(V5, 0, "s/uat", 0, &[], b"");
    let without = up(V5, std::slice::from_ref(&request));
    assert_eq!(without.to_device, answer(V5, &[]));
    let outcome = up(
        V5,
        &[
            with_identifier(1, 9, "s/dat"),
            with_identifier(2, 8, "#"),
            with_identifier(3, 7, "elsewhere"),
            with_identifier(4, 6, "s/+"),
            with_identifier(5, 5, "s/+"),
            request,
        ],
    );
    assert!(outcome.to_device.ends_with(&answer(V5, &[0x0b, 9, 0x0b, 8, 0x0b, 5])));
}

#[test]
fn a_suback_that_does_not_fit_its_subscribe_ends_the_session() {
    for codes in [&[][..], &[0, 0]] {
        let subscribe = subscribe(V311, 1, &["s/dat", "other"]);
        let parts = [(DEVICE, &subscribe[..]), (BROKER, &suback(V311, 1, codes)[..])];
        refused_with(&run(V311, &parts, |segment| vec![segment]), MALFORMED_PACKET);
    }
    let subscribe = subscribe(V5, 1, &["s/dat", "other"]);
    for broken in [packet(0x90, &[&[0]]), packet(0x90, &[&[0, 1, 0x7f]])] {
        let parts = [(DEVICE, &subscribe[..]), (BROKER, &broken[..])];
        refused_with(&run(V5, &parts, |segment| vec![segment]), MALFORMED_PACKET);
    }
    let large = [(DEVICE, &subscribe[..]), (BROKER, &b"\x90\x80\x80\x80\x01"[..])];
    refused_with(&run(V5, &large, |segment| vec![segment]), PACKET_TOO_LARGE);
}
