//! The front page is always true: its configuration is accepted, its links lead somewhere,
//! its commands exist.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use portcullis::server::Prepared;
use tempfile::TempDir;

use crate::pki::{Key, Template};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

#[test]
fn the_configuration_of_the_readme_is_accepted() {
    let readme = readme();
    let yaml = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = TempDir::new().unwrap();
    let write = |name: &str, contents: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let server_root = Template::ca("Server root").self_signed();
    let server = Template::server(&["acme.iot.example.com"]).signed_by(&server_root);
    write("acme.pem", server.pem().as_bytes());
    write("acme.key", &server.key.pem());
    write("acme-root.pem", Template::ca("acme root").self_signed().pem().as_bytes());
    write("k1.pem", &Key::p256().pem());
    write("portcullis.yaml", yaml.as_bytes());
    let prepared = Prepared::new(&dir.path().join("portcullis.yaml"));
    let prepared = prepared.unwrap_or_else(|error| panic!("{error}"));
    assert!(prepared.compiled().unavailable.is_empty());
    assert_eq!(prepared.compiled().directory.serviceable().count(), 1);
}

#[test]
fn the_links_of_the_readme_lead_somewhere() {
    let readme = readme();
    let links: Vec<&str> =
        readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() >= 5, "{links:?}");
    for link in links {
        assert!(root().join(link).exists(), "{link}");
    }
}

#[test]
fn the_make_targets_of_the_readme_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for target in ["demo", "test", "test-long", "bench", "release", "deny"] {
        assert!(readme().contains(target), "the README does not name {target}");
        assert!(makefile.contains(&format!("\n{target}:")), "no target {target}");
    }
}
