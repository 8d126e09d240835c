//! Devices as people have them: mosquitto's commands, paho and MQTT.js, with certificates.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::identity::VERSIONS;
use crate::pki::Template;
use crate::tools::{ask, node, python};
use crate::world::mqtt::{Hello, Mosquitto};
use crate::world::{Client, Failure, World};

/// An edge that other people's clients find by name: a tenant `localhost`, which trusts acme's
/// devices, and a device's files.
fn world(broker: &Mosquitto) -> World {
    World::with(|world, config| {
        let server = Template::server(&["localhost"]).signed_by(&world.server_root);
        world.write("localhost.pem", server.pem());
        world.write_key("localhost.key", &server.key);
        world.write("ca.pem", world.server_root.pem());
        let device = &world.acme.device;
        world.write("device.pem", device.pem() + &world.acme.issuing.pem());
        world.write_key("device.key", &device.key);
        config.mqtt(broker.address(), "");
        config.tenants = "- id: local\n  server_names: [localhost]\n  upstream: platform\n  \
                          certificate: { chain: localhost.pem, key: localhost.key }\n  \
                          mqtt: { upstream_client_id: \"{tenant}/{client_id}\" }\n  \
                          trusted_certificates: [{ file: acme-root.pem, auto_registration: true }]"
            .into();
    })
}

/// The device's token, as it gets it over HTTPS.
fn token(world: &World) -> String {
    let client = world.client("localhost").identity(&[&world.acme.device, &world.acme.issuing]);
    client.token().unwrap().access_token()
}

/// One of mosquitto's commands, as a device with its certificate.
fn mosquitto(world: &World, command: &str, version: &str, arguments: &[&str]) -> Output {
    let file = |name: &str| world.dir.path().join(name);
    Command::new(command)
        .args(["-h", "localhost", "-V", version, "-p", &world.mqtts().port().to_string()])
        .arg("--cafile")
        .arg(file("ca.pem"))
        .arg("--cert")
        .arg(file("device.pem"))
        .arg("--key")
        .arg(file("device.key"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}; `make test` installs it"))
}

#[track_caller]
fn printed(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const ID: &str = "d:acme-device-1";

#[test]
fn mosquittos_commands_publish_subscribe_and_come_back_to_their_session() {
    let broker = Mosquitto::start();
    let world = world(&broker);
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let publish = ["-i", ID, "-t", "up/x", "-q", qos, "-r", "-m", "kept"];
            printed(mosquitto(&world, "mosquitto_pub", version, &publish));
            let subscribe = ["-i", ID, "-t", "up/#", "-q", qos, "-C", "1", "-W", "20", "-v"];
            let got = printed(mosquitto(&world, "mosquitto_sub", version, &subscribe));
            assert_eq!(got, "up/x kept\n", "{version} {qos}");
        }
        // The session waits for its device.
        let lasting: &[&str] = if version == "mqttv5" { &["-x", "600"] } else { &[] };
        let lasting = [&["-c", "-i", "acme-device-1", "-q", "2", "-t", "down/x"], lasting].concat();
        printed(mosquitto(&world, "mosquitto_sub", version, &[&lasting[..], &["-E"]].concat()));
        let publish = ["-i", ID, "-t", "down/x", "-q", "2", "-m", "while you were away"];
        printed(mosquitto(&world, "mosquitto_pub", version, &publish));
        let back = [&lasting[..], &["-C", "1", "-W", "20"]].concat();
        let got = printed(mosquitto(&world, "mosquitto_sub", version, &back));
        assert_eq!(got, "while you were away\n", "{version}");
    }
}

#[test]
fn mosquittos_commands_get_a_token_and_are_told_when_they_are_refused() {
    let broker = Mosquitto::start();
    let world = world(&broker);
    let token = token(&world);
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let request = ["-i", ID, "-t", "s/uat", "-e", "s/dat", "-n", "-q", "1", "-W", "20"];
        let got = printed(mosquitto(&world, "mosquitto_rr", version, &request));
        assert_eq!(got, format!("71,{token}\n"), "{version}");
        let forged = ["-i", "acme-device-2", "-t", "up/x", "-m", "x"];
        let refused = mosquitto(&world, "mosquitto_pub", version, &forged);
        let said = String::from_utf8(refused.stderr).unwrap();
        let expected =
            if version == "mqttv5" { "Client identifier not valid" } else { "not authorised" };
        assert!(
            !refused.status.success() && said.to_lowercase().contains(&expected.to_lowercase()),
            "{version}: {said}"
        );
    }
}

/// What a script of `tests/tools` says of two connections of the device.
#[track_caller]
fn both_sessions_are_served(world: &World, command: Command, version: &str) {
    let file = |name: &str| world.dir.path().join(name).to_str().unwrap().to_owned();
    let question = json!({
        "port": world.mqtts().port(),
        "ca": file("ca.pem"),
        "certificate": file("device.pem"),
        "key": file("device.key"),
        "version": version,
        "client_id": ID,
    });
    let told = ask(command, &question);
    let messages = json!([["up/x", 0, "at 0"], ["up/x", 1, "at 1"], ["up/x", 2, "at 2"]]);
    let [first, second] = &told["sessions"].as_array().unwrap()[..] else { panic!("{told}") };
    for session in [first, second] {
        assert_eq!(sorted(&session["messages"]), messages, "{version}: {told}");
        assert_eq!(session["tokens"], json!([format!("71,{}", token(world))]), "{version}");
    }
}

/// Messages of different QoS may overtake each other.
fn sorted(messages: &Value) -> Value {
    let mut messages = messages.as_array().unwrap().clone();
    messages.sort_by_key(|message| message[1].as_u64());
    Value::Array(messages)
}

#[test]
fn paho_connects_talks_gets_its_token_and_comes_back() {
    let broker = Mosquitto::start();
    let world = world(&broker);
    for version in ["3.1", "3.1.1", "5.0"] {
        both_sessions_are_served(&world, python("mqtt_paho.py"), version);
    }
}

#[test]
fn mqtt_js_connects_talks_gets_its_token_and_comes_back() {
    let broker = Mosquitto::start();
    let world = world(&broker);
    for version in ["3.1", "3.1.1", "5.0"] {
        both_sessions_are_served(&world, node("mqtt_js.mjs"), version);
    }
}

/// The protocol that the edge chooses.
fn chosen(client: &Client) -> Option<Vec<u8>> {
    let connection = client.connect().unwrap();
    connection.tls.ssl().selected_alpn_protocol().map(<[u8]>::to_vec)
}

#[test]
fn alpn_names_mqtt_or_nothing() {
    let broker = Mosquitto::start();
    let world = world(&broker);
    let client = world.acme_mqtt();
    assert_eq!(chosen(&client), None);
    assert_eq!(chosen(&client.clone().alpn(b"\x04mqtt")), Some(b"mqtt".to_vec()));
    assert_eq!(chosen(&client.clone().alpn(b"\x02h2\x04mqtt")), Some(b"mqtt".to_vec()));
    for other in [&b"\x02h2"[..], b"\x08http/1.1", b"\x02h2\x08http/1.1", b"\x04MQTT"] {
        let refused = client.clone().alpn(other).connect().err();
        assert_eq!(refused, Some(Failure::Alert(120)));
    }
    for level in VERSIONS {
        let hello = Hello::new(level, "acme-device-1");
        client.clone().alpn(b"\x04mqtt").mqtt_session(&hello).ping();
    }
    // Nor is MQTT spoken at the door of HTTPS.
    let https = client.at(world.https());
    assert_eq!(https.alpn(b"\x04mqtt").connect().err(), Some(Failure::Alert(120)));
}
