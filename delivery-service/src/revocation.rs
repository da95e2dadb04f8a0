//! What a revoked device loses here: the service, as external sender (RFC 9420 §12.1.8), proposes its Remove in each of its groups.
//!
//! Its token and its stream are refused by the verifier already; secrecy follows with the next commit, which is accepted only if it
//! carries out the Remove. Proposals die with their epoch, so after a commit that could not carry them (a resync external commit)
//! they are issued again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openmls::messages::external_proposals::ExternalProposal;
use openmls::prelude::{
    ContentType, GroupEpoch, LeafNodeIndex, SenderExtensionIndex, tls_codec::Serialize as _,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use tokio::sync::broadcast::error::RecvError;
use valise_access_token::RevocationSubject;
use valise_device_certificate::ServiceIdentity;
use valise_group_rules::signature_scheme;
use valise_proto::{DeviceId, GroupId, IdempotencyKey, Position, Reason, Refusal, UserId};

use crate::door::new_entry_id;
use crate::group_state::{Held, MlsCommit};
use crate::log::{Append, EntryKind};
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
        let suite = state.group.ciphersuite();
        let seen = state.pending.last().map(|pending| pending.position);
        let Some(identity) = self.suites.identity(suite) else {
            // It must not keep the device in its other groups. The next start begins anew.
            tracing::error!(%group, suite = u16::from(suite), "there is no key for the groups of this suite: a revoked device stays in");
            return Ok(());
        };
        let message = ExternalProposal::new_remove::<OpenMlsRustCrypto>(
            leaf,
            openmls::prelude::GroupId::from_slice(group.as_bytes()),
            GroupEpoch::from(epoch.0),
            &ServiceSigner(identity),
            // The service is the only external sender.
            SenderExtensionIndex::new(0),
        )
        .map_err(|_| Reason::Internal)?;
        let bytes: Bytes = message
            .tls_serialize_detached()
            .map_err(|_| Reason::Internal)?
            .into();
        let read = MlsCommit::read(&bytes, ContentType::Proposal).map_err(|_| Reason::Internal)?;
        let (queued, removes) = match state.verify_proposal(read) {
            Ok(verified) => verified,
            Err(violation) => {
                // As of a group that names another service's certificate. It will not be valid later either.
                tracing::error!(%group, rule = violation.0, "the service's own proposal is not valid: a revoked device stays in");
                return Ok(());
            }
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

    /// After a commit that could not carry out the waiting Removes, or a repair: proposes the Removes of revoked devices that are still there.
    /// Tries again while the group takes nothing, until the service stops.
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
            .filter(|member| {
                let refused = self
                    .verifier
                    .refusal_for(&member.identity.user, member.identity.device);
                refused == Some(Reason::DeviceRevoked)
            })
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
