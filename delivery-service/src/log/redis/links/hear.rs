//! What the channels say.
//!
//! Each session with a node has one connection that subscribes to the channels of the partitions that the node owns, again every
//! two seconds, and at once when the node took a subscription away. A server confirms a subscription with the number of
//! those that the connection has: where that number grew, the channel was not heard before, and the partition is told as lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc, watch};

use super::command::{Heard, Push};
use super::dial::{Address, one_line};
use super::session::Session;
use super::topology::Topology;
use crate::log::redis::partition::Partition;

/// Pushes of one node that wait for a fence; what is beyond is told as lost.
const QUEUE: usize = 4096;
/// Pushes that one fence covers at most.
const BATCH: usize = 1024;
/// Subscriptions are issued again so often.
const AGAIN: Duration = Duration::from_secs(2);
/// And so soon after not all were confirmed.
const SOON: Duration = Duration::from_millis(250);

/// What comes over a connection for pushes.
#[derive(Debug)]
enum Incoming {
    Message(Push),
    /// With the number of subscriptions that the connection has by then.
    Subscribed(Partition, i64),
    Unsubscribed(i64),
}

/// The end of a connection that pushes are put into.
#[derive(Debug, Clone)]
pub(super) struct Ear {
    queue: mpsc::Sender<Incoming>,
    lost: Arc<Mutex<BTreeSet<Partition>>>,
    unsubscribed: Arc<Notify>,
}

/// The end that they are taken from.
#[derive(Debug)]
pub(super) struct Pushes {
    queue: mpsc::Receiver<Incoming>,
    lost: Arc<Mutex<BTreeSet<Partition>>>,
    unsubscribed: Arc<Notify>,
    /// Subscriptions that the connection has.
    count: i64,
}

/// Both ends.
pub(super) fn pushes() -> (Ear, Pushes) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (lost, unsubscribed) = (Arc::default(), Arc::new(Notify::new()));
    let ear = Ear {
        queue: sender,
        lost: Arc::clone(&lost),
        unsubscribed: Arc::clone(&unsubscribed),
    };
    let pushes = Pushes {
        queue: receiver,
        lost,
        unsubscribed,
        count: 0,
    };
    (ear, pushes)
}

impl Ear {
    /// Never waits: it runs inside the connection.
    pub(super) fn hear(&self, push: PushInfo) {
        let mut data = push.data.into_iter();
        let (channel, value) = (data.next(), data.next());
        let partition = match &channel {
            Some(Value::BulkString(channel)) => Partition::of_channel(channel),
            _ => None,
        };
        let incoming = match (push.kind, partition, value) {
            (PushKind::SMessage, Some(partition), Some(Value::BulkString(payload))) => {
                let payload = Bytes::from(payload);
                Incoming::Message(Push { partition, payload })
            }
            (PushKind::SSubscribe, Some(partition), Some(Value::Int(count))) => {
                Incoming::Subscribed(partition, count)
            }
            (PushKind::SUnsubscribe, _, Some(Value::Int(count))) => {
                self.unsubscribed.notify_one();
                Incoming::Unsubscribed(count)
            }
            _ => return,
        };
        if self.queue.try_send(incoming).is_err()
            && let Some(partition) = partition
        {
            self.lost.lock().insert(partition);
        }
    }
}

/// Which session hears each partition, and where to tell.
#[derive(Debug)]
pub(super) struct Hearing {
    told: mpsc::Sender<Heard>,
    /// The session that confirmed each partition last; 0 for none so far.
    sessions: Mutex<Vec<u64>>,
    /// Partitions that were ever confirmed.
    confirmed: watch::Sender<usize>,
}

impl Hearing {
    pub(super) fn new(told: mpsc::Sender<Heard>) -> Self {
        Self {
            told,
            sessions: Mutex::new(vec![0; usize::from(Partition::COUNT)]),
            confirmed: watch::Sender::new(0),
        }
    }

    /// Waits until every channel was confirmed once.
    pub(super) async fn all_confirmed(&self) {
        let all = usize::from(Partition::COUNT);
        // The sender is in self.
        let _ = self.confirmed.subscribe().wait_for(|count| *count == all).await;
    }

    /// A session hears a partition. Was it interrupted before?
    fn confirm(&self, partition: Partition, session: u64, fresh: bool) -> bool {
        let mut sessions = self.sessions.lock();
        let before = std::mem::replace(&mut sessions[partition.index()], session);
        drop(sessions);
        if before == 0 {
            self.confirmed.send_modify(|count| *count += 1);
            return false;
        }
        fresh || before != session
    }

    async fn tell(&self, heard: Heard) {
        // Nobody may listen.
        let _ = self.told.send(heard).await;
    }
}

