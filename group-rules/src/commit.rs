//! What a commit may do.

use std::collections::HashSet;

use openmls::prelude::{
    Credential, LeafNodeIndex, OpenMlsCrypto, Proposal, PublicGroup, Sender, StagedCommit,
};
use valise_device_certificate::TrustBundle;
use valise_proto::{DeviceId, UserId};

use crate::authority::roles_of_change;
use crate::proposal::removal;
use crate::{
    Authority, ExternalJoin, Identity, Roles, RolesChange, Roster, RuleViolation, claimed_identity, identify,
    is_allowed_suite,
};

/// Limits of a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    /// Most members (leaves).
    pub members: usize,
    /// Most Adds in one commit: their cost grows faster than their number.
    pub adds_per_commit: usize,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self {
            members: 10_000,
            adds_per_commit: 256,
        }
    }
}

/// Who made a commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Committer {
    /// A member.
    Member(LeafNodeIndex),
    /// A device that joins with this commit (RFC 9420 §12.4.3.2), and the leaf that it takes.
    External(LeafNodeIndex),
}

impl Committer {
    /// The committer's leaf in the epoch that the commit begins.
    pub fn leaf(&self) -> LeafNodeIndex {
        match self {
            Self::Member(leaf) | Self::External(leaf) => *leaf,
        }
    }
}

/// A device that a commit adds.
#[derive(Clone, Debug)]
pub struct Added {
    /// Who.
    pub identity: Identity,
    /// Last second of its key package's lifetime, since 1970-01-01 UTC.
    pub lifetime_not_after: u64,
    /// The KeyPackageRef (RFC 9420 §5.2) of its key package.
    pub reference: Vec<u8>,
    credential: Credential,
    signature_key: Vec<u8>,
}

/// What a commit does, for a group whose rules it keeps.
#[derive(Clone, Debug)]
pub struct CommitSummary {
    /// Who made it.
    pub committer: Committer,
    /// Whose device that is.
    pub committer_identity: Identity,
    /// Who is added.
    pub added: Vec<Added>,
    /// Who is removed: leaf and owner. A device that comes back by an external commit removes its old leaf.
    pub removed: Vec<(LeafNodeIndex, Identity)>,
    /// What becomes of roles and policy, where the commit changes them.
    pub roles: Option<RolesChange>,
    /// The committer's new credential, where the commit has a path.
    new_credential: Option<(Credential, Vec<u8>)>,
}

impl CommitSummary {
    /// The earliest end of an added key package's lifetime: until then the commit can be replayed.
    pub fn replayable_until(&self) -> Option<u64> {
        self.added.iter().map(|added| added.lifetime_not_after).min()
    }
}

