//! What a revoked device loses here: the service, as external sender (RFC 9420 §12.1.8), proposes its Remove in each of its groups.
//!
//! Its token and its stream are refused by the verifier already; secrecy follows with the next commit, which is accepted only if it
//! carries out the Remove. Proposals die with their epoch, so with a commit that cannot carry them (a resync external commit) they are
//! issued again, in the same step of the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openmls::messages::external_proposals::ExternalProposal;
use openmls::prelude::{
    Ciphersuite, ContentType, GroupEpoch, LeafNodeIndex, QueuedProposal, SenderExtensionIndex,
    tls_codec::Serialize as _,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use tokio::sync::broadcast::error::RecvError;
use valise_access_token::RevocationSubject;
use valise_device_certificate::ServiceIdentity;
use valise_group_rules::{CommitSummary, Identity, Roster, RuleViolation, signature_scheme};
use valise_proto::{DeviceId, Epoch, GroupId, IdempotencyKey, Position, Reason, Refusal, UserId};

use crate::door::{broken, new_entry_id};
use crate::group_state::{GroupState, Held, MlsCommit, PendingProposal};
use crate::log::{Append, EntryKind, ServiceProposal};
use crate::service::Delivery;

/// Groups that are asked for at once.
const PAGE: usize = 500;
/// Tries for one group while others append to it.
const TRIES: usize = 8;
/// Before what failed is tried again, twice as long each time, up to the second.
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Signs the service's own proposals.
struct ServiceSigner<'a>(&'a ServiceIdentity);

impl Signer for ServiceSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.0.sign(payload).map_err(|_| SignerError::SigningError)
    }

    fn signature_scheme(&self) -> SignatureScheme {
        signature_scheme(self.0.kind())
    }
}

fn new_key() -> IdempotencyKey {
    IdempotencyKey::random(&mut rand::rng())
}

/// The Remove of that leaf in that epoch, an MLSMessage. Every replica makes the same.
fn signed(
    identity: &ServiceIdentity,
    group: GroupId,
    epoch: Epoch,
    leaf: LeafNodeIndex,
) -> Result<Bytes, Refusal> {
    let message = ExternalProposal::new_remove::<OpenMlsRustCrypto>(
        leaf,
        openmls::prelude::GroupId::from_slice(group.as_bytes()),
        GroupEpoch::from(epoch.0),
        &ServiceSigner(identity),
        // The service is the only external sender.
        SenderExtensionIndex::new(0),
    )
    .map_err(|_| Reason::Internal)?;
    let bytes = message.tls_serialize_detached().map_err(|_| Reason::Internal)?;
    Ok(bytes.into())
}

/// The service's own proposal of the current epoch; `None` where the group does not take it.
fn verified(
    group: GroupId,
    state: &GroupState,
    bytes: &[u8],
) -> Result<Option<(Box<QueuedProposal>, LeafNodeIndex)>, Refusal> {
    let read = MlsCommit::read(bytes, ContentType::Proposal).map_err(|_| Reason::Internal)?;
    match state.verify_proposal(read) {
        Ok(verified) => Ok(Some(verified)),
        Err(violation) => {
            // As of a group that names another key of the service. It will not be valid later either.
            tracing::error!(%group, rule = violation.0, "the service's own proposal is not valid: a revoked device stays in");
            Ok(None)
        }
    }
}

/// Revoked devices that an external commit leaves in: those whose Remove waits, and those that `is_revoked` knows, which is perhaps not all of
/// them. A revoked device does not come back itself.
fn left_in(
    pending: &[PendingProposal],
    roster: &Roster,
    (committer, removed): (&Identity, &[(LeafNodeIndex, Identity)]),
    is_revoked: impl Fn(&Identity) -> bool,
) -> Result<BTreeSet<LeafNodeIndex>, RuleViolation> {
    let waiting = pending.iter().filter(|pending| pending.by_service);
    let known = roster.members().filter(|member| is_revoked(&member.identity));
    let mut revoked: BTreeSet<LeafNodeIndex> = waiting.map(|pending| pending.removes).collect();
    revoked.extend(known.map(|member| member.leaf));
    // What an external commit removes is its device's old leaf.
    if is_revoked(committer) || removed.iter().any(|(leaf, _)| revoked.contains(leaf)) {
        return Err(RuleViolation("device_revoked"));
    }
    Ok(revoked)
}

