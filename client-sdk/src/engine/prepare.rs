//! From the outbox to exact bytes: what of a group's queue can be made ready now, is.

use openmls::prelude::{Extensions, GroupContext, LeafNodeIndex, Sender};
use valise_group_rules::{
    GroupLimits, LifetimePolicy, MAX_KEY_PACKAGE_LIFETIME, judge_commit, verify_key_package,
};
use valise_proto::{DeviceId, Epoch, GroupId, IdempotencyKey, UserId};

use super::Engine;
use super::effects::{Chore, Effect};
use super::intents::{AddPackage, Operation, Outcome};
use super::live::{self, LiveGroup};
use super::quarantine::takes_out;
use super::roles;
use crate::mls::{CommitPlan, Provider, build_commit, encrypt, failed, proposed_removals};
use crate::store::{IntentRow, Prepared};
use crate::{Error, EventKind, GroupStatus};

/// Most messages of a group that are encrypted and not in its log yet. Each of them is encrypted again when another member
/// commits first.
const WINDOW: usize = 64;

/// What became of an attempt to build a commit or proposal.
enum Built {
    Ready(Prepared),
    /// There is nothing (left) to do.
    Done(Outcome),
}

impl Engine {
    /// Prepares what can be prepared of a group's queue. Messages go in batches; a commit or proposal goes alone, when all
    /// that was before it is in the log, and nothing is prepared after it until it is in the log too.
    pub(super) fn pump(&mut self, group: GroupId) -> Result<(), Error> {
        loop {
            let Some(row) = self.db.group(group)? else {
                return Ok(());
            };
            let quarantined = row.status == GroupStatus::Quarantined;
            let goes_on = quarantined || row.status == GroupStatus::Active;
            if !goes_on || self.awaiting_proposal.contains(&group) {
                return Ok(());
            }
            let (prepared, messages) = self.db.count_prepared(group)?;
            if prepared > messages || prepared >= WINDOW {
                return Ok(());
            }
            let mut queued = self.db.queued_intents(group, WINDOW - prepared)?;
            if quarantined {
                queued.retain(|intent| takes_out(&intent.kind));
            }
            let Some(first) = queued.first() else {
                return Ok(());
            };
            let live = live::get(&mut self.live, &self.db, group)?;
            let proposed = proposed_removals(&live.mls);
            if proposed.contains(&live.mls.own_leaf_index()) {
                // Only others can commit one's own removal, and until then nobody may send.
                return Ok(());
            }
            // Observed proposals are committed before anything is sent (RFC 9420 §12.4).
            let proposals_first = first.payload.is_some() && !proposed.is_empty();
            if first.payload.is_some() && !proposals_first {
                let count = queued
                    .iter()
                    .take_while(|intent| intent.payload.is_some())
                    .count();
                queued.truncate(count);
                if self.encrypt_all(group, queued)? {
                    return Ok(());
                }
                // All of them failed: what is behind them must not wait for something to happen.
                continue;
            }
            if prepared > 0 {
                return Ok(());
            }
            let next = if proposals_first {
                self.commit_of_proposals(group)?
            } else {
                queued.swap_remove(0)
            };
            // Where this device cannot commit them, its messages wait until somebody else has.
            if self.prepare_alone(next)? || proposals_first {
                return Ok(());
            }
        }
    }

    /// The intent to commit what was proposed: it may be queued already, behind what is as urgent.
    fn commit_of_proposals(&mut self, group: GroupId) -> Result<IntentRow, Error> {
        let operation = Operation::CommitProposals;
        if !self.db.has_intent(group, operation.kind())? {
            self.queue(group, &operation, true)?;
        }
        self.db
            .intent_of_kind(group, operation.kind())?
            .ok_or(Error::InvalidInput("the store's intent"))
    }

    /// Says whether something is on its way now.
    fn encrypt_all(&mut self, group: GroupId, intents: Vec<IntentRow>) -> Result<bool, Error> {
        self.db.reset_ephemerals(group)?;
        let mut any = false;
        for intent in intents {
            // The role may have changed since it was asked for.
            let allowed = self.check_role(group, &Operation::from_row(&intent)?);
            let payload = intent.payload.as_deref().unwrap_or_default();
            match allowed.and_then(|()| self.encrypt(group, payload)) {
                Ok(prepared) => {
                    self.put_prepared(intent, prepared)?;
                    any = true;
                }
                Err(error) if error.is_of_store() => return Err(error),
                // It concerns this message, not those of others in the same transaction.
                Err(error) => self.fail(&intent, &error)?,
            }
        }
        Ok(any)
    }

    fn encrypt(&mut self, group: GroupId, payload: &[u8]) -> Result<Prepared, Error> {
        let claim = self.claim(group)?;
        let live = live::get(&mut self.live, &self.db, group)?;
        let provider = Provider::new(&self.crypto, &self.db.connection);
        live.mls.set_aad(claim);
        let message = encrypt(&mut live.mls, &provider, &self.device.signer, payload);
        // It goes with what was made. What was not must not leave it to the next one.
        live.mls.set_aad(Vec::new());
        Ok(new_request(live.epoch(), message?))
    }

