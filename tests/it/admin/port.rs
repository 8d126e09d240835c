//! What the port bears: private keys that are sent by mistake, bodies without end, connections
//! that say nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::pkey::PKey;
use openssl::symm::Cipher;
use serde_json::{Value, json};

use super::ACME;
use crate::pki::{Key, Template};
use crate::world::{Api, Process, World, anchors, eventually};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn start() -> (World, Process) {
    let world = World::files(|_, config| config.log = "{ format: json, level: debug }".into());
    let process = Process::run(&world);
    (world, process)
}

/// Parts of a secret in every form in which it could have been kept.
fn traces(pem: &str) -> Vec<Vec<u8>> {
    let lines = pem.lines().filter(|line| !line.starts_with('-') && line.len() > 40);
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let mut traces: Vec<Vec<u8>> = lines.map(|line| line[..40].into()).collect();
    let der = STANDARD.decode(body).unwrap();
    // Behind the structures that all keys of a kind share.
    traces.extend(der[40..].chunks_exact(16).take(3).map(<[u8]>::to_vec));
    traces
}

#[track_caller]
fn nowhere(world: &World, process: &Process, what: &str, traces: &[Vec<u8>]) {
    let mut places = vec![("the log".to_owned(), process.text().into_bytes())];
    for entry in fs::read_dir(world.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("edge.db") {
            places.push((name, fs::read(&path).unwrap()));
        }
    }
    assert!(places.iter().any(|(name, _)| name == "edge.db-wal"), "no write-ahead log to look in");
    for (name, content) in &places {
        for trace in traces {
            let found = content.windows(trace.len()).any(|part| part == trace.as_slice());
            assert!(!found, "{what} stands in {name}");
        }
    }
}

#[test]
fn a_private_key_that_is_uploaded_is_refused_and_kept_nowhere() {
    let (world, process) = start();
    let api = process.operator();
    let ca = Template::ca("Careless").self_signed();
    let key = ca.key.pem();
    let pkey = PKey::private_key_from_pem(&key).unwrap();
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    let sec1 = text(pkey.ec_key().unwrap().private_key_to_pem().unwrap());
    let sealed = pkey.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret");
    let (pkcs8, sealed, rsa) = (text(key), text(sealed.unwrap()), text(Key::rsa(2048).pem()));
    let bare: String = pkcs8.lines().filter(|line| !line.starts_with('-')).collect();
    let cert = ca.pem();
    // The WAL has something in it.
    api.trust("acme", &Template::ca("Careful").self_signed(), false);
    for (what, secret, upload) in [
        ("a key behind its certificate", &pkcs8, format!("{cert}{pkcs8}")),
        ("a key before its certificate", &pkcs8, format!("{pkcs8}{cert}")),
        ("a key alone", &pkcs8, pkcs8.clone()),
        ("an EC key", &sec1, format!("{cert}\n{sec1}")),
        ("an encrypted key", &sealed, format!("{cert}{sealed}")),
        ("an RSA key", &rsa, format!("{cert}{rsa}")),
        ("a key without its lines", &pkcs8, bare.clone()),
    ] {
        let traces = traces(secret);
        let one = json!({ "name": "x", "certInPemFormat": upload });
        let many = json!({ "certificates": [{ "certInPemFormat": cert }, one] });
        let pins = format!("{ACME}/devices/meter/pins");
        for (path, body) in [
            (anchors("acme"), one.clone()),
            (format!("{}/bulk", anchors("acme")), many),
            (pins, json!({ "certInPemFormat": upload })),
        ] {
            let refused = api.ask("POST", &path, body);
            assert_eq!(refused.status, 422, "{what}: {path}: {refused:?}");
            if !upload.starts_with("MI") {
                assert!(refused.text().contains("private key"), "{what}: {}", refused.text());
            }
            let quoted = refused.text();
            assert!(
                !traces.iter().any(|t| quoted.contains(&*String::from_utf8_lossy(t))),
                "{what}"
            );
        }
        // Where a text is expected.
        for (method, path, body) in [
            ("POST", anchors("acme"), json!({ "name": secret, "certInPemFormat": cert })),
            ("POST", anchors("acme"), json!({ "deviceIdentity": secret, "certInPemFormat": cert })),
            ("PUT", super::LIFESPAN.to_owned(), json!({ "value": secret })),
            ("POST", anchors("acme"), json!(secret)),
        ] {
            let refused = api.ask(method, &path, body);
            assert!([400, 422].contains(&refused.status), "{what}: {refused:?}");
        }
        let csv = format!(
            "ID,AUTH_TYPE,NAME\n\"{secret}\",CERTIFICATES,x\nd,CERTIFICATES,\"{secret}\"\n"
        );
        let bulk = "/devicecontrol/bulkNewDeviceRequests?tenant=acme";
        assert_eq!(api.send("POST", bulk, "text/csv", csv.as_bytes()).json()["numberOfCreated"], 0);
        nowhere(&world, &process, what, &traces);
    }
    let list = api.get(&format!("{}?pageSize=100", anchors("acme"))).json();
    assert_eq!(list["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&format!("{ACME}/devices")).json()["devices"], json!([]));
}

/// The most memory that the process has had, in KiB.
fn peak(process: &Process) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends a body until the port has had enough of it, or `most` bytes; gives how many it took
/// and what it answered.
fn pour(api: &Api, head: &str, piece: &[u8], most: usize) -> (usize, String) {
    let mut tcp = api.connect();
    tcp.write_all(head.as_bytes()).unwrap();
    let mut sent = 0;
    while sent < most && tcp.write_all(piece).is_ok() {
        sent += piece.len();
    }
    if head.contains("chunked") && sent >= most {
        let _ = tcp.write_all(b"0\r\n\r\n");
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = tcp.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..n]);
    }
    (sent, String::from_utf8_lossy(&answer).into_owned())
}