/// Judges what every member must judge alike: a commit that openmls verified, against the group before it. Its roles too are those
/// before it: nobody rises and acts with one commit.
pub fn judge_commit(
    before: &PublicGroup,
    roster: &Roster,
    sender: &Sender,
    staged: &StagedCommit,
    crypto: &impl OpenMlsCrypto,
    limits: GroupLimits,
) -> Result<CommitSummary, RuleViolation> {
    let committer = match sender {
        Sender::Member(leaf) => Committer::Member(*leaf),
        Sender::NewMemberCommit => Committer::External(
            before
                .ext_commit_sender_index(staged)
                .map_err(|_| RuleViolation("external_commit"))?,
        ),
        Sender::External(_) | Sender::NewMemberProposal => return Err(RuleViolation("sender")),
    };
    let external = matches!(committer, Committer::External(_));

    let mut added = Vec::new();
    let mut removed = Vec::new();
    // Of those who are removed, the ones that the committer itself chose.
    let mut chosen = Vec::new();
    let mut new_roles = None;
    for queued in staged.queued_proposals() {
        let own = queued.sender() == sender;
        match queued.proposal() {
            Proposal::Add(add) if own && !external => {
                let package = add.key_package();
                let leaf = package.leaf_node();
                if package.ciphersuite() != before.ciphersuite() || !is_allowed_suite(package.ciphersuite()) {
                    return Err(RuleViolation("cipher_suite"));
                }
                added.push(Added {
                    identity: claimed_identity(leaf.credential(), leaf.signature_key().as_slice())?,
                    lifetime_not_after: package.life_time().not_after(),
                    reference: package
                        .hash_ref(crypto)
                        .map_err(|_| RuleViolation("key_package"))?
                        .as_slice()
                        .to_vec(),
                    credential: leaf.credential().clone(),
                    signature_key: leaf.signature_key().as_slice().to_vec(),
                });
            }
            Proposal::Remove(remove) if own => {
                let (leaf, owner) = leaf_owner(roster, remove.removed())?;
                chosen.push(owner.user.clone());
                removed.push((leaf, owner));
            }
            // A member that leaves, or the service's own: for these nobody's role is asked.
            Proposal::Remove(_) | Proposal::SelfRemove => removed.push(leaf_owner(roster, removal(queued)?)?),
            Proposal::GroupContextExtensions(change) if own && !external => {
                let roles = roles_of_change(before.group_context().extensions(), change.extensions())?;
                if new_roles.replace(roles).is_some() {
                    return Err(RuleViolation("context_extensions"));
                }
            }
            Proposal::ExternalInit(_) if external => {}
            _ => return Err(RuleViolation("proposal_type")),
        }
    }

    let new_leaf = staged.update_path_leaf_node();
    let new_credential = new_leaf.map(|leaf| {
        (
            leaf.credential().clone(),
            leaf.signature_key().as_slice().to_vec(),
        )
    });
    let committer_identity = committer_identity(roster, &committer, new_credential.as_ref())?;
    let authority = Authority::of(before.group_context(), roster)?;
    let roles = if external {
        judge_external(&authority, roster, &committer_identity, &removed)?;
        None
    } else {
        let by = &committer_identity.user;
        for added in &added {
            authority.may_add(by, &added.identity.user, roster)?;
        }
        for user in &chosen {
            authority.may_remove(by, user)?;
        }
        match new_roles {
            Some(new) => judge_roles(&authority, roster, by, &new, &added, &removed)?,
            None => None,
        }
    };
    let joiner = external.then_some(committer_identity.device);
    judge_membership(roster, joiner, &added, &removed, limits)?;
    Ok(CommitSummary {
        committer,
        committer_identity,
        added,
        removed,
        roles,
        new_credential,
    })
}

fn leaf_owner(roster: &Roster, leaf: LeafNodeIndex) -> Result<(LeafNodeIndex, Identity), RuleViolation> {
    let member = roster.at(leaf).ok_or(RuleViolation("unknown_leaf"))?;
    Ok((leaf, member.identity.clone()))
}

/// Who the committer is; a new credential is a valid successor of the old one: same user, same device (RFC 9420 §5.3.1).
fn committer_identity(
    roster: &Roster,
    committer: &Committer,
    new_credential: Option<&(Credential, Vec<u8>)>,
) -> Result<Identity, RuleViolation> {
    let new = new_credential
        .map(|(credential, key)| claimed_identity(credential, key))
        .transpose()?;
    match committer {
        Committer::External(_) => new.ok_or(RuleViolation("external_commit")),
        Committer::Member(leaf) => {
            let old = &roster.at(*leaf).ok_or(RuleViolation("unknown_leaf"))?.identity;
            match new {
                Some(new) if new.user != old.user || new.device != old.device => {
                    Err(RuleViolation("credential_successor"))
                }
                Some(new) => Ok(new),
                None => Ok(old.clone()),
            }
        }
    }
}

/// A change of roles or policy, for the group that the commit leaves.
fn judge_roles(
    authority: &Authority,
    roster: &Roster,
    by: &UserId,
    new: &Roles,
    added: &[Added],
    removed: &[(LeafNodeIndex, Identity)],
) -> Result<Option<RolesChange>, RuleViolation> {
    let gone: HashSet<LeafNodeIndex> = removed.iter().map(|(leaf, _)| *leaf).collect();
    let stay = roster
        .members()
        .filter(|member| !gone.contains(&member.leaf))
        .map(|member| &member.identity.user);
    let join = added.iter().map(|added| &added.identity.user);
    authority.judge_change(by, new, stay.chain(join))
}

