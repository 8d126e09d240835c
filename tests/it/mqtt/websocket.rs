//! MQTT over WebSocket, on the HTTPS listener.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::pki::Minted;
use crate::tools::{ask, node, python};
use crate::world::mqtt::{
    Broker, CONNACK, DISCONNECT, Hello, Mosquitto, Mqtt, PINGREQ, PINGRESP, PUBACK, PUBLISH,
    Packet, SUBACK, V5, V31, V311, message, publish,
};
use crate::world::websocket::{
    BINARY, CLOSE, CONTINUATION, FIN, OPENING, PING, PONG, TEXT, WebSocket, frame, header,
    mqtt_opening, opening,
};
use crate::world::{Config, Process, World, eventually};

const DEVICE: &str = "acme-device-1";
const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol: mqtt";

/// An edge without MQTT listeners, in front of a broker that does as the test says.
fn scripted(edit: impl FnOnce(&World, &mut Config)) -> (World, Broker) {
    let broker = Broker::start();
    let world = World::with(|world, config| {
        config.mqtt(broker.address(), "");
        config.mqtts.clear();
        edit(world, config);
    });
    (world, broker)
}

/// A session of 5.0 and its other end.
fn session(world: &World, broker: &Broker) -> (Mqtt<WebSocket>, Mqtt<std::net::TcpStream>) {
    let mut device = world.acme_client().websocket(V5);
    device.send(&Hello::new(V5, DEVICE).packet());
    let (other, _) = broker.session(V5);
    assert_eq!(device.receive().kind(), CONNACK);
    (device, other)
}

#[test]
fn a_device_talks_to_the_broker_over_a_websocket_in_each_version() {
    let mosquitto = Mosquitto::start();
    let world = World::with(|_, config| {
        config.mqtt(mosquitto.address(), "");
        config.mqtts.clear();
    });
    let over_https = world.acme_client().token().unwrap().access_token();
    for client in [world.acme_client(), world.acme_client().tls12()] {
        for level in [V31, V311, V5] {
            let mut device = client.websocket_session(&Hello::new(level, DEVICE));
            device.subscribe(1, &[("up/#", 1), ("s/dat", 0)]);
            assert_eq!(device.receive_kind(SUBACK).body.last(), Some(&0));
            let large = vec![b'x'; 200_000];
            device.publish("up/x", 1, 7, &large);
            let (topic, _, _, payload) = message(level, &device.receive_kind(PUBLISH));
            assert!(topic == "up/x" && payload == large);
            device.publish("s/uat", 0, 0, b"");
            let (topic, _, _, payload) = message(level, &device.receive_kind(PUBLISH));
            let token = format!("71,{over_https}");
            assert_eq!((topic.as_str(), payload), ("s/dat", token.into_bytes()));
        }
    }
}

#[test]
fn mqtt_js_talks_over_a_websocket_and_gets_its_token() {
    other_peoples_client(|question| ask(node("mqtt_websocket.mjs"), question));
}

#[test]
fn paho_talks_over_a_websocket_and_gets_its_token() {
    other_peoples_client(|question| ask(python("mqtt_websocket.py"), question));
}

fn other_peoples_client(run: impl Fn(&Value) -> Value) {
    let mosquitto = Mosquitto::start();
    let world = World::with(|_, config| config.mqtt(mosquitto.address(), ""));
    let token = world.acme_client().token().unwrap().access_token();
    let pki = &world.acme;
    let chain = [&pki.device, &pki.issuing].map(Minted::pem).concat();
    for version in [V311, V5] {
        let outcome = run(&json!({
            "port": world.https().port(),
            "server_name": "acme.example.com",
            "ca": world.server_root.pem(),
            "cert": chain,
            "key": String::from_utf8(pki.device.key.pem()).unwrap(),
            "version": version,
            "client_id": format!("d:{DEVICE}:any"),
            "topic": format!("up/{version}"),
        }));
        assert_eq!(outcome, json!({ "echo": 100_000, "token": format!("71,{token}") }));
    }
}

