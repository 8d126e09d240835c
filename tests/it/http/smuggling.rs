//! One request on the wire is one request at the upstream, or a 400: framings that two parsers
//! could read differently never go on.

use std::io::Write;

use crate::world::{Failure, Recorded, TOKEN_PATH, World};

use super::{path_of, statuses};

/// What each attack tries to bring to the upstream as a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: acme.example.com\r\n\r\n";
const HOST: &str = "Host: acme.example.com\r\n";

#[test]
fn ambiguous_lengths_are_refused() {
    let world = impatient_world();
    for length in [
        "+5",
        "-5",
        "-0",
        "5 5",
        "5,6",
        "5, 6",
        "5,",
        ",5",
        "0x5",
        "5.0",
        "5e0",
        "",
        "a",
        "５",
        "5\u{b}",
        "5;5",
        "\"5\"",
        "99999999999999999999",
        "5\r\nContent-Length: 6",
        "0\r\nContent-Length: 5",
        "5\r\nContent-Length:",
        "5\r\nContent-Length: +5",
        "5\r\n ,6",
    ] {
        refused(
            &world,
            &format!("POST /attack HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\nhello"),
        );
    }
}

#[test]
fn a_length_said_twice_is_refused_even_where_both_are_alike() {
    let world = impatient_world();
    for length in ["5\r\nContent-Length: 5", "5, 5", "5,5", "5\r\ncontent-length: 5"] {
        for path in ["/attack", TOKEN_PATH] {
            let head = format!("POST {path} HTTP/1.1\r\n{HOST}Content-Length: {length}");
            refused(&world, &format!("{head}\r\n\r\nhello{SMUGGLED}"));
        }
    }
}

#[test]
fn transfer_codings_other_than_chunked_at_the_end_are_refused() {
    let world = impatient_world();
    let chunked = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    for coding in [
        "identity",
        "gzip",
        "chunked, identity",
        "chunked, gzip",
        "xchunked",
        "chunked-x",
        "\"chunked\"",
        "chunked;q=1",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunke",
        "",
        ",",
        "chunked,",
        "chunked\r\nTransfer-Encoding: identity",
        "chunked\r\nTransfer-Encoding: x",
        "chunked\r\nTransfer-Encoding:",
        "ch\u{fc}nked",
        "chunked\0",
    ] {
        let head = format!("POST /attack HTTP/1.1\r\n{HOST}Transfer-Encoding: {coding}\r\n\r\n");
        refused(&world, &format!("{head}{chunked}"));
        let head = head.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n");
        refused(&world, &format!("{head}{chunked}"));
    }
}

#[test]
fn a_length_beside_a_transfer_coding_never_frames() {
    let world = impatient_world();
    let chunked = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n",
        "transfer-encoding: Chunked\r\nCONTENT-LENGTH: 0\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
        "Transfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked, chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Connection: Content-Length\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let head = format!("POST /attack HTTP/1.1\r\n{HOST}{lines}\r\n");
        at_most_once(&world, &format!("{head}{chunked}"), "hello");
    }
}

#[test]
fn transfer_codings_are_not_for_http_1_0() {
    let world = impatient_world();
    let body = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    for lines in ["", "Connection: keep-alive\r\n", "Content-Length: 5\r\n"] {
        let head =
            format!("POST /attack HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n{lines}\r\n");
        refused(&world, &format!("{head}{body}"));
    }
}

