//! What a proposal may be that stands alone in the log.

use openmls::prelude::{LeafNodeIndex, Proposal, QueuedProposal, Sender};

use crate::{Roster, RuleViolation};

/// Judges a standalone proposal that openmls verified; says which leaf it removes. Everybody may leave, and the service removes who
/// was revoked. All else travels inside commits: a bad proposal in the queue would stop every member from sending.
pub fn judge_proposal(proposal: &QueuedProposal, roster: &Roster) -> Result<LeafNodeIndex, RuleViolation> {
    let removes = removal(proposal)?;
    match roster.at(removes) {
        Some(_) => Ok(removes),
        None => Err(RuleViolation("unknown_leaf")),
    }
}

/// The leaf that a proposal removes without anybody's role being asked.
pub(crate) fn removal(proposal: &QueuedProposal) -> Result<LeafNodeIndex, RuleViolation> {
    match (proposal.proposal(), proposal.sender()) {
        (Proposal::Remove(remove), Sender::Member(sender)) if remove.removed() == *sender => Ok(*sender),
        (Proposal::Remove(remove), Sender::External(_)) => Ok(remove.removed()),
        (Proposal::SelfRemove, Sender::Member(sender)) => Ok(*sender),
        _ => Err(RuleViolation("proposal_type")),
    }
}
