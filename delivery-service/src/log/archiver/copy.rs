//! What is new of a partition's groups, into the archive; and whether what is old is still the same.

use std::collections::{HashMap, HashSet};

use valise_proto::{EntryId, GroupId, Position};

use super::Archiver;
use crate::log::postgres::lease::{Lease, WriteError};
use crate::log::postgres::write::{Part, Upkeep};
use crate::log::postgres::{ArchivedGroup, Registration};
use crate::log::redis::partition::Partition;
use crate::log::redis::{HotRow, is_damaged};
use crate::log::regression::{self, Regression};
use crate::log::{EntryKind, StoreError};

/// Groups that are looked at together.
const GROUPS: usize = 128;
/// Entries of a group that are read at once: few enough for one answer, so that all of them are of one moment.
const ROWS: usize = 32;
/// Where a group has larger entries, fewer are read at once.
const BYTES: usize = 8 * 1024 * 1024;
/// A transaction is written once it has so many entries, or bytes.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What a transaction will write.
#[derive(Default)]
struct Batch {
    parts: Vec<Part>,
    rows: usize,
    bytes: usize,
}

impl Batch {
    /// The new entries of a group, after those that are in already.
    fn add(&mut self, group: &ArchivedGroup, rows: Vec<HotRow>) {
        self.rows += rows.len();
        self.bytes += rows.iter().map(|row| row.entry.bytes.len()).sum::<usize>();
        match self
            .parts
            .last_mut()
            .filter(|part| part.group.group == group.group)
        {
            Some(part) => part.rows.extend(rows),
            None => self.parts.push(Part {
                group: *group,
                rows,
                windows: Vec::new(),
                group_info: None,
            }),
        }
    }

    /// Without what was added of a group last.
    fn leave_out(&mut self, group: GroupId) {
        if let Some(part) = self.parts.pop_if(|part| part.group.group == group) {
            self.rows -= part.rows.len();
            self.bytes -= size(&part.rows);
        }
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }
}

impl Archiver {
    /// Copies what changed after `from`; everything up to `sequence` is found among it. Says up to which change all is archived.
    pub(super) async fn copy_changes(
        &self,
        lease: Lease,
        partition: Partition,
        from: u64,
        sequence: u64,
    ) -> Result<u64, WriteError> {
        let mut change = from;
        loop {
            let changed = self.hot.changed(partition, change, GROUPS).await?;
            let all = changed.len() < GROUPS;
            let last = changed.last().map_or(change, |(_, last)| *last);
            // Numbers that are no group's are inboxes'.
            change = if all { last.max(sequence) } else { last };
            let groups: Vec<_> = changed.into_iter().map(|(group, _)| group).collect();
            self.copy_groups(lease, partition, &groups, Some(change)).await?;
            if all {
                return Ok(change);
            }
        }
    }

    /// Copies what is new of every group of a partition, and looks whether Redis still has all that is archived.
    pub(super) async fn compare_all(
        &self,
        lease: Lease,
        partition: Partition,
        before: u64,
        sequence: u64,
    ) -> Result<u64, WriteError> {
        let (mut seen, mut change) = (HashSet::new(), 0);
        loop {
            let changed = self.hot.changed(partition, change, GROUPS).await?;
            let all = changed.len() < GROUPS;
            change = changed.last().map_or(change, |(_, last)| *last);
            let groups: Vec<_> = changed.into_iter().map(|(group, _)| group).collect();
            // The change is kept at the end alone: to other replicas it would look like a large backlog.
            self.copy_groups(lease, partition, &groups, None).await?;
            seen.extend(groups);
            if all {
                break;
            }
        }
        self.find_lost(partition, &seen).await?;
        let change = change.max(sequence);
        if change != before {
            self.archive.write(lease, &[], Some(change), self.times()).await?;
        }
        Ok(change)
    }

