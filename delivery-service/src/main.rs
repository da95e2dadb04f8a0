//! The delivery service as a process: see [`Arguments`].
//!
//! Settings can also come from the environment, for example `VALISE_DELIVERY_DATABASE`.

use std::error::Error;
use std::process::ExitCode;

use valise_delivery_service::{Arguments, Command, Config, DatabaseConfig, migrate, replace_identity, run};
use valise_service_runtime::{Telemetry, bind, config, termination};

/// A request passes through dozens of allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one line that says why")]
            {
                eprintln!("valise-delivery-service: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args_os().skip(1))?;
    let file = arguments.configuration.as_deref();
    if arguments.command == Command::Migrate {
        let config: DatabaseConfig = config::load(file, "VALISE_DELIVERY", &["database"])?;
        return Ok(migrate(&config.database).await?);
    }
    let config: Config = config::load(
        file,
        "VALISE_DELIVERY",
        &["database", "redis.urls", "redis.password"],
    )?;
    if arguments.command == Command::ReplaceIdentity {
        return Ok(replace_identity(&config).await?);
    }
    let telemetry = Telemetry::start(&config.telemetry, "delivery-service")?;
    let listener = bind(&config.server).await?;
    let result = run(config, listener, termination()?).await;
    telemetry.shutdown().await;
    Ok(result?)
}
