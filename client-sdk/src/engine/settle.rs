//! What was under way in a group when this device left its place there ([`super::rejoin`]): each request's answer tells whether the log
//! has it.

use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position, Reason, Refusal};

use super::Engine;
use super::effects::{Chore, Effect};
use super::intents::{Operation, Outcome};
use super::rejoin::plain;
use crate::store::IntentRow;
use crate::{Error, GroupStatus, Sent, kill_point};

impl Engine {
    /// Is this request one of a group that is being left behind?
    pub(super) fn is_settling(&self, intent: &IntentRow) -> Result<bool, Error> {
        let row = self.db.group(intent.group)?;
        Ok(row.is_some_and(|row| row.status == GroupStatus::Rejoining) && intent.kind != Operation::REJOIN)
    }

    /// The log has it, at a place that this device will not read.
    pub(super) fn settle_accepted(
        &mut self,
        intent: &IntentRow,
        position: Position,
        epoch: Epoch,
    ) -> Result<(), Error> {
        let group = intent.group;
        kill_point::applying("settle");
        match Operation::from_row(intent)? {
            Operation::Send { payload } | Operation::Rename { payload } => {
                self.db.delete_intent(intent.id)?;
                let id = self.own_message_id(group, &payload, position)?;
                let sent = Outcome::Sent(Sent { id, position, epoch });
                self.effects.push(Effect::Answer(intent.id, Ok(sent)));
                let now: std::time::SystemTime = self.options.clock.now();
                let entry = wire::Entry {
                    group_id: group.to_vec().into(),
                    position: position.0,
                    accepted_at: Some(now.into()),
                    ..wire::Entry::default()
                };
                let sender = self.device.peer();
                self.received(group, &entry, sender, &payload).map_err(plain)?;
            }
            Operation::Leave => {
                self.db.delete_intent(intent.id)?;
                self.effects
                    .push(Effect::Answer(intent.id, Ok(Outcome::Proposed)));
                if let Some(rejoin) = self.db.intent_of_kind(group, Operation::REJOIN)? {
                    let left = Error::GroupNotActive(GroupStatus::Leaving);
                    self.give_up(&rejoin, GroupStatus::Lost, &left)?;
                }
                return Ok(());
            }
            // On the new epoch it will turn out to be done.
            _ => self.db.unprepare_one(intent.id)?,
        }
        self.settled(group)
    }

    /// The log does not have it, so it goes back into the queue; unless it is itself at fault.
    pub(super) fn settle_refused(&mut self, intent: &IntentRow, refusal: Refusal) -> Result<(), Error> {
        kill_point::applying("settle");
        match refusal.reason {
            // Nobody can say before the log is repaired.
            Reason::LogRegressed => {
                let row = self.db.group(intent.group)?;
                let rejoin = self.db.intent_of_kind(intent.group, Operation::REJOIN)?;
                if let (Some(row), Some(rejoin)) = (row, rejoin) {
                    self.rejoin_later(&row, &rejoin)?;
                }
                return Ok(());
            }
            Reason::MessageTooLarge | Reason::Malformed | Reason::PolicyDenied => {
                self.fail(intent, &Error::Refused(refusal))?;
            }
            _ => self.db.unprepare_one(intent.id)?,
        }
        self.settled(intent.group)
    }

    fn settled(&mut self, group: GroupId) -> Result<(), Error> {
        if self.db.count_prepared(group)?.0 == 0 {
            self.effects.push(Effect::Chore(Chore::Rejoin));
        }
        Ok(())
    }
}
