//! What the named files may have wrong: a tenant's own make it unavailable, the edge's own
//! refuse everything.

use std::time::Duration;

use super::mint::{Authority, key_pem};
use super::{GOOD, Site, edited, made, tenant};
use crate::names::ServerName;
use crate::tenant::TenantEntry;

/// The one fault of the tenant, which is then unavailable.
fn tenant_fault(site: &mut Site) -> String {
    let faults = site.tenant_faults();
    let compiled = site.compiled();
    let entry = compiled.directory.find(&ServerName::parse("acme.example.com").unwrap());
    assert!(matches!(entry, Some(TenantEntry::Unavailable(_))));
    match &faults[..] {
        [one] => one.clone(),
        other => panic!("{other:#?}"),
    }
}

#[test]
fn a_tenant_with_bad_trust_is_unavailable_and_the_others_run() {
    let second = "  - id: b\n    server_names: [b.example.com]\n    upstream: platform\n    \
                  certificate: { chain: acme.pem, key: acme.key }\n    \
                  trusted_certificates: [{ file: bad.pem }]\n";
    let mut site = Site::new(&format!("{GOOD}{second}"));
    let leaf = String::from_utf8(made().acme.0.clone()).unwrap();
    for (content, expected) in [
        ("".to_owned(), "holds neither PEM nor DER"),
        ("rubbish".to_owned(), "holds neither PEM nor DER"),
        ("\u{30}\u{3}\u{2}\u{1}\u{1}".to_owned(), "certificate 1: "),
        (leaf.clone(), "certificate 1: "),
        (leaf.replace("-----END", "-----DNE"), "line 1: this PEM block has no end"),
        (leaf.replacen("MI", "!!", 1), "line 1: this PEM block is not valid base64"),
        (format!(" {}", leaf.replace("\n", " ")), "line 1: not a PEM line"),
        (String::from_utf8(key_pem()).unwrap(), "line 1: a private key"),
        (leaf.replace("CERTIFICATE", "PUBLIC KEY"), "line 1: a PEM block of another kind"),
    ] {
        site.write("bad.pem", &content);
        let faults = site.tenant_faults();
        let expected = format!("19:36: `bad.pem`: {expected}");
        assert!(
            matches!(&faults[..], [one] if one.starts_with(&expected)),
            "{expected} {faults:?}"
        );
        assert!(!faults[0].contains("MI"), "{faults:?}");
        let compiled = site.compiled();
        tenant(&compiled, "acme");
        let b = compiled.directory.find(&ServerName::parse("b.example.com").unwrap());
        assert!(matches!(b, Some(TenantEntry::Unavailable(_))));
        let (id, faults) = &compiled.unavailable[0];
        assert_eq!((id.as_str(), faults.0.len()), ("b", 1));
    }
}

#[test]
fn a_tenant_that_asks_for_certificates_and_trusts_none_is_unavailable() {
    let none = edited("[{ file: root.pem }]", "[]");
    let fault = tenant_fault(&mut Site::new(&none));
    assert!(fault.starts_with("10:9: tenant `acme` asks for client certificates"), "{fault}");
    let anonymous = none.replace("id: acme", "id: acme\n    client_certificate: none");
    tenant(&Site::new(&anonymous).compiled(), "acme");
    // Without the key, the registry brings them.
    let from_registry = edited("    trusted_certificates: [{ file: root.pem }]\n", "");
    assert!(tenant(&Site::new(&from_registry).compiled(), "acme").trust.is_empty());
}

#[test]
fn secrets_that_others_may_read_are_refused() {
    for mode in [0o644, 0o640, 0o601, 0o660] {
        let mut site = Site::new(GOOD);
        site.set_mode("acme.key", mode);
        // A tenant's key too: the edge as a whole does not start.
        let faults = site.faults();
        let expected = format!(
            "12:42: `acme.key`: group or others have access to this secret (mode {mode:04o}) \
             | run `chmod 600 acme.key`"
        );
        assert_eq!(faults, [expected]);
    }
    let mut site = Site::new(GOOD);
    site.set_mode("k1.pem", 0o644);
    let faults = site.faults();
    assert!(
        matches!(&faults[..], [one] if one.starts_with("5:57: `k1.pem`: group or others")),
        "{faults:?}"
    );

    let mut site =
        Site::new(&edited("tokens: {", "session_tickets: { secret_file: s }\ntokens: {"));
    site.write("s", [7; 48]);
    site.set_mode("s", 0o640);
    let faults = site.faults();
    assert!(
        matches!(&faults[..], [one] if one.starts_with("5:33: `s`: group or others")),
        "{faults:?}"
    );
}

#[test]
fn files_that_are_no_files_are_refused() {
    for (from, to, expected) in [
        ("chain: acme.pem", "chain: nope.pem", "12:27: `nope.pem`: not found"),
        ("chain: acme.pem", "chain: /dev/zero", "12:27: `/dev/zero`: not a regular file"),
        ("chain: acme.pem", "chain: .", "12:27: `.`: not a regular file"),
        ("file: root.pem", "file: nope.pem", "13:36: `nope.pem`: not found"),
    ] {
        let fault = tenant_fault(&mut Site::new(&edited(from, to)));
        assert!(fault.starts_with(expected), "{expected}\n{fault}");
    }
    let mut site = Site::new(GOOD);
    site.write("root.pem", vec![b'x'; (16 << 20) + 1]);
    let fault = tenant_fault(&mut site);
    assert!(fault.starts_with("13:36: `root.pem`: larger than 16 MiB"), "{fault}");
}

