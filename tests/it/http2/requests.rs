//! Requests over HTTP/2: the same rules as over HTTP/1.1.

use std::time::{Duration, Instant};

use crate::world::{TOKEN_PATH, World};

use super::frames::{
    Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, block, frame, get, post,
};

#[test]
fn streams_of_one_connection_are_answered_each_by_itself() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    let mut answers: Vec<(u32, Answer, String)> = (0..20)
        .map(|i| {
            let path = format!("/stream-{i}");
            (h2.request(&get(&path), true), Answer::default(), path)
        })
        .collect();
    let mut open: Vec<(u32, &mut Answer)> =
        answers.iter_mut().map(|(stream, answer, _)| (*stream, answer)).collect();
    h2.answers(&mut open);
    for (_, answer, path) in answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, format!("GET {path} HTTP/1.1").as_bytes());
    }
    assert_eq!(world.upstream.requests().len(), 20);
}

#[test]
fn a_body_arrives_whole_and_a_large_answer_comes_back_whole() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    let stream = h2.request(&post("/inventory"), false);
    for _ in 0..3 {
        h2.send(&frame(DATA, 0, stream, &[b'x'; 16_000])).unwrap();
    }
    h2.send(&frame(DATA, END_STREAM, stream, b"end")).unwrap();
    assert_eq!(h2.answer(stream).status, 200);
    let request = world.upstream.only_request();
    assert_eq!(request.body.len(), 48_003);
    assert!(request.body.ends_with(b"xend"));
    assert_eq!(request.header("host"), ["acme.example.com"]);
    let answer = h2.get("/large");
    assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
    let answer = h2.get("/chunked");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hello world"[..]));
}

#[test]
fn a_token_is_had_over_http2_with_or_without_a_body() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    let stream = h2.request(&post(TOKEN_PATH), true);
    let first = h2.answer(stream);
    let stream = h2.request(&post(TOKEN_PATH), false);
    h2.send(&frame(DATA, END_STREAM, stream, b"ignored")).unwrap();
    let second = h2.answer(stream);
    for answer in [first, second] {
        assert_eq!(answer.status, 200);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["accessToken"].as_str().unwrap().split('.').count(), 3);
    }
    assert_eq!(h2.get(TOKEN_PATH).status, 405);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_stream_for_another_tenant_is_misdirected_and_its_neighbours_go_on() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    let long = h2.request(&post("/inventory"), false);
    for authority in ["globex.example.com", "globex.example.com:443", "other.example", "acme"] {
        let mut fields = get("/theirs");
        fields[2].1 = authority;
        let stream = h2.request(&fields, true);
        assert_eq!(h2.answer(stream).status, 421, "{authority}");
    }
    let with_host = [&get("/theirs")[..], &[("host", "globex.example.com")]].concat();
    let stream = h2.request(&with_host, true);
    assert!(matches!(h2.answer(stream).status, 0 | 400 | 421));
    let only_host = [&get("/theirs")[..2], &[(":path", "/"), ("host", "globex.example.com")]];
    let stream = h2.request(&only_host.concat(), true);
    assert!(matches!(h2.answer(stream).status, 0 | 400 | 421));
    assert!(world.upstream.requests().iter().all(|request| !request.head.contains("theirs")));
    // Longer than a connection that is to be closed would live.
    assert!(!h2.ends(Duration::from_millis(1_600)));
    h2.send(&frame(DATA, END_STREAM, long, b"done")).unwrap();
    assert_eq!(h2.answer(long).status, 200);
    assert_eq!(h2.get("/ours").status, 200);
    assert_eq!(world.upstream.requests().len(), 2);
}

#[test]
fn no_identity_is_forged_by_fields_or_trailers_of_http2() {
    let world = World::with(|_, config| config.acme("client_certificate: optional"));
    let forged = [
        ("x-ssl-cert-chain", "forged"),
        ("x_ssl_cert_chain", "forged"),
        ("client-cert", "forged"),
        ("x.forwarded.client.cert", "forged"),
        ("x-amzn-mtls-clientcert-leaf", "forged"),
        ("x-forwarded-tls-client-cert-info", "forged"),
        ("x-forwarded-for", "forged"),
    ];
    for (client, chains) in [(world.acme_client(), 1), (world.client("acme.example.com"), 0)] {
        let mut h2 = H2::connect(&client);
        let before = world.upstream.requests().len();
        let stream = h2.request(&[&post("/inventory")[..], &forged].concat(), false);
        h2.send(&frame(DATA, 0, stream, b"hello")).unwrap();
        h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&forged))).unwrap();
        assert_eq!(h2.answer(stream).status, 200);
        // What a trailer left on the upstream's connection would come with the next request.
        assert_eq!(h2.get("/after").status, 200);
        let requests = world.upstream.requests().split_off(before);
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].body, b"hello");
        for request in requests {
            assert!(!request.head.contains("forged"), "{}", request.head);
            assert_eq!(request.header("x-ssl-cert-chain").len(), chains);
        }
    }
}

