//! How a broker learns who a device is: each way, and several at once.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::ssl::SslVersion;
use serde_json::{Value, json};

use super::identity::{VERSIONS, told};
use super::told::{Told, is_refused, optional};
use crate::jwt::{Jwt, jwks};
use crate::tools::{ask, python};
use crate::world::mqtt::{Broker, BrokerSide, CONNACK, Hello, V5, V31, V311};
use crate::world::{Client, Config, World, fingerprint};

const DEVICE: &str = "acme-device-1";

fn world(broker: &Broker, mqtt: &str) -> World {
    World::with(|_, config| config.mqtt(broker.address(), mqtt))
}

#[test]
fn user_name_and_password_are_written_from_what_is_known() {
    let broker = Broker::start();
    let fields = "user_name: \"{tenant}/device_{device}\", password: \"{fingerprint}-{client_id}\"";
    let world = world(&broker, &format!(", {fields}"));
    for level in VERSIONS {
        for hello in [
            Hello::new(level, "d:acme-device-1:t"),
            Hello::new(level, "d:acme-device-1:t").credentials("acme/device_admin", "guess"),
        ] {
            let told = told(&broker, &world.acme_mqtt(), &hello);
            assert_eq!(told.user_name.as_deref(), Some("acme/device_acme-device-1"));
            let password = format!("{}-d:acme-device-1:t", fingerprint(&world.acme.device));
            assert_eq!(told.password, Some(password.into_bytes()));
        }
    }
}

#[test]
fn the_devices_token_stands_where_the_tenant_wants_it_and_is_that_of_https() {
    let broker = Broker::start();
    for (fields, in_user_name) in [
        ("user_name: \"{device}\", password: \"{token}\"", false),
        ("user_name: \"{token}\"", true),
    ] {
        let world = world(&broker, &format!(", {fields}"));
        for level in VERSIONS {
            let told = told(&broker, &world.acme_mqtt(), &Hello::new(level, DEVICE));
            let password = told.password.map(|password| String::from_utf8(password).unwrap());
            let token = if in_user_name { told.user_name } else { password }.unwrap();
            assert_eq!(token, world.acme_client().token().unwrap().access_token());
            let jwt = Jwt::parse(&token);
            assert!(jwt.verifies(&jwks(&world.acme_client())));
            assert_eq!(jwt.claims["sub"], "device_acme-device-1");
        }
    }
}

#[test]
fn what_the_device_sent_can_be_passed_on_by_template() {
    let broker = Broker::start();
    let fields = ", user_name: \"{device}:{user_name}\", password: \"{password}\"";
    let world = world(&broker, fields);
    for level in VERSIONS {
        let binary = Some(vec![0, 0xff, b'+', b'\n']);
        let hello = Hello { password: binary.clone(), ..Hello::new(level, DEVICE) };
        let hello = Hello { user_name: Some("t1/user".into()), ..hello };
        let told = told(&broker, &world.acme_mqtt(), &hello);
        assert_eq!(told.user_name.as_deref(), Some("acme-device-1:t1/user"));
        assert_eq!(told.password, binary);
        let silent = super::identity::told(&broker, &world.acme_mqtt(), &Hello::new(level, DEVICE));
        assert_eq!(silent.user_name.as_deref(), Some("acme-device-1:"));
        assert_eq!(silent.password, Some(Vec::new()));
    }
}

#[test]
fn a_password_does_not_bring_into_a_user_name_what_no_user_name_may_hold() {
    let broker = Broker::start();
    let world = world(&broker, ", user_name: \"{device}:{password}\"");
    for level in VERSIONS {
        let with = |password: &[u8]| Hello {
            password: Some(password.to_vec()),
            ..Hello::new(level, DEVICE).credentials("u", "")
        };
        let told = told(&broker, &world.acme_mqtt(), &with(b"plain/text"));
        assert_eq!(told.user_name.as_deref(), Some("acme-device-1:plain/text"));
        for odd in [&b"+"[..], b"x#", b"x\n", b"\0", b"\xff\xfe"] {
            is_refused(&world.acme_mqtt(), &with(odd), 5, 0x87);
        }
    }
}

