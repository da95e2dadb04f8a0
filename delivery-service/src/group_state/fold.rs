//! How a group's state goes on: a commit or proposal is verified, appended to the log, then merged; or, out of the log, replayed.

use openmls::prelude::{
    ContentType, LeafNodeIndex, ProcessedMessage, ProcessedMessageContent, ProtocolMessage, PublicGroup,
    PublicMessageIn, QueuedProposal, Sender, StagedCommit,
};
use openmls::prelude::{DeserializeBytes as _, MlsMessageBodyIn, MlsMessageIn};
use openmls_rust_crypto::RustCrypto;
use std::sync::Arc;
use valise_group_rules::{
    Authority, CommitSummary, GroupLimits, Roster, RuleViolation, judge_commit, judge_proposal,
};
use valise_proto::{GroupId, Position};

use super::snapshot::{self, NoStore};
use super::{GroupState, PendingProposal, SNAPSHOT_INTERVAL, StateError};
use crate::log::{Entry, EntryKind, Snapshot};

/// A PublicMessage with a commit or a proposal, read but not verified.
pub(crate) struct MlsCommit {
    pub(crate) group: GroupId,
    pub(crate) epoch: valise_proto::Epoch,
    pub(crate) sender: Sender,
    message: PublicMessageIn,
}

impl MlsCommit {
    /// Reads a message of that content type; the error names the rule that it breaks.
    pub(crate) fn read(bytes: &[u8], content: ContentType) -> Result<Self, RuleViolation> {
        let message =
            MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| RuleViolation("encoding"))?;
        let MlsMessageBodyIn::PublicMessage(message) = message.extract() else {
            return Err(RuleViolation("wire_format"));
        };
        if message.content_type() != content {
            return Err(RuleViolation("content_type"));
        }
        let group =
            GroupId::try_from(message.group_id().as_slice()).map_err(|_| RuleViolation("group_id"))?;
        Ok(Self {
            group,
            epoch: valise_proto::Epoch(message.epoch().as_u64()),
            sender: message.sender().clone(),
            message,
        })
    }

    /// The confirmation tag of a commit, TLS-encoded.
    pub(crate) fn confirmation_tag(&self) -> Option<&openmls::prelude::ConfirmationTag> {
        self.message.confirmation_tag()
    }
}

/// A commit that keeps all the rules, ready to be merged.
pub(crate) struct Verified {
    pub(crate) staged: StagedCommit,
    pub(crate) summary: CommitSummary,
}

fn process(group: &PublicGroup, message: PublicMessageIn) -> Result<ProcessedMessage, RuleViolation> {
    // openmls's own words for what is wrong stay inside.
    group
        .process_message(&RustCrypto::default(), ProtocolMessage::from(message))
        .map_err(|_| RuleViolation("mls_validation"))
}

