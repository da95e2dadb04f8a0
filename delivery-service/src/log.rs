//! The ordered log: what every group ever agreed on, and each device's inbox.
//!
//! # Adding a backend
//!
//! A backend implements [`OrderedLog`] and passes every test of `log/conformance.rs`. What it must keep:
//!
//! - **An append is one atomic step.** All checks come before the first write: idempotency key (first of all), frozen or reset,
//!   expected epoch, proposals that must have been seen. Then position, entry, and for a commit also epoch, GroupInfo, reading
//!   windows, the service's proposals that come with it and the joiners' inbox items are written together; or, where inboxes are kept
//!   elsewhere, the record that hands them over: those items, and the groups on users' lists, may come a moment later, but always, and
//!   each once.
//! - **A reset is one, too**: the group takes no entry any more, and the record that tells its members is written with that.
//! - **Positions are 1, 2, 3… without a gap**, and an answered append is never taken back.
//! - **Visible is durable**: nothing is answered, read or published as [`News`] before it would survive a crash.
//! - News may be lost (a receiver that lags is told so): readers use them to know when to read, and never rely on them.

pub(crate) mod acknowledgements;
pub(crate) mod archiver;
#[cfg(test)]
pub(crate) mod conformance;
mod inbox;
pub mod offers;
pub(crate) mod postgres;
pub mod production;
pub mod redis;
pub(crate) mod regression;
mod reports;
pub mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId};

pub use self::inbox::{InboxContent, InboxItem, Notice};
pub use self::reports::{CommitReport, MAX_REPORTS, ReportedCommit};

use self::offers::{Candidate, Frozen, OfferRefused, OfferedEntry, Restoration};

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A commit: begins a new epoch.
    Commit,
    /// A standalone proposal.
    Proposal,
    /// An application message.
    Application,
}

/// One entry of a group's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Whose log.
    pub group: GroupId,
    /// Where in it.
    pub position: Position,
    /// What it is.
    pub kind: EntryKind,
    /// The epoch in which it was sent.
    pub epoch: Epoch,
    /// Milliseconds since 1970-01-01 UTC; never less than the entry before.
    pub accepted_at: u64,
    /// Tells it from another entry that once had its position.
    pub id: EntryId,
    /// Who submitted it; `None` for the service itself.
    pub sender: Option<DeviceId>,
    /// The MLSMessage.
    pub bytes: Bytes,
}

/// Where a group's log stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The current epoch.
    pub epoch: Epoch,
    /// The newest entry.
    pub position: Position,
    /// The commit that began the current epoch; [`Position::NONE`] at epoch 0.
    pub commit_position: Position,
    /// The newest standalone proposal of the current epoch; [`Position::NONE`] where there is none.
    pub proposal_position: Position,
    /// Identifies the group's creation.
    pub origin: EntryId,
    /// Closed for writes until repaired.
    pub frozen: bool,
    /// Closed for writes for ever: it goes on as another group.
    pub reset: bool,
}

/// A group to create.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// Its id.
    pub group: GroupId,
    /// Its only member.
    pub creator: (UserId, DeviceId),
    /// Repeats with this key get the first answer.
    pub key: IdempotencyKey,
    /// GroupInfo of epoch 0.
    pub group_info: Bytes,
    /// Names this creation among several that may be tried for one id.
    pub origin: EntryId,
    /// Milliseconds since 1970-01-01 UTC.
    pub at: u64,
}

/// What became of a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// It is there, now or since an earlier try with the same key.
    Yes,
    /// Another group has that id.
    Exists,
}

