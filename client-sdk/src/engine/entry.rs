//! What one entry of a log does: a message, a proposal, a commit; one's own or another member's.

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    ContentType, MlsMessageIn, ProcessedMessageContent, ProtocolMessage, QueuedProposal, Sender, StagedCommit,
};
use prost::Message as _;
use valise_group_rules::{
    Act, CommitSummary, Committer, GroupLimits, RuleViolation, judge_commit, judge_credentials,
    judge_proposal,
};
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::Engine;
use super::effects::{Chore, Effect, UploadJob};
use super::inbox::{Fault, accepted_at, bad, unprocessable};
use super::intents::{Operation, Outcome};
use super::live::{self, digest, peer};
use crate::content::{GROUP_PROFILE, GROUP_RENAME};
use crate::mls::{Provider, Storage, failed, may_stand_alone};
use crate::store::IntentRow;
use crate::{Content, Error, EventKind, GroupStatus, Peer, Sent, kill_point};

impl Engine {
    pub(super) fn apply_entry(&mut self, group: GroupId, entry: &wire::Entry) -> Result<(), Fault> {
        let digest = digest(&self.crypto, &entry.mls_message)?;
        if let Some(intent) = self.db.intent_by_digest(group, &digest)? {
            return self.apply_own(&intent, entry);
        }
        let message =
            MlsMessageIn::tls_deserialize_exact_bytes(&entry.mls_message).map_err(|error| bad(&error))?;
        let message = message.try_into_protocol_message().map_err(|error| bad(&error))?;
        check_kind(&message, group, entry)?;
        let live = live::get(&mut self.live, &self.db, group)?;
        let provider = Provider::new(&self.crypto, &self.db.connection);
        let processed = live
            .mls
            .process_message(&provider, message)
            .map_err(unprocessable)?;
        if matches!(processed.content(), ProcessedMessageContent::OwnPrivateMessage) {
            // Of a former state of this store, or one that was shown before: nobody can read it again, and nothing that it says, its
            // sender included, is authenticated (RFC 9420 §6.3.2).
            tracing::warn!(%group, position = entry.position, "an own message is not in the outbox");
            return Ok(());
        }
        let sender = processed.sender().clone();
        self.compare_chains(group, entry, &processed)?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                let Sender::Member(leaf) = sender else {
                    return Err(bad(&"the sender is no member"));
                };
                let live = live::get(&mut self.live, &self.db, group)?;
                let sender = live.peer(leaf).ok_or_else(|| bad(&"the sender is no member"))?;
                kill_point::applying("receive_message");
                self.received(group, entry, sender, &message.into_bytes())
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                kill_point::applying("receive_proposal");
                self.proposed(group, *proposal)
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                kill_point::applying("receive_commit");
                self.committed(group, entry, &sender, *staged)
            }
            ProcessedMessageContent::OwnPrivateMessage
            | ProcessedMessageContent::OwnPendingCommit
            | ProcessedMessageContent::ExternalJoinProposalMessage(_) => Err(bad(&"not acceptable here")),
        }
    }

    /// An entry that this device sent: the bytes are those of the outbox.
    fn apply_own(&mut self, intent: &IntentRow, entry: &wire::Entry) -> Result<(), Fault> {
        let group = intent.group;
        kill_point::applying(&intent.kind);
        match Operation::from_row(intent)? {
            Operation::Send { payload } | Operation::Rename { payload } => {
                self.db.delete_intent(intent.id)?;
                let prepared = intent.prepared.as_ref().ok_or_else(|| bad(&"not prepared"))?;
                let position = Position(entry.position);
                let sent = Sent {
                    id: self.own_message_id(group, &payload, position)?,
                    position,
                    epoch: prepared.epoch,
                };
                self.effects
                    .push(Effect::Answer(intent.id, Ok(Outcome::Sent(sent))));
                let sender = self.device.peer();
                self.received(group, entry, sender, &payload)
            }
            Operation::Leave => {
                self.db.delete_intent(intent.id)?;
                self.effects
                    .push(Effect::Answer(intent.id, Ok(Outcome::Proposed)));
                let message = MlsMessageIn::tls_deserialize_exact_bytes(&entry.mls_message)
                    .map_err(|error| bad(&error))?;
                let message = message.try_into_protocol_message().map_err(|error| bad(&error))?;
                let live = live::get(&mut self.live, &self.db, group)?;
                let provider = Provider::new(&self.crypto, &self.db.connection);
                let processed = live
                    .mls
                    .process_message(&provider, message)
                    .map_err(unprocessable)?;
                let ProcessedMessageContent::ProposalMessage(proposal) = processed.into_content() else {
                    return Err(bad(&"not a proposal"));
                };
                self.proposed(group, *proposal)
            }
            commit => self.apply_own_commit(intent, &commit, entry),
        }
    }

    fn apply_own_commit(
        &mut self,
        intent: &IntentRow,
        operation: &Operation,
        entry: &wire::Entry,
    ) -> Result<(), Fault> {
        let group = intent.group;
        let live = live::get(&mut self.live, &self.db, group)?;
        let sender = Sender::Member(live.mls.own_leaf_index());
        let staged = live
            .mls
            .pending_commit()
            .ok_or_else(|| bad(&"the own commit is not pending"))?;
        let summary = judge_commit(
            live.mls.public_group(),
            &live.roster,
            &sender,
            staged,
            &self.crypto,
            GroupLimits::default(),
        )
        .map_err(Error::from)?;
        let new_keys = staged.update_path_leaf_node().is_some();
        let provider = Provider::new(&self.crypto, &self.db.connection);
        live.mls
            .merge_pending_commit(&provider)
            .map_err(failed("merging an own commit"))?;
        live.refresh_roster()?;
        if new_keys {
            self.plan_next_update(group)?;
        }
        self.db.delete_intent(intent.id)?;
        let (added, removed) = self.members_changed(group, entry, &summary)?;
        self.roles_changed(group, entry, &summary)?;
        if matches!(operation, Operation::Add { .. }) {
            self.tell_name(group)?;
        }
        self.add_commit_ended(intent, Ok(&added))?;
        self.effects.push(Effect::Answer(
            intent.id,
            Ok(Outcome::Committed { added, removed }),
        ));
        let at = accepted_at(entry.accepted_at.as_ref());
        let believed = self.believed_at(at, self.db.newest_accepted_at(group)?);
        self.end_quarantine(group, (Position(entry.position), at), believed)?;
        self.epoch_began(group)
    }

    pub(super) fn received(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        sender: Peer,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let at = accepted_at(entry.accepted_at.as_ref());
        let live = live::get(&mut self.live, &self.db, group)?;
        if let Err(RuleViolation(rule)) = live.authority.may(&sender.user, Act::Send) {
            return Ok(self.breach(group, entry, Some(sender), rule)?);
        }
        let position = Position(entry.position);
        let kind = match Content::from_payload(payload, &sender.user, group, position) {
            None => EventKind::Unreadable {
                sender: Some(sender),
                evidence: entry.encode_to_vec(),
            },
            Some(content) if [GROUP_PROFILE, GROUP_RENAME].contains(&content.content_type()) => {
                return Ok(self.named(group, entry, sender, &content)?);
            }
            Some(content) => return Ok(self.heard(group, entry, sender, content)?),
        };
        Ok(self.emit(group, position, at, &kind)?)
    }

    /// A proposal that must be committed before anything else is sent.
    fn proposed(&mut self, group: GroupId, proposal: QueuedProposal) -> Result<(), Fault> {
        if !may_stand_alone(proposal.proposal()) {
            return Err(bad(&"a proposal of this type does not stand alone"));
        }
        let live = live::get(&mut self.live, &self.db, group)?;
        judge_proposal(&proposal, &live.roster).map_err(|violation| bad(&violation))?;
        let own = live.mls.own_leaf_index();
        let leaving = *proposal.sender() == Sender::Member(own);
        live.mls
            .store_pending_proposal(&Storage::new(&self.db.connection), proposal)?;
        self.awaiting_proposal.remove(&group);
        if leaving {
            let before = self.db.group(group)?.map(|row| row.status);
            self.stop(group, GroupStatus::Leaving)?;
            self.db
                .put_status_before(group, before.filter(|before| *before == GroupStatus::Quarantined))?;
        }
        Ok(self.watch_proposals(group)?)
    }

    /// A commit of another member.
    fn committed(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        sender: &Sender,
        staged: StagedCommit,
    ) -> Result<(), Fault> {
        let at = accepted_at(entry.accepted_at.as_ref());
        let live = live::get(&mut self.live, &self.db, group)?;
        let summary = judge_commit(
            live.mls.public_group(),
            &live.roster,
            sender,
            &staged,
            &self.crypto,
            GroupLimits::default(),
        )
        .map_err(|violation| Fault::Bad {
            cause: violation.to_string(),
            report: wire::CommitFault::Policy,
        })?;
        let removed = staged.self_removed();
        let provider = Provider::new(&self.crypto, &self.db.connection);
        live.mls
            .merge_staged_commit(&provider, staged)
            .map_err(failed("merging a commit"))?;
        if removed {
            let by = peer(&summary.committer_identity);
            self.drop_membership(group)?;
            return Ok(self.emit(group, Position(entry.position), at, &EventKind::Removed { by })?);
        }
        live.refresh_roster()?;
        // Nothing that was prepared for the old epoch, and is not in the log by now, was or will be accepted.
        if self.db.unprepare(group)? {
            self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        }
        self.members_changed(group, entry, &summary)?;
        self.roles_changed(group, entry, &summary)?;
        if let Committer::External(joiner) = summary.committer {
            self.greet(group, joiner)?;
        }
        let judged_at = self.judged_at(group, at, self.db.newest_accepted_at(group)?);
        if self
            .db
            .group(group)?
            .is_some_and(|row| row.status == GroupStatus::Leaving)
        {
            // A proposal dies with its epoch: this one was not committed, so it is made again.
            self.db.put_restored(group)?;
            self.queue(group, &Operation::Leave, true)?;
        }
        // Judged at the time of acceptance, and after the merge: refusing what others have merged would fork the group.
        match judge_credentials(&summary, &self.device.bundle, judged_at, 0) {
            Ok(()) => self.end_quarantine(group, (Position(entry.position), at), judged_at)?,
            Err(violation) => self.quarantine(group, entry, violation)?,
        }
        self.compare_group_info_soon(group)?;
        self.epoch_began(group)
    }

    fn members_changed(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        summary: &CommitSummary,
    ) -> Result<(Vec<Peer>, Vec<Peer>), Error> {
        self.tell_device_changes(group, entry, summary)?;
        let mut added: Vec<_> = summary.added.iter().map(|added| peer(&added.identity)).collect();
        let mut removed: Vec<_> = summary
            .removed
            .iter()
            .map(|(_, identity)| peer(identity))
            .collect();
        if let Committer::External(_) = summary.committer {
            let joiner = peer(&summary.committer_identity);
            if removed.contains(&joiner) {
                removed.retain(|peer| *peer != joiner);
                self.came_back(group, entry, joiner)?;
            } else {
                added.push(joiner);
            }
        }
        if !added.is_empty() || !removed.is_empty() {
            let live = live::get(&mut self.live, &self.db, group)?;
            let kind = EventKind::MembersChanged {
                added: added.clone(),
                removed: removed.clone(),
                by: peer(&summary.committer_identity),
                epoch: live.epoch(),
            };
            self.emit(
                group,
                Position(entry.position),
                accepted_at(entry.accepted_at.as_ref()),
                &kind,
            )?;
        }
        Ok((added, removed))
    }

    pub(super) fn epoch_began(&mut self, group: GroupId) -> Result<(), Fault> {
        self.awaiting_proposal.remove(&group);
        self.ephemeral.remove(&group);
        self.db.reset_ephemerals(group)?;
        // The secrets of the epoch before are deleted.
        self.effects.push(Effect::Chore(Chore::Scrub));
        Ok(())
    }
}

/// An entry is what the service says it is, and of the group that it says.
fn check_kind(message: &ProtocolMessage, group: GroupId, entry: &wire::Entry) -> Result<(), Fault> {
    let expected = match entry.kind() {
        wire::EntryKind::Commit => ContentType::Commit,
        wire::EntryKind::Proposal => ContentType::Proposal,
        wire::EntryKind::Application => ContentType::Application,
        wire::EntryKind::Unspecified => return Err(bad(&"the entry has no kind")),
    };
    if message.content_type() != expected {
        return Err(bad(&"the entry is not of its kind"));
    }
    if message.group_id().as_slice() != group.as_bytes() {
        return Err(bad(&"the entry is of another group"));
    }
    Ok(())
}
