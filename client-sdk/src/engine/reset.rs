//! Going on in the successor of a group that an administrator has ended (RFC 9420 §16.12).
//!
//! 1. The news come through the inbox, with the id under which the group goes on and the old log's last position. The device reads the old log to
//!    that end, if it can. Then the old group is [`GroupStatus::Reset`]: its keys are deleted, and what its successor is made from (name, roles,
//!    members) is kept.
//! 2. Somebody has to make the successor; the service cannot, for it has no keys. Devices try one after the other, those of the highest role first,
//!    then by leaf (`session/reset.rs`): who is first registers a group with that id and the old roles; the others learn that it exists, and wait
//!    for their invitation. A device that could not read to the end asks the service for the last GroupInfo and takes roles and members from
//!    there, where a member has signed them.
//! 3. Whoever made it adds the others' devices with fresh key packages, those of the lowest role first: who is no owner can add only as long as no
//!    owner is in it.
//!
//! A device that is invited judges what it is invited into. By the first commit nobody can have changed anything yet: roles and members must be the
//! old ones. Later, or where it does not know the old group's end, it shows the differences as events.
//!
//! Each step is stored with what it does, so a crash goes on where it was.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{Ciphersuite, GroupContext, MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn};
use valise_group_rules::{Role, Roles, successor_config};
use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal, UserId};

use super::Engine;
use super::effects::{Chore, Effect, Follow};
use super::intents::Operation;
use super::live;
use super::outcome::cause;
use crate::mls::{Provider, build_external_commit, judge_joined_context, proposed_removals};
use crate::store::{GroupRow, IntentRow, Known, OldGroup, ResetRow, ResetStep};
use crate::{Error, EventKind, GroupStatus, Peer, WhatNow, kill_point};

const DOING: &str = "following a reset";

/// Who is still to be added to a successor.
pub(crate) struct Behind {
    pub(crate) successor: GroupId,
    pub(crate) suite: Ciphersuite,
    /// In the order in which they can be added.
    pub(crate) devices: Vec<DeviceId>,
}

impl Engine {
    /// The news. The first about a group counts.
    pub(super) fn take_reset(&mut self, item: &wire::GroupResetItem) -> Result<(), Error> {
        let (Ok(group), Ok(successor)) = (
            GroupId::try_from(&*item.group_id),
            GroupId::try_from(&*item.successor_group_id),
        ) else {
            return Ok(());
        };
        if group != successor
            && self
                .db
                .put_reset(group, successor, Position(item.last_position))?
        {
            self.follow_reset(group)?;
        }
        Ok(())
    }

    /// Ends a group that was reset, once it is read to its end or cannot be.
    pub(super) fn follow_reset(&mut self, group: GroupId) -> Result<(), Error> {
        let reset = self.db.reset(group)?;
        let Some(reset) = reset.filter(|reset| reset.step == ResetStep::Reading) else {
            return Ok(());
        };
        // Its invitation may come later than this.
        let Some(row) = self.db.group(group)? else {
            return Ok(());
        };
        if row.status == GroupStatus::Removed {
            return self.db.put_reset_step(group, ResetStep::Done, None);
        }
        let read = row.position >= reset.last;
        if row.status.is_followed() && !read {
            return Ok(());
        }
        self.end_group(&row, &reset, read)
    }

