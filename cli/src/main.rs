//! The `valise` command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    valise_cli::run()
}
