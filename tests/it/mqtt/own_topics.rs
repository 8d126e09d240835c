//! The two topics of the token exchange in every disguise: neither reaches the broker, and
//! what only looks like them does.

use super::pair::{Pair, VERSIONS, message_with, receipt, until_closed, world};
use crate::world::mqtt::{CONNACK, DISCONNECT, Hello, PUBACK, PUBREC, Packet, SUBACK, V5, V31};

/// The property of a message that sets a topic alias, or uses one.
fn alias(number: u16) -> Vec<u8> {
    [&[0x23][..], &number.to_be_bytes()].concat()
}

#[test]
fn a_topic_alias_stands_for_the_request_until_it_stands_for_another() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V5);
    let message = |topic: &str, number| message_with(V5, 0, topic, 0, &alias(number), b"x");
    // First it is the broker's.
    pair.device.send(&message("elsewhere", 1));
    pair.device.send(&message("", 1));
    assert_eq!(pair.told(0).broker, [message("elsewhere", 1), message("", 1)]);
    pair.device.send(&message("s/uat", 1));
    pair.device.send(&message("", 1));
    pair.device.send(&message("", 1));
    pair.only_answers(3);
    // Another alias was and is the broker's, whatever it stands for.
    pair.device.send(&message("", 2));
    assert_eq!(pair.told(0).broker, [message("", 2)]);
    pair.device.send(&message("other", 1));
    pair.device.send(&message("", 1));
    assert_eq!(pair.told(0).broker, [message("other", 1), message("", 1)]);
}

#[test]
fn a_topic_alias_of_the_answer_is_as_closed_as_the_answer() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V5);
    pair.device.send(&message_with(V5, 2, "s/dat", 1, &alias(3), b"71,mine"));
    pair.device.send(&message_with(V5, 2, "", 2, &alias(3), b"71,mine"));
    pair.device.send(&message_with(V5, 0, "", 0, &alias(3), b"71,mine"));
    let refused = [1, 2].map(|id| receipt(PUBACK << 4, id, Some(0x87)));
    let told = pair.told(0);
    assert_eq!((told.device, told.broker), (refused.to_vec(), vec![]));
}

#[test]
fn an_alias_before_it_is_set_is_the_brokers_and_too_many_or_none_end_the_session() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V5);
    pair.device.send(&message_with(V5, 0, "", 0, &alias(9), b""));
    assert_eq!(pair.told(0).broker, [message_with(V5, 0, "", 0, &alias(9), b"")]);
    for number in 1..=17 {
        pair.device.send(&message_with(V5, 0, "s/dat", 0, &alias(number), b""));
    }
    let packets = until_closed(&mut pair.device);
    assert_eq!((packets[0].kind(), packets[0].body[0]), (DISCONNECT, 0x94));
    assert!(pair.broker.rest().is_empty());

    let mut pair = Pair::open(&world, &broker, V5);
    pair.device.send(&message_with(V5, 0, "s/uat", 0, &alias(0), b""));
    let packets = until_closed(&mut pair.device);
    assert_eq!((packets[0].kind(), packets[0].body[0]), (DISCONNECT, 0x81));
    assert!(pair.broker.rest().is_empty());
}

#[test]
fn what_a_device_says_on_the_answers_topic_reaches_nobody() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.publish("s/dat", 0, 0, b"71,mine");
        pair.device.send(&message_with(level, 1, "s/dat", 0, &[], b"71,retained"));
        pair.device.publish("s/dat", 1, 4, b"71,mine");
        pair.device.publish("s/dat", 2, 5, b"71,mine");
        let code = (level == V5).then_some(0x87);
        let receipts = [receipt(PUBACK << 4, 4, code), receipt(PUBREC << 4, 5, code)];
        let told = pair.told(0);
        assert_eq!((told.device, told.broker), (receipts.to_vec(), vec![]));
    }
}

#[test]
fn nobody_subscribes_to_requests() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("s/uat", 1)]);
        pair.device.subscribe(2, &[("$share/g/s/uat", 1)]);
        let told = pair.told(0);
        // 3.1 cannot refuse a subscription; it is granted and brings nothing.
        let code = [0, 0x80, 0x87][usize::from(level - V31)];
        assert_eq!(told.device.len(), 2);
        for suback in &told.device {
            assert_eq!((suback.kind(), suback.body.last()), (SUBACK, Some(&code)));
        }
        assert!(told.broker.is_empty());
    }
}

#[test]
fn a_will_on_either_topic_is_refused() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        for topic in ["s/uat", "s/dat"] {
            let hello = Hello {
                will: Some((topic.into(), b"71,mine".to_vec())),
                ..Hello::new(level, "acme-device-1")
            };
            let mut device = world.acme_mqtt().mqtt(level);
            device.send(&hello.packet());
            let packets = until_closed(&mut device);
            let code = if level == V5 { 0x87 } else { 5 };
            assert_eq!(packets.len(), 1);
            assert_eq!((packets[0].kind(), packets[0].body[1]), (CONNACK, code), "{topic}");
        }
        // The next thing that the broker hears of is this.
        let hello = Hello {
            will: Some(("s/uat/x".into(), b"gone".to_vec())),
            ..Hello::new(level, "acme-device-1")
        };
        Pair::with(&world.acme_mqtt(), &broker, &hello);
    }
}

#[test]
fn what_only_looks_like_the_topics_flows_on() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let near =
            ["s//uat", "/s/uat", "S/UAT", "s/uat/", "s/ua", "s/uax", "s/Dat", "x/uat", "s/uat/x"];
        let messages: Vec<Packet> =
            near.iter().map(|topic| message_with(level, 0, topic, 0, &[], b"on")).collect();
        for message in &messages {
            pair.device.send(message);
        }
        pair.device.subscribe(3, &near.map(|topic| (topic, 0)));
        let told = pair.told(0);
        assert_eq!(told.broker[..near.len()], messages);
        assert_eq!(told.broker.len(), near.len() + 1);
        assert!(told.device.is_empty(), "{told:?}");
    }
}