#[test]
fn request_lines_and_header_ends_have_one_reading() {
    let world = impatient_world();
    for attack in [
        format!("GET /attack HTTP/1.1\n{HOST}\n{SMUGGLED}"),
        format!("GET /attack HTTP/1.1\r\n{HOST}X: y\n\n{SMUGGLED}"),
        format!("GET /attack HTTP/1.1\n{HOST}X: y\r\n\n{SMUGGLED}"),
        format!("GET /attack HTTP/1.1\r\n{HOST}\n{SMUGGLED}"),
        format!("\r\n\r\nGET /attack HTTP/1.1\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET /attack HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n{SMUGGLED}"),
    ] {
        at_most_once(&world, &attack, "");
    }
    for attack in [
        format!("GET /attack HTTP/1.1\r{HOST}\r\r{SMUGGLED}"),
        format!("GET /attack HTTP/1.1\r\n{HOST}X: y\r\r\n\r\n{SMUGGLED}"),
        format!("GET /attack\r\n{SMUGGLED}"),
        format!("GET /attack HTTP/0.9\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET /attack HTTP/2.0\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET /attack HTTP/1.2\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET /attack HTTP/11\r\n{HOST}\r\n{SMUGGLED}"),
        format!("G\0T /attack HTTP/1.1\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET\r\n /attack HTTP/1.1\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET http://globex.example.com/attack HTTP/1.1\r\n{HOST}\r\n{SMUGGLED}"),
        format!("GET /attack HTTP/1.1\r\n{HOST}{HOST}\r\n{SMUGGLED}"),
    ] {
        refused(&world, &attack);
    }
}