#[test]
fn a_server_certificate_and_its_key_must_fit() {
    let mut site = Site::new(GOOD);
    site.secret("acme.key", key_pem());
    let fault = tenant_fault(&mut site);
    assert!(fault.starts_with("12:42: `acme.key`: the key does not belong"), "{fault}");
    site.secret("acme.key", "rubbish");
    assert!(tenant_fault(&mut site).starts_with("12:42: `acme.key`: the key file holds no"));
    let mut site = Site::new(GOOD);
    site.write("acme.pem", "rubbish");
    assert!(tenant_fault(&mut site).starts_with("12:27: `acme.pem`: the chain file holds no"));
}

#[test]
fn a_tenant_has_one_certificate_of_each_kind() {
    let list = "certificate: [{ chain: acme.pem, key: acme.key }, { chain: b.pem, key: b.key }]";
    let mut site = Site::new(&edited("certificate: { chain: acme.pem, key: acme.key }", list));
    let (chain, key) = made().root.issue("acme.example.com");
    site.write("b.pem", chain);
    site.secret("b.key", key);
    assert!(tenant_fault(&mut site).starts_with("12:64: two certificates of one kind"));
    let (chain, key) = made().root.issue_rsa("acme.example.com");
    site.write("b.pem", chain);
    site.secret("b.key", key);
    assert_eq!(tenant(&site.compiled(), "acme").certificates.len(), 2);
}

#[test]
fn anchors_come_in_pem_or_der_and_several_in_a_file() {
    let three = "[{ file: two.pem, auto_registration: true }, { file: one.der }]";
    let mut site = Site::new(&edited("[{ file: root.pem }]", three));
    let two = [Authority::new("one").pem(), b"a note\n".to_vec(), Authority::new("two").pem()];
    site.write("two.pem", two.concat());
    site.write("one.der", Authority::new("three").der());
    let mut flags: Vec<bool> = tenant(&site.compiled(), "acme")
        .trust
        .anchors()
        .iter()
        .map(|anchor| anchor.auto_registration)
        .collect();
    flags.sort_unstable();
    assert_eq!(flags, [false, true, true]);
}

#[test]
fn tokens_need_a_key_of_their_algorithm() {
    let mut site = Site::new(&edited(
        "upstream: platform",
        "upstream: platform\n    tokens: { algorithm: rs256 }",
    ));
    let fault = tenant_fault(&mut site);
    assert!(fault.starts_with("15:26: no signing key of tenant `acme` is for RS256"), "{fault}");
}

#[test]
fn the_edges_own_files_refuse_everything() {
    let mut site = Site::new(GOOD);
    site.secret("k1.pem", "rubbish");
    let faults = site.faults();
    assert!(matches!(&faults[..], [one] if one.starts_with("5:57: `k1.pem`: ")), "{faults:?}");

    let mut site =
        Site::new(&edited("tokens: {", "session_tickets: { secret_file: s }\ntokens: {"));
    site.secret("s", "too short");
    let faults = site.faults();
    assert!(
        matches!(&faults[..], [one] if one.starts_with("5:33: the ticket secret has fewer")),
        "{faults:?}"
    );

    let tls = "http: [\"127.0.0.1:8080\"]\n    tls: { server_name: p.example, ca_file: ca.pem }";
    let mut site = Site::new(&edited("http: [\"127.0.0.1:8080\"]", tls));
    site.write("ca.pem", "rubbish");
    let faults = site.faults();
    assert!(
        matches!(&faults[..], [one] if one.starts_with("9:45: upstream `platform`: ")),
        "{faults:?}"
    );
    site.write("ca.pem", made().root.pem());
    assert!(site.faults().is_empty());
}

#[test]
fn a_missing_configuration_is_one_clear_fault() {
    let mut site = Site::new(GOOD);
    std::fs::remove_file(site.path("portcullis.yaml")).unwrap();
    let shown = site.compile().err().unwrap().to_string();
    assert!(shown.contains("not found") && shown.contains("--> "), "{shown}");
}

#[test]
fn settings_say_what_the_file_says() {
    let text = edited(
        "tokens: {",
        "workers: 3\nregistry: { url: \"sqlite:data/x.db\" }\nlimits: { header_bytes: 8KiB }\ntokens: {",
    );
    let mut site = Site::new(&text);
    let directory = site.directory.path().display().to_string();
    let settings = site.compiled().settings;
    assert_eq!(settings.workers, 3);
    assert_eq!(settings.registry.url, format!("sqlite:{directory}/data/x.db"));
    assert_eq!(settings.limits.header_bytes, 8 * 1024);
    assert_eq!(settings.limits.connections, 16_384);
    assert_eq!(settings.ticket_rotation, Duration::from_secs(12 * 3_600));
    assert_eq!(settings.listeners[0].default_tenant.as_ref().unwrap().as_str(), "acme");
    site.write("portcullis.yaml", text.replace("workers: 3", "workers: 4"));
    let new = site.compiled().settings;
    assert_eq!(settings.needing_restart(&new).collect::<Vec<_>>(), ["workers"]);
}

#[test]
fn issuer_and_audience_are_the_tenants_first_name() {
    let names = "[\"*.a.example.com\", acme.example.com, b.example.com]\n    \
                 tokens: { audience: \"x-{server_name}\", lifespan: 5m }";
    let acme = tenant(&Site::new(&edited("[acme.example.com]", names)).compiled(), "acme");
    let tokens = acme.tokens.as_ref().unwrap();
    assert_eq!(tokens.issuer, "acme.example.com");
    assert_eq!(tokens.audience, "x-acme.example.com");
    assert_eq!(tokens.lifespan, 300);
    let off = edited("upstream: platform", "upstream: platform\n    tokens: { enabled: false }");
    let acme = tenant(&Site::new(&off).compiled(), "acme");
    assert!(acme.tokens.is_none() && acme.keys.is_empty());
}
