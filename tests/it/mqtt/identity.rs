//! Who may come in: client ids, user names and certificates held against each other.

use portcullis::registry::DeviceStatus;
use serde_json::Value;

use super::told::{Told, is_refused, optional, refused};
use crate::admin::prove;
use crate::pki::{Crl, Template};
use crate::registry::set_status;
use crate::world::mqtt::{
    Broker, CONNACK, Hello, Mosquitto, PUBLISH, SUBACK, V5, V31, V311, message, user_property,
};
use crate::world::{Client, Failure, NOW, World};

pub const VERSIONS: [u8; 3] = [V31, V311, V5];
const DEVICE: &str = "acme-device-1";
const ANY: &str = "- { bind: \"127.0.0.1:0\", client_certificates: false }\n";

/// Another device of acme, which the registry knows once it has come.
fn neighbour(world: &World, name: &str) -> Client {
    let device = world.acme.another(name);
    world.acme_mqtt().identity(&[&device, &world.acme.issuing])
}

fn anonymous(world: &World) -> Client {
    world.acme_mqtt().anonymous()
}

/// The CONNECT that a broker gets of this client.
#[track_caller]
pub fn told(broker: &Broker, client: &Client, hello: &Hello) -> Told {
    let mut device = client.mqtt(hello.level);
    device.send(&hello.packet());
    let (_session, connect) = broker.session(hello.level);
    let connack = device.receive();
    assert_eq!((connack.kind(), connack.body[1]), (CONNACK, 0), "{connack:?}");
    Told::of(&connect)
}

#[test]
fn a_device_calls_itself_by_its_name_in_three_ways() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    for level in VERSIONS {
        for id in [DEVICE, "d:acme-device-1", "d:acme-device-1:", "d:acme-device-1:c8y_T:x"] {
            let told = told(&broker, &world.acme_mqtt(), &Hello::new(level, id));
            assert_eq!((told.level, told.client_id), (level, format!("acme/{id}")));
        }
    }
}

#[test]
fn forged_and_empty_client_ids_are_refused_and_never_reach_the_broker() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    told(&broker, &neighbour(&world, "acme-device-2"), &Hello::new(V311, "acme-device-2"));
    let forged = [
        "",
        "acme-device-2",
        "d:acme-device-2",
        "d:acme-device-2:acme-device-1",
        "acme-device-3",
        "globex-device-1",
        "ACME-DEVICE-1",
        "acme-device-1 ",
        " acme-device-1",
        "acme-device-1:t",
        "acme-device-1x",
        "acme-device-",
        "D:acme-device-1",
        "d:",
        "d::acme-device-1",
        "x",
        "é",
    ];
    for level in VERSIONS {
        for id in forged {
            let hello = Hello::new(level, id);
            is_refused(&world.acme_mqtt(), &hello, 5, 0x85);
            let silent = Hello { properties: vec![0x17, 0], ..hello };
            assert_eq!(refused(&world.acme_mqtt(), &silent).reason, None);
        }
    }
    // Connections are taken in their order: none came before this one.
    assert_eq!(
        told(&broker, &world.acme_mqtt(), &Hello::new(V5, DEVICE)).client_id,
        "acme/acme-device-1"
    );
}

#[test]
fn a_reason_string_tells_a_device_what_is_wrong_and_nothing_of_others() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    told(&broker, &neighbour(&world, "acme-device-2"), &Hello::new(V5, "acme-device-2"));
    let of_known = refused(&world.acme_mqtt(), &Hello::new(V5, "acme-device-2"));
    let of_unknown = refused(&world.acme_mqtt(), &Hello::new(V5, "acme-device-3"));
    assert_eq!(of_known, of_unknown);
    assert!(of_known.reason.unwrap().contains("client identifier"));
    // MQTT 5.0 §3.2.2.3.9: no reason in a packet that would be larger than the client takes.
    for (largest, told) in [(5_u32, false), (40, false), (200, true)] {
        let properties = [&[0x27], &largest.to_be_bytes()[..]].concat();
        let hello = Hello { properties, ..Hello::new(V5, "acme-device-2") };
        assert_eq!(refused(&world.acme_mqtt(), &hello).reason.is_some(), told, "{largest}");
    }
}

