//! Copies the log out of Redis into PostgreSQL, and lets go of what need not stay in either.
//!
//! Every replica archives its share of the partitions, under leases ([`lease`](super::postgres::lease)). Round after round, for each
//! partition that changed: what is new of each changed group is copied ([`copy`]); entries that are archived and neither among a
//! group's newest nor young leave Redis, and entries that nobody needs any more leave the archive ([`upkeep`]).
//!
//! On the way it looks whether Redis still has the log that was archived: a server that came back with old data may have lost
//! answered entries and given their positions to others. Such a group is marked and frozen.

mod copy;
mod measures;
mod upkeep;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use valise_clock::Clock;
use valise_proto::{DeviceId, UserId, Uuid};

use self::measures::{Lag, Measures};
use super::StoreError;
use super::postgres::PostgresArchive;
use super::postgres::lease::{Lease, Leased, WriteError};
use super::redis::RedisLog;
use super::redis::partition::Partition;
use crate::config::ArchiveConfig;

/// Partitions that are copied at the same time.
const AT_ONCE: usize = 32;
/// A partition that has not said by then how far it is, is left for the next round.
const ANSWER: Duration = Duration::from_secs(5);

/// Says of which devices nobody waits for acknowledgements any more.
pub(crate) type Gone = Arc<dyn Fn(&UserId, DeviceId) -> bool + Send + Sync>;

/// One replica's part in archiving.
pub(crate) struct Archiver {
    pub(crate) hot: Arc<RedisLog>,
    pub(crate) archive: PostgresArchive,
    pub(crate) settings: ArchiveConfig,
    /// How long entries are kept at most.
    pub(crate) retention: Duration,
    pub(crate) clock: Clock,
    pub(crate) gone: Gone,
    holder: Uuid,
    held: Mutex<BTreeMap<Partition, Held>>,
    measures: Measures,
}

/// A partition that this replica archives.
#[derive(Clone, Copy, Debug)]
struct Held {
    token: i64,
    /// Up to this change it is archived.
    change: u64,
    /// How often its server may have lost something, and how often of these every group was compared since.
    suspected: u64,
    compared: u64,
    lag: Lag,
}

impl Archiver {
    pub(crate) fn new(
        hot: Arc<RedisLog>,
        archive: PostgresArchive,
        settings: ArchiveConfig,
        retention: Duration,
        clock: Clock,
        gone: Gone,
    ) -> Self {
        Self {
            hot,
            archive,
            settings,
            retention,
            clock,
            gone,
            holder: Uuid::new_v4(),
            held: Mutex::default(),
            measures: Measures::new(),
        }
    }

    /// Until `stopping`; then the leases are given back.
    pub(crate) async fn run(&self, stopping: CancellationToken) {
        let work = async { tokio::join!(self.keep_leases(), self.watch_servers(), self.work()) };
        stopping.run_until_cancelled(work).await;
        if let Err(error) = self.archive.release(self.holder).await {
            tracing::warn!(%error, "the leases could not be given back: they expire");
        }
    }

