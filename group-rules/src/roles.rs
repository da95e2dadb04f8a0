//! The roles extension of the GroupContext: who is what in a group.

use std::collections::BTreeMap;

use openmls::prelude::tls_codec::{DeserializeBytes, Serialize, VLBytes};
use valise_proto::UserId;

use crate::RuleViolation;

/// The extension's type, from the private range (RFC 9420 §17.3).
pub const ROLES_EXTENSION: u16 = 0xF7A1;

/// The format's version, its first byte.
const VERSION: u8 = 1;

/// What a user is in a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and sends: everybody who is not listed.
    Member,
    /// Also adds and removes.
    Moderator,
    /// Also changes roles.
    Owner,
}

impl Role {
    const fn code(self) -> u8 {
        match self {
            Self::Reader => 1,
            Self::Member => 2,
            Self::Moderator => 3,
            Self::Owner => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Reader),
            2 => Some(Self::Member),
            3 => Some(Self::Moderator),
            4 => Some(Self::Owner),
            _ => None,
        }
    }
}

/// Who is what. Users that are not listed are [`Role::Member`].
///
/// ```text
/// struct {
///     uint8 version = 1;
///     struct { opaque user_id<V>; uint8 role; } entries<V>;   // by user id, each once, none with role 2
/// } Roles;
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roles {
    entries: BTreeMap<UserId, Role>,
}

impl Roles {
    /// The roles of a new group.
    pub fn owned_by(owner: UserId) -> Self {
        Self {
            entries: BTreeMap::from([(owner, Role::Owner)]),
        }
    }

    /// What a user is.
    pub fn of(&self, user: &UserId) -> Role {
        self.entries.get(user).copied().unwrap_or(Role::Member)
    }

    /// The extension's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for (user, role) in &self.entries {
            // Writing to a vector fails only beyond 2^30 bytes.
            let _ = VLBytes::new(user.as_str().as_bytes().to_vec()).tls_serialize(&mut entries);
            entries.push(role.code());
        }
        let mut bytes = vec![VERSION];
        let _ = VLBytes::new(entries).tls_serialize(&mut bytes);
        bytes
    }

    /// Reads the extension's content; there is one encoding for each set of roles.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RuleViolation> {
        let broken = || RuleViolation("roles");
        let (&version, rest) = bytes.split_first().ok_or_else(broken)?;
        let (entries, after) = VLBytes::tls_deserialize_bytes(rest).map_err(|_| broken())?;
        if version != VERSION || !after.is_empty() {
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
            rest = after;
        }
        let roles = Self { entries: roles };
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

    #[test]
    fn the_format_stays_as_it_is() {
        let bytes = Roles::owned_by("alice@a.example".parse().unwrap()).to_bytes();
        let mut expected = vec![1, 17, 15];
        expected.extend_from_slice(b"alice@a.example");
        expected.push(4);
        assert_eq!(bytes, expected);
        let roles = Roles::from_bytes(&bytes).unwrap();
        assert_eq!(roles.of(&"alice@a.example".parse().unwrap()), Role::Owner);
        assert_eq!(roles.of(&"bob@a.example".parse().unwrap()), Role::Member);
    }

    #[test]
    fn other_encodings_are_refused() {
        let good = Roles::owned_by("alice@a.example".parse().unwrap()).to_bytes();
        let mut cases = vec![Vec::new(), vec![1], vec![2, 0], vec![1, 1, 0]];
        cases.push([good.as_slice(), &[0]].concat());
        let mut member = good.clone();
        *member.last_mut().unwrap() = 2;
        cases.push(member);
        let mut upper = good.clone();
        upper[3] = b'A';
        cases.push(upper);
        let twice = [&[1, 34], &good[2..], &good[2..]].concat();
        cases.push(twice);
        for case in cases {
            assert_eq!(Roles::from_bytes(&case), Err(RuleViolation("roles")), "{case:?}");
        }
    }
}
