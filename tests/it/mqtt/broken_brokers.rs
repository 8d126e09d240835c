//! Brokers that break the protocol or say nothing: the device is told, and closed.

use super::pair::{Pair, VERSIONS, message_with, until_closed, world};
use crate::world::mqtt::{CONNACK, DISCONNECT, Hello, PUBLISH, V5};

/// CONNACK of a broker that cannot be asked.
fn unavailable(level: u8) -> [u8; 2] {
    [0, if level == V5 { 0x88 } else { 3 }]
}

#[test]
fn a_broker_that_never_answers_a_connect_is_given_up_at_its_deadline() {
    let (world, broker) = world(|config| config.limits = "mqtt_connect_timeout: 1s".into());
    for level in VERSIONS {
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, "acme-device-1").packet());
        let mut silent = broker.accept(level);
        silent.receive();
        let told = until_closed(&mut device);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind(), &told[0].body[..2]), (CONNACK, &unavailable(level)[..]));
        assert_eq!(until_closed(&mut silent), []);
    }
}

#[test]
fn a_broker_whose_first_packet_is_none_or_never_ends_is_given_up() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        // One speaks HTTP, and waits: its first byte tells, and not the end of the time.
        let http = &b"HTTP/1.1 400 Bad Request\r\n"[..];
        let began = std::time::Instant::now();
        for bytes in
            [http, b"\x30\x03\x00\x01a", b"\x20\xff\xff\xff\xff\x01", b"\x20\x01\x00", b"\x00"]
        {
            let mut device = world.acme_mqtt().mqtt(level);
            device.send(&Hello::new(level, "acme-device-1").packet());
            let mut side = broker.accept(level);
            side.receive();
            side.write(bytes);
            if bytes == b"\x00" {
                side.stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let told = until_closed(&mut device);
            assert_eq!(told.len(), 1, "{bytes:?}");
            assert_eq!((told[0].kind(), &told[0].body[..2]), (CONNACK, &unavailable(level)[..]));
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
        // A CONNACK of 256 MB is not waited for.
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, "acme-device-1").packet());
        let mut side = broker.accept(level);
        side.receive();
        side.write(&[&b"\x20\xff\xff\xff\x7f\x00\x00"[..], &[0; 70_000]].concat());
        let told = until_closed(&mut device);
        assert_eq!((told[0].kind(), &told[0].body[..2]), (CONNACK, &unavailable(level)[..]));
    }
}

#[test]
fn a_broker_that_closes_in_a_session_has_the_device_told_and_closed() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let Pair { mut device, mut broker, .. } = Pair::open(&world, &broker, level);
        let last = message_with(level, 0, "down/x", 0, &[], b"last");
        broker.send(&last);
        drop(broker);
        let told = until_closed(&mut device);
        assert_eq!(told[0], last);
        match level {
            V5 => assert_eq!((told[1].kind(), told[1].body[0]), (DISCONNECT, 0x80)),
            _ => assert_eq!(told.len(), 1),
        }
    }
}

#[test]
fn a_broker_that_says_goodbye_is_the_only_one_to_say_it() {
    let (world, broker) = world(|_| {});
    let Pair { mut device, mut broker, .. } = Pair::open(&world, &broker, V5);
    // Session taken over.
    broker.write(b"\xe0\x02\x8e\x00");
    drop(broker);
    let told = until_closed(&mut device);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].kind(), told[0].body[0]), (DISCONNECT, 0x8e));
}

#[test]
fn a_stream_of_a_broker_that_has_no_packets_ends_the_session() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let before = message_with(level, 0, "down/x", 0, &[], b"before");
        pair.broker.write(&[&before.bytes()[..], b"\x30\xff\xff\xff\xff\x01"].concat());
        let told = until_closed(&mut pair.device);
        assert_eq!((told[0].kind(), told.len()), (PUBLISH, if level == V5 { 2 } else { 1 }));
        assert_eq!(told[0], before);
        if level == V5 {
            assert_eq!((told[1].kind(), told[1].body[0]), (DISCONNECT, 0x80));
        }
        assert_eq!(until_closed(&mut pair.broker), []);
    }
}

#[test]
fn an_answer_to_a_subscription_that_is_huge_or_does_not_fit_ends_the_session() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let p: &[u8] = if level == V5 { &[0] } else { &[] };
        let few = [&[0x90, 2 + p.len() as u8, 0, 1], p].concat();
        let many = [&[0x90, 4 + p.len() as u8, 0, 1], p, &[0, 0]].concat();
        for answer in [&b"\x90\xff\xff\xff\x7f\x00\x01"[..], b"\x90\x01\x00", &few, &many] {
            let mut pair = Pair::open(&world, &broker, level);
            pair.device.subscribe(1, &[("s/dat", 0), ("up/#", 0)]);
            pair.told(0);
            pair.broker.write(answer);
            let told = until_closed(&mut pair.device);
            match level {
                V5 => assert_eq!((told[0].kind(), told[0].body[0]), (DISCONNECT, 0x80)),
                _ => assert_eq!(told, [], "{answer:?}"),
            }
        }
        // Of a subscription that the edge has no part in nothing is held, nor judged.
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("up/#", 0)]);
        pair.told(0);
        pair.broker.write(&many);
        assert_eq!(pair.told(0).device[0].bytes(), many);
    }
}
