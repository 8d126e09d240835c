//! The API holds what its description promises: schemathesis makes requests out of the served
//! `openapi.json`, good and bad ones, and holds every answer against it.

use std::path::PathBuf;
use std::process::Command;

use crate::world::{OPERATOR_TOKEN, Process, World};

/// Beside the tests' own folder of the build, where `make test` puts tools of PyPI.
fn schemathesis() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let tool = target.parent().unwrap().join("test-tools/python/bin/schemathesis");
    assert!(tool.exists(), "{} is missing: `make test` installs it", tool.display());
    tool
}

/// What is not asked: whether everything that fits the schema is accepted, since no schema
/// says what a certificate is; and whether wrong tokens are refused, which is answered 429
/// after ten of them (`every_operation_obeys_the_rights_of_a_token_and_nobody_else` asks it).
const EXCLUDED: &str = "positive_data_acceptance,ignored_auth";

#[test]
fn no_request_that_can_be_made_of_the_description_gets_an_answer_beside_it() {
    let world = World::files(|world, config| {
        config.log = "{ format: json, level: info }".into();
        let secret = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL";
        world.write_secret("keys.secret", secret);
        config.tokens = "{ rotation: { secret_file: keys.secret } }".into();
    });
    let process = Process::run(&world);
    // What is there: requests for anything else end at 404.
    let parameters = "[parameters]\n\"path.tenant\" = \"acme\"\n\"path.device\" = \"meter-1\"\n\
                      \"path.category\" = \"oauth.internal\"\n\
                      \"path.key\" = \"device-token.lifespan.seconds\"\n";
    world.write("schemathesis.toml", parameters);
    let output = Command::new(schemathesis())
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(format!("http://{}/openapi.json", process.admin))
        .args(["--header", &format!("Authorization: Bearer {OPERATOR_TOKEN}")])
        .args(["--checks", "all", "--exclude-checks", EXCLUDED])
        .args(["--max-time", "12", "--max-examples", "25", "--seed", "1", "--no-shrink"])
        .args(["--continue-on-failure", "--generation-database", "none", "--no-color"])
        .current_dir(world.dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!told.contains("Rate limited"), "{told}");
    assert!(!process.text().contains("panicked"), "{}", process.text());
}
