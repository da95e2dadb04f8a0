//! A session with one node: three connections to one run of one server, which passed the gate.
//!
//! It is used until one of the connections fails, or the server is not any more what it was. Calls that have begun then go on
//! by themselves: their answers count if the fence says so.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::dial::{Address, one_line};
use super::fence::{Fence, Keys, Waiter};
use super::hear;
use super::open_error::OpenError;
use super::retry::Failure;
use super::topology::Topology;
use crate::log::redis::gate::{self, Identity};
use crate::log::redis::partition::Partition;

/// A server that does not answer a command by then hangs.
const ANSWER: Duration = Duration::from_secs(2);
/// The same for fences, which wait for replicas.
const FENCE_ANSWER: Duration = Duration::from_secs(3);
/// The server is judged again so often.
const JUDGE: Duration = Duration::from_secs(2);
/// Calls that wait for fences; beyond it callers wait.
const FENCES: usize = 8192;
/// Messages to publish that wait; beyond it they are lost.
const PUBLISH: usize = 1024;
/// Messages that are published together.
const PUBLISH_BATCH: usize = 64;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) address: Address,
    pub(super) identity: Identity,
    commands: MultiplexedConnection,
    fences: mpsc::Sender<Waiter>,
    publish: mpsc::Sender<(Partition, Bytes)>,
    /// Set when no call should begin any more.
    over: CancellationToken,
    why: Mutex<Option<String>>,
    unheard: Mutex<Option<String>>,
    /// What is wrong with the number of its replicas.
    concern: Mutex<Option<&'static str>>,
}

impl Session {
    /// Connects, judges, and begins to subscribe.
    pub(super) async fn open(topology: &Arc<Topology>, address: &Address) -> Result<Arc<Self>, OpenError> {
        let door = topology.dialer.door(address);
        let (ear, pushes) = hear::pushes();
        let (mut commands, mut fences, mut push) = tokio::try_join!(
            topology.dialer.connect(&door, ANSWER),
            topology.dialer.connect(&door, FENCE_ANSWER),
            topology.dialer.listen(&door, ANSWER, move |info| ear.hear(info)),
        )?;
        let passed = topology.gate.judge(address, &mut commands).await?;
        for other in [&mut fences, &mut push] {
            if gate::identity(address, other).await? != Some(passed.identity.clone()) {
                return Err(OpenError::Unreachable {
                    place: address.clone(),
                    reason: "it has been replaced while connecting".to_owned(),
                });
            }
        }
        let over = CancellationToken::new();
        let (fence_sender, fence_queue) = mpsc::channel(FENCES);
        let (publish_sender, publish_queue) = mpsc::channel(PUBLISH);
        let fence = Fence {
            address: address.clone(),
            connection: fences,
            identity: passed.identity.clone(),
            replicas: topology.replicas,
            keys: Keys::new(address.clone(), topology.map()),
            over: over.clone(),
        };
        topology.spawn(fence.run(fence_queue));
        topology.spawn(publish(commands.clone(), publish_queue));
        let session = Arc::new(Self {
            id: topology.next_session(),
            address: address.clone(),
            identity: passed.identity,
            commands,
            fences: fence_sender,
            publish: publish_sender,
            over,
            why: Mutex::new(None),
            unheard: Mutex::new(None),
            concern: Mutex::new(None),
        });
        session.note_replicas(passed.replicas, topology.replicas);
        session.hear(topology, pushes, push);
        Ok(session)
    }

    fn hear(self: &Arc<Self>, topology: &Arc<Topology>, pushes: hear::Pushes, push: MultiplexedConnection) {
        let (session, all) = (Arc::clone(self), Arc::clone(topology));
        topology.spawn(async move {
            let unsubscribed = pushes.unsubscribed();
            let hearing = async {
                tokio::join!(
                    hear::hand_on(&all, &session, pushes),
                    hear::keep_subscribed(&all, &session, push, unsubscribed),
                )
            };
            session.over.run_until_cancelled(hearing).await;
        });
    }