#[test]
fn values_that_no_longer_fit_a_packet_are_refused_and_never_cut() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config
            .mqtt(broker.address(), ", user_name: \"{tenant}{user_name}\", password: \"{token}\"");
        config.limits = "mqtt_connect_bytes: 200KiB".into();
        optional(config);
    });
    let longest = "x".repeat(65_535);
    for level in VERSIONS {
        let hello = Hello::new(level, DEVICE).credentials(&longest, "x");
        let anonymous = world.acme_mqtt().anonymous();
        is_refused(&world.acme_mqtt(), &hello, 5, 0x81);
        is_refused(&anonymous, &Hello::new(level, &longest), 5, 0x81);
        let fits = &longest["acme".len()..];
        let hello = Hello::new(level, DEVICE).credentials(fits, "x");
        let told = told(&broker, &world.acme_mqtt(), &hello);
        assert_eq!(told.user_name, Some(format!("acme{fits}")));
    }
}

#[test]
fn user_properties_say_who_a_device_is_in_5_0_and_nothing_is_said_before() {
    let broker = Broker::start();
    let world = world(
        &broker,
        ", user_properties: { tenant: \"{tenant}\", device: \"{device}\", token: \"{token}\", \
         leaf: \"{fingerprint}\", fixed: some text }",
    );
    let token = world.acme_client().token().unwrap().access_token();
    let leaf = fingerprint(&world.acme.device);
    let told_5 = told(&broker, &world.acme_mqtt(), &Hello::new(V5, DEVICE));
    let expected = [
        ("device", DEVICE),
        ("fixed", "some text"),
        ("leaf", &leaf),
        ("tenant", "acme"),
        ("token", &token),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(told_5.user_properties(), expected);
    for level in [V31, V311] {
        let hello = Hello::new(level, DEVICE);
        let mut expected = Told::of(&hello.packet());
        expected.client_id = "acme/acme-device-1".into();
        assert_eq!(told(&broker, &world.acme_mqtt(), &hello), expected);
    }
}

#[test]
fn the_brokers_client_id_is_the_tenants_template() {
    let broker = Broker::start();
    for (template, expected) in [
        ("{tenant}/{client_id}", "acme/d:acme-device-1"),
        ("{client_id}@{tenant}", "d:acme-device-1@acme"),
        ("{tenant}:edge-{client_id}", "acme:edge-d:acme-device-1"),
    ] {
        let world = World::with(|_, config| {
            config.mqtt(broker.address(), "");
            for tenant in [&mut config.acme, &mut config.globex] {
                *tenant = tenant.replace("{tenant}/{client_id}", template);
            }
        });
        for level in VERSIONS {
            let told = told(&broker, &world.acme_mqtt(), &Hello::new(level, "d:acme-device-1"));
            assert_eq!(told.client_id, expected);
        }
    }
}

// ── The PROXY protocol ──────────────────────────────────────────────────────────────────────

/// The bytes in front of a CONNECT, and the CONNECT.
fn proxied(broker: &Broker, client: &Client, hello: &Hello) -> (Vec<u8>, Told, SocketAddr) {
    let mut device = client.mqtt(hello.level);
    let address = device.stream.get_ref().local_addr().unwrap();
    device.send(&hello.packet());
    let mut side = broker.accept(hello.level);
    let header = side.proxy_header();
    let connect = side.receive();
    side.accept_session();
    assert_eq!(device.receive().kind(), CONNACK);
    (header, Told::of(&connect), address)
}

impl BrokerSide {
    /// Takes a header of version 2 off the stream.
    fn proxy_header(&mut self) -> Vec<u8> {
        use std::io::Read;
        let mut header = vec![0; 16];
        self.stream.read_exact(&mut header).unwrap();
        assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        header.resize(16 + length, 0);
        self.stream.read_exact(&mut header[16..]).unwrap();
        header
    }
}

/// What other people's decoder reads in a header.
fn decoded(header: &[u8]) -> Value {
    ask(python("decode_proxy.py"), &json!({ "header": STANDARD.encode(header) }))
}

fn proxying(config: &mut Config, broker: &Broker, more: &str) {
    config.mqtt(broker.address(), &format!(", proxy_protocol: true{more}"));
}

#[test]
fn a_proxy_header_says_what_the_device_is_to_other_peoples_decoder() {
    let broker = Broker::start();
    let world = World::with(|_, config| proxying(config, &broker, ""));
    for (tls, name) in [(SslVersion::TLS1_2, "TLSv1.2"), (SslVersion::TLS1_3, "TLSv1.3")] {
        for level in VERSIONS {
            let client = world.acme_mqtt().tls(tls);
            let hello = Hello::new(level, "d:acme-device-1").credentials("admin", "x");
            let (header, told, address) = proxied(&broker, &client, &hello);
            let expected = json!({
                "source": [address.ip().to_string(), address.port()],
                "destination": [world.mqtts().ip().to_string(), world.mqtts().port()],
                "protocol": "SOCK_STREAM",
                "family": "AF_INET",
                "authority": "acme.example.com",
                "client": 7,
                "verify": 0,
                "version": name,
                "common_name": DEVICE,
                "certificate": STANDARD.encode(&world.acme.device.der),
                "types": [0x02, 0x20],
                "ssl_types": [0x21, 0x22, 0x28],
            });
            assert_eq!(decoded(&header), expected);
            assert_eq!((told.user_name, told.password), (None, None));
        }
    }
}

#[test]
fn a_proxy_header_of_a_client_without_a_certificate_claims_none() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtts = "- { bind: \"[::1]:0\", default_tenant: acme }\n".into();
        proxying(config, &broker, "");
        optional(config);
    });
    let [six, four] = world.server().mqtts_addresses() else { panic!("two listeners") };
    for (listener, family) in [(*six, "AF_INET6"), (*four, "AF_INET")] {
        let client = world.acme_mqtt().anonymous().at(listener);
        let client = if family == "AF_INET6" { client.without_server_name() } else { client };
        let hello = Hello::new(V311, "somebody").credentials("user", "secret");
        let (header, told, address) = proxied(&broker, &client, &hello);
        let authority = if family == "AF_INET6" { Value::Null } else { "acme.example.com".into() };
        let types: &[u8] = if family == "AF_INET6" { &[0x20] } else { &[0x02, 0x20] };
        let expected = json!({
            "source": [address.ip().to_string(), address.port()],
            "destination": [listener.ip().to_string(), listener.port()],
            "protocol": "SOCK_STREAM",
            "family": family,
            "authority": authority,
            "client": 1,
            "verify": 1,
            "version": "TLSv1.3",
            "common_name": null,
            "certificate": null,
            "types": types,
            "ssl_types": [0x21],
        });
        assert_eq!(decoded(&header), expected);
        assert_eq!(told.user_name.as_deref(), Some("user"));
        assert_eq!(told.password.as_deref(), Some(&b"secret"[..]));
    }
}

