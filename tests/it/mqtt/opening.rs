//! From an admitted CONNECT to a broker's answer: which broker is asked, and what is handed on.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use super::identity::{VERSIONS, told};
use super::told::{Told, is_refused, of_connack, optional};
use crate::world::World;
use crate::world::mqtt::{
    AUTH, Broker, CONNACK, DISCONNECT, Hello, PUBLISH, Packet, V5, V31, V311, properties, publish,
    text, user_property,
};

const DEVICE: &str = "acme-device-1";

/// An address that nobody listens on.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn user_properties_with_our_names_are_ours_in_any_case_of_letters() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtt(broker.address(), ", user_properties: { X-Device: \"{device}\" }");
        optional(config);
    });
    let forged =
        ["X-Device", "x-device", "X-DEVICE", "x-dEVICE"].map(|n| user_property(n, "admin"));
    let others = [user_property("kind", "x"), user_property("X_Device", "y")];
    let properties = [forged.concat(), others.concat(), forged.concat()].concat();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let theirs = [pair("X_Device", "y"), pair("kind", "x")];
    let hello = |id| Hello { properties: properties.clone(), ..Hello::new(V5, id) };
    let of_device = told(&broker, &world.acme_mqtt(), &hello(DEVICE)).user_properties();
    assert_eq!(of_device, [&[pair("X-Device", DEVICE)], &theirs[..]].concat());
    let client = world.acme_mqtt().anonymous();
    assert_eq!(told(&broker, &client, &hello("somebody")).user_properties(), theirs);
}

#[test]
fn a_tenant_whose_upstream_has_no_broker_is_told_so() {
    let broker = Broker::start();
    let mut world = World::files(|_, config| config.mqtt(broker.address(), ""));
    // globex alone moves to an upstream that speaks HTTP only.
    let yaml = fs::read_to_string(world.file()).unwrap();
    let elsewhere = "  web:\n    http: [\"127.0.0.1:1\"]\ntenants:\n";
    let yaml = yaml.replace("tenants:\n", elsewhere);
    let (before, globex) = yaml.split_once("  - id: globex").unwrap();
    let (globex, _) = globex.split_once("    mqtt:").unwrap();
    let globex = globex.replace("upstream: platform", "upstream: web");
    world.write("portcullis.yaml", format!("{before}  - id: globex{globex}"));
    world.restart();
    let globex = world.globex_client().at(world.mqtts());
    for level in VERSIONS {
        is_refused(&globex, &Hello::new(level, "globex-device-1"), 3, 0x88);
        told(&broker, &world.acme_mqtt(), &Hello::new(level, DEVICE));
    }
}

#[test]
fn a_broker_that_is_down_refuses_with_server_unavailable() {
    let world = World::with(|_, config| config.mqtt(nobody(), ""));
    for level in VERSIONS {
        is_refused(&world.acme_mqtt(), &Hello::new(level, DEVICE), 3, 0x88);
    }
}

#[test]
fn the_next_broker_of_the_pool_is_asked_where_the_first_is_down() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtt(broker.address(), "");
        let both = format!("mqtt: [\"{}\", \"{}\"]", nobody(), broker.address());
        config.platform = format!("health: {{ interval: 1h, timeout: 1s }}\n{both}");
    });
    for level in VERSIONS {
        for _ in 0..2 {
            told(&broker, &world.acme_mqtt(), &Hello::new(level, DEVICE));
        }
    }
}

#[test]
fn a_brokers_own_refusal_is_handed_on_as_it_is() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let reference = [vec![0x1c], text("other.example.com"), vec![0x1f], text("not today")].concat();
    let of_5 = |code: u8| [vec![0, code], properties(&reference)].concat();
    let answers =
        [V31, V311].into_iter().flat_map(|level| (1..=5).map(move |c| (level, vec![0, c])));
    let answers = answers.chain([0x80, 0x86, 0x9c, 0x9d].map(|code| (V5, of_5(code))));
    for (level, body) in answers {
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, DEVICE).packet());
        let mut broker = broker.accept(level);
        broker.receive();
        let connack = Packet::new(CONNACK << 4, body);
        broker.send(&connack);
        assert_eq!(device.rest(), [connack]);
        assert_eq!(broker.next(), None);
    }
}

