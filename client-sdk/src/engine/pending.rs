//! What waits in a group's outbox.

use valise_proto::{GroupId, Position, UserId};

use super::intents::Operation;
use super::{Engine, live};
use crate::content::GROUP_PROFILE;
use crate::store::IntentRow;
use crate::{Content, Error, MessageId, Pending};

impl Engine {
    /// What was asked of a group and is not done, in the order in which it is done; then whom nothing has been done for yet.
    pub(crate) fn pending(&mut self, group: GroupId) -> Result<Vec<Pending>, Error> {
        self.db.group(group)?.ok_or(Error::UnknownGroup(group))?;
        let mut pending = Vec::new();
        for intent in self.db.intents(group)? {
            if !self.was_asked_for(&intent)? {
                continue;
            }
            let (message, users) = self.subject(&intent)?;
            pending.push(Pending {
                prepared: intent.prepared.is_some(),
                operation: intent.kind,
                message,
                users,
            });
        }
        for add in self.db.adds()? {
            if add.group == group && !add.users.is_empty() {
                pending.push(Pending {
                    operation: "add".to_owned(),
                    prepared: false,
                    message: None,
                    users: add.users,
                });
            }
        }
        Ok(pending)
    }

    /// Members commit what others propose, and tell whom they add the group's name.
    fn was_asked_for(&self, intent: &IntentRow) -> Result<bool, Error> {
        Ok(match Operation::from_row(intent)? {
            Operation::CommitProposals => false,
            Operation::Send { payload } => {
                let user = &self.device.user;
                Content::from_payload(&payload, user, intent.group, Position::NONE)
                    .is_none_or(|content| content.content_type() != GROUP_PROFILE)
            }
            _ => true,
        })
    }

    /// Which message, or whom, an intent is about.
    pub(super) fn subject(&mut self, intent: &IntentRow) -> Result<(Option<MessageId>, Vec<UserId>), Error> {
        let mut users: Vec<UserId> = match Operation::from_row(intent)? {
            Operation::Send { payload } => {
                let user = &self.device.user;
                let content = Content::from_payload(&payload, user, intent.group, Position::NONE);
                return Ok((content.and_then(|content| content.id()), Vec::new()));
            }
            Operation::Add { packages } => packages.into_iter().map(|package| package.peer.user).collect(),
            Operation::Remove { devices } => match live::get(&mut self.live, &self.db, intent.group) {
                Ok(live) => devices
                    .into_iter()
                    .filter_map(|device| live.roster.device(device))
                    .map(|member| member.identity.user.clone())
                    .collect(),
                Err(error) if error.is_of_store() => return Err(error),
                // The group's keys are gone.
                Err(_) => Vec::new(),
            },
            Operation::RemoveUsers { users } => users,
            Operation::SetRole { user, .. } => vec![user],
            Operation::Create
            | Operation::SelfUpdate
            | Operation::CommitProposals
            | Operation::Leave
            | Operation::Rejoin(_)
            | Operation::Rename { .. }
            | Operation::SetPolicy { .. } => Vec::new(),
        };
        users.sort_unstable();
        users.dedup();
        Ok((None, users))
    }
}