#[test]
fn fields_that_would_break_http1_are_refused_or_stay_behind() {
    let world = World::start();
    let refused = [
        ("connection", "x-ssl-cert-chain"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("keep-alive", "1"),
        ("proxy-connection", "x"),
        ("te", "gzip"),
        ("X-Upper", "case"),
        ("x-crlf", "a\r\nX-Injected: b"),
        ("x-lf", "a\nX-Injected: b"),
        ("x-nul", "a\0b"),
        ("x-name\r\nx-injected", "b"),
        ("x name", "b"),
        ("", "b"),
        (":unknown", "b"),
        (":path", "/twice"),
        (":authority", "globex.example.com"),
        ("content-length", "5"),
        ("content-length", "+0"),
    ];
    for field in refused {
        let mut h2 = H2::connect(&world.acme_client());
        let stream = h2.request(&[&get("/attack")[..], &[field]].concat(), true);
        let answer = h2.answer(stream);
        assert!(answer.status == 0 || answer.status == 400, "{field:?}: {answer:?}");
        assert!(world.upstream.requests().is_empty(), "{field:?}");
    }
    for path in ["/a b", "/a\r\nX-Injected: b", "a", "", "http://globex.example.com/", "/a\nb"] {
        let mut h2 = H2::connect(&world.acme_client());
        let stream = h2.request(&get(path), true);
        let answer = h2.answer(stream);
        assert!(answer.status == 0 || answer.status == 400, "{path:?}: {answer:?}");
        assert!(world.upstream.requests().is_empty(), "{path:?}");
    }
}

#[test]
fn a_length_that_lies_is_not_believed() {
    let world = World::start();
    for length in ["3", "8", "5, 5", "0"] {
        let mut h2 = H2::connect(&world.acme_client());
        let fields = [&post("/attack")[..], &[("content-length", length)]].concat();
        let stream = h2.request(&fields, false);
        h2.send(&frame(DATA, END_STREAM, stream, b"hello")).unwrap();
        let answer = h2.answer(stream);
        let arrived = world.upstream.requests();
        // A request that announces no body is whole before the first byte of one comes.
        let whole = length == "0" && arrived.len() == 1;
        assert!(whole || matches!(answer.status, 0 | 400 | 413 | 502), "{length}: {answer:?}");
        assert!(whole || arrived.is_empty(), "{length}: {arrived:?}");
        assert!(arrived.iter().all(|request| request.body.is_empty()), "{arrived:?}");
    }
    for _ in 0..4 {
        let response = world.acme_client().get("/good").unwrap();
        assert_eq!(response.text(), "GET /good HTTP/1.1");
    }
}

#[test]
fn a_disguised_token_path_is_refused_over_http2_too() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    for path in [
        "//devicecontrol/deviceAccessToken",
        "/devicecontrol/%64eviceAccessToken",
        "/devicecontrol%2fdeviceAccessToken",
        "/devicecontrol/deviceAccessToken;x",
        "/devicecontrol/deviceAccessToken%00",
        "/DeviceControl/deviceAccessToken",
        "/devicecontrol\\deviceAccessToken",
    ] {
        let stream = h2.request(&post(path), true);
        let answer = h2.answer(stream);
        assert!(answer.status == 400 || answer.reset.is_some(), "{path}: {answer:?}");
    }
    // Raw bytes: no text of the test's.
    let mut raw = block(&post("")[..3]);
    raw.extend(b"\x10\x05:path");
    let path = b"/devicecontrol\xc0\xafdeviceAccessToken";
    raw.push(path.len() as u8);
    raw.extend(path);
    let stream = h2.stream();
    h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &raw)).unwrap();
    let answer = h2.answer(stream);
    assert!(answer.status == 400 || answer.status == 0, "{answer:?}");
    assert!(world.upstream.requests().is_empty(), "{:?}", world.upstream.requests());
}

