//! One run tells everything.

use std::fs;

use super::{GOOD, Site, made, tenant};

#[test]
fn a_file_with_six_faults_gives_six() {
    let text = r#"listeners: { https: [{ bind: "nowhere" }] }
worker: 2
limits: { handshakes: 0 }
upstreams: { platform: { http: ["127.0.0.1:1"], retries: many } }
tenants:
  - id: acme
    server_names: [acme.example.com]
    certificate: { chain: acme.pem, key: missing.key }
    trusted_certificates: [{ file: root.pem }]
    upstream: platfrom
"#;
    let faults = Site::new(text).faults();
    let places: Vec<&str> = faults.iter().map(|f| f.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["1:30", "2:1", "3:23", "4:58", "8:42", "10:15"], "{faults:#?}");
}

#[test]
fn faults_of_all_files_come_sorted_by_file_and_line() {
    let mut site = Site::new(&format!("{GOOD}include: \"tenants.d/*.yaml\"\nnonsense: 1\n"));
    site.write("tenants.d/b.yaml", "id: 7 7\n");
    site.write("tenants.d/a.yaml", "- id: b\n  colour: blue\n- []\n");
    site.write("tenants.d/c.yaml", "id: [\n");
    let faults = site.faults();
    let files: Vec<&str> = faults.iter().map(|f| f.split(' ').next().unwrap()).collect();
    assert_eq!(files[0], "16:1:", "{faults:#?}");
    assert!(files[1..].iter().zip(&files[2..]).all(|(a, b)| a[..17] <= b[..17]), "{faults:#?}");
    for expected in [
        "tenants.d/a.yaml:1:3: the key `certificate` is missing",
        "tenants.d/a.yaml:2:3: unknown key `colour`",
        "tenants.d/a.yaml:3:3: expected a mapping, found a list",
        "tenants.d/b.yaml:1:5: a tenant id holds only",
        "tenants.d/c.yaml:1:5: not valid YAML",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{expected}\n{faults:#?}");
    }
}

#[test]
fn included_files_hold_a_tenant_or_a_list_and_paths_start_at_them() {
    let mut site = Site::new(&format!("{GOOD}include: \"tenants.d/*.yaml\"\n"));
    let (chain, key) = &made().acme;
    site.write("tenants.d/own.pem", chain);
    site.secret("tenants.d/own.key", key);
    let one = |id: &str| {
        format!(
            "id: {id}\nserver_names: [{id}.example.com]\nclient_certificate: none\n\
             certificate: {{ chain: own.pem, key: own.key }}\nupstream: platform\n"
        )
    };
    site.write("tenants.d/b.yaml", one("b"));
    let list: String = ["c", "d"]
        .map(|id| format!("- {}", one(id).trim_end().replace('\n', "\n  ") + "\n"))
        .concat();
    site.write("tenants.d/cd.yaml", list);
    site.write("tenants.d/empty.yaml", "# nobody yet\n");
    site.write("tenants.d/.hidden.yaml", "nonsense");
    site.write("tenants.d/notes.txt", "nonsense");
    let compiled = site.compiled();
    for id in ["acme", "b", "c", "d"] {
        tenant(&compiled, id);
    }
    assert_eq!(compiled.directory.entries().count(), 4);
}

#[test]
fn an_include_that_leads_nowhere_is_a_fault() {
    for (include, expected) in [
        ("no/*.yaml", "15:10: cannot list `no`: not found"),
        ("no.yaml", "15:10: cannot read `no.yaml`: not found"),
        ("*/x.yaml", "15:10: `*` and `?` may stand in the file name only"),
        ("/", "15:10: not the path of files"),
    ] {
        let faults = Site::new(&format!("{GOOD}include: \"{include}\"\n")).faults();
        assert!(matches!(&faults[..], [one] if one.starts_with(expected)), "{expected} {faults:?}");
    }
}

#[test]
fn an_included_file_that_cannot_be_read_is_a_fault() {
    let mut site = Site::new(&format!("{GOOD}include: \"tenants.d/*.yaml\"\n"));
    fs::create_dir_all(site.path("tenants.d/dir.yaml")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", site.path("tenants.d/link.yaml")).unwrap();
    std::os::unix::net::UnixListener::bind(site.path("tenants.d/socket.yaml")).unwrap();
    let faults = site.faults();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].starts_with("15:10: cannot read `tenants.d/dir.yaml`: not a regular file"));
    assert!(faults[1].starts_with("15:10: cannot read `tenants.d/link.yaml`: not found"));
    assert!(faults[2].starts_with("15:10: cannot read `tenants.d/socket.yaml`: "));
}

#[test]
fn an_id_or_a_name_taken_twice_names_both_places() {
    let mut site = Site::new(&format!("{GOOD}include: \"tenants.d/*.yaml\"\n"));
    let other = |id: &str, name: &str| {
        format!(
            "id: {id}\nserver_names: [{name}]\nclient_certificate: none\n\
             certificate: {{ chain: ../acme.pem, key: ../acme.key }}\nupstream: platform\n"
        )
    };
    site.write("tenants.d/b.yaml", other("acme", "b.example.com"));
    site.write("tenants.d/c.yaml", other("c", "ACME.example.com"));
    site.write("tenants.d/d.yaml", other("d", "d.example.com, \"*.d.example.com\", d.example.com"));
    let faults = site.faults();
    let place = site.path("portcullis.yaml");
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].starts_with("tenants.d/b.yaml:1:5: the tenant id `acme` is given twice"));
    assert!(
        faults[1].starts_with(
            "tenants.d/c.yaml:2:16: the server name `acme.example.com` is given twice \
         | first given to tenant `acme` at portcullis.yaml:11:20"
        ),
        "{} {}",
        faults[1],
        place.display()
    );
    assert!(faults[2].starts_with("tenants.d/d.yaml:2:50: the server name `d.example.com`"));
}
