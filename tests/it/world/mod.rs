//! A whole edge for one test: real sockets on free ports, certificates of its own, a clock
//! that stands still, and an upstream that does as it is told.
//!
//! Two tenants are there from the start, `acme` and `globex`, each with a root, an issuing CA
//! and a device `<tenant>-device-1` whose anchor registers devices by itself.

mod api;
mod client;
pub mod mqtt;
mod process;
mod upstream;
pub mod websocket;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::config::Faults;
use portcullis::server::{Prepared, Server, StartError};
use serde_json::Value;
use tempfile::TempDir;

pub use self::api::{Api, OPERATOR_TOKEN, anchors, fingerprint};
pub use self::client::{Client, Connection, Failure, Response, plain_get};
pub use self::process::{BINARY, Process, portcullis};
pub use self::upstream::{Recorded, Reply, Upstream};

use crate::pki::{Key, Minted, Template};

/// 2027-01-15, between the validity of everything that `pki` mints.
pub const NOW: i64 = 1_800_000_000;
pub const TOKEN_PATH: &str = "/devicecontrol/deviceAccessToken";

pub struct World {
    pub dir: TempDir,
    pub clock: Clock,
    pub upstream: Upstream,
    pub server_root: Minted,
    pub acme: TenantPki,
    pub globex: TenantPki,
    server: Option<Server>,
}

/// What stands behind a tenant's devices.
pub struct TenantPki {
    pub root: Minted,
    pub issuing: Minted,
    pub device: Minted,
}

/// The configuration's parts that tests change; each is YAML.
pub struct Config {
    /// The mapping under `admin`.
    pub admin: String,
    /// The mapping under `registry`.
    pub registry: String,
    /// Keys of the whole file, a line each.
    pub edge: String,
    /// The mapping under `tokens`.
    pub tokens: String,
    /// The mapping under `log`.
    pub log: String,
    /// Keys of the first HTTPS listener, a line each.
    pub listener: String,
    /// Further HTTPS listeners, `- {…}` a line each.
    pub listeners: String,
    /// MQTT listeners, `- {…}` a line each.
    pub mqtts: String,
    /// Keys under `limits`, a line each.
    pub limits: String,
    /// Keys of the upstream `platform`, a line each.
    pub platform: String,
    /// Keys of each tenant, a line each.
    pub acme: String,
    pub globex: String,
    /// Further tenants, `- {…}` a line each.
    pub tenants: String,
}

impl Default for Config {
    fn default() -> Config {
        let trusts = |tenant: &str| {
            format!(
                "trusted_certificates: [{{ file: {tenant}-root.pem, auto_registration: true }}]"
            )
        };
        Config {
            admin: "{ bind: \"127.0.0.1:0\", token_file: operator.token }".into(),
            registry: "{ url: \"sqlite:edge.db\" }".into(),
            edge: String::new(),
            tokens: "{ signing_keys: [{ kid: k1, file: k1.key }] }".into(),
            log: "{ format: text, level: info }".into(),
            listener: String::new(),
            listeners: String::new(),
            mqtts: String::new(),
            limits: String::new(),
            platform: "health: { interval: 100ms, timeout: 1s }".into(),
            acme: trusts("acme"),
            globex: trusts("globex"),
            tenants: String::new(),
        }
    }
}

impl Config {
    /// Adds a key to the tenant acme.
    pub fn acme(&mut self, key: &str) {
        self.acme.push('\n');
        self.acme.push_str(key);
    }

    /// Serves MQTT in front of a broker. `acme`: keys of that tenant's `mqtt`, after a comma.
    pub fn mqtt(&mut self, broker: SocketAddr, acme: &str) {
        self.mqtts.push_str("- { bind: \"127.0.0.1:0\" }\n");
        self.platform.push_str(&format!("\nmqtt: [\"{broker}\"]"));
        let apart = "upstream_client_id: \"{tenant}/{client_id}\"";
        self.acme(&format!("mqtt: {{ {apart}{acme} }}"));
        self.globex.push_str(&format!("\nmqtt: {{ {apart} }}"));
    }

