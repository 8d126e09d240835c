//! `kill -9` at every point: what was answered is there, what was not is there whole or not
//! at all, and the audit trail and the version say the same.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use boring::sha::sha256;

use super::*;

/// Changes of one life, after which it closes its registry and ends.
const LIFE: usize = 48;
const URL: &str = "PORTCULLIS_CRASH_URL";
const ROUND: &str = "PORTCULLIS_CRASH_ROUND";

/// What the engine writes by. `write` is also how a change is answered.
const OF_SQLITE: [&str; 3] = ["pwrite64", "fsync", "write"];
const OF_POSTGRES: [&str; 2] = ["sendto", "write"];

#[tokio::test]
async fn sqlite_killed_at_any_write_has_all_that_was_answered_and_nothing_by_halves() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 1000 } else { 200 };
    rehearse(&Home::sqlite(), &OF_SQLITE, rounds).await;
}

#[tokio::test]
async fn a_node_killed_within_a_transaction_leaves_postgresql_whole() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 200 } else { 20 };
    rehearse(&Home::postgres(), &OF_POSTGRES, rounds).await;
}

/// One life of a node, in a process of its own: changes, each told when it was answered.
#[tokio::test]
#[ignore = "the tests above run it, and kill it"]
async fn the_life_that_is_killed() {
    let round: usize = std::env::var(ROUND).unwrap().parse().unwrap();
    // No polling: the same life makes the same calls each time.
    let settings = RegistrySettings {
        poll: Duration::from_secs(3600),
        ..RegistrySettings::new(std::env::var(URL).unwrap())
    };
    let registry = open_with(settings).await.unwrap();
    for number in 0..LIFE {
        let step = Step { round, number };
        match step.change() {
            None => assert!(register(&registry, &step.name("single")).await.unwrap().created),
            Some(change) => {
                let outcome = apply(&registry, change).await;
                assert!(matches!(outcome, Outcome::Done | Outcome::Devices(_)), "{outcome:?}");
            }
        }
        // A line of its own: the test harness has begun one.
        writeln!(std::io::stdout(), "\ndone {number}").unwrap();
    }
    registry.close().await;
}

