//! `s/uat` asks, `s/dat` answers: every form of a request, and who gets none.

use portcullis::registry::DeviceStatus;
use serde_json::json;

use super::pair::{Pair, VERSIONS, message_with, over_https, receipt, token, until_closed, world};
use crate::jwt::{Jwt, encoded};
use crate::registry::set_status;
use crate::world::mqtt::{
    Hello, PINGREQ, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, SUBACK, V5, V31, V311,
    message,
};
use crate::world::{Process, Reply, TOKEN_PATH, World, eventually};

#[test]
fn the_answer_is_71_and_the_token_at_qos_0_and_not_retained() {
    let (world, broker) = world(|_| {});
    let expected = over_https(&world);
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("s/dat", 1)]);
        let suback = pair.told(0).device;
        assert_eq!(suback[0].body.last(), Some(&0), "granted at QoS 0: {suback:?}");
        pair.device.publish("s/uat", 0, 0, b"");
        let answers = pair.only_answers(1);
        assert_eq!(answers[0].first, PUBLISH << 4);
        let (topic, _, properties, payload) = message(level, &answers[0]);
        assert_eq!((topic.as_str(), properties), ("s/dat", Vec::new()));
        assert_eq!(String::from_utf8(payload).unwrap(), format!("71,{expected}"));
    }
}

#[test]
fn a_request_before_its_suback_or_without_a_subscribe_is_answered() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        // In one piece with the SUBSCRIBE that goes before it, and in one with the CONNECT.
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.subscribe(1, &[("s/dat", 0)]);
        pair.device.publish("s/uat", 1, 2, b"");
        let told = pair.told(1);
        assert_eq!(told.device.iter().map(Packet::kind).collect::<Vec<_>>(), [SUBACK, PUBACK]);
        assert!(told.broker.is_empty(), "{told:?}");

        let hello = Hello { clean: false, ..Hello::new(level, "acme-device-1") };
        let mut pair = Pair::with(&world.acme_mqtt(), &broker, &hello);
        pair.device.publish("s/uat", 0, 0, b"");
        pair.only_answers(1);

        let mut device = world.acme_mqtt().mqtt(level);
        let request = message_with(level, 0, "s/uat", 0, &[], b"");
        device.write(&[hello.packet().bytes(), request.bytes()].concat());
        let (mut side, _) = broker.session(level);
        let answer = device.receive_kind(PUBLISH);
        assert_eq!(token(level, &answer), over_https(&world));
        device.send(&Packet::new(PINGREQ << 4, []));
        assert_eq!(side.until_ping(), []);
    }
}

#[test]
fn each_quality_of_service_of_a_request_has_its_receipt_from_the_edge() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        // The broker has messages of its own under way with the same packet ids.
        let theirs = [
            message_with(level, 2, "up/x", 7, &[], b"1"),
            message_with(level, 4, "up/x", 8, &[], b"2"),
        ];
        pair.broker.send(&theirs[0]);
        pair.broker.send(&theirs[1]);
        pair.device.publish("s/uat", 1, 7, b"");
        pair.device.publish("s/uat", 2, 8, b"");
        let told = pair.told(2);
        assert!(told.broker.is_empty(), "{told:?}");
        let (messages, receipts): (Vec<_>, Vec<_>) =
            told.device.into_iter().partition(|packet| packet.kind() == PUBLISH);
        assert_eq!(messages, theirs);
        assert_eq!(receipts, [receipt(PUBACK << 4, 7, None), receipt(PUBREC << 4, 8, None)]);

        // Of two releases the edge has its own, of receipts none.
        let acks = [receipt(PUBACK << 4, 7, None), receipt(PUBREC << 4, 8, None)];
        let release = receipt(PUBREL << 4 | 2, 8, None);
        for packet in acks.iter().chain([&release]) {
            pair.device.send(packet);
        }
        let told = pair.told(0);
        assert_eq!(told.device, [receipt(PUBCOMP << 4, 8, None)]);
        assert_eq!(told.broker, acks);
        // That id is free again, and a release of it is now the broker's.
        pair.device.publish("up/y", 2, 8, b"mine");
        pair.device.send(&release);
        let told = pair.told(0);
        assert_eq!(told.broker, [message_with(level, 4, "up/y", 8, &[], b"mine"), release]);
    }
}

