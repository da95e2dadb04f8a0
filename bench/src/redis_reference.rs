//! The references of the rows on Redis, on the same server: the append script alone, and a raw `XADD`.

use std::process::Stdio;
use std::time::Instant;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Script};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::Result;

/// The delivery service's script that appends, with all its checks and writes.
const APPEND: &str = concat!(
    include_str!("../../delivery-service/src/log/redis/scripts/common.lua"),
    "\n",
    include_str!("../../delivery-service/src/log/redis/scripts/windows.lua"),
    "\n",
    include_str!("../../delivery-service/src/log/redis/scripts/append.lua"),
);
/// What the script takes for an application message.
const APPLICATION: u8 = 3;
const CALLERS: usize = 50;
/// Of a partition that nothing else uses.
const TAG: &str = "{bench}";

/// One connection, 50 callers, one item a call; nothing around the script.
pub(crate) struct Scripts {
    connection: MultiplexedConnection,
    script: Script,
    group: [u8; 16],
}

impl Scripts {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let script = Script::new(APPEND);
        let group: [u8; 16] = rand::random();
        // Flags, epoch, position, its commit's and last proposal's position, time, origin, key of the creation.
        let head = vec![0_u8; 1 + 5 * 8 + 8 + 16];
        let () = redis::cmd("HSET")
            .arg(key("heads", &[]))
            .arg(&group)
            .arg(head)
            .query_async(&mut connection)
            .await?;
        Ok(Self {
            connection,
            script,
            group,
        })
    }

    /// Appends a second.
    pub(crate) async fn rate(&self, message: &[u8], count: usize) -> Result<f64> {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (mut connection, script, group) = (self.connection.clone(), self.script.clone(), self.group);
            let message = message.to_vec();
            callers.spawn(async move {
                for _ in 0..count / CALLERS {
                    append(&mut connection, &script, &group, &message).await?;
                }
                Result::Ok(())
            });
        }
        while let Some(called) = callers.join_next().await {
            called??;
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

async fn append(
    connection: &mut MultiplexedConnection,
    script: &Script,
    group: &[u8],
    message: &[u8],
) -> Result<()> {
    // Group and Welcome by number, kind, epoch, time, the newest proposal seen, entry id; then key and sender.
    let mut header = vec![0, 1, 0, 0, APPLICATION];
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&1_700_000_000_000_u64.to_be_bytes());
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&rand::random::<[u8; 8]>());
    header.extend_from_slice(&rand::random::<[u8; 32]>());
    let mut call = script.prepare_invoke();
    for name in ["heads", "chg", "ichg", "out", "ch"] {
        call.key(key(name, &[]));
    }
    for name in ["s:", "i:", "k:", "c:", "info:", "w:"] {
        call.key(key(name, group));
    }
    call.arg(1).arg(1).arg(group).arg(header).arg(message);
    let record: Vec<u8> = call.invoke_async(connection).await?;
    match record.first() {
        Some(0) => Ok(()),
        status => Err(format!("the script refuses: {status:?}").into()),
    }
}

fn key(name: &str, id: &[u8]) -> Vec<u8> {
    [TAG.as_bytes(), name.as_bytes(), id].concat()
}

/// Raw `XADD` of 1 KiB by `redis-benchmark`, 50 connections: commands a second.
pub(crate) async fn xadd_rate(port: u16, count: usize) -> Result<f64> {
    let output = Command::new("redis-benchmark")
        .args([
            "-p",
            &port.to_string(),
            "-c",
            "50",
            "-n",
            &count.to_string(),
            "--csv",
        ])
        .args(["XADD", "{bench}raw", "*", "b"])
        .arg("x".repeat(1024))
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("redis-benchmark: {error}"))?;
    let text = String::from_utf8(output.stdout)?;
    // A line of names, then one of values: what was called, commands a second, latencies.
    let values = text.lines().rfind(|line| line.contains("XADD"));
    let rate = values.and_then(|values| values.split("\",\"").nth(1));
    Ok(rate
        .ok_or("redis-benchmark says no rate")?
        .trim_matches('"')
        .parse()?)
}

/// Raw `XADD`s, one at a time.
pub(crate) struct Raw(MultiplexedConnection);

impl Raw {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        Ok(Self(
            redis::Client::open(url)?
                .get_multiplexed_async_connection()
                .await?,
        ))
    }

    pub(crate) async fn add(&mut self, message: &[u8]) -> Result<()> {
        let mut command = Cmd::new();
        command
            .arg("XADD")
            .arg("{bench}one")
            .arg("*")
            .arg("b")
            .arg(message);
        Ok(command.exec_async(&mut self.0).await?)
    }
}