    fn yaml(&self, upstream: SocketAddr) -> String {
        let Config {
            admin,
            registry,
            tokens,
            edge,
            log,
            listener,
            listeners,
            mqtts,
            limits,
            platform,
            acme,
            globex,
            tenants,
        } = self;
        let indented = |text: &str, by: usize| {
            let pad = " ".repeat(by);
            text.lines().map(|line| format!("{pad}{line}\n")).collect::<String>()
        };
        let limits = if limits.is_empty() { "handshakes: 512" } else { limits };
        let http = if platform.contains("http:") {
            String::new()
        } else {
            format!("    http: [\"{upstream}\"]\n")
        };
        let mqtts = match mqtts.is_empty() {
            true => String::new(),
            false => format!("  mqtts:\n{}", indented(mqtts, 4)),
        };
        format!(
            "admin: {admin}\nworkers: 2\nregistry: {registry}\n\
             log: {log}\ndrain_timeout: 2s\n\
             tokens: {tokens}\n{edge}\n\
             listeners:\n  https:\n    - bind: \"127.0.0.1:0\"\n{}{}{mqtts}limits:\n{}\
             upstreams:\n  platform:\n{http}{}tenants:\n\
             \x20 - id: acme\n    server_names: [acme.example.com, \"*.acme.example.com\"]\n\
             \x20   certificate: {{ chain: server.pem, key: server.key }}\n    upstream: platform\n{}\
             \x20 - id: globex\n    server_names: [globex.example.com]\n\
             \x20   certificate: {{ chain: server.pem, key: server.key }}\n    upstream: platform\n{}{}",
            indented(listener, 6),
            indented(listeners, 4),
            indented(limits, 2),
            indented(platform, 4),
            indented(acme, 4),
            indented(globex, 4),
            indented(tenants, 2),
        )
    }
}

impl TenantPki {
    fn mint(tenant: &str) -> TenantPki {
        let root = Template::ca(&format!("{tenant} root")).self_signed();
        let issuing = Template::ca(&format!("{tenant} issuing")).signed_by(&root);
        let device = Template::device(&format!("{tenant}-device-1")).signed_by(&issuing);
        TenantPki { root, issuing, device }
    }

    /// Another device of the same issuing CA.
    pub fn another(&self, name: &str) -> Minted {
        Template::device(name).signed_by(&self.issuing)
    }
}

impl World {
    pub fn start() -> World {
        World::with(|_, _| {})
    }

