//! Appends a commit with the GroupInfo of the epoch that it begins and the Welcome for those it adds, as one bundle.
//!
//! The commits of one group go one after the other through this service: commit verified against the group's state, bundle checked,
//! appended, merged. The state is the one that is known here: as a rule nobody else has appended since, and the log takes a commit only
//! in its own epoch and with all proposals seen. Whoever is refused was perhaps judged by a state of yesterday, so that is folded up to the
//! log's end and, if that was news, the commit is judged once more.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use openmls::prelude::{ContentType, DeserializeBytes as _, MlsMessageBodyIn, MlsMessageIn, Sender};
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};
use valise_group_rules::{CommitSummary, Committer, RuleViolation, judge_credentials_with};
use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal, UserId};

use crate::door::{Submission, broken, new_entry_id, sized, unreadable};
use crate::group_state::{GroupState, Held, MlsCommit, StateError, Verified, judge_group_info};
use crate::log::{Append, Appended, CommitEffects, EntryKind, Refused, ServiceProposal};
use crate::send_message;
use crate::service::Delivery;

/// A commit of a group of at most so many members, of at most so many bytes with all that comes with it, is verified and merged where it
/// is: that takes about a millisecond at most, and another thread would have to be woken for it.
const SMALL_GROUP: usize = 128;
const SMALL_COMMIT: usize = 32 * 1024;

pub(crate) struct SubmitCommit {
    pub(crate) commit: Bytes,
    pub(crate) group_info: Bytes,
    /// Empty where nobody is added.
    pub(crate) welcome: Bytes,
    pub(crate) submission: Submission,
    /// The commit must be of this kind: a door for members' commits, and one for external ones.
    pub(crate) external: bool,
}

impl SubmitCommit {
    fn read(&self) -> Result<MlsCommit, Refusal> {
        MlsCommit::read(&self.commit, ContentType::Commit).map_err(unreadable("commit"))
    }

    fn size(&self) -> usize {
        self.commit.len() + self.group_info.len() + self.welcome.len()
    }
}

/// Who submits it.
struct Submitter<'a> {
    user: &'a UserId,
    device: DeviceId,
}

/// A commit that was not appended, as one state of its group told.
struct Rejected {
    held: Held,
    refusal: Refusal,
    /// Is it of this epoch, and the sender's to make? One that is not may have been accepted earlier: then its epoch has ended.
    admitted: bool,
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
        let commit = request.read()?;
        if matches!(commit.sender, Sender::NewMemberCommit) != request.external {
            return Err(broken(Reason::InvalidCommit)(RuleViolation("sender")));
        }
        let group = commit.group;
        let by = Submitter { user, device };

