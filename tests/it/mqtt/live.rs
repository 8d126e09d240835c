//! What happens to sessions that are open: judged again after a change, ended gradually when the
//! edge stops or the brokers change, closed cleanly where the broker goes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::pki::Template;
use crate::world::mqtt::{Broker, DISCONNECT, DeviceSide, Hello, Mosquitto, Packet, V5, V311};
use crate::world::{Client, Config, NOW, World, anchors, eventually, fingerprint};

/// From a change to the end of a session.
const PROMPT: Duration = Duration::from_secs(3);

const SERVER_SHUTTING_DOWN: u8 = 0x8b;
const NOT_AUTHORIZED: u8 = 0x87;
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const UNSPECIFIED: u8 = 0x80;

/// A world whose device comes by an uploaded root, beside one of acme's file.
fn uploaded(mosquitto: &Mosquitto) -> (World, String, Client) {
    let world = World::with(|_, config| config.mqtt(mosquitto.address(), ""));
    let root = Template::ca("Uploaded root").self_signed();
    let fingerprint = world.operator().trust("acme", &root, true);
    let leaf = Template::device("uploaded-1")
        .serial(&[0x5a, 1])
        .validity(NOW - 60, NOW + 3_600)
        .signed_by(&root);
    let client = world.acme_mqtt().identity(&[&leaf]);
    (world, fingerprint, client)
}

#[track_caller]
fn ends_with(device: &mut DeviceSide, code: u8) {
    let started = Instant::now();
    let rest = device.rest();
    let last = rest.last().map(|packet| (packet.kind(), packet.body.first().copied()));
    assert_eq!(last, Some((DISCONNECT, Some(code))));
    assert!(started.elapsed() < PROMPT, "after {:?}", started.elapsed());
}

#[test]
fn a_session_ends_when_its_device_is_trusted_no_longer() {
    let mosquitto = Mosquitto::start();
    type Change = (&'static str, u8, fn(&World, &str));
    let changes: [Change; 5] = [
        ("certificate_revoked", NOT_AUTHORIZED, |world, _| {
            let list = json!({ "crls": [{ "serialNumberInHex": "5A01" }] });
            let path = format!("{}/settings/crl", anchors("acme"));
            assert_eq!(world.api("PUT", &path, list).status, 204);
        }),
        ("issuer_unknown", NOT_AUTHORIZED, |world, print| {
            let path = format!("{}/{print}", anchors("acme"));
            assert_eq!(world.api("PUT", &path, json!({ "status": "DISABLED" })).status, 200);
        }),
        ("issuer_unknown", NOT_AUTHORIZED, |world, print| {
            let path = format!("{}/{print}", anchors("acme"));
            assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
        }),
        ("device_blocked", ADMINISTRATIVE_ACTION, |world, _| {
            let path = "/tenant/tenants/acme/devices/uploaded-1";
            assert_eq!(world.api("PUT", path, json!({ "status": "BLOCKED" })).status, 200);
        }),
        ("certificate_expired", NOT_AUTHORIZED, |world, _| world.clock.advance(3_601)),
    ];
    for (refusal, code, change) in changes {
        let (world, print, client) = uploaded(&mosquitto);
        let mut neighbour = world.acme_mqtt().mqtt_session(&Hello::new(V5, "acme-device-1"));
        let mut five = client.mqtt_session(&Hello::new(V5, "uploaded-1"));
        let mut three = client.mqtt_session(&Hello::new(V311, "d:uploaded-1"));
        change(&world, &print);
        ends_with(&mut five, code);
        // Before 5.0 the end of the connection is all that can be said.
        assert_eq!(three.rest(), []);
        let series =
            format!("portcullis_refusals_total{{protocol=\"mqtts\",reason=\"{refusal}\"}}");
        eventually("both ends are counted", || world.metric(&series) == 2.0);
        neighbour.ping();
    }
}

#[test]
fn a_session_goes_on_over_changes_that_do_not_concern_it() {
    let mosquitto = Mosquitto::start();
    let (world, print, _) = uploaded(&mosquitto);
    let mut device = world.acme_mqtt().mqtt_session(&Hello::new(V5, "acme-device-1"));
    let path = format!("{}/{print}", anchors("acme"));
    assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
    let option = "/tenant/tenants/acme/options/oauth.internal/device-token.lifespan.seconds";
    assert_eq!(world.api("PUT", option, json!({ "value": "7200" })).status, 200);
    world.reload().unwrap();
    let judged_twice = Instant::now() + Duration::from_millis(2_200);
    while Instant::now() < judged_twice {
        device.ping();
    }
}

#[test]
fn a_device_is_told_when_the_broker_goes_and_comes_back_by_itself() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    for level in [V5, V311] {
        let mut device = world.acme_mqtt().mqtt(level);
        device.send(&Hello::new(level, "acme-device-1").packet());
        let (side, _) = broker.session(level);
        device.receive();
        drop(side);
        if level == V5 {
            ends_with(&mut device, UNSPECIFIED);
        } else {
            assert_eq!(device.rest(), []);
        }
    }
    // What the broker itself says is handed on, and nothing after it.
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&Hello::new(V5, "acme-device-1").packet());
    let (mut side, _) = broker.session(V5);
    device.receive();
    let taken_over = Packet::new(DISCONNECT << 4, [0x8e]);
    side.send(&taken_over);
    drop(side);
    assert_eq!(device.rest(), [taken_over]);
}

