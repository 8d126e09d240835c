//! Tokens that the platform makes: asked for with the validated chain, given again by the
//! half-life rule, and while the platform is away until they end.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::registry::DeviceStatus;
use serde_json::json;

use crate::jwt::{Jwt, encoded};
use crate::pki::Template;
use crate::proxying::nginx::Nginx;
use crate::registry::set_status;
use crate::world::{
    Client, Config, Connection, Process, Recorded, Reply, Response, TOKEN_PATH, World, eventually,
};

const RELAY: &str = "tokens: { source: platform }";

/// A world whose platform gives tokens of an hour, and acme's devices get those.
fn relaying(edit: impl FnOnce(&World, &mut Config)) -> World {
    let world = World::with(|world, config| {
        config.acme(RELAY);
        edit(world, config);
    });
    gives_tokens(&world);
    world
}

fn gives_tokens(world: &World) {
    let clock = world.clock.clone();
    world.upstream.answers(move |request| match is_token_request(request) {
        true => Reply::Bytes(ok(&token_body(&clock))),
        false => Reply::AsAsked,
    });
}

/// Tokens are asked for in vain, everything else is answered.
fn gives_no_token(world: &World, reply: impl Fn() -> Reply + Send + Sync + 'static) {
    world.upstream.answers(move |request| match is_token_request(request) {
        true => reply(),
        false => Reply::AsAsked,
    });
}

fn is_token_request(request: &Recorded) -> bool {
    request.head.starts_with(&format!("POST {TOKEN_PATH} "))
}

/// What the platform was asked for so far.
fn asked(world: &World) -> Vec<Recorded> {
    world.upstream.requests().into_iter().filter(is_token_request).collect()
}

/// A new token of the platform's in an answer of its form.
fn token_body(clock: &Clock) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let claims = json!({
        "jti": NUMBER.fetch_add(1, Ordering::Relaxed),
        "iat": clock.now(),
        "exp": clock.now() + 3_600,
    });
    let header = encoded(json!({ "alg": "RS256", "kid": "platform" }).to_string());
    let token = format!("{header}.{}.{}", encoded(claims.to_string()), encoded("signature"));
    json!({ "accessToken": token, "more": "of the platform's" }).to_string()
}

fn ok(body: &str) -> Vec<u8> {
    answer(200, body)
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn another(world: &World) -> Client {
    let other = world.acme.another("acme-device-2");
    world.acme_client().identity(&[&other, &world.acme.issuing])
}

#[track_caller]
fn refused(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.json()["error"], error);
    let text = response.text();
    assert!(!text.contains("told") && !text.contains("acme"), "{text}");
}

