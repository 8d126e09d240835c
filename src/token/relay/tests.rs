use std::task::{Context, Poll, Waker};

use serde_json::json;

use super::*;
use crate::token::tests::epoch;
use crate::trust::StaleCrl;

const START: UnixSeconds = 1_800_000_000;
const LEAF: [u8; 32] = [7; 32];
const NAME: &str = "acme.example.com";

struct World {
    tokens: RelayedTokens,
    tenant: TenantId,
    device: DeviceId,
    epoch: Epoch,
}

impl World {
    fn new() -> World {
        World::with_flights(100)
    }

    fn with_flights(flights: usize) -> World {
        World {
            tokens: RelayedTokens::new(100, Duration::from_secs(600), flights),
            tenant: TenantId::parse("acme").unwrap(),
            device: DeviceId::parse("device-1").unwrap(),
            epoch: epoch(StaleCrl::Refuse),
        }
    }

    fn get(&self, now: UnixSeconds) -> Relayed {
        self.get_by(NAME, now)
    }

    fn get_by(&self, authority: &str, now: UnixSeconds) -> Relayed {
        self.tokens.get(&self.tenant, &self.device, authority, &LEAF, &self.epoch, now)
    }

    fn put(&self, jwt: Option<&str>, now: UnixSeconds) {
        self.put_by(NAME, jwt, now);
    }

    fn put_by(&self, authority: &str, jwt: Option<&str>, now: UnixSeconds) {
        let (tenant, device, epoch) = (&self.tenant, &self.device, &self.epoch);
        self.tokens.put(tenant, device, authority, &LEAF, epoch, body(jwt), jwt, now);
    }

    /// Devices of `device-0` up to this one whose token is remembered.
    fn remembered(&mut self, devices: usize) -> Vec<usize> {
        self.tokens.current.run_pending_tasks();
        let mut fresh = |n: &usize| {
            self.device = DeviceId::parse(&format!("device-{n}")).unwrap();
            matches!(self.get(START), Relayed::Fresh(_))
        };
        (0..devices).filter(|n| fresh(n)).collect()
    }

    fn flight(&self, device: &str) -> Option<Flight> {
        self.tokens.flight(&self.tenant, &DeviceId::parse(device).unwrap())
    }

    /// Seconds after `START` at which it goes stale, and at which it is gone.
    fn ages(&self) -> (i64, i64) {
        let first = |is: &dyn Fn(Relayed) -> bool| {
            (0..100_000).find(|age| is(self.get(START + age))).unwrap()
        };
        let stale = first(&|relayed| !matches!(relayed, Relayed::Fresh(_)));
        (stale, first(&|relayed| matches!(relayed, Relayed::None)))
    }
}

fn body(jwt: Option<&str>) -> Bytes {
    Bytes::from(format!("{{\"accessToken\":\"{}\"}}", jwt.unwrap_or_default()))
}

