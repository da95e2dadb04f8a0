//! The way to the servers: who has which partition, commands that are repeated until they are answered, fences, and pushes.
//!
//! [`Links`] knows for each partition the node that owns it (`topology`, which asks with `discover`). Each `node` is
//! connected to by three connections, for commands, fences and pushes, which together are a `session` with one run of one
//! server that has passed the gate. A call takes the owner's session, sends its commands, and waits for a `fence` of the same session:
//! if that cannot be had, the call begins anew. So an answer is returned only if it will not be taken back.

mod command;
pub(super) mod dial;
mod discover;
mod fence;
mod hear;
mod node;
mod open_error;
mod retry;
mod session;
#[cfg(test)]
mod tests;
mod topology;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::{RedisConfig, RedisMode};
use super::partition::Partition;
use crate::log::StoreError;
use dial::Address;
use retry::{Backoff, Failure, judge};
use session::Session;
use topology::Topology;

pub(crate) use command::{Command, Heard, Push, Script};
pub use open_error::OpenError;

/// How long a call is repeated.
const RETRY: Duration = Duration::from_secs(8);
/// How long a try waits for a connection.
const CONNECTION: Duration = Duration::from_millis(500);
/// How long servers that are failing over may take when the service starts.
const OPEN: Duration = Duration::from_secs(10);
/// Pause between two looks at them.
const LOOK: Duration = Duration::from_millis(100);
/// A readiness probe that takes longer has failed.
const PROBE: Duration = Duration::from_secs(2);
/// What was heard and not yet taken; beyond it, servers are not heard until it is.
const HEARD: usize = 1024;

/// The connections to all servers of the log. See the [module](self).
pub(crate) struct Links {
    topology: Arc<Topology>,
    heard: Mutex<Option<mpsc::Receiver<Heard>>>,
    _stop: DropGuard,
}

impl Links {
    /// Connects to all servers, judges them, and subscribes to all channels. Waits for servers that are failing over, but not for
    /// what an operator must put right.
    pub(crate) async fn open(config: &RedisConfig) -> Result<Self, OpenError> {
        let (told, heard) = mpsc::channel(HEARD);
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let topology = Arc::new(Topology::new(config, told, stop)?);
        let deadline = Instant::now() + OPEN;
        while let Err(error) = topology.refresh().await {
            // What nobody answers at all is a wrong address, rather than a failover.
            if !matches!(error, OpenError::Loading { .. }) || Instant::now() >= deadline {
                return Err(error);
            }
            sleep_until(Instant::now() + LOOK).await;
        }
        if config.mode != RedisMode::Standalone {
            topology.spawn(Arc::clone(&topology).follow());
        }
        loop {
            let Some(lacking) = Self::lacking(&topology).await else {
                break;
            };
            // A failover takes a while; a standalone server that is elsewhere stays there.
            let elsewhere = matches!(lacking, OpenError::Unreachable { .. } | OpenError::Replica { .. });
            let settled = config.mode == RedisMode::Standalone && elsewhere;
            if settled || !lacking.may_pass() || Instant::now() >= deadline {
                return Err(lacking);
            }
        }
        Ok(Self {
            topology,
            heard: Mutex::new(Some(heard)),
            _stop: guard,
        })
    }

    /// Why not every partition can be used and heard, after a little while.
    async fn lacking(topology: &Topology) -> Option<OpenError> {
        let confirmed = timeout(LOOK, topology.hearing.all_confirmed()).await;
        let map = topology.current();
        if map.orphans() > 0 {
            return Some(OpenError::Uncovered { count: map.orphans() });
        }
        let nodes = map.nodes();
        if let Some(down) = nodes.iter().find_map(|node| node.down()) {
            return Some((*down).clone());
        }
        if confirmed.is_ok() {
            return None;
        }
        let unheard = nodes.iter().find_map(|node| {
            let why = node.up()?.why_unheard()?;
            Some((node.address.clone(), why))
        });
        let (place, reason) = match unheard {
            Some(unheard) => unheard,
            None => (nodes.first()?.address.clone(), "no answer yet".to_owned()),
        };
        if reason == "NOPERM" {
            let command = "SSUBSCRIBE";
            return Some(OpenError::Forbidden { place, command });
        }
        Some(OpenError::Unheard { place, reason })
    }

    /// The answer to one command. On a passing error the same bytes are sent again, for 8 s in all: only for what may be
    /// done twice. The answer is fenced: the node that gave it is still the same, and `wait_replicas` replicas have everything
    /// up to it. After an error it is unknown whether the command was done.
    pub(crate) async fn call(&self, partition: Partition, command: Command) -> Result<Value, StoreError> {
        let mut values = self.calls(partition, vec![command]).await?;
        values
            .pop()
            .ok_or_else(|| StoreError("Redis gave no answer".to_owned()))
    }

