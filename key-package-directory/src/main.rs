//! The key-package directory as a process: see [`Arguments`].
//!
//! Settings can also come from the environment, for example `VALISE_DIRECTORY_DATABASE`.

use std::error::Error;
use std::process::ExitCode;

use valise_key_package_directory::{Arguments, Config, migrate, run};
use valise_service_runtime::{Telemetry, bind, config, termination};

/// A request passes through dozens of allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one line for whoever started it")]
            {
                eprintln!("valise-key-package-directory: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args_os().skip(1))?;
    let config: Config = config::load(
        arguments.configuration.as_deref(),
        "VALISE_DIRECTORY",
        &["database"],
    )?;
    if arguments.migrate {
        return Ok(migrate(&config).await?);
    }
    let telemetry = Telemetry::start(&config.telemetry, "key-package-directory")?;
    let listener = bind(&config.server).await?;
    let outcome = run(config, listener, termination()?).await;
    telemetry.shutdown().await;
    Ok(outcome?)
}