#[test]
fn a_lasting_session_without_a_client_id_is_refused_as_the_protocol_says() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    for level in VERSIONS {
        let hello = Hello { clean: false, ..Hello::new(level, "") };
        // MQTT 3.1.1 §3.1.3.1: identifier rejected.
        is_refused(&world.acme_mqtt(), &hello, 2, 0x85);
    }
}

#[test]
fn a_tenants_patterns_replace_the_usual_ones() {
    let broker = Broker::start();
    let patterns = ", client_ids: [\"fleet/{device}\", \"{device}/*\"]";
    let world = World::with(|_, config| config.mqtt(broker.address(), patterns));
    for level in VERSIONS {
        for id in ["fleet/acme-device-1", "acme-device-1/", "acme-device-1/a/b"] {
            let told = told(&broker, &world.acme_mqtt(), &Hello::new(level, id));
            assert_eq!(told.client_id, format!("acme/{id}"));
        }
        for id in [DEVICE, "d:acme-device-1", "fleet/acme-device-2", "acme-device-2/a"] {
            is_refused(&world.acme_mqtt(), &Hello::new(level, id), 5, 0x85);
        }
        for id in ["/acme-device-1", "x y/acme-device-1", "fleet:acme-device-1/x"] {
            is_refused(&world.acme_mqtt(), &Hello::new(level, id), 2, 0x85);
        }
    }
}

#[test]
fn what_brokers_put_into_topic_patterns_is_in_no_client_id_and_no_user_name() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtt(broker.address(), "");
        optional(config);
    });
    for level in VERSIONS {
        for odd in ["+", "#", "\u{1}", "\r\n", "\u{1b}[2J", "\u{7f}", "\u{85}"] {
            for id in [format!("d:acme-device-1:{odd}"), format!("{odd}x")] {
                for client in [world.acme_mqtt(), anonymous(&world)] {
                    is_refused(&client, &Hello::new(level, &id), 2, 0x85);
                }
            }
            let hello = Hello::new(level, "d:acme-device-1").credentials(&format!("a{odd}"), "x");
            is_refused(&world.acme_mqtt(), &hello, 5, 0x87);
            let hello = Hello::new(level, "nobody").credentials(&format!("a{odd}"), "x");
            is_refused(&anonymous(&world), &hello, 5, 0x87);
        }
        // Else `up/%c/#` would open the tree of another device.
        for id in ["d:acme-device-1:a/b", "acme-device-2/x", "/", "x/y"] {
            for client in [world.acme_mqtt(), anonymous(&world)] {
                is_refused(&client, &Hello::new(level, id), 2, 0x85);
            }
        }
        let user = Hello::new(level, "nobody").credentials("t123/user@example.com", "x");
        let told = told(&broker, &anonymous(&world), &user);
        assert_eq!(told.user_name.as_deref(), Some("t123/user@example.com"));
    }
}

/// A session that lasts, subscribed to `for-victim`.
fn lasting(level: u8, clean: bool) -> Hello {
    let properties = if level == V5 { vec![0x11, 0, 0, 0xff, 0xff] } else { Vec::new() };
    Hello { clean, properties, ..Hello::new(level, DEVICE) }
}

