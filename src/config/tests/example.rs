//! The annotated example in `conf/` is accepted, and it is complete.

use std::collections::{BTreeMap, BTreeSet};

use super::mint::{Authority, key_pem};
use super::{Site, made};
use crate::config::fault::Source;
use crate::config::node::{Key, Kind, Node, parse};

const EDGE: &str = include_str!("../../../conf/portcullis.yaml");
const TENANT: &str = include_str!("../../../conf/tenants.d/example-tenant.yaml");

/// The example with all files that it names.
fn example() -> Site {
    let site = Site::new(EDGE);
    let root = Authority::new("example root");
    let (chain, key) = root.issue("example.iot.example.com");
    site.secret("tickets.secret", [7; 48]);
    site.secret("keys.secret", (0..48).collect::<Vec<u8>>());
    site.secret("admin.token", "a".repeat(64));
    site.secret("dashboards.token", "b".repeat(64));
    site.write("platform-ca.pem", made().root.pem());
    site.write("edge.pem", &chain);
    site.secret("edge.key", &key);
    site.write("tenants.d/example-tenant.yaml", TENANT);
    site.write("tenants.d/example.pem", &chain);
    site.secret("tenants.d/example.key", &key);
    site.write("tenants.d/example-root.pem", root.pem());
    site.write("tenants.d/issuing-ca.pem", root.intermediate("issuing"));
    site.write("tenants.d/example.crl", root.crl());
    site.secret("tenants.d/example-signing.pem", key_pem());
    site
}

#[test]
fn the_annotated_example_is_accepted() {
    let mut site = example();
    assert_eq!(site.tenant_faults(), Vec::<String>::new());
    assert_eq!(site.compiled().directory.serviceable().count(), 1);
}

/// Puts an unknown key into every mapping; the fault's help then lists what is known there.
#[test]
fn the_annotated_example_shows_every_key() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in [("portcullis.yaml", EDGE), ("tenants.d/example-tenant.yaml", TENANT)] {
        let source = Source { path: file.into(), text: text.to_owned() };
        let tree = parse(&source, &mut Vec::new()).unwrap();
        let mut site = example();
        for entries in mappings(&tree) {
            site.write(file, with_unknown_key(text, entries));
            let help = site.faults().iter().find_map(|fault| {
                Some(fault.split_once("unknown key `qqqqqqqqqqqq` | known here: ")?.1.to_owned())
            });
            // The names of upstreams are no keys of ours.
            if let Some(help) = help {
                let shown = entries.iter().map(|(key, _)| key.text.to_string());
                known.entry(help).or_default().extend(shown);
            }
        }
    }
    assert!(known.len() > 15, "{known:#?}");
    for (help, shown) in known {
        for key in help.split(", ") {
            // Some keys exclude each other: one of them then stands in a comment.
            let in_comment = EDGE.contains(&format!("#   {key}: "));
            assert!(shown.contains(key) || in_comment, "`{key}` of `{help}` is not in the example");
        }
    }
}

fn mappings(node: &Node) -> Vec<&[(Key, Node)]> {
    match &node.kind {
        Kind::Map(entries) => {
            let inner = entries.iter().flat_map(|(_, value)| mappings(value));
            std::iter::once(entries.as_slice()).chain(inner).collect()
        }
        Kind::List(items) => items.iter().flat_map(mappings).collect(),
        Kind::Null | Kind::Scalar { .. } => Vec::new(),
    }
}

fn with_unknown_key(text: &str, entries: &[(Key, Node)]) -> String {
    let first = entries[0].0.at;
    let (before, after) = text.split_at(first.start as usize);
    let flow = before.trim_end().ends_with(['{', ',']);
    let gap = match flow {
        true => ", ".to_owned(),
        false => format!("\n{}", " ".repeat(first.column as usize - 1)),
    };
    format!("{before}qqqqqqqqqqqq: 1{gap}{after}")
}
