//! The command line as an operator uses it: the real binary against a running edge, and what
//! devices see of it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use openssl::x509::X509;
use serde_json::Value;

use crate::pki::Template;
use crate::verifiers::random_secret;
use crate::world::{BINARY, Failure, Process, World, fingerprint};

/// An edge in a process of its own, and a shell in its folder.
struct Shell {
    edge: Process,
    world: World,
}

impl Shell {
    fn start() -> Shell {
        let world = World::files(|world, config| {
            world.write_secret("keys.secret", &random_secret());
            config.tokens = "{ rotation: { secret_file: keys.secret } }".into();
            config.log = "{ format: json }".into();
        });
        Shell { edge: Process::run(&world), world }
    }

    fn run(&self, arguments: &str) -> Output {
        Command::new(BINARY)
            .args(arguments.split(' '))
            .current_dir(self.world.dir.path())
            .env("PORTCULLIS_ADMIN", format!("http://{}", self.edge.admin))
            .env("PORTCULLIS_TOKEN_FILE", "operator.token")
            .env("PORTCULLIS_TENANT", "acme")
            .output()
            .unwrap()
    }

    /// What a command prints that ends well.
    #[track_caller]
    fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The lines of JSON of a command that ends well.
    #[track_caller]
    fn json(&self, arguments: &str) -> Vec<Value> {
        let out = self.ok(&format!("{arguments} --json"));
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A command that fails, and says why.
    #[track_caller]
    fn fails(&self, arguments: &str, why: &str) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{arguments}: {said}");
    }
}

#[test]
fn trusted_certificates_are_managed_by_commands() {
    let shell = Shell::start();
    let (root, other) =
        (Template::ca("Newcomer root").self_signed(), Template::ca("Other root").self_signed());
    let leaf = Template::device("newcomer-1").signed_by(&root);
    shell.world.write("root.pem", root.pem());
    shell.world.write("both.pem", other.pem() + &shell.world.acme.root.pem());
    shell.world.write("leaf.pem", leaf.pem());
    let device = shell.edge.acme_client(&shell.world).identity(&[&leaf]);
    let served = || device.get("/inventory").map(|answer| answer.status);
    let unknown = Err(Failure::Alert(48));
    assert_eq!(served(), unknown);

    shell.ok("trust add root.pem --auto-registration");
    assert_eq!(served(), Ok(200));
    let print = fingerprint(&root);
    let [added] = shell.json("trust list").try_into().unwrap();
    let listed: Vec<&Value> = added["certificates"].as_array().unwrap().iter().collect();
    assert!(listed.iter().any(|anchor| anchor["fingerprint"] == print.as_str()), "{added}");
    assert!(shell.ok("trust list").contains("Newcomer root"));
    // A few digits name it. What is there already, is no CA or is no file, is said.
    assert!(shell.ok(&format!("trust show {}", &print[..8])).contains(&print));
    shell.fails("trust add root.pem", "is there already");
    shell.fails("trust add leaf.pem", "CA");
    shell.fails("trust add nothing.pem", "nothing.pem");
    shell.fails("trust add both.pem leaf.pem", "CA");
    assert!(!shell.ok("trust list").contains("Other root"));

    shell.ok(&format!("trust disable {}", &print[..8]));
    assert_eq!(served(), unknown);
    shell.ok(&format!("trust enable {}", &print[..8]));
    assert_eq!(served(), Ok(200));

    // Possession of the CA's key, as its owner proves it.
    shell.world.write("signature", "no code, no signature");
    shell.fails(
        &format!("trust prove {} --signature signature", &print[..8]),
        "by `portcullis trust code`",
    );
    let code = shell.json(&format!("trust code {}", &print[..8])).remove(0);
    let code = code["proofOfPossessionUnsignedVerificationCode"].as_str().unwrap().to_owned();
    shell.world.write("signature", root.key.sign(code.as_bytes()));
    shell.ok(&format!("trust prove {} --signature signature", &print[..8]));
    let shown = shell.json(&format!("trust show {}", &print[..8])).remove(0);
    assert_eq!(shown["proofOfPossessionValid"], true, "{shown}");

    shell.fails("trust revoke --serial 1 --date 2199-01-01", "--date lies in the future");
    shell.fails("trust revoke --serial x", "--serial is 1 to 20 octets");
    let certificate = X509::from_der(&leaf.der).unwrap();
    let serial = certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap();
    shell.ok(&format!("trust revoke --serial {serial}"));
    assert_eq!(served(), Err(Failure::Alert(44)));
    assert!(shell.ok("trust crl").starts_with("-----BEGIN X509 CRL-----"));
    let sibling = Template::device("newcomer-2").signed_by(&root);
    let sibling = device.clone().identity(&[&sibling]);
    assert_eq!(sibling.get("/inventory").unwrap().status, 200);
    shell.ok(&format!("trust remove {}", &print[..8]));
    assert_eq!(sibling.get("/inventory").unwrap_err(), Failure::Alert(48));
    shell.fails(&format!("trust remove {}", &print[..8]), &print[..8]);
}

