//! What it takes to act in a group: for each act the least role, and whether devices may come in by themselves.

use serde::{Deserialize, Serialize};

use crate::{Role, RuleViolation};

/// What a member may or may not do. Everything else that a group's rules allow, they allow to every member: new keys for
/// oneself, devices of one's own user, leaving, and committing what others have proposed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    /// Add devices of other users.
    Add,
    /// Remove devices of other users.
    Remove,
    /// Give the group another name.
    Rename,
    /// Change roles, and this policy.
    ChangeRoles,
    /// Send messages, stored or ephemeral.
    Send,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Add,
        Self::Remove,
        Self::Rename,
        Self::ChangeRoles,
        Self::Send,
    ];

    /// The rule that somebody breaks whose role is too low.
    pub const fn rule(self) -> RuleViolation {
        RuleViolation(match self {
            Self::Add => "role_add",
            Self::Remove => "role_remove",
            Self::Rename => "role_rename",
            Self::ChangeRoles => "role_change",
            Self::Send => "role_send",
        })
    }
}

/// Which devices may come in by an external commit (RFC 9420 §12.4.3.2), without being added by a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalJoin {
    /// None: a device that lost its state has to be removed and added again.
    Nobody,
    /// Devices that are members and have lost their state.
    MemberDevices,
    /// Those, and all other devices of the members' users.
    #[default]
    MemberUsers,
}

impl ExternalJoin {
    const fn code(self) -> u8 {
        match self {
            Self::Nobody => 0,
            Self::MemberDevices => 1,
            Self::MemberUsers => 2,
        }
    }

    /// Its name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::MemberDevices => "member_devices",
            Self::MemberUsers => "member_users",
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Nobody),
            1 => Some(Self::MemberDevices),
            2 => Some(Self::MemberUsers),
            _ => None,
        }
    }
}

/// What a device does by itself that cannot process a commit which the service has accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterBadCommit {
    /// It holds the group at the epoch before, until its app or an administrator decides: whoever can have such a commit accepted could
    /// otherwise lead members where it wants (RFC 9750 §5.3).
    #[default]
    Hold,
    /// It comes back by an external commit.
    Rejoin,
}

impl AfterBadCommit {
    /// Its name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Rejoin => "rejoin",
        }
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Hold => 0,
            Self::Rejoin => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Hold),
            1 => Some(Self::Rejoin),
            _ => None,
        }
    }
}

/// How long the service keeps a group's entries that not every member has acknowledged, in seconds: 3,600 to 31,536,000 (1 hour to
/// 365 days).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Retention(u32);

impl Retention {
    /// So many seconds, if that is in the range.
    pub const fn from_seconds(seconds: u32) -> Option<Self> {
        match seconds {
            3_600..=31_536_000 => Some(Self(seconds)),
            _ => None,
        }
    }

    /// In seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Retention {
    type Error = &'static str;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        Self::from_seconds(seconds).ok_or("a retention must be 3600 to 31536000 seconds")
    }
}

impl From<Retention> for u32 {
    fn from(retention: Retention) -> Self {
        retention.0
    }
}

/// For each act the least role. Part of the roles extension ([`crate::Roles`]).
///
/// ```text
/// struct {
///     uint8 add;            // the least role: 1 reader, 2 member, 3 moderator, 4 owner
///     uint8 remove;
///     uint8 rename;
///     uint8 change_roles;
///     uint8 send;
///     uint8 external_join;  // 0 nobody, 1 devices that are members, 2 devices of members' users
///     select (Roles.version) {
///         case 1: ;                     // devices hold a group after a bad commit
///         case 2: uint8 bad_commit;     // 1: they rejoin
///         case 3: uint8 bad_commit;     // 0 or 1
///                 uint32 retention;     // seconds, 3,600 to 31,536,000
///     }
/// } Policy;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// To add devices of other users.
    pub add: Role,
    /// To remove devices of other users.
    pub remove: Role,
    /// To give the group another name.
    pub rename: Role,
    /// To change roles, and this policy.
    pub change_roles: Role,
    /// To send messages.
    pub send: Role,
    /// Who may come in without being added.
    pub external_join: ExternalJoin,
    /// What devices do after a commit that they cannot process.
    #[serde(default)]
    pub bad_commit: AfterBadCommit,
    /// How long the service's archive keeps entries, where that is shorter than it keeps those of all groups. `None`: as those. In its hot store
    /// entries stay as long as its operator has set (`archive.max_hot_seconds`, a day by default); the embedded store keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