#[test]
fn nothing_stands_inside_a_packet_that_the_broker_did_not_finish() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let mut device = world.acme_mqtt().mqtt(V5);
    device.send(&Hello::new(V5, "acme-device-1").packet());
    let (mut side, _) = broker.session(V5);
    device.receive();
    let half = b"\x30\x20\x00\x01xhalf of a message";
    side.write(half);
    let mut seen = vec![0; half.len()];
    std::io::Read::read_exact(&mut device.stream, &mut seen).unwrap();
    assert_eq!(seen, half);
    // The token waits for the packet's end ...
    device.publish("s/uat", 0, 0, b"");
    drop(side);
    // ... which never comes: the connection ends without another byte.
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut device.stream, &mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn the_broker_sees_the_end_of_a_device_that_goes_without_a_word() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let mut device = world.acme_mqtt().mqtt(V311);
    device.send(&Hello::new(V311, "acme-device-1").packet());
    let (mut side, _) = broker.session(V311);
    device.receive();
    device.publish("t/last", 0, 0, b"word");
    drop(device);
    assert_eq!(side.receive().body, b"\x00\x06t/lastword");
    assert_eq!(side.next(), None);
    eventually("the session is gone", || world.metric("portcullis_mqtt_sessions") == 0.0);
}

#[test]
fn a_drain_ends_sessions_one_after_the_other() {
    const SESSIONS: usize = 20;
    let mosquitto = Mosquitto::start();
    let mut world = World::with(|_, config| config.mqtt(mosquitto.address(), ""));
    let devices: Vec<_> = (0..SESSIONS)
        .map(|n| {
            let hello = Hello::new(V5, &format!("d:acme-device-1:{n}"));
            world.acme_mqtt().mqtt_session(&hello)
        })
        .collect();
    let started = Instant::now();
    let ends: Vec<_> = devices
        .into_iter()
        .map(|mut device| {
            std::thread::spawn(move || {
                ends_with(&mut device, SERVER_SHUTTING_DOWN);
                started.elapsed()
            })
        })
        .collect();
    world.drain();
    let mut ends: Vec<Duration> = ends.into_iter().map(|end| end.join().unwrap()).collect();
    ends.sort_unstable();
    // `drain_timeout` is 2 s in this world, and sessions end over most of it.
    let (first, last) = (ends[1], ends[SESSIONS - 2]);
    assert!(last - first > Duration::from_millis(700), "{ends:?}");
    assert!(last < Duration::from_millis(1_900), "{ends:?}");
}

#[test]
fn sessions_move_gradually_to_brokers_that_a_reload_brings() {
    const SESSIONS: usize = 4;
    let (old, new) = (Mosquitto::start(), Mosquitto::start());
    let world = World::with(|_, config| config.mqtt(old.address(), ""));
    let session = |n: usize| {
        let hello = Hello::new(V5, &format!("d:acme-device-1:{n}"));
        world.acme_mqtt().mqtt_session(&hello)
    };
    let devices: Vec<_> = (0..SESSIONS).map(session).collect();
    let mut config = Config::default();
    config.mqtt(new.address(), "");
    world.configure(&config);
    let started = Instant::now();
    world.reload().unwrap();
    let ends: Vec<_> = devices
        .into_iter()
        .map(|mut device| {
            std::thread::spawn(move || {
                let last = device.rest().pop().expect("a DISCONNECT");
                assert_eq!((last.kind(), last.body[0]), (DISCONNECT, SERVER_SHUTTING_DOWN));
                started.elapsed()
            })
        })
        .collect();
    // Whoever comes now is at the new broker.
    let mut newcomer = session(99);
    newcomer.ping();
    let mut ends: Vec<Duration> = ends.into_iter().map(|end| end.join().unwrap()).collect();
    ends.sort_unstable();
    let (first, last) = (ends[0], ends[SESSIONS - 1]);
    assert!(last - first > Duration::from_millis(1_500), "{ends:?}");
    assert!(last < Duration::from_secs(15), "{ends:?}");
    drop(old);
}

#[test]
fn a_session_ends_when_its_certificate_names_another_device() {
    let mosquitto = Mosquitto::start();
    let world = World::with(|_, config| config.mqtt(mosquitto.address(), ""));
    let leaf = Template::device("whoever").self_signed();
    let unpin = |device: &str| {
        let pin = fingerprint(&leaf);
        let path = format!("/tenant/tenants/acme/devices/{device}/pins/{pin}");
        assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
    };
    assert_eq!(world.operator().pin("acme", "meter-1", &leaf).status, 201);
    let client = world.acme_mqtt().identity(&[&leaf]);
    let mut device = client.mqtt_session(&Hello::new(V5, "meter-1"));
    device.ping();
    unpin("meter-1");
    assert_eq!(world.operator().pin("acme", "meter-2", &leaf).status, 201);
    ends_with(&mut device, ADMINISTRATIVE_ACTION);
    client.mqtt_session(&Hello::new(V5, "meter-2")).ping();
}

#[test]
fn a_session_without_a_certificate_ends_when_its_client_id_becomes_a_devices() {
    let mosquitto = Mosquitto::start();
    let world = World::with(|_, config| {
        config.mqtt(mosquitto.address(), "");
        config.acme("client_certificate: optional");
    });
    let anybody = world.client_at(world.mqtts(), "acme.example.com");
    let mut squatter = anybody.mqtt_session(&Hello::new(V5, "d:meter-1"));
    let mut neighbour = anybody.mqtt_session(&Hello::new(V5, "d:meter-2"));
    let leaf = Template::device("meter-1").self_signed();
    assert_eq!(world.operator().pin("acme", "meter-1", &leaf).status, 201);
    ends_with(&mut squatter, ADMINISTRATIVE_ACTION);
    neighbour.ping();
}