#[test]
fn a_tunnel_is_not_to_be_had() {
    let world = impatient_world();
    for target in ["acme.example.com:443", "127.0.0.1:1"] {
        let host = format!("Host: {target}\r\n");
        let attack = format!("CONNECT {target} HTTP/1.1\r\n{host}\r\n{SMUGGLED}");
        let mut connection = world.acme_client().connect().unwrap();
        connection.send(attack.as_bytes()).unwrap();
        let statuses = statuses(&mut connection);
        assert!(matches!(statuses[..], [400 | 405 | 421]), "{target}: {statuses:?}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn chunk_extensions_stay_behind() {
    let world = impatient_world();
    for size in ["5;a=b", "5;", "5;a=\"b;c\"", "00005", "5;a=b;c", "5 ;a", "5\t"] {
        let attack = chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n{SMUGGLED}"));
        at_most_once(&world, &attack, "hello");
    }
    let attack = chunked(&format!("5\r\nhello\r\n0;last\r\nX-Trailer: y\r\n\r\n{SMUGGLED}"));
    at_most_once(&world, &attack, "hello");
}

#[test]
fn chunks_without_one_reading_are_refused() {
    let world = impatient_world();
    for body in [
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "7FFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\r\n\r\n",
    ] {
        let mut connection = world.acme_client().connect().unwrap();
        connection.send(chunked(&format!("{body}{SMUGGLED}")).as_bytes()).unwrap();
        let statuses = statuses(&mut connection);
        assert!(matches!(statuses[..], [] | [400] | [408]), "{body:?}: {statuses:?}");
        // The upstream may have seen the request's beginning, which it must not take for whole.
        assert!(world.upstream.requests().is_empty(), "{body:?}: {:?}", world.upstream.requests());
    }
    still_serves(&world);
}

#[test]
fn a_chunk_without_a_size_ends_the_body() {
    let world = impatient_world();
    for body in ["\r\n5\r\nhello\r\n0\r\n\r\n", ";a\r\n5\r\nhello\r\n0\r\n\r\n"] {
        at_most_once(&world, &chunked(&format!("{body}{SMUGGLED}")), "");
    }
}

#[test]
fn a_line_feed_inside_a_chunk_extension_splits_nothing() {
    let world = impatient_world();
    // Parsers differ on where this extension ends (RFC 9112 section 7.1.1).
    for line in ["5;\nhello\r\n", "5;a\nhello\r\n", "5\nhello\r\n"] {
        let attack = chunked(&format!("{line}0\r\n\r\n{SMUGGLED}"));
        let mut connection = world.acme_client().connect().unwrap();
        connection.send(attack.as_bytes()).unwrap();
        let statuses = statuses(&mut connection);
        assert!(matches!(statuses[..], [] | [400] | [408]), "{line:?}: {statuses:?}");
        assert!(world.upstream.requests().is_empty(), "{line:?}");
    }
    still_serves(&world);
}

#[test]
fn an_upgrade_that_the_upstream_declines_opens_no_tunnel() {
    let world = impatient_world();
    for lines in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n",
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Upgrade: TLS/1.3\r\nConnection: Upgrade\r\n",
        "Upgrade: x\r\nConnection: close, Upgrade\r\n",
    ] {
        let attack = format!("GET /attack HTTP/1.1\r\n{HOST}{lines}\r\n{SMUGGLED}");
        for request in at_most_once(&world, &attack, "") {
            let upgrade = request.header("upgrade");
            assert!(upgrade.is_empty() || upgrade == ["websocket"], "{}", request.head);
            assert!(request.header("http2-settings").is_empty(), "{}", request.head);
        }
    }
    let with_body = format!(
        "POST /attack HTTP/1.1\r\n{HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Content-Length: 5\r\n\r\nhello{SMUGGLED}"
    );
    at_most_once(&world, &with_body, "hello");
}

#[test]
fn a_body_with_a_request_in_it_stays_a_body() {
    let world = impatient_world();
    let length = SMUGGLED.len();
    for method in ["GET", "POST", "HEAD", "DELETE", "OPTIONS"] {
        let attack = format!(
            "{method} /attack HTTP/1.1\r\n{HOST}Content-Length: {length}\r\nConnection: close\
             \r\n\r\n{SMUGGLED}"
        );
        let before = world.upstream.requests().len();
        let mut connection = world.acme_client().connect().unwrap();
        connection.send(attack.as_bytes()).unwrap();
        connection.until_closed();
        let requests = world.upstream.requests();
        assert_eq!(requests.len(), before + 1, "{method}");
        let request = requests.last().unwrap();
        clean_framing(request);
        assert_eq!(request.body, SMUGGLED.as_bytes(), "{method}");
    }
    still_serves(&world);
}

#[test]
fn what_is_pipelined_after_a_request_is_never_attributed_to_it() {
    let world = impatient_world();
    let first = format!("GET /attack HTTP/1.1\r\n{HOST}\r\n");
    let mut connection = world.acme_client().connect().unwrap();
    connection.send(format!("{first}{SMUGGLED}{SMUGGLED}").as_bytes()).unwrap();
    let statuses = statuses(&mut connection);
    assert!(matches!(statuses[..], [] | [200] | [400]), "{statuses:?}");
    let requests = world.upstream.requests();
    assert!(requests.iter().all(|request| path_of(request) == "/attack"), "{requests:?}");
    assert!(requests.len() <= 1, "{requests:?}");
    still_serves(&world);
}

#[test]
fn the_body_of_a_token_request_is_no_request() {
    let world = impatient_world();
    let mut connection = world.acme_client().connect().unwrap();
    for (framing, body) in [
        (format!("Content-Length: {}", SMUGGLED.len()), SMUGGLED.to_owned()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        ),
    ] {
        let request = format!("POST {TOKEN_PATH} HTTP/1.1\r\n{HOST}{framing}\r\n\r\n{body}");
        // The connection goes on: what follows the body is the next request.
        assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 200, "{framing}");
    }
    assert_eq!(connection.get("/after").unwrap().text(), "GET /after HTTP/1.1");
    assert_eq!(path_of(&world.upstream.only_request()), "/after");
}

#[test]
fn a_large_body_of_a_token_request_ends_the_connection() {
    let world = impatient_world();
    let body = SMUGGLED.repeat(4_000);
    let mut connection = world.acme_client().connect().unwrap();
    let head =
        format!("POST {TOKEN_PATH} HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n", body.len());
    connection.send(head.as_bytes()).unwrap();
    // The edge answers before it has read all, and may close while this is being sent.
    let _ = connection.tls.write_all(body.as_bytes());
    let statuses = statuses(&mut connection);
    assert!(matches!(statuses[..], [] | [200]), "{statuses:?}");
    assert!(world.upstream.requests().is_empty());
    still_serves(&world);
}

