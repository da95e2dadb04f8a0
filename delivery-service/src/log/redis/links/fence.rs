//! The fence: what a node answered is shown only when `wait_replicas` of its replicas have it, and it is still what it was.
//!
//! `WAIT` counts the replicas that have the last *write of its own connection* (since Redis 7.2 and in Valkey; in Redis 7.0 any
//! command of it moves the mark). So each fence writes a key of its own, to the replicas alone and not to the append-only file,
//! and waits for that: whatever was answered before comes earlier in the replication stream. One fence covers all who wait when it
//! is sent.
//!
//! Between the answer and the fence, the node may have been demoted and promoted again: it would then wait for a history
//! that has lost what it answered. A promotion changes the replication id, so that is compared after the `WAIT`.
//!
//! The key is in a partition that the node owns for good: one that was written to both sides of a moving slot would stop the
//! operator's `MIGRATE`. Only a node that is receiving its first slot has no such partition, and then the key's name is one
//! that nobody else has.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::dial::{Address, one_line, text};
use super::topology::Map;
use crate::log::redis::gate::{Identity, replication_id_of_primary};
use crate::log::redis::partition::Partition;

/// How long one `WAIT` lasts, in milliseconds. New ones that wait are covered by the next.
const WAIT: u64 = 500;
/// After an error that says that there are too few replicas.
const PAUSE: Duration = Duration::from_millis(50);
/// Most that one fence covers.
const BATCH: usize = 4096;
/// Keys that one fence tries, where slots are on the move.
const KEYS: usize = 8;
/// How long they stay, in milliseconds: a day, for those that are always the same.
const STAYS: u64 = 24 * 3600 * 1000;
const STAYS_BRIEFLY: u64 = 60 * 1000;

/// Writes to the replicas alone. A key that has been there before is only touched, which works when memory is full.
const WRITE: &str = "redis.set_repl(redis.REPL_REPLICA)
local answer
for each = 2, #ARGV do
  answer = redis.pcall('PEXPIRE', ARGV[each], ARGV[1])
  if answer == 0 then answer = redis.pcall('SET', ARGV[each], '', 'PX', ARGV[1]) end
  if type(answer) == 'number' or answer.ok then return 1 end
end
return answer";

/// Waits for a fence that is sent from now on.
#[derive(Debug)]
pub(super) struct Waiter {
    /// Where the node answered.
    pub(super) partition: Partition,
    /// The reason where there will be no fence.
    pub(super) answer: oneshot::Sender<Result<(), String>>,
}

/// The fences of one session with a node.
pub(super) struct Fence {
    pub(super) address: Address,
    pub(super) connection: MultiplexedConnection,
    pub(super) identity: Identity,
    pub(super) replicas: u32,
    pub(super) keys: Keys,
    /// Ends the session.
    pub(super) over: CancellationToken,
}

/// The keys that fences write.
pub(super) struct Keys {
    address: Address,
    map: watch::Receiver<Arc<Map>>,
    owned: Vec<String>,
    unique: u64,
}

impl Keys {
    pub(super) fn new(address: Address, mut map: watch::Receiver<Arc<Map>>) -> Self {
        map.mark_changed();
        Self {
            address,
            map,
            owned: Vec::new(),
            unique: rand::random(),
        }
    }

    /// Keys in partitions that the node owns.
    fn owned(&mut self) -> &[String] {
        if self.map.has_changed().unwrap_or(false) {
            let owned = self.map.borrow_and_update().owned_by(&self.address);
            self.owned = owned
                .iter()
                .take(KEYS)
                .map(|partition| format!("{}fence", partition.tag()))
                .collect();
        }
        &self.owned
    }

    /// A key in a partition that the node answered for, although it does not own it.
    fn passing(&self, batch: &[Waiter]) -> Option<String> {
        let tag = batch.first()?.partition.tag();
        Some(format!("{tag}fence-{:016x}", self.unique))
    }
}