/// An entry to append.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose log.
    pub group: GroupId,
    /// Repeats with this key get the first answer.
    pub key: IdempotencyKey,
    /// What it is.
    pub kind: EntryKind,
    /// The epoch that it belongs to, which must be the current one: also the epoch whose roster let the sender in.
    pub epoch: Epoch,
    /// Names the entry.
    pub id: EntryId,
    /// Who submits it.
    pub sender: Option<DeviceId>,
    /// The MLSMessage.
    pub bytes: Bytes,
    /// Milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// The caller may have submitted it before: a key that is kept in slow storage alone must be looked up there, too.
    pub may_be_repeat: bool,
    /// The newest proposal that its judgement knew: a newer one refuses it. For commits, and for proposals of the service, of which one is
    /// enough however many replicas come to it; `None` for what no proposal refuses.
    pub seen_proposal: Option<Position>,
    /// For commits: what comes with it.
    pub commit: Option<CommitEffects>,
}

/// What comes with a commit, in the same step.
#[derive(Clone, Debug)]
pub struct CommitEffects {
    /// GroupInfo of the epoch that it begins.
    pub group_info: Bytes,
    /// Who reads from the next entry on.
    pub joined: Vec<(UserId, DeviceId)>,
    /// Who reads up to and including this entry.
    pub left: Vec<DeviceId>,
    /// The Welcome for the joined devices' inboxes.
    pub welcome: Option<Bytes>,
    /// The service's own, of the epoch that it begins: the entries that follow it, in this order. Its repeats bring none.
    pub proposals: Vec<ServiceProposal>,
}

/// A proposal of the service that comes with a commit: an entry without a sender.
#[derive(Clone, Debug)]
pub struct ServiceProposal {
    /// New: no other entry has it.
    pub key: IdempotencyKey,
    /// Names the entry.
    pub id: EntryId,
    /// The MLSMessage.
    pub bytes: Bytes,
}

/// Where an accepted entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Its position.
    pub position: Position,
    /// Its id: of the first try, where this is the answer to a repeat.
    pub id: EntryId,
    /// The group's epoch after it.
    pub epoch: Epoch,
    /// When it was accepted, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// The answer to a repeat.
    pub repeated: bool,
}

/// Why an entry was not appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no such group.
    GroupNotFound,
    /// The group is frozen.
    Frozen,
    /// The group was reset.
    Reset,
    /// The epoch has ended.
    EpochEnded {
        /// The current epoch.
        current: Epoch,
        /// The commit that ended the entry's epoch.
        winner: Position,
    },
    /// The epoch has not begun.
    EpochAhead {
        /// The current epoch.
        current: Epoch,
    },
    /// The commit, or the service's own proposal, does not know this proposal.
    ProposalUnseen {
        /// Where it stands.
        position: Position,
    },
}

/// A group that was ended for ever, and goes on as another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reset {
    /// Which group.
    pub group: GroupId,
    /// The id under which it goes on.
    pub successor: GroupId,
    /// Its last entry.
    pub last: Position,
}

/// A part of a group's log that a device may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Entries after this one (exclusive): the commit that added the device.
    pub after: Position,
    /// Entries up to this one (inclusive): the commit that removed it; `None` for a member.
    pub until: Option<Position>,
}

impl Window {
    /// Is that entry in it?
    pub fn contains(&self, position: Position) -> bool {
        position > self.after && self.until.is_none_or(|until| position <= until)
    }
}

/// What a device that goes on reading a group has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Where the group stands; `None` where there is no such group.
    pub head: Option<Head>,
    /// What the device may read of it, oldest first; empty for one that was never a member.
    pub windows: Vec<Window>,
    /// The id of the entry that was asked for; `None` where it is not at hand, which does not mean that it is not kept.
    pub id: Option<EntryId>,
}

/// A device's place in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Which group.
    pub group: GroupId,
    /// The group's current epoch.
    pub epoch: Epoch,
    /// The asking device itself, not another one of its user.
    pub device_is_member: bool,
}

/// The public state of a group at the beginning of an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The epoch.
    pub epoch: Epoch,
    /// The commit that began it; [`Position::NONE`] at epoch 0.
    pub position: Position,
    /// The id of that commit, or the origin of the group: a snapshot of a history that was lost is not used.
    pub anchor: EntryId,
    /// As `group_state::snapshot` wrote it.
    pub state: Bytes,
}