impl Default for Policy {
    /// Members send; moderators add, remove and rename; owners change roles.
    fn default() -> Self {
        Self {
            add: Role::Moderator,
            remove: Role::Moderator,
            rename: Role::Moderator,
            change_roles: Role::Owner,
            send: Role::Member,
            external_join: ExternalJoin::MemberUsers,
            bad_commit: AfterBadCommit::Hold,
            retention: None,
        }
    }
}

impl Policy {
    /// Length of the part of its encoding that all versions have, in bytes.
    pub const BYTES: usize = 6;

    /// The least role for an act.
    pub const fn least(&self, act: Act) -> Role {
        match act {
            Act::Add => self.add,
            Act::Remove => self.remove,
            Act::Rename => self.rename,
            Act::ChangeRoles => self.change_roles,
            Act::Send => self.send,
        }
    }

    /// The same policy, but with that least role for that act.
    pub const fn with(mut self, act: Act, least: Role) -> Self {
        match act {
            Act::Add => self.add = least,
            Act::Remove => self.remove = least,
            Act::Rename => self.rename = least,
            Act::ChangeRoles => self.change_roles = least,
            Act::Send => self.send = least,
        }
        self
    }

    /// The part of its encoding that all versions have: all but [`Policy::bad_commit`] and [`Policy::retention`].
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        [
            self.add.code(),
            self.remove.code(),
            self.rename.code(),
            self.change_roles.code(),
            self.send.code(),
            self.external_join.code(),
        ]
    }

    /// Reads that part.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Result<Self, RuleViolation> {
        let [add, remove, rename, change_roles, send, external_join] = bytes;
        let role = |code| Role::from_code(code).ok_or(RuleViolation("roles"));
        Ok(Self {
            add: role(add)?,
            remove: role(remove)?,
            rename: role(rename)?,
            change_roles: role(change_roles)?,
            send: role(send)?,
            external_join: ExternalJoin::from_code(external_join).ok_or(RuleViolation("roles"))?,
            bad_commit: AfterBadCommit::Hold,
            retention: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_stays_as_it_is() {
        assert_eq!(Policy::default().to_bytes(), [3, 3, 3, 4, 2, 2]);
        let mut different = [1, 2, 3, 4, 1, 0];
        assert_eq!(Policy::from_bytes(different).unwrap().to_bytes(), different);
        different[5] = 1;
        let policy = Policy::from_bytes(different).unwrap();
        assert_eq!(policy.external_join, ExternalJoin::MemberDevices);
        let least = Act::ALL.map(|act| policy.least(act));
        assert_eq!(
            least,
            [
                Role::Reader,
                Role::Member,
                Role::Moderator,
                Role::Owner,
                Role::Reader
            ]
        );
    }

    #[test]
    fn a_retention_is_an_hour_to_a_year() {
        for (seconds, good) in [
            (0, false),
            (3_599, false),
            (3_600, true),
            (31_536_000, true),
            (31_536_001, false),
            (u32::MAX, false),
        ] {
            assert_eq!(Retention::from_seconds(seconds).is_some(), good, "{seconds}");
            assert_eq!(Retention::try_from(seconds).is_ok(), good, "{seconds}");
        }
    }

    #[test]
    fn every_other_value_is_refused() {
        for field in 0..Policy::BYTES {
            for value in 0..=u8::MAX {
                let mut bytes = Policy::default().to_bytes();
                bytes[field] = value;
                let good = if field == 5 {
                    value <= 2
                } else {
                    (1..=4).contains(&value)
                };
                assert_eq!(Policy::from_bytes(bytes).is_ok(), good, "{field}: {value}");
            }
        }
    }

    #[test]
    fn an_act_is_changed_alone() {
        for act in Act::ALL {
            for least in Role::ALL {
                let policy = Policy::default().with(act, least);
                for other in Act::ALL {
                    let expected = if other == act {
                        least
                    } else {
                        Policy::default().least(other)
                    };
                    assert_eq!(policy.least(other), expected);
                }
            }
        }
    }
}