    /// Judges the server again and again, until the session is over. Returns why.
    pub(super) async fn watch(&self, topology: &Topology) -> OpenError {
        let mut commands = self.commands.clone();
        loop {
            tokio::select! {
                () = self.over.cancelled() => break,
                () = tokio::time::sleep(JUDGE) => {}
            }
            match topology.gate.judge(&self.address, &mut commands).await {
                Ok(passed) if passed.identity == self.identity => {
                    self.note_replicas(passed.replicas, topology.replicas);
                }
                Ok(_) => self.end("it is not the server that it was"),
                Err(error) => {
                    self.over.cancel();
                    return error;
                }
            }
        }
        OpenError::Unreachable {
            place: self.address.clone(),
            reason: self
                .why
                .lock()
                .take()
                .unwrap_or_else(|| "the connection was lost".to_owned()),
        }
    }

    /// No call begins any more, and the node is connected to anew.
    pub(super) fn end(&self, why: &str) {
        self.why.lock().get_or_insert_with(|| why.to_owned());
        self.over.cancel();
    }

    /// May calls begin?
    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// So many replicas are connected. What is wrong with that is said when it changes.
    fn note_replicas(&self, connected: u32, wait_replicas: u32) {
        let now = concern(connected, wait_replicas);
        let before = std::mem::replace(&mut *self.concern.lock(), now);
        if let Some(concern) = now.filter(|_| now != before) {
            tracing::warn!(server = %self.address, connected, wait_replicas, "{concern}");
        }
    }

    /// What is wrong with the number of its replicas.
    #[cfg(test)]
    pub(super) fn concern(&self) -> Option<&'static str> {
        *self.concern.lock()
    }

    /// Keeps what the server says instead of a confirmation.
    pub(super) fn unheard(&self, code: Option<String>) {
        *self.unheard.lock() = code;
    }

    /// What the server said last instead of a confirmation.
    pub(super) fn why_unheard(&self) -> Option<String> {
        self.unheard.lock().clone()
    }

    /// Sends commands together. Their answers are in order.
    pub(super) async fn send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let mut commands = self.commands.clone();
        commands
            .send_packed_commands(pipeline, 0, pipeline.len())
            .await
            .map_err(|error| {
                let reason = one_line(&error);
                self.end(&reason);
                Failure::Again {
                    reason,
                    elsewhere: true,
                }
            })
    }

    /// Waits until what this session answered in a partition may be shown. Else says why not.
    pub(super) async fn fence(&self, partition: Partition) -> Result<(), String> {
        let lost = || "the connection was lost".to_owned();
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { partition, answer };
        self.fences.send(waiter).await.map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }

    /// Publishes, or not.
    pub(super) fn publish(&self, partition: Partition, payload: Bytes) {
        // Lost, as said.
        let _ = self.publish.try_send((partition, payload));
    }
}

/// What operators must know where a primary has not as many replicas as are waited for.
fn concern(connected: u32, wait_replicas: u32) -> Option<&'static str> {
    match connected.cmp(&wait_replicas) {
        Ordering::Less => Some("fewer replicas than redis.wait_replicas: nothing can be written or read"),
        Ordering::Equal => None,
        Ordering::Greater => Some(
            "more replicas than redis.wait_replicas: a failover to one that lacks what was answered would lose it; set it to their number",
        ),
    }
}

async fn publish(mut connection: MultiplexedConnection, mut queue: mpsc::Receiver<(Partition, Bytes)>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, PUBLISH_BATCH).await > 0 {
        let mut pipeline = redis::pipe();
        for (partition, payload) in batch.drain(..) {
            pipeline
                .cmd("SPUBLISH")
                .arg(partition.channel())
                .arg(payload.as_ref());
        }
        // What was not published is lost, as said.
        let _ = connection
            .send_packed_commands(&pipeline, 0, pipeline.len())
            .await;
    }
}
