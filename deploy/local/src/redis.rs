//! A Redis or Valkey server.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::folder::{Folder, Ground};
use crate::port::Port;
use crate::process::{Launch, Patience, Process};
use crate::programs::RedisProgram;
use crate::record::Record;
use crate::resp::{Answer, ask, ask_bytes};

/// What every server is started with: durable, evicts nothing, saves no snapshots of its own accord.
const BASE: &str = "\
bind 127.0.0.1
daemonize no
logfile \"\"
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
save \"\"
maxmemory-policy noeviction
stream-node-max-bytes 16384
repl-diskless-sync-delay 0
repl-ping-replica-period 1
";
/// What servers from 7.0 on know.
const NEWER: &str = "shutdown-timeout 0\n";

/// A server: standalone, or a node of a [`RedisCluster`](crate::RedisCluster) or a [`RedisSentinel`](crate::RedisSentinel).
#[derive(Debug)]
pub struct Redis {
    // Before the folder: a server is gone before its files are.
    process: Option<Process>,
    program: RedisProgram,
    port: Port,
    bus: Option<Port>,
    arguments: Vec<String>,
    password: Option<String>,
    paused: AtomicBool,
    record: Option<(Record, String)>,
    folder: Folder,
}

/// What a server is started as.
pub(crate) struct Node<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) name: String,
    /// Of its port, from the first.
    pub(crate) offset: u16,
    /// More lines in its configuration file.
    pub(crate) configuration: &'a str,
    /// More arguments, which override.
    pub(crate) extra: &'a [&'a str],
    /// Of the port on which nodes of a cluster talk to each other.
    pub(crate) bus: Option<u16>,
}

impl<'a> Node<'a> {
    pub(crate) fn plain(ground: &'a Ground, offset: u16) -> Self {
        Self {
            ground,
            name: "redis".to_owned(),
            offset,
            configuration: "",
            extra: &[],
            bus: None,
        }
    }
}

impl Redis {
    /// Starts a standalone Redis that syncs every write to disk.
    pub async fn start() -> Self {
        Self::start_with(RedisProgram::Redis, &[]).await
    }

    /// Starts a standalone server with more arguments, which override what it is started with otherwise.
    pub async fn start_with(program: RedisProgram, extra: &[&str]) -> Self {
        let node = Node {
            extra,
            ..Node::plain(&Ground::Thrown, 0)
        };
        Self::start_node(program, &node).await
    }

    pub(crate) async fn start_node(program: RedisProgram, node: &Node<'_>) -> Self {
        let ground = node.ground;
        loop {
            let mut server = Self {
                process: None,
                program,
                port: ground.port(node.offset),
                bus: node.bus.map(|offset| ground.port(offset)),
                arguments: node.extra.iter().map(|&argument| argument.to_owned()).collect(),
                password: password(node.extra),
                paused: AtomicBool::new(false),
                record: ground.record().map(|record| (record.clone(), node.name.clone())),
                folder: ground.folder(&node.name),
            };
            let newer = if program == RedisProgram::Outdated {
                ""
            } else {
                NEWER
            };
            server.configure(&format!("{BASE}{newer}{}", node.configuration));
            match server.run().await {
                Ok(()) => return server,
                // Somebody who does not claim ports was quicker.
                Err(words) if ground.any_port() && words.contains("Address already in use") => {}
                Err(words) => panic!("the redis server did not start: {words}"),
            }
        }
    }

    fn configure(&self, configuration: &str) {
        let mut text = format!(
            "{configuration}port {}\ndir {}\n",
            self.port(),
            self.folder().display()
        );
        if let Some(bus) = &self.bus {
            text += &format!("cluster-port {}\n", bus.number());
        }
        // The server itself rewrites it after a failover by Sentinel.
        fs::write(self.folder().join("redis.conf"), text).expect("cannot write the server's configuration");
    }

