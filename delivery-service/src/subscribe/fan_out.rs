//! From the log's news to the mailboxes of the streams that want them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use valise_clock::Clock;
use valise_proto::{DeviceId, Epoch, GroupId};

use crate::log::{Entry, News};

/// Items that may wait in a mailbox; beyond it the stream is told to read the log.
const MAILBOX: usize = 256;
/// News that are delivered before the streams are told: what comes together leaves together, with one write to each connection.
const TOGETHER: usize = 64;

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

/// What waits in a mailbox.
#[derive(Default)]
pub(crate) struct Letters {
    pub(crate) queue: VecDeque<Letter>,
    /// Something was dropped: every group may have news.
    pub(crate) missed: bool,
    /// Groups whose log is another one than was thought. These are never dropped.
    pub(crate) other_logs: BTreeSet<GroupId>,
}

/// Where news wait for one stream.
pub(crate) struct Mailbox {
    number: u64,
    device: DeviceId,
    letters: Mutex<Letters>,
    arrived: Notify,
    /// Names the stream among those that the device has on all replicas: a later one by a greater number.
    pub(crate) stream: u64,
    /// All replicas were told of it.
    announced: AtomicBool,
    /// Another stream of the same device took over.
    pub(crate) displaced: CancellationToken,
}

impl Mailbox {
    /// Waits until there is something.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes all that is there.
    pub(crate) fn take(&self) -> Letters {
        std::mem::take(&mut *self.letters.lock())
    }

    /// Puts it in. Says whether the stream has to be told: where something lies there already, it has been told, or will be.
    fn put(&self, letter: Letter) -> bool {
        let mut letters = self.letters.lock();
        let first = letters.queue.is_empty() && !letters.missed;
        if letters.queue.len() >= MAILBOX {
            // What is in the log will be read there; ephemeral messages may be lost.
            letters.queue.clear();
            letters.missed = true;
        }
        if !letters.missed {
            letters.queue.push_back(letter);
        }
        first
    }

    /// Were all replicas told of the stream?
    pub(crate) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// All replicas hear of a device's streams in the same order. What comes after its own displaces this one, unless it was opened before: a
    /// replica that was stalled may tell late of a stream that has gone.
    fn heard_of(&self, stream: u64) {
        if stream == self.stream {
            self.announced.store(true, Ordering::Relaxed);
        } else if self.is_announced() && stream > self.stream {
            self.displaced.cancel();
        }
    }

    fn ring(&self) {
        self.arrived.notify_one();
    }

    fn tell_other_log(&self, group: GroupId) {
        self.letters.lock().other_logs.insert(group);
        self.arrived.notify_one();
    }

    fn miss(&self) {
        self.letters.lock().missed = true;
        self.arrived.notify_one();
    }
}

/// Who follows a group.
struct Followers {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Another number after each news of the group. None comes twice.
    news: u64,
}