    fn end_group(&mut self, row: &GroupRow, reset: &ResetRow, read: bool) -> Result<(), Error> {
        let group = row.id;
        kill_point::applying("follow_reset");
        let old = self.remember(row, read && row.status.is_followed())?;
        self.note_left_epoch(group)?;
        live::delete(&mut self.live, &self.db, group)?;
        self.db.delete_chain(group)?;
        self.db.delete_copies(group)?;
        self.ephemeral.remove(&group);
        self.awaiting_proposal.remove(&group);
        self.db.put_status(group, GroupStatus::Reset)?;
        self.fail_all(group, GroupStatus::Reset)?;
        self.effects.push(Effect::Follow(Follow::Drop(group)));
        self.effects.push(Effect::Scrub);
        let at = self.options.clock.unix_millis();
        let successor = reset.successor;
        self.emit(group, row.position, at, &EventKind::GroupReset { successor })?;
        let is_in = self.db.group(successor)?.is_some_and(|row| row.status.has_keys());
        let step = match old.rank {
            _ if is_in => ResetStep::Done,
            Some(_) => ResetStep::Waiting,
            None => ResetStep::Invited,
        };
        self.db.put_reset_step(group, step, Some(&old))?;
        if is_in {
            self.tell_differences(successor, &old, None)?;
        }
        self.effects.push(Effect::Chore(Chore::FollowReset));
        Ok(())
    }

    /// What the group is to this device now.
    fn remember(&mut self, row: &GroupRow, complete: bool) -> Result<OldGroup, Error> {
        let mut old = OldGroup {
            name: row.name.clone(),
            suite: row.suite,
            complete: false,
            roles: Vec::new(),
            members: Vec::new(),
            // Nothing is known: behind all who know something.
            rank: Some(LAST_RANK),
            known: None,
        };
        if !row.status.has_keys() {
            return Ok(old);
        }
        let live = match live::get(&mut self.live, &self.db, row.id) {
            Ok(live) => live,
            Err(Error::UnknownGroup(_)) => return Ok(old),
            Err(error) => return Err(error),
        };
        let leaving = proposed_removals(&live.mls);
        let mut members: Vec<_> = live
            .roster
            .members()
            .filter(|member| !leaving.contains(&member.leaf))
            .map(|member| {
                let identity = &member.identity;
                let role = live.authority.role(&identity.user);
                (
                    Reverse(role),
                    member.leaf,
                    (identity.user.clone(), identity.device),
                )
            })
            .collect();
        members.sort_unstable();
        old.complete = complete;
        old.roles = live.authority.roles().to_bytes();
        old.members = members.into_iter().map(|(.., member)| member).collect();
        let own = old
            .members
            .iter()
            .position(|(_, device)| *device == self.device.id);
        old.rank = own.map(|rank| u32::try_from(rank).unwrap_or(LAST_RANK).min(LAST_RANK));
        Ok(old)
    }

    /// Resets of which something is left to do.
    pub(crate) fn open_resets(&mut self) -> Result<Vec<ResetRow>, Error> {
        self.db.open_resets()
    }

    /// It is this device's turn to make the successor. `current`: the old group's last state as the service has it, for a device that has not
    /// read all of it.
    pub(crate) fn make_successor(
        &mut self,
        group: GroupId,
        current: Option<&wire::GetGroupInfoResponse>,
    ) -> Result<(), Error> {
        self.transaction(|engine| {
            let Some((reset, mut old)) = engine.waiting(group)? else {
                return Ok(());
            };
            if engine.db.group(reset.successor)?.is_some() {
                // The invitation was faster.
                return engine.db.put_reset_step(group, ResetStep::Invited, None);
            }
            if let Some(current) = current {
                let before = engine.savepoint()?;
                let seen = engine.look_at(group, current, &mut old);
                // It was only looked at.
                engine.roll_back(&before)?;
                engine.live.remove(&group);
                seen?;
            }
            let suite = Ciphersuite::try_from(old.suite).map_err(|_| Error::Rule("cipher_suite"))?;
            let lifetime = crate::mls::lifetime(engine.now(), engine.options.key_packages.lifetime.as_secs());
            let roles = Roles::from_bytes(&old.roles)?;
            let sender = engine.device.external_sender.clone();
            let config = successor_config(suite, sender, &roles, lifetime)?;
            kill_point::storing("make_successor");
            engine.db.put_reset_step(group, ResetStep::Creating, Some(&old))?;
            engine.make_group(reset.successor, &old.name, suite, &config, None)
        })
    }