#[test]
fn a_header_in_pieces_is_one_header() {
    let world = World::start();
    let mut h2 = H2::connect(&world.acme_client());
    let stream = h2.stream();
    let block = block(&get("/pieces"));
    let (first, rest) = block.split_at(10);
    let (second, third) = rest.split_at(10);
    let frames = [
        frame(HEADERS, END_STREAM, stream, first),
        frame(CONTINUATION, 0, stream, second),
        frame(CONTINUATION, END_HEADERS, stream, third),
    ];
    h2.send(&frames.concat()).unwrap();
    assert_eq!(h2.answer(stream).status, 200);
}

#[test]
fn a_body_over_the_tenants_limit_ends_its_stream_only() {
    let world = World::with(|_, config| config.acme("limits: { body_bytes: 32KiB }"));
    let mut h2 = H2::connect(&world.acme_client());
    let fields = [&post("/")[..], &[("content-length", "32769")]].concat();
    let stream = h2.request(&fields, false);
    assert_eq!(h2.answer(stream).status, 413);
    let stream = h2.request(&post("/"), false);
    for _ in 0..3 {
        h2.send(&frame(DATA, 0, stream, &[b'x'; 16_000])).unwrap();
    }
    let answer = h2.answer(stream);
    assert!(answer.status == 413 || answer.reset.is_some(), "{answer:?}");
    assert!(world.upstream.requests().is_empty());
    assert_eq!(h2.get("/after").status, 200);
}

#[test]
fn too_many_or_too_large_fields_are_refused() {
    let world =
        World::with(|_, config| config.limits = "header_count: 40\nheader_bytes: 8KiB".into());
    let large = "y".repeat(9_000);
    let names: Vec<String> = (0..60).map(|i| format!("x-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    for fields in [&many[..], &[("x", large.as_str())]] {
        let mut h2 = H2::connect(&world.acme_client());
        let stream = h2.request(&[&get("/attack")[..], fields].concat(), true);
        let answer = h2.answer(stream);
        assert!(answer.status == 431 || answer.reset.is_some(), "{answer:?}");
        assert_eq!(h2.get("/good").status, 200, "the connection lives");
    }
    assert_eq!(world.upstream.requests().len(), 2);
}

#[test]
fn a_body_that_does_not_end_is_cut_at_its_deadline() {
    let world = World::with(|_, config| config.limits = "body_timeout: 1s".into());
    for path in ["/inventory", TOKEN_PATH] {
        let mut h2 = H2::connect(&world.acme_client());
        let stream = h2.request(&post(path), false);
        let started = Instant::now();
        let mut ended = false;
        while !ended && started.elapsed() < Duration::from_secs(5) {
            ended = h2.send(&frame(DATA, 0, stream, b"x")).is_err()
                || h2.ends(Duration::from_millis(50));
        }
        let lasted = started.elapsed();
        assert!(ended && lasted > Duration::from_millis(900), "{path}: {lasted:?}");
        assert!(lasted < Duration::from_millis(2_500), "{path}: {lasted:?}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_connection_without_streams_is_closed_when_idle() {
    let world = World::with(|_, config| config.limits = "idle_timeout: 1s".into());
    let mut fresh = H2::connect(&world.acme_client());
    assert!(fresh.ends(Duration::from_secs(3)));
    let mut used = H2::connect(&world.acme_client());
    assert_eq!(used.get("/").status, 200);
    assert!(used.ends(Duration::from_secs(3)));
}

#[test]
fn a_header_that_never_ends_is_cut_after_a_request_as_before_one() {
    let world = World::with(|_, config| {
        config.limits = "idle_timeout: 1s\nheader_timeout: 1s".into();
    });
    for requests in [0, 1] {
        let mut h2 = H2::connect(&world.acme_client());
        for _ in 0..requests {
            assert_eq!(h2.get("/").status, 200);
        }
        let stream = h2.stream();
        let block = block(&get("/slow"));
        h2.send(&frame(HEADERS, END_STREAM, stream, &block[..10])).unwrap();
        assert!(h2.ends(Duration::from_secs(4)), "after {requests} requests");
    }
}
