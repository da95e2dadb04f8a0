//! What the service answered, and what that does to intents.

use valise_proto::{Epoch, GroupId, IdempotencyKey, Position, Reason, Refusal};

use super::Engine;
use super::effects::{Effect, Follow, UploadJob};
use super::intents::{Operation, Outcome};
use super::live;
use super::quarantine::takes_out;
use crate::store::{IntentId, IntentRow};
use crate::{Error, EventKind, GroupStatus, Sent};

impl Engine {
    /// The service accepted a request. What it does to the group comes with its entry in the log.
    pub(crate) fn accepted(
        &mut self,
        intent: IntentId,
        key: IdempotencyKey,
        position: Position,
        epoch: Epoch,
    ) -> Result<(), Error> {
        let Some(row) = self.current(intent, key)? else {
            return Ok(());
        };
        // A receiver that is gone belongs to a client that is being closed.
        let _ = self.outlets.follows.send(Follow::Accepted(row.group));
        if self.is_settling(&row)? {
            return self.transaction(|engine| engine.settle_accepted(&row, position, epoch));
        }
        match row.kind.as_str() {
            "create" => self.transaction(|engine| engine.created(&row)),
            "send" | "rename" => {
                let payload = row.payload.as_deref().unwrap_or_default();
                let id = self.own_message_id(row.group, payload, position)?;
                self.answer(intent, Ok(Outcome::Sent(Sent { id, position, epoch })));
                Ok(())
            }
            "leave" => {
                self.answer(intent, Ok(Outcome::Proposed));
                Ok(())
            }
            // A commit's outcome is what it changed: that is known when it is applied.
            _ => Ok(()),
        }
    }

    /// The service refused a request, for good.
    pub(crate) fn refused(
        &mut self,
        intent: IntentId,
        key: IdempotencyKey,
        refusal: Refusal,
    ) -> Result<(), Error> {
        // An answer to bytes that were replaced meanwhile says nothing about the new ones.
        let Some(row) = self.current(intent, key)? else {
            return Ok(());
        };
        if row.kind == Operation::REJOIN {
            return self.transaction(|engine| engine.rejoin_refused(&row, &refusal));
        }
        if row.kind == Operation::Create.kind() && self.db.reset_before(row.group)?.is_some() {
            return self.transaction(|engine| engine.succession_refused(&row, &refusal));
        }
        if self.is_settling(&row)? {
            return self.transaction(|engine| engine.settle_refused(&row, refusal));
        }
        match refusal.reason {
            // Everything of the old epoch is built again when the commit that ended it is applied.
            Reason::EpochConflict | Reason::EpochTooOld | Reason::EpochAhead => {
                self.effects.push(Effect::Upload(UploadJob::Clear(row.group)));
                self.effects.push(Effect::Follow(Follow::CatchUp(row.group)));
                self.let_effects_out();
                Ok(())
            }
            Reason::ProposalsMissing => {
                let proposal = Position(refusal.number("position").unwrap_or(0));
                self.transaction(|engine| engine.build_after_proposal(row.group, proposal))
            }
            // Whether an earlier try is in the log, nobody can say before that is repaired.
            Reason::LogRegressed => self.transaction(|engine| engine.regress(row.group, None)),
            _ => self.transaction(|engine| {
                engine.fail(&row, &Error::Refused(refusal))?;
                engine.pump(row.group)
            }),
        }
    }

    /// The log may have a request, and the service does not say whether: it refuses the device, or fails. The request stays, and goes out
    /// again; so does what is queued behind it. Whoever waits for any of that hears why now. Says whether it is still to be sent.
    pub(crate) fn outcome_unknown(
        &mut self,
        intent: IntentId,
        key: IdempotencyKey,
        refusal: Refusal,
    ) -> Result<bool, Error> {
        let Some(row) = self.current(intent, key)? else {
            return Ok(false);
        };
        tracing::warn!(group = %row.group, operation = row.kind, reason = %refusal.reason, "whether an operation is done is not known yet");
        let error = Error::Refused(refusal);
        for waiting in self.db.intents(row.group)? {
            self.suspend_add(&waiting, &error)?;
            self.effects.push(Effect::Answer(waiting.id, Err(error.clone())));
        }
        self.let_effects_out();
        Ok(true)
    }

