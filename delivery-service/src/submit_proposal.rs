//! Appends a standalone proposal. Accepted are only those that cannot stall a group: a Remove of oneself, a SelfRemove.

use bytes::Bytes;
use openmls::prelude::{ContentType, Sender};
use valise_group_rules::RuleViolation;
use valise_proto::{DeviceId, Reason, Refusal};

use crate::door::{Submission, broken, new_entry_id, sized, unreadable};
use crate::group_state::MlsCommit;
use crate::log::{Append, Appended, EntryKind};
use crate::service::Delivery;

impl Delivery {
    pub(crate) async fn submit_proposal(
        &self,
        device: DeviceId,
        proposal: Bytes,
        submission: Submission,
    ) -> Result<Appended, Refusal> {
        sized("proposal", &proposal, self.limits.proposal_bytes)?;
        let read = MlsCommit::read(&proposal, ContentType::Proposal).map_err(unreadable("proposal"))?;
        let (group, epoch) = (read.group, read.epoch);
        let mut held = self.states.hold(group).await?;
        if let Some(first) = self.log.repeat(group, submission.key, Some(device)).await? {
            return Ok(first);
        }
        let state = held.state()?;
        let current = state.epoch();
        if epoch != current {
            return Err(self.wrong_epoch(group, epoch, current).await?);
        }
        let member = state.roster.device(device).ok_or(Reason::NotAMember)?;
        if read.sender != Sender::Member(member.leaf) {
            return Err(broken(Reason::InvalidProposal)(RuleViolation("sender")));
        }
        let (queued, removes) = state
            .verify_proposal(read)
            .map_err(broken(Reason::InvalidProposal))?;
        if state.pending.iter().any(|pending| pending.removes == removes) {
            return Err(broken(Reason::InvalidProposal)(RuleViolation("duplicate_remove")));
        }
        let append = Append {
            group,
            key: submission.key,
            may_be_repeat: submission.may_be_repeat,
            kind: EntryKind::Proposal,
            epoch,
            id: new_entry_id(),
            sender: Some(device),
            bytes: proposal,
            at: self.clock.unix_millis(),
            seen_proposal: None,
            commit: None,
        };
        let appended = self.append(append).await?;
        if let Err(error) = state.queue(*queued, removes, appended.position) {
            tracing::error!(%error, %group, "an accepted proposal could not be queued");
            *held.guard = None;
        }
        Ok(appended)
    }
}
