//! Groups whose log went back in time, and what of them comes back.
//!
//! Such a group stands still. What has not left yet fails; what has left may be in the log or not: it stays in the outbox, though whoever
//! waits for it hears at once that the group stands still. Meanwhile the device gives the service what it has of the log
//! (`session/regressed.rs`). If the repaired log has this device's place in it, the group goes on from there, and what had left is sent
//! once more, as a repeat. If not, the device can only rejoin.

use valise_proto::GroupId;
use valise_proto::delivery::v1 as wire;

use super::Engine;
use super::effects::{Chore, Effect, Follow, UploadJob};
use super::intents::Operation;
use super::queries::cursor;
use crate::store::IntentRow;
use crate::{Error, EventKind, GroupStatus};

impl Engine {
    /// The service says, or has shown, that the group's log went back in time.
    pub(super) fn regress(&mut self, group: GroupId) -> Result<(), Error> {
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
        self.emit(group, row.position, at, &EventKind::LogRegressed)
    }

    fn suspend(&mut self, intent: &IntentRow) -> Result<(), Error> {
        let stopped = Error::GroupNotActive(GroupStatus::LogRegressed);
        if intent.prepared.is_some() {
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

    /// The log has this device's place in it again: the group goes on.
    pub(crate) fn back_in_log(&mut self, group: GroupId) -> Result<(), Error> {
        self.transaction(|engine| {
            let row = engine.db.group(group)?;
            let Some(row) = row.filter(|row| row.status == GroupStatus::LogRegressed) else {
                return Ok(());
            };
            engine.db.put_restored(group)?;
            let at = engine.options.clock.unix_millis();
            engine.emit(group, row.position, at, &EventKind::LogRestored)?;
            let cursor = cursor(group, row.position, &row.entry_id);
            engine.effects.push(Effect::Follow(Follow::Add(cursor)));
            for intent in engine.db.prepared_intents(group)? {
                engine.upload(&intent, true)?;
            }
            engine.pump(group)?;
            engine.watch_proposals(group)
        })
    }
}
