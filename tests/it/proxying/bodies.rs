//! Bodies and answers pass as they are: small, large, chunked, none, and a WebSocket's.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use openssl::sha::sha256;

use crate::world::{Connection, Failure, World};

use super::nginx::Nginx;

pub const WEBSOCKET: &str = "GET /websocket HTTP/1.1\r\nHost: acme.example.com\r\n\
    Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_websocket_goes_both_ways_until_one_side_closes() {
    let world = World::with(|_, config| config.limits = "body_timeout: 300ms".into());
    let mut connection = world.acme_client().connect().unwrap();
    let response = connection.exchange(WEBSOCKET.as_bytes()).unwrap();
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade"), Some("websocket"));
    let large = vec![b'x'; 100_000];
    for message in [&b"hello"[..], b"\x81\x05again", &large] {
        connection.send(message).unwrap();
        let mut echo = Vec::new();
        while echo.len() < message.len() {
            echo.extend(connection.read_some().unwrap());
        }
        assert_eq!(echo, message);
    }
    let request = world.upstream.only_request();
    assert_eq!(request.header("upgrade"), ["websocket"]);
    assert_eq!(request.header("connection"), ["Upgrade"]);
    assert_eq!(request.header("sec-websocket-key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);
    assert_eq!(request.header("x-ssl-cert-chain").len(), 1);
    connection.tls.shutdown().unwrap();
    assert_eq!(connection.until_closed(), Failure::Closed);
}

#[test]
fn a_websocket_outlives_the_deadlines_of_requests() {
    let world = World::with(|_, config| {
        config.limits = "idle_timeout: 300ms\nheader_timeout: 300ms\nbody_timeout: 300ms".into();
    });
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.exchange(WEBSOCKET.as_bytes()).unwrap().status, 101);
    let tcp = connection.tls.get_ref();
    tcp.set_read_timeout(Some(std::time::Duration::from_millis(1_200))).unwrap();
    // Four deadlines and their sweeps pass while nothing is said.
    assert!(!matches!(connection.read_some(), Ok(_) | Err(Failure::Closed)));
    connection.send(b"still here").unwrap();
    assert_eq!(connection.read_some().unwrap(), b"still here");
}

#[test]
fn answers_come_back_whole_whatever_their_framing() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    for _ in 0..2 {
        let response = connection.get("/chunked").unwrap();
        assert_eq!((response.status, &response.body[..]), (200, &b"hello world"[..]));
        let response = connection.get("/large").unwrap();
        assert_eq!(response.status, 200);
        assert!(response.body.len() == 1 << 20 && response.body.iter().all(|b| *b == b'x'));
        let response = connection.get("/status/418").unwrap();
        assert_eq!((response.status, &response.body[..]), (418, &b"as you wish"[..]));
    }
}

#[test]
fn a_large_body_reaches_the_upstream_whole() {
    let world = World::start();
    let body: Vec<u8> = (0..4u32 << 20).map(|i| (i % 251) as u8).collect();
    let mut connection = world.acme_client().connect().unwrap();
    let head = "POST /firmware HTTP/1.1\r\nHost: acme.example.com\r\n";
    let length = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    connection.send(length.as_bytes()).unwrap();
    assert_eq!(connection.exchange(&body).unwrap().status, 200);
    connection.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    for chunk in body.chunks(100_000) {
        connection.send(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
        connection.send(chunk).unwrap();
        connection.send(b"\r\n").unwrap();
    }
    assert_eq!(connection.exchange(b"0\r\n\r\n").unwrap().status, 200);
    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(sha256(&request.body), sha256(&body));
    }
}

#[test]
fn one_connection_to_the_upstream_serves_many_requests() {
    let world = World::with(|_, config| config.platform = "health: { interval: 1h }".into());
    let mut connection = world.acme_client().connect().unwrap();
    for i in 0..20 {
        let response = connection.get(&format!("/{i}")).unwrap();
        assert_eq!(response.text(), format!("GET /{i} HTTP/1.1"));
    }
    // One of them is the health check's.
    assert_eq!(world.upstream.connections(), 2);
}

