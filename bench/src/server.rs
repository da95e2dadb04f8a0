//! The server under test: the real program, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::Args;
use crate::{Result, machine};

/// How long the program may take to start or to stop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What must be healthy.
const SERVICES: [&str; 3] = [
    "valise.authentication.v1.AuthenticationService",
    "valise.directory.v1.KeyPackageDirectoryService",
    "valise.delivery.v1.DeliveryService",
];

/// What `valise up --json` says once it listens.
#[derive(Deserialize)]
struct Up {
    address: String,
    /// Enrols the first administrator; `null` once there is one.
    administrator_enrolment_code: Option<String>,
}

/// A running `valise up`.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) enrolment_code: Option<String>,
    child: Child,
    // Kept open: the program may go on writing to it.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it on a free port and waits until all services are healthy.
    pub(crate) async fn start(args: &Args, data: &Path) -> Result<Self> {
        let program = program(args)?;
        let mut child = Command::new(&program)
            .args(["up", "--listen", "127.0.0.1:0", "--json", "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await??;
        let up: Up = serde_json::from_str(&line)
            .map_err(|error| format!("valise up did not say where it is: {error}"))?;
        let server = Self {
            url: up.address,
            enrolment_code: up.administrator_enrolment_code,
            child,
            _stdout: stdout,
        };
        tokio::time::timeout(PATIENCE, server.healthy()).await??;
        Ok(server)
    }

    async fn healthy(&self) -> Result<()> {
        let channel = self.connect().await?;
        for service in SERVICES {
            healthy(&channel, service).await;
        }
        Ok(())
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.url.clone())?
            .tcp_nodelay(true)
            .connect()
            .await?)
    }

    /// Processor time so far, in microseconds.
    pub(crate) fn processor_micros(&self) -> f64 {
        self.child.id().map_or(0.0, machine::processor_micros)
    }

    /// Ends it as an operator would not: nothing that was answered may depend on an orderly end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(tokio::time::timeout(PATIENCE, self.child.kill()).await??)
    }
}

/// Waits until the service is healthy.
pub(crate) async fn healthy(channel: &Channel, service: &str) {
    let request = || HealthCheckRequest {
        service: service.to_owned(),
    };
    // It may not be known yet.
    while HealthClient::new(channel.clone())
        .check(request())
        .await
        .map_or(true, |answer| {
            answer.into_inner().status() != ServingStatus::Serving
        })
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How long it takes from nothing to healthy, in seconds.
pub(crate) async fn time_to_start(args: &Args, data: &Path) -> Result<f64> {
    let began = Instant::now();
    let server = Server::start(args, data).await?;
    let took = began.elapsed().as_secs_f64();
    server.stop().await?;
    Ok(took)
}

pub(crate) fn program(args: &Args) -> Result<PathBuf> {
    match &args.valise {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name("valise")),
    }
}
