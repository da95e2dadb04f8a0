//! Who may do what, and what happens where somebody did what it may not.
//!
//! One's own operations are refused here before anything leaves; the rules themselves are those of `valise-group-rules`, by which
//! the service judges too. A member that is shown a breach nevertheless does as every other honest member: a message or a name is
//! not taken, a commit holds the group, and the app gets the evidence.

use std::collections::HashSet;

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{Extensions, GroupContext, LeafNodeIndex, MlsMessageIn, ProtocolMessage, Sender};
use prost::Message as _;
use valise_group_rules::{Act, CommitSummary, Policy, Role, Roles, RuleViolation};
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position, UserId};

use super::Engine;
use super::inbox::accepted_at;
use super::intents::Operation;
use super::live::{self, LiveGroup, peer};
use crate::content::GROUP_PROFILE;
use crate::{Content, Error, EventKind, Peer};

/// Longest name of a group, in bytes.
pub(crate) const MAX_GROUP_NAME: usize = 256;

impl Engine {
    /// May this device's user do that, as far as is known now? Commits are judged once more when they are built.
    pub(super) fn check_role(&mut self, group: GroupId, operation: &Operation) -> Result<(), Error> {
        let own = &self.device.user;
        let live = live::get(&mut self.live, &self.db, group)?;
        let (authority, roster) = (&live.authority, &live.roster);
        match operation {
            Operation::Send { .. } => authority.may(own, Act::Send)?,
            Operation::Rename { .. } => {
                authority.may(own, Act::Rename)?;
                authority.may(own, Act::Send)?;
            }
            Operation::SetRole { .. } | Operation::SetPolicy { .. } => {
                authority.may(own, Act::ChangeRoles)?;
            }
            Operation::Add { packages } => {
                for package in packages {
                    authority.may_add(own, &package.peer.user, roster)?;
                }
            }
            Operation::Remove { devices } => {
                for member in devices.iter().filter_map(|device| roster.device(*device)) {
                    authority.may_remove(own, &member.identity.user)?;
                }
            }
            Operation::RemoveUsers { users } => {
                for member in roster.members() {
                    if users.contains(&member.identity.user) {
                        authority.may_remove(own, &member.identity.user)?;
                    }
                }
            }
            Operation::Create
            | Operation::SelfUpdate
            | Operation::CommitProposals
            | Operation::Leave
            | Operation::Rejoin(_) => {}
        }
        Ok(())
    }

    /// May this device's user add those?
    pub(crate) fn check_add(&mut self, group: GroupId, users: &[UserId]) -> Result<(), Error> {
        let row = self.db.group(group)?.ok_or(Error::UnknownGroup(group))?;
        if !row.status.is_usable() {
            return Err(Error::GroupNotActive(row.status));
        }
        let live = live::get(&mut self.live, &self.db, group)?;
        for user in users {
            live.authority.may_add(&self.device.user, user, &live.roster)?;
        }
        Ok(())
    }

    pub(crate) fn policy(&mut self, group: GroupId) -> Result<Policy, Error> {
        let row = self.db.group(group)?.ok_or(Error::UnknownGroup(group))?;
        if !row.status.has_keys() {
            return Err(Error::GroupNotActive(row.status));
        }
        let live = live::get(&mut self.live, &self.db, group)?;
        Ok(*live.authority.roles().policy())
    }

    /// The service never learns a group's name: whoever adds somebody tells it in a message, right after.
    pub(super) fn tell_name(&mut self, group: GroupId) -> Result<(), Error> {
        let name = self.db.group(group)?.map(|row| row.name).unwrap_or_default();
        let live = live::get(&mut self.live, &self.db, group)?;
        // Who may add but not send leaves it to the next one who renames.
        if !name.is_empty() && live.authority.may(&self.device.user, Act::Send).is_ok() {
            let payload = Content::group_profile(&name)?;
            self.queue(group, &Operation::Send { payload }, true)?;
        }
        Ok(())
    }

    /// A message with the group's name. Who renames must be allowed to. Who only tells is heard by those who do not know the name yet:
    /// whoever added them is believed, and everybody who may rename. To all others a telling says nothing: it may have been overtaken by
    /// another name.
    pub(super) fn named(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        sender: Peer,
        content: &Content,
    ) -> Result<(), Error> {
        let (position, at) = (Position(entry.position), accepted_at(entry.accepted_at.as_ref()));
        let name = match std::str::from_utf8(content.body()) {
            Ok(name) if name.len() <= MAX_GROUP_NAME => name.to_owned(),
            _ => {
                let kind = EventKind::Unreadable {
                    sender: Some(sender),
                    evidence: entry.encode_to_vec(),
                };
                return self.emit(group, position, at, &kind);
            }
        };
        let Some(row) = self.db.group(group)? else {
            return Ok(());
        };
        let live = live::get(&mut self.live, &self.db, group)?;
        let allowed = live.authority.may(&sender.user, Act::Rename);
        let added_by = self.db.added_by(group)?;
        if content.content_type() == GROUP_PROFILE {
            let unknown = added_by.is_some() || row.name.is_empty();
            if !unknown || (allowed.is_err() && added_by != Some(sender.device)) {
                return Ok(());
            }
        } else if let Err(RuleViolation(rule)) = allowed {
            return self.breach(group, entry, Some(sender), rule);
        }
        if added_by.is_some() {
            self.db.put_added_by(group, None)?;
        }
        if row.name == name {
            return Ok(());
        }
        self.db.put_name(group, &name)?;
        let kind = EventKind::GroupNamed { name, by: sender };
        self.emit(group, position, at, &kind)
    }

