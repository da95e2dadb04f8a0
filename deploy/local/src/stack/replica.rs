//! One process of a service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::folder::{Folder, Ground};
use crate::port::Port;
use crate::process::{Launch, PATIENCE, Patience, Process, try_output};
use crate::record::Record;

/// A replica of a service, which can be killed and started again.
#[derive(Debug)]
pub struct Replica {
    // Before the folder: a service is gone before its files are.
    process: Mutex<Option<Process>>,
    program: PathBuf,
    name: String,
    port: Port,
    environment: Vec<(String, String)>,
    record: Option<Record>,
    folder: Folder,
}

impl Replica {
    /// With a port and a folder; it does not run yet. Replicas count from 0 here, and from 1 in names.
    pub(super) fn prepare(
        ground: &Ground,
        program: &Path,
        offset: u16,
        index: usize,
        environment: &[(String, String)],
    ) -> Self {
        let service = program.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{service}-{}", index + 1);
        let mut environment = environment.to_vec();
        // Where somebody looks into something, with more words.
        environment.extend(std::env::var("RUST_LOG").map(|filter| ("RUST_LOG".to_owned(), filter)));
        Self {
            process: Mutex::new(None),
            program: program.to_owned(),
            port: ground.port(offset + u16::try_from(index).expect("a small number")),
            environment,
            record: ground.record().cloned(),
            folder: ground.folder(&name),
            name,
        }
    }

    pub(super) fn configure(&self, settings: &str) {
        fs::write(self.settings(), settings).expect("cannot write the settings of a service");
    }

    fn settings(&self) -> PathBuf {
        self.folder.path().join("settings.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The id of its process, while it runs.
    pub async fn id(&self) -> Option<u32> {
        self.process.lock().await.as_ref().map(Process::id)
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs its program with this command and its settings; returns what it says, or where it fails complains of.
    pub async fn operate(&self, command: &[&str]) -> Result<String, String> {
        let mut program = Command::new(&self.program);
        program
            .args(command)
            .arg(self.settings())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path());
        try_output(program).await
    }

    /// Starts it, and does not wait.
    pub(super) async fn begin(&self) {
        self.begin_with(&[]).await;
    }

    async fn begin_with(&self, more: &[(&str, &str)]) {
        let mut environment = self.environment.clone();
        environment.extend(
            more.iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned())),
        );
        let launch = Launch {
            program: self.program.clone(),
            arguments: vec![self.settings().into()],
            folder: self.folder.path().to_owned(),
            log: self.log_file(),
            user: None,
            environment,
            record: self.record.clone().map(|record| (record, self.name.clone())),
            end: if self.record.is_some() { "TERM" } else { "KILL" },
        };
        *self.process.lock().await = Some(launch.start());
    }

    /// Waits until it says that it serves.
    pub async fn serves(&self) {
        let patience = Patience::with(format!("{} to serve", self.name));
        while !self.is_serving().await {
            let words = {
                let mut process = self.process.lock().await;
                let process = process
                    .as_mut()
                    .unwrap_or_else(|| panic!("{} was not started", self.name));
                let words = process.last_words();
                assert!(process.ended().is_none(), "{} ended: {words}", self.name);
                words
            };
            patience.look(|| words).await;
        }
    }

    /// Whether it says that it is ready to serve (gRPC health).
    pub async fn is_serving(&self) -> bool {
        let endpoint = Endpoint::from_shared(self.url()).expect("its URL is one");
        let asked = timeout(Duration::from_secs(5), async {
            let channel = endpoint.connect().await.ok()?;
            let asked = HealthClient::new(channel)
                .check(HealthCheckRequest::default())
                .await;
            Some(asked.ok()?.into_inner().status())
        });
        matches!(asked.await, Ok(Some(ServingStatus::Serving)))
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        self.end("KILL").await;
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn terminate(&self) {
        self.end("TERM").await;
    }

    async fn end(&self, signal: &str) {
        if let Some(mut process) = self.process.lock().await.take() {
            process.end(signal, PATIENCE).await;
        }
    }

    /// Starts it again on the same port, after killing it if it runs, and waits until it serves.
    pub async fn restart(&self) {
        self.kill().await;
        self.begin().await;
        self.serves().await;
    }

    /// The same with more variables in its environment, this time.
    pub async fn restart_with(&self, more: &[(&str, &str)]) {
        self.kill().await;
        self.begin_with(more).await;
        self.serves().await;
    }

    /// Starts it on the same port unless it runs, as an orchestrator does, and does not wait. Says whether it had to.
    pub async fn revive(&self) -> bool {
        let ended = match self.process.lock().await.as_mut() {
            Some(process) => process.ended().is_some(),
            None => true,
        };
        if ended {
            self.begin().await;
        }
        ended
    }

    /// SIGSTOP: its connections stay, and nothing is answered.
    pub async fn pause(&self) {
        self.signal("STOP").await;
    }

    /// SIGCONT.
    pub async fn resume(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        if let Some(process) = &*self.process.lock().await {
            process.signal(name);
        }
    }
}
