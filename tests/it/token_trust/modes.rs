//! The examples of `conf/token-trust` as they stand, each with a platform that trusts in that
//! way and takes a device's request only if its token verifies.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use portcullis::clock::Clock;
use serde_json::{Value, json};

use crate::jwt::{Jwt, signed, tampered};
use crate::pki::{Key, Template};
use crate::tools::python;
use crate::world::{Client, NOW, Response, World};

const NAME: &str = "acme.iot.example.com";

#[test]
fn a_platform_with_the_shared_public_key_takes_a_devices_token() {
    let mut world = example("shared-key", 0);
    let platform = Platform::start(
        "shared-key",
        json!({ "public_key": file(&world, "device-tokens.pub.pem") }),
    );
    serve(&mut world, &platform);
    takes_good_tokens_alone(&world, "ES256");
}

#[test]
fn a_platform_that_fetches_the_edges_keys_takes_a_devices_token() {
    let mut world = example("jwks", 3_600);
    let settings = json!({
        "edge_address_file": file(&world, "edge.address"),
        "ca": file(&world, "server-root.pem"),
    });
    let platform = Platform::start("jwks", settings);
    serve(&mut world, &platform);
    let for_verifiers = world.server().https_addresses()[1];
    world.write("edge.address", for_verifiers.to_string());

    // That listener asks for no certificate and serves nothing but the keys.
    let verifier = Client::new(for_verifiers, NAME, &world.server_root);
    let response = verifier.get("/.well-known/jwks.json").unwrap();
    assert_eq!(response.header("cache-control"), Some("public, max-age=300"));
    for client in [verifier.clone(), device(&world).at(for_verifiers)] {
        assert_eq!(client.get("/inventory").unwrap().status, 401);
        assert_eq!(client.token().unwrap().status, 401);
    }

    // The platform keeps the keys that it fetches now, before the new one signs.
    let rotated = world.api("POST", "/edge/signing-keys/rotate", Value::Null);
    assert_eq!(rotated.status, 200, "{rotated:?}");
    world.clock.advance(1_800);
    let before = device(&world).token().unwrap().access_token();
    takes_good_tokens_alone(&world, "ES256");
    world.clock.advance(1_800);
    let after = device(&world).token().unwrap().access_token();
    assert_ne!(Jwt::parse(&before).kid(), Jwt::parse(&after).kid());
    takes_good_tokens_alone(&world, "ES256");
    assert_eq!(inventory(&world, &before).status, 200);
}

#[test]
fn a_platform_that_makes_its_own_tokens_is_asked_with_the_chain_and_takes_them_back() {
    let mut world = example("relay", 0);
    let platform = Platform::start("relay", json!({ "anchor": file(&world, "acme-root.pem") }));
    serve(&mut world, &platform);
    takes_good_tokens_alone(&world, "HS256");
    // By the half-life rule the second one is the first.
    let first = device(&world).token().unwrap().access_token();
    assert_eq!(device(&world).token().unwrap().access_token(), first);
    // The device's own header is not what the platform goes by.
    let stranger = Template::device("somebody-else").signed_by(&Template::ca("Any").self_signed());
    let line = format!("X-Ssl-Cert-Chain: {}\r\n", stranger.pem().replace('\n', " "));
    assert_eq!(device(&world).token_with(&line).unwrap().status, 401);
}

#[track_caller]
fn takes_good_tokens_alone(world: &World, algorithm: &str) {
    let token = device(world).token().unwrap().access_token();
    let Jwt { header, claims, .. } = Jwt::parse(&token);
    assert_eq!(header["alg"], algorithm);
    let response = inventory(world, &token);
    assert_eq!((response.status, response.json()), (200, json!({ "device": "acme-device-1" })));
    assert_eq!(device(world).get("/inventory").unwrap().status, 401);
    let forged = signed(&header, &claims, &Key::p256());
    for bad in [tampered(&token), forged, "opaque".to_owned()] {
        assert_eq!(inventory(world, &bad).status, 401, "{bad}");
    }
}

fn inventory(world: &World, token: &str) -> Response {
    let request =
        format!("GET /inventory HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {token}\r\n\r\n");
    device(world).connect().unwrap().exchange(request.as_bytes()).unwrap()
}

fn device(world: &World) -> Client {
    let client = Client::new(world.https(), NAME, &world.server_root);
    client.identity(&[&world.acme.device, &world.acme.issuing])
}

/// The files beside a copy of the example, made as its comments say, some seconds ago.
fn example(name: &str, seconds_ago: i64) -> World {
    let world = World::files(|_, _| {});
    world.clock.advance(Clock::system().now() - NOW - seconds_ago);
    let server = Template::server(&[NAME]).signed_by(&world.server_root);
    world.write("acme.pem", server.pem());
    world.write_key("acme.key", &server.key);
    world.write("server-root.pem", world.server_root.pem());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/token-trust");
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    for line in text.lines() {
        let command = line.trim_start().trim_start_matches('#').trim_start();
        if line.trim_start().starts_with('#')
            && ["openssl ", "chmod "].iter().any(|program| command.starts_with(program))
        {
            let mut shell = Command::new("sh");
            shell.args(["-ec", command]).current_dir(world.dir.path()).stderr(Stdio::null());
            assert!(shell.status().unwrap().success(), "{command}");
        }
    }
    world.write("portcullis.yaml", text);
    world
}

/// Starts the edge, with nothing of the example changed but addresses and ports.
fn serve(world: &mut World, platform: &Platform) {
    let mut text = std::fs::read_to_string(world.file()).unwrap();
    for (was, is) in [
        ("\"0.0.0.0:8443\"", "\"127.0.0.1:0\"".to_owned()),
        ("\"0.0.0.0:8444\"", "\"127.0.0.1:0\"".to_owned()),
        ("\"127.0.0.1:8080\"", format!("\"{}\"", platform.address)),
    ] {
        text = text.replace(was, &is);
    }
    assert!(text.contains(&platform.address.to_string()), "{text}");
    text.push_str("admin: { bind: \"127.0.0.1:0\", token_file: operator.token }\n");
    world.write("portcullis.yaml", text);
    world.restart();
}

fn file(world: &World, name: &str) -> String {
    world.dir.path().join(name).to_str().unwrap().to_owned()
}

/// A running `small_platform.py`. Killed when it is dropped.
struct Platform {
    child: Child,
    address: SocketAddr,
}

impl Platform {
    fn start(way: &str, mut settings: Value) -> Platform {
        for (name, value) in [("issuer", NAME), ("audience", NAME), ("tenant", "acme")] {
            settings[name] = value.into();
        }
        let mut command = python("small_platform.py");
        command.arg(way).arg(settings.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().unwrap_or_else(|_| panic!("{way}: {port:?}"));
        Platform { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
