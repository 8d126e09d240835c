//! What befalls the file of an embedded registry while an edge runs on it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::world::{BINARY, Config, Process, World, eventually, plain_get};

use super::database::{self, Holder};

const JSON_LOG: &str = "{ format: json, level: info, requests: false }";
/// What a caller waits for the registry at most, and what a busy machine adds.
const DEADLINE: Duration = Duration::from_millis(2_000 + 1_500);

/// An edge on a file, whose first device is known and blocked by nobody.
struct Edge {
    process: Process,
    world: World,
}

impl Edge {
    fn on(file: &Path) -> Edge {
        let world = World::files(|_, config| {
            config.registry = format!("{{ url: \"sqlite:{}\", poll: 200ms }}", file.display());
            config.log = JSON_LOG.into();
        });
        let process = Process::run(&world);
        let edge = Edge { process, world };
        assert_eq!(edge.token("acme-device-1"), 200);
        edge
    }

    fn token(&self, name: &str) -> u16 {
        let leaf = self.world.acme.another(name);
        let client = self.process.acme_client(&self.world);
        client.identity(&[&leaf, &self.world.acme.issuing]).token().unwrap().status
    }

    fn block(&self, name: &str) -> (u16, String) {
        let path = format!("/tenant/tenants/acme/devices/{name}");
        let answer = self.process.operator().ask("PUT", &path, json!({ "status": "BLOCKED" }));
        (answer.status, answer.text())
    }

    /// What readiness says, which is 200 while known devices are served.
    fn ready(&self) -> String {
        let ready = plain_get(self.process.admin, "/readyz");
        assert_eq!(ready.status, 200, "{ready:?}");
        ready.text()
    }

    /// Known devices are served, nobody new is let in, no change is taken, and the log and the
    /// answers say why.
    fn serves_from_memory(&self, reason: &str) {
        for name in ["stranger-1", "stranger-2"] {
            let started = Instant::now();
            assert_eq!(self.token(name), 503);
            assert!(started.elapsed() < DEADLINE, "after {:?}", started.elapsed());
        }
        // One that changes nothing for anybody here if it comes to pass after all.
        let path = "/tenant/tenants/acme/options/oauth.internal/device-token.lifespan.seconds";
        let started = Instant::now();
        let answer = self.process.operator().ask("PUT", path, json!({ "value": "3600" }));
        assert!(started.elapsed() < DEADLINE, "after {:?}", started.elapsed());
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.text().contains("The registry cannot be used now"), "{answer:?}");
        assert_eq!(self.token("acme-device-1"), 200);
        let known = self.process.acme_client(&self.world);
        assert_eq!(known.get("/inventory").unwrap().status, 200);
        assert!(self.ready().contains("the device registry does not answer"));
        eventually("the log says why and what to do", || {
            let log = self.process.text();
            log.contains(reason) && log.contains("check its disk: space, permissions, load, health")
        });
    }

    /// By itself: nobody has to restart anything.
    fn recovers(&self) {
        eventually("it is well again", || self.ready() == "ready\n");
        assert_eq!(self.token("stranger-1"), 200, "{}", self.process.text());
        assert_eq!(self.token("acme-device-1"), 200);
        assert_eq!(self.block("stranger-1").0, 200);
        assert_eq!(self.token("stranger-1"), 403);
    }
}