#[test]
fn packets_are_read_wherever_frames_begin_and_end() {
    let (world, broker) = scripted(|_, _| {});
    let mut device = world.acme_client().websocket(V311);
    let packets: Vec<Packet> =
        (0..5).map(|i| publish(V311, "up", 0, 0, &[b'a' + i; 300])).collect();
    let bytes = packets.iter().flat_map(Packet::bytes).collect::<Vec<_>>();
    // The CONNECT a byte a frame, and each frame in a record of its own.
    for byte in Hello::new(V311, DEVICE).packet().bytes() {
        device.stream.frame(FIN | BINARY, &[byte]);
    }
    let (mut other, _) = broker.session(V311);
    assert_eq!(device.receive().kind(), CONNACK);
    // All in one frame.
    device.stream.frame(FIN | BINARY, &bytes);
    // A message in fragments with a ping between, empty ones among them, all in one record.
    let (front, back) = bytes.split_at(333);
    let fragments = [
        frame(BINARY, front),
        frame(FIN | PING, b"are you there"),
        frame(CONTINUATION, b""),
        frame(FIN | CONTINUATION, back),
    ];
    device.stream.send(&fragments.concat());
    // Frames that are cut anywhere.
    for piece in frame(FIN | BINARY, &bytes).chunks(7) {
        device.stream.send(piece);
    }
    device.send(&Packet::new(PINGREQ << 4, []));
    assert_eq!(other.until_ping(), [&packets[..], &packets, &packets].concat());
    assert_eq!(device.receive().kind(), PINGRESP);
    assert_eq!(device.stream.receive(PONG), b"are you there");
}

#[test]
fn of_pings_that_come_together_the_last_is_answered() {
    let (world, broker) = scripted(|_, _| {});
    let (mut device, _other) = session(&world, &broker);
    let many: Vec<u8> = (0..50_u8).flat_map(|i| frame(FIN | PING, &[i])).collect();
    device.stream.send(&many);
    assert_eq!(device.stream.receive(PONG), [49]);
    device.stream.frame(FIN | PONG, b"unasked");
    device.stream.frame(FIN | PING, b"");
    assert_eq!(device.stream.receive(PONG), b"");
}

#[test]
fn a_close_is_answered_and_the_broker_gets_what_was_sent_before_it() {
    let (world, broker) = scripted(|_, _| {});
    let (mut device, mut other) = session(&world, &broker);
    let last = publish(V5, "up", 0, 0, b"the last");
    let bye = Packet::new(DISCONNECT << 4, []);
    let mut bytes = frame(FIN | BINARY, &[last.bytes(), bye.bytes()].concat());
    bytes.extend(frame(FIN | CLOSE, &4_001_u16.to_be_bytes()));
    bytes.extend(frame(FIN | BINARY, &publish(V5, "up", 0, 0, b"too late").bytes()));
    device.stream.send(&bytes);
    assert_eq!(device.stream.close_code(), 4_001);
    assert_eq!(other.rest(), [last, bye]);
}

#[test]
fn a_session_that_the_broker_ends_is_closed_normally() {
    let (world, broker) = scripted(|_, _| {});
    let (mut device, other) = session(&world, &broker);
    drop(other);
    assert_eq!(device.receive().kind(), DISCONNECT);
    assert_eq!(device.stream.close_code(), 1_000);
}

#[test]
fn what_breaks_the_rules_of_websocket_ends_the_session() {
    let (world, broker) = scripted(|_, config| {
        config.limits = "mqtt_packet_bytes: 100000\nmqtt_connect_bytes: 1024".into();
    });
    let unmasked = b"\x82\x02\xc0\x00".to_vec();
    let cases = [
        (unmasked, 1_002, "protocol_error"),
        (frame(FIN | TEXT, b"text"), 1_003, "protocol_error"),
        (frame(FIN | 0x40 | BINARY, b"compressed?"), 1_002, "protocol_error"),
        (frame(FIN | CONTINUATION, b"of nothing"), 1_002, "protocol_error"),
        (frame(FIN | 0x3, b"of no type"), 1_002, "protocol_error"),
        (frame(FIN | PING, &[0; 126]), 1_002, "protocol_error"),
        (frame(FIN | CLOSE, b"x"), 1_002, "protocol_error"),
        // Announced, and not a byte of it sent.
        (header(FIN | BINARY, u64::MAX), 1_009, "too_large"),
        (header(FIN | BINARY, 100_006), 1_009, "too_large"),
        (
            [frame(BINARY, &[0xc0, 0].repeat(30_000)), header(CONTINUATION, 40_006)].concat(),
            1_009,
            "too_large",
        ),
    ];
    let mut counts = [("protocol_error", 0.0), ("too_large", 0.0)];
    for (bytes, code, refusal) in cases {
        let (mut device, mut other) = session(&world, &broker);
        device.stream.send(&bytes);
        assert_eq!(device.stream.close_code(), code, "{:?}", &bytes[..2]);
        // Its packets end where they stood, and no word of the edge's is among them.
        assert!(other.rest().iter().all(|packet| packet.kind() == PINGREQ));
        let count = counts.iter_mut().find(|(reason, _)| *reason == refusal).unwrap();
        count.1 += 1.0;
        world.refused(refusal, count.1);
    }
    // A packet of the size that is allowed is not one of these.
    let (mut device, mut other) = session(&world, &broker);
    device.publish("up", 0, 0, &vec![b'x'; 99_990]);
    assert_eq!(other.receive().kind(), PUBLISH);
}