#[test]
fn a_proxy_header_names_the_address_that_a_balancer_gave() {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        proxying(config, &broker, "");
        config.mqtts = "- { bind: \"127.0.0.1:0\", proxy_protocol: { from: [127.0.0.1] } }".into();
    });
    for (header, family, source) in [
        ("PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n", "AF_INET", json!(["192.0.2.7", 1234])),
        ("PROXY TCP6 2001:db8::7 2001:db8::8 9 443\r\n", "AF_INET6", json!(["2001:db8::7", 9])),
    ] {
        let client = world.acme_mqtt().prologue(header.as_bytes());
        let (header, ..) = proxied(&broker, &client, &Hello::new(V311, DEVICE));
        let told = decoded(&header);
        assert_eq!((&told["family"], &told["source"]), (&json!(family), &source));
        assert_eq!(told["common_name"], DEVICE);
    }
}

#[test]
fn all_dialects_can_be_had_at_once() {
    let broker = Broker::start();
    let more = ", user_name: \"{device}\", password: \"{token}\", \
                user_properties: { device: \"{device}\" }";
    let world = World::with(|_, config| proxying(config, &broker, more));
    let (header, told, _) = proxied(&broker, &world.acme_mqtt(), &Hello::new(V5, DEVICE));
    let token = world.acme_client().token().unwrap().access_token();
    assert_eq!(decoded(&header)["common_name"], DEVICE);
    assert_eq!(told.client_id, "acme/acme-device-1");
    assert_eq!(told.user_name.as_deref(), Some(DEVICE));
    assert_eq!(told.password, Some(token.into_bytes()));
    assert_eq!(told.user_properties(), [("device".to_owned(), DEVICE.to_owned())]);
}