fn file_in(folder: &Path) -> PathBuf {
    folder.join("registry.db")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

#[track_caller]
fn intact(file: &Path) {
    assert_eq!(database::sqlite(file, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn a_full_disk_costs_known_devices_nothing_and_heals_when_there_is_room() {
    for disk in Disk::all() {
        let file = file_in(disk.path());
        let edge = Edge::on(&file);
        disk.fill(&edge.process);
        edge.serves_from_memory(disk.reason());
        disk.make_room(&edge.process);
        edge.recovers();
        drop(edge);
        intact(&file);
    }
}

#[test]
fn a_lock_that_another_process_holds_costs_known_devices_nothing() {
    let folder = TempDir::new().unwrap();
    let file = file_in(folder.path());
    let edge = Edge::on(&file);
    let holder = Holder::take(&file);
    edge.serves_from_memory("locked");
    holder.release();
    edge.recovers();
    drop(edge);
    intact(&file);
}

#[test]
fn a_file_that_is_deleted_or_moved_away_takes_no_more_devices() {
    for suffix in ["", "-wal", "-shm"] {
        let folder = TempDir::new().unwrap();
        let file = file_in(folder.path());
        let edge = Edge::on(&file);
        // What is written to a file without a name is lost with the process.
        let aside = folder.path().join("aside");
        fs::rename(beside(&file, suffix), &aside).unwrap();
        edge.serves_from_memory("was deleted, moved or replaced");
        if suffix.is_empty() {
            // An empty one in its place is another one.
            fs::write(&file, b"").unwrap();
            edge.serves_from_memory("was deleted, moved or replaced");
        }
        fs::rename(&aside, beside(&file, suffix)).unwrap();
        edge.recovers();
        drop(edge);
        intact(&file);
    }
}

#[test]
fn after_a_deletion_a_restart_on_a_backup_has_what_the_backup_had() {
    let folder = TempDir::new().unwrap();
    let (file, backup) = (file_in(folder.path()), folder.path().join("backup.db"));
    let edge = Edge::on(&file);
    assert_eq!(edge.token("blocked-1"), 200);
    assert_eq!(edge.block("blocked-1").0, 200);
    database::sqlite(&file, &format!("VACUUM INTO '{}'", backup.display()));
    fs::remove_file(&file).unwrap();
    edge.serves_from_memory("was deleted, moved or replaced");
    assert_eq!(edge.token("blocked-1"), 403);

    let Edge { mut process, world } = edge;
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(&file, suffix));
    }
    fs::rename(&backup, &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let edge = Edge { process: Process::run(&world), world };
    assert_eq!(edge.token("acme-device-1"), 200);
    assert_eq!(edge.token("blocked-1"), 403);
    edge.recovers();
}

#[test]
fn a_file_that_may_not_be_written_ends_the_start_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let file = file_in(folder.path());
    let edge = Edge::on(&file);
    // The edge that runs has it open.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(edge.token("stranger-1"), 200);
    assert_eq!(edge.ready(), "ready\n");
    let Edge { mut process, world } = edge;
    process.signal(libc::SIGTERM);
    process.wait();

    let output = start_without_privileges(&world);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&file.display().to_string()), "{told}");
    assert!(told.contains("check that it can be written: its permissions, its disk"), "{told}");

    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let edge = Edge { process: Process::run(&world), world };
    assert_eq!(edge.token("acme-device-1"), 200);
    intact(&file);
}

#[test]
fn a_log_that_was_damaged_has_what_was_committed_before_the_damage() {
    let folder = TempDir::new().unwrap();
    let file = file_in(folder.path());
    let mut edge = Edge::on(&file);
    let log = beside(&file, "-wal");
    let names: Vec<String> = (0..20).map(|number| format!("device-{number}")).collect();
    let mut ends = Vec::new();
    for name in &names {
        assert_eq!(edge.token(name), 200);
        ends.push(fs::metadata(&log).unwrap().len());
    }
    assert!(ends.is_sorted_by(|a, b| a < b), "each commit is appended: {ends:?}");
    edge.process.signal(libc::SIGKILL);
    edge.process.wait();
    // Within the eleventh commit.
    OpenOptions::new()
        .write(true)
        .open(&log)
        .unwrap()
        .write_all_at(&[0xff; 64], ends[9] + 100)
        .unwrap();

    let config = Config {
        registry: format!("{{ url: \"sqlite:{}\" }}", file.display()),
        log: JSON_LOG.into(),
        acme: "trusted_certificates: [{ file: acme-root.pem }]".into(),
        ..Config::default()
    };
    edge.world.configure(&config);
    edge.process = Process::run(&edge.world);
    for (number, name) in names.iter().enumerate() {
        assert_eq!(edge.token(name), if number < 10 { 200 } else { 403 }, "{name}");
    }
    assert_eq!(edge.block("device-0").0, 200);
    assert_eq!(edge.token("device-0"), 403);
    drop(edge);
    intact(&file);
}

