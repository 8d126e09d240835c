//! Peers that take their time, and requests that are too large: deadlines are totals.

use std::io::Write;
use std::time::{Duration, Instant};

use openssl::ssl::ErrorCode;

use crate::proxying::nginx::Nginx;
use crate::world::{Connection, TOKEN_PATH, World, eventually};

use super::{get, statuses};

#[test]
fn a_header_that_drips_is_cut_at_its_deadline() {
    let world = World::with(|_, config| config.limits = "header_timeout: 1s".into());
    let connection = world.acme_client().connect().unwrap();
    let lasted =
        drip(connection, format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(10_000)).as_bytes());
    assert!(within(lasted, 900, 2_500), "{lasted:?}");
    assert!(world.upstream.requests().is_empty());
    eventually("the refusal is counted", || world.refusals("timeout") == 1.0);
}

#[test]
fn a_second_header_that_drips_is_cut_at_its_deadline() {
    let world = World::with(|_, config| config.limits = "header_timeout: 1s".into());
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.get("/").unwrap().status, 200);
    let lasted = drip(connection, format!("GET /{}", "x".repeat(10_000)).as_bytes());
    assert!(within(lasted, 900, 2_500), "{lasted:?}");
}

#[test]
fn a_body_that_drips_is_cut_at_its_deadline() {
    let world = World::with(|_, config| config.limits = "body_timeout: 1s".into());
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        for path in ["/inventory", TOKEN_PATH] {
            let mut connection = world.acme_client().connect().unwrap();
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: acme.example.com\r\n{framing}\r\n\r\n");
            connection.send(head.as_bytes()).unwrap();
            let body = "1\r\nx\r\n".repeat(10_000);
            let lasted = drip(connection, body.as_bytes());
            assert!(within(lasted, 900, 2_500), "{path} {framing}: {lasted:?}");
        }
    }
    assert!(world.upstream.requests().is_empty(), "{:?}", world.upstream.requests());
}

#[test]
fn a_body_that_never_comes_is_cut_at_its_deadline() {
    let world = World::with(|_, config| config.limits = "body_timeout: 1s".into());
    for path in ["/inventory", TOKEN_PATH] {
        let mut connection = world.acme_client().connect().unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 9\r\n\r\n");
        let started = Instant::now();
        connection.send(head.as_bytes()).unwrap();
        connection.until_closed();
        assert!(within(started.elapsed(), 900, 2_500), "{path}: {:?}", started.elapsed());
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn an_idle_connection_is_closed() {
    let world = World::with(|_, config| config.limits = "idle_timeout: 1s".into());
    let fresh = world.acme_client().connect().unwrap();
    let mut used = world.acme_client().connect().unwrap();
    assert_eq!(used.get("/").unwrap().status, 200);
    for mut connection in [fresh, used] {
        let started = Instant::now();
        connection.until_closed();
        assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    }
    // Passing is no fault.
    assert_eq!(world.refusals("timeout"), 0.0);
}

#[test]
fn a_request_in_progress_is_not_idle() {
    let world = World::with(|_, config| {
        config.limits = "idle_timeout: 300ms\nheader_timeout: 300ms\nbody_timeout: 300ms".into();
        config.platform.push_str("\ntimeouts: { read: 1s }");
    });
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.get("/hang").unwrap().status, 504);
}

#[test]
fn a_header_over_a_limit_is_answered_431_or_cut() {
    let world =
        World::with(|_, config| config.limits = "header_count: 40\nheader_bytes: 8KiB".into());
    let lines = |count: usize| -> String { (0..count).map(|i| format!("X-{i}: y\r\n")).collect() };
    let value = |size: usize| format!("X: {}\r\n", "y".repeat(size));
    let status = |lines: String| -> Vec<u16> {
        let mut connection = world.acme_client().connect().unwrap();
        let request = get("/", &format!("{lines}Connection: close\r\n"));
        // A header far over the limit is cut while it is being sent.
        let _ = connection.tls.write_all(request.as_bytes());
        statuses(&mut connection)
    };
    assert_eq!(status(lines(30)), [200]);
    assert_eq!(status(lines(60)), [431]);
    assert_eq!(status(lines(300)), [400]);
    assert_eq!(status(value(7_000)), [200]);
    assert_eq!(status(value(9_000)), [431]);
    let cut = status(value(1 << 20));
    assert!(matches!(cut[..], [] | [400] | [431]), "{cut:?}");
    let mut connection = world.acme_client().connect().unwrap();
    let long_path = get(&format!("/{}", "y".repeat(9_000)), "");
    assert_eq!(connection.exchange(long_path.as_bytes()).unwrap().status, 431);
    assert_eq!(world.upstream.requests().len(), 2);
}

#[test]
fn a_body_over_the_tenants_limit_is_answered_413() {
    let world = World::with(|_, config| config.acme("limits: { body_bytes: 64KiB }"));
    let post = |framing: &str, body: &[u8]| -> (u16, Connection) {
        let mut connection = world.acme_client().connect().unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: acme.example.com\r\n{framing}\r\n\r\n");
        connection.send(&[head.as_bytes(), body].concat()).unwrap();
        (connection.response().unwrap().status, connection)
    };
    let chunks = |count: usize| {
        let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
        format!("{}0\r\n\r\n", chunk.repeat(count)).into_bytes()
    };
    assert_eq!(post("Content-Length: 65536", &vec![b'x'; 65_536]).0, 200);
    assert_eq!(post("Transfer-Encoding: chunked", &chunks(64)).0, 200);
    let (status, mut connection) = post("Content-Length: 65537", b"");
    assert_eq!(status, 413);
    connection.until_closed();
    let (status, mut connection) = post("Transfer-Encoding: chunked", &chunks(65));
    assert_eq!(status, 413);
    connection.until_closed();
    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 2, "no body that was cut was taken for whole");
    assert!(requests.iter().all(|request| request.body.len() == 65_536));
    eventually("both are counted", || world.refusals("too_large") == 2.0);
    // Another tenant has a limit of its own.
    let mut other = world.globex_client().connect().unwrap();
    let head = "POST / HTTP/1.1\r\nHost: globex.example.com\r\nContent-Length: 65537\r\n\r\n";
    let request = [head.as_bytes(), &vec![b'x'; 65_537]].concat();
    assert_eq!(other.exchange(&request).unwrap().status, 200);
}

