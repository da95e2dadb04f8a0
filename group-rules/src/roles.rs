//! The roles extension of the GroupContext: who is what in a group, and what that allows.

use std::collections::BTreeMap;

use openmls::prelude::tls_codec::{DeserializeBytes, Serialize, VLBytes};
use openmls::prelude::{Extension, Extensions, GroupContext, UnknownExtension};
use serde::{Deserialize, Serialize as SerializeText};
use valise_proto::UserId;

use crate::{AfterBadCommit, Policy, Retention, RuleViolation};

/// The extension's type, from the private range (RFC 9420 §17.3).
pub const ROLES_EXTENSION: u16 = 0xF7A1;

/// Most users that are listed: the extension is in the GroupContext, which every change of it carries whole.
pub const MAX_LISTED: usize = 1024;

/// The format's version, its first byte. Each later one is that of policies which say what those before cannot say: a value has one encoding.
const VERSION: u8 = 1;
const WITH_BAD_COMMIT: u8 = 2;
const WITH_RETENTION: u8 = 3;

/// What a user is in a group, from the lowest to the highest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, SerializeText, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads, where the policy is the default.
    Reader,
    /// Also sends: everybody who is not listed.
    Member,
    /// Also adds, removes and renames.
    Moderator,
    /// Also changes roles.
    Owner,
}