#[test]
fn devices_are_managed_by_commands() {
    let shell = Shell::start();
    let device = shell.edge.acme_client(&shell.world);
    let served = || device.get("/inventory").map(|answer| answer.status);
    assert_eq!(served(), Ok(200));
    shell.ok("device block acme-device-1");
    assert_eq!(served(), Ok(403));
    assert!(shell.ok("device list --status blocked").contains("acme-device-1"));
    shell.ok("device unblock acme-device-1");
    assert_eq!(served(), Ok(200));
    shell.fails("device block nobody", "nobody");

    let leaf = Template::blank("box").self_signed();
    shell.world.write("box.pem", leaf.pem());
    let pinned = device.clone().identity(&[&leaf]);
    assert!(pinned.get("/inventory").is_err());
    shell.ok("device pin box-1 box.pem");
    assert_eq!(pinned.get("/inventory").unwrap().status, 200);
    shell.ok(&format!("device unpin box-1 {}", &fingerprint(&leaf)[..8]));
    assert!(pinned.get("/inventory").is_err());
    shell.ok("device delete box-1");

    let csv = "\u{feff}ID;AUTH_TYPE;NAME\r\n\
               a-1;CERTIFICATES;\"the; first\"\r\n\
               bad id;CERTIFICATES;\r\n\
               a-2;BASIC;\r\n\
               a-3;CERTIFICATES;\r\n";
    shell.world.write("devices.csv", csv);
    let output = shell.run("device import devices.csv --failures failed.csv");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let failed = std::fs::read_to_string(shell.world.dir.path().join("failed.csv")).unwrap();
    let lines: Vec<&str> = failed.lines().collect();
    assert_eq!(lines.len(), 3, "{failed}");
    assert!(lines[1].starts_with("\"3\",") && lines[2].starts_with("\"4\","), "{failed}");
    let ids: Vec<Value> =
        shell.json("device list --all").into_iter().map(|device| device["id"].clone()).collect();
    assert_eq!(ids, ["a-1", "a-3", "acme-device-1"]);
    let listed = shell.ok("device list --prefix a-");
    assert!(listed.contains("the; first") && !listed.contains("acme-device-1"), "{listed}");
    // Once more: they are there, which is no fault.
    shell.world.write("devices.csv", "ID,AUTH_TYPE\na-1,CERTIFICATES\n");
    shell.ok("device import devices.csv");
}

