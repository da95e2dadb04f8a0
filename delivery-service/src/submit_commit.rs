//! Appends a commit with the GroupInfo of the epoch that it begins and the Welcome for those it adds, as one bundle.
//!
//! The commits of one group go one after the other through this service: state folded up to the log's end, commit verified against it,
//! bundle checked, appended, merged. The log decides all the same, as another replica may append in between.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use openmls::prelude::{ContentType, DeserializeBytes as _, MlsMessageBodyIn, MlsMessageIn, Sender};
use valise_group_rules::{CommitSummary, Committer, RuleViolation, judge_credentials};
use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal, UserId};

use crate::door::{Submission, broken, new_entry_id, sized, unreadable};
use crate::group_state::{Held, MlsCommit, Verified, judge_group_info};
use crate::log::{Append, Appended, CommitEffects, EntryKind};
use crate::service::Delivery;

pub(crate) struct SubmitCommit {
    pub(crate) commit: Bytes,
    pub(crate) group_info: Bytes,
    /// Empty where nobody is added.
    pub(crate) welcome: Bytes,
    pub(crate) submission: Submission,
    /// The commit must be of this kind: a door for members' commits, and one for external ones.
    pub(crate) external: bool,
}

impl Delivery {
    pub(crate) async fn submit_commit(
        self: &Arc<Self>,
        user: &UserId,
        device: DeviceId,
        request: SubmitCommit,
    ) -> Result<Appended, Refusal> {
        let limit = self.limits.commit_bytes;
        sized("commit", &request.commit, limit)?;
        sized("group_info", &request.group_info, limit)?;
        if request.welcome.len() > limit {
            return Err(Refusal::too_large("welcome", limit));
        }
        let commit = MlsCommit::read(&request.commit, ContentType::Commit).map_err(unreadable("commit"))?;
        if matches!(commit.sender, Sender::NewMemberCommit) != request.external {
            return Err(broken(Reason::InvalidCommit)(RuleViolation("sender")));
        }

        let mut held = self.states.hold(commit.group).await?;
        let pending = match self.admit(&mut held, &commit, user, device).await {
            Ok(pending) => pending,
            // It may have been accepted earlier: then its epoch has ended.
            Err(refusal) => {
                return self
                    .log
                    .repeat(commit.group, request.submission.key, Some(device))
                    .await?
                    .ok_or(refusal);
            }
        };
        let group = commit.group;
        let epoch = commit.epoch;
        let tag = commit.tag_bytes().map_err(broken(Reason::InvalidCommit))?;
        let (mut held, verified) = self.verify(held, commit).await?;
        if verified.summary.committer_identity.device != device {
            return Err(broken(Reason::InvalidCommit)(RuleViolation("sender")));
        }
        let state = held.state()?;
        if let Some(undone) = state.undone_by(&verified.summary).filter(|_| !request.external) {
            return Err(Refusal::new(Reason::ProposalsMissing).with("position", undone.position));
        }
        judge_group_info(&request.group_info, &tag, &verified, state)
            .map_err(broken(Reason::InvalidGroupInfo))?;
        judge_welcome(&request.welcome, &verified.summary)?;

        let append = Append {
            group,
            key: request.submission.key,
            may_be_repeat: request.submission.may_be_repeat,
            kind: EntryKind::Commit,
            epoch,
            id: new_entry_id(),
            sender: Some(device),
            bytes: request.commit,
            at: self.clock.unix_millis(),
            commit: Some(effects(
                &verified.summary,
                pending,
                request.group_info,
                request.welcome,
            )),
        };
        let appended = self.append(append).await?;
        // Accepted: the answer need not wait for what follows, and a caller that goes away must not stop it.
        let delivery = Arc::clone(self);
        self.lifecycle.spawn("merge", async move {
            delivery.merge(held, group, verified, appended).await;
            if request.external
                && let Err(refusal) = delivery.remove_revoked(group).await
            {
                tracing::warn!(%group, reason = %refusal.reason, "waiting Removes could not be issued again");
            }
        });
        Ok(appended)
    }

    /// Right epoch, right sender? Says up to which proposal the state knows the log.
    async fn admit(
        &self,
        held: &mut Held,
        commit: &MlsCommit,
        user: &UserId,
        device: DeviceId,
    ) -> Result<Position, Refusal> {
        let state = held.state()?;
        // A stranger learns nothing of the epoch.
        let known = match commit.sender {
            Sender::NewMemberCommit => state.roster.has_user(user),
            _ => state.roster.device(device).is_some(),
        };
        if !known {
            return Err(Reason::NotAMember.into());
        }
        if commit.epoch != state.epoch() {
            let current = state.epoch();
            return Err(self.wrong_epoch(commit.group, commit.epoch, current).await?);
        }
        match &commit.sender {
            Sender::Member(leaf) => {
                let member = state.roster.device(device).ok_or(Reason::NotAMember)?;
                if member.leaf != *leaf {
                    return Err(broken(Reason::InvalidCommit)(RuleViolation("sender")));
                }
            }
            Sender::NewMemberCommit => {}
            _ => return Err(broken(Reason::InvalidCommit)(RuleViolation("sender"))),
        }
        Ok(state
            .pending
            .last()
            .map_or(Position::NONE, |pending| pending.position))
    }

