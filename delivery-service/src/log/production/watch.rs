//! What every replica keeps in mind of the archive: which groups are regressed, and whether too much waits to be archived.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use opentelemetry::metrics::Gauge;
use parking_lot::{Mutex, RwLock};
use valise_proto::GroupId;
use valise_service_runtime::names;

use crate::log::StoreError;
use crate::log::postgres::PostgresArchive;
use crate::log::postgres::read::Mark;
use crate::log::redis::RedisLog;
use crate::log::redis::partition::Partition;

/// Partitions that are asked for their sequence at the same time.
const AT_ONCE: usize = 64;
/// The backlog need not be known more often.
const COUNT: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    marks: RwLock<HashMap<GroupId, Mark>>,
    full: AtomicBool,
    most: u64,
    /// How far each partition was archived when PostgreSQL last answered.
    archived: Mutex<Option<Vec<u64>>>,
    frozen: Gauge<u64>,
    unarchived: Gauge<u64>,
    /// Partitions that could not be used when that was last looked at.
    unusable: AtomicUsize,
    unusable_partitions: Gauge<u64>,
}

impl Watch {
    pub(super) fn new(most: u64) -> Self {
        let meter = opentelemetry::global::meter(names::SCOPE);
        Self {
            marks: RwLock::default(),
            full: AtomicBool::new(false),
            most,
            archived: Mutex::default(),
            frozen: meter.u64_gauge(names::FROZEN).build(),
            unarchived: meter.u64_gauge(names::UNARCHIVED).build(),
            unusable: AtomicUsize::new(0),
            unusable_partitions: meter.u64_gauge(names::UNUSABLE).build(),
        }
    }

    /// Is the group's log in Redis known to be another one than was archived?
    pub(super) fn is_regressed(&self, group: GroupId) -> bool {
        self.marks.read().get(&group).is_some_and(|mark| mark.regressed)
    }

    /// Was it ever repaired?
    pub(super) fn was_repaired(&self, group: GroupId) -> bool {
        self.marks.read().get(&group).is_some_and(|mark| mark.repairs > 0)
    }

    /// Does too much wait to be archived?
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// So many partitions cannot be used now. Said when it changes.
    pub(super) fn note_unusable(&self, partitions: usize) {
        self.unusable_partitions.record(partitions as u64, &[]);
        let before = self.unusable.swap(partitions, Ordering::Relaxed);
        if partitions == before {
            return;
        }
        if partitions > 0 {
            tracing::error!(
                partitions,
                "groups of so many of the 1024 partitions cannot be used: see the Redis servers"
            );
        } else {
            tracing::info!("all partitions can be used again");
        }
    }

    /// Known at once, here.
    pub(super) fn add_regressed(&self, group: GroupId) {
        // Unlike what will be read, so that it counts as news then.
        let repairs = u32::MAX;
        let mark = Mark {
            regressed: true,
            repairs,
        };
        self.marks.write().insert(group, mark);
    }

    /// The same of the end of it.
    pub(super) fn add_repaired(&self, group: GroupId) {
        let mark = Mark {
            regressed: false,
            repairs: u32::MAX,
        };
        self.marks.write().insert(group, mark);
    }

    /// Looks again and again, until it is dropped.
    pub(super) async fn run(
        &self,
        hot: &RedisLog,
        archive: &PostgresArchive,
        every: Duration,
        other_log: impl Fn(GroupId) + Send + Sync,
    ) {
        let marks = async {
            let mut tick = tokio::time::interval(every);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if let Err(error) = self.read_marks(archive, &other_log).await {
                    tracing::debug!(%error, "which groups are frozen is not known");
                }
            }
        };
        let backlog = async {
            let mut tick = tokio::time::interval(every.max(COUNT));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if let Err(error) = self.count(hot, archive).await {
                    tracing::debug!(%error, "how much waits to be archived is not known");
                }
            }
        };
        let resets = async {
            let mut tick = tokio::time::interval(every);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut closed = Closed::default();
            loop {
                tick.tick().await;
                if let Err(error) = closed.close_more(hot, archive).await {
                    tracing::debug!(%error, "groups that were reset could not be looked at");
                }
            }
        };
        tokio::join!(marks, backlog, resets);
    }

    async fn read_marks(
        &self,
        archive: &PostgresArchive,
        other_log: &(impl Fn(GroupId) + Sync),
    ) -> Result<(), StoreError> {
        let now: HashMap<_, _> = archive.marks().await?.into_iter().collect();
        self.frozen
            .record(now.values().filter(|mark| mark.regressed).count() as u64, &[]);
        let before = std::mem::replace(&mut *self.marks.write(), now.clone());
        // What is known of these groups was of another log.
        for (group, _) in now.iter().filter(|(group, mark)| before.get(group) != Some(mark)) {
            other_log(*group);
        }
        Ok(())
    }

    async fn count(&self, hot: &RedisLog, archive: &PostgresArchive) -> Result<(), StoreError> {
        // While it does not answer, what was archived then is taken for all that is.
        if let Ok(Ok(changes)) = tokio::time::timeout(COUNT, archive.archived_changes()).await {
            *self.archived.lock() = Some(changes);
        }
        let Some(archived) = self.archived.lock().clone() else {
            return Ok(());
        };
        let sequences: Vec<u64> = stream::iter(Partition::all())
            .map(|partition| hot.sequence(partition))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let waiting = sequences
            .iter()
            .zip(&archived)
            .map(|(sequence, archived)| sequence.saturating_sub(*archived))
            .sum();
        self.unarchived.record(waiting, &[]);
        let full = waiting > self.most;
        if full != self.full.swap(full, Ordering::Relaxed) {
            if full {
                tracing::error!(
                    waiting,
                    "too much waits to be archived: entries are refused until PostgreSQL has taken it"
                );
            } else {
                tracing::info!("entries are taken again");
            }
        }
        Ok(())
    }
}

/// Groups that were reset, and known to be closed in Redis.
#[derive(Default)]
struct Closed {
    groups: HashSet<GroupId>,
    /// The last one that was looked at again.
    seen: Option<GroupId>,
}

impl Closed {
    /// Closes those that are new here: this or another replica may have ended before it did so. And looks at one more, for Redis may have
    /// forgotten it since.
    async fn close_more(&mut self, hot: &RedisLog, archive: &PostgresArchive) -> Result<(), StoreError> {
        let resets = archive.resets().await?;
        let again = resets
            .iter()
            .find(|reset| self.seen.is_none_or(|seen| reset.group > seen))
            .map(|reset| reset.group);
        self.seen = again;
        for reset in resets {
            if (again == Some(reset.group) || !self.groups.contains(&reset.group))
                && hot.reset(reset.group, reset.successor, reset.at).await?.is_ok()
            {
                self.groups.insert(reset.group);
            }
        }
        Ok(())
    }
}