impl GroupState {
    /// Verifies a commit of the current epoch, with openmls and with the rules of groups.
    pub(crate) fn verify_commit(
        &self,
        commit: MlsCommit,
        limits: GroupLimits,
    ) -> Result<Verified, RuleViolation> {
        let processed = process(&self.group, commit.message)?;
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(RuleViolation("content_type"));
        };
        let summary = judge_commit(
            &self.group,
            &self.roster,
            &sender,
            &staged,
            &RustCrypto::default(),
            limits,
        )?;
        Ok(Verified {
            staged: *staged,
            summary,
        })
    }

    /// Verifies a standalone proposal of the current epoch, and says which leaf it removes.
    pub(crate) fn verify_proposal(
        &self,
        proposal: MlsCommit,
    ) -> Result<(Box<QueuedProposal>, LeafNodeIndex), RuleViolation> {
        let processed = process(&self.group, proposal.message)?;
        let ProcessedMessageContent::ProposalMessage(queued) = processed.into_content() else {
            return Err(RuleViolation("proposal_sender"));
        };
        let removes = judge_proposal(&queued, &self.roster)?;
        Ok((queued, removes))
    }

    /// The first waiting proposal that a commit leaves undone.
    pub(crate) fn undone_by(&self, summary: &CommitSummary) -> Option<PendingProposal> {
        self.pending
            .iter()
            .find(|pending| !summary.removed.iter().any(|(leaf, _)| *leaf == pending.removes))
            .copied()
    }

    /// The group after a commit that the log has accepted at that position.
    pub(crate) fn merge(&mut self, staged: StagedCommit, position: Position) -> Result<(), StateError> {
        let only_keys = self.only_changes_keys(&staged);
        let adds = staged.add_proposals().next().is_some();
        self.group
            .merge_commit(&NoStore, staged)
            .map_err(|_| StateError::Damaged("merge"))?;
        if !only_keys {
            let roster = Roster::of(self.group.members(), Some(&self.roster))
                .map_err(|_| StateError::Damaged("roster"))?;
            let authority = Authority::of(self.group.group_context(), &roster)
                .map_err(|_| StateError::Damaged("roles"))?;
            self.roster = Arc::new(roster);
            self.authority = Arc::new(authority);
        }
        self.position = position;
        self.pending.clear();
        self.tree = None;
        self.commits_since_snapshot += 1;
        self.adds_since_snapshot |= adds;
        Ok(())
    }

    /// Does a commit leave members, their credentials and roles as they are? It does where it carries no proposals and the committer's
    /// new leaf has the credential and signature key of a leaf of the roster: its own, as no two leaves share them.
    fn only_changes_keys(&self, staged: &StagedCommit) -> bool {
        staged.queued_proposals().next().is_none()
            && staged.update_path_leaf_node().is_none_or(|leaf| {
                self.roster.members().any(|member| {
                    member.signature_key == leaf.signature_key().as_slice()
                        && member.credential == *leaf.credential()
                })
            })
    }

    /// The group after a proposal that the log has accepted at that position.
    pub(crate) fn queue(
        &mut self,
        proposal: QueuedProposal,
        removes: LeafNodeIndex,
        position: Position,
    ) -> Result<(), StateError> {
        let by_service = matches!(proposal.sender(), Sender::External(_));
        self.group
            .add_proposal(&NoStore, proposal)
            .map_err(|_| StateError::Damaged("proposal"))?;
        self.pending.push(PendingProposal {
            position,
            removes,
            by_service,
        });
        self.position = position;
        Ok(())
    }

    /// The same, of its bytes: it was verified before it was appended.
    pub(crate) fn queue_accepted(&mut self, bytes: &[u8], position: Position) -> Result<(), StateError> {
        let damaged = |_| StateError::Damaged("replay");
        let proposal = MlsCommit::read(bytes, ContentType::Proposal).map_err(damaged)?;
        let (queued, removes) = self.verify_proposal(proposal).map_err(damaged)?;
        self.queue(*queued, removes, position)
    }

    /// A snapshot, where one is due: soon after a commit that adds (it can be replayed only until the added package expires), and every
    /// so many commits, which bounds a replay.
    pub(crate) fn due_snapshot(
        &mut self,
        anchor: valise_proto::EntryId,
    ) -> Result<Option<Snapshot>, StateError> {
        if !self.adds_since_snapshot && self.commits_since_snapshot < SNAPSHOT_INTERVAL {
            return Ok(None);
        }
        self.commits_since_snapshot = 0;
        self.adds_since_snapshot = false;
        let state = snapshot::encode(&self.group)?;
        Ok(Some(Snapshot {
            epoch: self.epoch(),
            position: self.position,
            anchor,
            state,
        }))
    }

    /// The last snapshot could not be kept: the next commit makes another.
    pub(crate) fn without_snapshot(&mut self) {
        self.adds_since_snapshot = true;
    }

    /// Applies an entry that the log accepted earlier. It was verified then; what fails now is damage.
    pub(super) fn replay(&mut self, entry: &Entry) -> Result<(), StateError> {
        let damaged = |_| StateError::Damaged("replay");
        match entry.kind {
            EntryKind::Application => Ok(()),
            EntryKind::Proposal => self.queue_accepted(&entry.bytes, entry.position),
            EntryKind::Commit => {
                let commit = MlsCommit::read(&entry.bytes, ContentType::Commit).map_err(damaged)?;
                let processed = process(&self.group, commit.message).map_err(damaged)?;
                let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
                    return Err(StateError::Damaged("replay"));
                };
                self.merge(*staged, entry.position)
            }
        }
    }
}
