//! Takes hand-offs from the partition of a group to those of its joiners: Welcomes into inboxes, the group onto users' lists; and, of a group
//! that was reset, the news into its members' inboxes.
//!
//! The record of a hand-off is written with the commit, in the same step. Whoever appended takes it over at once; what a crash left
//! is found by the sweep of every replica. Each step may be done twice: inboxes know an item by the commit that it came with, and the
//! record goes only when all of them have it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use valise_proto::{DeviceId, UserId};

use super::inbox::{self, Delivery};
use super::keys::Keys;
use super::partition::Partition;
use super::scripts::{Store, USER_GROUP, text};
use super::value::{StreamId, StreamItem, stream};
use super::wire::{HandOff, InboxRow, Record, ResetNotice};
use crate::log::StoreError;

/// A record that has been there for so long was left behind by somebody.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// Records of a partition that are looked at together.
pub(super) const PAGE: usize = 64;
/// Users' lists that are written at the same time.
const AT_ONCE: usize = 16;

#[derive(Clone, Copy)]
enum Known {
    /// Seen, and left to whoever appended.
    Since(Instant),
    UnderWay,
}

pub(super) struct Relay {
    store: Store,
    inbox_kept: Duration,
    known: Mutex<HashMap<(Partition, StreamId), Known>>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Relay {
    pub(super) fn new(
        store: Store,
        inbox_kept: Duration,
        stopping: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            inbox_kept,
            known: Mutex::default(),
            stopping,
            tasks,
        })
    }

    /// Takes a record over, unless that is under way.
    pub(super) fn hand_over(self: &Arc<Self>, from: Partition, id: StreamId, record: Record) {
        let before = self.known.lock().insert((from, id), Known::UnderWay);
        if matches!(before, Some(Known::UnderWay)) {
            return;
        }
        let relay = Arc::clone(self);
        let work = async move {
            let done = relay.finish(from, id, &record).await;
            let mut known = relay.known.lock();
            match done {
                Ok(()) => known.remove(&(from, id)),
                Err(error) => {
                    tracing::warn!(%error, group = %record.group(), "a hand-off failed: it is tried again");
                    known.insert((from, id), Known::Since(Instant::now()))
                }
            };
        };
        self.tasks
            .spawn(self.stopping.clone().run_until_cancelled_owned(work));
    }

    async fn finish(&self, from: Partition, id: StreamId, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Joined(hand_off) => deliver(&self.store, self.inbox_kept, hand_off).await?,
            Record::Reset(notice) => tell_reset(&self.store, self.inbox_kept, notice).await?,
        }
        let command = redis::cmd("XDEL")
            .arg(Keys::of(from).out())
            .arg(format!("{}-{}", id.0, id.1))
            .take();
        self.store.ask(from, command).await?;
        Ok(())
    }

    /// What a sweep found: the first [`PAGE`] records of a partition. Takes over what was there a while ago already.
    pub(super) fn consider(self: &Arc<Self>, from: Partition, found: Vec<StreamItem>) {
        let mut old = Vec::new();
        {
            let mut known = self.known.lock();
            let ids: Vec<StreamId> = found.iter().map(|item| item.id).collect();
            if ids.len() < PAGE {
                // Others that were seen are done.
                known.retain(|(partition, id), known| {
                    *partition != from || matches!(known, Known::UnderWay) || ids.contains(id)
                });
            }
            for item in found {
                let first = known
                    .entry((from, item.id))
                    .or_insert_with(|| Known::Since(Instant::now()));
                if let Known::Since(seen) = first
                    && seen.elapsed() >= LEFT_BEHIND
                {
                    old.push(item);
                }
            }
        }
        self.take_over(from, old);
    }

    fn take_over(self: &Arc<Self>, from: Partition, records: Vec<StreamItem>) {
        for item in records {
            match Record::read(item.values.first().map_or(&[], Vec::as_slice)) {
                Ok(record) => self.hand_over(from, item.id, record),
                Err(error) => tracing::error!(%error, "a hand-off cannot be read"),
            }
        }
    }

    /// Takes over whatever a partition has, without waiting for a sweep.
    pub(super) fn look_at_once(self: &Arc<Self>, from: Partition) {
        let relay = Arc::clone(self);
        let work = async move {
            match relay.store.ask(from, records(from)).await.and_then(stream) {
                Ok(found) => relay.take_over(from, found),
                Err(error) => tracing::debug!(%error, "hand-offs wait for the next sweep"),
            }
        };
        self.tasks
            .spawn(self.stopping.clone().run_until_cancelled_owned(work));
    }
}

/// Asks for a partition's first records.
pub(super) fn records(partition: Partition) -> redis::Cmd {
    redis::cmd("XRANGE")
        .arg(Keys::of(partition).out())
        .arg("-")
        .arg("+")
        .arg("COUNT")
        .arg(PAGE)
        .take()
}

/// Gives all joiners what is theirs; each once, however often it is called.
pub(super) async fn deliver(store: &Store, kept: Duration, hand_off: &HandOff) -> Result<(), StoreError> {
    let mut users: Vec<UserId> = hand_off.joined.iter().map(|(user, _)| user.clone()).collect();
    users.sort_unstable();
    users.dedup();
    let lists = stream::iter(users)
        .map(|user| list_group(store, user, hand_off))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>();
    let welcomes = async {
        if hand_off.welcome {
            let devices = hand_off.joined.iter().map(|(_, device)| *device);
            inbox::put(store, kept, deliveries(hand_off, devices)).await
        } else {
            Ok(())
        }
    };
    futures::try_join!(lists, welcomes)?;
    Ok(())
}

fn deliveries(hand_off: &HandOff, devices: impl Iterator<Item = DeviceId>) -> Vec<Delivery> {
    let row = InboxRow::Welcome {
        group: hand_off.group,
        epoch: hand_off.epoch,
        commit: (hand_off.position, hand_off.id),
    };
    let content = row.pack(hand_off.accepted_at);
    let mut mark = hand_off.group.to_vec();
    mark.extend_from_slice(hand_off.id.as_bytes());
    devices
        .map(|device| Delivery {
            device,
            mark: mark.clone(),
            at: None,
            content: content.clone(),
        })
        .collect()
}

/// Tells all members of a reset; each once.
async fn tell_reset(store: &Store, kept: Duration, notice: &ResetNotice) -> Result<(), StoreError> {
    let content = InboxRow::GroupReset(notice.reset).pack(notice.at);
    let mut mark = notice.reset.group.to_vec();
    mark.extend_from_slice(notice.reset.successor.as_bytes());
    let deliveries = notice.devices.iter().map(|&device| Delivery {
        device,
        mark: mark.clone(),
        at: None,
        content: content.clone(),
    });
    inbox::put(store, kept, deliveries.collect()).await
}

async fn list_group(store: &Store, user: UserId, hand_off: &HandOff) -> Result<(), StoreError> {
    let partition = Partition::of_user(&user);
    let names = vec![Keys::of(partition).user_groups(&user)];
    let arguments = vec![
        hand_off.group.to_vec(),
        text(hand_off.position.0),
        b"join".to_vec(),
    ];
    store.run(partition, &USER_GROUP, names, arguments).await?;
    Ok(())
}
