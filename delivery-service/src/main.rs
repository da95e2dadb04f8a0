//! The delivery service in a process of its own: `valise-delivery-service [CONFIGURATION]`.

use std::path::PathBuf;
use std::process::ExitCode;

use valise_delivery_service::{Config, run};
use valise_service_runtime::{Telemetry, bind, config, termination};

async fn start() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let config: Config = config::load(file.as_deref(), "VALISE_DELIVERY")?;
    let telemetry = Telemetry::start(&config.telemetry, "delivery-service")?;
    let listener = bind(&config.server).await?;
    let result = run(config, listener, termination()?).await;
    telemetry.shutdown().await;
    Ok(result?)
}

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one line that says why")]
            {
                eprintln!("delivery-service: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
