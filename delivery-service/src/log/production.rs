//! The production backend: order is decided in Redis, where the newest entries are; all others are in PostgreSQL.
//!
//! An entry leaves Redis only after it was archived. So whoever does not find something in Redis *first* finds it in the archive
//! *then*; the other way round it could be missed in both. Nothing else keeps the two halves without a seam.
//!
//! A group whose log in Redis is known to be another one than was archived is closed for writes, and read from the archive alone. What
//! cannot be read in Redis is read from the archive too, as far as that goes, until the archiver closes its group.

mod repair;
mod run;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::broadcast;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId};

pub use self::run::OpenError;

use self::watch::Watch;
use super::acknowledgements::Acknowledgements;
use super::offers::{Candidate, Frozen, OfferRefused, OfferedEntry, Restoration, restored_key};
use super::postgres::reset::KeptReset;
use super::postgres::{ArchivedGroup, PostgresArchive, Registration};
use super::redis::partition::Partition;
use super::redis::{RedisLog, is_damaged};
use super::regression::{self, Regression};
use super::{
    Append, Appended, CommitReport, Created, Entry, Head, InboxItem, Membership, NewGroup, News, Notice,
    OrderedLog, Refused, ReportedCommit, Reset, Snapshot, Standing, StoreError, Window,
};
use crate::config::ArchiveConfig;

/// The log on Redis and PostgreSQL.
pub(crate) struct ProductionLog {
    hot: Arc<RedisLog>,
    archive: PostgresArchive,
    acknowledgements: Acknowledgements,
    watch: Watch,
    settings: ArchiveConfig,
}

/// Groups that are asked about at the same time.
const AT_ONCE: usize = 16;

impl ProductionLog {
    /// Where a device stands in a group, unless what Redis says of it is not what counts.
    async fn what_counts(
        &self,
        device: DeviceId,
        group: GroupId,
        hot: Option<Standing>,
    ) -> Result<Standing, StoreError> {
        if let Some(standing) = hot
            && standing.head.is_some_and(|head| !head.frozen)
        {
            return Ok(standing);
        }
        let head = self.head(group).await?;
        let windows = match head {
            Some(_) => self.windows(group, device).await?,
            None => Vec::new(),
        };
        Ok(Standing {
            head,
            windows,
            id: None,
        })
    }

    /// What the archive knows of a group that Redis does not know: then it was lost there.
    async fn lost(&self, group: GroupId) -> Result<Option<ArchivedGroup>, StoreError> {
        let Some(archived) = self.archive.group(group).await? else {
            return Ok(None);
        };
        regression::report(&self.hot, &self.archive, &archived, Regression::HeadLost).await?;
        self.watch.add_regressed(group);
        Ok(Some(archived))
    }

    /// The archive's answer to a repeat, where it can be asked for one.
    async fn archived_repeat(&self, append: &Append) -> Result<Option<Appended>, StoreError> {
        let (group, key, sender) = (append.group, append.key, append.sender);
        if !append.may_be_repeat {
            return Ok(None);
        }
        match self.hot.repeat(group, key, sender).await {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(None),
            Err(error) if is_damaged(&error) => return self.archive.repeat(group, key, sender).await,
            Err(error) => return Err(error),
        }
        if self.watch.was_repaired(group) {
            // An entry that came back from a device has another key; its bytes are the same.
            let restored = restored_key(&append.bytes);
            if let Some(first) = self.archive.repeat(group, restored, sender).await? {
                return Ok(Some(first));
            }
        }
        if self.hot.floor(group).await? == Some(Position(1)) {
            // Nothing has left Redis.
            return Ok(None);
        }
        self.archive.repeat(group, key, sender).await
    }

    /// Is everything after that position in Redis? Asked after Redis was read: what has left it by then may be missing there.
    async fn is_hot(&self, group: GroupId, after: Position) -> Result<bool, StoreError> {
        if let Some(floor) = self.hot.floor(group).await? {
            return Ok(floor <= after.next());
        }
        // A group without any entries there: none at all, or none that is not archived.
        let head = self.hot.head(group).await?;
        Ok(head.is_some_and(|head| head.position <= after))
    }
}