    pub(super) fn roles_changed(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        summary: &CommitSummary,
    ) -> Result<(), Error> {
        let Some(change) = &summary.roles else {
            return Ok(());
        };
        let live = live::get(&mut self.live, &self.db, group)?;
        let kind = EventKind::RolesChanged {
            users: change.users.clone(),
            policy: change.policy,
            by: peer(&summary.committer_identity),
            epoch: live.epoch(),
        };
        let at = accepted_at(entry.accepted_at.as_ref());
        self.emit(group, Position(entry.position), at, &kind)
    }

    /// Tells the app what somebody did against the rules, with the evidence.
    pub(super) fn breach(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        by: Option<Peer>,
        rule: &str,
    ) -> Result<(), Error> {
        tracing::error!(%group, position = entry.position, rule, "an accepted entry breaks a rule");
        let kind = EventKind::RuleBreach {
            by,
            rule: rule.to_owned(),
            evidence: entry.encode_to_vec(),
        };
        let at = accepted_at(entry.accepted_at.as_ref());
        self.emit(group, Position(entry.position), at, &kind)
    }

    /// The same of a commit that openmls verified and the rules of groups refuse. The group is still at the epoch before it.
    pub(super) fn commit_breach(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        rule: &str,
    ) -> Result<(), Error> {
        let by = match committer(entry) {
            Some(leaf) => live::get(&mut self.live, &self.db, group)?.peer(leaf),
            None => None,
        };
        self.breach(group, entry, by, rule)
    }
}

fn committer(entry: &wire::Entry) -> Option<LeafNodeIndex> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(&entry.mls_message).ok()?;
    match message.try_into_protocol_message().ok()? {
        ProtocolMessage::PublicMessage(message) => match message.sender() {
            Sender::Member(leaf) => Some(*leaf),
            _ => None,
        },
        ProtocolMessage::PrivateMessage(_) => None,
    }
}

type Context = Extensions<GroupContext>;

fn put(live: &LiveGroup, roles: &Roles) -> Result<Context, Error> {
    Ok(roles.put_into(live.mls.public_group().group_context())?)
}

/// The context in which that user is that; `None` where it is so already.
pub(super) fn with_role(live: &LiveGroup, user: UserId, role: Role) -> Result<Option<Context>, Error> {
    let roles = live.authority.roles();
    let listed = roles.of(&user);
    if listed == role {
        return Ok(None);
    }
    if listed == Role::Member && !live.roster.has_user(&user) {
        return Err(Error::Rule("unknown_member"));
    }
    put(live, &roles.clone().with(user, role)).map(Some)
}

/// The context with that policy; `None` where it is so already.
pub(super) fn with_policy(live: &LiveGroup, policy: Policy) -> Result<Option<Context>, Error> {
    let roles = live.authority.roles();
    if *roles.policy() == policy {
        return Ok(None);
    }
    put(live, &roles.clone().with_policy(policy)).map(Some)
}

/// The context without the roles of users of whom no device is left after these removals: added again they begin anew. `None` where
/// there is nothing to take away, or `own` may not.
pub(super) fn without_roles_of(
    live: &LiveGroup,
    own: &UserId,
    removals: &[LeafNodeIndex],
    proposed: &[LeafNodeIndex],
) -> Result<Option<Context>, Error> {
    let (authority, roles) = (&live.authority, live.authority.roles());
    if authority.may(own, Act::ChangeRoles).is_err() {
        return Ok(None);
    }
    let mut gone: HashSet<&UserId> = removals
        .iter()
        .filter_map(|&leaf| live.roster.at(leaf))
        .map(|member| &member.identity.user)
        .filter(|user| roles.of(user) != Role::Member && authority.role(user) <= authority.role(own))
        .collect();
    for member in live.roster.members() {
        if !removals.contains(&member.leaf) && !proposed.contains(&member.leaf) {
            gone.remove(&member.identity.user);
        }
    }
    if gone.is_empty() {
        return Ok(None);
    }
    let left = gone.into_iter().fold(roles.clone(), |roles, user| {
        roles.with(user.clone(), Role::Member)
    });
    put(live, &left).map(Some)
}
