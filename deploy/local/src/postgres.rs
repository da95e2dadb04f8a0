//! A PostgreSQL server.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::folder::{Folder, Ground};
use crate::port::Port;
use crate::process::{Launch, Patience, Process, children, output, signal};
use crate::programs;
use crate::record::Record;

/// As durable as it is by default; small, and open to many pools.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=32MB",
    "max_connections=300",
    "logging_collector=off",
];

/// A server whose user `valise` needs no password from 127.0.0.1.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder: a server is gone before its files are.
    process: Option<Process>,
    port: Port,
    user: Option<(u32, u32)>,
    /// Beside [`SETTINGS`], which they override.
    more: Vec<String>,
    record: Option<(Record, String)>,
    folder: Folder,
}

impl Postgres {
    /// Creates an empty server and starts it, as user `nobody` if we are root, whom it does not serve.
    pub async fn start() -> Self {
        Self::start_on(&Ground::Thrown, 0).await
    }

    /// The same; or starts again the one that is there, on the same port.
    pub(crate) async fn start_on(ground: &Ground, offset: u16) -> Self {
        let mut server = Self {
            process: None,
            port: ground.port(offset),
            user: other_user(),
            more: Vec::new(),
            record: ground
                .record()
                .map(|record| (record.clone(), "postgres".to_owned())),
            folder: ground.folder("postgres"),
        };
        server.own_folder();
        if !server.data().exists() {
            server.create().await;
        }
        while let Err(words) = server.run().await {
            // Somebody who does not claim ports was quicker.
            let again = ground.any_port() && words.contains("Address already in use");
            assert!(again, "postgres did not start: {words}");
            server.port = ground.port(offset);
        }
        server
    }

    fn own_folder(&self) {
        let Some((user, group)) = self.user else { return };
        let folder = self.folder();
        chown(folder, Some(user), Some(group)).expect("cannot give the server its folder");
        let reached = Command::new("test")
            .arg("-x")
            .arg(folder)
            .uid(user)
            .gid(group)
            .status();
        assert!(
            reached.expect("cannot run test").success(),
            "postgres does not run as root, and the user nobody cannot reach {}",
            folder.display()
        );
    }

    /// In a folder of another name until it is complete. A second one for tests is a copy of the first.
    async fn create(&self) {
        let part = self.folder().join("data.part");
        drop(fs::remove_dir_all(&part));
        let template = if self.record.is_none() {
            template().await
        } else {
            None
        };
        match template {
            Some(template) if template.exists() => copy(&template, &part).await,
            template => {
                self.initdb(&part).await;
                if let Some(template) = template {
                    let unfinished = template.with_extension(std::process::id().to_string());
                    copy(&part, &unfinished).await;
                    // Somebody else may have been quicker.
                    if fs::rename(&unfinished, template).is_err() {
                        drop(fs::remove_dir_all(unfinished));
                    }
                }
            }
        }
        fs::rename(part, self.data()).expect("cannot rename the server's folder");
    }

    async fn initdb(&self, data: &Path) {
        let mut command = Command::new(programs::postgres("initdb"));
        command
            .args([
                "--username=valise",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--pgdata",
            ])
            .arg(data)
            .current_dir(self.folder());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        output(command).await;
    }

