//! The PROXY protocol header of balancers, and of those that only pretend to be one.

use std::io::Write;
use std::time::{Duration, Instant};

use super::hello;
use crate::world::{Client, Failure, World, eventually};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header: command (1 PROXY, 0 LOCAL), family, and all that follows the length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, rest].concat()
}

/// 192.0.2.7:1234 → 192.0.2.8:443.
const FROM_192_0_2_7: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 8, 0x04, 0xd2, 0x01, 0xbb];

fn world(from: &str) -> World {
    World::with(|_, config| config.listener = format!("proxy_protocol: {{ from: [{from}] }}"))
}

/// The address that the upstream is told.
#[track_caller]
fn forwarded_for(world: &World, client: Client) -> String {
    assert_eq!(client.get("/").unwrap().status, 200);
    let seen = world.upstream.requests().pop().unwrap();
    let forwarded = seen.header("x-forwarded-for");
    assert_eq!(forwarded.len(), 1);
    forwarded[0].to_owned()
}

#[test]
fn headers_of_both_versions_name_the_device() {
    let world = world("127.0.0.1");
    let mut ipv6 = [0; 36];
    ipv6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    ipv6[32..].copy_from_slice(&[1, 2, 3, 4]);
    // PP2_TYPE_AUTHORITY of 3,000 octets; PP2_TYPE_SSL that says "verified".
    let long = [&FROM_192_0_2_7[..], &[2, 0x0b, 0xb8], &[b'x'; 3_000]].concat();
    let ssl = [&FROM_192_0_2_7[..], &[0x20, 0, 5, 7, 0, 0, 0, 0]].concat();
    for (header, address) in [
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::8 1234 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 192.0.2.7 192.0.2.8 1234 443\r\n".to_vec(), "127.0.0.1"),
        (v2(1, 0x11, &FROM_192_0_2_7), "192.0.2.7"),
        (v2(1, 0x21, &ipv6), "2001:db8::7"),
        (v2(1, 0x11, &long), "192.0.2.7"),
        (v2(1, 0x11, &ssl), "192.0.2.7"),
        (v2(0, 0x00, &[]), "127.0.0.1"),
        (v2(0, 0x11, &FROM_192_0_2_7), "127.0.0.1"),
    ] {
        let client = world.acme_client().prologue(&header);
        let seen = forwarded_for(&world, client);
        assert_eq!(seen, address, "{}", String::from_utf8_lossy(&header));
    }
}

#[test]
fn a_header_that_comes_a_byte_at_a_time_is_read() {
    for header in
        [b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n".to_vec(), v2(1, 0x11, &FROM_192_0_2_7)]
    {
        let world = world("127.0.0.1");
        let mut tcp = hello::connect(world.https());
        for byte in header {
            tcp.write_all(&[byte]).unwrap();
        }
        let ssl = world.acme_client().ssl(&Default::default());
        let mut tls = ssl.connect(tcp).unwrap();
        tls.write_all(b"GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n").unwrap();
        assert_ne!(tls.ssl_read(&mut [0; 64]).unwrap(), 0);
        assert_eq!(world.upstream.only_request().header("x-forwarded-for"), ["192.0.2.7"]);
    }
}

#[test]
fn a_balancer_that_sends_no_header_or_garbage_is_refused() {
    let world = world("127.0.0.1");
    let whole = v2(1, 0x11, &FROM_192_0_2_7);
    let mut future = whole.clone();
    future[12] = 0x31;
    let mut command = whole.clone();
    command[12] = 0x22;
    let short = v2(1, 0x11, &FROM_192_0_2_7[..8]);
    let mut refused = 0.0;
    for prologue in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1234\r\n",
        b"PROXY TCP4 192.0.2.700 192.0.2.8 1234 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443 evil\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.8 -1 443\r\n",
        b"PROXY TCP9 192.0.2.7 192.0.2.8 1234 443\r\n",
        b"proxy TCP4 192.0.2.7 192.0.2.8 1234 443\r\n",
        b"PROXY\r\n",
        &[b'P'; 200],
        &[0; 200],
        &future,
        &command,
        &short,
    ] {
        let client = world.acme_client().prologue(prologue);
        let failure = client.get("/").unwrap_err();
        assert_eq!(failure, Failure::Closed, "{}", String::from_utf8_lossy(prologue));
        refused += 1.0;
        assert_eq!(
            world.refusals("protocol_error"),
            refused,
            "{}",
            String::from_utf8_lossy(prologue)
        );
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_header_with_65_kb_of_extensions_is_refused() {
    let world = world("127.0.0.1");
    let rest = [&FROM_192_0_2_7[..], &[0x02, 0xff, 0xf0], &vec![b'x'; 65_520]].concat();
    let client = world.acme_client().prologue(&v2(1, 0x11, &rest));
    assert_eq!(client.get("/").unwrap_err(), Failure::Closed);
    let endless = [&b"PROXY TCP4 "[..], &vec![b'1'; 100_000]].concat();
    assert_eq!(world.acme_client().prologue(&endless).get("/").unwrap_err(), Failure::Closed);
    assert_eq!(world.refusals("protocol_error"), 2.0);
}

#[test]
fn a_header_from_anyone_else_is_garbage_and_its_address_counts_for_nothing() {
    for from in ["192.0.2.0/24", "\"::1\", 10.0.0.0/8"] {
        let world = world(from);
        for header in
            [b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(), v2(1, 0x11, &FROM_192_0_2_7)]
        {
            assert!(world.acme_client().prologue(&header).get("/").is_err());
        }
        assert!(world.upstream.requests().is_empty());
        // Whoever is no balancer owes no header, even where the one it forged names one.
        assert_eq!(forwarded_for(&world, world.acme_client()), "127.0.0.1");
    }
}

#[test]
fn without_the_setting_every_header_is_garbage() {
    let world = World::start();
    for header in [b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(), v2(1, 0x11, &FROM_192_0_2_7)]
    {
        assert!(world.acme_client().prologue(&header).get("/").is_err());
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_second_header_is_not_read() {
    let world = world("127.0.0.1");
    let twice = v2(1, 0x11, &FROM_192_0_2_7).repeat(2);
    assert!(world.acme_client().prologue(&twice).get("/").is_err());
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_header_that_never_ends_is_cut_at_the_handshakes_deadline() {
    let world = World::with(|_, config| {
        config.listener = "proxy_protocol: { from: [127.0.0.1] }".into();
        config.limits = "handshake_timeout: 500ms".into();
    });
    for start in [&b""[..], b"PROXY TCP4 ", SIGNATURE] {
        let started = Instant::now();
        assert!(hello::sent_raw(world.https(), start).is_empty());
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
    eventually("each is counted", || world.refusals("timeout") == 3.0);
}

#[test]
fn places_are_counted_by_the_address_in_the_header() {
    let world = World::with(|_, config| {
        config.listener = "proxy_protocol: { from: [127.0.0.1] }".into();
        config.limits = "connections_per_address: 2".into();
    });
    let from = |last: u8| {
        let header = format!("PROXY TCP4 192.0.2.{last} 192.0.2.100 1 2\r\n");
        let mut connection = world.acme_client().prologue(header.as_bytes()).connect()?;
        connection.get("/").map(|_| connection)
    };
    let first = [from(1).unwrap(), from(1).unwrap()];
    assert_eq!(from(1).err(), Some(Failure::Closed));
    // The balancer's own address has no share in it.
    let others: Vec<_> = (2..8).map(|last| from(last).unwrap()).collect();
    assert_eq!(world.refusals("overloaded"), 1.0);
    drop((first, others));
    eventually("places are given back", || from(1).is_ok());
}
