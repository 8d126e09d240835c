//! Compiles libpki, the certificate verifier of BoringSSL, together with our shim over it
//! (`src/trust/shim.cc`) and the one algorithm that it lacks (`src/trust/ed25519.cc`).
//!
//! The sources of libpki lie inside the crate `boring-sys`, which builds only libcrypto and
//! libssl from them. They are taken from the very `boring-sys` that this build resolved to,
//! so that libpki and libcrypto are of one revision. `Cargo.toml` pins that crate exactly,
//! because libpki's headers are internal to BoringSSL and change without notice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The prefix of libcrypto's C symbols; `.cargo/config.toml` gives it to BoringSSL's build.
const PREFIX: &str = "bor";

/// Says where BoringSSL's sources are, for builds in which cargo cannot be asked.
const SOURCE_VARIABLE: &str = "PORTCULLIS_BORINGSSL_SOURCE";

/// Files of libpki that `src/trust/ed25519.cc` includes and so compiles.
const EXTENDED: [&str; 2] = ["pki/signature_algorithm.cc", "pki/verify_signed_data.cc"];

type Fault = Box<dyn std::error::Error>;

fn main() -> Result<(), Fault> {
    println!("cargo:rerun-if-changed=build.rs");
    for file in ["shim.cc", "shim.h", "ed25519.cc", "ed25519.h"] {
        println!("cargo:rerun-if-changed=src/trust/{file}");
    }
    println!("cargo:rerun-if-env-changed={SOURCE_VARIABLE}");

    let source = source()?;
    let list = source.join("gen/sources.cmake");
    println!("cargo:rerun-if-changed={}", list.display());

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(&source)
        .include(source.join("include"))
        .file("src/trust/shim.cc")
        .file("src/trust/ed25519.cc")
        .files(libpki(&source, &fs::read_to_string(list)?)?)
        .define("BORINGSSL_IMPLEMENTATION", None)
        .define("BORINGSSL_PREFIX", PREFIX)
        // An access out of range in the standard library aborts instead of corrupting.
        .define("_GLIBCXX_ASSERTIONS", None)
        // As BoringSSL's own release build. Tests too: the verifier has a deadline in wall time.
        .define("NDEBUG", None)
        .opt_level(2)
        .debug(false)
        .flag_if_supported("-fvisibility=hidden")
        .warnings(false)
        .try_compile("portcullis_pki")?;
    Ok(())
}

/// The files of libpki, as BoringSSL lists them for its own build, without those that
/// [`EXTENDED`] names.
fn libpki(source: &Path, list: &str) -> Result<Vec<PathBuf>, Fault> {
    let (_, rest) = list.split_once("\n  PKI_SOURCES\n").ok_or("sources.cmake: no PKI_SOURCES")?;
    let (files, _) = rest.split_once(')').ok_or("sources.cmake: PKI_SOURCES does not end")?;
    let listed: Vec<&str> = files.split_whitespace().collect();
    if let Some(missing) = EXTENDED.iter().find(|file| !listed.contains(file)) {
        return Err(format!("sources.cmake: libpki has no {missing}").into());
    }
    let ours = listed.into_iter().filter(|file| !EXTENDED.contains(file));
    Ok(ours.map(|file| source.join(file)).collect())
}

fn source() -> Result<PathBuf, Fault> {
    let (source, origin) = match env::var_os(SOURCE_VARIABLE) {
        Some(path) => (PathBuf::from(path), SOURCE_VARIABLE),
        None => (boring_sys()?.join("deps/boringssl"), "cargo metadata"),
    };
    if source.join("pki/path_builder.h").is_file() {
        Ok(source)
    } else {
        let source = source.display();
        Err(format!("{source} (from {origin}) holds no libpki; set {SOURCE_VARIABLE}").into())
    }
}

/// The directory of the `boring-sys` that this package depends on, wherever cargo has it
/// from: registry, vendor directory, git, path or patch.
fn boring_sys() -> Result<PathBuf, Fault> {
    let metadata = Command::new(env::var_os("CARGO").ok_or("cargo sets CARGO")?)
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?)
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform"])
        .arg(env::var("TARGET")?)
        .output()?;
    if !metadata.status.success() {
        let said = String::from_utf8_lossy(&metadata.stderr).into_owned();
        return Err(format!("cargo metadata failed; set {SOURCE_VARIABLE}\n{said}").into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    // Another dependency may bring a second `boring-sys`: follow our own edge to it.
    let root = &metadata["resolve"]["root"];
    let found = entries(&metadata["resolve"]["nodes"])
        .find(|node| &node["id"] == root)
        .and_then(|node| entries(&node["deps"]).find(|dep| dep["name"] == "boring_sys"))
        .and_then(|dep| entries(&metadata["packages"]).find(|p| p["id"] == dep["pkg"]))
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .ok_or("cargo metadata names no boring-sys among our dependencies")?;
    Ok(found.to_path_buf())
}

fn entries(list: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    list.as_array().into_iter().flatten()
}