#[test]
fn before_its_connect_a_websocket_is_held_to_the_same_rules() {
    let (world, broker) = scripted(|_, config| {
        config.limits = "mqtt_connect_bytes: 1024\nmqtt_connect_timeout: 300ms".into();
    });
    let client = world.acme_client();
    // Larger than it may be; announced only.
    let mut device = client.websocket(V5);
    device.stream.frame(FIN | BINARY, b"\x10\xff\xff\xff\x7f");
    assert_eq!(device.stream.close_code(), 1_009);
    world.refused("too_large", 1.0);
    let mut device = client.websocket(V5);
    device.send(&publish(V5, "up", 0, 0, b"first"));
    assert_eq!(device.stream.close_code(), 1_002);
    let mut device = client.websocket(V5);
    device.stream.frame(FIN | TEXT, &Hello::new(V5, DEVICE).packet().bytes());
    assert_eq!(device.stream.close_code(), 1_003);
    world.refused("protocol_error", 2.0);
    // Nothing at all, then pings at most.
    let mut silent = client.websocket(V5);
    assert_eq!(silent.next(), None);
    let mut pinging = client.websocket(V5);
    pinging.stream.frame(FIN | PING, b"not yet");
    assert_eq!(pinging.stream.receive(PONG), b"not yet");
    assert_eq!(pinging.next(), None);
    world.refused("timeout", 2.0);
    // None of them came to the broker.
    session(&world, &broker);
}

