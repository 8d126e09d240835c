//! What is the same stays the same value, across tenants and across reloads.

use std::sync::Arc;

use super::mint::{Authority, key_pem};
use super::{GOOD, Site, edited, made, tenant};

fn second_tenant() -> String {
    GOOD.to_owned()
        + "  - id: b\n    server_names: [b.example.com]\n    upstream: platform\n    \
           certificate: { chain: acme.pem, key: acme.key }\n    \
           trusted_certificates: [{ file: root.pem }]\n"
}

#[test]
fn an_unchanged_tenant_stays_the_same_value() {
    let mut site = Site::new(&second_tenant());
    let first = site.compiled();
    // Comments, order of tenants and times of files do not count.
    let moved = format!("# a note\n\n{}", second_tenant().replace("id: b\n", "id: b  # second\n"));
    site.write("portcullis.yaml", moved.replace("[b.example.com]", "[c.example.com]"));
    site.write("root.pem", made().root.pem());
    let second = site.compiled();
    assert!(Arc::ptr_eq(&tenant(&first, "acme"), &tenant(&second, "acme")));
    assert!(!Arc::ptr_eq(&tenant(&first, "b"), &tenant(&second, "b")));
    assert!(Arc::ptr_eq(&first.pools[0], &second.pools[0]));
}

#[test]
fn whatever_a_tenant_is_made_of_makes_it_new() {
    type Change = fn(&Site);
    let changes: [Change; 5] = [
        |site| site.write("root.pem", [made().root.pem(), Authority::new("new").pem()].concat()),
        |site| {
            let (chain, key) = made().root.issue("acme.example.com");
            site.write("acme.pem", chain);
            site.secret("acme.key", key);
        },
        |site| site.secret("k1.pem", key_pem()),
        |site| site.write("portcullis.yaml", edited("lifespan: 1h", "lifespan: 2h")),
        |site| site.write("portcullis.yaml", edited("127.0.0.1:8080", "127.0.0.1:8081")),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut site = Site::new(GOOD);
        let first = site.compiled();
        change(&site);
        let second = site.compiled();
        let same = Arc::ptr_eq(&tenant(&first, "acme"), &tenant(&second, "acme"));
        assert!(!same, "change {number}");
    }
}

#[test]
fn a_compile_that_was_not_taken_costs_the_running_one_nothing() {
    let mut site = Site::new(GOOD);
    let running = site.compiled();
    site.write("portcullis.yaml", edited("127.0.0.1:8080", "127.0.0.1:8081"));
    drop(site.compiled());
    site.write("portcullis.yaml", "broken: [");
    assert!(site.compile().is_err());
    site.write("portcullis.yaml", GOOD);
    let again = site.compiled();
    assert!(Arc::ptr_eq(&tenant(&running, "acme"), &tenant(&again, "acme")));
    assert!(Arc::ptr_eq(&running.pools[0], &again.pools[0]));
}

#[test]
fn tenants_share_a_wildcard_certificate_and_equal_trust() {
    let compiled = Site::new(&second_tenant()).compiled();
    let (acme, b) = (tenant(&compiled, "acme"), tenant(&compiled, "b"));
    assert!(Arc::ptr_eq(&acme.certificates[0], &b.certificates[0]));
    assert!(Arc::ptr_eq(&acme.trust, &b.trust));
    assert!(Arc::ptr_eq(&acme.keys, &b.keys));
    assert!(Arc::ptr_eq(&acme.upstream, &b.upstream));
}

#[test]
fn trust_with_another_flag_or_policy_is_not_shared() {
    let changed = second_tenant().replacen(
        "{ file: root.pem }",
        "{ file: root.pem, auto_registration: true }",
        1,
    );
    let compiled = Site::new(&changed).compiled();
    assert!(!Arc::ptr_eq(&tenant(&compiled, "acme").trust, &tenant(&compiled, "b").trust));
}

#[test]
fn ten_thousand_tenants_compile_and_recompile() {
    let tenants: String = (0..10_000)
        .map(|n| {
            format!(
                "- id: t{n}\n  server_names: [t{n}.example.com]\n  upstream: platform\n  \
                 certificate: {{ chain: ../acme.pem, key: ../acme.key }}\n  \
                 trusted_certificates: [{{ file: ../root.pem }}]\n"
            )
        })
        .collect();
    let mut site = Site::new(&format!("{GOOD}include: \"tenants.d/*.yaml\"\n"));
    site.write("tenants.d/all.yaml", &tenants);
    let first = site.compiled();
    assert_eq!(first.directory.serviceable().count(), 10_001);
    site.write("tenants.d/all.yaml", tenants.replacen("t7.example.com", "seven.example.com", 1));
    let second = site.compiled();
    let same = (0..10_000)
        .filter(|n| {
            let id = format!("t{n}");
            Arc::ptr_eq(&tenant(&first, &id), &tenant(&second, &id))
        })
        .count();
    assert_eq!(same, 9_999);
}