fn jwt(claims: serde_json::Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn hour() -> String {
    jwt(json!({ "iat": START, "exp": START + 3_600 }))
}

#[test]
fn a_token_is_given_again_until_half_life_and_kept_as_a_fallback_until_its_end() {
    let world = World::new();
    assert!(matches!(world.get(START), Relayed::None));
    world.put(Some(&hour()), START);
    assert_eq!(world.ages(), (1_800, 3_600));
    let Relayed::Fresh(got) = world.get(START) else { panic!() };
    assert_eq!(got.body(), &body(Some(&hour())));
    let Relayed::Stale(got) = world.get(START + 3_599) else { panic!() };
    assert_eq!(got.body(), &body(Some(&hour())));
}

#[test]
fn the_half_life_is_that_of_the_platforms_token_not_of_the_fetch() {
    let world = World::new();
    world.put(Some(&jwt(json!({ "iat": START - 1_000, "exp": START + 2_600 }))), START);
    assert_eq!(world.ages(), (800, 2_600));
    // Past its half already: the platform is asked again, but not for each request.
    world.put(Some(&jwt(json!({ "iat": START - 3_000, "exp": START + 600 }))), START);
    assert_eq!(world.ages(), (30, 600));
    world.put(Some(&jwt(json!({ "iat": START - 3_590, "exp": START + 10 }))), START);
    assert_eq!(world.ages(), (5, 10));
}

#[test]
fn a_token_without_times_lives_by_the_fallback() {
    for odd in [
        "opaque".into(),
        "a.b.c".into(),
        jwt(json!({})),
        jwt(json!([])),
        jwt(json!({ "exp": "soon", "iat": START })),
        jwt(json!({ "exp": null })),
        format!("{}.more", hour()),
    ] {
        let world = World::new();
        world.put(Some(&odd), START);
        assert_eq!(world.ages(), (300, 600), "{odd}");
    }
    let world = World::new();
    world.put(None, START);
    assert_eq!(world.ages(), (300, 600));
}

#[test]
fn without_a_sensible_start_the_life_of_a_token_starts_now() {
    for iat in [json!(null), json!("x"), json!(START + 9_999)] {
        let world = World::new();
        world.put(Some(&jwt(json!({ "iat": iat, "exp": START + 1_000 }))), START);
        assert_eq!(world.ages(), (500, 1_000), "{iat}");
    }
    let world = World::new();
    world.put(Some(&jwt(json!({ "nbf": START - 500, "exp": (START + 1_000) as f64 }))), START);
    assert_eq!(world.ages(), (250, 1_000));
}

#[test]
fn no_token_is_kept_for_more_than_a_day() {
    for exp in [json!(START + 30 * 86_400), json!(i64::MAX), json!(u64::MAX), json!(1e300)] {
        let world = World::new();
        world.put(Some(&jwt(json!({ "iat": START, "exp": exp }))), START);
        assert_eq!(world.ages().1, 86_400, "{exp}");
    }
    let long = RelayedTokens::new(100, Duration::MAX, 1);
    let world = World { tokens: long, ..World::new() };
    world.put(None, START);
    assert_eq!(world.ages(), (86_400, 86_400));
}

#[test]
fn what_has_expired_is_not_kept() {
    for exp in [START, START - 1, i64::MIN] {
        let world = World::new();
        world.put(Some(&hour()), START);
        world.put(Some(&jwt(json!({ "iat": exp, "exp": exp }))), START);
        assert!(matches!(world.get(START), Relayed::None), "nor is what was there before");
    }
}

#[test]
fn a_long_answer_is_not_kept() {
    let world = World::new();
    let most = MAX_ANSWER - NAME.len() - body(None).len();
    world.put(Some(&"x".repeat(most)), START);
    assert!(matches!(world.get(START), Relayed::Fresh(_)));
    for long in [most + 1, 1 << 20] {
        world.put(Some(&"x".repeat(long)), START);
        assert!(matches!(world.get(START), Relayed::None), "nor is what was there before");
    }
}

#[test]
fn a_token_is_given_only_on_the_terms_on_which_it_came() {
    let world = World::new();
    world.put(Some(&hour()), START);
    let get = |tenant: &str, device: &str, leaf, epoch: &Epoch| {
        let tenant = TenantId::parse(tenant).unwrap();
        world.tokens.get(&tenant, &DeviceId::parse(device).unwrap(), NAME, leaf, epoch, START)
    };
    let other = epoch(StaleCrl::Accept);
    assert!(matches!(get("acme", "device-1", &LEAF, &world.epoch), Relayed::Fresh(_)));
    assert!(matches!(get("acme", "device-1", &[8; 32], &world.epoch), Relayed::None));
    assert!(matches!(get("acme", "device-1", &LEAF, &other), Relayed::None));
    assert!(matches!(get("umbrella", "device-1", &LEAF, &world.epoch), Relayed::None));
    assert!(matches!(get("acme", "device-2", &LEAF, &world.epoch), Relayed::None));
    for name in ["", "acme.example.com:8443", "ACME.example.com", "b.example.com"] {
        assert!(matches!(world.get_by(name, START), Relayed::None), "{name}");
    }
    assert!(matches!(world.get(START - 1), Relayed::None), "the clock was set back");
    world.tokens.forget(&world.tenant, &world.device);
    assert!(matches!(world.get(START), Relayed::None));
}

#[test]
fn each_name_of_a_tenant_has_a_token_of_its_own() {
    let world = World::new();
    let of = |name: &str, now| match world.get_by(name, now) {
        Relayed::Fresh(token) | Relayed::Stale(token) => Some(token.body().clone()),
        Relayed::None => None,
    };
    let (a, b) = (hour(), jwt(json!({ "iat": START, "exp": START + 100 })));
    world.put_by("a.example.com", Some(&a), START);
    world.put_by("b.example.com", Some(&b), START);
    assert_eq!(of("a.example.com", START), Some(body(Some(&a))));
    assert_eq!(of("b.example.com", START), Some(body(Some(&b))));
    // A new one takes the place of its own name's only; one that cannot be kept, too.
    world.put_by("a.example.com", Some(&b), START);
    assert_eq!(of("a.example.com", START), Some(body(Some(&b))));
    world.put_by("a.example.com", Some(&jwt(json!({ "exp": START }))), START);
    assert_eq!(of("a.example.com", START), None);
    assert_eq!(of("b.example.com", START), Some(body(Some(&b))));
    // What has ended is cleared away.
    world.put_by("a.example.com", Some(&a), START + 100);
    assert_eq!(world.tokens.current.iter().map(|(_, tokens)| tokens.len()).sum::<usize>(), 1);
    world.put_by("b.example.com", Some(&a), START + 100);
    world.tokens.forget(&world.tenant, &world.device);
    assert_eq!((of("a.example.com", START + 100), of("b.example.com", START + 100)), (None, None));
}

#[test]
fn a_device_that_asks_by_ever_new_names_drops_its_own_tokens_only() {
    let mut world = World::new();
    world.put(Some(&hour()), START);
    world.device = DeviceId::parse("device-2").unwrap();
    for port in 1..=1_000 {
        world.put_by(&format!("{NAME}:{port}"), Some(&hour()), START);
    }
    world.tokens.current.run_pending_tasks();
    assert_eq!(world.tokens.current.weighted_size(), 1 + MAX_AUTHORITIES as u64);
    for port in 997..=1_000 {
        assert!(matches!(world.get_by(&format!("{NAME}:{port}"), START), Relayed::Fresh(_)));
    }
    world.device = DeviceId::parse("device-1").unwrap();
    assert!(matches!(world.get(START), Relayed::Fresh(_)));
}

#[test]
fn the_capacity_is_in_tokens() {
    let mut world = World::new();
    let token = format!("{}{}", hour(), "x".repeat(2_048));
    for n in 0..100 {
        world.device = DeviceId::parse(&format!("device-{n}")).unwrap();
        world.put(Some(&token), START);
    }
    assert_eq!(world.remembered(100).len(), 100, "as many as were asked for");
    for n in 100..120 {
        world.device = DeviceId::parse(&format!("device-{n}")).unwrap();
        world.put(Some(&token), START);
    }
    assert_eq!(world.remembered(120), Vec::from_iter(20..120), "the last ones");
}

#[test]
fn long_answers_take_the_place_of_several_so_that_memory_stays_bounded() {
    let mut world = World::new();
    let long = "x".repeat(60 * 1024);
    for n in 0..100 {
        world.device = DeviceId::parse(&format!("device-{n}")).unwrap();
        world.put(Some(&long), START);
    }
    let remembered = world.remembered(100);
    assert!(remembered.len() * long.len() <= 100 * PLACE && remembered.contains(&99));
}

#[test]
fn a_token_is_not_shown() {
    let world = World::new();
    world.put(Some(&hour()), START);
    let shown = format!("{:?}", world.get(START));
    assert!(shown.contains("expires_at") && !shown.contains("e30"), "{shown}");
}

/// Polls once, without a runtime.
fn poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn of_one_device_one_flies_at_a_time_and_in_order() {
    let world = World::new();
    let mut flights: Vec<_> =
        (0..3).map(|_| Box::pin(world.flight("device-1").unwrap().start())).collect();
    let Poll::Ready(first) = poll(&mut flights[0]) else { panic!("the first waits") };
    assert!(poll(&mut flights[1]).is_pending() && poll(&mut flights[2]).is_pending());
    let mut other = Box::pin(world.flight("device-2").unwrap().start());
    assert!(poll(&mut other).is_ready(), "another device does not wait");
    drop(first);
    assert!(poll(&mut flights[2]).is_pending());
    let Poll::Ready(second) = poll(&mut flights[1]) else { panic!("the second waits on") };
    drop(second);
    assert!(poll(&mut flights[2]).is_ready());
}

#[test]
fn flights_that_end_or_are_given_up_leave_nothing_behind() {
    let world = World::with_flights(12);
    let empty = || {
        let queues = world.tokens.flights.queues();
        queues.of_device.is_empty() && queues.of_tenant.is_empty() && queues.count == 0
    };
    let unstarted = world.flight("device-1").unwrap();
    let mut running = Box::pin(world.flight("device-1").unwrap().start());
    let Poll::Ready(guard) = poll(&mut running) else { panic!("nobody flies") };
    let mut waiting = Box::pin(world.flight("device-1").unwrap().start());
    assert!(poll(&mut waiting).is_pending());
    assert!(world.flight("device-2").is_none(), "three places are taken");
    drop(unstarted);
    drop(waiting);
    assert!(world.flight("device-2").is_some() && !empty());
    drop(guard);
    assert!(empty());
}

#[test]
fn one_tenant_does_not_take_every_place() {
    let world = World::with_flights(100);
    let flights = |tenant: &str| -> Vec<Flight> {
        let tenant = TenantId::parse(tenant).unwrap();
        let device = |n| DeviceId::parse(&format!("device-{n}")).unwrap();
        (0..200).filter_map(|n| world.tokens.flight(&tenant, &device(n))).collect()
    };
    let hanging = flights("acme");
    assert_eq!(hanging.len(), 25);
    let others: Vec<_> = ["b", "c", "d"].into_iter().map(flights).collect();
    assert!(others.iter().all(|held| held.len() == 25));
    assert!(flights("e").is_empty(), "all places are taken");
    drop(others);
    assert!(flights("acme").is_empty());
    drop(hanging);
    assert_eq!(flights("acme").len(), 25);
    // Where there are few, each tenant has one still.
    assert!(World::with_flights(1).flight("device-1").is_some());
    assert!(World::with_flights(0).flight("device-1").is_none());
}

#[test]
fn one_device_does_not_take_every_place() {
    let world = World::with_flights(1_000);
    let held: Vec<_> = std::iter::from_fn(|| world.flight("device-1")).take(500).collect();
    assert_eq!(held.len(), 1 + MAX_WAITING);
    assert!(world.flight("device-2").is_some());
    drop(held);
    assert!(world.flight("device-1").is_some());
}