    /// Runs the server and waits until it answers; or says what it said before it ended.
    async fn run(&mut self) -> Result<(), String> {
        let mut arguments = vec!["redis.conf".to_owned()];
        arguments.extend(self.arguments.iter().cloned());
        let launch = Launch {
            program: self.program.path(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            folder: self.folder().to_owned(),
            log: self.folder().join("redis.log"),
            user: None,
            environment: Vec::new(),
            record: self.record.clone(),
            // With every write synced it loses nothing by a SIGKILL, but a shutdown is what a log should end with.
            end: if self.record.is_some() { "TERM" } else { "KILL" },
        };
        let mut process = launch.start();
        let patience = Patience::with("the redis server to answer");
        loop {
            if process.ended().is_some() {
                return Err(process.last_words());
            }
            match self.ask(&["PING"]).await {
                Ok(Answer::Error(text)) if text.starts_with("LOADING") => {}
                // Any other error is an answer too: a replica that waits for its primary, say.
                Ok(_) => break,
                Err(_) => {}
            }
            patience.look(|| process.last_words()).await;
        }
        self.process = Some(process);
        *self.paused.get_mut() = false;
        Ok(())
    }

    /// Its URL, without credentials.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn bus(&self) -> u16 {
        self.bus.as_ref().map_or(0, Port::number)
    }

    /// Its folder, with `redis.conf`, `redis.log` and `appendonlydir`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The id of its process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Whether it was started and is neither killed nor paused.
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.paused.load(Ordering::Relaxed)
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Starts it again on the same port and folder, after killing it if it runs.
    pub async fn restart(&mut self) {
        self.kill().await;
        if let Err(words) = self.run().await {
            panic!("the redis server did not start again: {words}");
        }
    }

    /// SIGSTOP: its connections stay, and nothing is answered.
    pub fn pause(&self) {
        if let Some(process) = &self.process {
            process.signal("STOP");
            self.paused.store(true, Ordering::Relaxed);
        }
    }

    /// SIGCONT.
    pub fn resume(&self) {
        if let Some(process) = &self.process {
            process.signal("CONT");
            self.paused.store(false, Ordering::Relaxed);
        }
    }

    /// The answer to one command, as `redis-cli` writes it to a file. An error of the server is an answer as well.
    pub async fn command(&self, command: &[&str]) -> String {
        match self.ask(command).await {
            Ok(answer) => answer.to_string(),
            Err(error) => panic!(
                "the redis server on port {} did not answer {}: {error}",
                self.port(),
                command[0]
            ),
        }
    }

    pub(crate) async fn ask(&self, command: &[&str]) -> io::Result<Answer> {
        ask(self.port(), self.password.as_deref(), command).await
    }

    pub(crate) async fn ask_bytes(&self, command: &[&[u8]]) -> io::Result<Answer> {
        ask_bytes(self.port(), self.password.as_deref(), command).await
    }

    /// A value of `INFO`.
    pub(crate) async fn info(&self, section: &str, name: &str) -> Option<String> {
        let text = self.ask(&["INFO", section]).await.ok()?.to_string();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }
}

fn password(arguments: &[&str]) -> Option<String> {
    let place = arguments
        .iter()
        .position(|&argument| argument == "--requirepass")?;
    arguments.get(place + 1).map(|&password| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_server_comes_back_with_its_data() {
        for program in [RedisProgram::Redis, RedisProgram::Valkey] {
            let mut server = Redis::start_with(program, &[]).await;
            assert_eq!(server.command(&["SET", "key", "a value"]).await, "OK");
            server.kill().await;
            assert!(server.ask(&["PING"]).await.is_err());
            server.restart().await;
            assert_eq!(server.command(&["GET", "key"]).await, "a value");
            assert_eq!(
                server.command(&["CONFIG", "GET", "appendfsync"]).await,
                "appendfsync\nalways"
            );
        }
    }

    #[tokio::test]
    async fn extra_arguments_override() {
        let server =
            Redis::start_with(RedisProgram::Redis, &["--appendonly", "no", "--requirepass", "x"]).await;
        assert_eq!(
            server.command(&["CONFIG", "GET", "appendonly"]).await,
            "appendonly\nno"
        );
        let stranger = ask(server.port(), None, &["PING"]).await.unwrap();
        assert!(stranger.to_string().starts_with("NOAUTH"), "{stranger}");
    }

    #[tokio::test]
    async fn a_paused_server_answers_once_resumed() {
        let server = Redis::start().await;
        server.pause();
        let mut answer = std::pin::pin!(server.command(&["PING"]));
        let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut answer).await;
        assert!(early.is_err(), "{early:?}");
        server.resume();
        assert_eq!(answer.await, "PONG");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_dropped_server() {
        let server = Redis::start().await;
        let (id, folder) = (server.id().unwrap(), server.folder().to_owned());
        drop(server);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        assert!(!folder.exists());
    }
}