#[test]
fn a_second_quality_request_that_is_sent_again_has_one_answer() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let again = message_with(level, 8 | 4, "s/uat", 5, &[], b"");
        pair.device.publish("s/uat", 2, 5, b"");
        let told = pair.told(1);
        assert_eq!(told.device, [receipt(PUBREC << 4, 5, None)]);
        pair.device.send(&again);
        pair.device.send(&again);
        let told = pair.told(0);
        assert_eq!(told.device, [receipt(PUBREC << 4, 5, None), receipt(PUBREC << 4, 5, None)]);
        pair.device.send(&receipt(PUBREL << 4 | 2, 5, None));
        assert_eq!(pair.told(0).device, [receipt(PUBCOMP << 4, 5, None)]);
        // After the release the id stands for a new request.
        pair.device.send(&again);
        let told = pair.told(1);
        assert_eq!(told.device, [receipt(PUBREC << 4, 5, None)]);
        assert!(told.broker.is_empty());
        // QoS 1 sent again is a request again: nothing tells the two apart.
        pair.device.send(&message_with(level, 8 | 2, "s/uat", 6, &[], b""));
        assert_eq!(pair.told(1).device, [receipt(PUBACK << 4, 6, None)]);
    }
}

#[test]
fn a_request_may_be_retained_and_say_something() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.send(&message_with(level, 1, "s/uat", 0, &[], b""));
        pair.device.send(&message_with(level, 1, "s/uat", 0, &[], b"please"));
        for answer in pair.only_answers(2) {
            assert_eq!((answer.first, token(level, &answer)), (PUBLISH << 4, over_https(&world)));
        }
    }
}

#[test]
fn tokens_follow_the_half_life_rule_and_are_those_of_https() {
    let (world, broker) = world(|_| {});
    let first = over_https(&world);
    let claims = Jwt::parse(&first).claims;
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    let mut pairs = [V311, V5].map(|level| (level, Pair::open(&world, &broker, level)));
    let mut ask = || {
        pairs.each_mut().map(|(level, pair)| {
            pair.device.publish("s/uat", 0, 0, b"");
            token(*level, &pair.only_answers(1)[0])
        })
    };
    assert_eq!(ask(), [first.clone(), first.clone()]);
    world.clock.advance(life / 2 - 1);
    assert_eq!(ask(), [first.clone(), first.clone()]);
    world.clock.advance(2);
    let [second, again] = ask();
    assert_ne!(second, first);
    assert_eq!((&again, &over_https(&world)), (&second, &second));
}

#[test]
fn a_platforms_own_token_comes_over_mqtt_too() {
    let (world, broker) = world(|config| config.acme("tokens: { source: platform }"));
    let clock = world.clock.clone();
    world.upstream.answers(move |request| {
        if !request.head.starts_with(&format!("POST {TOKEN_PATH} ")) {
            return Reply::AsAsked;
        }
        let claims = json!({ "iat": clock.now(), "exp": clock.now() + 3_600 });
        let header = encoded(json!({ "alg": "RS256" }).to_string());
        let token = format!("{header}.{}.{}", encoded(claims.to_string()), encoded("signature"));
        let body = json!({ "accessToken": token }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Reply::Bytes((head + &body).into_bytes())
    });
    let mut tokens = Vec::new();
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.publish("s/uat", 0, 0, b"");
        tokens.push(token(level, &pair.only_answers(1)[0]));
    }
    tokens.push(over_https(&world));
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "one token for all: {tokens:?}");
    assert_eq!(Jwt::parse(&tokens[0]).header["alg"], "RS256");
    let request = world.upstream.only_request();
    assert_eq!(request.header("host"), ["acme.example.com"]);
    assert_eq!(request.header("x-ssl-cert-chain").len(), 1);
}