#[test]
fn nobody_takes_over_the_session_of_another_device() {
    for level in VERSIONS {
        let mosquitto = Mosquitto::start();
        let world = World::with(|_, config| {
            config.mqtt(mosquitto.address(), "");
            optional(config);
        });
        let mut victim = world.acme_mqtt().mqtt_session(&lasting(level, false));
        victim.subscribe(1, &[("for-victim", 1)]);
        assert_eq!(victim.receive().kind(), SUBACK);
        let attack = || {
            for clean in [true, false] {
                for id in [DEVICE, "d:acme-device-1", "d:acme-device-1:x"] {
                    let hello = Hello { client_id: id.into(), ..lasting(level, clean) };
                    is_refused(&neighbour(&world, "acme-device-2"), &hello, 5, 0x85);
                    is_refused(&anonymous(&world), &hello, 5, 0x85);
                    let with_password = hello.credentials(DEVICE, "secret");
                    is_refused(&anonymous(&world), &with_password, 5, 0x85);
                }
                // Another tenant's client of the same name is somebody else.
                let globex = world.globex_client().at(world.mqtts());
                let id = "acme/acme-device-1".to_owned();
                is_refused(&globex, &Hello { client_id: id, ..lasting(level, clean) }, 2, 0x85);
            }
        };
        attack();
        victim.ping();
        drop(victim);
        attack();
        let mut platform = mosquitto.session(&Hello::new(V311, "platform"));
        platform.publish("for-victim", 1, 1, b"kept");
        platform.receive();
        let mut victim = world.acme_mqtt().mqtt(level);
        victim.send(&lasting(level, false).packet());
        let connack = victim.receive();
        // 3.1 has no flag for it.
        assert_eq!(connack.body[..2], [u8::from(level != V31), 0]);
        let (topic, _, _, payload) = message(level, &victim.receive_kind(PUBLISH));
        assert_eq!((topic.as_str(), &payload[..]), ("for-victim", &b"kept"[..]));
    }
}

#[test]
fn what_a_device_with_a_certificate_claims_in_user_name_and_password_is_dropped() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    for level in VERSIONS {
        let hello = Hello::new(level, DEVICE).credentials("admin", "secret");
        let told = told(&broker, &world.acme_mqtt(), &hello);
        assert_eq!((told.user_name, told.password), (None, None));
        assert_eq!(told.flags, 0x02);
    }
}

/// Everything that a client without a certificate may say.
fn credentials(level: u8) -> Vec<Hello> {
    let hello = Hello::new(level, "some client: 1");
    let mut all = vec![
        hello.clone(),
        hello.clone().credentials("tenant/user", "pässword #+/"),
        hello.clone().credentials("", ""),
        Hello { user_name: Some("an.access-token".into()), ..hello.clone() },
        Hello { password: Some(vec![0, 0xff, 0xfe, b'\n']), ..hello.clone().credentials("u", "") },
        Hello { password: Some(vec![b'x'; 40_000]), ..hello.clone().credentials("u", "") },
        Hello {
            will: Some(("up/gone".into(), b"\0\xff gone".to_vec())),
            keep_alive: 7,
            ..hello.clone()
        },
        Hello::new(level, ""),
    ];
    if level == V5 {
        all.push(Hello { password: Some(b"alone".to_vec()), ..hello.clone() });
        let properties = [
            vec![0x11, 0, 0, 0x0e, 0x10],
            vec![0x21, 0, 9],
            vec![0x27, 0, 1, 0, 0],
            vec![0x22, 0, 5],
            vec![0x19, 1],
            vec![0x17, 0],
            user_property("a", "1"),
            user_property("a", "2"),
            vec![0x15, 0, 1, b'm', 0x16, 0, 2, 0, 0xff],
        ];
        all.push(Hello { properties: properties.concat(), clean: false, ..hello });
    }
    all
}

#[test]
fn clients_without_a_certificate_are_passed_on_as_they_came() {
    let broker = Broker::start();
    for mode in ["optional", "none"] {
        let world = World::with(|_, config| {
            config.mqtt(broker.address(), "");
            config.mqtts.push_str(ANY);
            config.acme(&format!("client_certificate: {mode}"));
        });
        for level in VERSIONS {
            for hello in credentials(level) {
                for listener in world.server().mqtts_addresses() {
                    let client = anonymous(&world).at(*listener);
                    let told = told(&broker, &client, &hello);
                    let mut expected = Told::of(&hello.packet());
                    if !expected.client_id.is_empty() {
                        expected.client_id.insert_str(0, "acme/");
                    }
                    assert_eq!(told, expected, "{mode}");
                }
            }
        }
    }
}