#[test]
fn a_broker_that_does_not_speak_mqtt_refuses_with_server_unavailable() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let garbage: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x00",
        b"\x20\x01\x00",
        b"",
    ];
    for level in VERSIONS {
        for answer in garbage {
            let mut device = world.acme_mqtt().mqtt(level);
            device.send(&Hello::new(level, DEVICE).packet());
            let mut broker = broker.accept(level);
            broker.receive();
            broker.write(answer);
            drop(broker);
            let told = of_connack(level, &device.receive());
            assert_eq!(told.code, if level == V5 { 0x88 } else { 3 }, "{answer:?}");
            assert_eq!(device.next(), None);
        }
    }
}

fn auth(code: u8, data: &[u8]) -> Packet {
    let method = [vec![0x15], text("SCRAM")].concat();
    let data = [vec![0x16], text(data)].concat();
    Packet::new(AUTH << 4, [vec![code], properties(&[method, data].concat())].concat())
}

fn authenticating() -> Hello {
    let properties = [vec![0x15], text("SCRAM"), vec![0x16], text(b"\xffone")].concat();
    Hello { properties, ..Hello::new(V5, DEVICE) }
}

#[test]
fn an_authentication_is_carried_to_and_fro_before_the_connack() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&authenticating().packet());
    let mut broker = broker.accept(V5);
    let connect = Told::of(&broker.receive());
    assert_eq!(connect.properties, Told::of(&authenticating().packet()).properties);
    for round in [&b"two"[..], b"\0\xff", &[b'x'; 5_000]] {
        broker.send(&auth(0x18, round));
        assert_eq!(device.receive(), auth(0x18, round));
        // The next packet is already on its way when the last round is answered.
        device.send(&auth(0x18, &[round, b"!"].concat()));
        assert_eq!(broker.receive(), auth(0x18, &[round, b"!"].concat()));
    }
    broker.accept_session();
    assert_eq!(device.receive().kind(), CONNACK);
    // Once more while the session lives (MQTT 5.0 §4.12.1).
    device.send(&auth(0x19, b"again"));
    assert_eq!(broker.receive(), auth(0x19, b"again"));
    broker.send(&auth(0x00, b"done"));
    assert_eq!(device.receive(), auth(0x00, b"done"));
    device.publish("up/x", 0, 0, b"after");
    assert_eq!(broker.receive().kind(), PUBLISH);
}

#[test]
fn an_authentication_that_a_device_gives_up_ends_at_the_broker_too() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&authenticating().packet());
    let mut side = broker.accept(V5);
    side.receive();
    side.send(&auth(0x18, b"two"));
    device.receive();
    let disconnect = Packet::new(DISCONNECT << 4, []);
    device.send(&disconnect);
    assert_eq!(side.rest(), [disconnect]);
    // Nobody is told "server unavailable" who has gone by himself.
    assert_eq!(device.rest(), []);
}

#[test]
fn nothing_but_auth_stands_between_connect_and_connack_of_an_authentication() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&authenticating().packet());
    let mut side = broker.accept(V5);
    side.receive();
    side.send(&auth(0x18, b"two"));
    device.receive();
    device.publish("up/x", 0, 0, b"too early");
    assert_eq!(of_connack(V5, &device.receive()).code, 0x82);
    assert_eq!(side.rest(), []);
}

#[test]
fn an_auth_of_a_broker_that_nobody_asked_for_is_no_answer() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&Hello::new(V5, DEVICE).packet());
    let mut side = broker.accept(V5);
    side.receive();
    side.send(&auth(0x18, b"two"));
    assert_eq!(of_connack(V5, &device.receive()).code, 0x88);
}

#[test]
fn packets_right_behind_the_connect_arrive_in_their_order() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    for level in VERSIONS {
        let packets: Vec<Packet> = (0..200_u16)
            .map(|n| publish(level, "up/x", 1, n + 1, &vec![b'x'; usize::from(n) * 5]))
            .collect();
        let bytes = packets.iter().flat_map(Packet::bytes);
        let all: Vec<u8> =
            Hello::new(level, DEVICE).packet().bytes().into_iter().chain(bytes).collect();
        let mut device = world.acme_mqtt().mqtt(level);
        device.write(&all);
        let (mut side, _) = broker.session(level);
        for packet in &packets {
            assert_eq!(&side.receive(), packet);
        }
        assert_eq!(device.receive().kind(), CONNACK);
    }
}