    async fn run(&mut self) -> Result<(), String> {
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.data().into()];
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        let port = format!("port={}", self.port());
        let own = [sockets.as_str(), port.as_str()];
        let more = self.more.iter().map(String::as_str);
        for setting in SETTINGS.into_iter().chain(own).chain(more) {
            arguments.extend(["-c".into(), setting.into()]);
        }
        let log = self.folder.path().join("postgres.log");
        // What is in it is about an earlier attempt.
        drop(fs::remove_file(&log));
        let launch = Launch {
            program: programs::postgres("postgres"),
            arguments,
            folder: self.folder.path().to_owned(),
            log,
            user: self.user,
            environment: Vec::new(),
            record: self.record.clone(),
            // Cuts connections, and leaves no shared memory behind, either way.
            end: if self.record.is_some() { "INT" } else { "QUIT" },
        };
        let mut process = launch.start();
        let patience = Patience::with("postgres to get ready");
        while !self.is_ready(process.id()) {
            if process.ended().is_some() {
                return Err(process.last_words());
            }
            patience.look(|| process.last_words()).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Whether the server with this id accepts connections, by its own note of it.
    fn is_ready(&self, id: u32) -> bool {
        let note = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<_> = note.lines().map(str::trim).collect();
        lines.first().and_then(|first| first.parse().ok()) == Some(id)
            && matches!(lines.get(7), Some(&("ready" | "standby")))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its folder, with `data` and `postgres.log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The path of one of PostgreSQL's programs, such as `psql` or `pgbench`.
    pub fn program(name: &str) -> PathBuf {
        programs::postgres(name)
    }

    /// The id of its process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The URL of the server's database of that name.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://valise@127.0.0.1:{}/{name}", self.port())
    }

    /// The URL of a database, which is created if it is not there.
    pub async fn database(&self, name: &str) -> String {
        let there = self
            .sql(&format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"))
            .await;
        if there.trim().is_empty() {
            self.sql(&format!("CREATE DATABASE \"{name}\"")).await;
        }
        self.url(name)
    }

    async fn sql(&self, statement: &str) -> String {
        let mut command = Command::new(programs::postgres("psql"));
        command
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "--host=127.0.0.1",
                "--username=valise",
            ])
            .args(["--dbname=postgres", "--command", statement, "--port"])
            .arg(self.port().to_string());
        output(command).await
    }

    /// Cuts every connection and stops at once, as a crash does; the next start recovers. (SIGQUIT, which leaves no
    /// shared memory behind.)
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A paused one does not hear it.
            signal_all(process.id(), "CONT");
            process.end("QUIT", Duration::from_secs(10)).await;
        }
    }

    /// Starts it again on the same port and folder, after stopping it if it runs.
    pub async fn restart(&mut self) {
        self.stop().await;
        if let Err(words) = self.run().await {
            panic!("postgres did not start again: {words}");
        }
    }

    /// The same with other settings, for example `fsync=off`, from now on.
    pub async fn restart_with(&mut self, settings: &[&str]) {
        self.more = settings.iter().map(|&setting| setting.to_owned()).collect();
        self.restart().await;
    }

    /// The same as a replica of what it was until now, which can only be read, from now on.
    pub async fn restart_as_replica(&mut self) {
        fs::write(self.data().join("standby.signal"), "").expect("cannot write to the server's folder");
        self.restart().await;
    }

    /// SIGSTOP, to all its processes: connections stay, and nothing is answered.
    pub fn pause(&self) {
        if let Some(process) = &self.process {
            signal_all(process.id(), "STOP");
        }
    }

    /// SIGCONT.
    pub fn resume(&self) {
        if let Some(process) = &self.process {
            signal_all(process.id(), "CONT");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_mut().filter(|_| self.record.is_none()) {
            signal_all(process.id(), "CONT");
            process.end_now("QUIT", Duration::from_secs(10));
        }
    }
}

/// The first process first: once stopped, it starts no others.
fn signal_all(id: u32, name: &str) {
    signal(name, &id.to_string());
    for child in children(id) {
        signal(name, &child.to_string());
    }
}

/// Where an empty server of this version is, or can be, beside the program of the test: making one costs seconds.
async fn template() -> Option<PathBuf> {
    let mut version = Command::new(programs::postgres("initdb"));
    version.arg("--version");
    let version = output(version).await;
    let version: String = version.chars().filter(char::is_ascii_alphanumeric).collect();
    let running = std::env::current_exe().ok()?;
    Some(running.parent()?.join(format!("empty-{version}")))
}

async fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    output(command).await;
}

/// User and group `nobody`, if we are root: for what root must not run, or must not be allowed.
pub fn other_user() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").expect("cannot read /proc").uid();
    if own != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("cannot read /etc/passwd");
    let nobody = users.lines().find_map(|line| line.strip_prefix("nobody:"));
    let mut words = nobody.expect("there is no user nobody").split(':').skip(1);
    let mut number = || words.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_server_comes_back_with_its_data() {
        let mut server = Postgres::start().await;
        let url = server.database("one").await;
        assert_eq!(url, format!("postgres://valise@127.0.0.1:{}/one", server.port()));
        assert_eq!(server.database("one").await, url);
        server.stop().await;
        assert!(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err());
        server.restart().await;
        let found = server
            .sql("SELECT count(*) FROM pg_database WHERE datname = 'one'")
            .await;
        assert_eq!(found.trim(), "1");
        assert_eq!(server.sql("SHOW fsync").await.trim(), "on");
        server.pause();
        server.resume();
        assert_eq!(server.sql("SELECT 'awake'").await.trim(), "awake");
        let (id, folder) = (server.id().unwrap(), server.folder().to_owned());
        server.pause();
        drop(server);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        assert!(!folder.exists());
    }
}