impl Role {
    /// All of them, the lowest first.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Member, Self::Moderator, Self::Owner];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Reader => 1,
            Self::Member => 2,
            Self::Moderator => 3,
            Self::Owner => 4,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Reader),
            2 => Some(Self::Member),
            3 => Some(Self::Moderator),
            4 => Some(Self::Owner),
            _ => None,
        }
    }

    /// Its name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Moderator => "moderator",
            Self::Owner => "owner",
        }
    }

    /// The role of that name.
    pub fn from_text(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who is what, and what that allows. Users that are not listed are [`Role::Member`].
///
/// ```text
/// struct {
///     uint8 version;    // 3 where the policy has a retention, else 2 where devices rejoin after a bad commit, else 1
///     Policy policy;
///     struct { opaque user_id<V>; uint8 role; } entries<V>;   // by user id, each once, none with role 2, at most 1,024
/// } Roles;
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roles {
    policy: Policy,
    entries: BTreeMap<UserId, Role>,
}

impl Roles {
    /// The roles of a new group.
    pub fn owned_by(owner: UserId) -> Self {
        Self {
            policy: Policy::default(),
            entries: BTreeMap::from([(owner, Role::Owner)]),
        }
    }

    /// The roles of a group.
    pub fn of_context(context: &GroupContext) -> Result<Self, RuleViolation> {
        Self::of_extensions(context.extensions())
    }

    pub(crate) fn of_extensions(extensions: &Extensions<GroupContext>) -> Result<Self, RuleViolation> {
        let extension = extensions
            .unknown(ROLES_EXTENSION)
            .ok_or(RuleViolation("roles"))?;
        Self::from_bytes(&extension.0)
    }

    /// The extensions of a group's context with these roles in place of its own; all else stays as and where it is.
    pub fn put_into(&self, context: &GroupContext) -> Result<Extensions<GroupContext>, RuleViolation> {
        let put = |extension: &Extension| match extension {
            Extension::Unknown(ROLES_EXTENSION, _) => self.to_extension(),
            other => other.clone(),
        };
        Extensions::from_vec(context.extensions().iter().map(put).collect())
            .map_err(|_| RuleViolation("context_extensions"))
    }

    pub(crate) fn to_extension(&self) -> Extension {
        Extension::Unknown(ROLES_EXTENSION, UnknownExtension(self.to_bytes()))
    }

    /// What a user is, as listed. What the user counts as in the group: [`crate::Authority::role`].
    pub fn of(&self, user: &UserId) -> Role {
        self.entries.get(user).copied().unwrap_or(Role::Member)
    }

    /// Those who are listed, by user id.
    pub fn listed(&self) -> impl Iterator<Item = (&UserId, Role)> {
        self.entries.iter().map(|(user, role)| (user, *role))
    }

    /// What roles allow.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The same, but with that policy.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The same, but that user is that.
    pub fn with(mut self, user: UserId, role: Role) -> Self {
        if role == Role::Member {
            self.entries.remove(&user);
        } else {
            self.entries.insert(user, role);
        }
        self
    }

    /// The extension's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for (user, role) in &self.entries {
            // Writing to a vector fails only beyond 2^30 bytes.
            let _ = VLBytes::new(user.as_str().as_bytes().to_vec()).tls_serialize(&mut entries);
            entries.push(role.code());
        }
        let (bad_commit, retention) = (self.policy.bad_commit, self.policy.retention);
        let version = match (bad_commit, retention) {
            (_, Some(_)) => WITH_RETENTION,
            (AfterBadCommit::Rejoin, None) => WITH_BAD_COMMIT,
            (AfterBadCommit::Hold, None) => VERSION,
        };
        let mut bytes = vec![version];
        bytes.extend(self.policy.to_bytes());
        if version != VERSION {
            bytes.push(bad_commit.code());
        }
        if let Some(retention) = retention {
            bytes.extend(retention.seconds().to_be_bytes());
        }
        let _ = VLBytes::new(entries).tls_serialize(&mut bytes);
        bytes
    }

    /// Reads the extension's content; there is one encoding for each value.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RuleViolation> {
        let broken = || RuleViolation("roles");
        let (&version, rest) = bytes.split_first().ok_or_else(broken)?;
        let (&policy, rest) = rest.split_first_chunk().ok_or_else(broken)?;
        let mut policy = Policy::from_bytes(policy)?;
        let mut rest = rest;
        if !(VERSION..=WITH_RETENTION).contains(&version) {
            return Err(broken());
        }
        if version != VERSION {
            let (&code, after) = rest.split_first().ok_or_else(broken)?;
            policy.bad_commit = AfterBadCommit::from_code(code).ok_or_else(broken)?;
            rest = after;
        }
        if version == WITH_RETENTION {
            let (&seconds, after) = rest.split_first_chunk().ok_or_else(broken)?;
            let retention = Retention::from_seconds(u32::from_be_bytes(seconds)).ok_or_else(broken)?;
            policy.retention = Some(retention);
            rest = after;
        }
        let (entries, after) = VLBytes::tls_deserialize_bytes(rest).map_err(|_| broken())?;
        if !after.is_empty() {
            return Err(broken());
        }
        let mut roles = BTreeMap::new();
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let (user, after) = VLBytes::tls_deserialize_bytes(rest).map_err(|_| broken())?;
            let (&code, after) = after.split_first().ok_or_else(broken)?;
            let user: UserId = std::str::from_utf8(user.as_slice())
                .ok()
                .and_then(|user| user.parse().ok())
                .ok_or_else(broken)?;
            let role = Role::from_code(code)
                .filter(|&role| role != Role::Member)
                .ok_or_else(broken)?;
            roles.insert(user, role);
            if roles.len() > MAX_LISTED {
                return Err(broken());
            }
            rest = after;
        }
        let roles = Self {
            policy,
            entries: roles,
        };
        if roles.to_bytes() == bytes {
            Ok(roles)
        } else {
            Err(broken())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        format!("{name}@a.example").parse().unwrap()
    }

    #[test]
    fn the_format_stays_as_it_is() {
        let bytes = Roles::owned_by(user("alice")).to_bytes();
        let mut expected = vec![1, 3, 3, 3, 4, 2, 2, 17, 15];
        expected.extend_from_slice(b"alice@a.example");
        expected.push(4);
        assert_eq!(bytes, expected);
        let roles = Roles::from_bytes(&bytes).unwrap();
        assert_eq!(roles.of(&user("alice")), Role::Owner);
        assert_eq!(roles.of(&user("bob")), Role::Member);
        assert_eq!(roles.policy(), &Policy::default());
    }

    #[test]
    fn a_policy_that_lets_devices_rejoin_has_a_version_of_its_own() {
        let hold = Roles::owned_by(user("alice"));
        let rejoin = hold.clone().with_policy(Policy {
            bad_commit: AfterBadCommit::Rejoin,
            ..Policy::default()
        });
        let mut expected = vec![2, 3, 3, 3, 4, 2, 2, 1, 17, 15];
        expected.extend_from_slice(b"alice@a.example");
        expected.push(4);
        assert_eq!(rejoin.to_bytes(), expected);
        assert_eq!(Roles::from_bytes(&expected), Ok(rejoin));
        // What the first version can say is not said with the second.
        for other in [0, 2, 255] {
            expected[7] = other;
            assert_eq!(Roles::from_bytes(&expected), Err(RuleViolation("roles")));
        }
        let mut first = hold.to_bytes();
        first[0] = 2;
        first.insert(7, 0);
        assert_eq!(Roles::from_bytes(&first), Err(RuleViolation("roles")));
    }

    #[test]
    fn a_policy_with_a_retention_has_a_version_of_its_own() {
        let hold = Roles::owned_by(user("alice"));
        for (bad_commit, code) in [(AfterBadCommit::Hold, 0), (AfterBadCommit::Rejoin, 1)] {
            let day = hold.clone().with_policy(Policy {
                bad_commit,
                retention: Retention::from_seconds(86_400),
                ..Policy::default()
            });
            let mut expected = vec![3, 3, 3, 3, 4, 2, 2, code, 0, 1, 0x51, 0x80, 17, 15];
            expected.extend_from_slice(b"alice@a.example");
            expected.push(4);
            assert_eq!(day.to_bytes(), expected);
            assert_eq!(Roles::from_bytes(&expected), Ok(day));
            // None, too short, and too long.
            for wrong in [0_u32, 3_599, 31_536_001] {
                expected[8..12].copy_from_slice(&wrong.to_be_bytes());
                assert_eq!(Roles::from_bytes(&expected), Err(RuleViolation("roles")));
            }
        }
        let cut = [3, 3, 3, 3, 4, 2, 2, 0, 0, 1];
        assert_eq!(Roles::from_bytes(&cut), Err(RuleViolation("roles")));
    }

    #[test]
    fn what_was_written_is_read() {
        let policy = Policy::default().with(crate::Act::Send, Role::Owner);
        let roles = Roles::owned_by(user("alice"))
            .with(user("zoe"), Role::Reader)
            .with(user("bob"), Role::Moderator)
            .with(user("carol"), Role::Moderator)
            .with(user("carol"), Role::Member)
            .with_policy(policy);
        assert_eq!(Roles::from_bytes(&roles.to_bytes()), Ok(roles.clone()));
        let listed: Vec<_> = roles.listed().map(|(user, role)| (user.name(), role)).collect();
        assert_eq!(
            listed,
            [
                ("alice", Role::Owner),
                ("bob", Role::Moderator),
                ("zoe", Role::Reader)
            ]
        );
    }

    #[test]
    fn as_many_as_may_be_are_listed_and_no_more() {
        let roles = (0..MAX_LISTED).fold(Roles::default(), |roles, number| {
            roles.with(user(&format!("u{number}")), Role::Reader)
        });
        assert!(Roles::from_bytes(&roles.to_bytes()).is_ok());
        let more = roles.with(user("one-more"), Role::Reader);
        assert_eq!(Roles::from_bytes(&more.to_bytes()), Err(RuleViolation("roles")));
    }

    #[test]
    fn other_encodings_are_refused() {
        let roles = Roles::owned_by(user("alice")).with(user("bob"), Role::Reader);
        let good = roles.to_bytes();
        let alice = [&[15][..], b"alice@a.example", &[4]].concat();
        let bob = [&[13][..], b"bob@a.example", &[1]].concat();
        let of = |entries: &[&[u8]]| {
            let entries = entries.concat();
            let mut bytes = vec![1, 3, 3, 3, 4, 2, 2];
            bytes.extend(VLBytes::new(entries).tls_serialize_detached().unwrap());
            bytes
        };
        assert_eq!(of(&[&alice, &bob]), good);
        let role = |code: u8| [&[13][..], b"bob@a.example", &[code]].concat();
        let mut cases = vec![
            of(&[&bob, &alice]),
            of(&[&alice, &alice]),
            of(&[&alice, &bob, &bob]),
            of(&[&alice, &role(3), &role(1)]),
            of(&[&role(0)]),
            of(&[&role(2)]),
            of(&[&role(5)]),
            of(&[&[15], b"Alice@a.example", &[4]]),
            of(&[&[3], b"bob", &[4]]),
            of(&[&[0, 4]]),
            of(&[&[2, 0xC3, 0x28, 4]]),
            // Not the shortest form of the length.
            of(&[&[0x40, 15], b"alice@a.example", &[4]]),
            [good.as_slice(), &[0]].concat(),
        ];
        cases.extend((0..good.len()).map(|length| good[..length].to_vec()));
        // Version 0 and 2; each number of the policy out of its range.
        for (at, value) in [(0, 0), (0, 2), (1, 0), (2, 5), (3, 0), (4, 255), (5, 0), (6, 3)] {
            let mut changed = good.clone();
            changed[at] = value;
            cases.push(changed);
        }
        for case in cases {
            assert_eq!(Roles::from_bytes(&case), Err(RuleViolation("roles")), "{case:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_none_have_two_meanings() {
        let good = Roles::owned_by(user("alice"))
            .with(user("bob"), Role::Reader)
            .to_bytes();
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut changed = good.clone();
                changed[at] = value;
                if let Ok(roles) = Roles::from_bytes(&changed) {
                    assert_eq!(roles.to_bytes(), changed);
                }
            }
        }
    }
}
