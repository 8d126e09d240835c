//! The platform's documented calls, made by curl.

use std::process::{Command, Stdio};

use crate::pki::Minted;
use crate::world::{TOKEN_PATH, World};

use super::nginx::Nginx;

/// A call of curl as acme's device.
pub struct Curl {
    command: Command,
    base: String,
}

impl Curl {
    pub fn of(world: &World) -> Curl {
        Curl::showing(world, &[&world.acme.device, &world.acme.issuing])
    }

    /// Shows these certificates, the device's first.
    fn showing(world: &World, chain: &[&Minted]) -> Curl {
        let pem: String = chain.iter().map(|minted| minted.pem()).collect();
        world.write("domain-cert.pem", pem);
        world.write_key("domain-private-key.pem", &world.acme.device.key);
        world.write("server-root.pem", world.server_root.pem());
        let address = world.https();
        let mut command = Command::new("curl");
        command.current_dir(world.dir.path()).args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
        ]);
        command.args(["--cacert", "server-root.pem"]);
        command.args(["--cert", "domain-cert.pem", "--key", "domain-private-key.pem"]);
        command.args(["--resolve", &format!("acme.example.com:{}:127.0.0.1", address.port())]);
        Curl { command, base: format!("https://acme.example.com:{}", address.port()) }
    }

    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Curl {
        self.command.args(args);
        self
    }

    /// What curl prints.
    #[track_caller]
    pub fn run(mut self, path: &str) -> String {
        self.command.arg(format!("{}{path}", self.base)).stdin(Stdio::null());
        let output = self.command.output().expect("curl is installed");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The call as the platform's documentation has it; the chain as the header takes it.
fn documented_call(world: &World, shown: &[&Minted], header: &[&Minted]) -> (String, String) {
    let chain: Vec<String> =
        header.iter().map(|minted| minted.pem().trim_end().replace('\n', " ")).collect();
    let mut curl = Curl::showing(world, shown).args(["-H", "Accept: application/json"]);
    if !chain.is_empty() {
        curl = curl.args(["-H", &format!("X-Ssl-Cert-Chain:{}", chain.join(" "))]);
    }
    let written = "\n%{http_code} %{content_type}";
    let output = curl.args(["-X", "POST", "--write-out", written]).run(TOKEN_PATH);
    let (body, status) = output.rsplit_once('\n').unwrap();
    (body.to_owned(), status.to_owned())
}

#[test]
fn the_documented_call_gets_a_token() {
    let world = World::with(|_, config| config.acme("complete_chain_from_header: true"));
    let (leaf, issuing, root) = (&world.acme.device, &world.acme.issuing, &world.acme.root);
    for (shown, header) in [
        (vec![leaf, issuing], vec![leaf, issuing]),
        (vec![leaf, issuing, root], vec![leaf, issuing, root]),
        (vec![leaf, issuing], vec![]),
        (vec![leaf], vec![leaf, issuing]),
        (vec![leaf], vec![leaf, issuing, root]),
        (vec![leaf], vec![issuing]),
        (vec![leaf], vec![issuing, root]),
    ] {
        let (body, status) = documented_call(&world, &shown, &header);
        let vendor =
            "application/vnd.com.nsn.cumulocity.managedobject+json; charset=UTF-8; ver=0.9";
        assert_eq!(status, format!("200 {vendor}"), "{body}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["accessToken"].as_str().unwrap().split('.').count(), 3);
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn the_documented_call_fails_where_the_header_does_not_complete_the_chain() {
    let world = World::with(|_, config| config.acme("complete_chain_from_header: true"));
    let (leaf, other) = (&world.acme.device, &world.globex);
    let error = "application/vnd.com.nsn.cumulocity.error+json";
    for header in [vec![], vec![leaf], vec![&other.issuing, &other.root], vec![&world.acme.root]] {
        let (body, status) = documented_call(&world, &[leaf], &header);
        assert_eq!(status, format!("401 {error}"), "{body}");
        assert!(!body.contains("accessToken"));
    }
}

#[test]
fn the_header_completes_nothing_where_the_tenant_does_not_allow_it() {
    let world = World::start();
    let leaf = &world.acme.device;
    let refused = world.client("acme.example.com").identity(&[leaf]).get("/").unwrap_err();
    assert_eq!(refused, crate::world::Failure::Alert(48));
}

#[test]
fn a_chain_completed_by_the_header_reaches_nginx_validated() {
    let block = "location / { return 200 \"$http_x_ssl_cert_chain\"; }";
    let nginx = Nginx::start("", block, &[]);
    let world = World::with(|_, config| {
        config.acme("complete_chain_from_header: true");
        config.platform = format!("http: [\"{}\"]", nginx.address());
    });
    let (leaf, issuing, root) = (&world.acme.device, &world.acme.issuing, &world.acme.root);
    let one_line = |minted: &Minted| minted.pem().trim_end().replace('\n', " ");
    let ours = [leaf, issuing, root].map(one_line).join(" ");
    let decoy = &world.globex.issuing;
    for (shown, header) in [(vec![leaf, issuing], vec![]), (vec![leaf], vec![decoy, issuing])] {
        let header: Vec<String> = header.into_iter().map(one_line).collect();
        let mut curl = Curl::showing(&world, &shown);
        if !header.is_empty() {
            curl = curl.args(["-H", &format!("X-Ssl-Cert-Chain: {}", header.join(" "))]);
        }
        // The path that was proved, to the anchor, and nothing else that was sent.
        assert_eq!(curl.run("/inventory"), ours);
    }
    assert!(nginx.log().is_empty(), "{}", nginx.log());
}

#[test]
fn http2_and_http1_are_both_negotiated() {
    let world = World::start();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let written = "\n%{http_version} %{http_code}";
        let output = Curl::of(&world).args([option, "--write-out", written]).run("/inventory");
        assert_eq!(output, format!("GET /inventory HTTP/1.1\n{version} 200"));
    }
    let post = Curl::of(&world).args(["--http2", "--data-binary", "@server.pem"]);
    assert_eq!(post.run("/upload"), "POST /upload HTTP/1.1");
    let sent = std::fs::read(world.dir.path().join("server.pem")).unwrap();
    assert_eq!(world.upstream.requests().last().unwrap().body, sent);
}
