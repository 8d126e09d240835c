//! The edge as operators meet it: the real binary, its exit codes, its signals, its log, its
//! metrics, and reloads under load.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use openssl::base64::encode_block;
use openssl::ssl::{Ssl, SslContext, SslMethod};
use serde_json::Value;

use crate::pki::{Crl, Key, Template};
use crate::world::{AtEnd, Config, Failure, Process, World, eventually, plain_get, portcullis};

const JSON: &str = "{ format: json, level: info }";

// ── check ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn check_accepts_a_good_file_and_opens_nothing() {
    let world = World::files(|_, _| {});
    let output = check(&world);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).ends_with("no faults, 2 tenants\n"));
    assert!(output.stderr.is_empty());
    assert!(!world.dir.path().join("edge.db").exists());
}

#[test]
fn check_tells_every_fault_at_once_with_its_place() {
    let world = World::files(|_, _| {});
    // One fault of the text, one of a name, one of a value, one of a file that is named.
    let file = fs::read_to_string(world.file()).unwrap();
    let file = file.replace("workers: 2", "wrokers: 2").replacen(
        "upstream: platform",
        "upstream: plaform",
        1,
    );
    let file = file.replace("[globex.example.com]", "[\"no name\"]");
    let file = file.replace("file: acme-root.pem", "file: missing.pem");
    world.write("portcullis.yaml", &file);
    let output = check(&world);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let told = text(&output.stderr);
    for (needle, what) in [
        ("wrokers", "`wrokers`"),
        ("plaform", "did you mean `platform`?"),
        ("\"no name\"", "host name"),
        ("missing.pem", "not found"),
    ] {
        let line = 1 + file.lines().position(|line| line.contains(needle)).unwrap();
        let column = 1 + file.lines().nth(line - 1).unwrap().find(needle).unwrap();
        let place = format!("{}:{line}:{column}", world.file().display());
        assert!(told.contains(&place), "{place} is not in:\n{told}");
        assert!(told.contains(what), "{what} is not in:\n{told}");
    }
}

#[test]
fn check_accepts_the_annotated_example() {
    let world = World::files(|_, _| {});
    fs::create_dir(world.dir.path().join("tenants.d")).unwrap();
    for file in ["portcullis.yaml", "tenants.d/example-tenant.yaml"] {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/").to_owned() + file;
        world.write(file, fs::read(example).unwrap());
    }
    let (root, issuing) = (&world.acme.root, &world.acme.issuing);
    let edge = Template::server(&["example.iot.example.com"]).signed_by(root);
    for secret in ["tickets.secret", "keys.secret", "k1.pem"] {
        world.write_key(secret, &Key::p256());
    }
    world.write_secret("admin.token", &[b'a'; 32]);
    world.write_secret("dashboards.token", &[b'b'; 32]);
    world.write("platform-ca.pem", root.pem());
    for name in ["edge", "tenants.d/example"] {
        world.write(&format!("{name}.pem"), edge.pem());
        world.write_key(&format!("{name}.key"), &edge.key);
    }
    world.write("tenants.d/example-root.pem", root.pem());
    world.write("tenants.d/issuing-ca.pem", issuing.pem());
    world.write("tenants.d/example.crl", Crl::of(issuing).der());
    world.write_key("tenants.d/example-signing.pem", &Key::p256());
    let output = check(&world);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("no faults, 1 tenants\n"), "{output:?}");
}

#[test]
fn a_missing_configuration_is_a_fault_and_a_missing_argument_is_wrong_usage() {
    let world = World::files(|_, _| {});
    fs::remove_file(world.file()).unwrap();
    let output = check(&world);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("not found"), "{output:?}");
    assert_eq!(portcullis(&["chekc"]).status.code(), Some(2));
}

#[test]
fn two_tenants_cannot_have_one_server_name() {
    let world = World::files(|_, _| {});
    let file = fs::read_to_string(world.file()).unwrap();
    let file = file.replace("[globex.example.com]", "[globex.example.com, ACME.example.com]");
    world.write("portcullis.yaml", file);
    for output in [check(&world), run(&world)] {
        assert_eq!(output.status.code(), Some(3));
        let told = text(&output.stderr);
        assert!(told.contains("the server name `acme.example.com` is given twice"), "{told}");
        assert!(told.contains("first given to tenant `acme` at "), "{told}");
    }
}