#[derive(Default)]
struct Table {
    groups: HashMap<GroupId, Followers>,
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
            number: self.number(),
            device,
            letters: Mutex::default(),
            arrived: Notify::new(),
            // Milliseconds, and something to tell those of one of them apart.
            stream: (Clock::system().unix_millis() << 16) | u64::from(rand::random::<u16>()),
            announced: AtomicBool::new(false),
            displaced: CancellationToken::new(),
        });
        let older = self.table.lock().devices.insert(device, Arc::clone(&mailbox));
        if let Some(older) = older {
            older.displaced.cancel();
        }
        mailbox
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn follow(&self, mailbox: &Arc<Mailbox>, group: GroupId) {
        let mut table = self.table.lock();
        let followers = table.groups.entry(group).or_insert_with(|| Followers {
            mailboxes: Vec::new(),
            news: self.number(),
        });
        followers.mailboxes.push(Arc::clone(mailbox));
    }

    /// A number that changes with whatever is heard of a group, before any stream is told: what was read under another one may be
    /// out of date.
    pub(crate) fn news_of(&self, group: GroupId) -> u64 {
        let table = self.table.lock();
        let followers = table.groups.get(&group);
        followers.map_or_else(|| self.number(), |followers| followers.news)
    }

    /// Whoever follows a group of which there is news.
    fn with_news<'a>(&self, table: &'a mut Table, group: GroupId) -> &'a [Arc<Mailbox>] {
        let Some(followers) = table.groups.get_mut(&group) else {
            return &[];
        };
        followers.news = self.number();
        &followers.mailboxes
    }

    /// All streams: there may be news of anything.
    fn all_with_news(&self) -> Vec<Arc<Mailbox>> {
        let mut table = self.table.lock();
        for followers in table.groups.values_mut() {
            followers.news = self.number();
        }
        table.devices.values().cloned().collect()
    }

    pub(crate) fn unfollow(&self, mailbox: &Mailbox, group: GroupId) {
        let mut table = self.table.lock();
        if let Some(followers) = table.groups.get_mut(&group) {
            followers.mailboxes.retain(|other| other.number != mailbox.number);
            if followers.mailboxes.is_empty() {
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

    /// A group's log is found to be another one, or was repaired: whoever follows it is to look where they stand.
    pub(crate) fn other_log(&self, group: GroupId) {
        let mut table = self.table.lock();
        for mailbox in self.with_news(&mut table, group) {
            mailbox.tell_other_log(group);
        }
    }

    /// Number of open streams.
    pub(crate) fn streams(&self) -> usize {
        self.table.lock().devices.len()
    }

    /// Puts news into mailboxes, and notes those whose streams have to be told.
    fn deliver(&self, news: News, to_tell: &mut Vec<Arc<Mailbox>>) {
        let mut put = |mailbox: &Arc<Mailbox>, letter| {
            if mailbox.put(letter) {
                to_tell.push(Arc::clone(mailbox));
            }
        };
        match news {
            News::Entry { entry, left } => {
                let mut table = self.table.lock();
                for mailbox in self.with_news(&mut table, entry.group) {
                    let (entry, left) = (Arc::clone(&entry), Arc::clone(&left));
                    put(mailbox, Letter::Entry { entry, left });
                }
            }
            News::Behind(group) => {
                let mut table = self.table.lock();
                for mailbox in self.with_news(&mut table, group) {
                    put(mailbox, Letter::Behind(group));
                }
            }
            News::Inbox(device) => {
                let mailbox = self.table.lock().devices.get(&device).cloned();
                if let Some(mailbox) = mailbox {
                    put(&mailbox, Letter::Inbox);
                }
            }
            News::Stream { device, stream } => {
                let mailbox = self.table.lock().devices.get(&device).cloned();
                if let Some(mailbox) = mailbox {
                    mailbox.heard_of(stream);
                }
            }
            News::Ephemeral {
                group,
                epoch,
                sender,
                bytes,
            } => {
                let table = self.table.lock();
                let followers = table.groups.get(&group);
                for mailbox in followers.iter().flat_map(|followers| &followers.mailboxes) {
                    if mailbox.device != sender {
                        let bytes = bytes.clone();
                        put(mailbox, Letter::Ephemeral { group, epoch, bytes });
                    }
                }
            }
        }
    }

    /// Until the service stops: takes the log's news and delivers them.
    pub(crate) async fn run(&self, mut news: broadcast::Receiver<News>, stopping: CancellationToken) {
        let mut to_tell = Vec::new();
        loop {
            let mut item = tokio::select! {
                () = stopping.cancelled() => return,
                item = news.recv() => item,
            };
            for taken in 1.. {
                match item {
                    Ok(item) => self.deliver(item, &mut to_tell),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "live news were dropped: streams read the log");
                        for mailbox in self.all_with_news() {
                            mailbox.miss();
                        }
                    }
                    Err(RecvError::Closed) => return,
                }
                if taken == 1 {
                    // What was appended together comes at once. Where nothing more comes, this takes no time.
                    tokio::task::yield_now().await;
                }
                if taken == TOGETHER {
                    break;
                }
                item = match news.try_recv() {
                    Ok(item) => Ok(item),
                    Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                    // An end is heard of again.
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                };
            }
            to_tell.drain(..).for_each(|mailbox| mailbox.ring());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use valise_proto::Uuid;

    use super::*;

    const GROUP: GroupId = GroupId::from_bytes([7; 16]);

    fn device(number: u128) -> DeviceId {
        DeviceId::from_uuid(Uuid::from_u128(number))
    }

    fn ephemeral(number: u8) -> News {
        News::Ephemeral {
            group: GROUP,
            epoch: Epoch(1),
            sender: device(0),
            bytes: Bytes::copy_from_slice(&[number]),
        }
    }

    /// The numbers that were found, once told; and whether any were missed.
    async fn told(mailbox: &Mailbox) -> (Vec<u8>, bool) {
        let arrived = tokio::time::timeout(Duration::from_secs(20), mailbox.arrived());
        arrived.await.unwrap();
        let Letters { queue, missed, .. } = mailbox.take();
        let numbers = queue.into_iter().map(|letter| match letter {
            Letter::Ephemeral { bytes, .. } => bytes[0],
            other => panic!("{other:?}"),
        });
        (numbers.collect(), missed)
    }

    struct Scene {
        news: broadcast::Sender<News>,
        mailbox: Arc<Mailbox>,
        stop: CancellationToken,
        running: tokio::task::JoinHandle<()>,
    }

    impl Scene {
        /// These news wait before anybody takes them.
        fn with(waiting: impl Iterator<Item = u8>, room: usize) -> Self {
            let fan_out = Arc::new(FanOut::default());
            let mailbox = fan_out.open(device(1));
            fan_out.follow(&mailbox, GROUP);
            let (news, receiver) = broadcast::channel(room);
            for number in waiting {
                news.send(ephemeral(number)).unwrap();
            }
            let stop = CancellationToken::new();
            let told = stop.clone();
            let running = tokio::spawn(async move { fan_out.run(receiver, told).await });
            Self {
                news,
                mailbox,
                stop,
                running,
            }
        }

        async fn end(self) {
            self.stop.cancel();
            self.running.await.unwrap();
        }
    }

    #[test]
    fn a_stream_is_displaced_by_one_that_was_told_of_after_it() {
        let (fan_out, mut to_tell) = (FanOut::default(), Vec::new());
        let mailbox = fan_out.open(device(1));
        let other = fan_out.open(device(2));
        let mut hear = |stream| {
            let device = device(1);
            fan_out.deliver(News::Stream { device, stream }, &mut to_tell);
        };
        // Older than its own, for so long as that was not heard of.
        hear(mailbox.stream + 1);
        assert!(!mailbox.is_announced() && !mailbox.displaced.is_cancelled());
        hear(mailbox.stream);
        hear(mailbox.stream);
        assert!(mailbox.is_announced() && !mailbox.displaced.is_cancelled());
        hear(mailbox.stream - 1);
        assert!(!mailbox.displaced.is_cancelled(), "it was opened before");
        hear(mailbox.stream + 2);
        assert!(mailbox.displaced.is_cancelled());
        assert!(!other.displaced.is_cancelled(), "another device's");
    }

    #[tokio::test]
    async fn what_comes_together_is_told_once_and_nothing_is_lost_between() {
        let count = TOGETHER as u8 + 3;
        let scene = Scene::with(0..count, 256);
        let (mut found, _) = told(&scene.mailbox).await;
        assert!(found.len() >= TOGETHER, "{}", found.len());
        while found.len() < usize::from(count) {
            found.extend(told(&scene.mailbox).await.0);
        }
        assert_eq!(found, (0..count).collect::<Vec<_>>());
        assert!(scene.mailbox.arrived().now_or_never().is_none(), "told once");

        // Whoever has taken everything is told again.
        for number in 0..3 {
            scene.news.send(ephemeral(number)).unwrap();
            assert_eq!(told(&scene.mailbox).await, (vec![number], false));
        }
        scene.end().await;
    }

    #[tokio::test]
    async fn a_lag_is_heard_of() {
        // The oldest are gone before they are taken.
        let scene = Scene::with(0..20, 8);
        let (_, missed) = told(&scene.mailbox).await;
        assert!(missed);
        scene.end().await;
    }

    #[test]
    fn a_full_mailbox_says_that_something_was_missed() {
        let fan_out = FanOut::default();
        let mailbox = fan_out.open(device(1));
        fan_out.follow(&mailbox, GROUP);
        let mut to_tell = Vec::new();
        for _ in 0..=MAILBOX {
            fan_out.deliver(ephemeral(7), &mut to_tell);
        }
        assert_eq!(to_tell.len(), 1, "told once");
        let letters = mailbox.take();
        assert!(letters.missed && letters.queue.is_empty());
        // Whoever has taken that is told of what comes then.
        fan_out.deliver(ephemeral(8), &mut to_tell);
        assert_eq!(to_tell.len(), 2);
        let letters = mailbox.take();
        assert!(!letters.missed && letters.queue.len() == 1);
    }
}
