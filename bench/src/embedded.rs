//! `valise up`, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::args::Args;
use crate::server::{PATIENCE, connect, healthy};
use crate::{Result, machine};

/// What must be healthy.
const SERVICES: [&str; 3] = [
    "valise.authentication.v1.AuthenticationService",
    "valise.directory.v1.KeyPackageDirectoryService",
    "valise.delivery.v1.DeliveryService",
];

/// What `valise up --json` says once it listens.
#[derive(Deserialize)]
struct Said {
    address: String,
    /// Enrols the first administrator; `null` once there is one.
    administrator_enrolment_code: Option<String>,
}

/// A running `valise up`.
pub(crate) struct Up {
    pub(crate) url: String,
    pub(crate) enrolment_code: Option<String>,
    child: Child,
    // Kept open: the program may go on writing to it.
    _stdout: BufReader<ChildStdout>,
}

impl Up {
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
        let said: Said = serde_json::from_str(&line)
            .map_err(|error| format!("valise up did not say where it is: {error}"))?;
        let up = Self {
            url: said.address,
            enrolment_code: said.administrator_enrolment_code,
            child,
            _stdout: stdout,
        };
        let channel = connect(&up.url).await?;
        for service in SERVICES {
            tokio::time::timeout(PATIENCE, healthy(&channel, service)).await?;
        }
        Ok(up)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
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

/// How long it takes from nothing to healthy, in seconds.
pub(crate) async fn time_to_start(args: &Args, data: &Path) -> Result<f64> {
    let began = Instant::now();
    let up = Up::start(args, data).await?;
    let took = began.elapsed().as_secs_f64();
    up.stop().await?;
    Ok(took)
}

fn program(args: &Args) -> Result<PathBuf> {
    match &args.valise {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name("valise")),
    }
}