#[test]
fn a_lifespan_below_five_minutes_is_refused_not_clamped() {
    let refused = World::files(|_, config| config.acme("tokens: { lifespan: 299s }"));
    let output = run(&refused);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("from 5m to"), "{output:?}");
    let accepted = World::files(|_, config| config.acme("tokens: { lifespan: 300s }"));
    assert_eq!(check(&accepted).status.code(), Some(0));
}

#[test]
fn a_key_that_others_can_read_is_refused_and_never_shown() {
    // Whosever key it is: the edge's own, or one of a single tenant.
    for name in ["k1.key", "own.key", "server.key"] {
        let world = World::files(|world, config| {
            world.write_key("own.key", &Key::p256());
            config.acme("tokens: { signing_keys: [{ kid: own, file: own.key }] }");
        });
        let everybody = fs::Permissions::from_mode(0o644);
        fs::set_permissions(world.dir.path().join(name), everybody).unwrap();
        for output in [check(&world), run(&world)] {
            assert_eq!(output.status.code(), Some(3), "{name}");
            let told = text(&output.stderr);
            let what = "group or others have access to this secret (mode 0644)";
            assert!(told.contains(name) && told.contains(what), "{told}");
            assert!(told.contains("chmod 600 "), "{told}");
            holds_no_key(&world, name, &told);
        }
    }
}

#[test]
fn a_file_that_is_no_key_is_never_quoted() {
    let world = World::files(|_, _| {});
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0";
    world.write(
        "k1.key",
        format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
    );
    let output = check(&world);
    assert_eq!(output.status.code(), Some(3));
    let told = text(&output.stderr);
    assert!(told.contains("k1.key") && !told.contains(secret), "{told}");
}

#[test]
fn an_empty_trust_store_refuses_its_tenant_and_no_other() {
    let world = World::files(|world, config| {
        world.write("acme-root.pem", "");
        config.log = JSON.into();
    });
    let output = check(&world);
    assert_eq!(output.status.code(), Some(3));
    let told = text(&output.stderr);
    assert!(told.starts_with("tenant acme would not be served:\n"), "{told}");
    assert!(!told.contains("globex"), "{told}");

    let process = Process::run(&world);
    assert_eq!(process.globex_client(&world).token().unwrap().status, 200);
    let acme = process.acme_client(&world);
    for client in [acme.clone(), acme.anonymous()] {
        assert_eq!(client.token().unwrap_err(), Failure::Alert(80));
    }
    let metrics = plain_get(process.admin, "/metrics").text();
    assert!(metrics.contains("portcullis_tenants{state=\"refused\"} 1\n"), "{metrics}");
    assert!(metrics.contains("portcullis_tenants{state=\"serviceable\"} 1\n"));
    // One tenant can be served, so the node is worth its traffic.
    assert_eq!(plain_get(process.admin, "/readyz").status, 200);
}

#[test]
fn trust_files_are_bounded_and_never_a_private_key() {
    let world = World::files(|_, _| {});
    let root = world.acme.root.pem();
    for (contents, message) in [
        (String::from_utf8(Key::p256().pem()).unwrap(), "a private key"),
        (root.repeat(10_001), "more than 10000 certificates"),
        ("x".repeat((16 << 20) + 1), "larger than 16 MiB"),
    ] {
        world.write("acme-root.pem", contents);
        let output = check(&world);
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

#[test]
fn a_configuration_of_aliases_within_aliases_is_refused_at_once() {
    let world = World::files(|_, _| {});
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        let list = vec![alias; 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    world.write("portcullis.yaml", bomb);
    let started = Instant::now();
    let output = check(&world);
    assert_eq!(output.status.code(), Some(3));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(output.stderr.len() < 64 * 1024);
}

// ── run, reload, drain ──────────────────────────────────────────────────────────────────────

#[test]
fn an_address_in_use_is_said_and_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for place in ["    - bind: \"127.0.0.1:0\"", "admin: { bind: \"127.0.0.1:0\""] {
        let world = World::files(|_, _| {});
        let file = fs::read_to_string(world.file()).unwrap();
        assert!(file.contains(place));
        let file = file.replace(place, &place.replace("127.0.0.1:0", &address));
        world.write("portcullis.yaml", file);
        let output = run(&world);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(told.contains(&format!("cannot listen on {address}: ")), "{told}");
        assert!(told.contains("in use"), "{told}");
    }
}

#[test]
fn a_second_edge_on_the_same_addresses_ends_and_takes_no_connection_from_the_first() {
    let world = World::files(|_, config| config.log = JSON.into());
    let process = Process::run(&world);
    let file = fs::read_to_string(world.file()).unwrap();
    let file = file
        .replace("- bind: \"127.0.0.1:0\"", &format!("- bind: \"{}\"", process.https))
        .replace(
            "admin: { bind: \"127.0.0.1:0\"",
            &format!("admin: {{ bind: \"{}\"", process.admin),
        )
        .replace("edge.db", "second.db");
    world.write("second.yaml", file);
    let path = world.dir.path().join("second.yaml");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = AtEnd(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                assert_eq!(process.acme_client(&world).token().unwrap().status, 200);
            }
        });
        for _ in 0..5 {
            let output = portcullis(&["run", "--config", path.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(text(&output.stderr).contains("cannot listen on"), "{output:?}");
        }
    });
}

