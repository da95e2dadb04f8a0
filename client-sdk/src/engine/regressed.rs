//! Groups whose log went back in time, and what of them comes back.
//!
//! Such a group stands still. What has not left yet fails; what has left may be in the log or not: it stays in the outbox, though whoever
//! waits for it hears at once that the group stands still. Meanwhile the device gives the service what it has of the log
//! (`session/regressed.rs`). If the repaired log has this device's place in it, the group goes on from there, and what had left is sent
//! once more, as a repeat. If not, the device can only rejoin.
//!
//! A group that is on its way back when its log turns out to be frozen stands still in the same way, and comes back when the log is open.

use valise_proto::GroupId;
use valise_proto::delivery::v1 as wire;

use super::Engine;
use super::effects::{Chore, Effect, Follow, UploadJob};
use super::intents::Operation;
use super::queries::cursor;
use crate::store::{GroupRow, IntentId, IntentRow};
use crate::{Error, EventKind, GroupStatus};

impl Engine {
    /// The service says that the group's log went back in time, or has shown it, by another entry in the place of one that this device has.
    pub(super) fn regress(&mut self, group: GroupId, shown: Option<&wire::Entry>) -> Result<(), Error> {
        let Some(row) = self.db.group(group)?.filter(|row| row.status.is_followed()) else {
            return Ok(());
        };
        self.db.put_regressed(group, row.status)?;
        self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        for intent in self.db.intents(group)? {
            self.suspend(&intent)?;
        }
        self.effects.push(Effect::Follow(Follow::Drop(group)));
        self.effects.push(Effect::Chore(Chore::Regressed));
        let at = self.options.clock.unix_millis();
        self.emit(group, row.position, at, &regressed(&row, shown))?;
        // One that was reset is over, where its end cannot be read any more.
        self.follow_reset(group)
    }

    /// The log of a group that is being rejoined is frozen: its way back waits. What was under way may be in the log or not, and stays; what
    /// is queued does, too.
    pub(super) fn rejoin_later(&mut self, row: &GroupRow, rejoin: &IntentRow) -> Result<(), Error> {
        let group = row.id;
        tracing::warn!(%group, "the group cannot be rejoined before its log is repaired");
        if let Operation::Rejoin(wish) = Operation::from_row(rejoin)? {
            // It may come back shorter than it was.
            let detail = Operation::Rejoin(wish.at_any_epoch()).detail()?;
            self.db.put_detail(rejoin.id, detail.as_deref())?;
        }
        self.db.put_regressed(group, row.status)?;
        self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        self.effects.push(Effect::Chore(Chore::Regressed));
        let at = self.options.clock.unix_millis();
        self.emit(group, row.position, at, &regressed(row, None))
    }

    /// Its way back goes on, if there is one.
    pub(super) fn rejoin_now(&mut self, row: &GroupRow) -> Result<Option<IntentId>, Error> {
        let group = row.id;
        if self.db.status_before(group)? != Some(GroupStatus::Rejoining) {
            return Ok(None);
        }
        let Some(rejoin) = self.db.intent_of_kind(group, Operation::REJOIN)? else {
            return Ok(None);
        };
        self.db.put_restored(group)?;
        self.resume_rejoin(group)?;
        let at = self.options.clock.unix_millis();
        self.emit(group, row.position, at, &EventKind::Rejoining)?;
        Ok(Some(rejoin.id))
    }

    fn suspend(&mut self, intent: &IntentRow) -> Result<(), Error> {
        let stopped = Error::GroupNotActive(GroupStatus::LogRegressed);
        if intent.prepared.is_some() {
            self.suspend_add(intent, &stopped)?;
            self.effects.push(Effect::Answer(intent.id, Err(stopped)));
            return Ok(());
        }
        if intent.kind == Operation::CommitProposals.kind() {
            return self.db.delete_intent(intent.id);
        }
        self.fail(intent, &stopped)
    }

    /// The groups that stand still.
    pub(crate) fn regressed_groups(&mut self) -> Result<Vec<GroupId>, Error> {
        let groups = self.db.groups()?.into_iter();
        let regressed = groups.filter(|row| row.status == GroupStatus::LogRegressed);
        Ok(regressed.map(|row| row.id).collect())
    }

    /// This device's place in a group that stands still.
    pub(crate) fn regressed_cursor(&mut self, group: GroupId) -> Result<Option<wire::Cursor>, Error> {
        let row = self.db.group(group)?;
        let row = row.filter(|row| row.status == GroupStatus::LogRegressed);
        Ok(row.and_then(|row| cursor(group, row.position, &row.entry_id).cursor))
    }

    /// The log is open, with this device's place in it or not. Says whether the group goes on.
    pub(crate) fn log_is_open(&mut self, group: GroupId, holds_place: bool) -> Result<bool, Error> {
        self.transaction(|engine| {
            let row = engine.db.group(group)?;
            let Some(row) = row.filter(|row| row.status == GroupStatus::LogRegressed) else {
                return Ok(true);
            };
            if engine.rejoin_now(&row)?.is_some() {
                return Ok(true);
            }
            if !holds_place {
                return Ok(false);
            }
            engine.db.put_restored(group)?;
            let at = engine.options.clock.unix_millis();
            engine.emit(group, row.position, at, &EventKind::LogRestored)?;
            let cursor = cursor(group, row.position, &row.entry_id);
            engine.effects.push(Effect::Follow(Follow::Add(cursor)));
            for intent in engine.db.prepared_intents(group)? {
                engine.upload(&intent, true)?;
            }
            engine.pump(group)?;
            engine.watch_proposals(group)?;
            Ok(true)
        })
    }
}

/// What this device has, and what was shown in its place.
fn regressed(row: &GroupRow, shown: Option<&wire::Entry>) -> EventKind {
    EventKind::LogRegressed {
        entry_id: row.entry_id.clone(),
        evidence: shown.map(prost::Message::encode_to_vec).unwrap_or_default(),
    }
}
