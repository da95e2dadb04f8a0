//! Who may do what in one epoch.

use openmls::prelude::{Extension, Extensions, GroupContext};
use valise_proto::UserId;

use crate::{Act, Policy, Role, Roles, Roster, RuleViolation};

/// The roles of an epoch as they count for those who are in the group then.
///
/// **Succession.** Where no owner is in the group any more (its last device was revoked, or left), the highest role that
/// anybody in it is listed with counts as owner's: moderators, else members, else readers. So no group is ever without somebody
/// who may do everything, and everybody knows who that is from the GroupContext and the roster alone. It ends as soon as an owner
/// is in the group again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority {
    roles: Roles,
    /// The highest role that anybody in the group is listed with.
    highest: Role,
}

/// What a commit changes in a group's roles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RolesChange {
    /// Users that are listed with another role now, and that role.
    pub users: Vec<(UserId, Role)>,
    /// The new policy, where it is another one.
    pub policy: Option<Policy>,
}

impl Authority {
    /// Of a group with that context and those members.
    pub fn of(context: &GroupContext, roster: &Roster) -> Result<Self, RuleViolation> {
        let users = roster.members().map(|member| &member.identity.user);
        Ok(Self::new(Roles::of_context(context)?, users))
    }

    /// Of a group with those roles and those users in it (each may come more than once).
    pub fn new<'a>(roles: Roles, users: impl Iterator<Item = &'a UserId>) -> Self {
        let mut highest = Role::Reader;
        for user in users {
            highest = highest.max(roles.of(user));
            if highest == Role::Owner {
                break;
            }
        }
        Self { roles, highest }
    }

    /// The roles as they are listed.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// What a user of the group counts as.
    pub fn role(&self, user: &UserId) -> Role {
        let listed = self.roles.of(user);
        if listed == self.highest {
            Role::Owner
        } else {
            listed
        }
    }

    /// May that user of the group do that?
    pub fn may(&self, user: &UserId, act: Act) -> Result<(), RuleViolation> {
        if self.role(user) >= self.roles.policy().least(act) {
            Ok(())
        } else {
            Err(act.rule())
        }
    }

    /// May `by` add a device of `user`? Devices of one's own always; others by role, and nobody brings in a user that is listed above
    /// oneself.
    pub fn may_add(&self, by: &UserId, user: &UserId, roster: &Roster) -> Result<(), RuleViolation> {
        if user == by {
            return Ok(());
        }
        self.may(by, Act::Add)?;
        let listed = self.roles.of(user);
        if listed > Role::Member && listed > self.role(by) && !roster.has_user(user) {
            return Err(RuleViolation("role_above"));
        }
        Ok(())
    }

    /// May `by` remove a device of `user`? Devices of one's own always; others by role, and of nobody above oneself.
    pub fn may_remove(&self, by: &UserId, user: &UserId) -> Result<(), RuleViolation> {
        if user == by {
            return Ok(());
        }
        self.may(by, Act::Remove)?;
        if self.role(user) > self.role(by) {
            return Err(RuleViolation("role_above"));
        }
        Ok(())
    }

    /// May `by` put `new` in place of these roles? `users_after` are the users of the group after the commit.
    ///
    /// Nobody raises anybody above oneself or touches who is above oneself; and where an owner is in the group, one is left.
    pub(crate) fn judge_change<'a>(
        &self,
        by: &UserId,
        new: &Roles,
        users_after: impl Iterator<Item = &'a UserId>,
    ) -> Result<Option<RolesChange>, RuleViolation> {
        if *new == self.roles {
            return Ok(None);
        }
        self.may(by, Act::ChangeRoles)?;
        let own = self.role(by);
        let mut users = Vec::new();
        for user in changed(&self.roles, new) {
            let role = new.of(user);
            if role > own || self.role(user) > own {
                return Err(RuleViolation("role_above"));
            }
            users.push((user.clone(), role));
        }
        let (mut had, mut has) = (false, false);
        for user in users_after {
            had |= self.roles.of(user) == Role::Owner;
            has |= new.of(user) == Role::Owner;
        }
        if had && !has {
            return Err(RuleViolation("last_owner"));
        }
        let policy = (new.policy() != self.roles.policy()).then_some(*new.policy());
        Ok(Some(RolesChange { users, policy }))
    }
}

/// Users whose listed role differs.
fn changed<'a>(old: &'a Roles, new: &'a Roles) -> impl Iterator<Item = &'a UserId> {
    let lowered_or_raised = old.listed().filter(|&(user, role)| new.of(user) != role);
    let listed = new.listed().filter(|&(user, _)| old.of(user) == Role::Member);
    lowered_or_raised.chain(listed).map(|(user, _)| user)
}

/// The new roles of a change of the GroupContext's extensions, in which nothing else may differ: `external_senders` and
/// `required_capabilities` survive whole (openmls lets a commit drop them).
pub(crate) fn roles_of_change(
    before: &Extensions<GroupContext>,
    after: &Extensions<GroupContext>,
) -> Result<Roles, RuleViolation> {
    let differs = || RuleViolation("context_extensions");
    let is_roles = |extension: &Extension| matches!(extension, Extension::Unknown(crate::ROLES_EXTENSION, _));
    let (mut old, mut new) = (before.iter(), after.iter());
    loop {
        match (old.next(), new.next()) {
            (None, None) => return Roles::of_extensions(after),
            (Some(old), Some(new)) if old == new || (is_roles(old) && is_roles(new)) => {}
            _ => return Err(differs()),
        }
    }
}

#[cfg(test)]
mod tests;
