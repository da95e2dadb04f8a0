//! What an app hears of.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::Stream;
use tokio::sync::mpsc;
use valise_group_rules::{Policy, Role};
use valise_proto::{DeviceId, Epoch, GroupId, Position, UserId};

use crate::{ChainValue, Content, MessageId, WhatNow};

/// The number of an event on this device: later events have greater numbers.
///
/// ```
/// use valise_client_sdk::EventId;
///
/// assert!(EventId(7) > EventId(6));
/// assert!(EventId::NONE < EventId(1));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId(pub u64);

impl EventId {
    /// The id of events that are not stored ([`EventKind::Ephemeral`]). Confirming it does nothing.
    pub const NONE: Self = Self(0);
}

/// One device of a user.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// use valise_client_sdk::{EventKind, Peer};
///
/// let group = alice.create_group("Budget 2027").await?;
/// group.add(&[bob.user()]).await?;
/// let mut events = bob.events();
/// let event = events.next().await.ok_or("closed")?;
/// let EventKind::Joined { by: Peer { user, device } } = event.kind else { return Err("not joined".into()) };
/// assert_eq!((&user, device), (alice.user(), alice.device()));
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Peer {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
}

/// Something that happened. Stored until the app confirms it ([`crate::Client::confirm`]).
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let event = bob.events().next().await.ok_or("closed")?;
/// println!("event {} in {}, of entry {} of its log: {:?}", event.id.0, event.group, event.position, event.kind);
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub id: EventId,
    /// In which group.
    pub group: GroupId,
    /// The group's log entry that it comes from.
    pub position: Position,
    /// When the service accepted that entry.
    pub at: SystemTime,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