#[test]
fn clients_without_a_certificate_do_not_take_the_names_of_registered_devices() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtt(broker.address(), "");
        config.mqtts.push_str(ANY);
        optional(config);
    });
    let listeners = world.server().mqtts_addresses();
    let names = [DEVICE, "d:acme-device-1", "d:acme-device-1:t"];
    for (index, level) in VERSIONS.into_iter().enumerate() {
        for id in names.into_iter().filter(|_| index == 0) {
            told(&broker, &anonymous(&world), &Hello::new(level, id));
        }
        told(&broker, &world.acme_mqtt(), &Hello::new(level, DEVICE));
        for id in names {
            for listener in listeners {
                let hello = Hello::new(level, id).credentials(DEVICE, "secret");
                is_refused(&anonymous(&world).at(*listener), &hello, 5, 0x85);
            }
        }
    }
}

#[test]
fn a_tenant_that_requires_certificates_lets_nobody_in_without() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtt(broker.address(), "");
        config.mqtts.push_str(ANY);
    });
    let unasked = anonymous(&world).at(world.server().mqtts_addresses()[1]);
    let asked = anonymous(&world);
    for level in VERSIONS {
        let hello = Hello::new(level, "some-client").credentials("user", "secret");
        is_refused(&unasked, &hello, 5, 0x87);
    }
    assert_eq!(asked.connect().unwrap().until_closed(), Failure::Alert(116));
    // A certificate that a listener does not ask for is none.
    let shown = world.acme_client().at(world.server().mqtts_addresses()[1]);
    is_refused(&shown, &Hello::new(V5, DEVICE), 5, 0x87);
}

#[test]
fn unknown_and_blocked_devices_are_refused() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.acme = "trusted_certificates: [{ file: acme-root.pem }]".into();
        config.mqtt(broker.address(), "");
    });
    for level in VERSIONS {
        is_refused(&world.acme_mqtt(), &Hello::new(level, DEVICE), 5, 0x87);
    }
    let path = "/devicecontrol/bulkNewDeviceRequests?tenant=acme";
    let registered = world.operator().send(
        "POST",
        path,
        "text/csv",
        b"ID,AUTH_TYPE\nacme-device-1,CERTIFICATES\n",
    );
    assert_eq!(registered.status, 201, "{registered:?}");
    told(&broker, &world.acme_mqtt(), &Hello::new(V5, DEVICE));
    set_status(&world, DEVICE, DeviceStatus::Blocked);
    for level in VERSIONS {
        is_refused(&world.acme_mqtt(), &Hello::new(level, DEVICE), 5, 0x87);
    }
}

#[test]
fn a_device_is_registered_with_its_first_call() {
    let broker = Broker::start();
    for level in VERSIONS {
        let world = World::with(|_, config| config.mqtt(broker.address(), ""));
        let path = "/tenant/tenants/acme/devices/acme-device-1";
        // A name that it may not have registers nobody else.
        is_refused(&world.acme_mqtt(), &Hello::new(level, "acme-device-2"), 5, 0x85);
        assert_eq!(world.api("GET", &path.replace("-1", "-2"), Value::Null).status, 404);
        told(&broker, &world.acme_mqtt(), &Hello::new(level, "d:acme-device-1:t"));
        let device = world.api("GET", path, Value::Null);
        assert_eq!((device.status, device.json()["status"].clone()), (200, "ACTIVE".into()));
    }
}