/// Which devices may come in is the policy's; one may take away its own old leaf, and nobody else's.
fn judge_external(
    authority: &Authority,
    roster: &Roster,
    joiner: &Identity,
    removed: &[(LeafNodeIndex, Identity)],
) -> Result<(), RuleViolation> {
    if removed
        .iter()
        .any(|(_, identity)| identity.device != joiner.device || identity.user != joiner.user)
    {
        return Err(RuleViolation("external_remove"));
    }
    if may_join(authority, roster, &joiner.user, joiner.device) {
        Ok(())
    } else {
        Err(RuleViolation("external_joiner"))
    }
}

/// May that device come in by an external commit?
pub fn may_join(authority: &Authority, roster: &Roster, user: &UserId, device: DeviceId) -> bool {
    match authority.roles().policy().external_join {
        ExternalJoin::Nobody => false,
        ExternalJoin::MemberDevices => roster
            .device(device)
            .is_some_and(|member| member.identity.user == *user),
        ExternalJoin::MemberUsers => roster.has_user(user),
    }
}

/// Each device once, and not too many.
fn judge_membership(
    roster: &Roster,
    joiner: Option<DeviceId>,
    added: &[Added],
    removed: &[(LeafNodeIndex, Identity)],
    limits: GroupLimits,
) -> Result<(), RuleViolation> {
    if added.len() > limits.adds_per_commit {
        return Err(RuleViolation("too_many_adds"));
    }
    let mut gone: HashSet<LeafNodeIndex> = HashSet::new();
    for (leaf, _) in removed {
        if !gone.insert(*leaf) {
            return Err(RuleViolation("duplicate_remove"));
        }
    }
    if added.is_empty() && joiner.is_none() {
        // Nobody comes in: no device can be there twice.
        return if roster.len().saturating_sub(gone.len()) > limits.members {
            Err(RuleViolation("too_many_members"))
        } else {
            Ok(())
        };
    }
    let mut devices: HashSet<DeviceId> = roster
        .members()
        .filter(|member| !gone.contains(&member.leaf))
        .map(|member| member.identity.device)
        .collect();
    for device in added.iter().map(|added| added.identity.device).chain(joiner) {
        if !devices.insert(device) {
            return Err(RuleViolation("duplicate_device"));
        }
    }
    if devices.len() > limits.members {
        return Err(RuleViolation("too_many_members"));
    }
    Ok(())
}

/// Judges what depends on time and trust: the credentials that a commit brings in, at the time of its acceptance, and that every
/// added key package outlives `minimum_remaining` seconds from then.
pub fn judge_credentials(
    summary: &CommitSummary,
    bundle: &TrustBundle,
    accepted_at_unix_seconds: u64,
    minimum_remaining: u64,
) -> Result<(), RuleViolation> {
    let judge = |credential: &Credential, key: &[u8]| {
        identify(credential, key, bundle, accepted_at_unix_seconds).map(|_| ())
    };
    judge_credentials_with(summary, judge, accepted_at_unix_seconds, minimum_remaining)
}

/// The same, for callers that remember what they have judged: `judge` says of a credential and a leaf's signature key what
/// [`identify`] would say at the time of acceptance.
pub fn judge_credentials_with(
    summary: &CommitSummary,
    judge: impl Fn(&Credential, &[u8]) -> Result<(), RuleViolation>,
    accepted_at_unix_seconds: u64,
    minimum_remaining: u64,
) -> Result<(), RuleViolation> {
    if let Some((credential, key)) = &summary.new_credential {
        judge(credential, key)?;
    }
    for added in &summary.added {
        judge(&added.credential, &added.signature_key)?;
        if added.lifetime_not_after < accepted_at_unix_seconds.saturating_add(minimum_remaining) {
            return Err(RuleViolation("lifetime_too_short"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// openmls refuses such a commit, too.
    #[test]
    fn a_leaf_is_removed_once() {
        let identity = Identity {
            user: "bob@a.example".parse().unwrap(),
            device: DeviceId::from_uuid(uuid::Uuid::nil()),
            certificate_not_after: 0,
        };
        let leaf = LeafNodeIndex::new(1);
        let removed = [(leaf, identity.clone()), (leaf, identity)];
        let judged = judge_membership(&Roster::default(), None, &[], &removed, GroupLimits::default());
        assert_eq!(judged, Err(RuleViolation("duplicate_remove")));
    }
}