#[test]
fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let nginx = Nginx::start("", "location /empty { return 204; }", &[]);
    nginx.serve("file", b"contents");
    let world = World::with(|_, config| {
        config.platform = format!("http: [\"{}\"]", nginx.address());
    });
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.get("/empty").unwrap().status, 204);
    let response = connection.get("/file").unwrap();
    let tag = response.header("etag").unwrap();
    let request =
        format!("GET /file HTTP/1.1\r\nHost: acme.example.com\r\nIf-None-Match: {tag}\r\n\r\n");
    assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 304);
    assert_eq!(connection.get("/file").unwrap().text(), "contents");
    let head = "HEAD /file HTTP/1.1\r\nHost: acme.example.com\r\nConnection: close\r\n\r\n";
    let answer = all_of(&mut connection, head);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.to_lowercase().contains("content-length: 8\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_body_where_none_may_be_does_not_become_the_next_answer() {
    let world = World::start();
    // The test's upstream sends a body with these, which no HTTP/1.1 client reads as theirs.
    for status in [204, 304] {
        let mut connection = world.acme_client().connect().unwrap();
        let request = format!(
            "GET /status/{status} HTTP/1.1\r\nHost: acme.example.com\r\nConnection: close\r\n\r\n"
        );
        let answer = all_of(&mut connection, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(!answer.contains("as you wish"), "{answer}");
        for _ in 0..4 {
            let response = world.acme_client().get("/next").unwrap();
            assert_eq!(response.text(), "GET /next HTTP/1.1");
        }
    }
}

#[test]
fn a_client_that_waits_to_continue_is_told_to() {
    let nginx_world = |nginx: &Nginx| {
        let address = nginx.address();
        World::with(|_, config| config.platform = format!("http: [\"{address}\"]"))
    };
    let behind = crate::world::Upstream::start();
    let proxy = format!("location / {{ proxy_pass http://{}; }}", behind.address());
    let nginx = Nginx::start("", &proxy, &[]);
    let world = nginx_world(&nginx);
    let mut connection = world.acme_client().connect().unwrap();
    let head = "POST /inventory HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 5\r\n\
                Expect: 100-continue\r\n\r\n";
    assert_eq!(connection.exchange(head.as_bytes()).unwrap().status, 100);
    assert_eq!(connection.exchange(b"hello").unwrap().status, 200);
    assert_eq!(behind.only_request().body, b"hello");
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
    ] {
        let address = answering(answer);
        let world = World::with(|_, config| {
            config.platform = format!("http: [\"{address}\"]\nhealth: {{ interval: 1h }}");
        });
        let mut connection = world.acme_client().connect().unwrap();
        let request = "GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n";
        // Nothing, or what came with its framing left open.
        let seen = all_of(&mut connection, request);
        let open = seen.contains("Content-Length: 100\r\n") || seen.contains("chunked\r\n");
        assert!(seen.is_empty() || open, "{seen}");
        assert!(seen.len() < 200 && !seen.contains("\r\n0\r\n\r\n"), "{seen}");
    }
}

#[test]
fn an_answer_that_cannot_be_read_one_way_is_a_bad_gateway() {
    for answer in [
        "garbage\r\n\r\n",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "",
    ] {
        let address = answering(answer);
        let world = World::with(|_, config| {
            config.platform = format!("http: [\"{address}\"]\nhealth: {{ interval: 1h }}");
        });
        let response = world.acme_client().get("/").unwrap();
        assert_eq!(response.status, 502, "{answer:?}");
        assert_eq!(response.json()["error"], "general/badGateway");
    }
}

/// A server that answers every request with these bytes and closes.
fn answering(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            if tcp.read(&mut [0; 16 * 1024]).is_ok_and(|n| n > 0) {
                let _ = tcp.write_all(answer.as_bytes());
            }
        }
    });
    address
}

/// Everything that comes until the connection is closed.
fn all_of(connection: &mut Connection, request: &str) -> String {
    connection.send(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while let Ok(bytes) = connection.read_some() {
        answer.extend(bytes);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
