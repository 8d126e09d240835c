//! Whom the admin port obeys: every path of its description, asked by every kind of principal
//! over real sockets of a real process.

use std::net::Ipv4Addr;

use openssl::ssl::SslVersion;
use serde_json::Value;

use super::LIFESPAN;
use crate::pki::{Minted, SERVER_AUTH, Template};
use crate::world::{Api, Client, Config, OPERATOR_TOKEN, Process, World, anchors, fingerprint};

const JSON: &str = "{ format: json, level: debug }";

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rights {
    Nobody,
    Reads,
    Changes,
}

struct Principal {
    name: &'static str,
    rights: Rights,
    tenant: Option<&'static str>,
    api: Api,
}

/// A method and a path of the description, and whether it is of one tenant.
struct Operation {
    method: String,
    path: String,
    tenant: Option<&'static str>,
    for_all_tenants: bool,
}

const PRINCIPALS: [(&str, &str, Option<&str>); 4] = [
    ("watch", "viewer", None),
    ("acme-ops", "operator", Some("acme")),
    ("acme-watch", "viewer", Some("acme")),
    ("globex-ops", "operator", Some("globex")),
];

fn token(name: &str) -> String {
    format!("{name}-{}", "0123456789abcdef".repeat(2))
}

/// A process with a token, or a client certificate, for each principal.
fn start(tls: bool) -> (World, Process, Minted) {
    let ca = Template::ca("Operators").self_signed();
    let world = World::files(|world, config| configure(world, config, &ca, tls));
    let process = Process::run(&world);
    (world, process, ca)
}

fn configure(world: &World, config: &mut Config, ca: &Minted, tls: bool) {
    config.log = JSON.into();
    world.write("operators.pem", ca.pem());
    let mut credentials = Vec::new();
    for (name, role, tenant) in PRINCIPALS {
        world.write_secret(&format!("{name}.token"), token(name).as_bytes());
        let secret = if tls {
            format!("common_name: \"{name} laptop\"")
        } else {
            format!("token_file: {name}.token")
        };
        let tenant = tenant.map_or(String::new(), |tenant| format!(", tenant: {tenant}"));
        credentials.push(format!("{{ name: {name}, {secret}, role: {role}{tenant} }}"));
    }
    let tls = if tls {
        credentials.push("{ name: chief, common_name: chief, role: operator }".into());
        ", tls: { certificate: { chain: server.pem, key: server.key }, client_ca: operators.pem }"
    } else {
        ""
    };
    let credentials = credentials.join(", ");
    config.admin = format!(
        "{{ bind: \"127.0.0.1:0\", token_file: operator.token, hosts: [edge.example.com], \
         credentials: [{credentials}]{tls} }}"
    );
}

/// Every operation of the description, for each tenant where it has one. The bodies are such
/// that nobody changes anything by them.
fn operations(world: &World, api: &Api) -> Vec<Operation> {
    let description = api.get("/openapi.json").json();
    let mut operations = Vec::new();
    for (template, methods) in description["paths"].as_object().unwrap() {
        if ["/metrics", "/healthz", "/readyz"].contains(&template.as_str()) {
            continue;
        }
        let methods = methods.as_object().unwrap().keys();
        for method in methods.filter(|m| ["get", "put", "post", "delete"].contains(&m.as_str())) {
            for tenant in ["acme", "globex"] {
                let mut path = template.replace("{tenant}", tenant);
                let of_query = ["/tenant/trusted-certificates/settings/crl", "/edge/audit"];
                let named = *template != path || of_query.contains(&template.as_str());
                if of_query.contains(&template.as_str()) {
                    path = format!("{path}?tenant={tenant}");
                }
                if !named && tenant == "globex" {
                    continue;
                }
                for (parameter, value) in [
                    ("{fingerprint}", fingerprint(&world.acme.device).as_str()),
                    ("{sha256}", &fingerprint(&world.acme.device)),
                    ("{device}", "nobody"),
                    ("{category}", "oauth.internal"),
                    ("{key}", "device-token.lifespan.seconds"),
                    ("{kid}", "no-such-key"),
                ] {
                    path = path.replace(parameter, value);
                }
                assert!(!path.contains('{'), "{path}");
                operations.push(Operation {
                    method: method.to_uppercase(),
                    for_all_tenants: path.ends_with("/rotate")
                        || path.ends_with("/no-such-key")
                        || path.ends_with("/confirmed"),
                    path,
                    tenant: named.then_some(tenant),
                });
            }
        }
    }
    assert!(operations.len() > 45, "{}", operations.len());
    operations
}

