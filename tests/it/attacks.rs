//! Keeps `attacks.md` true: what it names exists, and no attack stands there without an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const SECTIONS: [&str; 6] =
    ["TLS, server names, trust", "X.509", "HTTP", "Tokens", "MQTT", "Platform"];
/// Fewer characters give no reason.
const REASON: usize = 20;

#[test]
fn every_known_attack_has_a_test_or_a_reason() {
    let mut problems = Vec::new();
    let mut attacks = BTreeSet::new();
    for Row { section, attack, tests, remark } in rows() {
        if !attacks.insert(attack.clone()) {
            problems.push(format!("{section}: \"{attack}\" stands twice"));
        }
        if tests.is_empty() && remark.len() < REASON {
            problems.push(format!("{section}: \"{attack}\" has neither a test nor a reason"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn every_test_that_the_table_of_attacks_names_exists_once() {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for name in rust_files().iter().flat_map(|file| test_names(&fs::read_to_string(file).unwrap()))
    {
        *known.entry(name).or_default() += 1;
    }
    let mut problems = Vec::new();
    for Row { attack, tests, .. } in rows() {
        let mut seen = BTreeSet::new();
        for test in tests {
            match known.get(&test) {
                Some(1) => {}
                Some(_) => problems.push(format!("{attack}: several tests are called {test}")),
                None => problems.push(format!("{attack}: there is no test {test}")),
            }
            if !seen.insert(test.clone()) {
                problems.push(format!("{attack}: {test} is named twice"));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn every_section_of_the_table_of_attacks_has_rows() {
    let rows = rows();
    for section in SECTIONS {
        assert!(rows.iter().any(|row| row.section == section), "{section} is empty");
    }
    for row in &rows {
        assert!(SECTIONS.contains(&row.section.as_str()), "{} is not a section", row.section);
    }
}

struct Row {
    section: String,
    attack: String,
    tests: Vec<String>,
    remark: String,
}

/// The rows of all tables, in their order.
fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("tests/it/attacks.md")).unwrap();
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim().to_owned();
        }
        let Some(cells) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            assert!(!line.starts_with('|'), "a row without an end: {line}");
            continue;
        };
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        let [attack, tests, remark] = cells[..] else { panic!("not three cells: {line}") };
        if attack == "attack" || attack.starts_with("--") {
            continue;
        }
        rows.push(Row {
            section: section.clone(),
            attack: attack.to_owned(),
            // What stands between backticks is a test's name, and nothing else is.
            tests: tests.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
            remark: remark.to_owned(),
        });
    }
    rows
}

/// Functions under `#[test]`.
fn test_names(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) = name {
            if std::mem::take(&mut is_test) {
                names.extend(name.split('(').next().map(str::to_owned));
            }
        } else if !line.starts_with(['#', '/']) {
            is_test = false;
        }
    }
    names
}

fn rust_files() -> Vec<PathBuf> {
    let mut folders = vec![root().join("src"), root().join("tests/it")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
