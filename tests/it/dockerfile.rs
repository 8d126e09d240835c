//! The Dockerfile held against the repository, on machines that have no Docker: what it copies
//! is there, what the build needs is copied, and what it ships is what an edge may run with.

use std::fs;
use std::path::{Component, Path, PathBuf};

#[test]
fn every_path_that_the_image_copies_is_in_the_repository() {
    for source in sources_from_context(&stages().concat()) {
        assert!(root().join(&source).exists(), "the Dockerfile copies {source}, which is missing");
    }
}

#[test]
fn no_path_that_the_image_copies_is_kept_out_of_the_build_context() {
    let ignored = Ignored::read();
    for source in sources_from_context(&stages().concat()) {
        for file in files_below(&root().join(&source)) {
            let path = relative(&file);
            assert!(!ignored.matches(&path), ".dockerignore keeps out {path}, which is copied");
        }
    }
}

#[test]
fn the_build_context_holds_no_history_and_no_build_output() {
    let ignored = Ignored::read();
    for path in [".git", ".git/config", "target", "target/release/portcullis", "conf/a/server.key"]
    {
        assert!(ignored.matches(path), "{path} reaches the build context");
    }
    assert!(!ignored.matches("src/main.rs"));
}

#[test]
fn the_cargo_configuration_is_copied_before_the_build() {
    let build = build_stage();
    let copied = position(&build, |step| step.keyword == "COPY" && step.names(".cargo"));
    let built = position(&build, |step| step.text.contains("cargo build"));
    assert!(copied < built, "without .cargo BoringSSL is built without its symbol prefix");
}

#[test]
fn the_build_keeps_to_the_lock_file() {
    let build = build_stage();
    let built = position(&build, |step| step.text.contains("cargo build"));
    assert!(build[built].names("--locked"));
}

#[test]
fn every_target_that_the_manifest_declares_can_be_found_by_the_build() {
    let copied = sources_from_context(&build_stage());
    let manifest = read("Cargo.toml");
    for (table, folder) in [("[[bench]]", "benches"), ("[[test]]", "tests")] {
        if manifest.lines().any(|line| line.trim() == table) {
            assert!(
                copied.iter().any(|source| source == folder),
                "cargo refuses a manifest whose {table} has no file: copy {folder}"
            );
        }
    }
}

#[test]
fn every_file_that_the_sources_embed_is_copied() {
    let copied = sources_from_context(&build_stage());
    let mut embedding = files_below(&root().join("src"));
    embedding.push(root().join("build.rs"));
    embedding.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    for file in embedding {
        let text = fs::read_to_string(&file).unwrap();
        for path in embedded_paths(&file, &text) {
            assert!(
                copied.iter().any(|source| Path::new(&path).starts_with(source)),
                "{} embeds {path}, which the Dockerfile does not copy",
                relative(&file)
            );
        }
    }
}

#[test]
fn the_image_runs_without_privileges() {
    let shipped = shipped_stage();
    let user = shipped.iter().rfind(|step| step.keyword == "USER").expect("no USER: runs as root");
    for id in user.text.split(':') {
        let id: u32 = id.trim().parse().expect("a number, so that an orchestrator can check it");
        assert_ne!(id, 0, "runs as root");
    }
    let last_change = shipped.iter().rposition(|step| step.keyword == "USER");
    let last_run = shipped.iter().rposition(|step| step.keyword == "RUN");
    assert!(last_run < last_change, "a RUN after USER would need privileges that are gone");
}