#[test]
fn sighup_puts_a_good_configuration_in_force_and_keeps_the_old_one_from_a_bad_one() {
    let world = World::files(|_, config| config.log = JSON.into());
    let process = Process::run(&world);
    let client = process.acme_client(&world);
    assert_eq!(client.token().unwrap().status, 200);
    assert_eq!(reload_gauges(&process), (1.0, 0.0, 0.0));

    let good = fs::read_to_string(world.file()).unwrap();
    world.write("portcullis.yaml", good.replace("workers: 2", "wrokers: 2"));
    process.signal(libc::SIGHUP);
    eventually("the bad file is told", || reload_gauges(&process) == (0.0, 0.0, 1.0));
    assert_eq!(client.token().unwrap().status, 200);
    eventually("the faults are logged", || process.text().contains("stays as it was"));
    let failed = process.events("portcullis::config").pop().unwrap();
    assert_eq!(failed["level"], "ERROR");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("stays as it was"), "{message}");
    assert!(message.contains(&format!("{}:2:1", world.file().display())), "{message}");

    let mut config = Config { log: JSON.into(), ..Config::default() };
    config.acme("tokens: { enabled: false }");
    world.configure(&config);
    process.signal(libc::SIGHUP);
    eventually("the good file is in force", || reload_gauges(&process) == (1.0, 1.0, 1.0));
    assert_eq!(client.token().unwrap().status, 404);
    eventually("the change is logged", || process.text().contains("configuration in force"));
    assert_eq!(process.events("portcullis::config").pop().unwrap()["generation"], 2);
}

#[test]
fn sigterm_lets_the_request_under_way_end_and_takes_no_new_connection() {
    let platform = SlowPlatform::start();
    let world = World::files(|_, config| {
        config.log = JSON.into();
        config.platform = format!("http: [\"{}\"]", platform.address);
    });
    let mut process = Process::run(&world);
    let edge = process.https;
    let mut waiting = process.acme_client(&world).connect().unwrap();
    waiting.send(b"GET /slow HTTP/1.1\r\nHost: acme.example.com\r\n\r\n").unwrap();
    platform.asked.recv_timeout(Duration::from_secs(10)).unwrap();
    let mut idle = process.acme_client(&world).connect().unwrap();
    assert_eq!(idle.token("").unwrap().status, 200);

    process.signal(libc::SIGTERM);
    eventually("the listener is closed", || TcpStream::connect(edge).is_err());
    assert_eq!(idle.until_closed(), Failure::Closed);
    let ready = plain_get(process.admin, "/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (503, "draining\n"));
    assert_eq!(plain_get(process.admin, "/healthz").status, 200);

    platform.answer.send(()).unwrap();
    let response = waiting.response().unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "slow"));
    assert_eq!(waiting.until_closed(), Failure::Closed);
    assert_eq!(process.wait().code(), Some(0));
    assert!(!process.text().contains("cutting what is left"));
}

#[test]
fn the_drain_timeout_ends_what_does_not_end_by_itself() {
    let world = World::files(|world, config| {
        config.log = JSON.into();
        config.platform = format!("http: [\"{}\"]", world.upstream.address());
    });
    let file = fs::read_to_string(world.file()).unwrap();
    world.write("portcullis.yaml", file.replace("drain_timeout: 2s", "drain_timeout: 100ms"));
    let mut process = Process::run(&world);
    let mut waiting = process.acme_client(&world).connect().unwrap();
    waiting.send(b"GET /hang HTTP/1.1\r\nHost: acme.example.com\r\n\r\n").unwrap();
    eventually("the request is under way", || !world.upstream.requests().is_empty());
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
    waiting.until_closed();
    assert!(process.text().contains("cutting what is left"));
}