    /// Verification is arithmetic, up to 100 ms in large groups: not on the threads that serve others.
    async fn verify(&self, mut held: Held, commit: MlsCommit) -> Result<(Held, Verified), Refusal> {
        let limits = self.limits.group();
        let verifier = self.verifier.clone();
        let bundle = verifier.trust_bundle();
        let now = self.clock.unix_seconds();
        let retention = self.retention_seconds;
        tokio::task::spawn_blocking(move || {
            let state = held.state()?;
            let verified = state.verify_commit(commit, limits).map_err(refusal)?;
            judge_credentials(&verified.summary, &bundle, now, retention)
                .map_err(broken(Reason::InvalidCommit))?;
            for added in &verified.summary.added {
                // It may have been revoked after its key package was claimed.
                if verifier
                    .refusal_for(&added.identity.user, added.identity.device)
                    .is_some()
                {
                    return Err(broken(Reason::PolicyDenied)(RuleViolation("device_revoked")));
                }
            }
            Ok((held, verified))
        })
        .await
        .map_err(|_| Reason::Internal)?
    }

    /// The log has it; now the cached state follows. If that fails the state is dropped and rebuilt from the log.
    async fn merge(&self, mut held: Held, group: GroupId, verified: Verified, appended: Appended) {
        let adds = !verified.summary.added.is_empty();
        let merged = tokio::task::spawn_blocking(move || {
            let result = held.state().and_then(|state| {
                if state.position >= appended.position {
                    return Err(crate::group_state::StateError::Damaged("merge order"));
                }
                state.merge(verified.staged, appended.position)?;
                state.due_snapshot(adds, appended.id)
            });
            if result.is_err() {
                *held.guard = None;
            }
            held.show();
            result
        })
        .await;
        match merged {
            Ok(Ok(Some(snapshot))) => {
                if let Err(error) = self.log.put_snapshot(group, snapshot).await {
                    tracing::error!(%error, %group, "a snapshot could not be kept");
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(%error, %group, "an accepted commit could not be merged"),
            Err(_) => tracing::error!(%group, "an accepted commit could not be merged"),
        }
    }
}

/// Rules of who may do what are policy; all others make a commit invalid.
fn refusal(violation: RuleViolation) -> Refusal {
    let reason = if violation.is_policy() {
        Reason::PolicyDenied
    } else {
        Reason::InvalidCommit
    };
    broken(reason)(violation)
}

fn effects(
    summary: &CommitSummary,
    seen_proposal: Position,
    group_info: Bytes,
    welcome: Bytes,
) -> CommitEffects {
    let mut joined: Vec<_> = summary
        .added
        .iter()
        .map(|added| (added.identity.user.clone(), added.identity.device))
        .collect();
    if let Committer::External(_) = summary.committer {
        joined.push((
            summary.committer_identity.user.clone(),
            summary.committer_identity.device,
        ));
    }
    CommitEffects {
        seen_proposal,
        group_info,
        joined,
        left: summary
            .removed
            .iter()
            .map(|(_, identity)| identity.device)
            .collect(),
        welcome: (!welcome.is_empty()).then_some(welcome),
    }
}

/// A Welcome names exactly the key packages that the commit adds (RFC 9420 §12.4.3.1).
fn judge_welcome(bytes: &[u8], summary: &CommitSummary) -> Result<(), Refusal> {
    let mismatch = || Refusal::new(Reason::WelcomeMismatch);
    if bytes.is_empty() {
        return if summary.added.is_empty() {
            Ok(())
        } else {
            Err(mismatch())
        };
    }
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes)
        .map_err(|_| unreadable("welcome")(RuleViolation("encoding")))?;
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
        return Err(unreadable("welcome")(RuleViolation("wire_format")));
    };
    let named: Vec<Vec<u8>> = welcome
        .secrets()
        .iter()
        .map(|secret| secret.new_member().as_slice().to_vec())
        .collect();
    let unique: HashSet<&[u8]> = named.iter().map(Vec::as_slice).collect();
    let added: HashSet<&[u8]> = summary
        .added
        .iter()
        .map(|added| added.reference.as_slice())
        .collect();
    if named.is_empty() || unique.len() != named.len() || unique != added {
        return Err(mismatch());
    }
    Ok(())
}