    /// Groups that the archive knows and the index of changes does not.
    async fn find_lost(&self, partition: Partition, seen: &HashSet<GroupId>) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let page = self.archive.groups_of(partition.number(), after, GROUPS).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.number;
            for group in page.iter().filter(|group| !seen.contains(&group.group)) {
                let regression = match self.hot.head(group.group).await {
                    Ok(None) => Some(Regression::HeadLost),
                    Ok(Some(head)) if head.origin != group.head.origin => Some(Regression::OtherOrigin),
                    Ok(Some(head)) if head.position < group.head.position => Some(Regression::Shorter),
                    Ok(Some(_)) => None,
                    Err(error) if is_damaged(&error) => Some(Regression::Damaged),
                    Err(error) => return Err(error),
                };
                if let Some(regression) = regression {
                    self.freeze(group, regression).await?;
                }
            }
        }
    }

    pub(super) async fn copy_groups(
        &self,
        lease: Lease,
        partition: Partition,
        groups: &[GroupId],
        change: Option<u64>,
    ) -> Result<(), WriteError> {
        let mut known = self.known(partition, groups).await?;
        let mut batch = Batch::default();
        for group in groups {
            let Some(archived) = known.remove(group) else {
                continue;
            };
            if archived.head.frozen {
                // It was marked; should the mark in Redis be lost, it is set again.
                self.hot.set_frozen(archived.group, true).await?;
                continue;
            }
            match self.copy_group(lease, archived, &mut batch).await {
                // It must not hold up the others of its partition.
                Err(WriteError::Store(error)) if is_damaged(&error) => {
                    batch.leave_out(*group);
                    if let Some(now) = self.archive.group(*group).await? {
                        self.freeze(&now, Regression::Damaged).await?;
                    }
                }
                outcome => outcome?,
            }
        }
        if batch.rows > 0 || change.is_some() {
            self.write(lease, batch, change).await?;
        }
        Ok(())
    }

    /// What the archive knows of these groups. One that is new to it is registered.
    async fn known(
        &self,
        partition: Partition,
        groups: &[GroupId],
    ) -> Result<HashMap<GroupId, ArchivedGroup>, StoreError> {
        let found = self.archive.groups(groups).await?;
        let mut known: HashMap<_, _> = found.into_iter().map(|group| (group.group, group)).collect();
        for group in groups {
            if known.contains_key(group) {
                continue;
            }
            let row = match self.hot.head_row(*group).await {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(error) if is_damaged(&error) => {
                    tracing::error!(%group, %error, "a group that is not archived cannot be read: it is left out");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let registration = Registration {
                group: *group,
                partition: partition.number(),
                origin: row.head.origin,
                creation_key: Some(row.key),
                creator: None,
                group_info: None,
                at: row.accepted_at,
            };
            self.archive.register(&registration).await?;
            if let Some(group) = self.archive.group(*group).await? {
                known.insert(group.group, group);
            }
        }
        Ok(known)
    }

    /// All that is new of one group. Full batches are written on the way; and, before an entry that cannot be read, all that is before it.
    async fn copy_group(
        &self,
        lease: Lease,
        mut archived: ArchivedGroup,
        batch: &mut Batch,
    ) -> Result<(), WriteError> {
        // The newest entry that was read: the next answer must begin with it.
        let mut newest = (archived.head.position, archived.entry_id);
        // Before something that cannot be read, entries are read one by one.
        let mut singly = false;
        loop {
            let anchored = newest.0 > archived.trimmed;
            let after = if anchored {
                Position(newest.0.0 - 1)
            } else {
                newest.0
            };
            let most = if singly { 1 + usize::from(anchored) } else { ROWS };
            let rows = match self.hot.hot_rows(archived.group, after, most, BYTES).await {
                Ok(rows) => rows,
                Err(error) if !is_damaged(&error) => return Err(error.into()),
                Err(_) if !singly => {
                    singly = true;
                    continue;
                }
                Err(error) => {
                    self.complete(&archived, batch).await?;
                    self.write(lease, std::mem::take(batch), None).await?;
                    return Err(error.into());
                }
            };
            let complete = rows.len() < most && size(&rows) < BYTES / 2;
            let new = match continuation(newest, anchored, rows) {
                Ok(new) => new,
                Err(regression) => return Ok(self.freeze(&archived, regression).await?),
            };
            if new.is_empty() {
                if !anchored {
                    self.look_at_head(&archived).await?;
                }
                break;
            }
            if let Some(last) = new.last() {
                newest = (last.entry.position, last.entry.id);
            }
            batch.add(&archived, new);
            if batch.is_full() {
                self.complete(&archived, batch).await?;
                self.write(lease, std::mem::take(batch), None).await?;
                let Some(now) = self.archive.group(archived.group).await? else {
                    return Err(StoreError("an archived group has gone".to_owned()).into());
                };
                archived = now;
            }
            if complete {
                break;
            }
        }
        Ok(self.complete(&archived, batch).await?)
    }

    /// A group none of whose entries is in Redis has a head all the same.
    async fn look_at_head(&self, group: &ArchivedGroup) -> Result<(), StoreError> {
        match self.hot.head(group.group).await? {
            None => self.freeze(group, Regression::HeadLost).await,
            Some(head) if head.position < group.head.position => {
                self.freeze(group, Regression::Shorter).await
            }
            Some(_) => Ok(()),
        }
    }

    /// What comes with a group's commits, read after them: what is newer is left out when it is written.
    async fn complete(&self, group: &ArchivedGroup, batch: &mut Batch) -> Result<(), StoreError> {
        let last = batch.parts.last_mut();
        let Some(part) = last.filter(|part| part.group.group == group.group) else {
            return Ok(());
        };
        let last = part.rows.last().map(|row| row.entry.position);
        let first = part.group.head.position == Position::NONE;
        if first || part.rows.iter().any(|row| row.entry.kind == EntryKind::Commit) {
            let group = part.group.group;
            part.windows = self.hot.all_windows(group).await?;
            let info = self.hot.group_info(group).await?;
            part.group_info = info.filter(|(.., commit)| Some(*commit) <= last);
        }
        Ok(())
    }

    /// One transaction; where a group spoils it, one for each group.
    async fn write(&self, lease: Lease, batch: Batch, change: Option<u64>) -> Result<(), WriteError> {
        match self
            .archive
            .write(lease, &batch.parts, change, self.times())
            .await
        {
            Ok(()) => {
                self.measures.archived(batch.rows);
                return Ok(());
            }
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error),
        }
        for part in batch.parts {
            let group = part.group;
            match self.write_part(lease, part).await {
                Err(WriteError::Conflict) => self.freeze(&group, Regression::Conflict).await?,
                outcome => outcome?,
            }
        }
        self.archive.write(lease, &[], change, self.times()).await
    }

    /// What is new of one group. A key that a sender has used twice is no conflict: else anybody could have their group frozen.
    async fn write_part(&self, lease: Lease, part: Part) -> Result<(), WriteError> {
        let mut parts = [part];
        let written = self.archive.write(lease, &parts, None, self.times()).await;
        let [part] = &mut parts;
        if matches!(written, Err(WriteError::Conflict))
            && self.archive.free_keys(part.group.number, &mut part.rows).await?
        {
            return self.archive.write(lease, &parts, None, self.times()).await;
        }
        written
    }

    pub(super) async fn freeze(
        &self,
        group: &ArchivedGroup,
        regression: Regression,
    ) -> Result<(), StoreError> {
        regression::report(&self.hot, &self.archive, group, regression).await
    }

    /// When groups that get entries are to be looked at again.
    fn times(&self) -> Upkeep {
        let now = self.clock.unix_millis();
        Upkeep {
            hot_entries: self.settings.hot_entries,
            trim_at: now.saturating_add(self.settings.hot_seconds.saturating_mul(1000)),
            old_at: now.saturating_add(self.settings.max_hot_seconds.saturating_mul(1000)),
            sweep_at: now.saturating_add(self.settings.retention_sweep_seconds.saturating_mul(1000)),
        }
    }
}