/// The deadline is a constant of half a minute, so this runs with `PORTCULLIS_LONG` only.
#[test]
fn a_peer_that_takes_its_answer_too_slowly_is_cut() {
    if std::env::var_os("PORTCULLIS_LONG").is_none() {
        return;
    }
    // More than the buffers of all sockets hold.
    let nginx = Nginx::start("", "", &[]);
    nginx.serve("large", &vec![b'x'; 64 << 20]);
    let world =
        World::with(|_, config| config.platform = format!("http: [\"{}\"]", nginx.address()));
    let mut connection = world.acme_client().connect().unwrap();
    let started = Instant::now();
    connection.send(get("/large", "").as_bytes()).unwrap();
    // A kilobyte each half second is no standstill, and yet too slow.
    while world.refusals("timeout") == 0.0 {
        pause(&mut connection, Duration::from_millis(500));
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was cut");
    }
    assert!(started.elapsed() > Duration::from_secs(25), "{:?}", started.elapsed());
}

/// Sends a byte every 50 ms until the edge closes; returns how long that took.
fn drip(mut connection: Connection, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    for byte in bytes {
        if connection.tls.write_all(&[*byte]).is_err()
            || pause(&mut connection, Duration::from_millis(50))
        {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(10), "nothing ends the connection");
    }
    panic!("all {} bytes were taken", bytes.len());
}

/// Waits for the edge to say something, no longer than this; whether it has closed.
fn pause(connection: &mut Connection, time: Duration) -> bool {
    connection.tls.get_ref().set_read_timeout(Some(time)).unwrap();
    let started = Instant::now();
    let mut chunk = [0; 1024];
    let closed = match connection.tls.ssl_read(&mut chunk) {
        Ok(n) => n == 0,
        Err(error) => error.code() != ErrorCode::WANT_READ,
    };
    // Where it has much to say, the rest of the time passes in waiting for a byte of nobody.
    if let (false, Some(rest)) = (closed, time.checked_sub(started.elapsed())) {
        let (_silent, nobody) = std::sync::mpsc::channel::<()>();
        let _ = nobody.recv_timeout(rest);
    }
    closed
}

fn within(time: Duration, from_ms: u64, to_ms: u64) -> bool {
    (Duration::from_millis(from_ms)..Duration::from_millis(to_ms)).contains(&time)
}