    async fn keep_leases(&self) {
        let mut tick = tokio::time::interval(self.settings.lease() / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = true;
        loop {
            tick.tick().await;
            match self.renew().await {
                Ok(()) => answered = true,
                // Tokens judge writes; a lease that may have gone is tried all the same.
                Err(error) if answered => {
                    tracing::warn!(%error, "leases cannot be kept: archiving waits");
                    answered = false;
                }
                Err(_) => {}
            }
        }
    }

    /// Says that this replica is alive, and learns what it holds.
    pub(crate) async fn renew(&self) -> Result<(), StoreError> {
        let leased = self.archive.lease(self.holder, self.settings.lease()).await?;
        self.hold(leased);
        Ok(())
    }

    fn hold(&self, leased: BTreeMap<u16, Leased>) {
        let mut held = self.held.lock();
        let before = std::mem::take(&mut *held);
        for (number, lease) in leased {
            let Some(partition) = Partition::from_number(number) else {
                continue;
            };
            let known = before.get(&partition).filter(|known| known.token == lease.token);
            held.insert(
                partition,
                known.copied().unwrap_or_else(|| Held {
                    token: lease.token,
                    change: lease.change,
                    // What happened before, nobody here has seen.
                    suspected: 1,
                    compared: 0,
                    lag: Lag::new(Instant::now()),
                }),
            );
        }
    }

    /// A server that is another one, or a restarted one, may have lost something.
    async fn watch_servers(&self) {
        let mut changed = self.hot.links().run_ids_changed();
        loop {
            let partitions = match changed.recv().await {
                Ok(partitions) => partitions,
                Err(broadcast::error::RecvError::Lagged(_)) => Partition::all().collect(),
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let mut held = self.held.lock();
            for partition in partitions.iter() {
                if let Some(held) = held.get_mut(partition) {
                    held.suspected += 1;
                }
            }
        }
    }

    async fn work(&self) {
        let mut tick = tokio::time::interval(self.settings.sweep());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut troubled = false;
        loop {
            tick.tick().await;
            let outcome = self.round().await;
            match &outcome {
                Err(error) if !troubled => tracing::warn!(%error, "archiving does not go on: trying again"),
                Ok(()) if troubled => tracing::info!("archiving goes on"),
                _ => {}
            }
            troubled = outcome.is_err();
        }
    }

    /// Everything once. A partition that fails does not hold up the others, nor what else there is to do.
    pub(crate) async fn round(&self) -> Result<(), StoreError> {
        let (copied, outcome) = self.copy().await;
        self.measure();
        let trimmed = self.trim(&copied).await;
        let swept = self.sweep().await;
        outcome.and(trimmed).and(swept)
    }

    /// Copies what is new. Of these partitions all is archived; and what was wrong with another one.
    async fn copy(&self) -> (Vec<u16>, Result<(), StoreError>) {
        let held: Vec<_> = self
            .held
            .lock()
            .iter()
            .map(|(partition, held)| (*partition, *held))
            .collect();
        // Read before what changed: everything up to it is found there. All are asked together: so those whose server is away cost
        // the others this time once.
        let asked: Vec<_> = held
            .iter()
            .map(|(partition, _)| timeout(ANSWER, self.hot.sequence(*partition)))
            .collect();
        let sequences = join_all(asked).await;
        let (mut copied, mut outcome) = (Vec::new(), Ok(()));
        let mut answered = Vec::new();
        for ((partition, held), sequence) in held.into_iter().zip(sequences) {
            match sequence {
                Ok(Ok(sequence)) => answered.push((partition, held, sequence)),
                Ok(Err(error)) => outcome = Err(error),
                Err(_) => outcome = Err(StoreError("a partition does not answer in time".to_owned())),
            }
        }
        let mut partitions = stream::iter(answered)
            .map(|(partition, held, sequence)| async move {
                (partition, self.partition(partition, held, sequence).await)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((partition, done)) = partitions.next().await {
            match done {
                Ok(()) => copied.push(partition.number()),
                // Another replica goes on with it.
                Err(WriteError::Stale) => self.lose(partition),
                Err(WriteError::Conflict) => {
                    outcome = Err(StoreError("a partition has conflicts".to_owned()));
                }
                Err(WriteError::Store(error)) => outcome = Err(error),
            }
        }
        (copied, outcome)
    }

    /// Copies what is new of a partition that has come up to `sequence`.
    async fn partition(&self, partition: Partition, held: Held, sequence: u64) -> Result<(), WriteError> {
        let lease = Lease {
            partition: partition.number(),
            token: held.token,
        };
        let suspect = held.suspected != held.compared || sequence < held.change;
        let change = if suspect {
            self.compare_all(lease, partition, held.change, sequence).await?
        } else if sequence > held.change {
            self.copy_changes(lease, partition, held.change, sequence).await?
        } else {
            held.change
        };
        if let Some(now) = self
            .held
            .lock()
            .get_mut(&partition)
            .filter(|now| now.token == held.token)
        {
            now.change = change;
            now.compared = held.suspected;
            now.lag.is(Instant::now(), sequence, change);
        }
        Ok(())
    }

    fn lose(&self, partition: Partition) {
        self.held.lock().remove(&partition);
    }

    fn leases(&self) -> BTreeMap<u16, i64> {
        let held = self.held.lock();
        held.iter()
            .map(|(partition, held)| (partition.number(), held.token))
            .collect()
    }

    fn measure(&self) {
        let held = self.held.lock();
        let now = Instant::now();
        let changes = held.values().map(|held| held.lag.changes).sum();
        let seconds = held.values().map(|held| held.lag.age(now)).max();
        self.measures.lag(changes, seconds.unwrap_or_default());
    }
}

impl fmt::Debug for Archiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archiver")
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}
