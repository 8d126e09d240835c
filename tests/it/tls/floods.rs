//! Peers that stall, crowd or flood: they end, or do no harm, and the others are served.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;

use super::VERSIONS;
use super::hello::{self, HANDSHAKE, Hello, Relay};
use super::records::{APPLICATION_DATA, Handmade};
use crate::world::{Client, Connection, Failure, World, eventually};

const ALERT: u8 = hello::ALERT;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// How long a flood is kept up.
fn flood_time() -> Duration {
    let long = std::env::var_os("PORTCULLIS_LONG").is_some();
    Duration::from_secs(if long { 60 } else { 1 })
}

/// A device is served, soon.
#[track_caller]
fn served(client: &Client) {
    let started = Instant::now();
    assert_eq!(client.get("/good").unwrap().status, 200);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_handshake_that_stalls_after_any_flight_is_cut_at_its_deadline() {
    let world = World::with(|_, config| config.limits = "handshake_timeout: 1s".into());
    let hello = Hello::of(&world.acme_client()).records(16_384);
    let mut stalls: Vec<thread::JoinHandle<Duration>> = Vec::new();
    for sent in [0, 1, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
        let (start, address) = (hello[..sent].to_vec(), world.https());
        stalls.push(thread::spawn(move || {
            let started = Instant::now();
            hello::sent_raw(address, &start);
            started.elapsed()
        }));
    }
    for version in VERSIONS {
        let client = world.acme_client().tls(version);
        for passed in 1..handshake_records(&world, &client) {
            let relay = Relay::start(world.https(), loopback(1), move |number, record| {
                (number < passed).then_some(record)
            });
            let client = client.clone().at(relay.address());
            stalls.push(thread::spawn(move || {
                let started = Instant::now();
                assert!(client.get("/stalled").is_err());
                started.elapsed()
            }));
        }
    }
    served(&world.acme_client());
    let count = stalls.len();
    for stall in stalls {
        let lasted = stall.join().unwrap();
        assert!(lasted > Duration::from_millis(900), "cut early: {lasted:?}");
        assert!(lasted < Duration::from_secs(8), "cut late: {lasted:?}");
    }
    assert!(world.upstream.requests().iter().all(|request| !request.head.contains("stalled")));
    eventually("each is counted", || world.refusals("timeout") == count as f64);
    eventually("no handshake is left", || {
        world.metric("portcullis_handshakes_in_flight{protocol=\"https\"}") == 0.0
    });
}

/// In how many records this client sends its side of the handshake.
fn handshake_records(world: &World, client: &Client) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    let relay = Relay::start(world.https(), loopback(1), move |_, record| {
        counting.fetch_add(1, Ordering::SeqCst);
        Some(record)
    });
    let mut connection = client.clone().at(relay.address()).connect().unwrap();
    connection.get("/").unwrap();
    // The request was the last one.
    let records = count.load(Ordering::SeqCst) - 1;
    assert!(records >= 3, "{records}");
    records
}