    /// Prepares a commit or proposal; if that fails, only that intent does. Says whether something is on its way now.
    fn prepare_alone(&mut self, intent: IntentRow) -> Result<bool, Error> {
        let operation = Operation::from_row(&intent)?;
        let before = self.savepoint()?;
        let built = match operation {
            Operation::Leave => self.build_leave(intent.group),
            commit => self.build_commit(intent.group, commit),
        };
        match built {
            Ok(Built::Ready(prepared)) => {
                self.db.release()?;
                self.put_prepared(intent, prepared)?;
                Ok(true)
            }
            Ok(Built::Done(outcome)) => {
                self.db.release()?;
                self.db.delete_intent(intent.id)?;
                self.add_commit_ended(&intent, Ok(&[]))?;
                self.effects.push(Effect::Answer(intent.id, Ok(outcome)));
                Ok(false)
            }
            Err(error) if error.is_of_store() => Err(error),
            Err(error) => {
                self.roll_back(&before)?;
                self.live.remove(&intent.group);
                self.fail(&intent, &error)?;
                Ok(false)
            }
        }
    }

    fn build_leave(&mut self, group: GroupId) -> Result<Built, Error> {
        const DOING: &str = "proposing to leave";
        let live = live::get(&mut self.live, &self.db, group)?;
        if live.roster.len() == 1 {
            // Nobody is left who could commit it.
            self.drop_membership(group)?;
            let at = self.options.clock.unix_millis();
            let by = self.device.peer();
            self.emit(
                group,
                valise_proto::Position::NONE,
                at,
                &EventKind::Removed { by },
            )?;
            return Ok(Built::Done(Outcome::Proposed));
        }
        // openmls puts the proposal into the group's queue at once. It belongs there when it is in the log, not before: so it is
        // made with another instance, and what that writes is taken back. A public message moves no ratchet.
        let epoch = live.epoch();
        let mut other = live::load(&self.db, group)?.ok_or(Error::UnknownGroup(group))?;
        other.set_aad(self.claim(group)?);
        let before = self.savepoint()?;
        let provider = Provider::new(&self.crypto, &self.db.connection);
        let message = other.leave_group(&provider, &self.device.signer);
        self.roll_back(&before)?;
        let message = message.map_err(failed(DOING))?;
        let message = message.to_bytes().map_err(|error| Error::mls(DOING)(&error))?;
        Ok(Built::Ready(new_request(epoch, message)))
    }

    fn build_commit(&mut self, group: GroupId, operation: Operation) -> Result<Built, Error> {
        let Some(mut plan) = self.plan(group, operation)? else {
            return Ok(Built::Done(Outcome::Committed {
                added: Vec::new(),
                removed: Vec::new(),
            }));
        };
        let claim = self.claim(group)?;
        let live = live::get(&mut self.live, &self.db, group)?;
        plan.credential = self.device.successor(&live.mls);
        let provider = Provider::new(&self.crypto, &self.db.connection);
        // Where the commit fails, so does this instance of the group.
        live.mls.set_aad(claim);
        let bundle = build_commit(&mut live.mls, &provider, &self.device.signer, plan)?;
        judge_own(live, &self.crypto)?;
        let bytes = |message: openmls::prelude::MlsMessageOut| {
            message
                .to_bytes()
                .map_err(|error| Error::mls("encoding a commit")(&error))
        };
        let epoch = live.epoch();
        let (commit, welcome, group_info) = bundle.into_messages();
        let mut prepared = new_request(epoch, bytes(commit)?);
        prepared.welcome = welcome.map(bytes).transpose()?;
        prepared.group_info = group_info.map(bytes).transpose()?;
        Ok(Built::Ready(prepared))
    }

    /// What a commit for that operation does now; `None` where nothing is left to do.
    fn plan(&mut self, group: GroupId, operation: Operation) -> Result<Option<CommitPlan>, Error> {
        let now = self.now();
        let policy = self.package_policy();
        let live = live::get(&mut self.live, &self.db, group)?;
        let proposed = proposed_removals(&live.mls);
        Ok(match operation {
            Operation::Add { packages } => {
                let mut adds = Vec::new();
                for AddPackage { peer, message } in packages {
                    // Somebody else may have added it meanwhile.
                    if live.roster.device(peer.device).is_none() {
                        let verified =
                            verify_key_package(&message, &self.crypto, &self.device.bundle, now, policy)?;
                        adds.push(verified.key_package);
                    }
                }
                (!adds.is_empty()).then(|| CommitPlan {
                    adds,
                    ..CommitPlan::default()
                })
            }
            Operation::Remove { devices } => plan_removal(live, &self.device.user, &devices, &proposed)?,
            Operation::RemoveUsers { users } => {
                let devices = devices_of(live, &users);
                plan_removal(live, &self.device.user, &devices, &proposed)?
            }
            Operation::SelfUpdate => Some(CommitPlan {
                self_update: true,
                ..CommitPlan::default()
            }),
            Operation::CommitProposals => (!proposed.is_empty()).then(CommitPlan::default),
            Operation::SetRole { user, role } => roles::with_role(live, user, role)?.map(change_of_context),
            Operation::SetPolicy { policy } => roles::with_policy(live, policy)?.map(change_of_context),
            Operation::Create
            | Operation::Send { .. }
            | Operation::Rename { .. }
            | Operation::Leave
            | Operation::Rejoin(_) => None,
        })
    }