fn size(rows: &[HotRow]) -> usize {
    rows.iter().map(|row| row.entry.bytes.len()).sum()
}

/// The rows after the newest known entry, if they continue it. With `anchored` that entry is the first row.
fn continuation(
    newest: (Position, EntryId),
    anchored: bool,
    mut rows: Vec<HotRow>,
) -> Result<Vec<HotRow>, Regression> {
    let (position, id) = newest;
    if anchored {
        let first = rows.first().ok_or(Regression::Shorter)?;
        if first.entry.position != position || first.entry.id != id {
            return Err(Regression::OtherEntry);
        }
        rows.remove(0);
    }
    let mut next = position.next();
    for row in &rows {
        if row.entry.position != next {
            return Err(Regression::Gap);
        }
        next = next.next();
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use valise_proto::{Epoch, IdempotencyKey};

    use super::*;
    use crate::log::Entry;

    fn id(position: u64) -> EntryId {
        EntryId::from_bytes(position.to_be_bytes())
    }

    fn rows(positions: &[u64]) -> Vec<HotRow> {
        let row = |position: &u64| HotRow {
            entry: Arc::new(Entry {
                group: GroupId::from_bytes([7; 16]),
                position: Position(*position),
                kind: EntryKind::Application,
                epoch: Epoch(0),
                accepted_at: 1000,
                id: id(*position),
                sender: None,
                bytes: Bytes::from_static(b"entry"),
            }),
            key: IdempotencyKey::from_bytes([7; 16]),
        };
        positions.iter().map(row).collect()
    }

    /// What of these is new, where entry 5 is the newest archived one.
    fn after_five(anchored: bool, positions: &[u64]) -> Result<Vec<u64>, Regression> {
        let new = continuation((Position(5), id(5)), anchored, rows(positions))?;
        Ok(new.iter().map(|row| row.entry.position.0).collect())
    }

    #[test]
    fn what_follows_the_newest_archived_entry_is_new() {
        assert_eq!(after_five(true, &[5, 6, 7]), Ok(vec![6, 7]));
        assert_eq!(after_five(true, &[5]), Ok(vec![]));
        assert_eq!(after_five(false, &[6, 7]), Ok(vec![6, 7]));
        assert_eq!(after_five(false, &[]), Ok(vec![]));
    }

    #[test]
    fn a_log_that_ends_before_the_newest_archived_entry_is_shorter() {
        assert_eq!(after_five(true, &[]), Err(Regression::Shorter));
    }

    #[test]
    fn another_entry_in_the_place_of_the_newest_archived_one_is_seen() {
        let other = continuation((Position(5), id(55)), true, rows(&[5, 6]));
        assert_eq!(other, Err(Regression::OtherEntry));
        assert_eq!(after_five(true, &[6]), Err(Regression::OtherEntry));
    }

    #[test]
    fn entries_that_are_missing_are_a_gap() {
        for positions in [&[5, 7][..], &[5, 6, 8]] {
            assert_eq!(after_five(true, positions), Err(Regression::Gap));
        }
        assert_eq!(after_five(false, &[7]), Err(Regression::Gap));
    }
}
