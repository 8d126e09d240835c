//! A PostgreSQL of a test's own: Debian's binaries, a directory that goes with it, a free port,
//! nobody asked for a password.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Name};
use tempfile::TempDir;

const MISSING: &str = "PostgreSQL is not installed: `apt-get install -y --no-install-recommends \
                       postgresql` (its initdb and postgres are looked for on PATH and in \
                       /usr/lib/postgresql)";

/// A running server. Stopped and removed when it is dropped.
pub struct Postgres {
    binaries: PathBuf,
    directory: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    pub fn start() -> Postgres {
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            // PostgreSQL refuses to run as root.
            let of = |what| {
                let output = Command::new("id").args([what, "postgres"]).output().unwrap();
                String::from_utf8(output.stdout).unwrap().trim().parse().expect(MISSING)
            };
            chown(directory.path(), Some(of("-u")), Some(of("-g"))).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = Postgres { binaries: binaries(), directory, port, server: None };
        let output = postgres
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "-D"])
            .arg(postgres.data())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        postgres.certify();
        postgres.start_again();
        postgres
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// By TLS; the server's certificate is its own root.
    pub fn tls_url(&self, host: &str, mode: &str) -> String {
        let root = self.directory.path().join("server.pem");
        format!(
            "postgres://postgres@{host}:{}/postgres?sslmode={mode}&sslrootcert={}",
            self.port,
            root.display()
        )
    }

    /// As a crash of the server: no connection is ended in order, nothing is waited for.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let stopping = self
            .command("pg_ctl")
            .args(["stop", "-w", "-m", "immediate", "-D"])
            .arg(self.data())
            .stdout(Stdio::null())
            .status();
        if !stopping.is_ok_and(|status| status.success()) {
            let _ = server.kill();
        }
        let _ = server.wait();
    }

    /// With what it had, on the same port; returns when it takes connections.
    pub fn start_again(&mut self) {
        if let Some(mut killed) = self.server.take() {
            // Until somebody has asked how it ended, its number is taken.
            let _ = killed.kill();
            let _ = killed.wait();
        }
        // Of a server that was killed: it would say that this one is ready.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let mut server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "ssl=on"])
            .args(["-c", "ssl_cert_file=../server.pem", "-c", "ssl_key_file=../server.key"])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // The eighth line of its pid file says how far it is.
        while !fs::read_to_string(self.data().join("postmaster.pid"))
            .is_ok_and(|pid| pid.lines().nth(7).is_some_and(|state| state.trim() == "ready"))
        {
            let ended = server.try_wait().unwrap();
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < end, "PostgreSQL: {}", log());
            pause();
        }
        self.server = Some(server);
    }

    /// A certificate for `localhost`, and for no other name.
    fn certify(&self) {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", "localhost").unwrap();
        let name = name.build();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(2).unwrap();
        certificate.set_subject_name(&name).unwrap();
        certificate.set_issuer_name(&name).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        let names = SubjectAlternativeName::new()
            .dns("localhost")
            .build(&certificate.x509v3_context(None, None))
            .unwrap();
        certificate.append_extension(names).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let folder = self.directory.path();
        let owner = fs::metadata(folder).unwrap();
        let key = key.private_key_to_pem_pkcs8().unwrap();
        for (file, pem) in
            [("server.pem", certificate.build().to_pem().unwrap()), ("server.key", key)]
        {
            let file = folder.join(file);
            fs::write(&file, pem).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let binary = self.binaries.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
            command.arg(binary);
            command
        } else {
            Command::new(binary)
        };
        command.current_dir(self.directory.path()).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The folder of PostgreSQL's own binaries, of its newest version.
fn binaries() -> PathBuf {
    let has_all = |folder: &Path| {
        ["initdb", "postgres", "pg_ctl"].iter().all(|name| folder.join(name).is_file())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = std::env::split_paths(&path).find(|folder| has_all(folder)) {
        return folder;
    }
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |folder: &PathBuf| -> u32 {
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.parse().unwrap_or(0)
    };
    let newest = installed.map(|entry| entry.path()).max_by_key(version);
    let folder = newest.map(|folder| folder.join("bin")).filter(|folder| has_all(folder));
    folder.expect(MISSING)
}

fn pause() {
    let (_nobody, silence) = mpsc::channel::<()>();
    let _ = silence.recv_timeout(Duration::from_millis(10));
}
