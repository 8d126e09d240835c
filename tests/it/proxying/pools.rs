//! Which server gets a request, and what a device is told where none answers.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::world::{Recorded, Upstream, World, eventually};

const NO_CHECKS: &str = "health: { interval: 1h, unhealthy_after: 100 }";

#[test]
fn an_upstream_that_is_down_is_a_bad_gateway() {
    let world = World::with(|_, config| {
        config.platform = format!("http: [\"{}\"]\n{NO_CHECKS}", nobody());
    });
    let mut connection = world.acme_client().connect().unwrap();
    let response = connection.get("/inventory").unwrap();
    assert_eq!(response.status, 502);
    let json = response.json();
    assert_eq!(json["error"], "general/badGateway");
    let id = response.header("x-request-id").unwrap();
    assert_eq!(json["info"], format!("Request {id}"));
    eventually("the refusal is counted", || world.refusals("upstream_unavailable") == 1.0);
    // Tokens do not depend on it.
    assert_eq!(world.acme_client().token().unwrap().status, 200);
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_a_bad_gateway() {
    let world = World::start();
    let response = world.acme_client().get("/close").unwrap();
    assert_eq!(response.status, 502);
    assert_eq!(response.json()["error"], "general/badGateway");
    let mut connection = world.acme_client().connect().unwrap();
    let post = "POST /close HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 5\r\n\r\nhello";
    let before = world.upstream.requests().len();
    assert_eq!(connection.exchange(post.as_bytes()).unwrap().status, 502);
    // What a server may have acted on is not sent to it again.
    assert_eq!(world.upstream.requests().len(), before + 1);
}

#[test]
fn a_post_on_a_kept_connection_that_breaks_is_not_repeated() {
    let world = World::with(|_, config| config.platform = NO_CHECKS.into());
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.get("/first").unwrap().status, 200);
    let post = "POST /close HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(connection.exchange(post.as_bytes()).unwrap().status, 502);
    let posts = world.upstream.requests().iter().filter(|r| r.head.starts_with("POST")).count();
    assert_eq!(posts, 1);
}

#[test]
fn an_upstream_that_hangs_is_a_gateway_timeout() {
    let world = World::with(|_, config| {
        config.platform = "timeouts: { read: 300ms }".into();
    });
    let started = Instant::now();
    let response = world.acme_client().get("/hang").unwrap();
    assert_eq!(response.status, 504);
    assert_eq!(response.json()["error"], "general/gatewayTimeout");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    eventually("the refusal is counted", || world.refusals("upstream_timeout") == 1.0);
}

#[test]
fn a_server_that_cannot_be_connected_to_is_passed_over() {
    let world = World::with(|world, config| {
        let live = world.upstream.address();
        config.platform = format!("http: [\"{}\", \"{live}\"]\n{NO_CHECKS}", nobody());
    });
    let mut connection = world.acme_client().connect().unwrap();
    for _ in 0..5 {
        assert_eq!(connection.get("/inventory").unwrap().status, 200);
        let post =
            "POST /once HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(connection.exchange(post.as_bytes()).unwrap().status, 200);
    }
    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 10, "each once");
    assert_eq!(requests.iter().filter(|request| request.body == b"hello").count(), 5);
    let failed = "portcullis_upstream_responses_total{status=\"none\",upstream=\"platform\"}";
    assert!(world.metric(failed) >= 1.0);
}

#[test]
fn without_retries_a_dead_server_is_not_passed_over() {
    let world = World::with(|world, config| {
        let live = world.upstream.address();
        config.platform = format!("http: [\"{}\", \"{live}\"]\nretries: 0\n{NO_CHECKS}", nobody());
    });
    let mut statuses: Vec<u16> =
        (0..4).map(|_| world.acme_client().get("/").unwrap().status).collect();
    statuses.sort();
    assert_eq!(statuses, [200, 200, 502, 502]);
}

#[test]
fn health_checks_take_a_server_out_and_in() {
    let second = Upstream::start();
    let address = second.address();
    let world = World::with(|world, config| {
        let first = world.upstream.address();
        config.platform =
            format!("http: [\"{first}\", \"{address}\"]\nretries: 0\nhealth: {{ interval: 50ms }}");
    });
    let up = format!("portcullis_upstream_server_up{{server=\"{address}\",upstream=\"platform\"}}");
    eventually("the second server is up", || world.metric(&up) == 1.0);
    drop(second);
    eventually("the second server is out", || world.metric(&up) == 0.0);
    let mut connection = world.acme_client().connect().unwrap();
    for _ in 0..6 {
        assert_eq!(connection.get("/first").unwrap().status, 200);
    }
    assert_eq!(world.upstream.requests().len(), 6);
    let second = Upstream::on(bind_again(address));
    eventually("the second server is in", || world.metric(&up) == 1.0);
    for _ in 0..6 {
        assert_eq!(connection.get("/both").unwrap().status, 200);
    }
    assert_eq!(count(&second.requests(), "/both"), 3);
}

#[test]
fn a_server_whose_health_path_fails_gets_no_requests() {
    let world = World::with(|_, config| {
        config.platform =
            "health: { interval: 50ms, path: /status/503, unhealthy_after: 1 }".into();
    });
    let address = world.upstream.address();
    let up = format!("portcullis_upstream_server_up{{server=\"{address}\",upstream=\"platform\"}}");
    eventually("the server is out", || world.metric(&up) == 0.0);
    assert_eq!(world.acme_client().get("/inventory").unwrap().status, 502);
    assert_eq!(count(&world.upstream.requests(), "/inventory"), 0);
}

#[test]
fn requests_go_to_the_least_loaded_server() {
    let second = Upstream::start();
    let world = World::with(|world, config| {
        let first = world.upstream.address();
        config.platform = format!(
            "http: [\"{first}\", \"{}\"]\nbalance: least_loaded\n{NO_CHECKS}",
            second.address()
        );
    });
    let mut busy = world.acme_client().connect().unwrap();
    busy.send(b"GET /hang HTTP/1.1\r\nHost: acme.example.com\r\n\r\n").unwrap();
    let both = || [world.upstream.requests(), second.requests()];
    eventually("a server is busy", || both().iter().any(|r| count(r, "/hang") == 1));
    let mut connection = world.acme_client().connect().unwrap();
    for _ in 0..6 {
        assert_eq!(connection.get("/idle").unwrap().status, 200);
    }
    for requests in both() {
        let expected = if count(&requests, "/hang") == 1 { 0 } else { 6 };
        assert_eq!(count(&requests, "/idle"), expected);
    }
}

#[test]
fn requests_take_turns() {
    let second = Upstream::start();
    let world = World::with(|world, config| {
        let first = world.upstream.address();
        config.platform = format!("http: [\"{first}\", \"{}\"]\n{NO_CHECKS}", second.address());
    });
    let mut connection = world.acme_client().connect().unwrap();
    for _ in 0..6 {
        assert_eq!(connection.get("/turn").unwrap().status, 200);
    }
    assert_eq!(count(&world.upstream.requests(), "/turn"), 3);
    assert_eq!(count(&second.requests(), "/turn"), 3);
}

fn count(requests: &[Recorded], path: &str) -> usize {
    requests.iter().filter(|request| request.head.contains(&format!(" {path} "))).count()
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn bind_again(address: SocketAddr) -> TcpListener {
    let mut listener = None;
    eventually("the address is free", || {
        listener = TcpListener::bind(address).ok();
        listener.is_some()
    });
    listener.unwrap()
}