/// What happened, for those who wait.
#[derive(Clone, Debug)]
pub enum News {
    /// An entry was appended.
    Entry {
        /// The entry.
        entry: Arc<Entry>,
        /// For a commit: who can read up to it and no further.
        left: Arc<[DeviceId]>,
    },
    /// A group's log may have more than was told: read it.
    Behind(GroupId),
    /// A device's inbox has a new item.
    Inbox(DeviceId),
    /// A device has a new stream, here or elsewhere, which is newer than all that were told before.
    Stream {
        /// Which device.
        device: DeviceId,
        /// Names the stream.
        stream: u64,
    },
    /// An ephemeral message, never stored.
    Ephemeral {
        /// Which group.
        group: GroupId,
        /// In which epoch.
        epoch: Epoch,
        /// Who sent it: it does not come back to them.
        sender: DeviceId,
        /// The MLSMessage.
        bytes: Bytes,
    },
}

/// The store cannot be reached or is full; for a write the outcome is unknown.
#[derive(Debug, thiserror::Error)]
#[error("log store: {0}")]
pub struct StoreError(pub String);

/// The log of every group and the inbox of every device. See the [module](self) for what a backend must keep.
#[async_trait]
pub trait OrderedLog: Send + Sync + 'static {
    /// Creates a group at epoch 0.
    async fn create(&self, group: NewGroup) -> Result<Created, StoreError>;

    /// Appends an entry, or says why not.
    async fn append(&self, append: Append) -> Result<Result<Appended, Refused>, StoreError>;

    /// The answer that an append with that key by that sender got.
    async fn repeat(
        &self,
        group: GroupId,
        key: IdempotencyKey,
        sender: Option<DeviceId>,
    ) -> Result<Option<Appended>, StoreError>;

    /// The commit that ended an epoch, if it has ended and the commit is still kept.
    async fn winner(&self, group: GroupId, epoch: Epoch) -> Result<Option<Position>, StoreError>;

    /// Where a group stands.
    async fn head(&self, group: GroupId) -> Result<Option<Head>, StoreError>;

    /// Entries after a position (exclusive), in order and without a gap: at most so many, and at least one if there is one, but
    /// no more once `max_bytes` is reached. Where the next ones are not kept any more, they begin with the first that is.
    async fn read(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError>;

    /// The commits and proposals after a position (exclusive), at most `max_entries`: what a group's state is folded from.
    async fn handshakes(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError>;

    /// The GroupInfo of the current epoch, with that epoch and the commit that began it.
    async fn group_info(&self, group: GroupId) -> Result<Option<(Bytes, Epoch, Position)>, StoreError>;

    /// What a device may read of a group, oldest first; empty for one that was never a member.
    async fn windows(&self, group: GroupId, device: DeviceId) -> Result<Vec<Window>, StoreError>;

    /// Where a device stands in groups, in their order: a device that connects asks for all of its groups at once. Each comes with the
    /// position of an entry whose id is asked for; [`Position::NONE`] for none. The newest entry is always at hand.
    async fn standings(
        &self,
        device: DeviceId,
        asked: Vec<(GroupId, Position)>,
    ) -> Result<Vec<Standing>, StoreError>;

    /// The groups that a device or another one of its user is a member of, after a group id, by group id.
    async fn memberships(
        &self,
        user: &UserId,
        device: DeviceId,
        after: Option<GroupId>,
        max: usize,
    ) -> Result<Vec<Membership>, StoreError>;

    /// Puts notices into inboxes.
    async fn notify(&self, notices: Vec<Notice>) -> Result<(), StoreError>;

    /// Items of a device's inbox after a number (exclusive), in order.
    async fn read_inbox(
        &self,
        device: DeviceId,
        after: u64,
        max: usize,
    ) -> Result<Vec<InboxItem>, StoreError>;

    /// The number of the newest item that a device's inbox ever had; 0 for none.
    async fn newest_inbox(&self, device: DeviceId) -> Result<u64, StoreError>;

    /// Keeps what a device has applied; items of its inbox up to that number (0: none) are deleted.
    async fn acknowledge(
        &self,
        device: DeviceId,
        groups: Vec<(GroupId, Position)>,
        inbox: u64,
    ) -> Result<(), StoreError>;

    /// Keeps a snapshot.
    async fn put_snapshot(&self, group: GroupId, snapshot: Snapshot) -> Result<(), StoreError>;

    /// The newest snapshots up to an epoch (inclusive), newest first, at most `max`. Of epoch 0, only that of the creation with this
    /// origin: however many others were tried, it is found.
    async fn snapshots(
        &self,
        group: GroupId,
        origin: EntryId,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<Snapshot>, StoreError>;

    /// What is certain of a frozen group; `None` where there is no such group, or it is not frozen: a backend that freezes none has nothing
    /// to repair, and takes no offers.
    async fn frozen(&self, group: GroupId) -> Result<Option<Frozen>, StoreError> {
        let _ = group;
        Ok(None)
    }

    /// Keeps what a device gives back of a frozen group, all or nothing: the newest position that it has offered.
    async fn offer(
        &self,
        group: GroupId,
        by: (&UserId, DeviceId),
        offered: Vec<OfferedEntry>,
    ) -> Result<Result<Position, OfferRefused>, StoreError> {
        let _ = (group, by, offered);
        Ok(Err(OfferRefused::NotFrozen))
    }

    /// The newest position that a device has offered; [`Position::NONE`] for none.
    async fn newest_offer(&self, group: GroupId, device: DeviceId) -> Result<Position, StoreError> {
        let _ = (group, device);
        Ok(Position::NONE)
    }

    /// What was offered for the positions after one (exclusive) and up to another one (inclusive), by position.
    async fn candidates(
        &self,
        group: GroupId,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Candidate>, StoreError> {
        let _ = (group, after, up_to);
        Ok(Vec::new())
    }

    /// Puts a frozen group back to the newest entry that is known for certain, adds what a repair has found, and opens it for writes:
    /// where it stands then. `None` where it is not frozen.
    async fn repair(&self, group: GroupId, restoration: Restoration) -> Result<Option<Head>, StoreError> {
        let _ = (group, restoration);
        Ok(None)
    }

    /// Ends a group for ever, and hands that over to the inboxes of all member devices, each once. A group that was reset before stays as it is:
    /// then the answer is the first one.
    async fn reset(
        &self,
        group: GroupId,
        successor: GroupId,
        at: u64,
    ) -> Result<Result<Reset, Refused>, StoreError>;

    /// Under which id a group goes on that was reset.
    async fn successor(&self, group: GroupId) -> Result<Option<GroupId>, StoreError>;

    /// The group that was reset and goes on under that id, whether or not the new one was made yet.
    async fn predecessor(&self, successor: GroupId) -> Result<Option<GroupId>, StoreError>;

    /// Keeps a report, once for each device and commit, at most [`MAX_REPORTS`] of a device in a group. Says whether it is new.
    async fn report(&self, report: CommitReport) -> Result<bool, StoreError>;

    /// What was reported, of one group or of all, after a group and position (exclusive), by group id and position.
    async fn reports(
        &self,
        group: Option<GroupId>,
        after: Option<(GroupId, Position)>,
        max: usize,
    ) -> Result<Vec<ReportedCommit>, StoreError>;

    /// Tells everybody who listens now; never stored.
    fn publish_ephemeral(&self, group: GroupId, epoch: Epoch, sender: DeviceId, bytes: Bytes);

    /// Tells all replicas, this one as well, that a device has a new stream ([`News::Stream`]): all of them in the same order. It may be
    /// lost. A backend of one process has nobody to tell.
    fn announce_stream(&self, device: DeviceId, stream: u64) {
        let _ = (device, stream);
    }

    /// What happens from now on.
    fn news(&self) -> broadcast::Receiver<News>;
}