#[test]
fn an_opening_that_breaks_the_rules_is_refused() {
    let (world, _broker) = scripted(|_, _| {});
    let [connection, upgrade, version, key] = OPENING;
    let ask = |lines: &[&str]| {
        let lines = [lines, &[SUBPROTOCOL]].concat();
        world.acme_client().ask_websocket(&opening("/mqtt", "acme.example.com", &lines)).0
    };
    let refused: [&[&str]; 6] = [
        &[connection, upgrade, version],
        &[connection, upgrade, version, "Sec-WebSocket-Key: c2hvcnQ="],
        &[connection, upgrade, version, key, key],
        &["Connection: keep-alive", upgrade, version, key],
        &[connection, upgrade, version, key, "Content-Length: 2"],
        &[connection, upgrade, version, key, "Transfer-Encoding: chunked"],
    ];
    for lines in refused {
        assert_eq!(ask(lines).status, 400, "{lines:?}");
    }
    for other in ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13\r\nX-Other: 1"] {
        let answer = ask(&[connection, upgrade, other, key]);
        let good = other.contains("13");
        assert_eq!(answer.status, if good { 101 } else { 400 }, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-version"), (!good).then_some("13"));
    }
    assert_eq!(ask(&[connection, upgrade, key]).header("sec-websocket-version"), Some("13"));
    world.refused("protocol_error", 8.0);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_websocket_for_the_host_of_another_tenant_is_misdirected() {
    let (world, _broker) = scripted(|_, _| {});
    for host in ["globex.example.com", "nobody.example.net"] {
        let (answer, _) = world.acme_client().ask_websocket(&mqtt_opening(host));
        assert_eq!(answer.status, 421, "{host}");
    }
    world.refused("misdirected", 2.0);
}

#[test]
fn a_page_of_another_site_opens_no_websocket_with_a_devices_certificate() {
    let (world, _broker) = scripted(|_, config| {
        config.listeners = "- { bind: \"127.0.0.1:0\", client_certificates: false }".into();
        config.acme("client_certificate: optional");
    });
    let with = |origin: &str| {
        let origin = format!("Origin: {origin}");
        let lines = [&OPENING[..], &[SUBPROTOCOL, &origin]].concat();
        opening("/mqtt", "acme.example.com", &lines)
    };
    let client = world.acme_client();
    for origin in ["https://evil.example", "null", "https://acme.example.com.evil.example"] {
        assert_eq!(client.ask_websocket(&with(origin)).0.status, 421, "{origin}");
    }
    assert_eq!(client.ask_websocket(&with("https://acme.example.com:8443")).0.status, 101);
    // Without a certificate there is nothing that a page could borrow.
    let anonymous = world.client_at(world.server().https_addresses()[1], "acme.example.com");
    assert_eq!(anonymous.ask_websocket(&with("https://dashboard.example")).0.status, 101);
}

#[test]
fn other_paths_and_subprotocols_go_to_the_upstream() {
    let (world, _broker) = scripted(|_, _| {});
    let mut want = Vec::new();
    let asked: [(&str, &[&str]); 5] = [
        ("/mqtt", &[]),
        ("/mqtt", &["Sec-WebSocket-Protocol: amqp"]),
        ("/mqtt/", &[SUBPROTOCOL]),
        ("/websocket", &[SUBPROTOCOL]),
        ("/mqtt2", &[SUBPROTOCOL]),
    ];
    for (path, lines) in asked {
        let lines = [&OPENING[..], lines].concat();
        let request = opening(path, "acme.example.com", &lines);
        let (answer, _) = world.acme_client().ask_websocket(&request);
        assert_eq!(answer.status, if path == "/websocket" { 101 } else { 200 });
        want.push(format!("GET {path} HTTP/1.1"));
    }
    // No WebSocket is asked for.
    assert_eq!(world.acme_client().get("/mqtt").unwrap().status, 200);
    want.push("GET /mqtt HTTP/1.1".to_owned());
    let got: Vec<_> = world.upstream.requests().iter().map(first_line).collect();
    assert_eq!(got, want);
}

#[test]
fn at_a_tenant_without_brokers_the_upstream_is_asked() {
    let world = World::start();
    let (answer, _) = world.acme_client().ask_websocket(&mqtt_opening("acme.example.com"));
    assert_eq!(answer.status, 200);
    let request = world.upstream.only_request();
    assert_eq!(first_line(&request), "GET /mqtt HTTP/1.1");
    assert_eq!(request.header("sec-websocket-protocol"), ["mqtt"]);
}

fn first_line(request: &crate::world::Recorded) -> String {
    request.head.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_query_and_the_subprotocol_of_3_1_are_taken() {
    let (world, broker) = scripted(|_, _| {});
    let lines = [&OPENING[..], &["Sec-WebSocket-Protocol: x, mqttv3.1"]].concat();
    let request = opening("/mqtt?a=b", "acme.example.com", &lines);
    let (answer, mut connection) = world.acme_client().ask_websocket(&request);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("mqttv3.1"));
    connection.send(&frame(FIN | BINARY, &Hello::new(V31, DEVICE).packet().bytes())).unwrap();
    broker.session(V31);
}

#[test]
fn who_sends_before_the_opening_is_answered_is_cut() {
    let (world, broker) = scripted(|_, _| {});
    let hello = Hello::new(V5, DEVICE).packet().bytes();
    let request = mqtt_opening("acme.example.com");
    let early = [request.clone(), frame(FIN | BINARY, &hello)].concat();
    let mut connection = world.acme_client().connect().unwrap();
    connection.send(&early).unwrap();
    assert!(connection.read_some().is_err());
    // A second request is no better.
    let mut connection = world.acme_client().connect().unwrap();
    connection.send(&[request.clone(), request].concat()).unwrap();
    assert!(connection.read_some().is_err());
    world.refused("protocol_error", 2.0);
    session(&world, &broker);
}

#[test]
fn a_websocket_comes_after_other_requests_of_its_connection() {
    let (world, broker) = scripted(|_, _| {});
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.get("/before").unwrap().status, 200);
    let answer = connection.exchange(&mqtt_opening("acme.example.com")).unwrap();
    assert_eq!(answer.status, 101);
    connection.send(&frame(FIN | BINARY, &Hello::new(V5, DEVICE).packet().bytes())).unwrap();
    broker.session(V5);
}

