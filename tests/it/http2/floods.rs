//! Floods of frames: whatever a peer sends, memory is bounded and good clients are served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::proxying::nginx::Nginx;
use crate::world::{Client, TOKEN_PATH, World};

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, H2, HEADER_TABLE_SIZE,
    HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
    frame, get, indexed, post,
};

const CANCEL: [u8; 4] = [0, 0, 0, 8];
const MIB: usize = 1 << 20;

/// The error code of the edge's GOAWAY, where the attack has seen one.
type Goodbye = Option<u32>;

#[test]
fn a_rapid_reset_ends_the_connection() {
    let world = World::start();
    let goodbyes = flood(&world, |client| {
        let mut h2 = H2::connect(client);
        for _ in 0..100 {
            let mut burst = Vec::new();
            for _ in 0..100 {
                let stream = h2.stream();
                let flags = END_HEADERS | END_STREAM;
                burst.extend(frame(HEADERS, flags, stream, &block(&get("/reset"))));
                burst.extend(frame(RST_STREAM, 0, stream, &CANCEL));
            }
            // Read at once: what the edge said last is lost where it closes on unread frames.
            let sent = h2.send(&burst);
            let goodbye = h2.goodbye(Duration::from_millis(5));
            if goodbye.is_some() || sent.is_err() {
                return goodbye;
            }
        }
        None
    });
    assert!(goodbyes.contains(&Some(ENHANCE_YOUR_CALM)), "{goodbyes:?}");
}

#[test]
fn endless_continuations_end_the_connection() {
    let world = World::start();
    let goodbyes = flood(&world, |client| {
        let mut h2 = H2::connect(client);
        let stream = h2.stream();
        let mut sent = h2.send(&frame(HEADERS, END_STREAM, stream, &block(&get("/"))));
        let piece = block(&[("x", &"y".repeat(1_000))]);
        for _ in 0..10_000 {
            if sent.is_err() {
                break;
            }
            sent = h2.send(&frame(CONTINUATION, 0, stream, &piece));
        }
        assert!(sent.is_err() || h2.ends(Duration::from_secs(2)), "10 MB of header were taken");
        None
    });
    assert!(!goodbyes.is_empty());
    let mut h2 = H2::connect(&world.acme_client());
    let stream = h2.stream();
    let mut frames = frame(HEADERS, END_STREAM, stream, &block(&get("/")));
    frames.extend(frame(CONTINUATION, 0, stream, &[]).repeat(100));
    h2.send(&frames).unwrap();
    assert_eq!(h2.goodbye(Duration::from_secs(2)), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn a_peer_that_makes_the_edge_reset_is_told_goodbye() {
    let world = World::start();
    // The attack is on the edge: it answers this path itself, so that no upstream is flooded.
    let own = get("/.well-known/jwks.json");
    // Each makes an error of one stream, for which the edge must send RST_STREAM.
    let provocations: [fn(u32) -> Vec<u8>; 5] = [
        |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
        |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
        |stream| frame(PRIORITY, 0, stream, &[0; 4]),
        |stream| {
            let dependency = stream.to_be_bytes();
            frame(PRIORITY, 0, stream, &[&dependency[..], &[1]].concat())
        },
        |stream| frame(DATA, 0, stream, b"after the end"),
    ];
    for (index, provoke) in provocations.into_iter().enumerate() {
        let goodbyes = flood_for(&world, length() / 5, |client| {
            let mut h2 = H2::connect(client);
            for _ in 0..60 {
                let mut burst = Vec::new();
                for _ in 0..50 {
                    let stream = h2.stream();
                    let flags = END_HEADERS | END_STREAM;
                    burst.extend(frame(HEADERS, flags, stream, &block(&own)));
                    burst.extend(provoke(stream));
                }
                let goodbye = match h2.send(&burst) {
                    Ok(()) => h2.goodbye(Duration::from_millis(1)),
                    Err(_) => return h2.goodbye(Duration::from_millis(500)),
                };
                if goodbye.is_some() {
                    return goodbye;
                }
            }
            None
        });
        assert!(goodbyes.iter().any(Option::is_some), "provocation {index}");
    }
}

#[test]
fn settings_and_pings_without_end_cost_nothing() {
    let world = World::start();
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff].repeat(100)).repeat(20);
    let empty = frame(SETTINGS, 0, 0, &[]).repeat(1_000);
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(500);
    let acks = frame(SETTINGS, ACK, 0, &[]).repeat(1_000);
    let windows = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(1_000);
    let priorities = frame(PRIORITY, 0, 99, &[0, 0, 0, 1, 1]).repeat(1_000);
    for bytes in [settings, empty, pings, acks, windows, priorities] {
        flood_for(&world, length() / 6, |client| {
            // Nothing of what the edge says is ever read.
            let mut h2 = H2::connect(client);
            for _ in 0..100 {
                if h2.send(&bytes).is_err() {
                    break;
                }
            }
            None
        });
    }
}

#[test]
fn empty_data_without_end_costs_nothing() {
    let world = World::start();
    flood(&world, |client| {
        let mut h2 = H2::connect(client);
        let stream = h2.request(&post("/inventory"), false);
        let empty = frame(DATA, 0, stream, &[]).repeat(1_000);
        for _ in 0..100 {
            if h2.send(&empty).is_err() {
                break;
            }
        }
        None
    });
}