#[test]
fn certificates_that_do_not_hold_end_the_handshake() {
    let broker = Broker::start();
    let day = 86_400;
    let world = World::with(|world, config| {
        let crl = Crl::of(&world.acme.issuing).revoke(&world.acme.device);
        world.write("acme.crl", crl.der());
        world.write("acme-issuing.pem", world.acme.issuing.pem());
        config.acme("intermediates: [acme-issuing.pem]");
        config.acme("crls: { files: [acme.crl] }");
        config.mqtt(broker.address(), "");
    });
    let pki = &world.acme;
    let expired = Template::device("acme-device-2").validity(NOW - 2 * day, NOW - day);
    let expired = expired.signed_by(&pki.issuing);
    let early = Template::device("acme-device-2").validity(NOW + day, NOW + 2 * day);
    let early = early.signed_by(&pki.issuing);
    let globex = &world.globex;
    for (chain, alert) in [
        ([&expired, &pki.issuing], 45),
        ([&early, &pki.issuing], 45),
        ([&pki.device, &pki.issuing], 44),
        ([&globex.device, &globex.issuing], 48),
    ] {
        let client = world.acme_mqtt().identity(&chain);
        assert_eq!(client.connect().unwrap().until_closed(), Failure::Alert(alert));
    }
}

#[test]
fn an_incomplete_chain_stays_so_over_mqtt() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.acme("complete_chain_from_header: true");
        config.mqtt(broker.address(), "");
    });
    let leaf = world.acme_mqtt().identity(&[&world.acme.device]);
    for level in VERSIONS {
        is_refused(&leaf, &Hello::new(level, DEVICE), 5, 0x87);
        told(&broker, &world.acme_mqtt(), &Hello::new(level, DEVICE));
    }
}

#[test]
fn the_server_name_decides_on_the_tenant() {
    let broker = Broker::start();
    let world = World::with(|_, config| config.mqtt(broker.address(), ""));
    let strange = world.acme_mqtt().server_name("globex.example.com");
    assert_eq!(strange.connect().unwrap().until_closed(), Failure::Alert(48));
    for client in [
        world.acme_mqtt().server_name("nobody.example.org"),
        world.acme_mqtt().without_server_name(),
    ] {
        assert_eq!(client.connect().err(), Some(Failure::Alert(112)));
    }
    let dotted = world.acme_mqtt().server_name("mqtt.acme.example.com");
    assert_eq!(told(&broker, &dotted, &Hello::new(V5, DEVICE)).client_id, "acme/acme-device-1");
}

#[test]
fn without_a_server_name_the_listener_or_the_certificate_names_the_tenant() {
    let broker = Broker::start();
    let by_certificate = "tenant_by_certificate: { chain: server.pem, key: server.key }";
    for way in ["default_tenant: acme", by_certificate] {
        let world = World::with(|_, config| {
            if way == by_certificate {
                (config.acme, config.globex) = Default::default();
            }
            config.mqtt(broker.address(), "");
            config.mqtts = format!("- {{ bind: \"127.0.0.1:0\", {way} }}");
        });
        if way == by_certificate {
            // Only a proven anchor names its tenant.
            let api = world.operator();
            for (tenant, root) in [("acme", &world.acme.root), ("globex", &world.globex.root)] {
                let fingerprint = api.trust(tenant, root, true);
                assert_eq!(prove(&api, tenant, &fingerprint, root), 200);
            }
        }
        let acme = world.acme_mqtt().without_server_name();
        let globex = world.globex_client().at(world.mqtts()).without_server_name();
        for level in VERSIONS {
            let told_acme = told(&broker, &acme, &Hello::new(level, DEVICE));
            assert_eq!(told_acme.client_id, "acme/acme-device-1");
            if way == by_certificate {
                let told = told(&broker, &globex, &Hello::new(level, "globex-device-1"));
                assert_eq!(told.client_id, "globex/globex-device-1");
                is_refused(&globex, &Hello::new(level, DEVICE), 5, 0x85);
            } else {
                assert_eq!(globex.connect().unwrap().until_closed(), Failure::Alert(48));
            }
        }
    }
}