#[test]
fn without_a_certificate_a_websocket_is_for_tenants_that_require_none() {
    let anonymous = "- { bind: \"127.0.0.1:0\", client_certificates: false }";
    let (world, _broker) = scripted(|_, config| config.listeners = anonymous.into());
    let client = world.client_at(world.server().https_addresses()[1], "acme.example.com");
    assert_eq!(client.ask_websocket(&mqtt_opening("acme.example.com")).0.status, 401);
    let (world, broker) = scripted(|_, config| {
        config.listeners = anonymous.into();
        config.acme("client_certificate: optional");
    });
    world.acme_client().token().unwrap();
    let client = world.client_at(world.server().https_addresses()[1], "acme.example.com");
    let mut device = client.websocket(V311);
    device.send(&Hello::new(V311, "somebody").credentials("user", "word").packet());
    let (_other, connect) = broker.session(V311);
    assert!(connect.body.ends_with(b"\0\x04user\0\x04word"));
    // A registered device's name is not for those without its certificate.
    let mut device = client.websocket(V5);
    device.send(&Hello::new(V5, DEVICE).packet());
    let connack = device.receive();
    assert_eq!((connack.kind(), connack.body[1]), (CONNACK, 0x85));
}

#[test]
fn a_forged_client_id_is_refused_over_a_websocket_too() {
    let (world, _broker) = scripted(|_, _| {});
    for (level, code) in [(V311, 5), (V5, 0x85)] {
        let mut device = world.acme_client().websocket(level);
        device.send(&Hello::new(level, "acme-device-2").packet());
        let connack = device.receive();
        assert_eq!((connack.kind(), connack.body[1]), (CONNACK, code));
        assert_eq!(device.stream.close_code(), 1_008);
    }
    world.refused("misdirected", 2.0);
}

#[test]
fn a_chain_that_the_opening_completes_counts_for_its_session() {
    let (world, broker) = scripted(|_, config| config.acme("complete_chain_from_header: true"));
    let client = world.acme_client().identity(&[&world.acme.device]);
    let (answer, _) = client.ask_websocket(&mqtt_opening("acme.example.com"));
    assert_eq!(answer.status, 401);
    let issuing = STANDARD.encode(&world.acme.issuing.der);
    let chain = format!(
        "X-Ssl-Cert-Chain: -----BEGIN CERTIFICATE----- {issuing} -----END CERTIFICATE-----"
    );
    let lines = [&OPENING[..], &[SUBPROTOCOL, &chain]].concat();
    let request = opening("/mqtt", "acme.example.com", &lines);
    let (answer, mut connection) = client.ask_websocket(&request);
    assert_eq!(answer.status, 101);
    connection.send(&frame(FIN | BINARY, &Hello::new(V5, DEVICE).packet().bytes())).unwrap();
    broker.session(V5);
}

#[test]
fn a_session_over_a_websocket_ends_within_two_seconds_of_its_devices_blocking() {
    let (world, broker) = scripted(|_, _| {});
    let (mut device, mut other) = session(&world, &broker);
    let path = format!("/tenant/tenants/acme/devices/{DEVICE}");
    assert_eq!(world.api("PUT", &path, json!({ "status": "BLOCKED" })).status, 200);
    let blocked = Instant::now();
    let word = device.receive();
    assert_eq!((word.kind(), word.body[0]), (DISCONNECT, 0x98));
    assert_eq!(device.stream.close_code(), 1_008);
    assert!(blocked.elapsed() < Duration::from_secs(2), "{:?}", blocked.elapsed());
    assert!(other.rest().is_empty());
    world.refused("device_blocked", 1.0);
    // The next one is refused before it is a WebSocket.
    let (answer, _) = world.acme_client().ask_websocket(&mqtt_opening("acme.example.com"));
    assert_eq!(answer.status, 403);
}

#[test]
fn a_drain_ends_websockets_with_a_word_to_each_device() {
    let (mut world, broker) = scripted(|_, _| {});
    let (mut device, _other) = session(&world, &broker);
    let mut waiting = world.acme_client().websocket(V5);
    world.drain();
    let word = device.receive();
    assert_eq!((word.kind(), word.body[0]), (DISCONNECT, 0x8b));
    assert_eq!(device.stream.close_code(), 1_001);
    assert_eq!(waiting.next(), None);
}

