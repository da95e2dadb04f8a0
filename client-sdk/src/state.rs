//! What an app can ask about: groups, members, the connection, and the outcomes of operations.

use std::fmt;
use std::time::SystemTime;

pub use valise_group_rules::{Act, AfterBadCommit, ExternalJoin, Policy, Retention, Role};
use valise_proto::{DeviceId, Epoch, GroupId, Position, Reason, UserId};

use crate::{CipherSuite, Peer, WhatNow};

/// What a group on this device can be used for.
///
/// ```
/// use valise_client_sdk::GroupStatus;
///
/// fn can_write(status: GroupStatus) -> bool {
///     matches!(status, GroupStatus::Creating | GroupStatus::Active | GroupStatus::Rejoining)
/// }
/// assert!(!can_write(GroupStatus::HeldByBadCommit));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GroupStatus {
    /// Made here; the service has not registered it yet. Operations are queued.
    Creating,
    /// In use.
    Active,
    /// This device asked to leave; another member will commit it. Nothing can be sent.
    Leaving,
    /// This device is no member any more. The group's keys are deleted.
    Removed,
    /// The service accepted a commit that this device cannot process; it waits at the epoch before.
    HeldByBadCommit,
    /// A commit broke a rule of certificates or lifetimes: it was applied, and nothing more is sent but removals
    /// ([`crate::Group::remove`], [`crate::Group::leave`]). When a commit leaves nobody in the group whose certificate is not valid, the group
    /// goes on ([`crate::EventKind::QuarantineEnded`]).
    Quarantined,
    /// The service's log of the group went back in time, and has to be repaired: this device gives back what it has of it. What had left
    /// it before is kept, and sent once more if the group goes on: by itself, if the log is repaired up to this device's place. Only if it is
    /// repaired without that ([`crate::EventKind::LogRestored`] does not come) it has to rejoin, which is refused before.
    LogRegressed,
    /// The service no longer keeps what this device would have to read next. It has to rejoin or be added again.
    Lost,
    /// This device is on its way back by an external commit. Operations are queued.
    Rejoining,
    /// The invitation could not be used. It has to be added again.
    WelcomeUnusable,
    /// An administrator has ended the group; it goes on under another id ([`GroupState::successor`]). Its keys are deleted, what was said in it
    /// stays readable.
    Reset,
}

impl GroupStatus {
    pub(crate) const ALL: [Self; 11] = [
        Self::Creating,
        Self::Active,
        Self::Leaving,
        Self::Removed,
        Self::HeldByBadCommit,
        Self::Quarantined,
        Self::LogRegressed,
        Self::Lost,
        Self::Rejoining,
        Self::WelcomeUnusable,
        Self::Reset,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Removed => "removed",
            Self::HeldByBadCommit => "held_by_bad_commit",
            Self::Quarantined => "quarantined",
            Self::LogRegressed => "log_regressed",
            Self::Lost => "lost",
            Self::Rejoining => "rejoining",
            Self::WelcomeUnusable => "welcome_unusable",
            Self::Reset => "reset",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Does the device follow the group's log in this state?
    pub(crate) const fn is_followed(self) -> bool {
        matches!(self, Self::Active | Self::Leaving | Self::Quarantined)
    }

    /// Does the device have keys of an epoch that the group is, or was, in?
    pub(crate) const fn has_keys(self) -> bool {
        !matches!(
            self,
            Self::Removed | Self::Rejoining | Self::WelcomeUnusable | Self::Reset
        )
    }

    /// Are operations accepted (perhaps to be done later)?
    pub(crate) const fn is_usable(self) -> bool {
        matches!(self, Self::Creating | Self::Active | Self::Rejoining)
    }
}

impl fmt::Display for GroupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A group as this device knows it now.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let state = group.info().await?;
/// println!("{} is {}, epoch {}, entry {}", state.name, state.status, state.epoch, state.position);
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
pub struct GroupState {
    /// Its name; empty as long as nobody has told it.
    pub name: String,
    /// What it can be used for.
    pub status: GroupStatus,
    /// The MLS epoch.
    pub epoch: Epoch,
    /// The last entry of the group's log that this device has applied.
    pub position: Position,
    /// Its cipher suite; `None` where this device has never been in it, or where this version cannot name it.
    pub cipher_suite: Option<CipherSuite>,
    /// Number of members (devices).
    pub members: usize,
    /// The epoch authenticator (RFC 9420 §8.7): equal on all devices of the epoch, unless they were shown different logs.
    /// Empty where the device is no member.
    pub epoch_authenticator: Vec<u8>,
    /// The newest entry of the log whose sender was shown another history than this device, as far as this is known
    /// ([`crate::EventKind::DeliveryForked`]). `None`, as it should be: nobody has said so since this device entered.
    pub forked_at: Option<Position>,
    /// The group under whose id it goes on, where an administrator has ended it ([`GroupStatus::Reset`]).
    pub successor: Option<GroupId>,
}

/// Something that was asked of a group and is not done yet ([`crate::Group::pending`]).
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// group.queue("Bonjour").await?;
/// for waiting in group.pending().await? {
///     let state = if waiting.prepared { "on its way" } else { "queued" };
///     println!("{} {:?} {:?}: {state}", waiting.operation, waiting.message, waiting.users);
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// What was asked for: as in [`EventKind::OperationFailed`](crate::EventKind::OperationFailed), or `rejoin`.
    pub operation: String,
    /// Its exact request is made, and may have left: perhaps the service has it already. Otherwise it waits for its turn.
    pub prepared: bool,
    /// Of `send`: the message, where it has an id.
    pub message: Option<crate::MessageId>,
    /// Of `add`, `remove` and `set_role`: whom it is about. An `add` of many is listed by what is under way and what is not.
    pub users: Vec<UserId>,
}