#[test]
fn an_edge_that_can_serve_no_tenant_is_alive_and_not_ready() {
    let world = World::files(|_, config| config.log = JSON.into());
    let roots = ["acme-root.pem", "globex-root.pem"];
    let good = roots.map(|root| fs::read(world.dir.path().join(root)).unwrap());
    for root in roots {
        world.write(root, "");
    }
    let process = Process::run(&world);
    let admin = process.admin.to_string();
    assert_eq!(portcullis(&["health", "--admin", &admin]).status.code(), Some(0));
    let ready = portcullis(&["health", "--admin", &admin, "--ready"]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(text(&ready.stdout).contains("no tenant can be served"), "{ready:?}");

    for (root, pem) in roots.iter().zip(good) {
        world.write(root, pem);
    }
    process.signal(libc::SIGHUP);
    eventually("the tenants are back", || plain_get(process.admin, "/readyz").status == 200);
    assert_eq!(process.acme_client(&world).token().unwrap().status, 200);
}

#[test]
fn a_trust_store_that_breaks_keeps_the_one_that_runs() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    for broken in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n"] {
        world.write("acme-root.pem", broken);
        let faults = world.reload().unwrap_err().to_string();
        assert!(faults.contains("acme-root.pem"), "{faults}");
        assert_eq!(world.metric("portcullis_config_last_reload_successful"), 0.0);
        // Not laxer, not stricter: the tenant is served by what was good.
        assert_eq!(connection.token("").unwrap().status, 200);
        assert_eq!(world.acme_client().token().unwrap().status, 200);
        let foreign = [&world.globex.device, &world.globex.issuing];
        let foreign = world.acme_client().identity(&foreign);
        assert_eq!(foreign.token().unwrap_err(), Failure::Alert(48));
    }
    // What else has changed is in force.
    let mut config = Config::default();
    config.globex.push_str("\ntokens: { enabled: false }");
    world.configure(&config);
    world.reload().unwrap_err();
    assert_eq!(world.globex_client().token().unwrap().status, 404);
    assert_eq!(connection.token("").unwrap().status, 200);
    world.write("acme-root.pem", world.acme.root.pem());
    world.reload().unwrap();
    assert_eq!(world.metric("portcullis_config_last_reload_successful"), 1.0);
}

#[test]
fn health_asks_a_running_edge() {
    let world = World::files(|_, config| config.log = JSON.into());
    let mut process = Process::run(&world);
    let admin = process.admin.to_string();
    let health = |more: &[&str]| portcullis(&[&["health", "--admin", &admin], more].concat());
    let alive = health(&[]);
    assert_eq!((alive.status.code(), text(&alive.stdout).as_str()), (Some(0), "ok\n"));
    let ready = health(&["--ready"]);
    assert_eq!((ready.status.code(), text(&ready.stdout).as_str()), (Some(0), "ready\n"));

    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
    let dead = health(&[]);
    assert_eq!(dead.status.code(), Some(1));
    assert!(!dead.stderr.is_empty());
}

#[test]
fn a_tenant_that_a_reload_adds_is_served() {
    let world = World::start();
    let initech =
        world.client("initech.example.com").identity(&[&world.acme.device, &world.acme.issuing]);
    assert_eq!(initech.token().unwrap_err(), Failure::Alert(112));
    let tenant = "- { id: initech, server_names: [initech.example.com], upstream: platform, \
                  certificate: { chain: server.pem, key: server.key }, \
                  trusted_certificates: [{ file: acme-root.pem, auto_registration: true }] }";
    let config = Config { tenants: tenant.into(), ..Config::default() };
    world.configure(&config);
    world.reload().unwrap();
    assert_eq!(initech.token().unwrap().status, 200);

    // And one that is taken away is gone, for new connections and for those that are open.
    let mut open = initech.connect().unwrap();
    assert_eq!(open.token("").unwrap().status, 200);
    world.configure(&Config::default());
    world.reload().unwrap();
    assert_eq!(open.token("").unwrap().status, 421);
    assert_eq!(initech.token().unwrap_err(), Failure::Alert(112));
}

