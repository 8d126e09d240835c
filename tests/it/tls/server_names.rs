//! From SNI and authority to a tenant, or to a refusal: never to a laxer tenant.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use openssl::ssl::SslVersion;

use super::hello::{self, Hello, Relay, SERVER_NAME};
use super::{TRUSTS_ACME, VERSIONS};
use crate::world::{Client, Config, Failure, World};

const EDGE: &str = env!("CARGO_BIN_EXE_portcullis");

/// acme behind a listener that hands whoever names nobody to a tenant that asks for nothing:
/// a slip in finding the tenant would let everybody in.
fn lax_default() -> World {
    World::with(|_, config| {
        config.listener = "default_tenant: lax".into();
        config.tenants = "- id: lax\n  server_names: [lax.example.com]\n  upstream: platform\n  \
                          client_certificate: none\n  \
                          certificate: { chain: server.pem, key: server.key }"
            .into();
    })
}

/// The same tenant's policy, and nobody else's, meets a client whose hello came this way.
#[track_caller]
fn is_acme(world: &World, client: impl Fn(Client) -> Client) {
    for version in VERSIONS {
        let device = client(world.acme_client().tls(version));
        assert_eq!(device.get("/").unwrap().status, 200, "{version:?}");
        let seen = world.upstream.requests().pop().unwrap();
        assert_eq!(seen.header("x-ssl-cert-chain").len(), 1);
        let missing = if version == SslVersion::TLS1_2 { 40 } else { 116 };
        let anonymous = device.clone().anonymous();
        assert_eq!(anonymous.get("/").unwrap_err(), Failure::Alert(missing), "{version:?}");
        let pki = &world.globex;
        let stranger = device.identity(&[&pki.device, &pki.issuing]);
        assert_eq!(stranger.get("/").unwrap_err(), Failure::Alert(48), "{version:?}");
    }
}

/// Hands hellos on in records of at most this size.
fn rewriting(world: &World, size: usize) -> Relay {
    Relay::start(world.https(), "127.0.0.1".parse().unwrap(), move |number, record| {
        // Only the first record: an encrypted Finished of TLS 1.2 may begin with any octet.
        let is_hello = number == 0 && record[0] == hello::HANDSHAKE && record[5] == 1;
        Some(if is_hello { hello::into_records(&record[5..], size) } else { record })
    })
}

#[test]
fn a_hello_split_into_records_of_any_size_meets_the_same_tenant() {
    let world = lax_default();
    for size in [1, 2, 3, 7, 64] {
        let relay = rewriting(&world, size);
        is_acme(&world, |client| client.at(relay.address()));
    }
}

/// A client that offers this many KiB of protocols before the one that is spoken.
fn talkative(client: Client, kib: usize) -> Client {
    let mut alpn: Vec<u8> = [&[255][..], &[b'x'; 255]].concat().repeat(kib * 4);
    alpn.extend(b"\x08http/1.1");
    let client = client.alpn(alpn.leak());
    assert!(Hello::of(&client).message().len() > kib * 1024);
    client
}

#[test]
fn a_hello_that_fills_almost_a_record_meets_the_same_tenant() {
    let world = lax_default();
    is_acme(&world, |client| talkative(client, 14));
    let relay = rewriting(&world, 1_000);
    is_acme(&world, |client| talkative(client, 14).at(relay.address()));
}