#[test]
fn options_and_keys_are_managed_by_commands_and_stand_in_the_audit_log() {
    const LIFESPAN: &str = "oauth.internal/device-token.lifespan.seconds";
    let shell = Shell::start();
    let lives = || {
        let device = shell.edge.acme_client(&shell.world);
        let claims = crate::jwt::Jwt::of(&device).claims;
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    shell.ok(&format!("option set {LIFESPAN} 7200"));
    assert_eq!(lives(), 7_200);
    assert!(shell.ok(&format!("option get {LIFESPAN}")).contains("7200"));
    shell.fails(&format!("option set {LIFESPAN} 1"), "at least 300");
    shell.ok(&format!("option unset {LIFESPAN}"));

    shell.ok("key rotate");
    let keys = shell.json("key list").remove(0)["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2);
    let kid_of = |state: &str| {
        let key = keys.iter().find(|key| key["state"] == state).unwrap();
        key["kid"].as_str().unwrap().to_owned()
    };
    let kid = kid_of("PUBLISHED");
    shell.ok(&format!("key delete {kid}"));
    shell.fails(&format!("key delete {}", kid_of("SIGNING")), "with --force");

    let audit = shell.ok("audit");
    let has = |what: &str| assert!(audit.contains(what), "{what}: {audit}");
    has("option.set");
    has("option.delete");
    // What concerns every tenant stands in nobody's own log.
    let output = Command::new(BINARY)
        .args(["audit", "--token-file", "operator.token", "--admin"])
        .arg(format!("http://{}", shell.edge.admin))
        .current_dir(shell.world.dir.path())
        .output()
        .unwrap();
    let audit = String::from_utf8(output.stdout).unwrap();
    assert!(audit.contains("signing_key.add") && audit.contains(&kid), "{audit}");
    let tenants = shell.ok("tenant list");
    assert!(tenants.contains("acme") && tenants.contains("globex"), "{tenants}");
    let address = shell.edge.admin.to_string();
    shell.ok(&format!("health --ready --admin {address}"));
    shell.ok(&format!("health --ready --admin http://{address}"));
    // By the environment, as any other command.
    shell.ok("health --ready");
}

/// Everything that the demo prints once its tour is over, until it falls silent.
fn demo() -> (Child, Vec<String>) {
    let mut demo = Command::new(BINARY).arg("demo").stdout(Stdio::piped()).spawn().unwrap();
    let (line, lines) = mpsc::channel();
    let out = BufReader::new(demo.stdout.take().unwrap());
    thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|one| line.send(one)));
    loop {
        let said = lines.recv_timeout(Duration::from_secs(60)).expect("the tour does not end");
        if said.starts_with("The edge stays up") {
            break;
        }
    }
    let more = || lines.recv_timeout(Duration::from_secs(2)).ok();
    (demo, std::iter::from_fn(more).collect())
}

#[test]
fn every_command_that_the_demo_suggests_works() {
    let (mut demo, said) = demo();
    let commands: Vec<&str> =
        said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    // One of them waits for what another sends, so it is not waited for before.
    let spawn = |command: &&str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell.spawn().unwrap()
    };
    let mut outputs: Vec<(&str, Output)> = Vec::new();
    let mut waiting = Vec::new();
    for command in &commands {
        let child = spawn(command);
        match command.contains("mosquitto_sub") {
            true => waiting.push((*command, child)),
            false => outputs.push((*command, child.wait_with_output().unwrap())),
        }
    }
    outputs.extend(waiting.into_iter().map(|(c, child)| (c, child.wait_with_output().unwrap())));
    let failed: Vec<(&str, Output)> =
        outputs.into_iter().filter(|(_, output)| !output.status.success()).collect();
    let id = libc::pid_t::try_from(demo.id()).unwrap();
    // SAFETY: takes numbers only; the child has not been waited for, so the id is its own.
    assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
    assert!(demo.wait().unwrap().success());
    assert!(commands.len() > 5 && commands.iter().any(|one| one.ends_with(" help")), "{said:?}");
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn an_edge_that_has_ended_and_a_token_that_is_wrong_are_told_apart() {
    let mut shell = Shell::start();
    shell.world.write_secret("operator.token", b"another-0123456789abcdef0123456789abcdef");
    shell.fails("device list", "token");
    shell.edge.signal(libc::SIGTERM);
    shell.edge.wait();
    shell.fails("device list", "is the edge running?");
}