#[test]
fn a_reload_of_one_tenant_keeps_the_connections_of_all() {
    let world = World::start();
    let mut acme = world.acme_client().connect().unwrap();
    let mut globex = world.globex_client().connect().unwrap();
    let token = globex.token("").unwrap().access_token();
    assert_eq!(acme.token("").unwrap().status, 200);
    let mut config = Config::default();
    config.acme("limits: { body_bytes: 1KiB }\nforward: { chain: client-cert }");
    world.configure(&config);
    world.reload().unwrap();
    assert_eq!(globex.token("").unwrap().access_token(), token);
    // acme's connection lives on too, and under the new rules.
    assert_eq!(acme.get("/inventory").unwrap().status, 200);
    let request = world.upstream.only_request();
    assert_eq!(request.header("client-cert").len(), 1);
    assert!(request.header("x-ssl-cert-chain").is_empty());
    assert_eq!(world.metric("portcullis_connections{protocol=\"https\"}"), 2.0);
}

#[test]
fn reloads_under_load_fail_no_request() {
    let reloads = if long() { 1_000 } else { 50 };
    let world = World::start();
    let (done, requests) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _end = AtEnd(&done);
        for thread in 0..4 {
            let (world, done, requests) = (&world, &done, &requests);
            scope.spawn(move || {
                let client =
                    if thread % 2 == 0 { world.acme_client() } else { world.globex_client() };
                let mut kept = client.connect().unwrap();
                while !done.load(Ordering::Acquire) {
                    assert_eq!(kept.token("").unwrap().status, 200);
                    assert_eq!(kept.get("/inventory").unwrap().status, 200);
                    assert_eq!(client.get("/new-connection").unwrap().status, 200);
                    requests.fetch_add(3, Ordering::AcqRel);
                }
            });
        }
        let mut seen = 0;
        for number in 0..reloads {
            // Each reload changes a tenant and replaces its pool of signing keys.
            let mut config = Config::default();
            config.acme(&format!("limits: {{ body_bytes: {}KiB }}", 1 + number % 7));
            world.configure(&config);
            world.reload().unwrap();
            let before = std::mem::replace(&mut seen, requests.load(Ordering::Acquire));
            if number % 10 == 0 {
                eventually("requests go on", || requests.load(Ordering::Acquire) > before);
            }
        }
    });
    assert!(requests.load(Ordering::Acquire) > 0);
    assert_eq!(world.metric("portcullis_config_reloads_total{result=\"ok\"}"), f64::from(reloads));
    let failed = world.admin("/metrics").text();
    let refusals = failed.lines().filter(|line| line.starts_with("portcullis_refusals_total"));
    for line in refusals {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

// ── Metrics ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn promtool_finds_nothing_in_the_metrics_after_traffic() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    for path in ["/inventory", "/status/503", "/status/404", "/.well-known/jwks.json"] {
        connection.get(path).unwrap();
    }
    connection.token("").unwrap();
    world.globex_client().token().unwrap();
    world.client("acme.example.com").token().unwrap_err();
    world.client("nobody.example.org").token().unwrap_err();
    let metrics = world.admin("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus)");
    promtool.stdin.take().unwrap().write_all(&metrics.body).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr) + &text(&output.stdout), "");
}

#[test]
fn a_thousand_random_server_names_make_no_metric_series() {
    let world = World::start();
    let series = || {
        let text = world.admin("/metrics").text();
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    // The first of each kind brings the one series that all of its kind share.
    let hello = client_hello("aaaaaaaaaaaaaaaaaaaa.example.org");
    greet(world.https(), &hello);
    let refusals = || world.refusals("server_name_unknown");
    eventually("it is counted", || refusals() == 1.0);
    let before = series();
    let at = hello.windows(20).position(|window| window == [b'a'; 20]).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..1_000 {
        let mut hello = hello.clone();
        for byte in &mut hello[at..at + 20] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = b'a' + (state >> 40) as u8 % 26;
        }
        greet(world.https(), &hello);
    }
    eventually("all are counted", || refusals() == 1_001.0);
    assert_eq!(series(), before);
}