/// Every operation by every principal. `from`: addresses to guess from.
fn walk(world: &World, principals: &[Principal]) {
    let all = operations(world, &principals[0].api);
    for (number, operation) in all.iter().enumerate() {
        let Operation { method, path, tenant, for_all_tenants } = operation;
        for principal in principals {
            // An address of its own for each: ten wrong tokens of one are answered 429.
            let from = Ipv4Addr::new(127, 0, 1, number as u8 + 1);
            let body = if method == "GET" { &b""[..] } else { b"[" };
            let kind = if method == "GET" { "" } else { "application/json" };
            let answer = principal.api.from(from).send(method, path, kind, body);
            let who = format!("{} asks {method} {path}: {answer:?}", principal.name);
            let foreign = matches!((principal.tenant, tenant), (Some(own), Some(t)) if own != *t);
            match (principal.rights, method.as_str()) {
                (Rights::Nobody, _) => assert_eq!(answer.status, 401, "{who}"),
                (Rights::Reads, "PUT" | "POST" | "DELETE") => {
                    assert_eq!(answer.status, 403, "{who}");
                }
                _ if foreign => {
                    assert_eq!(answer.status, 404, "{who}");
                    assert_eq!(answer.json()["message"], "There is no such tenant.", "{who}");
                }
                // What is only for all tenants tells a bound one no more than that, or that
                // there is no such thing in its own.
                _ if *for_all_tenants && principal.tenant.is_some() => {
                    assert!([403, 404].contains(&answer.status), "{who}");
                }
                _ => assert!(![401, 403].contains(&answer.status), "{who}"),
            }
            assert!(answer.status < 500, "{who}");
            for (name, _) in &answer.headers {
                let name = name.to_ascii_lowercase();
                let opens = name.starts_with("access-control") || name == "set-cookie";
                assert!(!opens, "{who}");
            }
        }
    }
}

fn changed_nothing(api: &Api) {
    assert_eq!(api.get("/edge/audit").json()["records"], Value::Array(Vec::new()));
}

#[test]
fn every_operation_obeys_the_rights_of_a_token_and_nobody_else() {
    let (world, process, _) = start(false);
    let operator = process.operator();
    let device_token = process.acme_client(&world).token().unwrap().access_token();
    let principal = |name, rights, tenant, api| Principal { name, rights, tenant, api };
    let mut principals = vec![
        principal("operator", Rights::Changes, None, operator.clone()),
        principal("nobody", Rights::Nobody, None, operator.anonymous()),
        principal("wrong", Rights::Nobody, None, operator.with_token(&token("wrong"))),
        principal("device", Rights::Nobody, None, operator.with_token(&device_token)),
        principal("prefix", Rights::Nobody, None, operator.with_token(&OPERATOR_TOKEN[..31])),
    ];
    for (name, role, tenant) in PRINCIPALS {
        let rights = if role == "viewer" { Rights::Reads } else { Rights::Changes };
        principals.push(principal(name, rights, tenant, operator.with_token(&token(name))));
    }
    walk(&world, &principals);
    changed_nothing(&operator);
    let text = process.text();
    for secret in [OPERATOR_TOKEN, &token("wrong"), &token("watch"), &device_token] {
        assert!(!text.contains(secret), "a token stands in the log");
    }
}

#[test]
fn every_operation_obeys_the_rights_of_a_client_certificate_and_nobody_else() {
    let (world, process, ca) = start(true);
    let client = |chain: &[&Minted]| {
        world.client_at(process.admin, "acme.example.com").host("127.0.0.1").identity(chain)
    };
    let named = |name: &str| Template::device(name).signed_by(&ca);
    let api = |leaf: &Minted| Api::over_tls(client(&[leaf]), process.admin);
    let principal = |name, rights, tenant, api| Principal { name, rights, tenant, api };
    let chief = api(&named("chief"));
    let unknown = api(&named("stranger"));
    let mut principals = vec![
        principal("chief", Rights::Changes, None, chief.clone()),
        principal("stranger", Rights::Nobody, None, unknown.clone()),
        // Even where the certificate would do, a wrong token is a guess.
        principal("chief, wrong token", Rights::Nobody, None, chief.with_token(&token("wrong"))),
        principal("stranger, token", Rights::Changes, None, unknown.with_token(OPERATOR_TOKEN)),
    ];
    for (name, role, tenant) in PRINCIPALS {
        let rights = if role == "viewer" { Rights::Reads } else { Rights::Changes };
        principals.push(principal(name, rights, tenant, api(&named(&format!("{name} laptop")))));
    }
    // All come from one address, whose wrong tokens are soon answered 429: a few operations do.
    let wrong = principals.remove(2);
    let all = operations(&world, &principals[0].api);
    for operation in all.iter().take(5) {
        let answer = wrong.api.send(&operation.method, &operation.path, "", b"");
        assert_eq!(answer.status, 401);
    }
    let strangers = principals.remove(1);
    assert_eq!(strangers.api.get("/edge/tenants").status, 401);
    walk(&world, &principals);
    changed_nothing(&chief);
}

