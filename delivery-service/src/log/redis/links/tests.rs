//! Against real servers, which are killed, paused, demoted and reconfigured.

mod cluster;
mod fences;
mod gates;
mod sentinel;
mod standalone;
mod tls;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use valise_local_stack::Redis;

use super::{Command, Heard, Links, Push, Script};
use crate::log::redis::config::{RedisConfig, RedisMode};
use crate::log::redis::partition::Partition;

/// Whatever is awaited has happened by then, or never will.
const DEADLINE: Duration = Duration::from_secs(40);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn config(mode: RedisMode, urls: &[String]) -> RedisConfig {
    RedisConfig::new(mode, urls.iter().map(|url| url.parse().unwrap()).collect())
}

fn standalone(server: &Redis, wait_replicas: u32) -> RedisConfig {
    let mut config = config(RedisMode::Standalone, &[server.url()]);
    config.wait_replicas = Some(wait_replicas);
    config
}

async fn open(config: &RedisConfig) -> Links {
    Links::open(config).await.unwrap()
}

async fn refused(config: &RedisConfig) -> String {
    let error = Links::open(config).await.expect_err("it was let in").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn partition(number: u16) -> Partition {
    Partition::from_number(number).unwrap()
}

fn key(partition: Partition, name: &str) -> String {
    format!("{}{name}", partition.tag())
}

/// A command with one key.
fn command(name: &str, partition: Partition, key: &str, arguments: &[&str]) -> Command {
    let mut command = redis::cmd(name);
    command.arg(self::key(partition, key)).arg(arguments);
    Command::Plain(command)
}

async fn set(links: &Links, partition: Partition, key: &str, value: &str) {
    let done = links
        .call(partition, command("SET", partition, key, &[value]))
        .await;
    assert_eq!(done.unwrap(), Value::Okay);
}

async fn get(links: &Links, partition: Partition, key: &str) -> Option<String> {
    match links
        .call(partition, command("GET", partition, key, &[]))
        .await
        .unwrap()
    {
        Value::BulkString(value) => Some(String::from_utf8(value).unwrap()),
        Value::Nil => None,
        other => panic!("{other:?}"),
    }
}

/// Adds to a set and publishes, in one script: `KEYS` set and channel, `ARGV` what.
static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local added = redis.call('SADD', KEYS[1], ARGV[1])
         redis.pcall('SPUBLISH', KEYS[2], ARGV[1])
         return added",
    )
});

fn add(partition: Partition, what: &str) -> Command {
    Command::Script {
        script: &ADD,
        keys: vec![
            key(partition, "set").into_bytes(),
            partition.channel().into_bytes(),
        ],
        arguments: vec![what.as_bytes().to_vec()],
    }
}

async fn members(links: &Links, partition: Partition) -> BTreeSet<String> {
    match links
        .call(partition, command("SMEMBERS", partition, "set", &[]))
        .await
        .unwrap()
    {
        Value::Set(members) | Value::Array(members) => members
            .into_iter()
            .map(|member| match member {
                Value::BulkString(member) => String::from_utf8(member).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn message(partition: Partition, payload: &str) -> Heard {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Heard::Message(Push { partition, payload })
}

/// Waits for a message, and returns what was lost before it.
async fn hear(heard: &mut mpsc::Receiver<Heard>, expected: &Heard) -> BTreeSet<Partition> {
    let mut lost = BTreeSet::new();
    within("a message", async {
        loop {
            match heard.recv().await.expect("nothing is heard any more") {
                Heard::Lost(partitions) => lost.extend(partitions),
                message if message == *expected => return,
                Heard::Message(_) => {}
            }
        }
    })
    .await;
    lost
}

/// Waits until these partitions were told as lost.
async fn hear_lost(heard: &mut mpsc::Receiver<Heard>, expected: impl IntoIterator<Item = Partition>) {
    let mut expected: BTreeSet<_> = expected.into_iter().collect();
    within("lost partitions", async {
        while !expected.is_empty() {
            if let Heard::Lost(partitions) = heard.recv().await.expect("nothing is heard any more") {
                for partition in &partitions {
                    expected.remove(partition);
                }
            }
        }
    })
    .await;
}

/// How often a server ran a command.
async fn calls_of(server: &Redis, command: &str) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).await;
    let start = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|line| line.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

/// A replica of a standalone server, in step with it.
async fn replica_of(primary: &Redis, program: valise_local_stack::RedisProgram) -> Redis {
    let port = primary.port().to_string();
    let replica = Redis::start_with(program, &["--replicaof", "127.0.0.1", &port]).await;
    until("the replica to follow", async || {
        let info = primary.command(&["INFO", "replication"]).await;
        info.contains("state=online")
    })
    .await;
    replica
}