#[test]
fn a_websocket_that_does_not_read_holds_up_its_broker() {
    let (world, broker) = scripted(|_, _| {});
    let (mut device, mut other) = session(&world, &broker);
    other.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let packet = publish(V5, "down", 0, 0, &[b'x'; 60_000]);
    let mut sent = 0;
    // As much as the sockets between hold, and no more.
    while std::io::Write::write_all(&mut other.stream, &packet.bytes()).is_ok() {
        sent += 1;
        assert!(sent < 2_000, "120 MB have gone somewhere");
    }
    // Pings of the device are answered behind what waits, once it reads.
    device.stream.frame(FIN | PING, b"still here");
    for _ in 0..sent {
        assert_eq!(device.receive(), packet);
    }
    assert_eq!(device.stream.receive(PONG), b"still here");
}

#[test]
fn the_closing_event_names_the_transport_and_traffic_is_counted_as_mqtts() {
    let mosquitto = Mosquitto::start();
    let world = World::files(|_, config| {
        config.mqtt(mosquitto.address(), "");
        config.mqtts.clear();
        config.log = "{ format: json, level: info, requests: true }".into();
    });
    let edge = Process::run(&world);
    let mut device = edge.acme_client(&world).websocket_session(&Hello::new(V5, DEVICE));
    device.publish("up", 1, 1, b"hello");
    assert_eq!(device.receive().kind(), PUBACK);
    let metrics = || crate::world::plain_get(edge.admin, "/metrics").text();
    assert!(metrics().contains("portcullis_mqtt_sessions 1"), "{}", metrics());
    device.send(&Packet::new(DISCONNECT << 4, []));
    device.stream.frame(FIN | CLOSE, &1_000_u16.to_be_bytes());
    assert_eq!(device.stream.close_code(), 1_000);
    eventually("the session is logged", || edge.events("portcullis::session").len() == 2);
    let mut events = edge.events("portcullis::session");
    let (event, opened) = (events.remove(1), events.remove(0));
    assert_eq!(
        (&opened["message"], &opened["transport"]),
        (&json!("session opened"), &json!("websocket"))
    );
    assert_eq!(event["transport"], "websocket");
    assert_eq!(event["closed_by"], "device");
    assert_eq!((&event["device"], &event["client_id"]), (&json!(DEVICE), &json!(DEVICE)));
    assert_eq!(event["messages_from_device"], 1);
    let request = edge.events("portcullis::request").remove(0);
    assert_eq!((&request["status"], &request["path"]), (&json!(101), &json!("/mqtt")));
    assert!(metrics().contains("portcullis_mqtt_sessions 0"));
}

/// The memory of a process, in bytes.
fn resident(edge: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn an_idle_session_over_a_websocket_costs_what_one_over_tls_does() {
    const SESSIONS: usize = 500;
    let mosquitto = Mosquitto::start();
    let world = World::files(|_, config| {
        config.mqtt(mosquitto.address(), "");
        config.log = "{ format: json, level: info }".into();
    });
    let hello = |i: usize| Hello::new(V5, &format!("d:{DEVICE}:{i}"));
    // Each kind in a process of its own: what the one leaves behind is no room for the other.
    let over_tls = Process::run(&world);
    let serving = over_tls.events("portcullis::server");
    let serving = serving.iter().find(|event| event["message"] == "serving").unwrap();
    let mqtts = serving["mqtts"].as_str().unwrap().trim_matches(['[', ']']).parse().unwrap();
    let client = over_tls.acme_client(&world).at(mqtts);
    let plain = each(&over_tls, SESSIONS, |i| client.mqtt_session(&hello(i)));
    drop(over_tls);
    let over_websocket = Process::run(&world);
    let client = over_websocket.acme_client(&world);
    let framed = each(&over_websocket, SESSIONS, |i| client.websocket_session(&hello(i)));
    assert!(framed < plain + 8 * 1024, "{framed} beside {plain}");
}

/// What each of so many idle sessions adds to a process.
fn each<S>(edge: &Process, sessions: usize, open: impl Fn(usize) -> S) -> usize {
    let warm: Vec<S> = (0..200).map(&open).collect();
    let before = resident(edge);
    let opened: Vec<S> = (1_000..1_000 + sessions).map(&open).collect();
    let each = resident(edge).saturating_sub(before) / sessions;
    drop((warm, opened));
    each
}