/// A member: one device of a user.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let users: std::collections::BTreeSet<_> =
///     group.members().await?.into_iter().map(|member| member.user).collect();
/// assert_eq!(users.len(), 2);
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// What the user counts as in the group: where no owner is in it, the highest that are there count as owners.
    pub role: Role,
    /// The device's leaf in the ratchet tree.
    pub leaf_index: u32,
}

/// An accepted message.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let first = group.send("One").await?;
/// let second = group.send("Two").await?;
/// assert!(second.position > first.position);
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The message's name.
    pub id: crate::MessageId,
    /// Where it stands in the group's log.
    pub position: Position,
    /// The epoch in which it was sent.
    pub epoch: Epoch,
}

/// What became of an [`crate::Group::add`].
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let added = group.add(&["nobody@interieur.example"]).await?;
/// for (user, device, failure) in &added.failed {
///     println!("{user} {device:?}: {failure:?}");
/// }
/// assert!(added.devices.is_empty());
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Added {
    /// The devices that are members now because of it.
    pub devices: Vec<(UserId, DeviceId)>,
    /// Those that could not be added, and why. `None`: no device of the user is known.
    pub failed: Vec<(UserId, Option<DeviceId>, AddFailure)>,
}

/// Why a device was not added.
///
/// ```
/// use valise_client_sdk::AddFailure;
///
/// fn tell(failure: AddFailure) -> &'static str {
///     match failure {
///         AddFailure::UnknownUser => "nobody of that name",
///         AddFailure::AlreadyMember => "is in the group already",
///         AddFailure::RateLimited => "try again later",
///         _ => "cannot be added now",
///     }
/// }
/// assert_eq!(tell(AddFailure::UnknownUser), "nobody of that name");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AddFailure {
    /// The directory has never seen a device of this user.
    UnknownUser,
    /// The device has no usable key package of the group's suite.
    NoKeyPackage,
    /// The device is revoked, or its user suspended.
    Revoked,
    /// Too many packages of this device were claimed; try again later.
    RateLimited,
    /// The device is a member already.
    AlreadyMember,
    /// The directory handed out a package that breaks this rule, or that is another device's.
    BadKeyPackage(&'static str),
    /// The commit with this device was refused, for this reason; `None` where it is not one of a service.
    CommitFailed(Option<Reason>),
}

impl AddFailure {
    /// In one word: an error reason, or a rule.
    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::UnknownUser => "UNKNOWN_USER",
            Self::NoKeyPackage => "KEY_PACKAGES_EXHAUSTED",
            Self::Revoked => "DEVICE_REVOKED",
            Self::RateLimited => "RATE_LIMITED",
            Self::AlreadyMember => "already_member",
            Self::BadKeyPackage(rule) => rule,
            Self::CommitFailed(_) => "commit",
        }
    }

    /// Is there a chance later?
    pub(crate) const fn what_now(self) -> WhatNow {
        match self {
            Self::NoKeyPackage | Self::RateLimited => WhatNow::Retry,
            Self::UnknownUser
            | Self::Revoked
            | Self::AlreadyMember
            | Self::BadKeyPackage(_)
            | Self::CommitFailed(_) => WhatNow::Denied,
        }
    }
}

/// What became of a removal.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let removed = group.remove(&[bob.user()]).await?;
/// assert_eq!(removed.devices.len(), 1);
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// The devices that are no members any more because of it.
    pub devices: Vec<Peer>,
}

/// Is the device in touch with the service?
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// use valise_client_sdk::Connection;
///
/// let mut connection = alice.connection();
/// loop {
///     match connection.borrow_and_update().clone() {
///         Connection::Offline { reason } => println!("offline: {reason:?}"),
///         Connection::CatchingUp => println!("reading what was missed"),
///         Connection::Live => break,
///     }
///     connection.changed().await?;
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Connection {
    /// No. The client tries again by itself, unless it was displaced or revoked.
    Offline {
        /// Why not.
        reason: OfflineReason,
    },
    /// It reads what it missed.
    CatchingUp,
    /// Everything that it missed is applied, and news arrive as they happen. Of a device in more groups than the service takes on a stream this is
    /// so for those with the latest news; the others are read every few minutes, and by [`Client::synced`](crate::Client::synced).
    Live,
}

/// Why a device is not in touch.
///
/// ```
/// use valise_client_sdk::OfflineReason;
///
/// fn goes_on_by_itself(reason: OfflineReason) -> bool {
///     !matches!(reason, OfflineReason::Displaced | OfflineReason::Closed)
/// }
/// assert!(goes_on_by_itself(OfflineReason::Unreachable));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OfflineReason {
    /// The client was just opened.
    Starting,
    /// The server cannot be reached.
    Unreachable,
    /// Another client with the same device took over. This one stays offline.
    Displaced,
    /// The device is revoked or its user suspended. The client tries again, rarely.
    Refused(Reason),
    /// The client is closed.
    Closed,
}

/// A device of a user, as the authentication service tells it.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// let forgotten = alice.devices().await?.into_iter().find(|device| {
///     device.active && device.device != alice.device() && device.name == "old telephone"
/// });
/// assert!(forgotten.is_none());
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceSummary {
    /// The device.
    pub device: DeviceId,
    /// Its name; empty for devices of other users.
    pub name: String,
    /// In use, not revoked.
    pub active: bool,
    /// May also administer.
    pub administrator: bool,
    /// When it was enrolled.
    pub enrolled_at: Option<SystemTime>,
    /// When its newest certificate ends.
    pub certificate_expires_at: Option<SystemTime>,
}
