//! Entries of logs, applied strictly in order by position, each once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use openmls::prelude::{KeyPackageVerifyError, ProcessMessageError, StageCommitError, ValidationError};
use openmls::treesync::errors::LifetimeError;
use prost::Message as _;
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position, Reason};

use super::Engine;
use super::effects::{Effect, Follow};
use super::live::{self, peer};
use super::queries::cursor;
use crate::store::GroupRow;
use crate::{AfterBadCommit, ByItself, Error, EventKind, GroupStatus, Peer};

/// Something that a stream, or a read of the log, brought.
pub(crate) enum Arrival {
    Entry(wire::Entry),
    /// An inbox item; with a Welcome, the ratchet tree of its epoch, or why there is none.
    Inbox(wire::InboxItem, Option<Result<Bytes, valise_proto::Refusal>>),
}

/// What is durable now.
#[derive(Default)]
pub(crate) struct Applied {
    /// Where the groups stand.
    pub(crate) cursors: Vec<wire::GroupCursor>,
    /// The last inbox item; 0 says nothing.
    pub(crate) inbox: u64,
    /// Groups of which entries are missing before one that came: they must be read.
    pub(crate) gaps: Vec<GroupId>,
}

/// Why an entry was not applied.
pub(super) enum Fault {
    /// It cannot be, ever. A message is passed over; at a commit the group stops.
    Bad {
        cause: String,
        report: wire::CommitFault,
    },
    /// It cannot be any more: it adds a device whose key package has ended since. That was so at that time, in seconds since
    /// 1970-01-01 UTC.
    Outlived { cause: String, ended: u64 },
    /// It may be, later.
    Error(Error),
}

