//! What an operator sees of MQTT: one event for each session and each refusal, and numbers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::identity::VERSIONS;
use super::told::optional;
use crate::world::mqtt::{
    Broker, CONNACK, DISCONNECT, Hello, Mosquitto, PUBLISH, Packet, SUBACK, V5, V31, V311, message,
    publish,
};
use crate::world::{Client, Process, World, eventually};

const DEVICE: &str = "acme-device-1";
const SESSION: &str = "portcullis::session";

fn logged(broker: SocketAddr) -> World {
    World::files(|_, config| {
        config.log = "{ format: json, level: info }".into();
        config.mqtt(broker, "");
        optional(config);
    })
}

/// The one event about sessions so far that is not among the first ones.
#[track_caller]
fn next_event(process: &Process, before: usize) -> Value {
    let closed = || {
        let mut events = process.events(SESSION);
        events.retain(|event| event["message"] == "session");
        events
    };
    eventually("the session is logged", || closed().len() > before);
    let mut events = closed();
    assert_eq!(events.len(), before + 1, "{events:#?}");
    events.remove(before)
}

fn warnings(process: &Process) -> usize {
    let lines = process.lines();
    let levels =
        lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["level"].clone());
    levels.filter(|level| level != "INFO").count()
}

#[test]
fn a_refused_connect_leaves_one_warning_that_says_who_and_why() {
    let broker = Broker::start();
    let world = logged(broker.address());
    let mut process = Process::run(&world);
    let device = process.acme_client(&world).at(process.mqtts.unwrap());
    let long = "x".repeat(2_000);
    let mut events = 0;
    // Of the machine, such as too few file descriptors.
    let at_start = warnings(&process);
    let mut refused = |client: &Client, level, id: &str| {
        let mut device = client.mqtt(level);
        device.send(&Hello::new(level, id).credentials("s3cret-user", "s3cret-password").packet());
        assert_ne!(device.receive().body[1], 0);
        assert_eq!(device.next(), None);
        events += 1;
        let event = next_event(&process, events - 1);
        assert_eq!(event["level"], "WARN");
        assert_eq!(warnings(&process), at_start + events, "{}", process.text());
        event
    };
    for (level, version) in [(V31, "3.1"), (V311, "3.1.1"), (V5, "5.0")] {
        let event = refused(&device, level, "d:acme-device-2");
        let expected = [
            ("tenant", json!("acme")),
            ("device", json!(DEVICE)),
            ("client_id", json!("d:acme-device-2")),
            ("version", json!(version)),
            ("accepted", json!(false)),
            ("closed_by", json!("edge")),
            ("refusal", json!("misdirected")),
            ("reason", json!("the client id names another device")),
        ];
        for (field, value) in expected {
            assert_eq!(event[field], value, "{event}");
        }
        let event = refused(&device, level, "x\r\n\u{1b}[2J\u{202e}");
        assert_eq!(event["refusal"], "protocol_error");
        assert_eq!(event["client_id"], "x\\r\\n\\u{1b}[2J\\u{202e}");
        let event = refused(&device, level, &long);
        assert_eq!(event["client_id"], long[..256]);
        let event = refused(&device.clone().anonymous(), level, "acme-device-1+");
        assert_eq!((&event["tenant"], &event["device"]), (&json!("acme"), &Value::Null));
        assert!(event["reason"].as_str().unwrap().contains("`+`"), "{event}");
    }
    process.signal(libc::SIGTERM);
    process.wait();
    assert!(!process.text().contains("s3cret"), "{}", process.text());
}

