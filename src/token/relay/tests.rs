use std::task::{Context, Poll, Waker};

use serde_json::json;

use super::*;
use crate::token::tests::epoch;
use crate::trust::StaleCrl;

const START: UnixSeconds = 1_800_000_000;
const LEAF: [u8; 32] = [7; 32];

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
            tokens: RelayedTokens::new(1 << 20, Duration::from_secs(600), flights),
            tenant: TenantId::parse("acme").unwrap(),
            device: DeviceId::parse("device-1").unwrap(),
            epoch: epoch(StaleCrl::Refuse),
        }
    }

    fn get(&self, now: UnixSeconds) -> Relayed {
        self.tokens.get(&self.tenant, &self.device, &LEAF, &self.epoch, now)
    }

    fn put(&self, jwt: Option<&str>, now: UnixSeconds) -> Arc<RelayedToken> {
        let body = Bytes::from(format!("{{\"accessToken\":\"{}\"}}", jwt.unwrap_or_default()));
        self.tokens.put(&self.tenant, &self.device, &LEAF, &self.epoch, body, jwt, now)
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
    let put = world.put(Some(&hour()), START);
    assert_eq!(world.ages(), (1_800, 3_600));
    let Relayed::Fresh(got) = world.get(START) else { panic!() };
    assert!(Arc::ptr_eq(&put, &got));
    assert_eq!(got.jwt(), Some(hour().as_str()));
    assert_eq!(got.body(), &Bytes::from(format!("{{\"accessToken\":\"{}\"}}", hour())));
    assert_eq!(got.expires_at(), START + 3_600);
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
    let long = RelayedTokens::new(1 << 20, Duration::MAX, 1);
    let world = World { tokens: long, ..World::new() };
    world.put(None, START);
    assert_eq!(world.ages(), (86_400, 86_400));
}

#[test]
fn what_has_expired_is_handed_back_and_not_kept() {
    for exp in [START, START - 1, i64::MIN] {
        let world = World::new();
        world.put(Some(&hour()), START);
        let put = world.put(Some(&jwt(json!({ "iat": exp, "exp": exp }))), START);
        assert!(put.body().starts_with(b"{\"accessToken\""));
        assert!(matches!(world.get(START), Relayed::None), "nor is what was there before");
    }
}

#[test]
fn a_long_answer_is_not_kept() {
    let world = World::new();
    let body = Bytes::from(vec![b'x'; MAX_ANSWER + 1]);
    let put =
        world.tokens.put(&world.tenant, &world.device, &LEAF, &world.epoch, body, None, START);
    assert_eq!(put.body().len(), MAX_ANSWER + 1);
    assert!(matches!(world.get(START), Relayed::None));
    world.put(Some(&"x".repeat(1 << 20)), START);
    assert!(matches!(world.get(START), Relayed::None));
}

#[test]
fn a_token_is_given_only_on_the_terms_on_which_it_came() {
    let world = World::new();
    world.put(Some(&hour()), START);
    let get = |tenant: &str, device: &str, leaf, epoch: &Epoch| {
        let tenant = TenantId::parse(tenant).unwrap();
        world.tokens.get(&tenant, &DeviceId::parse(device).unwrap(), leaf, epoch, START)
    };
    let other = epoch(StaleCrl::Accept);
    assert!(matches!(get("acme", "device-1", &LEAF, &world.epoch), Relayed::Fresh(_)));
    assert!(matches!(get("acme", "device-1", &[8; 32], &world.epoch), Relayed::None));
    assert!(matches!(get("acme", "device-1", &LEAF, &other), Relayed::None));
    assert!(matches!(get("umbrella", "device-1", &LEAF, &world.epoch), Relayed::None));
    assert!(matches!(get("acme", "device-2", &LEAF, &world.epoch), Relayed::None));
    assert!(matches!(world.get(START - 1), Relayed::None), "the clock was set back");
    world.tokens.forget(&world.tenant, &world.device);
    assert!(matches!(world.get(START), Relayed::None));
}

#[test]
fn many_devices_stay_within_the_capacity() {
    let mut world = World::new();
    for n in 0..10_000 {
        world.device = DeviceId::parse(&format!("device-{n}")).unwrap();
        world.put(Some(&hour()), START);
    }
    world.tokens.current.run_pending_tasks();
    assert!(world.tokens.current.weighted_size() <= 1 << 20);
    assert!(matches!(world.get(START), Relayed::Fresh(_)), "the last one is remembered");
}

#[test]
fn a_token_is_not_shown() {
    let world = World::new();
    let put = world.put(Some(&hour()), START);
    let shown = format!("{put:?} {:?}", world.get(START));
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
    let world = World::with_flights(3);
    let empty = || {
        let queues = world.tokens.flights.queues();
        queues.of_device.is_empty() && queues.count == 0
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
fn one_device_does_not_take_every_place() {
    let world = World::with_flights(1_000);
    let held: Vec<_> = std::iter::from_fn(|| world.flight("device-1")).take(500).collect();
    assert_eq!(held.len(), 1 + MAX_WAITING);
    assert!(world.flight("device-2").is_some());
    drop(held);
    assert!(world.flight("device-1").is_some());
}
