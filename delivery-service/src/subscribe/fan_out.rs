//! From the log's news to the mailboxes of the streams that want them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use valise_proto::{DeviceId, Epoch, GroupId};

use crate::log::{Entry, News};

/// Items that may wait in a mailbox; beyond it the stream is told to read the log.
const MAILBOX: usize = 256;

/// What a stream finds in its mailbox.
#[derive(Clone, Debug)]
pub(crate) enum Letter {
    Entry {
        entry: Arc<Entry>,
        left: Arc<[DeviceId]>,
    },
    /// The log may have more of that group.
    Behind(GroupId),
    Inbox,
    Ephemeral {
        group: GroupId,
        epoch: Epoch,
        bytes: Bytes,
    },
}

#[derive(Default)]
struct Letters {
    queue: VecDeque<Letter>,
    /// Something was dropped: every group may have news.
    missed: bool,
}

/// Where news wait for one stream.
pub(crate) struct Mailbox {
    number: u64,
    device: DeviceId,
    letters: Mutex<Letters>,
    arrived: Notify,
    /// Another stream of the same device took over.
    pub(crate) displaced: CancellationToken,
}

impl Mailbox {
    /// Waits until there is something.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes all that is there, and whether something was dropped.
    pub(crate) fn take(&self) -> (VecDeque<Letter>, bool) {
        let mut letters = self.letters.lock();
        (
            std::mem::take(&mut letters.queue),
            std::mem::take(&mut letters.missed),
        )
    }

    fn put(&self, letter: Letter) {
        let mut letters = self.letters.lock();
        if letters.queue.len() >= MAILBOX {
            // What is in the log will be read there; ephemeral messages may be lost.
            letters.queue.clear();
            letters.missed = true;
        }
        if !letters.missed {
            letters.queue.push_back(letter);
        }
        drop(letters);
        self.arrived.notify_one();
    }

    fn miss(&self) {
        self.letters.lock().missed = true;
        self.arrived.notify_one();
    }
}

#[derive(Default)]
struct Table {
    groups: HashMap<GroupId, Vec<Arc<Mailbox>>>,
    devices: HashMap<DeviceId, Arc<Mailbox>>,
}

/// All mailboxes of this replica.
#[derive(Default)]
pub(crate) struct FanOut {
    table: Mutex<Table>,
    numbers: AtomicU64,
}

impl FanOut {
    /// A mailbox for a device's new stream; an older stream is told that it is displaced.
    pub(crate) fn open(&self, device: DeviceId) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            device,
            letters: Mutex::default(),
            arrived: Notify::new(),
            displaced: CancellationToken::new(),
        });
        let older = self.table.lock().devices.insert(device, Arc::clone(&mailbox));
        if let Some(older) = older {
            older.displaced.cancel();
        }
        mailbox
    }

    pub(crate) fn follow(&self, mailbox: &Arc<Mailbox>, group: GroupId) {
        self.table
            .lock()
            .groups
            .entry(group)
            .or_default()
            .push(Arc::clone(mailbox));
    }

    pub(crate) fn unfollow(&self, mailbox: &Mailbox, group: GroupId) {
        let mut table = self.table.lock();
        if let Some(followers) = table.groups.get_mut(&group) {
            followers.retain(|other| other.number != mailbox.number);
            if followers.is_empty() {
                table.groups.remove(&group);
            }
        }
    }

    pub(crate) fn close(&self, mailbox: &Mailbox, groups: impl Iterator<Item = GroupId>) {
        for group in groups {
            self.unfollow(mailbox, group);
        }
        let mut table = self.table.lock();
        let current = table.devices.get(&mailbox.device);
        if current.is_some_and(|current| current.number == mailbox.number) {
            table.devices.remove(&mailbox.device);
        }
    }

    /// Number of open streams.
    pub(crate) fn streams(&self) -> usize {
        self.table.lock().devices.len()
    }

    fn deliver(&self, news: News) {
        match news {
            News::Entry { entry, left } => {
                let table = self.table.lock();
                for mailbox in table.groups.get(&entry.group).into_iter().flatten() {
                    mailbox.put(Letter::Entry {
                        entry: Arc::clone(&entry),
                        left: Arc::clone(&left),
                    });
                }
            }
            News::Behind(group) => {
                let table = self.table.lock();
                for mailbox in table.groups.get(&group).into_iter().flatten() {
                    mailbox.put(Letter::Behind(group));
                }
            }
            News::Inbox(device) => {
                let mailbox = self.table.lock().devices.get(&device).cloned();
                if let Some(mailbox) = mailbox {
                    mailbox.put(Letter::Inbox);
                }
            }
            News::Ephemeral {
                group,
                epoch,
                sender,
                bytes,
            } => {
                let table = self.table.lock();
                for mailbox in table.groups.get(&group).into_iter().flatten() {
                    if mailbox.device != sender {
                        mailbox.put(Letter::Ephemeral {
                            group,
                            epoch,
                            bytes: bytes.clone(),
                        });
                    }
                }
            }
        }
    }

    /// Until the service stops: takes the log's news and delivers them.
    pub(crate) async fn run(&self, mut news: broadcast::Receiver<News>, stopping: CancellationToken) {
        loop {
            let item = tokio::select! {
                () = stopping.cancelled() => return,
                item = news.recv() => item,
            };
            match item {
                Ok(item) => self.deliver(item),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "live news were dropped: streams read the log");
                    let mailboxes: Vec<_> = self.table.lock().devices.values().cloned().collect();
                    for mailbox in mailboxes {
                        mailbox.miss();
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}