#[test]
fn what_follows_a_token_request_in_one_packet_is_no_part_of_it() {
    let world = impatient_world();
    for (length, body) in [(0, ""), (2, "{}")] {
        let mut connection = world.acme_client().connect().unwrap();
        let request = format!(
            "POST {TOKEN_PATH} HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n{body}{SMUGGLED}"
        );
        connection.send(request.as_bytes()).unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
        assert_eq!(connection.until_closed(), Failure::Closed);
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_token_request_that_waits_to_be_continued_is_answered_at_once() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let request = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\n{HOST}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    );
    let response = connection.exchange(request.as_bytes()).unwrap();
    match response.status {
        100 => assert_eq!(connection.exchange(b"{}").unwrap().status, 200),
        status => assert_eq!(status, 200),
    }
}

/// A world that does not wait long for what an attack leaves out.
fn impatient_world() -> World {
    World::with(|_, config| {
        config.limits = "header_timeout: 500ms\nbody_timeout: 500ms\nidle_timeout: 500ms".into();
    })
}

fn chunked(body: &str) -> String {
    format!("POST /attack HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{body}")
}

/// The attack is answered by 400 and the end of the connection, and the upstream sees nothing.
#[track_caller]
fn refused(world: &World, attack: &str) {
    let before = world.upstream.requests().len();
    let mut connection = world.acme_client().connect().unwrap();
    connection.send(attack.as_bytes()).unwrap();
    let statuses = statuses(&mut connection);
    let arrived = world.upstream.requests().split_off(before);
    assert_eq!(statuses, [400], "{attack:?}");
    assert!(arrived.is_empty(), "{attack:?}: {arrived:?}");
}

/// The attack is refused, or it arrives as exactly one request `/attack` with this body and a
/// framing that cannot be read in two ways. Returns what has arrived.
#[track_caller]
fn at_most_once(world: &World, attack: &str, body: &str) -> Vec<Recorded> {
    let before = world.upstream.requests().len();
    let mut connection = world.acme_client().connect().unwrap();
    connection.send(attack.as_bytes()).unwrap();
    let statuses = statuses(&mut connection);
    let arrived = world.upstream.requests().split_off(before);
    match (&statuses[..], &arrived[..]) {
        ([200] | [], [request]) => {
            assert_eq!(path_of(request), "/attack", "{attack:?}");
            assert_eq!(request.body, body.as_bytes(), "{attack:?}: {request:?}");
            clean_framing(request);
        }
        ([400] | [], []) => {}
        _ => panic!("{attack:?}: {statuses:?}, {arrived:?}"),
    }
    let after = world.upstream.requests().len();
    still_serves(world);
    let requests = world.upstream.requests();
    assert!(requests[after..].iter().all(|r| path_of(r) == "/good"), "{attack:?}: {requests:?}");
    arrived
}

/// Good requests on whatever upstream connections the attack has left.
fn still_serves(world: &World) {
    for _ in 0..4 {
        let response = world.acme_client().get("/good").unwrap();
        assert_eq!(response.text(), "GET /good HTTP/1.1");
    }
    let requests = world.upstream.requests();
    assert!(requests.iter().all(|r| path_of(r) != "/smuggled"), "{requests:?}");
}

#[track_caller]
fn clean_framing(request: &Recorded) {
    let (lengths, codings) =
        (request.header("content-length"), request.header("transfer-encoding"));
    let clean = match (&lengths[..], &codings[..]) {
        ([], []) => request.body.is_empty(),
        ([length], []) => length.parse() == Ok(request.body.len()),
        ([], [coding]) => *coding == "chunked",
        _ => false,
    };
    assert!(clean, "{request:?}");
}