#[test]
fn the_port_with_client_certificates_takes_only_those_of_its_ca_for_clients() {
    let (world, process, ca) = start(true);
    let client = |chain: &[&Minted]| {
        world.client_at(process.admin, "acme.example.com").host("127.0.0.1").identity(chain)
    };
    let good = Template::device("chief").signed_by(&ca);
    let other_ca = Template::ca("Operators").self_signed();
    let issuing = &world.acme.issuing;
    let refused: Vec<(&str, Client)> = vec![
        ("a device's", client(&[&world.acme.device, issuing])),
        ("a device called chief", client(&[&world.acme.another("chief"), issuing])),
        ("another CA of that name", client(&[&Template::device("chief").signed_by(&other_ca)])),
        ("self-signed", client(&[&Template::device("chief").self_signed()])),
        (
            "expired",
            client(&[&Template::device("chief")
                .validity(1_577_836_800, 1_600_000_000)
                .signed_by(&ca)]),
        ),
        (
            "a server's",
            client(&[&Template::device("chief").extended_key_usage(&[SERVER_AUTH]).signed_by(&ca)]),
        ),
        ("of any use", client(&[&Template::blank("chief").signed_by(&ca)])),
    ];
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for (what, client) in &refused {
            for path in ["/edge/tenants", "/healthz"] {
                assert!(client.clone().tls(version).get(path).is_err(), "{what}");
            }
        }
        assert_eq!(client(&[&good]).tls(version).get("/edge/tenants").unwrap().status, 200);
        // Probes have no certificate. Who has neither that nor a token, is nobody.
        let nobody = client(&[]).tls(version);
        assert_eq!(nobody.get("/healthz").unwrap().status, 200);
        assert_eq!(nobody.get("/edge/tenants").unwrap().status, 401);
    }
    // Nobody asks in cleartext.
    let plain = Api::new(process.admin, OPERATOR_TOKEN);
    let mut tcp = plain.connect();
    std::io::Write::write_all(&mut tcp, plain.head("GET", "/healthz", "", 0).as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut tcp, &mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"));
}

#[test]
fn no_path_of_the_admin_port_is_reached_through_a_listener_of_devices() {
    let world = World::start();
    let operator = world.operator();
    let mut connection = world.acme_client().connect().unwrap();
    let all = operations(&world, &operator);
    let probes = ["/metrics", "/healthz", "/readyz", "/openapi.json"];
    let gets = probes.iter().map(|path| ("GET".to_owned(), (*path).to_owned()));
    let every: Vec<(String, String)> =
        all.into_iter().map(|operation| (operation.method, operation.path)).chain(gets).collect();
    for (method, path) in &every {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 0\r\n\
             Authorization: Bearer {OPERATOR_TOKEN}\r\n\r\n"
        );
        let answer = connection.exchange(request.as_bytes()).unwrap();
        assert_eq!(answer.text(), format!("{method} {path} HTTP/1.1"));
    }
    assert_eq!(world.upstream.requests().len(), every.len());
    // Nor by naming the port as the authority.
    let admin = operator.address;
    for request in [
        format!("GET /edge/tenants HTTP/1.1\r\nHost: {admin}\r\n\r\n"),
        format!("GET http://{admin}/edge/tenants HTTP/1.1\r\nHost: {admin}\r\n\r\n"),
    ] {
        let answer = world.acme_client().connect().unwrap().exchange(request.as_bytes()).unwrap();
        assert_eq!(answer.status, 421);
    }
    assert_eq!(world.upstream.requests().len(), every.len());
    changed_nothing(&operator);
}