    /// The intent, if that request is still its current one.
    pub(super) fn current(&self, intent: IntentId, key: IdempotencyKey) -> Result<Option<IntentRow>, Error> {
        let row = self.db.intent(intent)?;
        Ok(row.filter(|row| row.prepared.as_ref().is_some_and(|prepared| prepared.key == key)))
    }

    /// A proposal must be committed before the group accepts anything else.
    fn build_after_proposal(&mut self, group: GroupId, proposal: Position) -> Result<(), Error> {
        self.take_back(group)?;
        if self.db.group(group)?.is_some_and(|row| row.position < proposal) {
            self.awaiting_proposal.insert(group);
            self.effects.push(Effect::Follow(Follow::CatchUp(group)));
        }
        self.pump(group)
    }

    /// Prepared requests of the group are not sent any more; they are built again.
    pub(super) fn take_back(&mut self, group: GroupId) -> Result<(), Error> {
        if self.db.unprepare(group)? {
            self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        }
        let live = live::get(&mut self.live, &self.db, group)?;
        live.mls
            .clear_pending_commit(&crate::mls::Storage::new(&self.db.connection))?;
        Ok(())
    }

    /// Ends an intent: its caller hears why, or, if nobody is waiting any more, the app does.
    pub(super) fn fail(&mut self, intent: &IntentRow, error: &Error) -> Result<(), Error> {
        self.db.delete_intent(intent.id)?;
        self.remember_failure(intent.id, error)?;
        tracing::info!(group = %intent.group, operation = intent.kind, %error, "an operation failed");
        if intent.kind == Operation::Create.kind() {
            live::delete(&mut self.live, &self.db, intent.group)?;
            self.db.delete_group(intent.group)?;
            self.drop_adds(intent.group, error)?;
        } else if intent.prepared.is_some()
            && let Ok(live) = live::get(&mut self.live, &self.db, intent.group)
        {
            live.mls
                .clear_pending_commit(&crate::mls::Storage::new(&self.db.connection))?;
        }
        if self.add_commit_ended(intent, Err(error))? {
            return Ok(());
        }
        let waiter = self.waiters.get(&intent.id);
        if waiter.is_some_and(|waiter| !waiter.answer.is_closed()) {
            self.effects.push(Effect::Answer(intent.id, Err(error.clone())));
            return Ok(());
        }
        let at = self.options.clock.unix_millis();
        let (message, users) = self.subject(intent)?;
        let event = EventKind::OperationFailed {
            operation: intent.kind.clone(),
            cause: cause(error),
            what_now: error.what_now(),
            message,
            users,
        };
        self.emit(intent.group, Position::NONE, at, &event)
    }

    /// Ends all intents of a group that cannot be used any more, but those that are done in a quarantined one, too.
    pub(super) fn fail_all(&mut self, group: GroupId, status: GroupStatus) -> Result<(), Error> {
        self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        for intent in self.db.intents(group)? {
            if status == GroupStatus::Quarantined && takes_out(&intent.kind) {
                continue;
            }
            if intent.kind == Operation::Leave.kind() && status == GroupStatus::Removed {
                // That is what was asked for.
                self.db.delete_intent(intent.id)?;
                self.effects
                    .push(Effect::Answer(intent.id, Ok(Outcome::Proposed)));
            } else if intent.kind == Operation::CommitProposals.kind() {
                self.db.delete_intent(intent.id)?;
            } else {
                self.fail(&intent, &Error::GroupNotActive(status))?;
            }
        }
        Ok(())
    }

    /// Nobody waits for the disk: nothing was written.
    fn answer(&mut self, intent: IntentId, result: Result<Outcome, Error>) {
        self.effects.push(Effect::Answer(intent, result));
        self.let_effects_out();
    }
}

/// Why an operation failed: an error reason, or what the error says.
pub(super) fn cause(error: &Error) -> String {
    match error {
        Error::Refused(refusal) => refusal.reason.to_string(),
        error => error.to_string(),
    }
}
