//! Live news: what the channels say, made into [`News`]; and what they did not say, found by the partitions' sequences.
//!
//! Every change of a partition has the next number of its sequence, and a message says which. A number that was passed over, an interrupted
//! subscription, or a sequence that a sweep finds ahead of what was heard: then the indexes of changes tell which groups and inboxes to
//! read. Messages are hints all the same: one that comes twice or late is passed on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use valise_proto::{DeviceId, Epoch, GroupId, Uuid};

use super::keys::Keys;
use super::links::{Heard, Push};
use super::partition::Partition;
use super::relay::{self, Relay};
use super::scripts::Store;
use super::value::{StreamItem, damaged, number_or_zero, scores, stream};
use super::wire::{EntryMeta, Reader};
use crate::log::{News, StoreError};

/// A sweep goes over all partitions in so many parts.
const PARTS: u32 = 16;
/// A message that is on its way when a sweep looks has so long to arrive before it counts as lost.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// What a record of a message says.
#[derive(Clone, Debug)]
enum Record {
    /// A change, with what to tell of it: nothing, where nobody can be waiting.
    Change(u64, Option<News>),
    /// No change.
    Passing(News),
}

/// An ephemeral message as it goes over the channel.
pub(super) fn pack_ephemeral(group: GroupId, epoch: Epoch, sender: DeviceId, bytes: &[u8]) -> Bytes {
    let mut packed = vec![5];
    packed.extend_from_slice(group.as_bytes());
    packed.extend_from_slice(&epoch.0.to_be_bytes());
    packed.extend_from_slice(sender.as_uuid().as_bytes());
    packed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    packed.extend_from_slice(bytes);
    Bytes::from(packed)
}

/// A device's new stream as it goes over the channel.
pub(super) fn pack_stream(device: DeviceId, stream: u64) -> Bytes {
    let mut packed = vec![6];
    packed.extend_from_slice(device.as_uuid().as_bytes());
    packed.extend_from_slice(&stream.to_be_bytes());
    Bytes::from(packed)
}

fn read_message(payload: &Bytes) -> Result<Vec<Record>, StoreError> {
    let mut reader = Reader(payload);
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(match reader.byte()? {
            1 => {
                let sequence = reader.long()?;
                Record::Change(sequence, Some(read_entry(payload, &mut reader)?))
            }
            2 => Record::Change(reader.long()?, Some(News::Behind(reader.group()?))),
            3 => Record::Change(reader.long()?, Some(News::Inbox(reader.device()?))),
            4 => Record::Change(reader.long()?, None),
            5 => Record::Passing(News::Ephemeral {
                group: reader.group()?,
                epoch: reader.epoch()?,
                sender: reader.device()?,
                bytes: read_bytes(payload, &mut reader)?,
            }),
            6 => Record::Passing(News::Stream {
                device: reader.device()?,
                stream: reader.long()?,
            }),
            _ => return Err(damaged("message")),
        });
    }
    Ok(records)
}

fn read_bytes(payload: &Bytes, reader: &mut Reader<'_>) -> Result<Bytes, StoreError> {
    let size = reader.word()?;
    Ok(payload.slice_ref(reader.take(size as usize)?))
}

fn read_entry(payload: &Bytes, reader: &mut Reader<'_>) -> Result<News, StoreError> {
    let group = reader.group()?;
    let position = reader.position()?;
    let size = reader.byte()?;
    let meta = EntryMeta::read(reader.take(usize::from(size))?)?;
    let count = reader.short()?;
    let left = (0..count)
        .map(|_| reader.device())
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = read_bytes(payload, reader)?;
    Ok(News::Entry {
        entry: Arc::new(meta.entry(group, position, bytes)),
        left: left.into(),
    })
}

/// What was found out meanwhile.
enum Event {
    /// A sweep's look at a partition, with what was heard before it.
    Looked(Partition, u64, Result<Look, StoreError>),
    /// Has it been heard up to there?
    Due(Partition, u64),
    /// What changed after a number.
    Fetched(Partition, u64, Result<Changes, StoreError>),
}

