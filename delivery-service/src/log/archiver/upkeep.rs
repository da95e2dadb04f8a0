//! What need not stay: in Redis, what is archived and neither among a group's newest entries nor young, and what is old; in the archive,
//! what every member has acknowledged or what is older than the retention time, the service's or the group's own.
//!
//! Trimming alone looks at archived entries in Redis again. Where one of them cannot be read, the group is frozen until it is repaired.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use valise_proto::Position;

use super::{AT_ONCE, Archiver};
use crate::group_state::retention_of;
use crate::log::StoreError;
use crate::log::postgres::lease::{Lease, WriteError};
use crate::log::postgres::retention::Sweepable;
use crate::log::postgres::trim::{AgainAt, Trimmable};
use crate::log::redis::is_damaged;
use crate::log::redis::partition::Partition;
use crate::log::regression::Regression;

/// Groups that one round looks at.
const GROUPS: usize = 1000;
/// A group is looked at so many times at most in the time that its entries stay in Redis.
const LOOKS: u64 = 20;

impl Archiver {
    /// Trims the groups of these partitions whose time has come. One that fails does not hold up the others.
    pub(super) async fn trim(&self, partitions: &[u16]) -> Result<(), StoreError> {
        let now = self.clock.unix_millis();
        let groups = self.archive.trimmable(partitions, now, GROUPS).await?;
        let mut done = stream::iter(groups)
            .map(|group| async move {
                match self.trim_group(group, now).await {
                    Err(error) if is_damaged(&error) => self.freeze_damaged(group, &error).await,
                    trimmed => trimmed,
                }
            })
            .buffer_unordered(AT_ONCE);
        let mut outcome = Ok(());
        while let Some(trimmed) = done.next().await {
            outcome = outcome.and(trimmed);
        }
        outcome
    }

    /// Safe whoever does it: what is archived stays so.
    async fn trim_group(&self, group: Trimmable, now: u64) -> Result<(), StoreError> {
        let hot = self.settings.hot_seconds.saturating_mul(1000);
        let young = self
            .archive
            .first_younger(group.number, group.trimmed, now.saturating_sub(hot))
            .await?;
        // At least one stays: by the newest archived entry it is seen whether the log is still the same.
        let by_number = group.archived.0.saturating_sub(self.settings.hot_entries.max(1));
        let by_age = young.map_or(u64::MAX, |(position, _)| position.0 - 1);
        let up_to = Position(by_number.min(by_age));
        let mut trimmed = group.trimmed;
        if up_to > trimmed {
            self.hot.trim(group.group, up_to).await?;
            trimmed = up_to;
        }
        // What is old goes, however few there are. How old, Redis knows alone: what nobody needs any more is not in the archive.
        let longest = self.settings.max_hot_seconds.saturating_mul(1000);
        let all_but_one = Position(group.archived.0.saturating_sub(1));
        let oldest = self
            .hot
            .trim_old(group.group, all_but_one, now.saturating_sub(longest))
            .await?;
        if let Some((oldest, _)) = oldest {
            trimmed = trimmed.max(all_but_one.min(Position(oldest.0 - 1)));
        }
        if trimmed > group.trimmed {
            self.measures.trimmed(trimmed.0 - group.trimmed.0);
        }
        let again = |first: Option<(Position, u64)>, stay: u64| {
            let due = first.map_or(0, |(_, accepted_at)| accepted_at.saturating_add(stay));
            due.max(now.saturating_add(stay / LOOKS))
        };
        let again_at = AgainAt {
            too_many: again(young, hot),
            old: again(oldest, longest),
        };
        self.archive
            .trimmed(group.number, trimmed, self.settings.hot_entries, again_at)
            .await
    }

    /// A group that can never be trimmed, as an entry of it cannot be read, is handled as one whose log is not the archived one.
    async fn freeze_damaged(&self, group: Trimmable, error: &StoreError) -> Result<(), StoreError> {
        let partition = Partition::of_group(&group.group);
        let Some(token) = self.leases().get(&partition.number()).copied() else {
            // Another replica comes to it.
            return Ok(());
        };
        let lease = Lease {
            partition: partition.number(),
            token,
        };
        // Closed before the rest is copied: what was answered in between would not be archived, and the repair would drop it.
        self.hot.set_frozen(group.group, true).await?;
        match self.copy_groups(lease, partition, &[group.group], None).await {
            Ok(()) => {}
            Err(WriteError::Stale) => return Ok(()),
            Err(WriteError::Conflict) => {
                return Err(StoreError("a damaged group has conflicts".to_owned()));
            }
            Err(WriteError::Store(error)) => return Err(error),
        }
        tracing::error!(
            group = %group.group,
            %error,
            "a group cannot be trimmed: an entry of it is damaged in Redis"
        );
        match self.archive.group(group.group).await? {
            Some(archived) => self.freeze(&archived, Regression::Damaged).await,
            None => Ok(()),
        }
    }

    /// Deletes old entries of the groups whose time has come.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let leases = self.leases();
        let partitions: Vec<u16> = leases.keys().copied().collect();
        let now = self.clock.unix_millis();
        for group in self.archive.sweepable(&partitions, now, GROUPS).await? {
            let Some(token) = leases.get(&group.partition) else {
                continue;
            };
            let lease = Lease {
                partition: group.partition,
                token: *token,
            };
            match self.sweep_group(lease, &group, now).await {
                // Another replica goes on with it.
                Ok(()) | Err(WriteError::Stale) => {}
                Err(WriteError::Conflict) => return Err(StoreError("a deletion conflicts".to_owned())),
                Err(WriteError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn sweep_group(&self, lease: Lease, group: &Sweepable, now: u64) -> Result<(), WriteError> {
        let readers = self.archive.readers(group.number).await?;
        let live = readers
            .iter()
            .filter(|reader| !(self.gone)(&reader.user, reader.device));
        // Without a single reader nobody waits for anything.
        let floor = live.map(|reader| reader.done).min().unwrap_or(group.archived);
        let group_info = self.archive.group_info(group.group).await?;
        let own = group_info.and_then(|(group_info, ..)| retention_of(&group_info));
        // A group may have less kept than the service keeps, and never more: key packages need not outlive that.
        let retention = own.map_or(self.retention, |own| own.min(self.retention));
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let young = self
            .archive
            .first_younger(group.number, group.deleted, now.saturating_sub(retention))
            .await?;
        let snapshot = self.archive.usable_snapshot(group.number, floor).await?;
        let interval = Duration::from_secs(self.settings.retention_sweep_seconds);
        let deletion = group.judge(
            floor,
            young.map(|(position, _)| position),
            snapshot,
            now,
            interval,
        );
        let deleted = self.archive.delete(lease, group, deletion).await?;
        self.measures.deleted(deleted);
        Ok(())
    }
}