#[test]
fn a_brokers_refusal_and_its_silence_are_told_apart_in_the_log() {
    let broker = Broker::start();
    let world = logged(broker.address());
    let process = Process::run(&world);
    let client = process.acme_client(&world).at(process.mqtts.unwrap());
    for (index, (answer, refusal, reason)) in [
        (&[0, 0x87, 0][..], "platform_refused", "0x87"),
        (&[], "upstream_unavailable", "without a CONNACK"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut device = client.mqtt(V5);
        device.send(&Hello::new(V5, DEVICE).packet());
        let mut side = broker.accept(V5);
        side.receive();
        if !answer.is_empty() {
            side.send(&Packet::new(CONNACK << 4, answer));
        }
        drop(side);
        device.rest();
        let event = next_event(&process, index);
        assert_eq!((&event["tenant"], &event["refusal"]), (&json!("acme"), &json!(refusal)));
        assert!(event["reason"].as_str().unwrap().contains(reason), "{event}");
        assert_eq!((&event["level"], &event["client_id"]), (&json!("WARN"), &json!(DEVICE)));
    }
}

#[test]
fn a_session_leaves_one_event_with_its_sums() {
    let mosquitto = Mosquitto::start();
    let world = logged(mosquitto.address());
    let process = Process::run(&world);
    let client = process.acme_client(&world).at(process.mqtts.unwrap());
    let at_start = warnings(&process);
    for (index, level) in VERSIONS.into_iter().enumerate() {
        let mut device = client.mqtt_session(&Hello::new(level, DEVICE));
        device.subscribe(1, &[("up/#", 0)]);
        assert_eq!(device.receive().kind(), SUBACK);
        for _ in 0..3 {
            device.publish("up/x", 0, 0, b"hello");
            assert_eq!(device.receive().kind(), PUBLISH);
        }
        device.publish("elsewhere", 0, 0, b"hello");
        device.send(&Packet::new(DISCONNECT << 4, []));
        device.rest();
        let event = next_event(&process, index);
        assert_eq!((&event["level"], &event["closed_by"]), (&json!("INFO"), &json!("device")));
        assert_eq!((&event["accepted"], &event["refusal"]), (&json!(true), &Value::Null));
        let sums = (&event["messages_from_device"], &event["messages_to_device"]);
        assert_eq!(sums, (&json!(4), &json!(3)), "{event}");
        assert_eq!(event["tokens"], 0);
    }
    assert_eq!(warnings(&process), at_start, "{}", process.text());
}

#[test]
fn the_numbers_of_mqtt_are_counted() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let connects = |result: &str| {
        let labels = format!("{{result=\"{result}\",tenant=\"acme\"}}");
        world.metric(&format!("portcullis_mqtt_connects_total{labels}"))
    };
    let traffic = |what: &str, direction: &str| {
        let labels = format!("{{direction=\"{direction}\",tenant=\"acme\"}}");
        world.metric(&format!("portcullis_mqtt_{what}_total{labels}"))
    };
    let sessions = || world.metric("portcullis_mqtt_sessions");
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&Hello::new(V5, DEVICE).packet());
    let (mut side, _) = broker.session(V5);
    device.receive();
    assert_eq!((connects("accepted"), connects("refused"), sessions()), (1.0, 0.0, 1.0));
    let opened = traffic("bytes", "to_device");
    let up = publish(V5, "up/x", 0, 0, &[b'x'; 50_000]);
    let down = publish(V5, "down/x", 0, 0, &[b'x'; 70_000]);
    device.send(&up);
    assert_eq!(side.receive(), up);
    for _ in 0..2 {
        side.send(&down);
        assert_eq!(message(V5, &device.receive()).0, "down/x");
    }
    assert_eq!((traffic("messages", "from_device"), traffic("messages", "to_device")), (1.0, 2.0));
    assert_eq!(traffic("bytes", "from_device"), up.bytes().len() as f64);
    assert_eq!(traffic("bytes", "to_device") - opened, 2.0 * down.bytes().len() as f64);
    drop(device);
    eventually("the session ends", || sessions() == 0.0);

    let refusals = |reason: &str| {
        let labels = format!("{{protocol=\"mqtts\",reason=\"{reason}\"}}");
        world.metric(&format!("portcullis_refusals_total{labels}"))
    };
    let mut expected = BTreeMap::new();
    for (id, reason) in
        [("acme-device-2", "misdirected"), ("+", "protocol_error"), ("x", "misdirected")]
    {
        let mut device = world.acme_mqtt().mqtt(V311);
        device.send(&Hello::new(V311, id).packet());
        device.rest();
        *expected.entry(reason).or_insert(0.0) += 1.0;
    }
    let mut device = world.acme_mqtt().mqtt(V311);
    device.send(&Hello::new(V311, DEVICE).packet());
    let mut side = broker.accept(V311);
    side.receive();
    side.send(&Packet::new(CONNACK << 4, [0, 5]));
    device.rest();
    expected.insert("platform_refused", 1.0);
    eventually("the refusals are counted", || connects("refused") == 4.0);
    for (reason, count) in expected {
        assert_eq!(refusals(reason), count, "{reason}");
    }
    assert_eq!((connects("accepted"), sessions()), (1.0, 0.0));
}