#[test]
fn the_platform_is_asked_with_the_validated_chain_and_its_answer_is_handed_on() {
    let world = relaying(|_, _| {});
    let lines = "Authorization: Basic eDp5\r\nCookie: a=b\r\nX-Mine: x\r\n";
    let response = world.acme_client().token_with(lines).unwrap();
    let token = response.access_token();
    assert_eq!(Jwt::parse(&token).header["kid"], "platform");
    assert_eq!(response.json()["more"], "of the platform's");
    assert!(response.header("content-type").unwrap().contains("managedobject+json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));

    let request = world.upstream.only_request();
    assert_eq!(request.header("host"), ["acme.example.com"]);
    assert_eq!(request.header("content-length"), ["0"]);
    let chain = request.header("x-ssl-cert-chain");
    let expected: Vec<String> = [&world.acme.device, &world.acme.issuing, &world.acme.root]
        .map(|certificate| certificate.pem().trim_end().replace('\n', " "))
        .to_vec();
    assert_eq!(chain, [expected.join(" ")]);
    // Nothing of the device's request goes with it.
    for name in ["authorization", "cookie", "x-mine"] {
        assert!(request.header(name).is_empty(), "{name}");
    }
    // The next tenant's tokens are the edge's own.
    assert_eq!(Jwt::of(&world.globex_client()).claims["ten"], "globex");
    assert_eq!(asked(&world).len(), 1);
}

#[test]
fn the_platforms_token_is_given_again_until_half_of_its_life_has_passed() {
    let world = relaying(|_, _| {});
    let client = world.acme_client();
    let first = client.token().unwrap().access_token();
    world.clock.advance(1_799);
    assert_eq!(client.token().unwrap().access_token(), first);
    assert_eq!(asked(&world).len(), 1);
    world.clock.advance(1);
    let second = client.token().unwrap().access_token();
    assert_ne!(second, first);
    world.clock.advance(1_799);
    assert_eq!(client.token().unwrap().access_token(), second);
    assert_eq!(asked(&world).len(), 2);
    assert_eq!(world.metric("portcullis_tokens_total{result=\"issued\",tenant=\"acme\"}"), 2.0);
    assert_eq!(world.metric("portcullis_tokens_total{result=\"reissued\",tenant=\"acme\"}"), 2.0);
}

#[test]
fn another_leaf_or_a_changed_trust_has_the_token_fetched_anew() {
    let world = relaying(|_, _| {});
    let client = world.acme_client();
    let first = client.token().unwrap().access_token();
    let renewed = world.acme.another("acme-device-1");
    let renewed = world.acme_client().identity(&[&renewed, &world.acme.issuing]);
    let second = renewed.token().unwrap().access_token();
    assert_ne!(second, first);
    assert_eq!(renewed.token().unwrap().access_token(), second);
    assert_eq!(asked(&world).len(), 2);

    world.write("further.pem", Template::ca("Further").self_signed().pem());
    let trusted = "trusted_certificates: [{ file: acme-root.pem, auto_registration: true }, \
                   { file: further.pem }]";
    let mut config = Config { acme: trusted.into(), ..Config::default() };
    config.acme(RELAY);
    world.configure(&config);
    world.reload().unwrap();
    let third = renewed.token().unwrap().access_token();
    assert_ne!(third, second);
    assert_eq!(renewed.token().unwrap().access_token(), third);
    assert_eq!(asked(&world).len(), 3);

    // A blocked device is not even asked for.
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    refused(&renewed.token().unwrap(), 403, "security/forbidden");
    assert_eq!(asked(&world).len(), 3);
}

#[test]
fn fifty_requests_at_once_ask_the_platform_once() {
    let world = relaying(|_, _| {});
    let (let_go, held) = mpsc::channel::<()>();
    let (clock, held) = (world.clock.clone(), Mutex::new(held));
    world.upstream.answers(move |_| {
        held.lock().unwrap().recv().unwrap();
        Reply::Bytes(ok(&token_body(&clock)))
    });
    let request = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\r\n"
    );
    let mut connections: Vec<Connection> =
        (0..50).map(|_| world.acme_client().connect().unwrap()).collect();
    for connection in &mut connections {
        connection.send(request.as_bytes()).unwrap();
    }
    eventually("the platform is asked", || !asked(&world).is_empty());
    let_go.send(()).unwrap();
    let tokens: BTreeSet<String> = connections
        .iter_mut()
        .map(|connection| connection.response().unwrap().access_token())
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(asked(&world).len(), 1);

    // Past the half-life the same; devices do not wait for each other.
    world.clock.advance(1_800);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.acme_client().token().unwrap().access_token());
        let second = scope.spawn(|| another(&world).token().unwrap().access_token());
        eventually("both are asked for at one time", || asked(&world).len() == 3);
        let_go.send(()).unwrap();
        let_go.send(()).unwrap();
        assert_ne!(first.join().unwrap(), second.join().unwrap());
    });
}

/// A device that asks with more requests than may wait still has its current token.
#[test]
fn who_finds_no_place_in_the_queue_gets_the_current_token_while_there_is_one() {
    const MANY: usize = 100;
    let world = relaying(|_, _| {});
    let current = world.acme_client().token().unwrap().access_token();
    world.clock.advance(1_800);
    let (let_go, held) = mpsc::channel::<()>();
    let (clock, held) = (world.clock.clone(), Mutex::new(held));
    world.upstream.answers(move |_| {
        held.lock().unwrap().recv().unwrap();
        Reply::Bytes(ok(&token_body(&clock)))
    });
    let answered = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..MANY)
            .map(|_| {
                let mut connection = world.acme_client().connect().unwrap();
                let answered = answered.clone();
                scope.spawn(move || {
                    let token = connection.token("").unwrap().access_token();
                    answered.fetch_add(1, Ordering::AcqRel);
                    token
                })
            })
            .collect();
        // Those that may wait do; the others are answered at once.
        eventually("some are answered while the platform thinks", || {
            answered.load(Ordering::Acquire) > 0 && asked(&world).len() == 2
        });
        let_go.send(()).unwrap();
        let tokens: BTreeSet<String> =
            threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(tokens.len(), 2);
        assert!(tokens.contains(&current));
    });
    assert_eq!(asked(&world).len(), 2);
}

