//! SUBSCRIBE and UNSUBSCRIBE that are for both, the edge and the broker.

use super::pair::{Pair, VERSIONS, over_https, token, world};
use crate::world::mqtt::{
    Packet, SUBACK, SUBSCRIBE, UNSUBACK, UNSUBSCRIBE, V5, V31, properties, text, user_property,
};

/// A SUBSCRIBE as the device or the edge writes it. `props`: of 5.0.
fn subscribe(level: u8, id: u16, props: &[u8], filters: &[(&str, u8)]) -> Packet {
    let mut body = id.to_be_bytes().to_vec();
    if level == V5 {
        body.extend(properties(props));
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    Packet::new(SUBSCRIBE << 4 | 2, body)
}

fn unsubscribe(level: u8, id: u16, props: &[u8], filters: &[&str]) -> Packet {
    let mut body = id.to_be_bytes().to_vec();
    if level == V5 {
        body.extend(properties(props));
    }
    body.extend(filters.iter().flat_map(text));
    Packet::new(UNSUBSCRIBE << 4 | 2, body)
}

fn acknowledged(kind: u8, level: u8, id: u16, props: &[u8], codes: &[u8]) -> Packet {
    let mut body = id.to_be_bytes().to_vec();
    if level == V5 {
        body.extend(properties(props));
    }
    body.extend(codes);
    Packet::new(kind << 4, body)
}

#[test]
fn filters_with_wildcards_are_the_brokers_and_bring_one_answer() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let filters = ["s/#", "#", "+/dat", "s/+", "+/+", "s/dat/#", "$share/g/#"];
        for (id, filter) in (1..).zip(filters) {
            pair.device.subscribe(id, &[(filter, 1)]);
        }
        let told = pair.told(0);
        let expected: Vec<_> = (1..)
            .zip(filters)
            .map(|(id, filter)| subscribe(level, id, &[], &[(filter, 1)]))
            .collect();
        assert_eq!((told.broker, told.device), (expected, vec![]));
        pair.device.publish("s/uat", 0, 0, b"");
        assert_eq!(token(level, &pair.only_answers(1)[0]), over_https(&world));
    }
}

#[test]
fn a_subscription_to_the_answer_alone_is_granted_at_qos_0_without_the_broker() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("s/dat", 2)]);
        pair.device.subscribe(2, &[("$share/g/s/dat", 1), ("s/dat", 0)]);
        let told = pair.told(0);
        let granted = [
            acknowledged(SUBACK, level, 1, &[], &[0]),
            acknowledged(SUBACK, level, 2, &[], &[0, 0]),
        ];
        assert_eq!((told.device, told.broker), (granted.to_vec(), vec![]));
        // One answer, and not one for each of them.
        pair.device.publish("s/uat", 0, 0, b"");
        pair.only_answers(1);
    }
}

#[test]
fn codes_of_the_edge_and_of_the_broker_come_in_the_order_of_their_filters() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let props = user_property("from", "device");
        let filters = [("a", 1), ("s/dat", 1), ("b/#", 2), ("s/uat", 0), ("c", 0)];
        pair.device.send(&subscribe(level, 7, &props, &filters));
        let asked = pair.told(0);
        assert!(asked.device.is_empty(), "before the broker has answered: {asked:?}");
        let theirs = subscribe(level, 7, &props, &[filters[0], filters[2], filters[4]]);
        assert_eq!(asked.broker, [theirs]);
        let failure = if level == V31 { 0 } else { 0x80 };
        let props = [user_property("from", "broker"), [&[0x1f][..], &text("reason")].concat()];
        let props = props.concat();
        pair.broker.send(&acknowledged(SUBACK, level, 7, &props, &[1, failure, 0]));
        let refused = [0, 0x80, 0x87][usize::from(level - V31)];
        let codes = [1, 0, failure, refused, 0];
        assert_eq!(pair.told(0).device, [acknowledged(SUBACK, level, 7, &props, &codes)]);
    }
}