#[test]
fn a_hello_of_more_than_16_kib_is_refused() {
    let world = lax_default();
    let relay = rewriting(&world, 1_000);
    for version in VERSIONS {
        for kib in [16, 17, 40, 60] {
            for client in [world.acme_client(), world.client("acme.example.com")] {
                let client = talkative(client.tls(version), kib);
                assert_eq!(client.get("/").unwrap_err(), Failure::Alert(47), "{kib} KiB");
                let split = client.at(relay.address());
                assert_eq!(split.get("/").unwrap_err(), Failure::Alert(47), "{kib} KiB");
            }
        }
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_hello_that_announces_more_than_it_could_hold_is_refused_before_it_comes() {
    let world = lax_default();
    let mut message = Hello::of(&world.client("lax.example.com")).message();
    message[1..4].copy_from_slice(&[0x02, 0, 0]);
    let answer = hello::sent_raw(world.https(), &hello::into_records(&message, 16_384));
    assert_eq!(hello::only_alert(&answer), 47);
    assert_eq!(world.client("lax.example.com").get("/").unwrap().status, 200);
}

#[test]
fn server_names_match_in_any_case() {
    let world = lax_default();
    for name in ["ACME.EXAMPLE.COM", "aCmE.eXaMpLe.CoM", "Acme.example.com"] {
        is_acme(&world, |client| client.server_name(name));
    }
    is_acme(&world, |client| client.server_name("DEV-1.aCme.example.com"));
}

#[test]
fn without_server_name_and_default_tenant_the_handshake_ends() {
    let world = World::start();
    for version in VERSIONS {
        let nameless = world.acme_client().without_server_name().tls(version);
        let answer = hello::sent_raw(world.https(), &Hello::of(&nameless).records(16_384));
        assert_eq!(hello::only_alert(&answer), 112);
        assert_eq!(nameless.get("/").unwrap_err(), Failure::Alert(112));
    }
    assert_eq!(world.refusals("server_name_unknown"), 4.0);
}

/// Names that are none of a tenant's, each as the octets of the one host name.
fn odd_names() -> Vec<Vec<u8>> {
    let mut long = "a.".repeat(119).into_bytes();
    long.extend(b"acme.example.com");
    let mut names: Vec<Vec<u8>> = [
        "unknown.example.org",
        "example.com",
        "acme.example.com.",
        ".acme.example.com",
        "x..acme.example.com",
        "*.acme.example.com",
        "acme.example.com ",
        " acme.example.com",
        "acme.example.com:443",
        "acme.example.com/",
        "acme_1.acme.example.com",
        "-x.acme.example.com",
        "acme.example.com\0",
        "acme.example.com\0.globex.example.com",
        "\0acme.example.com",
        "acme.example.com\r\nHost: globex.example.com",
        "\u{1b}[31macme.example.com",
        "127.0.0.1",
        "[::1]",
        "::1",
        "2130706433",
        "bücher.acme.example.com",
        // Cyrillic а, and full-width letters.
        "\u{430}cme.example.com",
        "ａｃｍｅ.example.com",
        "acme\u{3002}example.com",
        "xn--.acme.example.com\u{200d}",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    assert_eq!(long.len(), 254);
    names.push(long);
    names.extend([vec![b'a'; 255], vec![b'a'; 256], vec![b'.'; 255], vec![0xff; 16]]);
    names.push([&b"b\xfccher"[..], b".acme.example.com"].concat());
    names
}

#[test]
fn odd_server_names_are_refused_by_name_and_get_nobodys_certificate() {
    let world = lax_default();
    let mut sent = 0.0;
    for version in VERSIONS {
        let hello = Hello::of(&world.client("acme.example.com").tls(version));
        for name in odd_names() {
            let hello = hello.clone().server_name(&name);
            let answer = hello::sent_raw(world.https(), &hello.records(16_384));
            let name = String::from_utf8_lossy(&name).into_owned();
            assert_eq!(hello::only_alert(&answer), 112, "{name:?} {version:?}");
            sent += 1.0;
            assert_eq!(world.refusals("server_name_unknown"), sent, "{name:?}");
        }
    }
    let failed =
        "portcullis_handshakes_total{protocol=\"https\",result=\"failed\",tenant=\"none\"}";
    assert_eq!(world.metric(failed), sent);
}

#[test]
fn malformed_server_name_extensions_are_refused_and_get_nobodys_certificate() {
    let world = lax_default();
    let (acme, lax) = (
        hello::server_name_entry(b"acme.example.com"),
        hello::server_name_entry(b"lax.example.com"),
    );
    let list = |entries: &[&[u8]]| hello::sized(&entries.concat());
    let mut other_kind = lax.clone();
    other_kind[0] = 1;
    let mut too_long = list(&[&lax]);
    too_long[1] += 1;
    let bodies = [
        list(&[&acme, &lax]),
        list(&[&lax, &acme]),
        list(&[&lax, &lax]),
        list(&[]),
        Vec::new(),
        list(&[&other_kind]),
        list(&[&other_kind, &lax]),
        list(&[&hello::server_name_entry(b"")]),
        [list(&[&lax]), vec![0]].concat(),
        too_long,
        vec![0],
    ];
    let mut sent = 0.0;
    for version in VERSIONS {
        let hello = Hello::of(&world.client("lax.example.com").tls(version));
        for body in &bodies {
            let hello = hello.clone().extension(SERVER_NAME, body);
            let answer = hello::sent_raw(world.https(), &hello.records(16_384));
            // decode_error where it is no list of one, else unrecognized_name.
            let alert = hello::only_alert(&answer);
            assert!([50, 112].contains(&alert), "{alert}: {body:02x?}");
            sent += 1.0;
            assert_eq!(world.refusals("server_name_unknown"), sent, "{body:02x?}");
        }
        let twice = hello.another_extension(SERVER_NAME, &list(&[&acme]));
        let answer = hello::sent_raw(world.https(), &twice.records(16_384));
        hello::only_alert(&answer);
    }
}

#[test]
fn the_longest_wildcard_wins_and_an_exact_name_before_it() {
    let tenants = |names: &str| {
        format!(
            "- id: initech\n  server_names: [{names}]\n  upstream: platform\n  \
             certificate: {{ chain: server.pem, key: server.key }}\n  \
             trusted_certificates: [{{ file: globex-root.pem }}]"
        )
    };
    let world = World::with(|_, config| {
        config.tenants = tenants("\"*.dev.acme.example.com\", one.acme.example.com");
    });
    let of_initech = ["a.dev.acme.example.com", "b.c.dev.acme.example.com", "one.acme.example.com"];
    let of_acme = [
        "acme.example.com",
        "two.acme.example.com",
        "dev.acme.example.com",
        "x.one.acme.example.com",
    ];
    for name in of_initech {
        assert_eq!(world.acme_client().server_name(name).get("/").unwrap_err(), Failure::Alert(48));
        assert_eq!(world.globex_client().server_name(name).get("/").unwrap().status, 200, "{name}");
    }
    for name in of_acme {
        assert_eq!(world.acme_client().server_name(name).get("/").unwrap().status, 200, "{name}");
        let other = world.globex_client().server_name(name);
        assert_eq!(other.get("/").unwrap_err(), Failure::Alert(48), "{name}");
    }
    let served = world.upstream.requests().len();
    for (sni, hosts) in [("acme.example.com", of_initech), ("two.acme.example.com", of_initech)] {
        for host in hosts {
            assert_eq!(status(&world, sni, "/", &[host]), 421, "{sni} {host}");
        }
    }
    assert_eq!(world.upstream.requests().len(), served);
}

/// The answer to a GET from acme's device with this SNI, request target and these Host lines.
fn status(world: &World, sni: &str, target: &str, hosts: &[&str]) -> u16 {
    request(world, sni, &format!("GET {target} HTTP/1.1"), hosts)
}

fn request(world: &World, sni: &str, line: &str, hosts: &[&str]) -> u16 {
    let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
    let mut connection = world.acme_client().server_name(sni).connect().unwrap();
    connection.exchange(format!("{line}\r\n{hosts}\r\n").as_bytes()).unwrap().status
}

#[test]
fn a_host_of_another_tenant_is_misdirected_in_every_spelling() {
    let world = World::start();
    let mut misdirected = 0.0;
    for sni in ["acme.example.com", "device.acme.example.com"] {
        for host in [
            "globex.example.com",
            "GLOBEX.example.com",
            "globex.example.com:443",
            "globex.example.com:8443",
            "globex.example.com.",
            "globex.example.com.:443",
            "acme.example.com.globex.example.com",
            "acme.example.com@globex.example.com",
            "acme.example.com:x@globex.example.com",
            "acme.example.com,globex.example.com",
            "unknown.example.org",
            "acme.example.com.",
            "acme.example.com:",
            "acme.example.com:99999999",
            "acme.example.org",
            "xacme.example.com",
            "127.0.0.1",
            "[::1]",
            "localhost",
            "*.acme.example.com",
            "\u{430}cme.example.com",
            "_.acme.example.com",
        ] {
            let answered = status(&world, sni, "/x", &[host]);
            // What is no host at all may be malformed before it is misdirected.
            assert!(
                answered == 421 || (answered == 400 && host.contains(['@', ','])),
                "{host}: {answered}"
            );
            misdirected += f64::from(u8::from(answered == 421));
        }
    }
    world.refused("misdirected", misdirected);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_token_is_not_given_for_the_host_of_another_tenant() {
    let world = World::start();
    let line = format!("POST {} HTTP/1.1\r\nContent-Length: 0", crate::world::TOKEN_PATH);
    assert_eq!(request(&world, "acme.example.com", &line, &["globex.example.com"]), 421);
    assert_eq!(status(&world, "acme.example.com", super::JWKS_PATH, &["globex.example.com"]), 421);
    assert_eq!(request(&world, "acme.example.com", &line, &["acme.example.com"]), 200);
}

#[test]
fn every_host_of_the_same_tenant_is_served() {
    let world = World::start();
    for sni in ["acme.example.com", "device.acme.example.com", "ACME.example.com"] {
        for host in [
            "acme.example.com",
            "ACME.EXAMPLE.COM",
            "acme.example.com:443",
            "acme.example.com:8443",
            "other.acme.example.com",
            "a.b.ACME.example.com:1",
        ] {
            assert_eq!(status(&world, sni, "/x", &[host]), 200, "{sni} {host}");
        }
    }
}

#[test]
fn an_absolute_target_counts_as_the_authority() {
    let world = World::start();
    let acme = "acme.example.com";
    for scheme in ["http", "https"] {
        for (target, host) in [
            ("globex.example.com", "globex.example.com"),
            ("globex.example.com", acme),
            (acme, "globex.example.com"),
            ("GLOBEX.example.com:443", acme),
            ("acme.example.com@globex.example.com", acme),
            ("unknown.example.org", acme),
        ] {
            let answered = status(&world, acme, &format!("{scheme}://{target}/x"), &[host]);
            assert!([400, 421].contains(&answered), "{scheme}://{target} {host}: {answered}");
        }
    }
    assert!(world.upstream.requests().is_empty());
    assert_eq!(status(&world, acme, "https://acme.example.com/x", &[acme]), 200);
    let seen = world.upstream.only_request();
    assert_eq!(seen.header("host"), [acme]);
}

#[test]
fn several_hosts_or_none_are_refused() {
    let world = World::start();
    let (acme, globex) = ("acme.example.com", "globex.example.com");
    for hosts in [&[acme, globex][..], &[globex, acme], &[acme, acme], &[], &[""], &[" "]] {
        let answered = status(&world, acme, "/x", hosts);
        assert!([400, 421].contains(&answered), "{hosts:?}: {answered}");
    }
    for line in ["CONNECT globex.example.com:443 HTTP/1.1", "CONNECT acme.example.com:443 HTTP/1.1"]
    {
        let answered = request(&world, acme, line, &[acme]);
        assert!((400..500).contains(&answered), "{line}: {answered}");
    }
    assert!(world.upstream.requests().is_empty());
}

/// The edge as its own process, so that its log can be read.
struct Process {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    https: std::net::SocketAddr,
}

impl Process {
    fn start(world: &mut World) -> Process {
        world.drain();
        let mut child = Command::new(EDGE)
            .args(["run", "--config"])
            .arg(world.file())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let https = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the edge did not start");
            let event: serde_json::Value = serde_json::from_str(&line).expect(&line);
            if let Some(https) = event["https"].as_str() {
                break https.trim_matches(['[', ']']).parse().unwrap();
            }
        };
        Process { child, log, https }
    }

    /// Ends the process and returns its log from the first connection on.
    fn end(mut self) -> Vec<serde_json::Value> {
        self.child.kill().unwrap();
        let lines = self.log.lines().map(|line| line.unwrap());
        lines.map(|line| serde_json::from_str(&line).expect(&line)).collect()
    }
}

#[test]
fn an_odd_server_name_is_one_line_of_the_log_without_its_bytes() {
    let mut world = World::with(|_, config| {
        *config = Config { acme: TRUSTS_ACME.into(), ..Config::default() };
    });
    let text = std::fs::read_to_string(world.file()).unwrap();
    std::fs::write(world.file(), text.replace("format: text", "format: json")).unwrap();
    let edge = Process::start(&mut world);
    let hello = Hello::of(&world.client_at(edge.https, "acme.example.com"));
    let names = odd_names();
    for name in &names {
        let hello = hello.clone().server_name(name);
        assert_eq!(hello::only_alert(&hello::sent_raw(edge.https, &hello.records(16_384))), 112);
    }
    let log = edge.end();
    let refused: Vec<_> = log.iter().filter(|l| l["refusal"] == "server_name_unknown").collect();
    assert_eq!(refused.len(), names.len());
    assert_eq!(log.len(), names.len(), "other lines: {log:#?}");
    for line in log {
        let text = line.to_string();
        assert!(!text.contains("example") && !text.contains("\\u"), "{text}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
}