/// What both halves have after a position, as one; up to the first gap after its beginning.
fn joined(
    cold: Vec<Arc<Entry>>,
    hot: Vec<Arc<Entry>>,
    max_entries: usize,
    max_bytes: usize,
) -> Vec<Arc<Entry>> {
    let last = cold.last().map_or(Position::NONE, |entry| entry.position);
    let newer = hot.into_iter().skip_while(|entry| entry.position <= last);
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let mut size = 0;
    for entry in cold.into_iter().chain(newer).take(max_entries) {
        size += entry.bytes.len();
        let follows = entries
            .last()
            .is_none_or(|before| entry.position == before.position.next());
        if !follows || (size > max_bytes && !entries.is_empty()) {
            break;
        }
        entries.push(entry);
    }
    entries
}

#[async_trait]
impl OrderedLog for ProductionLog {
    async fn create(&self, group: NewGroup) -> Result<Created, StoreError> {
        if let Some(archived) = self.archive.group(group.group).await? {
            if self.hot.head(group.group).await?.is_none() {
                regression::report(&self.hot, &self.archive, &archived, Regression::HeadLost).await?;
                self.watch.add_regressed(group.group);
                return Ok(Created::Exists);
            }
            return self.hot.create(group).await;
        }
        let (id, key, at) = (group.group, group.key, group.at);
        let (creator, group_info) = (group.creator.clone(), group.group_info.clone());
        if self.hot.create(group).await? == Created::Exists {
            return Ok(Created::Exists);
        }
        // An earlier try may have given it another origin.
        let head = self.hot.head(id).await?;
        let head = head.ok_or_else(|| StoreError("a new group has gone: outcome unknown".to_owned()))?;
        let registration = Registration {
            group: id,
            partition: Partition::of_group(&id).number(),
            origin: head.origin,
            creation_key: Some(key),
            creator: Some(creator),
            group_info: Some(group_info),
            at,
        };
        // Only now is it created: lost from here on, it is missed.
        self.archive.register(&registration).await?;
        Ok(Created::Yes)
    }

    async fn append(&self, append: Append) -> Result<Result<Appended, Refused>, StoreError> {
        let (group, epoch) = (append.group, append.epoch);
        if self.watch.is_regressed(group) {
            let first = if append.may_be_repeat {
                self.archive.repeat(group, append.key, append.sender).await?
            } else {
                None
            };
            return Ok(first.ok_or(Refused::Frozen));
        }
        if self.watch.is_full() {
            return Err(StoreError("too much is not archived yet".to_owned()));
        }
        if let Some(first) = self.archived_repeat(&append).await? {
            return Ok(Ok(first));
        }
        match self.hot.append(append).await? {
            Err(Refused::GroupNotFound) if self.lost(group).await?.is_some() => Ok(Err(Refused::Frozen)),
            // Redis knows the commit that ended the last epoch, and older ones for a while.
            Err(Refused::EpochEnded { current, winner }) if epoch.next() < current => {
                let known = self.winner(group, epoch).await.ok().flatten();
                Ok(Err(Refused::EpochEnded {
                    current,
                    winner: known.unwrap_or(winner),
                }))
            }
            outcome => Ok(outcome),
        }
    }

    async fn repeat(
        &self,
        group: GroupId,
        key: IdempotencyKey,
        sender: Option<DeviceId>,
    ) -> Result<Option<Appended>, StoreError> {
        if self.watch.is_regressed(group) {
            return self.archive.repeat(group, key, sender).await;
        }
        match self.hot.repeat(group, key, sender).await {
            Ok(None) => self.archive.repeat(group, key, sender).await,
            Err(error) if is_damaged(&error) => {
                // It was answered once, so `None` would be wrong.
                let first = self.archive.repeat(group, key, sender).await?;
                first.map(Some).ok_or(error)
            }
            outcome => outcome,
        }
    }

    async fn winner(&self, group: GroupId, epoch: Epoch) -> Result<Option<Position>, StoreError> {
        if !self.watch.is_regressed(group)
            && let Some(winner) = self.hot.winner(group, epoch).await?
        {
            return Ok(Some(winner));
        }
        self.archive.winner(group, epoch).await
    }