/// Lives of which each is killed at another of its system calls, with what follows checked
/// after each.
async fn rehearse(home: &Home, calls: &[&'static str], rounds: usize) {
    home.open().await.close().await;
    let (mut version, mut audited) = (0, 0);
    let answered = live(home, 0, &[]);
    assert_eq!(answered, LIFE, "a life that is left alone");
    check(home, 0, answered, &mut version, &mut audited).await;
    let counts = count_calls(home, 1, calls);
    check(home, 1, LIFE, &mut version, &mut audited).await;

    let mut killed = 0;
    for round in 0..rounds {
        let call = calls[round % calls.len()];
        // Spread over the whole life, its start and its end included.
        let turns = rounds.div_ceil(calls.len());
        let at = 1 + (round / calls.len()) * counts[call] / turns;
        let inject = format!("inject={call}:signal=KILL:when={at}");
        let round = round + 2;
        let answered = live(home, round, &["-e", &inject]);
        killed += usize::from(answered < LIFE);
        check(home, round, answered, &mut version, &mut audited).await;
    }
    // The last calls of a life come after its last answer.
    assert!(killed * 3 > rounds * 2, "killed in time in {killed} of {rounds} rounds");
}

/// Gives how many changes were answered.
fn live(home: &Home, round: usize, options: &[&str]) -> usize {
    let mut child = Command::new("strace")
        // Not --seccomp-bpf: with it strace injects no signal.
        .args(["-f", "-qq", "-o", "/dev/null"])
        .args(["-e", "trace=pwrite64,fsync,write,sendto"])
        .args(options)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("registry::tests::crash::the_life_that_is_killed")
        .env(URL, home.settings().url)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("`apt-get install -y --no-install-recommends strace`");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let done: Vec<usize> =
        lines.filter_map(|line| line.unwrap().strip_prefix("done ")?.parse().ok()).collect();
    child.wait().unwrap();
    assert!(done.iter().copied().eq(0..done.len()));
    done.len()
}

/// How often one thread of a whole life makes each call; strace counts by thread.
fn count_calls(home: &Home, round: usize, calls: &[&'static str]) -> BTreeMap<&'static str, usize> {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    assert_eq!(live(home, round, &["-o", log.to_str().unwrap()]), LIFE);
    let log = std::fs::read_to_string(log).unwrap();
    let of_threads = |call: &str| {
        let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let (Some(thread), Some(what)) = (words.next(), words.next()) else { continue };
            if what.starts_with(&format!("{call}(")) {
                *threads.entry(thread).or_default() += 1;
            }
        }
        threads.into_values().max().unwrap_or_default()
    };
    let counts: BTreeMap<_, _> = calls.iter().map(|call| (*call, of_threads(call))).collect();
    assert!(counts.values().all(|count| *count > 0), "{counts:?}");
    counts
}

/// Of the changes of one life: the first `answered` were made; the next one was, whole, or
/// was not; the others were not.
async fn check(home: &Home, round: usize, answered: usize, version: &mut i64, audited: &mut i64) {
    // Waits for the lock of what the server may yet commit for the dead.
    home.sql("UPDATE registry_version SET version = version").await;
    let registry = home.open().await;
    for number in 0..LIFE {
        let step = Step { round, number };
        let made = step.was_made(&registry);
        match number {
            _ if number < answered => assert!(made, "{step:?} was answered and is lost"),
            _ if number > answered => assert!(!made, "{step:?} was never begun"),
            _ => {}
        }
        if made {
            *version += 1;
            *audited += i64::from(step.change().is_some());
        }
    }
    registry.close().await;
    let mut connection = home.connect().await;
    let rows = connection.rows("SELECT version FROM registry_version", &[]).await.unwrap();
    assert_eq!(rows[0].get::<i64>(0).unwrap(), *version, "round {round}");
    let rows = connection.rows("SELECT COUNT(*) FROM audit", &[]).await.unwrap();
    assert_eq!(rows[0].get::<i64>(0).unwrap(), *audited, "round {round}");
    if let Home::Sqlite { .. } = home {
        let rows = connection.rows("PRAGMA integrity_check", &[]).await.unwrap();
        assert_eq!(rows[0].get::<String>(0).unwrap(), "ok", "round {round}");
        let rows = connection.rows("PRAGMA foreign_key_check", &[]).await.unwrap();
        assert!(rows.is_empty(), "round {round}");
    }
    connection.close().await.unwrap();
}

/// One change of a life. Six in a row belong together.
#[derive(Debug)]
struct Step {
    round: usize,
    number: usize,
}

impl Step {
    fn name(&self, what: &str) -> String {
        format!("r{}-{}-{what}", self.round, self.number / 6)
    }

    fn leaf(&self) -> [u8; 32] {
        sha256(self.name("leaf").as_bytes())
    }

    fn bulk(&self) -> Vec<String> {
        (0..20).map(|index| self.name(&format!("bulk-{index}"))).collect()
    }

    fn anchors(&self) -> Vec<AnchorRecord> {
        let digest = |index| sha256(self.name(&format!("anchor-{index}")).as_bytes());
        (0..3).map(|index| AnchorRecord { sha256: digest(index), ..anchor(index) }).collect()
    }

    /// `None`: a registration by the data path.
    fn change(&self) -> Option<Change> {
        Some(match self.number % 6 {
            0 => return None,
            1 => bulk(&self.bulk().iter().map(String::as_str).collect::<Vec<_>>()),
            2 => pin(&self.name("pinned"), self.leaf()),
            3 => Change::AddAnchors { tenant: acme(), anchors: self.anchors() },
            4 => delete(&self.name("pinned")),
            _ => set_status(&self.name("single"), DeviceStatus::Blocked),
        })
    }

    /// Whether the store has it; fails where it has a part.
    fn was_made(&self, registry: &Registry) -> bool {
        let whole = |parts: &[bool]| {
            assert!(parts.iter().all(|part| *part == parts[0]), "{self:?}: {parts:?}");
            parts[0]
        };
        let there = |id: &str| registry.status(&acme(), &device(id)).is_some();
        match self.number % 6 {
            0 => there(&self.name("single")),
            1 => whole(&self.bulk().iter().map(|id| there(id)).collect::<Vec<_>>()),
            3 => {
                let state = registry.tenant(&acme());
                let has = |anchor: &AnchorRecord| {
                    state.anchors.iter().any(|held| held.sha256 == anchor.sha256)
                };
                whole(&self.anchors().iter().map(has).collect::<Vec<_>>())
            }
            5 => {
                registry.status(&acme(), &device(&self.name("single")))
                    == Some(DeviceStatus::Blocked)
            }
            // The deletion undoes the pin: which of the two were made follows from what is
            // there and from the anchors in between.
            pin_or_delete => {
                let pinned = registry.pinned(&acme(), &self.leaf());
                let there = whole(&[there(&self.name("pinned")), pinned.is_some()]);
                let between = Step { round: self.round, number: self.number / 6 * 6 + 3 };
                match pin_or_delete {
                    2 => there || between.was_made(registry),
                    _ => !there && between.was_made(registry),
                }
            }
        }
    }
}