impl Delivery {
    /// Until the service stops: proposes the Remove of each device that is revoked.
    pub(crate) async fn follow_revocations(self: Arc<Self>) {
        let stopping = self.lifecycle.stopping().clone();
        let mut news = self.verifier.revocations();
        let (mut heard_of, mut wait) = (0, WAIT);
        let mut revoked: Vec<(UserId, DeviceId)> = Vec::new();
        loop {
            for revocation in self.verifier.revocations_after(heard_of) {
                heard_of = revocation.number;
                if let RevocationSubject::Device { user, device } = revocation.subject {
                    revoked.push((user, device));
                    wait = WAIT;
                }
            }
            // One that is still in a group, which may be frozen for days, must not hold up the others.
            let mut still_there = Vec::new();
            for (user, device) in revoked {
                if let Err(refusal) = self.remove_everywhere(&user, device).await {
                    tracing::warn!(%device, reason = %refusal.reason, "a revoked device is still in groups: trying again");
                    still_there.push((user, device));
                }
            }
            revoked = still_there;
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait), if !revoked.is_empty() => wait = (wait * 2).min(LONGEST_WAIT),
                heard = news.recv() => if matches!(heard, Err(RecvError::Closed)) {
                    return;
                },
            }
        }
    }

    /// From each group that takes it; says why one did not.
    async fn remove_everywhere(&self, user: &UserId, device: DeviceId) -> Result<(), Refusal> {
        let (mut after, mut refused) = (None, None);
        loop {
            let page = self.log.memberships(user, device, after, PAGE).await?;
            for membership in page.iter().filter(|membership| membership.device_is_member) {
                if let Err(refusal) = self.propose_removal(membership.group, device).await {
                    refused = refused.or(Some(refusal));
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.group),
                _ => return refused.map_or(Ok(()), Err),
            }
        }
    }

    /// Proposes the Remove of a device, unless it has gone or a Remove waits already.
    async fn propose_removal(&self, group: GroupId, device: DeviceId) -> Result<(), Refusal> {
        for _ in 0..TRIES {
            let mut held = self.states.hold(group).await?;
            let state = held.state()?;
            let Some(leaf) = state.roster.device(device).map(|member| member.leaf) else {
                return Ok(());
            };
            if state.pending.iter().any(|pending| pending.removes == leaf) {
                return Ok(());
            }
            match self.append_removal(&mut held, group, leaf).await {
                // Another replica was faster, perhaps with the same Remove: look again.
                Err(refusal)
                    if matches!(refusal.reason, Reason::EpochConflict | Reason::ProposalsMissing) => {}
                result => return result,
            }
        }
        Err(Reason::EpochConflict.into())
    }

    async fn append_removal(
        &self,
        held: &mut Held,
        group: GroupId,
        leaf: LeafNodeIndex,
    ) -> Result<(), Refusal> {
        let state = held.state()?;
        let epoch = state.epoch();
        let seen = state.pending.last().map(|pending| pending.position);
        // Where it cannot, that must not keep the device in its other groups. The next start begins anew.
        let Some(identity) = self.acting_in(group, state.group.ciphersuite()) else {
            return Ok(());
        };
        let bytes = signed(identity, group, epoch, leaf)?;
        let Some((queued, removes)) = verified(group, state, &bytes)? else {
            return Ok(());
        };
        let appended = self
            .append(Append {
                group,
                key: new_key(),
                may_be_repeat: false,
                kind: EntryKind::Proposal,
                epoch,
                id: new_entry_id(),
                sender: None,
                bytes,
                at: self.clock.unix_millis(),
                seen_proposal: Some(seen.unwrap_or(Position::NONE)),
                commit: None,
            })
            .await?;
        if state.queue(*queued, removes, appended.position).is_err() {
            *held.guard = None;
        }
        Ok(())
    }

    /// As whom the service proposes in groups of that suite.
    fn acting_in(&self, group: GroupId, suite: Ciphersuite) -> Option<&ServiceIdentity> {
        let identity = self.suites.identity(suite);
        if identity.is_none() {
            tracing::error!(%group, suite = u16::from(suite), "there is no key for the groups of this suite: a revoked device stays in");
        }
        identity
    }

    /// The Removes of revoked devices that an external commit leaves in, of the epoch that it begins: the log takes them together with it.
    pub(crate) fn removals_with(
        &self,
        group: GroupId,
        state: &GroupState,
        commit: &CommitSummary,
    ) -> Result<Vec<ServiceProposal>, Refusal> {
        let by = (&commit.committer_identity, commit.removed.as_slice());
        let leaves = left_in(&state.pending, &state.roster, by, |identity| {
            self.is_revoked(identity)
        })
        .map_err(broken(Reason::PolicyDenied))?;
        let Some(first) = leaves.first() else {
            return Ok(Vec::new());
        };
        let Some(identity) = self.acting_in(group, state.group.ciphersuite()) else {
            return Ok(Vec::new());
        };
        // Such a commit changes nothing of what they are judged by: the next epoch takes them all, if this one takes one.
        let sample = signed(identity, group, state.epoch(), *first)?;
        if verified(group, state, &sample)?.is_none() {
            return Ok(Vec::new());
        }
        let epoch = state.epoch().next();
        let proposal = |leaf| -> Result<ServiceProposal, Refusal> {
            Ok(ServiceProposal {
                key: new_key(),
                id: new_entry_id(),
                bytes: signed(identity, group, epoch, leaf)?,
            })
        };
        leaves.into_iter().map(proposal).collect()
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        self.verifier.refusal_for(&identity.user, identity.device) == Some(Reason::DeviceRevoked)
    }

    /// After a repair: proposes the Removes of revoked devices that are still there. Tries again while the group takes nothing, until the service
    /// stops.
    pub(crate) async fn issue_removals_again(&self, group: GroupId) {
        let stopping = self.lifecycle.stopping().clone();
        let mut wait = WAIT;
        while let Err(refusal) = self.remove_revoked(group).await {
            tracing::warn!(%group, reason = %refusal.reason, "waiting Removes could not be issued again");
            if !matches!(
                refusal.reason,
                Reason::LogRegressed | Reason::StoreUnavailable | Reason::Overloaded | Reason::EpochConflict
            ) {
                return;
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
            }
        }
    }

    async fn remove_revoked(&self, group: GroupId) -> Result<(), Refusal> {
        let view = self.states.refresh(group).await?;
        let revoked: Vec<DeviceId> = view
            .roster
            .members()
            .filter(|member| self.is_revoked(&member.identity))
            .map(|member| member.identity.device)
            .collect();
        let mut refused = None;
        for device in revoked {
            if let Err(refusal) = self.propose_removal(group, device).await {
                refused = refused.or(Some(refusal));
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use valise_group_rules::{Member, credential};
    use valise_proto::Uuid;

    use super::*;

    fn identity(number: u32) -> Identity {
        Identity {
            user: "bob@a.example".parse().unwrap(),
            device: DeviceId::from_uuid(Uuid::from_u128(number.into())),
            certificate_not_after: 0,
        }
    }

    fn waiting(leaf: u32, by_service: bool) -> PendingProposal {
        PendingProposal {
            position: Position(9),
            removes: LeafNodeIndex::new(leaf),
            by_service,
        }
    }

    /// The leaves that are proposed for removal again, in a group of six devices of which the last is known to be revoked.
    fn again(committer: u32, removed: &[u32]) -> Result<Vec<u32>, &'static str> {
        let members = (0..6).map(|number| Member {
            leaf: LeafNodeIndex::new(number),
            identity: identity(number),
            signature_key: Vec::new(),
            credential: credential(&[vec![1]]),
        });
        let roster = Roster::of_members(members).unwrap();
        // One leaves, and of one another replica has heard that it is revoked.
        let pending = [waiting(1, false), waiting(2, true)];
        let removed: Vec<_> = removed
            .iter()
            .map(|leaf| (LeafNodeIndex::new(*leaf), identity(*leaf)))
            .collect();
        let revoked = |of: &Identity| *of == identity(5);
        let by = (&identity(committer), removed.as_slice());
        let left = left_in(&pending, &roster, by, revoked);
        left.map(|leaves| leaves.iter().map(LeafNodeIndex::u32).collect())
            .map_err(|violation| violation.0)
    }

    #[test]
    fn who_is_revoked_anywhere_is_proposed_for_removal_again() {
        assert_eq!(again(7, &[]), Ok(vec![2, 5]));
        assert_eq!(again(3, &[3]), Ok(vec![2, 5]));
        assert_eq!(
            again(1, &[1]),
            Ok(vec![2, 5]),
            "who wished to leave may come back"
        );
    }

    #[test]
    fn who_is_revoked_does_not_come_back() {
        assert_eq!(again(2, &[2]), Err("device_revoked"));
        assert_eq!(again(5, &[5]), Err("device_revoked"));
    }
}