    async fn head(&self, group: GroupId) -> Result<Option<Head>, StoreError> {
        let frozen = |archived: ArchivedGroup| Head {
            frozen: true,
            ..archived.head
        };
        if self.watch.is_regressed(group) {
            return Ok(self.archive.group(group).await?.map(frozen));
        }
        match self.hot.head(group).await? {
            // Closed there, which this replica has not heard: what is certain is in the archive alone.
            Some(head) if head.frozen => {
                let archived = self.archive.group(group).await?;
                if archived.is_some_and(|archived| archived.head.frozen) {
                    self.watch.add_regressed(group);
                }
                Ok(Some(archived.map_or(head, frozen)))
            }
            Some(head) => Ok(Some(head)),
            None => Ok(self.lost(group).await?.map(frozen)),
        }
    }

    async fn read(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let mut hot = Vec::new();
        if !self.watch.is_regressed(group) {
            hot = match self.hot.read(group, after, max_entries, max_bytes).await {
                Err(error) if is_damaged(&error) => {
                    // What is archived of it can be read there.
                    let cold = self.archive.read(group, after, max_entries, max_bytes).await?;
                    return if cold.is_empty() { Err(error) } else { Ok(cold) };
                }
                read => read?,
            };
            let begins = hot.first().map(|entry| entry.position) == Some(after.next());
            if begins || (hot.is_empty() && self.is_hot(group, after).await?) {
                return Ok(joined(Vec::new(), hot, max_entries, max_bytes));
            }
        }
        let cold = self.archive.read(group, after, max_entries, max_bytes).await?;
        Ok(joined(cold, hot, max_entries, max_bytes))
    }

    async fn handshakes(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let mut hot = Vec::new();
        if !self.watch.is_regressed(group) {
            match self.hot.handshakes(group, after, max_entries).await {
                Err(error) if is_damaged(&error) => {
                    // What is archived of it can be read there; what is newer must be read here, for none may be left out.
                    let archived = self.archive.group(group).await?;
                    let end = archived.map_or(Position::NONE, |archived| archived.head.position);
                    if end <= after {
                        return Err(error);
                    }
                    hot = self.hot.handshakes(group, end, max_entries).await?;
                }
                read => {
                    hot = read?;
                    if self.is_hot(group, after).await? {
                        return Ok(hot);
                    }
                }
            }
        }
        let mut entries = self.archive.handshakes(group, after, max_entries).await?;
        let last = entries.last().map_or(Position::NONE, |entry| entry.position);
        entries.extend(hot.into_iter().skip_while(|entry| entry.position <= last));
        entries.truncate(max_entries);
        Ok(entries)
    }

    async fn group_info(&self, group: GroupId) -> Result<Option<(Bytes, Epoch, Position)>, StoreError> {
        if self.watch.is_regressed(group) {
            return self.archive.group_info(group).await;
        }
        self.hot.group_info(group).await
    }

    async fn windows(&self, group: GroupId, device: DeviceId) -> Result<Vec<Window>, StoreError> {
        if self.watch.is_regressed(group) {
            return self.archive.windows(group, device).await;
        }
        self.hot.windows(group, device).await
    }

