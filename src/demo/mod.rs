//! The demo: an edge on throw-away certificates, a platform behind it, and a device's tour.
//!
//! The tour runs the very commands that it prints (curl, mosquitto's clients), so what is shown is
//! what happens.

mod broker;
mod pki;
mod upstream;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::clock::Clock;
use crate::log;
use crate::server::Prepared;
use crate::signals::Signals;

use self::broker::Broker;
use self::pki::{Identity, Role};

const CONFIG: &str = include_str!("portcullis.yaml");
const TENANTS: [&str; 2] = ["acme", "globex"];

/// Runs the demo; `once` ends it after the tour.
pub fn run(once: bool) -> anyhow::Result<()> {
    for (tool, package) in [("curl", "curl"), ("mosquitto_rr", "mosquitto-clients")] {
        if Command::new(tool).arg("--help").output().is_err() {
            bail!(
                "the tour needs {tool}, which is not installed (Debian: apt-get install {package})"
            );
        }
    }
    let mut signals = Signals::catch()?;
    let folder = Folder::new()?;
    mint(&folder.0)?;
    let platform = upstream::start()?;
    let broker = Broker::start(&folder.0)?;
    let config = folder.0.join("portcullis.yaml");
    let text = CONFIG.replace("{platform}", &platform.to_string());
    fs::write(&config, text.replace("{broker}", &broker.address().to_string()))?;

    let prepared = Prepared::new(&config)?;
    log::start(prepared.compiled().settings.log)?;
    let server = prepared.start(Clock::system())?;
    let edge = *server.https_addresses().first().context("the demo has no listener")?;
    let mqtts = *server.mqtts_addresses().first().context("the demo has no MQTT listener")?;
    say(&format!(
        "Portcullis serves https://acme.edge.localhost and https://globex.edge.localhost on \
         {edge}, and MQTT on {mqtts}.\nA platform stands behind it on {platform}, and mosquitto on \
         {}. Certificates and configuration: {}\n",
        broker.address(),
        folder.0.display()
    ));
    let tour = Tour { folder: &folder.0, edge, mqtts, admin: server.admin_address() };
    tour.take()?;
    if once {
        server.drain();
        return Ok(());
    }
    tour.print_commands();
    signals.obey(&server);
    server.drain();
    Ok(())
}

/// A folder of this run's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One server certificate for both tenants; a root, an intermediate and devices for each.
fn mint(folder: &Path) -> anyhow::Result<()> {
    let file = |name: &str| folder.join(name);
    let server_root = pki::issue("Demo server root", Role::Authority, None)?;
    let names = ["*.edge.localhost", "localhost"];
    let server = pki::issue("Demo edge", Role::Server { names: &names }, Some(&server_root))?;
    pki::write_chain(&file("server-root.pem"), &[&server_root])?;
    pki::write_chain(&file("server.pem"), &[&server])?;
    pki::write_key(&file("server.key"), &server.key)?;
    pki::write_key(&file("token.key"), &pki::signing_key()?)?;
    for tenant in TENANTS {
        let root = pki::issue(&format!("{tenant} root"), Role::Authority, None)?;
        let issuing = pki::issue(&format!("{tenant} issuing"), Role::Authority, Some(&root))?;
        pki::write_chain(&file(&format!("{tenant}-root.pem")), &[&root])?;
        let device: Identity =
            pki::issue(&format!("{tenant}-device-1"), Role::Device, Some(&issuing))?;
        pki::write_chain(&file(&format!("{tenant}-device-1.pem")), &[&device, &issuing])?;
        pki::write_chain(&file(&format!("{tenant}-device-1-leaf.pem")), &[&device])?;
        pki::write_key(&file(&format!("{tenant}-device-1.key")), &device.key)?;
        let chain = [&device, &issuing, &root];
        let pems = chain.map(|identity| identity.certificate.to_pem());
        let mut line = String::new();
        for pem in pems {
            line.push_str(&String::from_utf8(pem?)?.replace('\n', " "));
        }
        let header = format!("X-Ssl-Cert-Chain: {}\n", line.trim_end());
        fs::write(file(&format!("{tenant}-chain.header")), header)?;
    }
    // A CA that nobody trusts yet, with a device.
    let root = pki::issue("new root", Role::Authority, None)?;
    let device = pki::issue("new-device-1", Role::Device, Some(&root))?;
    pki::write_chain(&file("new-root.pem"), &[&root])?;
    pki::write_chain(&file("new-device-1.pem"), &[&device])?;
    pki::write_key(&file("new-device-1.key"), &device.key)?;
    pki::write_secret(&file("admin.token"), pki::random_hex()?.as_bytes())?;
    Ok(())
}