#[test]
fn a_header_that_unfolds_to_much_more_is_refused() {
    let world = World::start();
    flood(&world, |client| {
        let mut h2 = H2::connect(client);
        let stream = h2.stream();
        let fill = [block(&get("/bomb")), indexed("x", &"y".repeat(4_000))].concat();
        h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &fill)).unwrap();
        assert_eq!(h2.answer(stream).status, 200);
        // 16,000 bytes that stand for 64 MB.
        let stream = h2.stream();
        let bomb = [block(&get("/bomb")), vec![0x80 | 62; 16_000]].concat();
        h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb)).unwrap();
        let answer = h2.answer(stream);
        assert!(matches!(answer.status, 0 | 431), "{answer:?}");
        None
    });
    assert!(world.upstream.requests().iter().all(|request| request.head.len() < 16_000));
}

/// CVE-2026-49975: many small fields, a byte each on the wire, held by shut windows.
#[test]
fn unfolded_headers_are_not_held_by_shut_windows() {
    let world = World::start();
    good_client_is_served(&world);
    // More fields than the limit allows, and as many as it does.
    for fields in [800, 90] {
        let before = resident();
        let mut held = Vec::new();
        for _ in 0..48 {
            let settings = [(INITIAL_WINDOW_SIZE, 0), (HEADER_TABLE_SIZE, 0)];
            let mut h2 = H2::with_settings(&world.acme_client(), &settings);
            let first = [block(&get(TOKEN_PATH)), indexed("a", "")].concat();
            let again = [block(&get(TOKEN_PATH)), vec![0x80 | 62; fields]].concat();
            for index in 0..120 {
                let stream = h2.stream();
                let block = if index == 0 { &first } else { &again };
                let sent = h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, block));
                if sent.is_err() {
                    break;
                }
            }
            // The edge has begun to answer.
            while h2.next(Duration::from_secs(2)).is_some_and(|frame| frame.kind != HEADERS) {}
            held.push(h2);
        }
        good_client_is_served(&world);
        bounded(before);
    }
}

#[test]
fn answers_that_nobody_takes_are_not_gathered() {
    // In a process of its own, so that what the upstream holds does not count.
    let nginx = Nginx::start("", "", &[]);
    nginx.serve("large", &vec![b'x'; MIB]);
    nginx.serve("good", b"good");
    let world = World::with(|_, config| {
        config.platform = format!("http: [\"{}\"]", nginx.address());
    });
    good_client_is_served(&world);
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..3 {
        let settings = [(INITIAL_WINDOW_SIZE, 0), (HEADER_TABLE_SIZE, 0)];
        let mut h2 = H2::with_settings(&world.acme_client(), &settings);
        for _ in 0..100 {
            h2.request(&get("/large"), true);
        }
        held.push(h2);
    }
    let end = Instant::now() + length() / 2;
    while Instant::now() < end {
        good_client_is_served(&world);
        held[0].next(Duration::from_millis(100));
    }
    bounded(before);
    if long() {
        // A stream whose window stays shut ends after a minute.
        let mut h2 = held.remove(0);
        let end = Instant::now() + Duration::from_secs(90);
        let reset = std::iter::from_fn(|| h2.next(end - Instant::now()))
            .any(|frame| frame.kind == RST_STREAM);
        assert!(reset, "the stalled streams live on");
    }
}

#[test]
fn more_streams_than_allowed_are_refused_each() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    let streams: Vec<u32> = (0..200).map(|_| h2.request(&post("/inventory"), false)).collect();
    let refused = std::iter::from_fn(|| h2.next(Duration::from_millis(500)))
        .filter(|frame| frame.kind == RST_STREAM)
        .count();
    assert!(refused >= 100, "{refused} refused");
    for stream in &streams[..10] {
        let _ = h2.send(&frame(DATA, END_STREAM, *stream, b"x"));
    }
    assert_eq!(h2.answer(streams[9]).status, 200, "those within the limit are served");
}

/// Runs an attack again and again on one connection after the other, beside a good client;
/// returns what each round returned.
fn flood(world: &World, attack: impl Fn(&Client) -> Goodbye + Sync) -> Vec<Goodbye> {
    flood_for(world, length(), attack)
}

fn flood_for(
    world: &World,
    time: Duration,
    attack: impl Fn(&Client) -> Goodbye + Sync,
) -> Vec<Goodbye> {
    let before = resident();
    let (client, over) = (world.acme_client(), AtomicBool::new(false));
    let rounds = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut rounds = vec![attack(&client)];
            while !over.load(Ordering::Relaxed) {
                rounds.push(attack(&client));
            }
            rounds
        });
        let stop = Stop(&over);
        let end = Instant::now() + time;
        while Instant::now() < end && !attacker.is_finished() {
            good_client_is_served(world);
        }
        drop(stop);
        attacker.join().unwrap()
    });
    bounded(before);
    good_client_is_served(world);
    rounds
}

/// Ends the attack also where the good client's panic ends the test.
struct Stop<'f>(&'f AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn good_client_is_served(world: &World) {
    let started = Instant::now();
    let client = world.globex_client();
    assert_eq!(client.get("/good").unwrap().status, 200);
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
}

#[track_caller]
fn bounded(before: usize) {
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "grown by {} MiB", grown / MIB);
}

/// The process's resident memory; the edge runs in this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some()
}

fn length() -> Duration {
    Duration::from_secs(if long() { 60 } else { 3 })
}
