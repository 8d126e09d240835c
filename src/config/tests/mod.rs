//! Whole configurations in a directory of their own, with keys and certificates made when
//! the test runs.

mod all_at_once;
mod example;
mod faults;
mod files;
mod mint;
mod mqtt;
mod operators;
mod reuse;
mod structure;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use super::{Compiled, Compiler, Fault, Faults};
use crate::metrics::Metrics;
use crate::names::TenantId;
use crate::tenant::{Tenant, TenantEntry};
use mint::Authority;

/// Good as it stands, once `Site::new` has made its files.
const GOOD: &str = r#"listeners:
  https:
    - bind: "127.0.0.1:0"
      default_tenant: acme
tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }
upstreams:
  platform:
    http: ["127.0.0.1:8080"]
tenants:
  - id: acme
    server_names: [acme.example.com]
    certificate: { chain: acme.pem, key: acme.key }
    trusted_certificates: [{ file: root.pem }]
    upstream: platform
"#;

/// A directory with a configuration and its files.
struct Site {
    directory: TempDir,
    compiler: Compiler,
}

/// Made once a test process; keys are slow in debug builds.
struct Made {
    root: Authority,
    acme: (Vec<u8>, Vec<u8>),
    signing: Vec<u8>,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = Authority::new("root");
        let acme = root.issue("acme.example.com");
        Made { root, acme, signing: mint::key_pem() }
    })
}

impl Site {
    /// `text`: of `portcullis.yaml`.
    fn new(text: &str) -> Site {
        let directory = TempDir::new().unwrap();
        let compiler = Compiler::new(Metrics::new().unwrap());
        let site = Site { directory, compiler };
        let (chain, key) = &made().acme;
        site.write("portcullis.yaml", text);
        site.write("root.pem", made().root.pem());
        site.write("acme.pem", chain);
        site.secret("acme.key", key);
        site.secret("k1.pem", &made().signing);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn secret(&self, name: &str, content: impl AsRef<[u8]>) {
        self.write(name, content);
        self.set_mode(name, 0o600);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn compile(&mut self) -> Result<Compiled, Faults> {
        self.compiler.compile(&self.directory.path().join("portcullis.yaml"))
    }

    fn compiled(&mut self) -> Compiled {
        self.compile().unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// The faults that refuse the whole configuration, as `line:column: message`.
    fn faults(&mut self) -> Vec<String> {
        match self.compile() {
            Ok(_) => Vec::new(),
            Err(faults) => faults.0.iter().map(|fault| self.brief(fault)).collect(),
        }
    }

    /// The faults that make one tenant unavailable.
    fn tenant_faults(&mut self) -> Vec<String> {
        let compiled = self.compiled();
        let faults = compiled.unavailable.iter().flat_map(|(_, faults)| &faults.0);
        faults.map(|fault| self.brief(fault)).collect()
    }

    fn brief(&self, fault: &Fault) -> String {
        let directory = format!("{}/", self.directory.path().display());
        let message = fault.message.replace(&directory, "");
        let file = fault.file.to_string_lossy().replace(&directory, "");
        let file = if file == "portcullis.yaml" { String::new() } else { format!("{file}:") };
        let help = fault.help.as_deref().unwrap_or_default().replace(&directory, "");
        format!("{file}{}:{}: {message} | {help}", fault.line, fault.column)
    }
}

/// `GOOD` with one stretch replaced; the test breaks where the stretch is not there.
fn edited(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    GOOD.replace(from, to)
}

fn tenant(compiled: &Compiled, id: &str) -> Arc<Tenant> {
    match compiled.directory.by_id(&TenantId::parse(id).unwrap()) {
        Some(TenantEntry::Serviceable(tenant)) => tenant.clone(),
        Some(TenantEntry::Unavailable(_)) => panic!("{:?}", compiled.unavailable),
        None => panic!("no tenant {id}"),
    }
}