fn chunked(api: &Api, path: &str, kind: &str) -> String {
    let head = api.head("POST", path, kind, 0);
    head.replace("Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n")
}

#[test]
fn an_upload_of_a_gigabyte_ends_early_and_takes_no_memory() {
    let (_world, process) = start();
    let api = process.operator();
    api.get("/openapi.json");
    let before = peak(&process);
    let one = anchors("acme");
    let many = format!("{one}/bulk");
    let (piece, chunk) =
        (vec![b'A'; 16 * KIB], [b"4000\r\n", &[b'A'; 16 * KIB][..], b"\r\n"].concat());
    for path in [&one, &many] {
        for kind in ["application/json", "text/plain", "multipart/form-data; boundary=x"] {
            let announced = api.head("POST", path, kind, 1024 * MIB);
            let (sent, answer) = pour(&api, &announced, &piece, 64 * MIB);
            assert!(sent < 16 * MIB, "{path} {kind}: {sent} bytes were taken");
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
            let (sent, answer) = pour(&api, &chunked(&api, path, kind), &chunk, 64 * MIB);
            assert!(sent < 16 * MIB, "{path} {kind}: {sent} bytes were taken");
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }
    // Who does not wait to be refused gets to read why.
    let large = vec![b' '; 2 * MIB];
    let refused = api.send("POST", &one, "application/json", &large[..MIB + 1]);
    assert_eq!(refused.status, 413);
    // CSV has no end, and no row of it takes memory.
    let bulk = "/devicecontrol/bulkNewDeviceRequests?tenant=acme";
    let mut head = chunked(&api, bulk, "text/csv");
    head.push_str("12\r\nID,AUTH_TYPE,NAME\n\r\n");
    let (sent, answer) = pour(&api, &head, &chunk, 32 * MIB);
    assert!(sent >= 32 * MIB && answer.starts_with("HTTP/1.1 201"), "{sent}: {answer}");
    assert!(answer.contains("\"numberOfFailed\":1"), "{answer}");
    // A form's field that is not the file is bounded.
    let head = chunked(&api, bulk, "multipart/form-data; boundary=x")
        + "34\r\n--x\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\nAA\r\n";
    let (sent, answer) = pour(&api, &head, &chunk, 64 * MIB);
    assert!(sent < 16 * MIB, "{sent} bytes were taken");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let grown = peak(&process) - before;
    // The largest of these bodies that is read whole has 4 MiB.
    assert!(grown < 48 * KIB, "{grown} KiB more");
    assert_eq!(api.get("/edge/tenants").status, 200);
}

#[test]
fn three_thousand_connections_that_say_nothing_leave_the_port_answering() {
    let _ = rlimit::increase_nofile_limit(16_384);
    let (world, process) = start();
    let api = process.operator();
    for spread in [1, 60] {
        let mut idle = Vec::new();
        for number in 0..3_000_usize {
            let from = Ipv4Addr::new(127, 0, 2, (number % spread) as u8 + 1);
            let mut tcp = api.from(from).connect();
            match number % 3 {
                0 => {}
                1 => drop(tcp.write_all(b"G")),
                _ => drop(tcp.write_all(b"GET /edge/tenants HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")),
            }
            idle.push(tcp);
        }
        for last in [1, 200] {
            let asked = Instant::now();
            let from = api.from(Ipv4Addr::new(127, 0, 2, last));
            for path in ["/healthz", "/readyz", "/metrics"] {
                assert_eq!(from.anonymous().get(path).status, 200, "{path}");
            }
            assert_eq!(from.get("/edge/tenants").status, 200);
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        }
        // Who has lost a place goes as soon as its task runs.
        eventually("the descriptors come back", || {
            fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count() < 600
        });
    }
    assert_eq!(process.acme_client(&world).token().unwrap().status, 200);
}

#[test]
fn a_body_that_never_comes_keeps_nobody_from_changing_things() {
    let world = World::start();
    let api = world.operator();
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut tcp = api.connect();
        let head = api.head("POST", &anchors("acme"), "application/json", MIB);
        tcp.write_all(head.as_bytes()).unwrap();
        tcp.write_all(b"{").unwrap();
        waiting.push(tcp);
    }
    let api = api.from(Ipv4Addr::new(127, 0, 0, 9));
    api.trust("acme", &Template::ca("New").self_signed(), false);
    assert_eq!(api.ask("PUT", super::LIFESPAN, json!({ "value": 600 })).status, 200);
    assert_eq!(api.ask("DELETE", super::LIFESPAN, Value::Null).status, 204);
}