/// A partition's sequence and its hand-offs.
type Look = (u64, Vec<StreamItem>);

struct Changes {
    sequence: u64,
    groups: Vec<GroupId>,
    devices: Vec<DeviceId>,
}

/// Where this replica stands with a partition.
#[derive(Clone, Default)]
struct Standing {
    /// The last change that was heard of, or read.
    heard: u64,
    /// Changes after this one must be read.
    behind: Option<u64>,
    fetching: bool,
    looking: bool,
}

/// Takes what is heard, for as long as the log is open.
pub(super) struct Follower {
    store: Store,
    relay: Arc<Relay>,
    news: broadcast::Sender<News>,
    partitions: Vec<Standing>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    next_part: u32,
}

impl Follower {
    /// Reads where all partitions stand. The channels are subscribed to already.
    pub(super) async fn start(
        store: Store,
        relay: Arc<Relay>,
        news: broadcast::Sender<News>,
    ) -> Result<Self, StoreError> {
        let mut looks: FuturesUnordered<_> = Partition::all()
            .map(|partition| look(store.clone(), partition))
            .collect();
        let mut partitions = vec![Standing::default(); usize::from(Partition::COUNT)];
        while let Some((partition, found)) = looks.next().await {
            let (sequence, records) = found?;
            partitions[partition.index()].heard = sequence;
            relay.consider(partition, records);
        }
        drop(looks);
        Ok(Self {
            store,
            relay,
            news,
            partitions,
            events: FuturesUnordered::new(),
            next_part: 0,
        })
    }

    pub(super) async fn run(
        mut self,
        mut heard: mpsc::Receiver<Heard>,
        sweep: Duration,
        stopping: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(sweep / PARTS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                item = heard.recv() => match item {
                    Some(Heard::Message(push)) => self.hear(&push),
                    Some(Heard::Lost(partitions)) => {
                        for partition in partitions {
                            let from = self.partitions[partition.index()].heard;
                            self.read_after(partition, from);
                        }
                    }
                    None => return,
                },
                Some(event) = self.events.next() => self.happened(event),
                _ = tick.tick() => self.sweep_part(),
            }
        }
    }

    fn tell(&self, news: News) {
        // Nobody may be listening.
        let _ = self.news.send(news);
    }

    fn hear(&mut self, push: &Push) {
        let partition = push.partition;
        let records = match read_message(&push.payload) {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "a message on a channel cannot be read");
                self.read_after(partition, self.partitions[partition.index()].heard);
                return;
            }
        };
        for record in records {
            match record {
                Record::Passing(news) => self.tell(news),
                Record::Change(sequence, news) => {
                    let before = self.partitions[partition.index()].heard;
                    if sequence > before + 1 {
                        self.read_after(partition, before);
                    }
                    let standing = &mut self.partitions[partition.index()];
                    standing.heard = standing.heard.max(sequence);
                    if let Some(news) = news {
                        self.tell(news);
                    }
                }
            }
        }
    }

    /// Changes after that number were missed.
    fn read_after(&mut self, partition: Partition, from: u64) {
        let standing = &mut self.partitions[partition.index()];
        standing.behind = Some(standing.behind.map_or(from, |behind| behind.min(from)));
        self.fetch(partition);
    }

    fn fetch(&mut self, partition: Partition) {
        let standing = &mut self.partitions[partition.index()];
        if standing.fetching {
            return;
        }
        let Some(from) = standing.behind.take() else {
            return;
        };
        standing.fetching = true;
        let store = self.store.clone();
        let fetch = async move { Event::Fetched(partition, from, changes(&store, partition, from).await) };
        self.events.push(fetch.boxed());
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Looked(partition, before, found) => {
                self.partitions[partition.index()].looking = false;
                match found {
                    Ok((sequence, records)) => {
                        self.relay.consider(partition, records);
                        if sequence < before {
                            self.went_back(partition, sequence);
                        }
                        self.compare(partition, sequence);
                    }
                    Err(error) => tracing::debug!(%error, "a partition could not be looked at"),
                }
            }
            Event::Due(partition, sequence) => {
                let heard = self.partitions[partition.index()].heard;
                if heard < sequence {
                    self.read_after(partition, heard);
                }
            }
            Event::Fetched(partition, from, found) => {
                let standing = &mut self.partitions[partition.index()];
                standing.fetching = false;
                match found {
                    Ok(changes) => {
                        if changes.sequence < from {
                            self.went_back(partition, changes.sequence);
                        } else {
                            standing.heard = standing.heard.max(changes.sequence);
                            self.fetch(partition);
                        }
                        for group in changes.groups {
                            self.tell(News::Behind(group));
                        }
                        for device in changes.devices {
                            self.tell(News::Inbox(device));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "missed changes are read at the next sweep");
                        standing.behind = Some(standing.behind.map_or(from, |behind| behind.min(from)));
                    }
                }
            }
        }
    }

    /// Less than what was heard, though that was fenced: the store lost something. What there is has to be read anew.
    fn went_back(&mut self, partition: Partition, sequence: u64) {
        tracing::error!(partition = partition.number(), "a partition went back in time");
        self.partitions[partition.index()].heard = sequence;
        self.read_after(partition, 0);
    }

    /// A sweep knows how far a partition is.
    fn compare(&mut self, partition: Partition, sequence: u64) {
        let standing = &mut self.partitions[partition.index()];
        if standing.behind.is_some() {
            self.fetch(partition);
        } else if sequence > standing.heard {
            let due = async move {
                tokio::time::sleep(ON_ITS_WAY).await;
                Event::Due(partition, sequence)
            };
            self.events.push(due.boxed());
        }
    }

    fn sweep_part(&mut self) {
        let part = self.next_part;
        self.next_part = (part + 1) % PARTS;
        for partition in Partition::all().filter(|partition| u32::from(partition.number()) % PARTS == part) {
            let standing = &mut self.partitions[partition.index()];
            if !standing.looking {
                standing.looking = true;
                let before = standing.heard;
                let look = look(self.store.clone(), partition);
                self.events.push(
                    look.map(move |(_, found)| Event::Looked(partition, before, found))
                        .boxed(),
                );
            }
        }
    }
}