#[test]
fn options_and_identifiers_of_a_subscription_reach_the_broker() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V5);
    // Subscription Identifier 300, two user properties; each option that there is.
    let identifier = [0x0b, 0xac, 0x02];
    let props = [&identifier[..], &user_property("a", "1"), &user_property("a", "2")].concat();
    let theirs = [("a", 0x2e), ("$share/g/b", 0x19), ("c", 0)];
    let all = [theirs[0], ("s/dat", 0), theirs[1], theirs[2]];
    pair.device.send(&subscribe(V5, 9, &props, &all));
    assert_eq!(pair.told(0).broker, [subscribe(V5, 9, &props, &theirs)]);
    pair.broker.send(&acknowledged(SUBACK, V5, 9, &[], &[2, 1, 0]));
    assert_eq!(pair.told(0).device, [acknowledged(SUBACK, V5, 9, &[], &[2, 0, 1, 0])]);
}

#[test]
fn a_broker_may_answer_two_subscriptions_in_any_order() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("s/dat", 1), ("a", 1)]);
        pair.device.subscribe(2, &[("b", 1)]);
        pair.device.subscribe(3, &[("c", 1), ("d", 1), ("s/dat", 1)]);
        pair.told(0);
        for (id, codes) in [(3, &[1, 0][..]), (2, &[1]), (1, &[1])] {
            pair.broker.send(&acknowledged(SUBACK, level, id, &[], codes));
        }
        let expected = [(3, &[1, 0, 0][..]), (2, &[1]), (1, &[0, 1])]
            .map(|(id, codes)| acknowledged(SUBACK, level, id, &[], codes));
        assert_eq!(pair.told(0).device, expected);
    }
}

#[test]
fn an_unsubscribe_is_taken_apart_as_a_subscribe_is() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("s/dat", 0)]);
        pair.told(0);
        let unsuback = |id, props: &[u8], codes: &[u8]| match level {
            V5 => acknowledged(UNSUBACK, level, id, props, codes),
            _ => acknowledged(UNSUBACK, level, id, &[], &[]),
        };
        let props = user_property("from", "device");
        let filters = ["a", "s/dat", "b"];
        pair.device.send(&unsubscribe(level, 2, &props, &filters));
        let asked = pair.told(0);
        assert_eq!(asked.broker, [unsubscribe(level, 2, &props, &["a", "b"])]);
        assert!(asked.device.is_empty());
        let props = user_property("from", "broker");
        pair.broker.send(&unsuback(2, &props, &[0, 0x11]));
        assert_eq!(pair.told(0).device, [unsuback(2, &props, &[0, 0, 0x11])]);
        // All of the edge's: without the broker, and there is no such subscription any more.
        pair.device.unsubscribe(3, &["s/dat"]);
        let told = pair.told(0);
        assert_eq!((told.device, told.broker), (vec![unsuback(3, &[], &[0x11])], vec![]));
        // None of the edge's: untouched.
        pair.device.unsubscribe(4, &["a"]);
        assert_eq!(pair.told(0).broker, [unsubscribe(level, 4, &[], &["a"])]);
        // Who asks is answered all the same.
        pair.device.publish("s/uat", 0, 0, b"");
        pair.only_answers(1);
    }
}

#[test]
fn an_answer_names_the_identifiers_of_the_subscriptions_that_it_meets() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V5);
    let mut subscribe_as = |id, identifier: &[u8], filter| {
        let props = [&[0x0b], identifier].concat();
        pair.device.send(&subscribe(V5, id, &props, &[(filter, 0)]));
    };
    subscribe_as(1, &[5], "s/dat");
    subscribe_as(2, &[0xac, 0x02], "#");
    subscribe_as(3, &[7], "elsewhere");
    subscribe_as(4, &[8], "s/+");
    subscribe_as(5, &[9], "s/+");
    pair.told(0);
    let identifiers = |pair: &mut Pair| {
        pair.device.publish("s/uat", 0, 0, b"");
        crate::world::mqtt::message(V5, &pair.only_answers(1)[0]).2
    };
    assert_eq!(identifiers(&mut pair), [0x0b, 5, 0x0b, 0xac, 0x02, 0x0b, 9]);
    pair.device.unsubscribe(6, &["#", "s/dat"]);
    pair.told(0);
    assert_eq!(identifiers(&mut pair), [0x0b, 9]);
}
