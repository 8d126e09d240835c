//! The edge as an operator runs it: the real binary, its signals, its log, its exit code.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::{Api, Client, OPERATOR_TOKEN, TenantPki, World, eventually};

pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// A running `portcullis run`. Killed when it is dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    pub https: SocketAddr,
    /// The first MQTT listener's address.
    pub mqtts: Option<SocketAddr>,
    pub admin: SocketAddr,
}

/// Runs the binary to its end.
pub fn portcullis(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

impl Process {
    /// Starts an edge on the world's file, whose log must be JSON of level info or finer, and
    /// waits until it says where it serves.
    pub fn run(world: &World) -> Process {
        let mut child = Command::new(BINARY)
            .args(["run", "--config"])
            .arg(world.file())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = BufReader::new(child.stderr.take().unwrap());
        let for_thread = log.clone();
        let reader = thread::spawn(move || read_lines(lines, &for_thread));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Process {
            child,
            log,
            reader: Some(reader),
            https: nowhere,
            mqtts: None,
            admin: nowhere,
        };
        eventually("the edge says where it serves", || {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("ended with {status}: {}", process.text());
            }
            process.text().contains("\"serving\"")
        });
        let mut events = process.events("portcullis::server");
        let serving = events.remove(events.iter().position(|e| e["message"] == "serving").unwrap());
        let https = serving["https"].as_str().unwrap();
        process.https = https.trim_matches(['[', ']']).parse().unwrap();
        let mqtts = serving["mqtts"].as_str().unwrap().trim_matches(['[', ']']);
        process.mqtts = mqtts.split(", ").next().and_then(|first| first.parse().ok());
        process.admin = serving["admin"].as_str().unwrap().parse().unwrap();
        process
    }

    pub fn id(&self) -> libc::pid_t {
        libc::pid_t::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = self.id();
        // SAFETY: takes numbers only; the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for the end of the process and of its log.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the process ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        ended.unwrap()
    }

    /// acme's device with its whole chain.
    pub fn acme_client(&self, world: &World) -> Client {
        self.client("acme.example.com", &world.acme, world)
    }

    pub fn globex_client(&self, world: &World) -> Client {
        self.client("globex.example.com", &world.globex, world)
    }

    /// The admin API, asked by the operator that every world has.
    pub fn operator(&self) -> Api {
        Api::new(self.admin, OPERATOR_TOKEN)
    }

    fn client(&self, server_name: &str, pki: &TenantPki, world: &World) -> Client {
        let client = Client::new(self.https, server_name, &world.server_root);
        client.identity(&[&pki.device, &pki.issuing])
    }

    /// Everything that was logged so far.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The events of one target so far.
    pub fn events(&self, target: &str) -> Vec<Value> {
        let events = self.lines().into_iter().map(|line| {
            serde_json::from_str::<Value>(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
        });
        events.filter(|event| event["target"] == target).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lossy: a test must see what is not UTF-8, not stop at it.
fn read_lines(mut from: impl BufRead, to: &Mutex<Vec<String>>) {
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        to.lock().unwrap().push(text.strip_suffix('\n').unwrap_or(&text).to_owned());
        line.clear();
    }
}
