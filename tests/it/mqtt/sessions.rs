//! From CONNECT to the end of a session.

use crate::world::World;
use crate::world::mqtt::{Hello, Mosquitto, PUBLISH, SUBACK, V5, V31, V311, message};

#[test]
fn a_device_talks_to_the_broker_in_each_version() {
    let mosquitto = Mosquitto::start();
    let world = World::with(|_, config| config.mqtt(mosquitto.address(), ""));
    for level in [V31, V311, V5] {
        let mut device = world.acme_mqtt().mqtt_session(&Hello::new(level, "acme-device-1"));
        device.subscribe(1, &[("up/#", 1)]);
        assert_eq!(device.receive_kind(SUBACK).body.last(), Some(&1));
        device.publish("up/x", 1, 7, b"hello");
        let echo = device.receive_kind(PUBLISH);
        let (topic, _, _, payload) = message(level, &echo);
        assert_eq!((topic.as_str(), payload.as_slice()), ("up/x", &b"hello"[..]));
    }
    // By what is counted of answers a broker is no upstream that fails.
    let taken = "portcullis_upstream_responses_total{status=\"2xx\",upstream=\"platform/mqtt\"}";
    assert_eq!(world.metric(taken), 3.0);
}

#[test]
fn a_token_comes_to_whoever_asks_for_it_and_is_that_of_https() {
    let mosquitto = Mosquitto::start();
    let world = World::with(|_, config| config.mqtt(mosquitto.address(), ""));
    let over_https = world.acme_client().token().unwrap().text();
    for level in [V31, V311, V5] {
        let mut device = world.acme_mqtt().mqtt_session(&Hello::new(level, "d:acme-device-1:x"));
        device.subscribe(1, &[("s/dat", 1)]);
        assert_eq!(device.receive_kind(SUBACK).body.last(), Some(&0));
        device.publish("s/uat", 0, 0, b"");
        let (topic, _, _, payload) = message(level, &device.receive_kind(PUBLISH));
        let payload = String::from_utf8(payload).unwrap();
        assert_eq!(topic, "s/dat");
        assert_eq!(over_https, format!("{{\"accessToken\":\"{}\"}}", &payload[3..]));
        assert!(payload.starts_with("71,"));
    }
}