#[test]
fn while_the_platform_gives_no_token_a_request_is_refused_and_the_session_goes_on() {
    let (world, broker) = world(|config| config.acme("tokens: { source: platform }"));
    let refusing = b"HTTP/1.1 403 Told\r\nContent-Length: 0\r\n\r\n";
    world.upstream.answers(|_| Reply::Bytes(refusing.to_vec()));
    let mut pair = Pair::open(&world, &broker, V5);
    pair.device.publish("s/uat", 1, 3, b"");
    pair.device.publish("up/x", 0, 0, b"on");
    let ack = pair.device.receive_kind(PUBACK);
    assert_eq!(ack, receipt(PUBACK << 4, 3, Some(0x87)));
    assert_eq!(pair.told(0).broker, [message_with(V5, 0, "up/x", 0, &[], b"on")]);
    world.upstream.answers(|_| Reply::Close);
    pair.device.publish("s/uat", 1, 4, b"");
    assert_eq!(pair.device.receive_kind(PUBACK), receipt(PUBACK << 4, 4, Some(0x83)));
    pair.told(0);
}

#[test]
fn where_tokens_are_off_requests_are_refused_and_still_no_matter_of_the_broker() {
    let (world, broker) = world(|config| config.acme("tokens: { enabled: false }"));
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        let code = (level == V5).then_some(0x87);
        pair.device.subscribe(1, &[("s/dat", 0)]);
        pair.device.publish("s/uat", 1, 2, b"");
        pair.device.publish("s/uat", 0, 0, b"");
        pair.device.publish("s/uat", 2, 3, b"");
        let told = pair.told(0);
        assert!(told.broker.is_empty(), "{told:?}");
        // 3.1 cannot refuse a subscription.
        let refused = match level {
            V31 => 0,
            V311 => 0x80,
            _ => 0x87,
        };
        assert_eq!(told.device[0].body.last(), Some(&refused));
        let receipts = [receipt(PUBACK << 4, 2, code), receipt(PUBREC << 4, 3, code)];
        assert_eq!(told.device[1..], receipts);
        if level != V5 {
            pair.device.send(&receipt(PUBREL << 4 | 2, 3, None));
            assert_eq!(pair.told(0).device, [receipt(PUBCOMP << 4, 3, None)]);
        }
    }
}

#[test]
fn a_session_whose_requests_are_not_taken_is_one_warning_and_a_count() {
    let broker = crate::world::mqtt::Broker::start();
    let world = World::files(|_, config| {
        config.mqtt(broker.address(), "");
        config.acme("tokens: { enabled: false }");
        config.log = "{ format: json, requests: true }".into();
    });
    let process = Process::run(&world);
    let client = process.acme_client(&world).at(process.mqtts.unwrap());
    let mut pair = Pair::with(&client, &broker, &Hello::new(V311, "acme-device-1"));
    for _ in 0..3 {
        pair.device.publish("s/uat", 0, 0, b"");
    }
    pair.device.publish("s/dat", 0, 0, b"71,mine");
    pair.told(0);
    drop(pair);
    let of_session = || process.events("portcullis::session");
    eventually("the session is logged", || of_session().iter().any(|e| e["message"] == "session"));
    let events = of_session();
    let named =
        |message| events.iter().filter(move |e| e["message"] == message).collect::<Vec<_>>();
    let (warned, closed) = (named("message not taken"), named("session"));
    assert_eq!((warned.len(), closed.len()), (1, 1), "{events:?}");
    assert_eq!((&warned[0]["level"], &warned[0]["tenant"]), (&"WARN".into(), &"acme".into()));
    assert!(warned[0]["reason"].as_str().unwrap().contains("tokens are off"), "{events:?}");
    assert_eq!(closed[0]["messages_not_taken"], 4);
}