// ── Log ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn each_request_and_each_failed_connection_is_one_event() {
    let world = World::files(|_, config| {
        config.log = JSON.into();
        config.globex = "trusted_certificates: [{ file: globex-root.pem }]".into();
    });
    let mut process = Process::run(&world);
    // An event follows its answer: the next step waits, so that the order is certain.
    let told = |count: usize| {
        eventually("it is logged", || {
            let targets = ["portcullis::request", "portcullis::connection"];
            targets.iter().map(|target| process.events(target).len()).sum::<usize>() == count
        });
    };
    let mut connection = process.acme_client(&world).connect().unwrap();
    connection.token("").unwrap();
    told(1);
    connection.get("/inventory?secret=1").unwrap();
    told(2);
    let unknown = process.globex_client(&world).token().unwrap();
    told(3);
    let acme = process.acme_client(&world);
    acme.clone().anonymous().token().unwrap_err();
    told(4);
    acme.clone().identity(&[&world.globex.device, &world.globex.issuing]).token().unwrap_err();
    told(5);
    acme.server_name("nobody.example.org").token().unwrap_err();
    told(6);
    drop(connection);
    process.signal(libc::SIGTERM);
    process.wait();

    let requests = process.events("portcullis::request");
    let found: Vec<[&Value; 7]> = requests
        .iter()
        .map(|event| {
            ["tenant", "device", "method", "path", "status", "answered_by", "refusal"]
                .map(|field| &event[field])
        })
        .collect();
    let (null, token) = (Value::Null, Value::from("/devicecontrol/deviceAccessToken"));
    let [acme, globex] = ["acme", "globex"].map(Value::from);
    let [one, two] = ["acme-device-1", "globex-device-1"].map(Value::from);
    let [post, get, by_token, by_upstream] = ["POST", "GET", "Token", "Upstream"].map(Value::from);
    let expected = [
        [&acme, &one, &post, &token, &200.into(), &by_token, &null],
        [&acme, &one, &get, &"/inventory".into(), &200.into(), &by_upstream, &null],
        [&globex, &two, &post, &token, &403.into(), &by_token, &"device_unknown".into()],
    ];
    assert_eq!(found, expected);
    for event in &requests {
        assert!(event["duration_ms"].as_f64().unwrap() > 0.0, "{event}");
        assert_eq!(event["request_id"].as_str().unwrap().len(), 16, "{event}");
        assert!(event["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");
    }
    assert_eq!(requests[0]["connection"], requests[1]["connection"]);
    // What the device was told can be found in the log.
    assert_eq!(unknown.header("x-request-id"), requests[2]["request_id"].as_str());
    let reason = requests[2]["reason"].as_str().unwrap();
    assert!(reason.contains("auto_registration"), "{reason}");

    let connections = process.events("portcullis::connection");
    let found: Vec<_> =
        connections.iter().map(|event| (&event["tenant"], event["refusal"].as_str())).collect();
    let expected = [
        (&acme, Some("certificate_missing")),
        (&acme, Some("issuer_unknown")),
        (&null, Some("server_name_unknown")),
    ];
    assert_eq!(found, expected);
    for event in &connections {
        assert!(event["duration_ms"].as_f64().unwrap() > 0.0, "{event}");
        assert!(!event["reason"].as_str().unwrap().is_empty(), "{event}");
    }
}

#[test]
fn bytes_of_the_wire_stay_within_one_escaped_line() {
    let world = World::files(|_, config| config.log = JSON.into());
    let mut process = Process::run(&world);
    let client = process.acme_client(&world);
    for path in [
        "/a%0d%0a{\"level\":\"FATAL\"}",
        "/\x1b[2J\x1b[31mred",
        "/\u{202e}txt.exe",
        "/a\rb",
        "/a\x00b",
        "/\"},{\"x\":\"",
        &format!("/{}", "long".repeat(1_000)),
    ] {
        let mut connection = client.connect().unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: acme.example.com\r\n\r\n");
        // Some are answered, some are refused; either way they are told in one line.
        let _ = connection.exchange(request.as_bytes());
    }
    for name in ["a\r\nb.example.com", "\x1b[31m.example.com", "a\"b.example.com"] {
        client.clone().server_name(name).token().unwrap_err();
    }
    process.signal(libc::SIGTERM);
    process.wait();
    let lines = process.lines();
    for line in &lines {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line:?}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert!(line.len() < 2_000, "{line:?}");
    }
    let told = process.events("portcullis::request").len()
        + process.events("portcullis::connection").len();
    assert_eq!(told, 10, "{lines:#?}");
}

