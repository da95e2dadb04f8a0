//! What every replica keeps in mind of the archive: which groups are regressed, and whether too much waits to be archived.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use opentelemetry::metrics::Gauge;
use parking_lot::{Mutex, RwLock};
use valise_proto::GroupId;
use valise_service_runtime::names;

use crate::log::StoreError;
use crate::log::postgres::PostgresArchive;
use crate::log::postgres::read::Mark;
use crate::log::redis::RedisLog;
use crate::log::redis::partition::Partition;

/// The backlog need not be known more often; and a partition that has not answered by then is taken to be where it was.
const COUNT: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    marks: RwLock<HashMap<GroupId, Mark>>,
    full: AtomicBool,
    most: u64,
    /// How far each partition was archived when PostgreSQL last answered.
    archived: Mutex<Option<Vec<u64>>>,
    /// How far each partition was when it last answered.
    sequences: Mutex<Vec<u64>>,
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
            sequences: Mutex::new(vec![0; usize::from(Partition::COUNT)]),
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
                self.count(hot, archive).await;
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

    async fn count(&self, hot: &RedisLog, archive: &PostgresArchive) {
        // While it does not answer, what was archived then is taken for all that is.
        if let Ok(Ok(changes)) = tokio::time::timeout(COUNT, archive.archived_changes()).await {
            *self.archived.lock() = Some(changes);
        }
        let Some(archived) = self.archived.lock().clone() else {
            return;
        };
        let asked = Partition::all().map(|partition| tokio::time::timeout(COUNT, hot.sequence(partition)));
        let answers = join_all(asked).await;
        let answers = answers.into_iter().map(|answer| answer.ok()?.ok());
        let waiting = waiting(&mut self.sequences.lock(), answers, &archived);
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
    }
}

/// How many changes are not archived. A partition that does not answer still has what waited there, and takes nothing new meanwhile.
fn waiting(known: &mut [u64], answers: impl Iterator<Item = Option<u64>>, archived: &[u64]) -> u64 {
    for (known, answer) in known.iter_mut().zip(answers) {
        *known = answer.unwrap_or(*known);
    }
    known
        .iter()
        .zip(archived)
        .map(|(sequence, archived)| sequence.saturating_sub(*archived))
        .sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_partition_that_is_away_counts_on() {
        let mut known = vec![0; 3];
        let mut count = |answers: [Option<u64>; 3], archived: [u64; 3]| {
            waiting(&mut known, answers.into_iter(), &archived)
        };
        assert_eq!(count([None, None, Some(9)], [5, 0, 2]), 7, "never heard of");
        assert_eq!(count([Some(8), Some(4), Some(9)], [5, 0, 9]), 7);
        assert_eq!(count([None, Some(6), None], [5, 4, 9]), 5);
        assert_eq!(
            count([Some(2), Some(6), Some(9)], [5, 6, 9]),
            0,
            "it was set back"
        );
    }
}
