//! Would this entry have been accepted there? Judged as at its submission, by what is known of that moment.

use std::sync::Arc;

use bytes::Bytes;
use openmls::prelude::{ContentType, LeafNodeIndex, QueuedProposal, Sender};
use valise_device_certificate::TrustBundle;
use valise_group_rules::{Act, RuleViolation, judge_credentials};

use crate::config::Limits;
use crate::group_state::{GroupState, MlsCommit, Verified, judge_group_info};
use crate::log::offers::Candidate;
use crate::log::{Entry, EntryKind};
use crate::send_message::MlsApplication;

/// How far the clocks of two replicas may differ, in milliseconds.
const CLOCKS: u64 = 60_000;

/// What all entries are judged by.
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) retention_seconds: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) now: u64,
}

/// An entry that keeps the rules, and what it does.
pub(super) enum Step {
    Message,
    Proposal(Box<QueuedProposal>, LeafNodeIndex),
    Commit {
        verified: Box<Verified>,
        /// Where it is known, and belongs to the commit.
        group_info: Option<Bytes>,
    },
}

impl Rules {
    /// Judges an entry against the state before it; `earliest` is when the entry before it was accepted.
    pub(super) fn judge(
        &self,
        state: &GroupState,
        earliest: u64,
        candidate: &Candidate,
    ) -> Result<Step, RuleViolation> {
        let entry = &*candidate.entry;
        if entry.accepted_at < earliest || entry.accepted_at > self.now.saturating_add(CLOCKS) {
            return Err(RuleViolation("accepted_at"));
        }
        if entry.epoch != state.epoch() {
            return Err(RuleViolation("epoch"));
        }
        match entry.kind {
            EntryKind::Application => self.message(state, entry),
            EntryKind::Proposal => self.proposal(state, entry),
            EntryKind::Commit => self.commit(state, candidate),
        }
    }

    /// It is opaque: what can be said is that its sender could have sent it then.
    fn message(&self, state: &GroupState, entry: &Entry) -> Result<Step, RuleViolation> {
        sized(&entry.bytes, self.limits.message_bytes)?;
        let message = MlsApplication::read(&entry.bytes)?;
        if message.group != entry.group {
            return Err(RuleViolation("group_id"));
        }
        if message.epoch != entry.epoch {
            return Err(RuleViolation("epoch"));
        }
        let sender = entry.sender.and_then(|device| state.roster.device(device));
        let sender = sender.ok_or(RuleViolation("sender"))?;
        state.authority.may(&sender.identity.user, Act::Send)?;
        Ok(Step::Message)
    }

    fn proposal(&self, state: &GroupState, entry: &Entry) -> Result<Step, RuleViolation> {
        sized(&entry.bytes, self.limits.proposal_bytes)?;
        let read = read(entry, ContentType::Proposal)?;
        let fits = match (&read.sender, entry.sender) {
            (Sender::Member(leaf), Some(device)) => state
                .roster
                .device(device)
                .is_some_and(|member| member.leaf == *leaf),
            // The service's own.
            (Sender::External(_), None) => true,
            _ => false,
        };
        if !fits {
            return Err(RuleViolation("sender"));
        }
        let (queued, removes) = state.verify_proposal(read)?;
        // Two Removes of one member are in a log where two replicas took them at once.
        Ok(Step::Proposal(queued, removes))
    }

    fn commit(&self, state: &GroupState, candidate: &Candidate) -> Result<Step, RuleViolation> {
        let entry = &*candidate.entry;
        sized(&entry.bytes, self.limits.commit_bytes)?;
        let read = read(entry, ContentType::Commit)?;
        let external = match &read.sender {
            Sender::Member(_) => false,
            Sender::NewMemberCommit => true,
            _ => return Err(RuleViolation("sender")),
        };
        let tag = read.tag_bytes()?;
        let verified = state.verify_commit(read, self.limits.group())?;
        let committer = &verified.summary.committer_identity;
        if entry.sender != Some(committer.device) {
            return Err(RuleViolation("sender"));
        }
        if external && !state.roster.has_user(&committer.user) {
            return Err(RuleViolation("external_joiner"));
        }
        judge_credentials(
            &verified.summary,
            &self.bundle,
            entry.accepted_at / 1000,
            self.retention_seconds,
        )?;
        if !external && state.undone_by(&verified.summary).is_some() {
            return Err(RuleViolation("proposals_missing"));
        }
        // The commit stands without it.
        let info = candidate.group_info.as_ref();
        let group_info = info
            .filter(|info| info.len() <= self.limits.commit_bytes)
            .filter(|info| judge_group_info(info, &tag, &verified, state).is_ok())
            .cloned();
        Ok(Step::Commit {
            verified: Box::new(verified),
            group_info,
        })
    }
}

fn sized(bytes: &[u8], limit: usize) -> Result<(), RuleViolation> {
    if bytes.is_empty() || bytes.len() > limit {
        return Err(RuleViolation("size"));
    }
    Ok(())
}

fn read(entry: &Entry, content: ContentType) -> Result<MlsCommit, RuleViolation> {
    let read = MlsCommit::read(&entry.bytes, content)?;
    if read.group != entry.group {
        return Err(RuleViolation("group_id"));
    }
    if read.epoch != entry.epoch {
        return Err(RuleViolation("epoch"));
    }
    Ok(read)
}