impl Fault {
    /// Why, and what the service is told.
    pub(super) fn at_fault(self) -> (String, wire::CommitFault) {
        match self {
            Self::Bad { cause, report } => (cause, report),
            Self::Outlived { cause, .. } => (cause, wire::CommitFault::Other),
            Self::Error(error) => (error.to_string(), wire::CommitFault::Other),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if error.is_of_store() {
            Self::Error(error)
        } else {
            bad(&error)
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Error::from(error).into()
    }
}

pub(super) fn bad(cause: &dyn std::fmt::Display) -> Fault {
    Fault::Bad {
        cause: cause.to_string(),
        report: wire::CommitFault::Other,
    }
}

pub(super) fn unprocessable(error: ProcessMessageError<rusqlite::Error>) -> Fault {
    if let Some(ended) = outlived(&error) {
        let cause = error.to_string();
        return Fault::Outlived { cause, ended };
    }
    let report = match &error {
        ProcessMessageError::StorageError(_) => {
            let ProcessMessageError::StorageError(error) = error else {
                return bad(&"storage");
            };
            return Fault::Error(error.into());
        }
        // openmls says so where it could not read its own keys.
        ProcessMessageError::InvalidCommit(StageCommitError::MissingDecryptionKey) => {
            return Fault::Error(Error::Store(Arc::new(StageCommitError::MissingDecryptionKey)));
        }
        ProcessMessageError::InvalidCommit(StageCommitError::ConfirmationTagMismatch) => {
            wire::CommitFault::ConfirmationTag
        }
        ProcessMessageError::InvalidCommit(StageCommitError::UpdatePathError(_)) => {
            wire::CommitFault::PathSecret
        }
        _ => wire::CommitFault::Other,
    };
    Fault::Bad {
        cause: error.to_string(),
        report,
    }
}

/// When the lifetime of an added key package ended, if that is what is wrong with a commit. openmls asks the system's clock.
fn outlived(error: &ProcessMessageError<rusqlite::Error>) -> Option<u64> {
    match error {
        ProcessMessageError::ValidationError(ValidationError::KeyPackageVerifyError(
            KeyPackageVerifyError::LifetimeError(LifetimeError::Expired { not_after, .. }),
        )) => Some(*not_after),
        _ => None,
    }
}

/// How far the service's clock may be ahead of this device's, in seconds.
const MAX_AHEAD: u64 = 10 * 60;
/// A time that is as little off, in seconds, is no news.
const TOLERATED: u64 = 60;

/// When the service accepted an entry, in milliseconds since 1970-01-01 UTC; 0 where it does not say. What is judged by the time is judged
/// at [`Engine::believed_at`].
pub(super) fn accepted_at(at: Option<&prost_types::Timestamp>) -> u64 {
    at.map_or(0, |at| {
        let seconds = u64::try_from(at.seconds).unwrap_or(0);
        seconds
            .saturating_mul(1000)
            .saturating_add(u64::from(at.nanos.unsigned_abs()) / 1_000_000)
    })
}

impl Engine {
    /// Applies what arrived with one transaction. If that fails, nothing is applied and the same must come again.
    pub(crate) fn apply(&mut self, arrivals: Vec<Arrival>) -> Result<Applied, Error> {
        self.transaction(|engine| {
            let mut applied = Applied::default();
            let mut rows: HashMap<GroupId, GroupRow> = HashMap::new();
            let mut gaps = HashSet::new();
            for arrival in arrivals {
                match arrival {
                    Arrival::Entry(entry) => engine.take_entry(&entry, &mut rows, &mut gaps)?,
                    Arrival::Inbox(item, tree) => {
                        let number = item.number;
                        if number > engine.db.inbox_cursor()? {
                            engine.take_inbox_item(item, tree)?;
                            engine.db.put_inbox_cursor(number)?;
                        }
                        applied.inbox = number;
                        // It may have replaced a group.
                        engine.settle_batch(&mut rows, &mut applied)?;
                    }
                }
            }
            engine.settle_batch(&mut rows, &mut applied)?;
            applied.gaps = gaps.into_iter().collect();
            Ok(applied)
        })
    }

    fn settle_batch(
        &mut self,
        rows: &mut HashMap<GroupId, GroupRow>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        for (group, row) in rows.drain() {
            applied.cursors.push(cursor(group, row.position, &row.entry_id));
            self.follow_reset(group)?;
            self.pump(group)?;
        }
        Ok(())
    }

    fn take_entry(
        &mut self,
        entry: &wire::Entry,
        rows: &mut HashMap<GroupId, GroupRow>,
        gaps: &mut HashSet<GroupId>,
    ) -> Result<(), Error> {
        let Ok(group) = GroupId::try_from(&*entry.group_id) else {
            return Ok(());
        };
        let mut row = match rows.remove(&group) {
            Some(row) => row,
            None => match self.db.group(group)? {
                Some(row) => row,
                None => return Ok(()),
            },
        };
        if !row.status.is_followed() {
            return Ok(());
        }
        let position = Position(entry.position);
        if position == row.position && !row.entry_id.is_empty() && entry.entry_id != row.entry_id {
            // Another entry took the place of one that this device has applied.
            tracing::error!(%group, %position, "the group's log went back in time");
            return self.regress(group, Some(entry));
        }
        if position > row.position.next() {
            gaps.insert(group);
        } else if position == row.position.next() {
            self.apply_in_place(&mut row, entry)?;
        }
        rows.insert(group, row);
        Ok(())
    }

    /// Applies the next entry of a group and moves its cursor; or stops the group there.
    fn apply_in_place(&mut self, row: &mut GroupRow, entry: &wire::Entry) -> Result<(), Error> {
        let (group, position) = (row.id, Position(entry.position));
        let at = accepted_at(entry.accepted_at.as_ref());
        let believed = self.believed_at(at, self.db.newest_accepted_at(group)?);
        let own_info = self.own_group_info(group, entry)?;
        let before = self.savepoint()?;
        match self.apply_entry(group, entry) {
            Ok(()) => self.db.release()?,
            Err(Fault::Error(error)) => return Err(error),
            Err(Fault::Outlived { ended, .. }) if self.is_past(ended, believed) => {
                self.roll_back(&before)?;
                self.live.remove(&group);
                tracing::warn!(%group, %position, "what comes next could be applied only as long as entries are kept");
                self.lose(row)?;
                row.status = GroupStatus::Lost;
                return Ok(());
            }
            Err(fault) => {
                let (cause, report) = fault.at_fault();
                self.roll_back(&before)?;
                self.live.remove(&group);
                tracing::error!(%group, %position, cause, "an accepted entry cannot be processed");
                let evidence = entry.encode_to_vec();
                if entry.kind() == wire::EntryKind::Commit {
                    if report == wire::CommitFault::Policy {
                        self.commit_breach(group, entry, &cause)?;
                    }
                    self.report(group, position, report)?;
                    self.stop(group, GroupStatus::HeldByBadCommit)?;
                    row.status = GroupStatus::HeldByBadCommit;
                    self.emit(
                        group,
                        position,
                        at,
                        &EventKind::HeldByBadCommit { cause, evidence },
                    )?;
                    if self.rejoins_after(group, report)? {
                        self.begin_rejoin(row)?;
                    }
                    return Ok(());
                }
                let sender = self.sender_of(group, entry);
                self.emit(group, position, at, &EventKind::Unreadable { sender, evidence })?;
            }
        }
        row.position = position;
        row.entry_id = entry.entry_id.to_vec();
        self.db.put_cursor(group, position, &entry.entry_id, believed)?;
        self.move_chain(group, entry)?;
        // The entry may have changed it.
        if let Some(now) = self.db.group(group)? {
            row.status = now.status;
        }
        if row.status != GroupStatus::Removed {
            self.keep_copy(group, entry, own_info)?;
        }
        Ok(())
    }

    /// Does this device come back by itself after such a commit? Where its app has said so; or where the group's policy does, as it was before the
    /// commit, and it is not the group's rules themselves that the commit breaks.
    fn rejoins_after(&mut self, group: GroupId, fault: wire::CommitFault) -> Result<bool, Error> {
        if self.options.rejoin.bad_commit == ByItself::Always {
            return Ok(true);
        }
        let live = live::get(&mut self.live, &self.db, group)?;
        let policy = live.authority.roles().policy();
        Ok(policy.bad_commit == AfterBadCommit::Rejoin && fault != wire::CommitFault::Policy)
    }

    /// Was this device away for longer than entries are kept? Each Add outlives that time (checklist K4), so an honest service's entry whose
    /// Add has ended is older: it is as if it were not kept any more, and nothing else is believed of it than that. A commit that was
    /// accepted with an Add that ended sooner is a bad one.
    fn is_past(&self, ended: u64, accepted_at: u64) -> bool {
        let kept_until = accepted_at.saturating_add(self.device.retention);
        kept_until <= ended && kept_until <= self.now()
    }

    /// When something was accepted, in seconds since 1970-01-01 UTC, as far as the service is believed: not before `least` (what is known to
    /// have been before it), and not later than this device's clock and [`MAX_AHEAD`]. Where the service does not say, it is now. `said` is in
    /// milliseconds, 0 for nothing. Only what may differ between members may depend on it: certificates and lifetimes.
    pub(super) fn believed_at(&self, said: u64, least: u64) -> u64 {
        let now = self.now();
        let said = if said == 0 { now } else { said / 1000 };
        said.max(least).min(now.saturating_add(MAX_AHEAD))
    }

    /// The same, where something is judged by it.
    pub(super) fn judged_at(&self, group: GroupId, said: u64, least: u64) -> u64 {
        let believed = self.believed_at(said, least);
        // Clocks of replicas differ a little.
        if said == 0 || believed.abs_diff(said / 1000) > TOLERATED {
            tracing::warn!(%group, said = said / 1000, believed, "the service's time of a commit is not believed");
        }
        believed
    }

    /// Nothing more is sent to the group; whether it is still followed is in the status.
    pub(super) fn stop(&mut self, group: GroupId, status: GroupStatus) -> Result<(), Error> {
        self.db.put_status(group, status)?;
        self.fail_all(group, status)?;
        if !status.is_followed() {
            self.effects.push(Effect::Follow(Follow::Drop(group)));
        }
        Ok(())
    }

    /// Before a group's keys go: an old Welcome must not lead back (see `take_welcome`).
    pub(super) fn note_left_epoch(&mut self, group: GroupId) -> Result<(), Error> {
        match live::get(&mut self.live, &self.db, group) {
            Ok(live) => {
                let epoch = live.epoch().0;
                // The commit that removed this device has begun an epoch that it is not in; it may be what adds it again, too.
                let left = if live.mls.is_active() {
                    epoch
                } else {
                    epoch.saturating_sub(1)
                };
                self.db.put_left_epoch(group, Epoch(left))
            }
            Err(Error::UnknownGroup(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// This device is no member any more: the group's keys go (RFC 9420 §12.4.2), its row stays.
    pub(super) fn drop_membership(&mut self, group: GroupId) -> Result<(), Error> {
        self.note_left_epoch(group)?;
        live::delete(&mut self.live, &self.db, group)?;
        self.db.delete_chain(group)?;
        self.ephemeral.remove(&group);
        self.awaiting_proposal.remove(&group);
        self.db.put_status(group, GroupStatus::Removed)?;
        self.db.delete_copies(group)?;
        self.effects.push(Effect::Follow(Follow::Drop(group)));
        self.effects.push(Effect::Scrub);
        self.fail_all(group, GroupStatus::Removed)
    }

    /// The service ended a group; of a log that is trimmed, with the first position that is kept. Says whether that is news: not where
    /// it is about a place that this device has left since.
    pub(crate) fn group_ended(
        &mut self,
        group: GroupId,
        reason: &str,
        position: Position,
    ) -> Result<bool, Error> {
        let trimmed = reason == Reason::PositionTrimmed.as_str();
        self.transaction(|engine| {
            let Some(row) = engine.db.group(group)? else {
                return Ok(true);
            };
            if !row.status.is_followed() {
                return Ok(true);
            }
            if trimmed && row.position.next() >= position {
                return Ok(false);
            }
            if reason == Reason::LogRegressed.as_str() {
                return engine.regress(group, None).map(|()| true);
            }
            if trimmed {
                engine.lose(&row)?;
                return engine.follow_reset(group).map(|()| true);
            }
            // The log itself says when this device is removed; the service's word alone changes nothing.
            tracing::warn!(%group, reason, "the service ended a group");
            Ok(true)
        })
    }

    /// Who submitted an unreadable message, as the service says.
    fn sender_of(&mut self, group: GroupId, entry: &wire::Entry) -> Option<Peer> {
        let device = entry.sender_device_id.parse().ok()?;
        let live = live::get(&mut self.live, &self.db, group).ok()?;
        live.roster.device(device).map(|member| peer(&member.identity))
    }
}