#[test]
fn the_image_tells_whether_it_is_healthy() {
    let shipped = shipped_stage();
    let check = shipped.iter().find(|step| step.keyword == "HEALTHCHECK").expect("no HEALTHCHECK");
    assert!(check.text.contains(r#"CMD ["portcullis", "health"]"#), "{}", check.text);
}

#[test]
fn the_image_holds_the_libraries_of_the_binary_and_no_build_tools() {
    let shipped = shipped_stage();
    let commands = shipped.iter().filter(|step| step.keyword == "RUN");
    let words: Vec<&str> = commands.flat_map(|step| step.text.split_whitespace()).collect();
    for library in ["libstdc++6", "ca-certificates"] {
        assert!(words.contains(&library), "{library} is missing in the image");
    }
    for tool in [
        "gcc",
        "g++",
        "clang",
        "libclang-dev",
        "build-essential",
        "cmake",
        "cargo",
        "rustc",
        "rustup",
        "make",
        "git",
        "perl",
        "curl",
    ] {
        assert!(!words.contains(&tool), "the image holds {tool}");
    }
    let base = &shipped[0];
    assert_eq!(base.keyword, "FROM");
    assert!(base.text.contains("slim") && !base.text.contains("rust"), "built on {}", base.text);
}

/// One instruction: its keyword, and the rest with continued lines joined.
#[derive(Clone)]
struct Step {
    keyword: String,
    text: String,
}

impl Step {
    fn names(&self, word: &str) -> bool {
        self.text.split_whitespace().any(|w| w == word)
    }
}

/// The Dockerfile's stages in order; each starts with its FROM.
fn stages() -> Vec<Vec<Step>> {
    let text = read("Dockerfile");
    let mut stages: Vec<Vec<Step>> = Vec::new();
    let mut open = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.trim_end().strip_suffix('\\') {
            Some(continued) => open.push_str(continued),
            None => {
                open.push_str(line);
                let (keyword, rest) = open.trim().split_once(' ').unwrap_or((open.trim(), ""));
                let step = Step { keyword: keyword.to_uppercase(), text: rest.trim().to_owned() };
                match stages.last_mut() {
                    _ if step.keyword == "FROM" => stages.push(vec![step]),
                    Some(stage) if !step.keyword.is_empty() => stage.push(step),
                    _ => {}
                }
                open.clear();
            }
        }
    }
    assert_eq!(stages.len(), 2, "one stage builds, one is shipped");
    stages
}

fn build_stage() -> Vec<Step> {
    stages().swap_remove(0)
}

fn shipped_stage() -> Vec<Step> {
    stages().swap_remove(1)
}

fn position(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> usize {
    steps.iter().position(wanted).expect("the Dockerfile has no such step")
}

/// What COPY and ADD take from the repository, not from another stage.
fn sources_from_context(steps: &[Step]) -> Vec<String> {
    let mut sources = Vec::new();
    for step in steps.iter().filter(|step| step.keyword == "COPY" || step.keyword == "ADD") {
        let mut words: Vec<&str> = step.text.split_whitespace().collect();
        if words.iter().any(|word| word.starts_with("--from=")) {
            continue;
        }
        words.retain(|word| !word.starts_with("--"));
        words.pop();
        sources.extend(words.into_iter().map(str::to_owned));
    }
    assert!(!sources.is_empty());
    sources
}

/// Paths, from the repository's root, that `text` takes into the binary at compile time.
fn embedded_paths(file: &Path, text: &str) -> Vec<String> {
    let folder = file.parent().unwrap();
    let mut paths = Vec::new();
    for (macro_call, base) in
        [("include_str!(", folder), ("include_bytes!(", folder), ("migrate!(", root())]
    {
        for (at, _) in text.match_indices(macro_call) {
            let argument = text[at + macro_call.len()..].trim_start();
            if let Some((path, _)) = argument.strip_prefix('"').and_then(|s| s.split_once('"')) {
                paths.push(relative(&normalised(&base.join(path))));
            }
        }
    }
    paths
}

/// The rules of .dockerignore: the last one that matches a path or a folder above it decides.
struct Ignored(Vec<(bool, String)>);

impl Ignored {
    fn read() -> Ignored {
        let text = read(".dockerignore");
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        Ignored(
            lines
                .map(|line| match line.strip_prefix('!') {
                    Some(kept) => (false, kept.trim_matches('/').to_owned()),
                    None => (true, line.trim_matches('/').to_owned()),
                })
                .collect(),
        )
    }

    fn matches(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let decides = |pattern: &str| {
            let pattern: Vec<&str> = pattern.split('/').collect();
            (1..=parts.len()).any(|depth| matches_parts(&pattern, &parts[..depth]))
        };
        self.0.iter().rfind(|(_, pattern)| decides(pattern)).is_some_and(|(ignored, _)| *ignored)
    }
}

fn matches_parts(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=path.len()).any(|skip| matches_parts(rest, &path[skip..])),
        ([part, rest @ ..], [name, below @ ..]) => {
            matches_name(part.as_bytes(), name.as_bytes()) && matches_parts(rest, below)
        }
        _ => false,
    }
}

fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| matches_name(rest, &name[skip..])),
        ([b'?', rest @ ..], [_, below @ ..]) => matches_name(rest, below),
        ([wanted, rest @ ..], [found, below @ ..]) => wanted == found && matches_name(rest, below),
        _ => false,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap();
    entries.flat_map(|entry| files_below(&entry.unwrap().path())).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Without `..`, by name alone: the file may be missing, which another test says.
fn normalised(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            part => whole.push(part),
        }
    }
    whole
}
