//! `valise-local-stack up | down`: everything that a deployment of Valise consists of, on this machine, without containers.

use std::process::ExitCode;

use clap::Parser as _;
use valise_local_stack::{Arguments, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(told) => {
            #[expect(clippy::print_stdout, reason = "what its user asked for")]
            {
                println!("{told}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "what its user has to know")]
            {
                eprintln!("valise-local-stack: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
