//! A key-package directory as a process of its own, on a PostgreSQL of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};
use valise_local_stack::{Port, Postgres};

use crate::args::Args;
use crate::server::{PATIENCE, Server, healthy, program};
use crate::{Result, machine};

const SERVICE: &str = "valise.directory.v1.KeyPackageDirectoryService";

/// The directory and its database.
pub(crate) struct Directory {
    url: String,
    pub(crate) database: String,
    _postgres: Postgres,
    child: Child,
    _port: Port,
}

impl Directory {
    /// Starts both. The directory knows the authentication service of `valise up`, whose data directory holds its key
    /// and certificate.
    pub(crate) async fn start(args: &Args, server: &Server, data: &Path, domain: &str) -> Result<Self> {
        let postgres = Postgres::start().await;
        let database = postgres.database("directory").await;
        let port = Port::free();
        let up = data.join("server");
        let config = data.join("directory.toml");
        let text = format!(
            r#"
            database = "{database}"
            [server]
            listen = "127.0.0.1:{port}"
            [limits]
            claim = {{ requests = 4000000000, seconds = 1 }}
            claim_of_one_device = {{ requests = 4000000000, seconds = 1 }}
            [peers]
            authentication = "{url}"
            issuer = "valise://{domain}"
            delivery = "{url}"
            key = "{up}/key-package-directory.key.pem"
            certificate = "{up}/key-package-directory.chain.pem"
            "#,
            port = port.number(),
            url = server.url,
            up = up.display(),
        );
        std::fs::write(&config, text)?;
        let program = program(args)?.with_file_name("valise-key-package-directory");
        let command = || {
            let mut command = Command::new(&program);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true);
            command
        };
        let migrated = command().arg("migrate").arg(&config).status().await;
        let migrated = migrated.map_err(|error| format!("{}: {error}", program.display()))?;
        if !migrated.success() {
            return Err("the directory's schema was not made".into());
        }
        let child = command().arg(&config).stderr(Stdio::null()).spawn()?;
        let url = format!("http://127.0.0.1:{}", port.number());
        let directory = Self {
            url,
            database,
            _postgres: postgres,
            child,
            _port: port,
        };
        let channel = directory.connect().await?;
        tokio::time::timeout(PATIENCE, healthy(&channel, SERVICE)).await?;
        Ok(directory)
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true);
        let began = Instant::now();
        loop {
            match endpoint.connect().await {
                Ok(channel) => return Ok(channel),
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        }
    }

    /// Processor time so far, in microseconds.
    pub(crate) fn processor_micros(&self) -> f64 {
        self.child.id().map_or(0.0, machine::processor_micros)
    }

    /// Runs statements.
    pub(crate) async fn sql(&self, statements: &str) -> Result<()> {
        let mut child = Command::new(Postgres::program("psql"))
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
            .arg(&self.database)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().ok_or("no input")?;
        input.write_all(statements.as_bytes()).await?;
        drop(input);
        if child.wait().await?.success() {
            Ok(())
        } else {
            Err("psql failed".into())
        }
    }
}