/// Hands on what comes over a session's connection, in order, messages once fenced. Ends with the connection.
pub(super) async fn hand_on(topology: &Topology, session: &Session, mut pushes: Pushes) {
    let mut batch = Vec::new();
    while pushes.queue.recv_many(&mut batch, BATCH).await > 0 {
        let mut events = Vec::new();
        let mut message = None;
        for incoming in batch.drain(..) {
            match incoming {
                Incoming::Message(push) => {
                    message = Some(push.partition);
                    events.push(Heard::Message(push));
                }
                Incoming::Subscribed(partition, count) => {
                    let fresh = count > pushes.count;
                    pushes.count = count;
                    if topology.hearing.confirm(partition, session.id, fresh) {
                        lose(&mut events, partition);
                    }
                }
                Incoming::Unsubscribed(count) => pushes.count = count,
            }
        }
        if let Some(partition) = message
            && session.fence(partition).await.is_err()
        {
            // What cannot be shown now is read later.
            let unfenced = std::mem::take(&mut events);
            for event in unfenced {
                match event {
                    Heard::Message(push) => lose(&mut events, push.partition),
                    Heard::Lost(partitions) => {
                        for partition in partitions {
                            lose(&mut events, partition);
                        }
                    }
                }
            }
        }
        for partition in std::mem::take(&mut *pushes.lost.lock()) {
            lose(&mut events, partition);
        }
        for event in events {
            topology.hearing.tell(event).await;
        }
    }
    session.end("the connection for pushes was closed");
}

fn lose(events: &mut Vec<Heard>, partition: Partition) {
    match events.last_mut() {
        Some(Heard::Lost(partitions)) => partitions.push(partition),
        _ => events.push(Heard::Lost(vec![partition])),
    }
}

/// Keeps a session subscribed to what its node owns.
pub(super) async fn keep_subscribed(
    topology: &Arc<Topology>,
    session: &Session,
    mut connection: MultiplexedConnection,
    unsubscribed: Arc<Notify>,
) {
    let mut map = topology.map();
    loop {
        let owned = map.borrow_and_update().owned_by(&session.address);
        let wait = match subscribe(&mut connection, &owned).await {
            Ok(answers) if learn(topology, session, &answers) => AGAIN,
            Ok(_) => SOON,
            Err(reason) => return session.end(&reason),
        };
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = unsubscribed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn subscribe(
    connection: &mut MultiplexedConnection,
    owned: &[Partition],
) -> Result<Vec<Value>, String> {
    let mut pipeline = redis::pipe();
    // One command each: several channels of one command must be in one slot.
    for partition in owned {
        pipeline.cmd("SSUBSCRIBE").arg(partition.channel());
    }
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    connection
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(|error| one_line(&error))
}

/// Follows redirections. Were there no errors?
fn learn(topology: &Arc<Topology>, session: &Session, answers: &[Value]) -> bool {
    let mut clean = true;
    let mut other = None;
    for answer in answers {
        let Value::ServerError(error) = answer else {
            continue;
        };
        clean = false;
        let moved = (error.code() == "MOVED")
            .then(|| Address::of_redirection(&session.address, error.details().unwrap_or_default()))
            .flatten();
        match moved {
            Some((slot, address)) => topology.moved_slot(slot, &address),
            None => other = Some(error.code().to_owned()),
        }
    }
    session.unheard(other);
    if !clean {
        topology.nudge();
    }
    clean
}

impl Pushes {
    /// Told when the server took a subscription away.
    pub(super) fn unsubscribed(&self) -> Arc<Notify> {
        Arc::clone(&self.unsubscribed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(kind: PushKind, partition: Partition, value: Value) -> PushInfo {
        let channel = Value::BulkString(partition.channel().into_bytes());
        PushInfo {
            kind,
            data: vec![channel, value],
        }
    }

    #[test]
    fn what_does_not_fit_is_told_as_lost() {
        let (ear, pushes) = pushes();
        let [first, second] = [1, 2].map(|number| Partition::from_number(number).unwrap());
        for _ in 0..QUEUE {
            ear.hear(push(PushKind::SMessage, first, Value::BulkString(vec![1])));
        }
        assert!(pushes.lost.lock().is_empty());
        ear.hear(push(PushKind::SMessage, second, Value::BulkString(vec![1])));
        assert_eq!(*pushes.lost.lock(), BTreeSet::from([second]));
    }
    #[test]
    fn a_partition_is_lost_when_it_was_not_heard_for_a_while() {
        let hearing = Hearing::new(mpsc::channel(1).0);
        let partition = Partition::from_number(7).unwrap();
        // The first time, again, after a break, by another session, by the first one that still had it.
        assert!(!hearing.confirm(partition, 1, true));
        assert!(!hearing.confirm(partition, 1, false));
        assert!(hearing.confirm(partition, 1, true));
        assert!(hearing.confirm(partition, 2, true));
        assert!(hearing.confirm(partition, 1, false));
    }
}