#[test]
fn no_secret_ever_reaches_the_log() {
    let world = World::files(|_, config| {
        config.log = "{ format: json, level: trace }".into();
        config.acme("complete_chain_from_header: true");
    });
    let mut process = Process::run(&world);
    let client = process.acme_client(&world);
    let mut connection = client.connect().unwrap();
    let token = connection.token("").unwrap().access_token();
    let secrets = "Authorization: Bearer s3cret-bearer\r\nCookie: session=s3cret-cookie\r\n\
                   X-Api-Key: s3cret-header\r\nX-Ssl-Cert-Chain: s3cret-chain\r\n";
    let body = "s3cret-body";
    for path in ["/inventory?access_token=s3cret-query", "/status/500", "/close"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: {}\r\n{secrets}\r\n{body}",
            body.len()
        );
        connection = client.connect().unwrap();
        connection.exchange(request.as_bytes()).unwrap();
    }
    let refused = client.token_with(secrets).unwrap();
    assert_eq!(refused.status, 400);
    let leaf = client.clone().identity(&[&world.acme.device]);
    assert_eq!(leaf.token_with(secrets).unwrap().status, 400);
    client.anonymous().token_with(secrets).unwrap_err();
    process.signal(libc::SIGHUP);
    eventually("the reload is logged", || process.text().contains("configuration in force"));
    process.signal(libc::SIGTERM);
    process.wait();
    let log = process.text();
    assert!(!log.contains("s3cret"), "{log}");
    for part in token.split('.') {
        assert!(!log.contains(part), "{log}");
    }
    let device = encode_block(&world.acme.device.der);
    assert!(!log.contains(&device[100..160]), "{log}");
    for key in ["server.key", "k1.key"] {
        holds_no_key(&world, key, &log);
    }
}

// ── Means ───────────────────────────────────────────────────────────────────────────────────

fn long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some()
}

fn check(world: &World) -> Output {
    portcullis(&["check", "--config", world.file().to_str().unwrap()])
}

/// For an edge that does not start.
fn run(world: &World) -> Output {
    portcullis(&["run", "--config", world.file().to_str().unwrap()])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn holds_no_key(world: &World, key: &str, text: &str) {
    let pem = fs::read_to_string(world.dir.path().join(key)).unwrap();
    for line in pem.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!text.contains(line), "{text}");
    }
}

/// Last reload successful, reloads that were, reloads that were not.
fn reload_gauges(process: &Process) -> (f64, f64, f64) {
    let text = plain_get(process.admin, "/metrics").text();
    let values: BTreeMap<&str, f64> = text
        .lines()
        .filter(|line| line.starts_with("portcullis_config"))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series, value.parse().unwrap()))
        .collect();
    (
        values["portcullis_config_last_reload_successful"],
        values["portcullis_config_reloads_total{result=\"ok\"}"],
        values["portcullis_config_reloads_total{result=\"failed\"}"],
    )
}

/// A platform that says when it is asked, and answers when it is told.
struct SlowPlatform {
    address: SocketAddr,
    asked: Receiver<()>,
    answer: Sender<()>,
}

impl SlowPlatform {
    fn start() -> SlowPlatform {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asking, asked) = channel();
        let (answer, answering) = channel();
        thread::spawn(move || {
            // Connections without a request are health checks.
            for mut tcp in listener.incoming().flatten() {
                if let Ok(1..) = tcp.read(&mut [0; 4_096]) {
                    asking.send(()).unwrap();
                    answering.recv().unwrap();
                    tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").unwrap();
                    return;
                }
            }
        });
        SlowPlatform { address, asked, answer }
    }
}

/// The ClientHello of a client for this server name.
fn client_hello(server_name: &str) -> Vec<u8> {
    let context = SslContext::builder(SslMethod::tls_client()).unwrap().build();
    let mut ssl = Ssl::new(&context).unwrap();
    ssl.set_hostname(server_name).unwrap();
    match ssl.connect(Mute(Vec::new())) {
        Err(openssl::ssl::HandshakeError::WouldBlock(stream)) => stream.get_ref().0.clone(),
        _ => panic!("a mute peer ends no handshake"),
    }
}

/// A peer that hears everything and says nothing.
#[derive(Debug)]
struct Mute(Vec<u8>);

impl Read for Mute {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Mute {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends a ClientHello and reads to the end: the alert `unrecognized_name`, and no more.
fn greet(edge: SocketAddr, hello: &[u8]) {
    let mut tcp = TcpStream::connect(edge).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    tcp.write_all(hello).unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 112]);
}
