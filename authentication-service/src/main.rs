//! The authentication service as a process: `valise-authentication-service [CONFIG.toml]`.
//!
//! Settings can also come from the environment, for example `VALISE_AUTHENTICATION_TRUST_DOMAIN`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use valise_authentication_service::{Config, run};
use valise_service_runtime::{Telemetry, bind, config, termination};

#[tokio::main]
async fn main() -> ExitCode {
    match start(std::env::args_os().nth(1).map(PathBuf::from)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one line for whoever started it")]
            {
                eprintln!("valise-authentication-service: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn start(file: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let config: Config = config::load(file.as_deref(), "VALISE_AUTHENTICATION")?;
    let telemetry = Telemetry::start(&config.telemetry, "authentication-service")?;
    let listener = bind(&config.server).await?;
    let outcome = run(config, listener, termination()?).await;
    telemetry.shutdown().await;
    Ok(outcome?)
}