#[test]
fn a_hello_that_drips_is_cut_by_a_total_deadline() {
    let world = World::with(|_, config| config.limits = "handshake_timeout: 1s".into());
    let hello = Hello::of(&world.acme_client()).records(1);
    let started = Instant::now();
    let mut tcp = hello::connect(world.https());
    tcp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = hello.iter();
    loop {
        let Some(byte) = bytes.next() else { panic!("the hello went through") };
        if tcp.write_all(&[*byte]).is_err() {
            break;
        }
        match tcp.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    let lasted = started.elapsed();
    assert!(lasted > Duration::from_millis(900) && lasted < Duration::from_secs(8), "{lasted:?}");
    eventually("it is counted", || world.refusals("timeout") == 1.0);
}

/// Connections from one address that send half a hello and wait.
fn half_open(world: &World, source: IpAddr, count: usize) -> Vec<TcpStream> {
    let hello = Hello::of(&world.acme_client()).records(16_384);
    let open = |_| {
        let mut tcp = hello::connect_from(source, world.https());
        let _ = tcp.write_all(&hello[..hello.len() / 2]);
        tcp
    };
    (0..count).map(open).collect()
}

fn in_flight(world: &World) -> f64 {
    world.metric("portcullis_handshakes_in_flight{protocol=\"https\"}")
}

#[test]
fn stalled_handshakes_of_one_address_leave_the_others_their_places() {
    let world = World::start();
    let stalled = half_open(&world, loopback(2), 64);
    eventually("all are in", || in_flight(&world) == 64.0);
    for mut newcomer in half_open(&world, loopback(2), 8) {
        assert!(hello::read_to_close(&mut newcomer).is_empty());
    }
    world.refused("overloaded", 8.0);
    let crowded = Relay::plain(loopback(2), world.https());
    let device = world.acme_client().at(crowded.address());
    assert_eq!(device.get("/").unwrap_err(), Failure::Closed);
    for _ in 0..20 {
        served(&world.acme_client());
    }
    assert_eq!(in_flight(&world), 64.0, "those inside were touched");
    drop(stalled);
    eventually("places are given back", || device.get("/").is_ok());
}

#[test]
fn a_full_house_of_handshakes_turns_newcomers_away_and_serves_those_inside() {
    let world = World::with(|_, config| {
        config.limits = "handshakes: 8\nhandshake_timeout: 3s".into();
    });
    let mut inside = world.acme_client().connect().unwrap();
    assert_eq!(inside.get("/").unwrap().status, 200);
    let stalled: Vec<TcpStream> =
        (2..10).flat_map(|last| half_open(&world, loopback(last), 1)).collect();
    eventually("the house is full", || in_flight(&world) == 8.0);
    assert_eq!(world.acme_client().get("/").unwrap_err(), Failure::Closed);
    assert_eq!(inside.get("/").unwrap().status, 200);
    world.refused("overloaded", 1.0);
    // Nothing is done, and time frees the places.
    eventually("the deadline frees the places", || in_flight(&world) == 0.0);
    served(&world.acme_client());
    drop(stalled);
}

#[test]
fn connections_of_one_address_are_capped() {
    let world = World::with(|_, config| config.limits = "connections_per_address: 3".into());
    let relay = Relay::plain(loopback(2), world.https());
    let crowd = world.acme_client().at(relay.address());
    let mut open: Vec<Connection> = (0..3).map(|_| established(&crowd)).collect();
    assert_eq!(crowd.get("/").unwrap_err(), Failure::Closed);
    served(&world.acme_client());
    for connection in &mut open {
        assert_eq!(connection.get("/").unwrap().status, 200);
    }
    open.pop();
    eventually("the place is given back", || crowd.get("/").is_ok());
}

#[test]
fn connections_in_all_are_capped() {
    let world = World::with(|_, config| config.limits = "connections: 3".into());
    let open: Vec<Connection> = (0..3).map(|_| established(&world.acme_client())).collect();
    let relay = Relay::plain(loopback(2), world.https());
    let newcomer = world.globex_client().at(relay.address());
    assert_eq!(newcomer.get("/").unwrap_err(), Failure::Closed);
    world.refused("overloaded", 1.0);
    drop(open);
    eventually("the places are given back", || newcomer.get("/").is_ok());
}

#[test]
fn connections_of_one_tenant_are_capped_and_the_next_tenant_is_served() {
    for version in VERSIONS {
        let world = World::with(|_, config| config.acme("limits: { connections: 2 }"));
        let client = world.acme_client().tls(version);
        let mut open: Vec<Connection> = (0..2).map(|_| established(&client)).collect();
        let mut newcomer = client.connect().unwrap();
        assert_eq!(newcomer.get("/").unwrap_err(), Failure::Alert(80));
        served(&world.globex_client());
        // The cap outlives a reload, which makes a new tenant of the old.
        world.write("acme-root.pem", format!("\n{}", world.acme.root.pem()));
        world.reload().unwrap();
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(80));
        assert_eq!(open[0].get("/").unwrap().status, 200);
        open.pop();
        eventually("the place is given back", || client.get("/").is_ok());
    }
}

fn established(client: &Client) -> Connection {
    let mut connection = client.connect().unwrap();
    assert_eq!(connection.get("/").unwrap().status, 200);
    connection
}

fn handmade(world: &World, version: SslVersion) -> Handmade {
    let chain = [&world.acme.device, &world.acme.issuing];
    Handmade::connect(world.https(), "acme.example.com", chain, version)
}