    pub(super) fn package_policy(&self) -> LifetimePolicy {
        LifetimePolicy {
            maximum_total: MAX_KEY_PACKAGE_LIFETIME,
            minimum_remaining: self.device.retention,
        }
    }

    /// Somebody has to commit what was proposed: the first active member at once, the next a little later, and so on, so that
    /// they do not all try.
    pub(super) fn watch_proposals(&mut self, group: GroupId) -> Result<(), Error> {
        let live = live::get(&mut self.live, &self.db, group)?;
        let proposed = proposed_removals(&live.mls);
        let own = live.mls.own_leaf_index();
        if proposed.is_empty() || proposed.contains(&own) {
            return Ok(());
        }
        let rank = live
            .roster
            .members()
            .filter(|member| member.leaf < own && !proposed.contains(&member.leaf))
            .count();
        // Beyond that many, waiting longer serves nobody: the few that try at once settle it by the epoch.
        let rank = u32::try_from(rank.min(150)).unwrap_or(150);
        let after = self.options.commit_delay.saturating_mul(rank);
        let epoch = live.epoch();
        self.effects
            .push(Effect::Chore(Chore::CommitProposals { group, epoch, after }));
        Ok(())
    }

    /// The delay is over: if the proposals of that epoch are still there, this device commits them.
    pub(crate) fn commit_proposals(&mut self, group: GroupId, epoch: Epoch) -> Result<(), Error> {
        self.transaction(|engine| {
            let Some(row) = engine.db.group(group)? else {
                return Ok(());
            };
            if !matches!(row.status, GroupStatus::Active | GroupStatus::Quarantined) {
                return Ok(());
            }
            let live = live::get(&mut engine.live, &engine.db, group)?;
            let waiting = live.epoch() == epoch && live.mls.has_pending_proposals();
            if waiting && !engine.db.has_intent(group, Operation::CommitProposals.kind())? {
                engine.queue(group, &Operation::CommitProposals, true)?;
            }
            engine.pump(group)
        })
    }
}

/// One's own commit keeps the rules by which everybody else will judge it.
fn judge_own(live: &LiveGroup, crypto: &openmls_rust_crypto::RustCrypto) -> Result<(), Error> {
    let staged = live
        .mls
        .pending_commit()
        .ok_or_else(|| Error::mls("building a commit")(&"it is not pending"))?;
    let sender = Sender::Member(live.mls.own_leaf_index());
    judge_commit(
        live.mls.public_group(),
        &live.roster,
        &sender,
        staged,
        crypto,
        GroupLimits::default(),
    )?;
    Ok(())
}

fn change_of_context(extensions: Extensions<GroupContext>) -> CommitPlan {
    CommitPlan {
        extensions: Some(extensions),
        ..CommitPlan::default()
    }
}

fn plan_removal(
    live: &LiveGroup,
    own: &UserId,
    devices: &[DeviceId],
    proposed: &[LeafNodeIndex],
) -> Result<Option<CommitPlan>, Error> {
    let removals = leaves(live, devices, proposed);
    let anything = !removals.is_empty() || !proposed.is_empty();
    let extensions = roles::without_roles_of(live, own, &removals, proposed)?;
    Ok(anything.then(|| CommitPlan {
        removals,
        extensions,
        ..CommitPlan::default()
    }))
}

fn devices_of(live: &LiveGroup, users: &[UserId]) -> Vec<DeviceId> {
    live.roster
        .members()
        .filter(|member| users.contains(&member.identity.user))
        .map(|member| member.identity.device)
        .collect()
}

fn leaves(live: &LiveGroup, devices: &[DeviceId], proposed: &[LeafNodeIndex]) -> Vec<LeafNodeIndex> {
    let mut leaves: Vec<_> = devices
        .iter()
        .filter_map(|&device| live.roster.device(device))
        .map(|member| member.leaf)
        .filter(|leaf| !proposed.contains(leaf))
        .collect();
    leaves.sort_unstable();
    leaves.dedup();
    leaves
}

pub(super) fn new_request(epoch: Epoch, message: Vec<u8>) -> Prepared {
    Prepared {
        key: IdempotencyKey::random(&mut rand::rng()),
        epoch,
        message,
        group_info: None,
        welcome: None,
    }
}
