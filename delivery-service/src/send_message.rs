//! Appends an application message of the current epoch. While the group's epoch is in memory, nothing here depends on the size of the group;
//! the first message after a start, or after an hour without any, loads the group first.

use bytes::Bytes;
use openmls::prelude::{ContentType, DeserializeBytes as _, MlsMessageBodyIn, MlsMessageIn};
use valise_group_rules::{Act, RuleViolation};
use valise_proto::{DeviceId, Epoch, GroupId, Position, Reason, Refusal};

use crate::door::{Submission, broken, new_entry_id, sized, unreadable};
use crate::log::{Append, Appended, EntryKind, Refused};
use crate::service::Delivery;

/// What is in clear of a PrivateMessage.
pub(crate) struct MlsApplication {
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
}

impl MlsApplication {
    /// Reads a PrivateMessage of content type application: a commit must not come in by this door.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, RuleViolation> {
        let message =
            MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| RuleViolation("encoding"))?;
        let MlsMessageBodyIn::PrivateMessage(message) = message.extract() else {
            return Err(RuleViolation("wire_format"));
        };
        if message.content_type() != ContentType::Application {
            return Err(RuleViolation("content_type"));
        }
        let group =
            GroupId::try_from(message.group_id().as_slice()).map_err(|_| RuleViolation("group_id"))?;
        Ok(Self {
            group,
            epoch: Epoch(message.epoch().as_u64()),
        })
    }
}

impl Delivery {
    pub(crate) async fn send_message(
        &self,
        device: DeviceId,
        bytes: Bytes,
        submission: Submission,
    ) -> Result<Appended, Refusal> {
        sized("mls_message", &bytes, self.limits.message_bytes)?;
        let message = MlsApplication::read(&bytes).map_err(unreadable("mls_message"))?;
        if let Err(refusal) = self.admit_message(&message, device).await {
            // It may have been accepted before the epoch ended, or before the device was removed.
            return match self
                .log
                .repeat(message.group, submission.key, Some(device))
                .await?
            {
                Some(first) => Ok(first),
                None => Err(refusal),
            };
        }
        self.append(Append {
            group: message.group,
            key: submission.key,
            may_be_repeat: submission.may_be_repeat,
            kind: EntryKind::Application,
            epoch: message.epoch,
            id: new_entry_id(),
            sender: Some(device),
            bytes,
            at: self.clock.unix_millis(),
            seen_proposal: None,
            commit: None,
        })
        .await
    }

    /// May the device send in that epoch, as far as is known here? The append decides again on the epoch.
    pub(crate) async fn admit_message(
        &self,
        message: &MlsApplication,
        device: DeviceId,
    ) -> Result<(), Refusal> {
        let mut view = self.states.view(message.group).await?;
        if message.epoch > view.epoch {
            view = self.states.refresh(message.group).await?;
        }
        // A stranger learns nothing of the epoch.
        let member = view.roster.device(device).ok_or(Reason::NotAMember)?;
        if message.epoch != view.epoch {
            return Err(self.wrong_epoch(message.group, message.epoch, view.epoch).await?);
        }
        // By the roles of the message's own epoch: the append takes it in no other.
        view.authority
            .may(&member.identity.user, Act::Send)
            .map_err(broken(Reason::PolicyDenied))
    }

    /// The refusal for an epoch that is not the current one.
    pub(crate) async fn wrong_epoch(
        &self,
        group: GroupId,
        epoch: Epoch,
        current: Epoch,
    ) -> Result<Refusal, Refusal> {
        if epoch > current {
            return Ok(refusal(Refused::EpochAhead { current }));
        }
        let winner = self.log.winner(group, epoch).await?;
        Ok(match winner {
            Some(winner) => refusal(Refused::EpochEnded { current, winner }),
            None => Refusal::new(Reason::EpochTooOld).with("current_epoch", current),
        })
    }

    /// Appends, or says in the callers' words why not.
    pub(crate) async fn append(&self, append: Append) -> Result<Appended, Refusal> {
        let group = append.group;
        match self.log.append(append).await? {
            Ok(appended) => Ok(appended),
            Err(Refused::Reset) => Err(self.was_reset(group).await?),
            Err(refused) => Err(refusal(refused)),
        }
    }
}

/// In the callers' words.
pub(crate) fn refusal(refused: Refused) -> Refusal {
    let (reason, current, winner): (_, Option<Epoch>, Option<Position>) = match refused {
        Refused::GroupNotFound => (Reason::GroupNotFound, None, None),
        Refused::Frozen => (Reason::LogRegressed, None, None),
        Refused::Reset => (Reason::GroupReset, None, None),
        Refused::EpochEnded { current, winner } => (Reason::EpochConflict, Some(current), Some(winner)),
        Refused::EpochAhead { current } => (Reason::EpochAhead, Some(current), None),
        Refused::ProposalUnseen { position } => {
            return Refusal::new(Reason::ProposalsMissing).with("position", position);
        }
    };
    let mut refusal = Refusal::new(reason);
    if let Some(current) = current {
        refusal = refusal.with("current_epoch", current);
    }
    if let Some(winner) = winner {
        refusal = refusal.with("winner_position", winner);
    }
    refusal
}