async fn look(store: Store, partition: Partition) -> (Partition, Result<Look, StoreError>) {
    let commands = [sequence(partition), relay::records(partition)];
    let found = match store.ask_all(partition, commands).await {
        Ok([sequence, records]) => number_or_zero(sequence).and_then(|n| Ok((n, stream(records)?))),
        Err(error) => Err(error),
    };
    (partition, found)
}

fn sequence(partition: Partition) -> redis::Cmd {
    redis::cmd("HGET")
        .arg(Keys::of(partition).heads())
        .arg("seq")
        .take()
}

/// What changed after a number. The sequence is read first: whatever it counts is in the indexes then.
async fn changes(store: &Store, partition: Partition, from: u64) -> Result<Changes, StoreError> {
    let keys = Keys::of(partition);
    let after = |key: Vec<u8>| {
        redis::cmd("ZRANGEBYSCORE")
            .arg(key)
            .arg(format!("({from}"))
            .arg("+inf")
            .arg("WITHSCORES")
            .take()
    };
    let commands = [
        sequence(partition),
        after(keys.changes()),
        after(keys.inbox_changes()),
    ];
    let [sequence, groups, devices] = store.ask_all(partition, commands).await?;
    let groups = scores(groups)?
        .into_iter()
        .map(|(group, _)| GroupId::try_from(group.as_slice()).map_err(|_| damaged("group id")));
    let devices = scores(devices)?.into_iter().map(|(device, _)| {
        Uuid::from_slice(&device)
            .map(DeviceId::from_uuid)
            .map_err(|_| damaged("device id"))
    });
    Ok(Changes {
        sequence: number_or_zero(sequence)?,
        groups: groups.collect::<Result<_, _>>()?,
        devices: devices.collect::<Result<_, _>>()?,
    })
}