    /// A world whose configuration and files are changed before it starts.
    pub fn with(edit: impl FnOnce(&World, &mut Config)) -> World {
        World::try_with(edit).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_with(edit: impl FnOnce(&World, &mut Config)) -> Result<World, StartError> {
        let mut world = World::files(edit);
        world.server = Some(Prepared::new(&world.file())?.start(world.clock.clone())?);
        Ok(world)
    }

    /// A world whose files are written and whose edge has not started.
    pub fn files(edit: impl FnOnce(&World, &mut Config)) -> World {
        let server_root = Template::ca("Server root").self_signed();
        let world = World {
            dir: TempDir::new().unwrap(),
            clock: Clock::manual(NOW),
            upstream: Upstream::start(),
            server_root,
            acme: TenantPki::mint("acme"),
            globex: TenantPki::mint("globex"),
            server: None,
        };
        let names =
            ["acme.example.com", "*.acme.example.com", "globex.example.com", "*.example.com"];
        let server = Template::server(&names).signed_by(&world.server_root);
        world.write("server.pem", server.pem());
        world.write_key("server.key", &server.key);
        world.write_key("k1.key", &Key::p256());
        world.write_secret("operator.token", OPERATOR_TOKEN.as_bytes());
        world.write("acme-root.pem", world.acme.root.pem());
        world.write("globex-root.pem", world.globex.root.pem());
        let mut config = Config::default();
        edit(&world, &mut config);
        world.configure(&config);
        world
    }

    /// Writes the configuration; [`World::reload`] puts it in force.
    pub fn configure(&self, config: &Config) {
        self.write("portcullis.yaml", config.yaml(self.upstream.address()));
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("portcullis.yaml")
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), contents).unwrap();
    }

    pub fn write_key(&self, name: &str, key: &Key) {
        self.write_secret(name, &key.pem());
    }

    /// A file that only its owner may read.
    pub fn write_secret(&self, name: &str, contents: &[u8]) {
        self.write(name, contents);
        let owner_only = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.dir.path().join(name), owner_only).unwrap();
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the world has started")
    }

    pub fn reload(&self) -> Result<(), Faults> {
        self.server().reload()
    }

    /// Stops the edge and starts it anew on the same folder, as a restart of the process.
    pub fn restart(&mut self) {
        drop(self.server.take());
        let prepared = Prepared::new(&self.file()).unwrap_or_else(|error| panic!("{error}"));
        let server = prepared.start(self.clock.clone());
        self.server = Some(server.unwrap_or_else(|error| panic!("{error}")));
    }

    /// Ends the edge as SIGTERM does.
    pub fn drain(&mut self) {
        self.server.take().expect("the world has started").drain();
    }

    /// The first listener's address.
    pub fn https(&self) -> SocketAddr {
        self.server().https_addresses()[0]
    }

    /// The first MQTT listener's address.
    pub fn mqtts(&self) -> SocketAddr {
        self.server().mqtts_addresses()[0]
    }

    /// acme's device at the MQTT listener.
    pub fn acme_mqtt(&self) -> Client {
        self.acme_client().at(self.mqtts())
    }

    /// acme's device at the HTTPS listener, with its whole chain.
    pub fn acme_client(&self) -> Client {
        let pki = &self.acme;
        self.client("acme.example.com").identity(&[&pki.device, &pki.issuing])
    }

    pub fn globex_client(&self) -> Client {
        let pki = &self.globex;
        self.client("globex.example.com").identity(&[&pki.device, &pki.issuing])
    }

    /// A client without a certificate.
    pub fn client(&self, server_name: &str) -> Client {
        self.client_at(self.https(), server_name)
    }

    /// A client of another listener, or of an edge in another process.
    pub fn client_at(&self, address: SocketAddr, server_name: &str) -> Client {
        Client::new(address, server_name, &self.server_root)
    }

    /// The admin API, asked by the operator that every world has.
    pub fn operator(&self) -> Api {
        Api::new(self.server().admin_address(), OPERATOR_TOKEN)
    }

    /// One request of the operator; `Value::Null` is no body.
    pub fn api(&self, method: &str, path: &str, json: Value) -> Response {
        self.operator().ask(method, path, json)
    }

    /// GET on the admin port.
    pub fn admin(&self, path: &str) -> Response {
        client::plain_get(self.server().admin_address(), path)
    }

    /// The value of a metric's series, by everything that stands before the value; 0 where
    /// it does not exist.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub fn refusals(&self, reason: &str) -> f64 {
        self.metric(&format!("portcullis_refusals_total{{protocol=\"https\",reason=\"{reason}\"}}"))
    }

    /// So many refusals; a request's is counted when it has ended, after its answer was sent.
    #[track_caller]
    pub fn refused(&self, reason: &str, count: f64) {
        eventually("the refusals are counted", || self.refusals(reason) >= count);
        assert_eq!(self.refusals(reason), count, "{reason}");
    }
}

/// Sets a flag when it is dropped, so that threads that run until then end where the test
/// fails, too.
pub struct AtEnd<'f>(pub &'f AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Waits until something is so; fails the test after ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "not so in ten seconds: {what}");
        #[expect(clippy::disallowed_methods, reason = "the one place of the tests that polls")]
        std::thread::sleep(Duration::from_millis(5));
    }
}