    /// The answers to several commands of one partition, in order, sent together and fenced once. As with [`Links::call`], all
    /// of them are repeated. They are not one atomic step: where a slot moves and has keys on both sides, they go one after the other.
    pub(crate) async fn calls(
        &self,
        partition: Partition,
        commands: Vec<Command>,
    ) -> Result<Vec<Value>, StoreError> {
        let deadline = Instant::now() + RETRY;
        let unknown =
            |reason: &str| StoreError(format!("outcome unknown, repeat with the same key: {reason}"));
        let (mut backoff, mut asked, mut followed) = (Backoff::new(), None, false);
        let mut last = "no answer in time".to_owned();
        let (mut values, mut apart) = (Vec::with_capacity(commands.len()), false);
        loop {
            if self.topology.is_closed() {
                return Err(unknown("the connections have been closed"));
            }
            let mut stage = None;
            let rest = &commands[values.len()..];
            let next = if apart { &rest[..rest.len().min(1)] } else { rest };
            let attempt = self.attempt(partition, next, asked.take(), &mut stage);
            let failure = match timeout_at(deadline, attempt).await {
                Ok(Ok(answers)) => {
                    values.extend(answers);
                    if values.len() >= commands.len() {
                        return Ok(values);
                    }
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(_) => return Err(unknown(stage.unwrap_or(&last))),
            };
            match failure {
                Failure::Refused(code) => return Err(StoreError(format!("Redis answers {code}"))),
                Failure::Ask(to) => asked = Some(to),
                // Each is asked where its own keys are; in order, since callers count on what was read first being older.
                Failure::Apart => {
                    apart = true;
                    continue;
                }
                Failure::Moved(to) => {
                    self.topology.moved(partition, &to);
                    "the partition moves between nodes".clone_into(&mut last);
                    // The first one is followed at once.
                    if !std::mem::replace(&mut followed, true) {
                        continue;
                    }
                }
                Failure::Again { reason, elsewhere } => {
                    if elsewhere {
                        self.topology.nudge();
                    }
                    last = reason;
                }
                Failure::UnknownScript => "Redis forgets the script".clone_into(&mut last),
            }
            if asked.is_none() {
                let until = Instant::now() + backoff.pause();
                if until >= deadline {
                    return Err(unknown(&last));
                }
                sleep_until(until).await;
            }
        }
    }

    async fn attempt(
        &self,
        partition: Partition,
        commands: &[Command],
        ask: Option<Address>,
        stage: &mut Option<&'static str>,
    ) -> Result<Vec<Value>, Failure> {
        let asking = ask.is_some();
        let node = match ask {
            Some(address) => {
                let node = self.topology.node(&address);
                node.ask();
                Some(node)
            }
            None => self.topology.current().owner(partition).cloned(),
        };
        let Some(node) = node else {
            return Err(Failure::Again {
                reason: "no node of the cluster has the partition".to_owned(),
                elsewhere: true,
            });
        };
        let session = node.session(CONNECTION).await.map_err(|reason| Failure::Again {
            reason,
            elsewhere: true,
        })?;
        let values = send(&session, commands, asking).await?;
        if self.topology.replicas > 0 {
            *stage = Some("too few replicas have it");
            session.fence(partition).await.map_err(|reason| Failure::Again {
                reason,
                elsewhere: true,
            })?;
        }
        Ok(values)
    }

    /// What the channels say: messages once they are fenced, in order per partition. `None` if it has been taken.
    pub(crate) fn heard(&self) -> Option<mpsc::Receiver<Heard>> {
        self.heard.lock().take()
    }

    /// Publishes on a partition's channel without waiting; lost where it cannot be sent.
    pub(crate) fn publish(&self, partition: Partition, payload: Bytes) {
        let map = self.topology.current();
        if let Some(session) = map.owner(partition).and_then(|node| node.up()) {
            session.publish(partition, payload);
        }
    }

    /// Partitions for which, from now on, another server answers, or one that was restarted, promoted or given other data. A
    /// receiver that lagged must take it for all of them.
    pub(crate) fn run_ids_changed(&self) -> broadcast::Receiver<Arc<[Partition]>> {
        self.topology.changes()
    }

    /// How many partitions do not answer, or not with what can be fenced.
    pub(crate) async fn unusable(&self) -> usize {
        let map = self.topology.current();
        let probes = map.nodes().into_iter().map(|node| {
            let owned = map.owned_by(&node.address);
            async move {
                let fenced = match (node.up(), owned.first()) {
                    (Some(session), Some(partition)) => timeout(PROBE, session.fence(*partition)).await,
                    _ => return owned.len(),
                };
                if matches!(fenced, Ok(Ok(()))) {
                    0
                } else {
                    owned.len()
                }
            }
        });
        map.orphans() + join_all(probes).await.into_iter().sum::<usize>()
    }

    /// Ends all connections. Calls that are under way, or come later, get an error.
    pub(crate) async fn close(&self) {
        self.topology.close().await;
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// Sends commands, and once more with the scripts' sources if the node does not know them.
async fn send(session: &Session, commands: &[Command], asking: bool) -> Result<Vec<Value>, Failure> {
    let scripts = commands
        .iter()
        .any(|command| matches!(command, Command::Script { .. }));
    for by_source in [false, true] {
        let mut pipeline = redis::pipe();
        for command in commands {
            if asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.pack(by_source));
        }
        let mut answers = session.send(&pipeline).await?;
        if asking {
            answers = answers.into_iter().skip(1).step_by(2).collect();
        }
        if answers.len() != commands.len() {
            return Err(Failure::again("Redis gave too few answers"));
        }
        match judge(&session.address, &answers) {
            None => return Ok(answers),
            Some(Failure::UnknownScript) if scripts && !by_source => {}
            Some(failure) => return Err(failure),
        }
    }
    Err(Failure::UnknownScript)
}