enum Unfenced {
    /// Too few replicas have it so far.
    Wait,
    /// Those who wait must ask again.
    Lost(String),
    /// And the session is over.
    Over(String),
}

impl Fence {
    /// Serves those who wait, until nobody can come any more.
    pub(super) async fn run(mut self, mut waiters: mpsc::Receiver<Waiter>) {
        let mut batch = Vec::new();
        loop {
            if batch.is_empty() {
                if waiters.recv_many(&mut batch, BATCH).await == 0 {
                    return;
                }
            } else {
                while batch.len() < BATCH
                    && let Ok(waiter) = waiters.try_recv()
                {
                    batch.push(waiter);
                }
            }
            batch.retain(|waiter: &Waiter| !waiter.answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            let outcome = match self.pass(&batch).await {
                Ok(()) => Ok(()),
                Err(Unfenced::Wait) => continue,
                Err(Unfenced::Lost(reason)) => Err(reason),
                Err(Unfenced::Over(reason)) => {
                    tracing::debug!(server = %self.address, reason, "fence lost");
                    self.over.cancel();
                    Err(reason)
                }
            };
            for waiter in batch.drain(..) {
                // It may have given up.
                let _ = waiter.answer.send(outcome.clone());
            }
        }
    }

    async fn pass(&mut self, batch: &[Waiter]) -> Result<(), Unfenced> {
        let mut pipeline = redis::pipe();
        if self.replicas == 0 {
            // An answer comes after what was done before it is on disk.
            pipeline.cmd("PING");
        } else {
            let owned = self.keys.owned();
            if owned.is_empty() {
                // Lets a node write to a slot that is moving to it.
                pipeline.cmd("ASKING");
                pipeline
                    .cmd("EVAL")
                    .arg(WRITE)
                    .arg(0)
                    .arg(STAYS_BRIEFLY)
                    .arg(self.keys.passing(batch));
            } else {
                pipeline.cmd("EVAL").arg(WRITE).arg(0).arg(STAYS).arg(owned);
            }
            pipeline.cmd("WAIT").arg(self.replicas).arg(WAIT);
            pipeline.cmd("INFO").arg("replication");
        }
        let answers = self
            .connection
            .send_packed_commands(&pipeline, 0, pipeline.len())
            .await
            .map_err(|error| Unfenced::Over(one_line(&error)))?;
        if self.replicas == 0 {
            return match answers.first() {
                Some(Value::ServerError(error)) => {
                    Err(Unfenced::Lost(format!("Redis answers {}", error.code())))
                }
                _ => Ok(()),
            };
        }
        let [.., written, waited, info] = answers.as_slice() else {
            return Err(Unfenced::Over("a fence got too few answers".to_owned()));
        };
        self.judge(written, waited, info).await
    }

    async fn judge(&self, written: &Value, waited: &Value, info: &Value) -> Result<(), Unfenced> {
        // What is lost is lost, however many replicas there are.
        let now = text(info).and_then(replication_id_of_primary);
        if now != Some(self.identity.replication_id.as_str()) {
            return Err(Unfenced::Over("the node was demoted".to_owned()));
        }
        match written {
            Value::Int(_) => {}
            Value::ServerError(error) if error.code() == "NOREPLICAS" => {
                tokio::time::sleep(PAUSE).await;
                return Err(Unfenced::Wait);
            }
            Value::ServerError(error) => {
                return Err(Unfenced::Lost(format!("a fence gets {}", error.code())));
            }
            _ => return Err(Unfenced::Over("a fence got no number".to_owned())),
        }
        match waited {
            Value::Int(have) if *have >= i64::from(self.replicas) => Ok(()),
            Value::Int(_) => Err(Unfenced::Wait),
            Value::ServerError(error) => Err(Unfenced::Over(format!("WAIT gets {}", error.code()))),
            _ => Err(Unfenced::Over("WAIT got no number".to_owned())),
        }
    }
}