    async fn standings(
        &self,
        device: DeviceId,
        asked: Vec<(GroupId, Position)>,
    ) -> Result<Vec<Standing>, StoreError> {
        // Of a group that is known to have regressed Redis is not asked: it may have what cannot be read.
        let regressed: Vec<bool> = asked
            .iter()
            .map(|(group, _)| self.watch.is_regressed(*group))
            .collect();
        let known = asked.iter().zip(&regressed).filter(|(_, regressed)| !**regressed);
        let known: Vec<_> = known.map(|(asked, _)| *asked).collect();
        let mut hot = self.hot.standings(device, &known).await?.into_iter();
        let found = asked.into_iter().zip(regressed).map(|((group, _), regressed)| {
            let standing = if regressed { None } else { hot.next() };
            (group, standing)
        });
        let found: Vec<_> = found.collect();
        stream::iter(found)
            .map(|(group, standing)| self.what_counts(device, group, standing))
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn memberships(
        &self,
        user: &UserId,
        device: DeviceId,
        after: Option<GroupId>,
        max: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        self.hot.memberships(user, device, after, max).await
    }

    async fn notify(&self, notices: Vec<Notice>) -> Result<(), StoreError> {
        self.hot.notify(notices).await
    }

    async fn read_inbox(
        &self,
        device: DeviceId,
        after: u64,
        max: usize,
    ) -> Result<Vec<InboxItem>, StoreError> {
        self.hot.read_inbox(device, after, max).await
    }

    async fn newest_inbox(&self, device: DeviceId) -> Result<u64, StoreError> {
        self.hot.newest_inbox(device).await
    }

    async fn acknowledge(
        &self,
        device: DeviceId,
        groups: Vec<(GroupId, Position)>,
        inbox: u64,
    ) -> Result<(), StoreError> {
        self.acknowledgements.note(device, groups);
        if inbox == 0 {
            return Ok(());
        }
        self.hot.acknowledge_inbox(device, inbox).await
    }

    async fn put_snapshot(&self, group: GroupId, snapshot: Snapshot) -> Result<(), StoreError> {
        self.archive.put_snapshot(group, &snapshot).await
    }

    async fn snapshots(
        &self,
        group: GroupId,
        origin: EntryId,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<Snapshot>, StoreError> {
        self.archive.snapshots(group, origin, up_to, max).await
    }

    async fn frozen(&self, group: GroupId) -> Result<Option<Frozen>, StoreError> {
        self.what_is_certain(group).await
    }

    async fn offer(
        &self,
        group: GroupId,
        by: (&UserId, DeviceId),
        offered: Vec<OfferedEntry>,
    ) -> Result<Result<Position, OfferRefused>, StoreError> {
        self.archive.offer(group, by, &offered).await
    }

    async fn newest_offer(&self, group: GroupId, device: DeviceId) -> Result<Position, StoreError> {
        self.archive.newest_offer(group, Some(device)).await
    }

    async fn candidates(
        &self,
        group: GroupId,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Candidate>, StoreError> {
        self.archive.candidates(group, after, up_to).await
    }

    async fn repair(&self, group: GroupId, restoration: Restoration) -> Result<Option<Head>, StoreError> {
        self.put_back(group, &restoration).await
    }

    async fn reset(
        &self,
        group: GroupId,
        successor: GroupId,
        at: u64,
    ) -> Result<Result<Reset, Refused>, StoreError> {
        if self.watch.is_regressed(group) {
            return Ok(Err(Refused::Frozen));
        }
        let reset = KeptReset { group, successor, at };
        // Kept first: what Redis loses of it, or was not told any more, it is told again.
        let Some(kept) = self.archive.keep_reset(reset).await? else {
            return Ok(Err(Refused::GroupNotFound));
        };
        let done = self.hot.reset(group, kept.successor, kept.at).await?;
        if done == Err(Refused::Frozen) && kept == reset {
            // What is refused must not be done later.
            self.archive.withdraw_reset(kept).await?;
        }
        Ok(done)
    }

    async fn successor(&self, group: GroupId) -> Result<Option<GroupId>, StoreError> {
        let reset = self.archive.kept_reset(group).await?;
        Ok(reset.map(|reset| reset.successor))
    }

    async fn predecessor(&self, successor: GroupId) -> Result<Option<GroupId>, StoreError> {
        self.archive.predecessor(successor).await
    }

    async fn report(&self, report: CommitReport) -> Result<bool, StoreError> {
        self.archive.report(&report).await
    }

    async fn reports(
        &self,
        group: Option<GroupId>,
        after: Option<(GroupId, Position)>,
        max: usize,
    ) -> Result<Vec<ReportedCommit>, StoreError> {
        self.archive.reports(group, after, max).await
    }

    fn publish_ephemeral(&self, group: GroupId, epoch: Epoch, sender: DeviceId, bytes: Bytes) {
        self.hot.publish_ephemeral(group, epoch, sender, &bytes);
    }

    fn announce_stream(&self, device: DeviceId, stream: u64) {
        self.hot.announce_stream(device, stream);
    }

    fn news(&self) -> broadcast::Receiver<News> {
        self.hot.news()
    }
}
