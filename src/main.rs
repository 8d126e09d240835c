//! Exit codes only; see `portcullis --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