        let held = self.states.hold_as_known(group).await?;
        let mut tried = self.attempt(held, commit, &by, &request).await?;
        if let Err(mut rejected) = tried {
            tried = if self.states.catch_up(group, &mut rejected.held).await? {
                self.attempt(rejected.held, request.read()?, &by, &request)
                    .await?
            } else {
                Err(rejected)
            };
        }
        match tried {
            Ok(appended) => Ok(appended),
            Err(rejected) if rejected.admitted => Err(rejected.refusal),
            Err(Rejected { held, refusal, .. }) => {
                drop(held);
                let first = self
                    .log
                    .repeat(group, request.submission.key, Some(device))
                    .await?;
                first.ok_or(refusal)
            }
        }
    }

    /// Judges the commit by the state that is held, and appends it.
    async fn attempt(
        self: &Arc<Self>,
        mut held: Held,
        commit: MlsCommit,
        by: &Submitter<'_>,
        request: &SubmitCommit,
    ) -> Result<Result<Appended, Rejected>, Refusal> {
        let rejected = |held, refusal, admitted| {
            Ok(Err(Rejected {
                held,
                refusal,
                admitted,
            }))
        };
        let seen_proposal = match self.admit(&mut held, &commit, by).await {
            Ok(seen) => seen,
            Err(refusal) => return rejected(held, refusal, false),
        };
        let (group, epoch) = (commit.group, commit.epoch);
        let (held, judged) = self.judge(held, commit, by.device, request).await?;
        let Judged { verified, removals } = match judged {
            Ok(judged) => judged,
            Err(refusal) => return rejected(held, refusal, true),
        };
        let proposals = removals.iter().map(|removal| removal.bytes.clone()).collect();
        let append = Append {
            group,
            key: request.submission.key,
            may_be_repeat: request.submission.may_be_repeat,
            kind: EntryKind::Commit,
            epoch,
            id: new_entry_id(),
            sender: Some(by.device),
            bytes: request.commit.clone(),
            at: self.clock.unix_millis(),
            seen_proposal: Some(seen_proposal),
            commit: Some(effects(&verified.summary, removals, request)),
        };
        match self.append_and_merge(held, verified, append, proposals).await? {
            Ok(appended) => Ok(Ok(appended)),
            Err((held, Refused::Reset)) => rejected(held, self.was_reset(group).await?, true),
            Err((held, refused)) => rejected(held, send_message::refusal(refused), true),
        }
    }

    /// Appends it, and lets the state follow what the log has then, with a snapshot where one is due. A caller that goes away, or whose time
    /// is up, stops neither; and the answer waits for the log only.
    async fn append_and_merge(
        self: &Arc<Self>,
        held: Held,
        verified: Box<Verified>,
        append: Append,
        proposals: Vec<Bytes>,
    ) -> Result<Result<Appended, (Held, Refused)>, Refusal> {
        let (group, id) = (append.group, append.id);
        let (done, result) = oneshot::channel();
        let (delivery, span) = (Arc::clone(self), Span::current());
        self.lifecycle.spawn("commit", async move {
            // Nobody listens to the result where the caller has gone.
            match delivery.log.append(append).instrument(span).await {
                Ok(Ok(appended)) => {
                    let _ = done.send(Ok(Ok(appended)));
                    // A store that was asked twice for it calls it a repeat, too: ids tell. To a repeat the state has come, or will come, by the
                    // log: its key does not say that it is the same commit.
                    if appended.id == id {
                        delivery.merge(held, group, *verified, appended, proposals).await;
                    }
                }
                Ok(Err(refused)) => drop(done.send(Ok(Err((held, refused))))),
                Err(error) => drop(done.send(Err(error))),
            }
        });
        Ok(result.await.map_err(|_| Reason::Internal)??)
    }

    /// Right epoch, right sender? Says up to which proposal the state knows the log.
    async fn admit(
        &self,
        held: &mut Held,
        commit: &MlsCommit,
        by: &Submitter<'_>,
    ) -> Result<Position, Refusal> {
        let state = held.state()?;
        // A stranger learns nothing of the epoch.
        let known = match commit.sender {
            Sender::NewMemberCommit => state.roster.has_user(by.user),
            _ => state.roster.device(by.device).is_some(),
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
                let member = state.roster.device(by.device).ok_or(Reason::NotAMember)?;
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

    /// Verification is arithmetic, up to 100 ms in large groups: then not on the threads that serve others.
    async fn judge(
        self: &Arc<Self>,
        mut held: Held,
        commit: MlsCommit,
        device: DeviceId,
        request: &SubmitCommit,
    ) -> Result<(Held, Result<Judged, Refusal>), Refusal> {
        let judge = Judge {
            delivery: Arc::clone(self),
            device,
            group_info: request.group_info.clone(),
            welcome: request.welcome.clone(),
            external: request.external,
        };
        let state = held.state()?;
        if state.roster.len() <= SMALL_GROUP && request.size() <= SMALL_COMMIT {
            let judged = judge.judge(state, commit);
            return Ok((held, judged));
        }
        tokio::task::spawn_blocking(move || {
            let judged = judge.judge(held.state()?, commit);
            Ok((held, judged))
        })
        .await
        .map_err(|_| Reason::Internal)?
    }

    /// The log has it; now the cached state follows. If that fails the state is dropped and rebuilt from the log.
    async fn merge(
        &self,
        mut held: Held,
        group: GroupId,
        verified: Verified,
        appended: Appended,
        proposals: Vec<Bytes>,
    ) {
        let small = held.state().is_ok_and(|state| {
            state.roster.len() <= SMALL_GROUP && verified.summary.added.len() <= SMALL_GROUP
        });
        let merge = move || {
            // Taken out while it changes: a failure or a panic leaves nothing half-done behind.
            let known = held.guard.take().ok_or(StateError::Damaged("no state"));
            let merged = known.and_then(|mut state| {
                if state.position >= appended.position {
                    return Err(StateError::Damaged("merge order"));
                }
                state.merge(verified.staged, appended.position)?;
                let snapshot = state.due_snapshot(appended.id)?;
                for proposal in proposals {
                    state.queue_accepted(&proposal, state.position.next())?;
                }
                *held.guard = Some(state);
                Ok(snapshot)
            });
            held.show();
            merged
        };
        let merged = if small {
            Ok(merge())
        } else {
            tokio::task::spawn_blocking(merge).await
        };
        match merged {
            Ok(Ok(Some(snapshot))) => {
                if let Err(error) = self.log.put_snapshot(group, snapshot).await {
                    tracing::error!(%error, %group, "a snapshot could not be kept: the next commit makes another");
                    if let Ok(mut held) = self.states.hold_as_known(group).await
                        && let Ok(state) = held.state()
                    {
                        state.without_snapshot();
                    }
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(%error, %group, "an accepted commit could not be merged"),
            Err(_) => tracing::error!(%group, "an accepted commit could not be merged"),
        }
    }
}

/// What a commit is judged by, besides the group's state.
struct Judge {
    delivery: Arc<Delivery>,
    device: DeviceId,
    group_info: Bytes,
    welcome: Bytes,
    external: bool,
}

/// A commit that may be appended.
struct Judged {
    verified: Box<Verified>,
    /// The service's proposals that go with it.
    removals: Vec<ServiceProposal>,
}

impl Judge {
    fn judge(&self, state: &GroupState, commit: MlsCommit) -> Result<Judged, Refusal> {
        let delivery = &self.delivery;
        let group = commit.group;
        let tag = commit.tag_bytes().map_err(broken(Reason::InvalidCommit))?;
        let limits = delivery.limits.group();
        let verified = state.verify_commit(commit, limits).map_err(refusal)?;
        let summary = &verified.summary;
        let bundle = delivery.verifier.trust_bundle();
        let now = delivery.clock.unix_seconds();
        judge_credentials_with(
            summary,
            |credential, key| delivery.certificates.judge(credential, key, &bundle, now),
            now,
            delivery.retention_seconds,
        )
        .map_err(broken(Reason::InvalidCommit))?;
        for added in &summary.added {
            // It may have been revoked after its key package was claimed.
            let (user, device) = (&added.identity.user, added.identity.device);
            if delivery.verifier.is_revoked(user, device)? {
                return Err(broken(Reason::PolicyDenied)(RuleViolation("device_revoked")));
            }
        }
        if summary.committer_identity.device != self.device {
            return Err(broken(Reason::InvalidCommit)(RuleViolation("sender")));
        }
        if let Some(undone) = state.undone_by(summary).filter(|_| !self.external) {
            return Err(Refusal::new(Reason::ProposalsMissing).with("position", undone.position));
        }
        judge_group_info(&self.group_info, &tag, &verified, state)
            .map_err(broken(Reason::InvalidGroupInfo))?;
        judge_welcome(&self.welcome, summary)?;
        let removals = if self.external {
            delivery.removals_with(group, state, summary)?
        } else {
            Vec::new()
        };
        Ok(Judged {
            verified: Box::new(verified),
            removals,
        })
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
    proposals: Vec<ServiceProposal>,
    request: &SubmitCommit,
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
        group_info: request.group_info.clone(),
        joined,
        left: summary
            .removed
            .iter()
            .map(|(_, identity)| identity.device)
            .collect(),
        welcome: (!request.welcome.is_empty()).then(|| request.welcome.clone()),
        proposals,
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