const GET: &[u8] = b"GET /handmade HTTP/1.1\r\nHost: acme.example.com\r\n\r\n";

/// Floods one connection after the other for a while: each ends, and good devices are served
/// all the time.
#[track_caller]
fn ends(world: &World, version: SslVersion, flood: impl Fn(&mut Handmade)) {
    let end = Instant::now() + flood_time();
    let good = world.acme_client();
    while Instant::now() < end {
        let mut connection = handmade(world, version);
        flood(&mut connection);
        connection.end();
        served(&good);
    }
    assert!(world.upstream.requests().iter().all(|request| request.head.contains("/good")));
}

#[test]
fn records_made_by_hand_are_understood() {
    let world = World::start();
    for version in VERSIONS {
        let mut connection = handmade(&world, version);
        let bytes: Vec<&[u8]> = GET.chunks(1).collect();
        connection.send(APPLICATION_DATA, &bytes);
        let answer = connection.read().unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let world = World::start();
    ends(&world, SslVersion::TLS1_3, |connection| connection.update_keys(1_000, false));
    ends(&world, SslVersion::TLS1_3, |connection| connection.update_keys(1_000, true));
}

#[test]
fn key_updates_between_the_bytes_of_a_request_do_no_harm() {
    let world = World::start();
    let mut connection = handmade(&world, SslVersion::TLS1_3);
    for byte in GET {
        connection.update_keys(16, true);
        connection.send(APPLICATION_DATA, &[&[*byte]]);
    }
    assert!(connection.read().unwrap().starts_with(b"HTTP/1.1 200"));
    served(&world.acme_client());
}

#[test]
fn a_flood_of_empty_records_ends_the_connection() {
    let world = World::start();
    for version in VERSIONS {
        ends(&world, version, |connection| {
            connection.send(APPLICATION_DATA, &[&b""[..]; 1_000]);
        });
    }
}

#[test]
fn a_flood_of_warnings_ends_the_connection() {
    let world = World::start();
    let warnings: Vec<&[u8]> = vec![&[1, USER_CANCELED]; 1_000];
    for version in VERSIONS {
        ends(&world, version, |connection| connection.send(ALERT, &warnings));
    }
    let warnings: Vec<&[u8]> = vec![&[1, NO_RENEGOTIATION]; 1_000];
    ends(&world, SslVersion::TLS1_2, |connection| connection.send(ALERT, &warnings));
}

#[test]
fn a_client_that_renegotiates_is_refused() {
    let world = World::start();
    for sni in ["acme.example.com", "globex.example.com"] {
        let mut connection = handmade(&world, SslVersion::TLS1_2);
        connection.send(APPLICATION_DATA, &[GET]);
        assert!(connection.read().unwrap().starts_with(b"HTTP/1.1 200"));
        let again = Hello::of(&world.client(sni).tls12()).message();
        connection.send(HANDSHAKE, &[&again]);
        assert_eq!(connection.end(), Some(NO_RENEGOTIATION));
    }
    let again = Hello::of(&world.client("acme.example.com").tls12()).message();
    for version in VERSIONS {
        let mut connection = handmade(&world, version);
        connection.send(HANDSHAKE, &[&again]);
        assert!(connection.end().is_some(), "{version:?}");
    }
    served(&world.acme_client());
    assert_eq!(world.upstream.requests().len(), 3);
}

#[test]
fn records_that_are_garbage_end_the_connection_with_an_alert() {
    let world = World::start();
    for version in VERSIONS {
        for (kind, payload) in [
            (99, &b"?"[..]),
            (20, b"\x01"),
            (HANDSHAKE, b"\xff\x00\x00\x00"),
            (HANDSHAKE, b"\x0b\x00\x00\x03\x00\x00\x00"),
            (HANDSHAKE, b"\x18\xff\xff\xff"),
            (ALERT, b"\x02"),
            (ALERT, b"\x09\x09"),
        ] {
            let mut connection = handmade(&world, version);
            connection.send(kind, &[payload]);
            assert!(connection.end().is_some(), "{version:?} {kind} {payload:02x?}");
        }
        // Not even sealed.
        let mut tcp = hello::connect(world.https());
        tcp.write_all(&[0x80; 4_096]).unwrap();
        hello::read_to_close(&mut tcp);
    }
    served(&world.acme_client());
}