/// Makes the platform of a world fail in one way.
type Fail = fn(&World);

#[test]
fn while_the_platform_fails_the_current_token_is_given_until_it_ends() {
    let oversized = || Reply::Bytes(ok(&json!({ "accessToken": "x".repeat(70_000) }).to_string()));
    let ways: [(&str, u16, Fail); 10] = [
        ("down", 502, |world| world.upstream.stop()),
        ("500", 502, |world| gives_no_token(world, || Reply::Bytes(answer(500, "told")))),
        ("503", 502, |world| gives_no_token(world, || Reply::Bytes(answer(503, "told")))),
        ("429", 502, |world| gives_no_token(world, || Reply::Bytes(answer(429, "told")))),
        ("no JSON", 502, |world| gives_no_token(world, || Reply::Bytes(ok("told")))),
        ("no token", 502, |world| gives_no_token(world, || Reply::Bytes(ok("{}")))),
        ("an empty one", 502, |world| {
            gives_no_token(world, || Reply::Bytes(ok(r#"{"accessToken":""}"#)));
        }),
        ("closes", 502, |world| gives_no_token(world, || Reply::Close)),
        ("hangs", 504, |world| gives_no_token(world, || Reply::Hang)),
        ("says too much", 502, |_| {}),
    ];
    for (way, status, fail) in ways {
        let world = relaying(|_, config| config.platform += "\ntimeouts: { read: 200ms }");
        let client = world.acme_client();
        let current = client.token().unwrap().access_token();
        match way {
            "says too much" => gives_no_token(&world, oversized),
            _ => fail(&world),
        }
        // `timeouts.read` bounds this request as every other.
        let began = Instant::now();
        let error = if status == 504 { "general/gatewayTimeout" } else { "general/badGateway" };
        // Nothing but this device's own token is given to it.
        refused(&another(&world).token().unwrap(), status, error);
        world.clock.advance(1_800);
        assert_eq!(client.token().unwrap().access_token(), current, "{way}");
        world.clock.advance(1_799);
        assert_eq!(client.token().unwrap().access_token(), current, "{way}");
        world.clock.advance(1);
        refused(&client.token().unwrap(), status, error);
        assert!(began.elapsed() < Duration::from_secs(10), "{way}: {:?}", began.elapsed());
        if way != "down" {
            gives_tokens(&world);
            assert_ne!(client.token().unwrap().access_token(), current, "{way}");
        }
    }
}

/// However slow it is in its answer: no device waits longer than ten seconds.
#[test]
fn a_platform_that_hangs_costs_a_device_ten_seconds_at_most() {
    let world = relaying(|_, _| {});
    let known = world.acme_client();
    let current = known.token().unwrap().access_token();
    world.clock.advance(1_800);
    gives_no_token(&world, || Reply::Hang);
    std::thread::scope(|scope| {
        let (known, other) = (known.clone(), another(&world));
        let known = scope.spawn(move || known.token().unwrap().access_token());
        let other = scope.spawn(move || other.token().unwrap());
        assert_eq!(known.join().unwrap(), current);
        refused(&other.join().unwrap(), 504, "general/gatewayTimeout");
    });
}

/// The server answers, if not with a token: other requests of any device must still reach it.
#[test]
fn a_device_that_is_blocked_while_the_platform_is_asked_gets_no_token() {
    let world = relaying(|_, _| {});
    let (asked, answer) = (mpsc::sync_channel::<()>(1), mpsc::channel::<()>());
    let (asking, answering) = (asked.0, Mutex::new(answer.1));
    let clock = world.clock.clone();
    world.upstream.answers(move |request| {
        if !is_token_request(request) {
            return Reply::AsAsked;
        }
        let _ = asking.try_send(());
        let _ = answering.lock().unwrap().recv_timeout(Duration::from_secs(5));
        Reply::Bytes(ok(&token_body(&clock)))
    });
    let client = world.acme_client();
    let got = std::thread::spawn(move || client.token().unwrap());
    asked.1.recv_timeout(Duration::from_secs(5)).unwrap();
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    answer.0.send(()).unwrap();
    refused(&got.join().unwrap(), 403, "security/forbidden");
}

#[test]
fn a_failed_token_request_does_not_take_the_server_out() {
    for way in ["hangs", "closes", "says too much"] {
        let world = relaying(|_, config| {
            config.platform = "health: { interval: 1h, unhealthy_after: 1 }\n\
                               timeouts: { read: 200ms }"
                .into();
        });
        let up = || {
            let address = world.upstream.address();
            world.metric(&format!(
                "portcullis_upstream_server_up{{server=\"{address}\",upstream=\"platform\"}}"
            ))
        };
        eventually("the server is up", || up() == 1.0);
        gives_no_token(&world, move || match way {
            "hangs" => Reply::Hang,
            "closes" => Reply::Close,
            _ => Reply::Bytes(ok(&"x".repeat(70_000))),
        });
        assert!(world.acme_client().token().unwrap().status >= 502);
        assert_eq!(up(), 1.0, "{way}");
        assert_eq!(world.acme_client().get("/inventory").unwrap().status, 200, "{way}");
    }
}

#[test]
fn a_server_of_the_platform_that_is_down_is_passed_over() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = relaying(|world, config| {
        let platform = world.upstream.address();
        config.platform = format!(
            "http: [\"{nobody}\", \"{platform}\"]\nhealth: {{ interval: 1h, unhealthy_after: 100 }}"
        );
    });
    for device in 0..4 {
        let leaf = world.acme.another(&format!("acme-device-{device}"));
        let client = world.acme_client().identity(&[&leaf, &world.acme.issuing]);
        client.token().unwrap().access_token();
    }
    assert_eq!(asked(&world).len(), 4);
}

#[test]
fn a_platform_of_http2_is_asked_in_http2() {
    let block = "location / { return 200 '{\"accessToken\":\"a.b.c\",\"asked\":\"$request_method \
                 $request_uri $server_protocol $host\",\"chain\":\"$http_x_ssl_cert_chain\"}'; }";
    let nginx = Nginx::start("http2", block, &[]);
    let world = World::with(|_, config| {
        config.acme(RELAY);
        config.platform = format!("http: [\"{}\"]\nhttp2: true", nginx.address());
    });
    for client in [world.acme_client(), another(&world)] {
        let response = client.token().unwrap();
        assert_eq!(response.access_token(), "a.b.c");
        let asked = format!("POST {TOKEN_PATH} HTTP/2.0 acme.example.com");
        assert_eq!(response.json()["asked"], asked);
        let chain = response.json()["chain"].as_str().unwrap().to_owned();
        assert_eq!(chain.matches("-----BEGIN CERTIFICATE-----").count(), 3);
    }
    assert!(nginx.log().is_empty(), "{}", nginx.log());
}

#[test]
fn what_the_platform_refuses_is_refused_and_the_old_token_is_gone() {
    let world = relaying(|_, _| {});
    let client = world.acme_client();
    for status in [400, 401, 403, 404, 422, 302, 201] {
        gives_tokens(&world);
        client.token().unwrap().access_token();
        world.clock.advance(1_800);
        gives_no_token(&world, move || Reply::Bytes(answer(status, "told in confidence")));
        refused(&client.token().unwrap(), 403, "security/forbidden");
        // It has still half of its life, and the platform wants it no more.
        gives_no_token(&world, || Reply::Bytes(answer(500, "told")));
        refused(&client.token().unwrap(), 502, "general/badGateway");
    }
}

#[test]
fn the_log_says_what_the_platform_answered() {
    let world = World::files(|_, config| {
        config.log = "{ format: json }".into();
        config.acme(RELAY);
    });
    gives_no_token(&world, || Reply::Bytes(answer(418, "told in confidence")));
    let process = Process::run(&world);
    let client = process.acme_client(&world);
    refused(&client.token().unwrap(), 403, "security/forbidden");
    gives_no_token(&world, || Reply::Bytes(answer(507, "told in confidence")));
    refused(&client.token().unwrap(), 502, "general/badGateway");
    eventually("both are logged", || process.events("portcullis::request").len() == 2);
    let events = process.events("portcullis::request");
    for (event, refusal, status) in
        [(&events[0], "platform_refused", "418"), (&events[1], "upstream_unavailable", "507")]
    {
        assert_eq!(event["refusal"], refusal, "{event}");
        assert!(event["reason"].as_str().unwrap().contains(status), "{event}");
        assert_eq!((&event["tenant"], &event["device"]), (&"acme".into(), &"acme-device-1".into()));
    }
    assert!(!process.text().contains("confidence"));
}
