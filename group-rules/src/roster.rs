//! Who is in a group, by leaf and by device.

use std::collections::HashMap;
use std::sync::Arc;

use openmls::prelude::{Credential, LeafNodeIndex, Member as Leaf};
use valise_proto::{DeviceId, UserId};

use crate::{Identity, RuleViolation, claimed_identity};

/// A member: one device of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its leaf.
    pub leaf: LeafNodeIndex,
    /// Whose leaf it is.
    pub identity: Identity,
    /// The leaf's signature key.
    pub signature_key: Vec<u8>,
    /// The leaf's credential.
    pub credential: Credential,
}

/// The members of one epoch.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    by_leaf: HashMap<LeafNodeIndex, Arc<Member>>,
    by_device: HashMap<DeviceId, LeafNodeIndex>,
}

impl Roster {
    /// The roster of a group whose members these are. Identities that `previous` knows are taken over, not parsed again.
    pub fn of(leaves: impl Iterator<Item = Leaf>, previous: Option<&Self>) -> Result<Self, RuleViolation> {
        let mut roster = Self::default();
        for leaf in leaves {
            // A renewed certificate for the same key is another credential.
            let known = previous
                .and_then(|roster| roster.by_leaf.get(&leaf.index))
                .filter(|member| {
                    member.credential == leaf.credential && member.signature_key == leaf.signature_key
                });
            let member = match known {
                Some(member) => Arc::clone(member),
                None => Arc::new(Member {
                    leaf: leaf.index,
                    identity: claimed_identity(&leaf.credential, &leaf.signature_key)?,
                    signature_key: leaf.signature_key,
                    credential: leaf.credential,
                }),
            };
            roster.put(member)?;
        }
        Ok(roster)
    }

    /// The roster of a group with these members, whose identities somebody has read already.
    pub fn of_members(members: impl IntoIterator<Item = Member>) -> Result<Self, RuleViolation> {
        let mut roster = Self::default();
        for member in members {
            roster.put(Arc::new(member))?;
        }
        Ok(roster)
    }

    /// Each device once.
    fn put(&mut self, member: Arc<Member>) -> Result<(), RuleViolation> {
        let (device, leaf) = (member.identity.device, member.leaf);
        if self.by_device.insert(device, leaf).is_some() {
            return Err(RuleViolation("duplicate_device"));
        }
        self.by_leaf.insert(leaf, member);
        Ok(())
    }

    /// Number of members (devices).
    pub fn len(&self) -> usize {
        self.by_leaf.len()
    }

    /// No members at all.
    pub fn is_empty(&self) -> bool {
        self.by_leaf.is_empty()
    }

    /// Who has that leaf.
    pub fn at(&self, leaf: LeafNodeIndex) -> Option<&Member> {
        self.by_leaf.get(&leaf).map(Arc::as_ref)
    }

    /// The leaf of that device.
    pub fn device(&self, device: DeviceId) -> Option<&Member> {
        self.by_leaf.get(self.by_device.get(&device)?).map(Arc::as_ref)
    }

    /// Is any device of that user a member?
    pub fn has_user(&self, user: &UserId) -> bool {
        self.by_leaf.values().any(|member| member.identity.user == *user)
    }

    /// All members, in no order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.by_leaf.values().map(Arc::as_ref)
    }
}