///
/// ```
/// use valise_client_sdk::{Event, EventKind};
///
/// fn line(event: &Event) -> String {
///     match &event.kind {
///         EventKind::Message { sender, content } => {
///             format!("{}: {}", sender.user, content.as_text().unwrap_or("(not text)"))
///         }
///         EventKind::Joined { by } => format!("{} invited you", by.user),
///         EventKind::DeviceAdded { user, .. } => format!("{user} has a new device: compare safety numbers"),
///         EventKind::OperationFailed { operation, cause, .. } => format!("{operation} failed: {cause}"),
///         // New kinds may come with later versions.
///         other => format!("{other:?}"),
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A message, of another device or one's own: all members see all messages in one order. Also reactions, edits,
    /// deletions and receipts: see [`Content::kind`].
    ///
    /// That an edit or deletion is of the user who sent the message was checked, as far as the device knows that message: see
    /// [`crate::Group::history`].
    Message {
        /// Who sent it.
        sender: Peer,
        /// What it says.
        content: Content,
    },
    /// A message that came to the devices connected now. Not stored, without a place in the order.
    Ephemeral {
        /// Who sent it.
        sender: Peer,
        /// What it says.
        content: Content,
    },
    /// This device was added to a group.
    Joined {
        /// By whom.
        by: Peer,
    },
    /// A user who already is a member has a device or key in the group that was not there: a new device, or one whose signature
    /// key changed. Comes before [`EventKind::MembersChanged`] of the same commit, and before anything that the device can read
    /// is sent from here. An app shows it, and may have safety numbers compared ([`crate::Client::safety_number`]): whoever
    /// controls the services could try to add a device of their own in somebody's name.
    DeviceAdded {
        /// Whose it is: perhaps this device's own user.
        user: UserId,
        /// The device.
        device: DeviceId,
        /// Who committed it; the device itself where it came in by an external commit, or changed its key.
        by: Peer,
        /// The epoch that began: the first that the device can read.
        epoch: Epoch,
    },
    /// Devices were added or removed.
    MembersChanged {
        /// Who was added.
        added: Vec<Peer>,
        /// Who was removed, or left.
        removed: Vec<Peer>,
        /// Who committed it.
        by: Peer,
        /// The epoch that began.
        epoch: Epoch,
    },
    /// Roles were changed, or what they allow.
    RolesChanged {
        /// Users that have another role now, and that role.
        users: Vec<(UserId, Role)>,
        /// The new policy, where it is another one.
        policy: Option<Policy>,
        /// Who committed it.
        by: Peer,
        /// The epoch that began.
        epoch: Epoch,
    },
    /// Somebody did what the group's rules do not allow, and the service, or that member's app, let it pass. It was not applied: a
    /// message or a name is not shown, and a commit holds the group ([`EventKind::HeldByBadCommit`] follows).
    RuleBreach {
        /// Who did it, proven by a signature. `None`: a device that is no member.
        by: Option<Peer>,
        /// The rule, for example `role_send`.
        rule: String,
        /// The entry as the service delivered it, for those who look into it: a `valise.delivery.v1.Entry` (protobuf). Empty for what is in
        /// no log.
        evidence: Vec<u8>,
    },
    /// Somebody was shown another history of the group than this device: what they sent says so, under their signature
    /// (`docs/verifiable-delivery.md`). The service dropped, added, reordered or changed something for one of the two, or has lost
    /// something. The entry itself is genuine and is applied: its own event, if it has one, follows. Told once for each device and epoch;
    /// see also [`crate::GroupState::forked_at`]. An app shows it: what members see may differ until the service's operator has explained it.
    DeliveryForked {
        /// Whose device was shown something else.
        sender: Peer,
        /// How far that device had read when it sent the entry.
        position: Position,
        /// What it had then.
        theirs: ChainValue,
        /// What this device has there; `None` where for this device no entry of the epoch that it could have read is at that position.
        ours: Option<ChainValue>,
        /// The entry as the service delivered it, for those who look into it: a `valise.delivery.v1.Entry` (protobuf).
        evidence: Vec<u8>,
    },
    /// The service gives devices that come back, or come in, by an external commit a GroupInfo that is not of this group's epoch: a member has
    /// submitted a wrong one, or the service made it up. Whoever uses it gets no further, and may stop the others ([`EventKind::HeldByBadCommit`]).
    /// Administrators are told ([`crate::CommitFault::ExternalPub`]); the next commit brings another GroupInfo.
    WrongGroupInfo {
        /// The epoch that it pretends to be of.
        epoch: Epoch,
        /// It, for those who look into it: an MLSMessage with a GroupInfo (RFC 9420 §12.4.3), signed by who made it.
        evidence: Vec<u8>,
    },
    /// The group has a (new) name.
    GroupNamed {
        /// The name.
        name: String,
        /// Who gave it.
        by: Peer,
    },
    /// This device was removed, or has left. The group's keys are deleted.
    Removed {
        /// Who committed it.
        by: Peer,
    },
    /// An invitation could not be used; the device has to be added again. A group that it is in already stays as it is.
    WelcomeUnusable {
        /// Why: a rule, an error reason, or what openmls says.
        cause: String,
    },
    /// The service accepted a commit that this device cannot process. The group stays at the epoch before it.
    HeldByBadCommit {
        /// Why.
        cause: String,
        /// The entry as the service delivered it, for those who look into it: a `valise.delivery.v1.Entry` (protobuf). Empty where it was
        /// stored by a version that did not keep it.
        evidence: Vec<u8>,
    },
    /// A commit was applied whose certificates or key packages break a rule: nothing more is sent to the group but removals.
    Quarantined {
        /// The rule.
        rule: String,
        /// The commit as the service delivered it, as in [`EventKind::HeldByBadCommit`].
        evidence: Vec<u8>,
    },
    /// All members' certificates are valid again: the group goes on.
    QuarantineEnded,
    /// The service's log of the group went back in time: the group stands still. It goes on by itself
    /// ([`EventKind::LogRestored`]) if the log is repaired up to where this device is: the event's position.
    LogRegressed {
        /// The id of the entry that this device has there; empty before the first, and where the event was stored by a version that did not
        /// keep it.
        entry_id: Vec<u8>,
        /// The other entry that the service has shown in that place: a `valise.delivery.v1.Entry` (protobuf). Empty where the service has
        /// only said so.
        evidence: Vec<u8>,
    },
    /// The service's log of the group is as it was: the group goes on.
    LogRestored,
    /// The service no longer keeps what this device would have to read next: the group is not followed any more. Unless
    /// [`crate::RejoinPolicy`] says otherwise, [`EventKind::Rejoining`] follows.
    Lost,
    /// An administrator has ended the group, for ever ([`crate::GroupStatus::Reset`]): what was queued has failed. It goes on under another id, into
    /// which this device goes by itself: [`EventKind::Joined`] follows there, when a member has made it.
    GroupReset {
        /// The new group.
        successor: GroupId,
    },
    /// This device is on its way back into the group by an external commit (RFC 9420 §12.4.3.2). What is sent meanwhile is queued.
    Rejoining,
    /// This device is back in the group: it reads and sends from the event's position on.
    Rejoined {
        /// The entries that it can never read, first and last; `None` where it missed nothing.
        missed: Option<(Position, Position)>,
    },
    /// This device could not come back. It is tried again only if the app asks ([`crate::Group::rejoin`]).
    RejoinFailed {
        /// Why: an error reason, a rule, or what openmls says.
        cause: String,
    },
    /// A device that had lost its place has come back with new keys, by an external commit of its own.
    CameBack {
        /// Whose device.
        peer: Peer,
        /// The epoch that began.
        epoch: Epoch,
    },
    /// Somebody tried to edit or delete what another has sent. It was ignored.
    ReplacementRefused {
        /// Who tried.
        sender: Peer,
        /// The message that stays as it is.
        of: MessageId,
    },
    /// A message that cannot be read: its sender broke the protocol.
    Unreadable {
        /// Who sent it, where that is known.
        sender: Option<Peer>,
        /// The entry as the service delivered it, as in [`EventKind::HeldByBadCommit`].
        evidence: Vec<u8>,
    },
    /// An operation has failed, and nobody was waiting for its outcome: it was queued before a restart, or whoever waited has stopped. Of an
    /// `add` there may be several, one for each cause.
    OperationFailed {
        /// What was asked for: `create`, `send`, `add`, `remove`, `self_update`, `leave`, `rename`, `set_role` or `set_policy`.
        operation: String,
        /// Why: an error reason or rule.
        cause: String,
        /// What to do about it. [`WhatNow::Denied`] where the event was stored by a version that did not keep it.
        what_now: WhatNow,
        /// Of `send`: the message that was not sent ([`crate::SendStatus::Failed`]), where it has an id.
        message: Option<MessageId>,
        /// Of `add`, `remove` and `set_role`: whom it was about, as far as this device still knows.
        users: Vec<UserId>,
    },
}

/// Events in order, beginning with the first that is not confirmed. Ends when the client is closed.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// use futures::StreamExt;
/// use valise_client_sdk::EventKind;
///
/// let group = alice.create_group("Budget 2027").await?;
/// group.add(&[bob.user()]).await?;
/// // It is a stream, too.
/// let joined = bob.events().filter(|event| {
///     futures::future::ready(matches!(event.kind, EventKind::Joined { .. }))
/// });
/// assert_eq!(std::pin::pin!(joined).next().await.ok_or("closed")?.group, group.id());
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Events {
    pub(crate) receiver: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; waits for it. `None` once the client is closed.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// let mut events = alice.events();
    /// alice.close().await;
    /// assert!(events.next().await.is_none());
    /// # Ok(()) });
    /// ```
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.receiver.poll_recv(context)
    }
}
