//! A `valise up` process of one's own, which can be killed and started again on the same port and data.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tonic::transport::{Channel, Endpoint};

use crate::command::{terminate, valise};
use crate::wait::soon;

/// What `valise up --json` says once it answers.
#[derive(Clone, Debug, Deserialize)]
struct Started {
    address: String,
    administrator_enrolment_code: Option<String>,
    user_enrolment_code: Option<String>,
    user: Option<String>,
}

/// All three services in one process.
pub struct Service {
    folder: TempDir,
    extra: Vec<String>,
    process: Child,
    url: String,
    /// What it said when it was started first.
    started: Started,
}

impl Service {
    /// On a free port, with new data.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments for `valise up`.
    pub async fn start_with(extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let extra: Vec<String> = extra.iter().map(|&argument| argument.to_owned()).collect();
        let (process, started) = launch(folder.path(), "127.0.0.1:0", &extra).await;
        let url = url(&started);
        Self {
            folder,
            extra,
            process,
            url,
            started,
        }
    }

    /// Where it answers, `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its data.
    pub fn data(&self) -> PathBuf {
        data(self.folder.path())
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log(self.folder.path())).unwrap_or_default()
    }

    /// The code with which the first administrator enrols.
    pub fn administrator_code(&self) -> &str {
        self.started
            .administrator_enrolment_code
            .as_deref()
            .expect("a first start makes a code")
    }

    /// The first user, and a code for a device of theirs.
    pub fn first_user(&self) -> (&str, &str) {
        let user = self.started.user.as_deref().expect("a first start names a user");
        (
            user,
            self.started
                .user_enrolment_code
                .as_deref()
                .expect("a first start makes a code"),
        )
    }

    /// A new connection.
    pub async fn connect(&self) -> Channel {
        soon(
            Endpoint::from_shared(self.url.clone())
                .unwrap()
                .tcp_nodelay(true)
                .connect(),
        )
        .await
        .unwrap()
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Asks it to end, and waits until it has, with success.
    pub async fn terminate(mut self) {
        terminate(self.process.id().expect("it is running"));
        assert!(soon(self.process.wait()).await.unwrap().success());
    }

    /// Starts it again with the same data on the same port.
    pub async fn restart(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        let (process, started) = launch(self.folder.path(), &address, &self.extra).await;
        assert_eq!(url(&started), self.url);
        self.process = process;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            for line in tail.iter().rev() {
                eprintln!("valise up: {line}");
            }
        }
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

fn url(started: &Started) -> String {
    format!("http://{}", started.address.trim_start_matches("http://"))
}

async fn launch(folder: &Path, listen: &str, extra: &[String]) -> (Child, Started) {
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log(folder))
        .unwrap();
    let data = data(folder);
    let mut command = valise(["up", "--json", "--listen", listen, "--data"]);
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "info");
    }
    command
        .arg(&data)
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut process = command.spawn().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = soon(output.next_line()).await.unwrap();
    let Some(line) = line else {
        panic!(
            "valise up did not start: {}",
            std::fs::read_to_string(folder.join("log")).unwrap()
        )
    };
    let started = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    // It may go on to say things.
    tokio::spawn(async move { while let Ok(Some(_)) = output.next_line().await {} });
    (process, started)
}