/// A device's way through the edge, as commands.
struct Tour<'t> {
    folder: &'t Path,
    edge: SocketAddr,
    mqtts: SocketAddr,
    admin: SocketAddr,
}

const TOKEN: &str =
    "-X POST https://{tenant}.edge.localhost:{port}/devicecontrol/deviceAccessToken";

impl Tour<'_> {
    fn take(&self) -> anyhow::Result<()> {
        let certificate = "--cert {tenant}-device-1.pem --key {tenant}-device-1.key";
        let first = self.step(
            "1. acme's device asks for a token: its chain leads to acme's root.",
            "acme",
            &format!("{certificate} {TOKEN}"),
            Expect::Contains("accessToken"),
        )?;
        let second = self.step(
            "2. It asks again: the current token, until half of its life has passed.",
            "acme",
            &format!("{certificate} {TOKEN}"),
            Expect::Contains("accessToken"),
        )?;
        if first != second {
            bail!("the second token differs from the first");
        }
        self.step(
            "3. globex' device gets its own, from its own trust store.",
            "globex",
            &format!("{certificate} {TOKEN}"),
            Expect::Contains("accessToken"),
        )?;
        self.step(
            "4. Any other request goes to the platform, with the validated chain; what the device \
             claims to be is dropped.",
            "acme",
            &format!(
                "{certificate} -H 'X-Ssl-Cert-Chain: forged' -H 'Authorization: Bearer mine' \
                 https://{{tenant}}.edge.localhost:{{port}}/inventory/managedObjects"
            ),
            Expect::Contains("-----BEGIN CERTIFICATE----- "),
        )?;
        self.step(
            "5. A device that holds only its leaf completes the chain by the header.",
            "globex",
            &format!(
                "--cert {{tenant}}-device-1-leaf.pem --key {{tenant}}-device-1.key \
                 -H @{{tenant}}-chain.header {TOKEN}"
            ),
            Expect::Contains("accessToken"),
        )?;
        self.step(
            "6. globex' device at acme's door: refused in the handshake, one log line says why.",
            "acme",
            &format!("--cert globex-device-1.pem --key globex-device-1.key {TOKEN}"),
            Expect::Failure,
        )?;
        self.step("7. No certificate: refused in the handshake.", "acme", TOKEN, Expect::Failure)?;
        self.step(
            "8. The platform fetches the keys that verify acme's tokens.",
            "acme",
            &format!(
                "{certificate} https://{{tenant}}.edge.localhost:{{port}}/.well-known/jwks.json"
            ),
            Expect::Contains("\"keys\""),
        )?;
        let token = self.run(
            "9. Over MQTT the device publishes to s/uat and gets its token on s/dat: the same one. \
             The broker sees neither.",
            &self.mqtt("mosquitto_rr", "acme-device-1", "-t s/uat -e s/dat -n"),
            Expect::Contains("71,"),
        )?;
        let jwt = token.trim().trim_start_matches("71,");
        if first != format!("{{\"accessToken\":\"{jwt}\"}}") {
            bail!("the token over MQTT differs from that over HTTPS");
        }
        self.run(
            "10. It takes no other device's client id.",
            &self.mqtt("mosquitto_pub", "acme-device-2", "-t t/x -m hello"),
            Expect::Failure,
        )?;
        self.operators_part()?;
        self.step(
            "14. What Prometheus sees of all this.",
            "acme",
            "http://{admin}/metrics",
            Expect::Contains("portcullis_tokens_total"),
        )?;
        say("The tour is complete.\n");
        Ok(())
    }

    /// What an operator changes while the edge runs.
    fn operators_part(&self) -> anyhow::Result<()> {
        let newcomer = format!("--cert new-device-1.pem --key new-device-1.key {TOKEN}");
        let device = "--cert acme-device-1.pem --key acme-device-1.key";
        self.operator(
            "11. An operator has acme trust another CA: its devices come in at once.",
            "trust add new-root.pem --auto-registration",
            "new root",
        )?;
        self.step("", "acme", &newcomer, Expect::Contains("accessToken"))?;
        self.operator(
            "12. Blocks a device: its next request is refused.",
            "device block acme-device-1",
            "BLOCKED",
        )?;
        self.step("", "acme", &format!("{device} {TOKEN}"), Expect::Contains("blocked"))?;
        self.operator("13. And looks at what was done.", "audit", "device.block")?;
        Ok(())
    }

    fn operator(&self, title: &str, arguments: &str, contains: &'static str) -> anyhow::Result<()> {
        self.run(title, &self.operators_command(arguments)?, Expect::Contains(contains)).map(drop)
    }

    fn operators_command(&self, arguments: &str) -> anyhow::Result<String> {
        let program = std::env::current_exe()?;
        Ok(format!(
            "cd {} && {} {arguments} --tenant acme --admin http://{} --token-file admin.token",
            self.folder.display(),
            program.display(),
            self.admin,
        ))
    }

    /// Prints a curl command, runs it, prints what it gives.
    fn step(
        &self,
        title: &str,
        tenant: &str,
        arguments: &str,
        expect: Expect,
    ) -> anyhow::Result<String> {
        self.run(title, &self.command(tenant, arguments), expect)
    }

    fn run(&self, title: &str, command: &str, expect: Expect) -> anyhow::Result<String> {
        if !title.is_empty() {
            say(title);
        }
        say(&format!("  $ {command}"));
        let output = Command::new("sh").arg("-c").arg(command).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let shown = if text.is_empty() {
            String::from_utf8_lossy(&output.stderr)
        } else {
            text.as_str().into()
        };
        for line in shown.lines().filter(|line| interesting(line)).take(12) {
            say(&format!("  {}", shorten(line)));
        }
        say("");
        match expect {
            Expect::Contains(what) if output.status.success() && text.contains(what) => Ok(text),
            Expect::Failure if !output.status.success() => Ok(text),
            _ => bail!("that is not what the tour expects; is another program in the way?"),
        }
    }

    fn command(&self, tenant: &str, arguments: &str) -> String {
        let arguments = arguments
            .replace("{tenant}", tenant)
            .replace("{port}", &self.edge.port().to_string())
            .replace("{admin}", &self.admin.to_string());
        format!(
            "cd {} && curl -sS --cacert server-root.pem --connect-to ::{}:{} {arguments}",
            self.folder.display(),
            self.edge.ip(),
            self.edge.port(),
        )
        .replace(
            &format!("--connect-to ::{}:{} http://", self.edge.ip(), self.edge.port()),
            "http://",
        )
    }

    /// A command of mosquitto's clients, as acme's device.
    fn mqtt(&self, command: &str, client_id: &str, arguments: &str) -> String {
        // Every machine knows `localhost`, which is a name of acme's here.
        format!(
            "cd {} && {command} --cafile server-root.pem -h localhost -p {} --cert \
             acme-device-1.pem --key acme-device-1.key -i {client_id} {arguments}",
            self.folder.display(),
            self.mqtts.port(),
        )
    }

    fn print_commands(&self) {
        say("The edge stays up until Ctrl-C. To try yourself, in another terminal:\n");
        let certificate = "--cert {tenant}-device-1.pem --key {tenant}-device-1.key";
        for arguments in [
            format!("{certificate} {TOKEN}"),
            format!("{certificate} -v https://{{tenant}}.edge.localhost:{{port}}/anything"),
            "http://{admin}/metrics".to_owned(),
        ] {
            say(&format!("  {}\n", self.command("acme", &arguments)));
        }
        for arguments in ["device unblock acme-device-1", "device list", "trust list"] {
            if let Ok(command) = self.operators_command(arguments) {
                say(&format!("  {command}\n"));
            }
        }
        for (command, client_id, arguments) in [
            ("mosquitto_rr", "acme-device-1", "-t s/uat -e s/dat -n"),
            ("mosquitto_sub", "d:acme-device-1:listens", "-t t/temperature -C 1 -v"),
            ("mosquitto_pub", "d:acme-device-1:talks", "-t t/temperature -m 21 -r"),
        ] {
            say(&format!("  {}\n", self.mqtt(command, client_id, arguments)));
        }
        if let Ok(program) = std::env::current_exe() {
            say(&format!("  {} help\n", program.display()));
        }
    }
}

enum Expect {
    Contains(&'static str),
    Failure,
}

/// Of the metrics, only what the tour has moved.
fn interesting(line: &str) -> bool {
    let metric = line.starts_with("portcullis_") || line.starts_with("# ");
    let told =
        ["portcullis_tokens_total{", "portcullis_handshakes_total{", "portcullis_refusals_total{"];
    !metric || (told.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0"))
}

fn shorten(line: &str) -> String {
    const WIDTH: usize = 160;
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let start: String = line.chars().take(WIDTH).collect();
    format!("{start}… ({} characters)", line.chars().count())
}

fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