/// SQLite cannot know: what it wrote is checked when it is read again, after a crash.
#[test]
fn a_log_that_is_damaged_while_an_edge_runs_costs_known_devices_nothing() {
    let folder = TempDir::new().unwrap();
    let file = file_in(folder.path());
    let mut edge = Edge::on(&file);
    assert_eq!(edge.token("blocked-1"), 200);
    assert_eq!(edge.block("blocked-1").0, 200);
    let log = OpenOptions::new().write(true).open(beside(&file, "-wal")).unwrap();
    let length = usize::try_from(log.metadata().unwrap().len()).unwrap();
    log.write_all_at(&vec![0xff; length], 0).unwrap();
    for number in 0..5 {
        let status = edge.token(&format!("stranger-{number}"));
        assert!(status == 200 || status == 503, "{status}");
        assert_eq!(edge.token("acme-device-1"), 200);
        assert_eq!(edge.token("blocked-1"), 403);
    }
    edge.process.signal(libc::SIGKILL);
    edge.process.wait();
    edge.process = Process::run(&edge.world);
    assert_eq!(edge.token("acme-device-1"), 200);
    drop(edge);
    intact(&file);
}

/// The edge's start without the power to pass over permissions, which root has.
fn start_without_privileges(world: &World) -> Output {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = match is_root {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--inh-caps=-all", "--bounding-set=-all", "--", BINARY]);
            command
        }
        false => Command::new(BINARY),
    };
    command.args(["run", "--config"]).arg(world.file()).output().unwrap()
}

/// A place that runs out of room.
enum Disk {
    /// Of its own, and small.
    Small(TempDir),
    /// A bound that the kernel keeps for one process; needs no privileges.
    Bounded(TempDir),
}

impl Disk {
    /// All that can be had here; the second one always.
    fn all() -> Vec<Disk> {
        let folder = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        let small = mounted.then(|| Disk::Small(folder));
        // The signal that comes with a refused write would end the edge; what is ignored here
        // is ignored by what is started from here.
        // SAFETY: sets the disposition of a signal that nothing else here has to do with.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        small.into_iter().chain([Disk::Bounded(TempDir::new().unwrap())]).collect()
    }

    fn path(&self) -> &Path {
        let (Disk::Small(folder) | Disk::Bounded(folder)) = self;
        folder.path()
    }

    /// What SQLite says of it.
    fn reason(&self) -> &'static str {
        match self {
            Disk::Small(_) => "database or disk is full",
            Disk::Bounded(_) => "disk I/O error",
        }
    }

    fn fill(&self, edge: &Process) {
        match self {
            Disk::Small(folder) => {
                let mut ballast = File::create(folder.path().join("ballast")).unwrap();
                while ballast.write_all(&[0; 512]).is_ok() {}
            }
            Disk::Bounded(_) => bound(edge, 1),
        }
    }

    fn make_room(&self, edge: &Process) {
        match self {
            Disk::Small(folder) => fs::remove_file(folder.path().join("ballast")).unwrap(),
            Disk::Bounded(_) => bound(edge, libc::RLIM_INFINITY),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Disk::Small(folder) = self {
            let _ = Command::new("umount").arg("-l").arg(folder.path()).status();
        }
    }
}

/// How large a file the edge may write, in octets.
fn bound(edge: &Process, octets: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: octets, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure lives through the call, and nothing is written back.
    let set = unsafe {
        libc::prlimit(edge.id(), libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