    fn waiting(&self, group: GroupId) -> Result<Option<(ResetRow, OldGroup)>, Error> {
        let reset = self.db.reset(group)?;
        Ok(reset
            .filter(|reset| reset.step == ResetStep::Waiting)
            .and_then(|reset| reset.old.clone().map(|old| (reset, old))))
    }

    /// Takes roles and members from the group's last GroupInfo: whoever signed it is a member, and the tree is the one that its context names. That
    /// is checked by building an external commit on it, which goes nowhere.
    fn look_at(
        &mut self,
        group: GroupId,
        current: &wire::GetGroupInfoResponse,
        old: &mut OldGroup,
    ) -> Result<(), Error> {
        let unreadable = |error: openmls::prelude::tls_codec::Error| Error::mls(DOING)(&error);
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&current.group_info).map_err(unreadable)?;
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
            return Err(Error::Rule("wire_format"));
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&current.ratchet_tree).map_err(unreadable)?;
        let context = info.group_context().clone();
        if context.group_id().as_slice() != group.as_bytes() {
            return Err(Error::Rule("group_info_group"));
        }
        let suite = u16::from(context.ciphersuite());
        if old.suite != 0 && old.suite != suite {
            return Err(Error::Rule("cipher_suite"));
        }
        judge_joined_context(&context, &self.device.external_sender, &self.device.user)?;
        let provider = Provider::new(&self.crypto, &self.db.connection);
        let credential = self.device.credential.clone();
        let (mls, _) =
            build_external_commit(&provider, &self.device.signer, credential, info, tree, Vec::new())?;
        let now = self.now();
        old.suite = suite;
        let roles = Roles::of_context(&context)?.to_bytes();
        // One whose certificate is not believed is not taken along.
        let members = mls
            .members()
            .filter_map(|member| self.judge_member(&member, now).ok())
            .map(|identity| (identity.user, identity.device))
            .collect();
        // What it knew is what it is told differences from.
        old.known = Some(Known {
            roles: std::mem::replace(&mut old.roles, roles),
            members: std::mem::replace(&mut old.members, members),
        });
        Ok(())
    }

    /// This device cannot make the successor: it waits for somebody who can.
    pub(crate) fn leave_succession(&mut self, group: GroupId, cause: &str) -> Result<(), Error> {
        tracing::warn!(%group, cause, "this device cannot make the successor of a group that was reset");
        self.transaction(|engine| match engine.waiting(group)? {
            Some(_) => engine.db.put_reset_step(group, ResetStep::Invited, None),
            None => Ok(()),
        })
    }

    /// The service has registered a group: perhaps a successor, to which this device adds the others.
    pub(super) fn successor_made(&mut self, group: GroupId) -> Result<(), Error> {
        let Some(reset) = self.db.reset_before(group)? else {
            return Ok(());
        };
        kill_point::applying("make_successor");
        self.db.put_reset_step(reset.group, ResetStep::Adding, None)?;
        let at = self.options.clock.unix_millis();
        let by = self.device.peer();
        self.emit(group, Position::NONE, at, &EventKind::Joined { by })?;
        if let Some(old) = &reset.old {
            self.tell_differences(group, old, None)?;
        }
        self.effects.push(Effect::Chore(Chore::FollowReset));
        Ok(())
    }

    /// It has not: somebody else was first, as a rule.
    pub(super) fn succession_refused(&mut self, intent: &IntentRow, refusal: &Refusal) -> Result<(), Error> {
        let successor = intent.group;
        self.db.delete_intent(intent.id)?;
        live::delete(&mut self.live, &self.db, successor)?;
        self.db.delete_group(successor)?;
        // Nobody knows when, and whether, this device is invited.
        let gone = Error::UnknownGroup(successor);
        for queued in self.db.intents(successor)? {
            self.fail(&queued, &gone)?;
        }
        if let Some(reset) = self.db.reset_before(successor)? {
            if refusal.reason != Reason::GroupExists {
                tracing::warn!(%successor, reason = %refusal.reason, "a successor could not be made");
            }
            self.db.put_reset_step(reset.group, ResetStep::Invited, None)?;
        }
        Ok(())
    }

    /// Who is to be added to the successor that this device has made: `None` while something that was asked for before is under way, while the
    /// successor waits for something, and where nothing can be done there any more: then the app is told.
    pub(crate) fn left_behind(&mut self, group: GroupId) -> Result<Option<Behind>, Error> {
        let Some(reset) = self.db.reset(group)? else {
            return Ok(None);
        };
        let (successor, old) = (reset.successor, reset.old);
        if self.db.has_intent(successor, "add")? {
            return Ok(None);
        }
        let row = self.db.group(successor)?;
        let status = row.as_ref().map(|row| row.status);
        let (Some(row), Some(old)) = (row.filter(|row| row.status == GroupStatus::Active), old) else {
            let stopped = match status {
                Some(GroupStatus::LogRegressed | GroupStatus::Rejoining) => return Ok(None),
                Some(status) => Error::GroupNotActive(status),
                None => Error::UnknownGroup(successor),
            };
            self.end_succession(group, Some(&cause(&stopped)))?;
            return Ok(None);
        };
        let suite = Ciphersuite::try_from(row.suite).map_err(|_| Error::Rule("cipher_suite"))?;
        let live = live::get(&mut self.live, &self.db, successor)?;
        let roles = live.authority.roles();
        let mut missing: Vec<(Role, DeviceId)> = old
            .members
            .iter()
            .filter(|(_, device)| live.roster.device(*device).is_none())
            .map(|(user, device)| (roles.of(user), *device))
            .collect();
        missing.sort_unstable();
        Ok(Some(Behind {
            successor,
            suite,
            devices: missing.into_iter().map(|(_, device)| device).collect(),
        }))
    }

    /// Nothing is left to be added, or it cannot be: then the app is told.
    pub(crate) fn end_succession(&mut self, group: GroupId, failed: Option<&str>) -> Result<(), Error> {
        self.transaction(|engine| {
            let Some(reset) = engine.db.reset(group)? else {
                return Ok(());
            };
            kill_point::applying("add_others");
            engine.db.put_reset_step(group, ResetStep::Done, None)?;
            let Some(cause) = failed else {
                return Ok(());
            };
            let users = engine.absent(&reset)?;
            let at = engine.options.clock.unix_millis();
            let event = EventKind::OperationFailed {
                operation: "add".to_owned(),
                cause: cause.to_owned(),
                what_now: WhatNow::Retry,
                message: None,
                users,
            };
            engine.emit(reset.successor, Position::NONE, at, &event)
        })
    }

    /// Who was in the old group, with a device that is not in its successor.
    fn absent(&mut self, reset: &ResetRow) -> Result<Vec<UserId>, Error> {
        let there: HashSet<DeviceId> = match self.db.group(reset.successor)? {
            Some(_) => self
                .members(reset.successor)?
                .iter()
                .map(|member| member.device)
                .collect(),
            None => HashSet::new(),
        };
        let members = reset.old.iter().flat_map(|old| &old.members);
        let absent = members.filter(|(_, device)| !there.contains(device));
        let mut users: Vec<UserId> = absent.map(|(user, _)| user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        Ok(users)
    }

    /// A joiner's check of a group that goes on for another one: by its first commit nobody can have changed what it took over.
    pub(super) fn judge_successor(
        &self,
        group: GroupId,
        context: &GroupContext,
        members: &[Peer],
    ) -> Result<(), Error> {
        let Some(old) = self.strict(group, context.epoch().as_u64())? else {
            return Ok(());
        };
        if Roles::of_context(context)?.to_bytes() != old.roles {
            return Err(Error::Rule("successor_roles"));
        }
        let known: HashSet<DeviceId> = old.members.iter().map(|(_, device)| *device).collect();
        if members.iter().any(|member| !known.contains(&member.device)) {
            return Err(Error::Rule("successor_members"));
        }
        Ok(())
    }

    /// The old group, where all of it is known and must have been taken over as it was.
    fn strict(&self, successor: GroupId, epoch: u64) -> Result<Option<OldGroup>, Error> {
        let old = self.db.reset_before(successor)?.and_then(|reset| reset.old);
        Ok(old.filter(|old| old.complete && epoch <= 1))
    }

    /// The name that a successor has from the old group.
    pub(super) fn inherited_name(&self, group: GroupId) -> Result<Option<String>, Error> {
        let Some(reset) = self.db.reset_before(group)? else {
            return Ok(None);
        };
        let name = match reset.old {
            Some(old) => Some(old.name),
            // It is still being read.
            None => self.db.group(reset.group)?.map(|row| row.name),
        };
        Ok(name.filter(|name| !name.is_empty()))
    }

    /// This device was added to a group, or came into it: perhaps the one that it has waited for.
    pub(super) fn went_on(&mut self, group: GroupId, by: &Peer) -> Result<(), Error> {
        let Some(reset) = self.db.reset_before(group)? else {
            return Ok(());
        };
        if let Some(create) = self.db.intent_of_kind(group, Operation::Create.kind())? {
            // It was about to make it itself.
            self.db.delete_intent(create.id)?;
        }
        match reset.step {
            ResetStep::Waiting | ResetStep::Creating | ResetStep::Invited => {}
            // The old group is not over here; or it was in the new one before.
            ResetStep::Reading | ResetStep::Adding | ResetStep::Done => return Ok(()),
        }
        self.db.put_reset_step(reset.group, ResetStep::Done, None)?;
        match &reset.old {
            Some(old) => self.tell_differences(group, old, Some(by)),
            None => Ok(()),
        }
    }

    /// Shows in what a successor is not as this device knew the old group; not where it was sure to be ([`Self::judge_successor`]).
    fn tell_differences(
        &mut self,
        successor: GroupId,
        old: &OldGroup,
        by: Option<&Peer>,
    ) -> Result<(), Error> {
        let (roles, members) = old.known();
        let Ok(before) = Roles::from_bytes(roles) else {
            // Nothing was known.
            return Ok(());
        };
        let by = by.cloned().unwrap_or_else(|| self.device.peer());
        let live = live::get(&mut self.live, &self.db, successor)?;
        let epoch = live.epoch();
        let now = live.authority.roles();
        let mut users: BTreeMap<UserId, Role> = BTreeMap::new();
        for (user, _) in before.listed().chain(now.listed()) {
            if before.of(user) != now.of(user) {
                users.insert(user.clone(), now.of(user));
            }
        }
        let policy = (before.policy() != now.policy()).then_some(*now.policy());
        let known: HashSet<DeviceId> = members.iter().map(|(_, device)| *device).collect();
        let added: Vec<Peer> = live
            .roster
            .members()
            .map(|member| live::peer(&member.identity))
            .filter(|peer| !known.contains(&peer.device))
            .collect();
        let at = self.options.clock.unix_millis();
        let position = self
            .db
            .group(successor)?
            .map_or(Position::NONE, |row| row.position);
        if !users.is_empty() || policy.is_some() {
            let kind = EventKind::RolesChanged {
                users: users.into_iter().collect(),
                policy,
                by: by.clone(),
                epoch,
            };
            self.emit(successor, position, at, &kind)?;
        }
        if added.is_empty() {
            return Ok(());
        }
        let kind = EventKind::MembersChanged {
            added,
            removed: Vec::new(),
            by,
            epoch,
        };
        self.emit(successor, position, at, &kind)
    }
}

/// Beyond that many, waiting longer serves nobody: those who try at the same time settle it at the service.
const LAST_RANK: u32 = 150;
