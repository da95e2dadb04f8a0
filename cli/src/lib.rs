//! The `valise` command line: the services in one process, and a device in a terminal.
//!
//! One command, one file. [`up`] is also for programs that want the services in their own process, such as `valise demo` and
//! the benchmarks.

mod admin;
mod admin_group;
mod args;
mod chat;
mod demo;
mod devices;
mod enrol;
mod error;
mod feed;
mod group;
mod history;
mod listen;
mod out;
mod profile;
mod progress;
mod repair;
mod roles;
mod safety_number;
mod send;
mod show;
pub mod up;
mod when;
mod whoami;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use valise_service_runtime::{LogFormat, LogLevel, Telemetry, TelemetryConfig};

use args::{Arguments, Command};
use error::CliError;
use profile::Profile;

/// How long to wait for the last threads at the end.
const THREADS_END: Duration = Duration::from_millis(500);

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(source) => return complain(&CliError::io("cannot start")(source)),
    };
    let outcome = runtime.block_on(with_telemetry(arguments));
    // Threads that have used the store must be gone before the process is: what they leave is taken down with it, and not twice. One may
    // still wait for standard input.
    runtime.shutdown_timeout(THREADS_END);
    match outcome {
        Err(error) if !error.is_closed_pipe() => complain(&error),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

async fn with_telemetry(arguments: Arguments) -> Result<(), CliError> {
    let service = match arguments.command {
        Command::Up(_) => "valise-up",
        Command::Demo(_) => "valise-demo",
        _ => "valise-device",
    };
    let asked_for = std::env::var_os("RUST_LOG").is_some();
    let config = TelemetryConfig {
        otlp_endpoint: arguments.otlp_endpoint,
        // Standard error is for the one line that says what is wrong, unless somebody asks for more, or somebody must act on what
        // the services meet.
        log_format: if asked_for || matches!(arguments.command, Command::Up(_)) {
            LogFormat::Text
        } else {
            LogFormat::Off
        },
        log_level: LogLevel::Warn,
        ..TelemetryConfig::default()
    };
    let telemetry = Telemetry::start(&config, service)?;
    let outcome = command(arguments.command, arguments.profile).await;
    telemetry.shutdown().await;
    outcome
}

async fn command(command: Command, profile: Option<PathBuf>) -> Result<(), CliError> {
    let profile = || Profile::new(profile);
    match command {
        Command::Up(arguments) => up::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Enrol(arguments) => enrol::run(arguments, &profile()?).await,
        Command::Whoami { json } => whoami::run(json, &profile()?).await,
        Command::Devices(arguments) => devices::run(arguments.into_command()?, &profile()?).await,
        Command::Group { command } => group::run(command, &profile()?).await,
        Command::Send(arguments) => send::run(arguments, &profile()?).await,
        Command::Listen(arguments) => listen::run(arguments, &profile()?).await,
        Command::Chat(arguments) => chat::run(arguments, &profile()?).await,
        Command::History(arguments) => history::run(arguments, &profile()?).await,
        Command::SafetyNumber(arguments) => safety_number::run(arguments, &profile()?).await,
        Command::Admin { command } => admin::run(command, &profile()?).await,
    }
}

fn complain(error: &CliError) -> ExitCode {
    // Where even that cannot be written, the exit code has to do.
    let _ = writeln!(std::io::stderr(), "valise: {}", error.line());
    ExitCode::FAILURE
}