#[test]
fn a_device_that_is_blocked_in_its_session_gets_no_token() {
    let (world, broker) = world(|_| {});
    for level in VERSIONS {
        let mut pair = Pair::open(&world, &broker, level);
        pair.device.publish("s/uat", 0, 0, b"");
        pair.only_answers(1);
        set_status(&world, "acme-device-1", DeviceStatus::Blocked);
        // The session ends by itself within two seconds, and may do so before it is asked.
        let request = message_with(level, 2, "s/uat", 3, &[], b"");
        let _ = std::io::Write::write_all(&mut pair.device.stream, &request.bytes());
        let packets = until_closed(&mut pair.device);
        assert!(packets.iter().all(|packet| packet.kind() != PUBLISH), "{packets:?}");
        let for_broker = pair.broker.rest();
        assert!(for_broker.is_empty(), "{for_broker:?}");
        set_status(&world, "acme-device-1", DeviceStatus::Active);
    }
}

#[test]
fn a_client_without_a_certificate_gets_no_token_and_its_request_goes_nowhere() {
    let (world, broker) = world(|config| config.acme("client_certificate: optional"));
    let client = world.acme_mqtt().anonymous();
    for level in VERSIONS {
        let hello = Hello::new(level, "somebody").credentials("user", "password");
        let mut pair = Pair::with(&client, &broker, &hello);
        pair.device.publish("s/uat", 0, 0, b"");
        pair.device.publish("s/uat", 1, 3, b"");
        pair.device.publish("up/x", 0, 0, b"on");
        let told = pair.told(0);
        assert_eq!(told.device, [receipt(PUBACK << 4, 3, (level == V5).then_some(0x87))]);
        assert_eq!(told.broker, [message_with(level, 0, "up/x", 0, &[], b"on")]);
    }
}

#[test]
fn a_device_that_takes_no_packet_of_that_size_is_sent_no_token() {
    let (world, broker) = world(|_| {});
    // Maximum Packet Size.
    let properties = [&[0x27][..], &100_u32.to_be_bytes()].concat();
    let hello = Hello { properties, ..Hello::new(V5, "acme-device-1") };
    let mut pair = Pair::with(&world.acme_mqtt(), &broker, &hello);
    pair.device.publish("s/uat", 1, 3, b"");
    pair.device.publish("s/uat", 0, 0, b"");
    assert_eq!(pair.device.receive_kind(PUBACK), receipt(PUBACK << 4, 3, Some(0x83)));
    let told = pair.told(0);
    assert!(told.device.is_empty() && told.broker.is_empty(), "{told:?}");
}

#[test]
fn of_a_hundred_requests_in_one_piece_each_is_answered_or_refused_once() {
    let (world, broker) = world(|_| {});
    let mut pair = Pair::open(&world, &broker, V5);
    let requests = (1..=100).flat_map(|id| message_with(V5, 2, "s/uat", id, &[], b"").bytes());
    pair.device.write(&requests.collect::<Vec<_>>());
    let (mut receipts, mut answers) = (Vec::new(), 0);
    while receipts.len() < 100 {
        let packet = pair.device.receive();
        match packet.kind() {
            PUBLISH => answers += 1,
            _ => receipts.push(packet),
        }
    }
    let taken = receipts.iter().filter(|receipt| receipt.body.len() == 2).count();
    let refused = receipts.iter().filter(|receipt| receipt.body.get(2) == Some(&0x97)).count();
    assert_eq!(taken + refused, 100, "{receipts:?}");
    assert!(taken >= 16 && refused > 0, "{taken} of 100");
    assert_eq!(pair.told(taken - answers).broker, []);
    let mut ids: Vec<_> = receipts.iter().map(|receipt| receipt.body[..2].to_vec()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100, "each has its own");
}
