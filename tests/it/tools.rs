//! What tests use of PyPI and npm, as `make test` installs it: other people's verifiers, and
//! the scripts of `tests/tools` that drive them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A script of `tests/tools`, run by the Python that has the packages.
pub fn python(script: &str) -> Command {
    let python = installed("python/bin/python");
    let mut command = Command::new(python);
    // Isolated: a script beside it never stands in for a module.
    command.arg("-I").arg(script_path(script));
    command
}

/// A script of `tests/tools`, run by Node; its first argument is where the packages are.
pub fn node(script: &str) -> Command {
    let modules = installed("node_modules");
    let mut command = Command::new("node");
    command.arg(script_path(script)).arg(modules);
    command
}

/// Gives JSON to a command and takes JSON from it.
#[track_caller]
pub fn ask(mut command: Command, question: &Value) -> Value {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `make test` installs it"));
    child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(name)
}

/// In the build's folder, which this binary lies in too.
fn installed(what: &str) -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    let mut folders = binary.ancestors().map(|folder| folder.join("test-tools").join(what));
    let found = folders.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("test-tools/{what} is not installed: run `make test`"))
}