#[test]
fn a_foreign_host_or_origin_reaches_nothing_of_the_api() {
    let (_world, process, _) = start(false);
    let api = process.operator();
    let own = format!("http://{}", process.admin);
    for host in ["127.0.0.1", "[::1]:9090", "localhost", "edge.example.com", "EDGE.example.com:1"] {
        let answer = api.with_lines(&format!("Host: {host}\r\n")).get("/edge/tenants");
        assert_eq!(answer.status, 200, "{host}");
    }
    for host in
        ["evil.example.com", "localhost.evil.example", "edge.example.com.", "", "a@127.0.0.1"]
    {
        let evil = api.with_lines(&format!("Host: {host}\r\n"));
        for answer in [
            evil.get("/edge/tenants"),
            evil.ask("DELETE", LIFESPAN, Value::Null),
            evil.anonymous().get("/edge/tenants"),
        ] {
            assert!([400, 421].contains(&answer.status), "{host:?}: {answer:?}");
        }
    }
    let two = api.with_lines("Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n");
    assert_eq!(two.get("/edge/tenants").status, 400);
    let csv = b"ID,AUTH_TYPE\nd,CERTIFICATES\n";
    for origin in ["http://evil.example.com", "null", "", "https://127.0.0.1", "http://127.0.0.1"] {
        let page = api.with_lines(&format!("Origin: {origin}\r\n"));
        // What a page may send without asking first: a form, text, and a GET.
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let path = "/devicecontrol/bulkNewDeviceRequests?tenant=acme";
            assert_eq!(page.send("POST", path, kind, csv).status, 403, "{origin}");
        }
        assert_eq!(page.get("/edge/tenants").status, 403, "{origin}");
        assert_eq!(page.ask("OPTIONS", &anchors("acme"), Value::Null).status, 403, "{origin}");
    }
    assert_eq!(api.with_lines(&format!("Origin: {own}\r\n")).get("/edge/tenants").status, 200);
    changed_nothing(&api);
}

#[test]
fn wrong_tokens_are_shut_out_for_the_minute_and_no_right_one_and_no_monitor() {
    let world = World::start();
    let right = world.operator();
    let guess = right.with_token(&token("wrong"));
    for _ in 0..10 {
        assert_eq!(guess.get("/edge/tenants").status, 401);
    }
    for wrong in [&guess, &right.with_token(&token("other")), &right.with_token("")] {
        let refused = wrong.get("/edge/tenants");
        assert_eq!(refused.status, 429);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
    }
    // Nobody shuts the operator out by guessing from the operator's address.
    assert_eq!(right.get("/edge/tenants").status, 200);
    assert_eq!(right.get("/healthz").status, 200);
    assert_eq!(right.get("/metrics").status, 200);
    assert_eq!(guess.from(Ipv4Addr::new(127, 0, 0, 2)).get("/edge/tenants").status, 401);
    assert_eq!(guess.get("/edge/tenants").status, 429);
    world.clock.advance(60);
    assert_eq!(guess.get("/edge/tenants").status, 401);
}

#[test]
fn a_principal_has_six_thousand_requests_a_minute_and_the_others_theirs() {
    let world = World::with(|world, config| {
        configure(world, config, &Template::ca("Operators").self_signed(), false);
    });
    let busy = world.operator().with_token(&token("watch"));
    let one = busy.head("GET", "/edge/signing-keys", "", 0).replace("Connection: close\r\n", "");
    let mut answered = (0, 0);
    std::thread::scope(|scope| {
        let mut tcp = busy.connect();
        let mut to = tcp.try_clone().unwrap();
        scope.spawn(move || {
            for _ in 0..61 {
                std::io::Write::write_all(&mut to, one.repeat(100).as_bytes()).unwrap();
            }
        });
        let (mut chunk, mut tail) = ([0; 64 * 1024], Vec::new());
        while answered.0 + answered.1 < 6_100 {
            let n = std::io::Read::read(&mut tcp, &mut chunk).unwrap();
            assert!(n > 0, "closed after {answered:?}");
            tail.extend_from_slice(&chunk[..n]);
            let text = String::from_utf8_lossy(&tail).into_owned();
            let end = text.rfind("HTTP/1.1 ").unwrap_or(0);
            answered.0 += text[..end].matches("HTTP/1.1 200").count();
            answered.1 += text[..end].matches("HTTP/1.1 429").count();
            tail.drain(..end);
            if answered.0 + answered.1 == 6_099 && text.ends_with('}') {
                answered.1 += 1;
            }
        }
    });
    assert_eq!(answered, (6_000, 100));
    assert_eq!(busy.get("/edge/tenants").status, 429);
    assert_eq!(world.operator().get("/edge/tenants").status, 200);
    world.clock.advance(60);
    assert_eq!(busy.get("/edge/tenants").status, 200);
}
