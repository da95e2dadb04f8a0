//! What comes to a device's inbox.

use bytes::Bytes;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, Position};

use super::Reset;

/// An item of a device's inbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxItem {
    /// Greater than that of every earlier item of the inbox, and at least the time at which it was put there, in milliseconds since
    /// 1970-01-01 UTC: a store that has lost items, and their count, does not give a number again that a device has seen.
    pub number: u64,
    /// What it is.
    pub content: InboxContent,
    /// Milliseconds since 1970-01-01 UTC.
    pub accepted_at: u64,
}

/// What an inbox item is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InboxContent {
    /// An invitation.
    Welcome {
        /// The Welcome.
        welcome: Bytes,
        /// To which group.
        group: GroupId,
        /// The epoch that it leads to.
        epoch: Epoch,
        /// The commit that added the device.
        commit: (Position, EntryId),
    },
    /// Key packages run low.
    LowStock {
        /// Of which suite.
        cipher_suite: u32,
        /// How many are left.
        one_time: u32,
    },
    /// A group was reset.
    GroupReset(Reset),
}

/// A notice for a device's inbox.
#[derive(Clone, Debug)]
pub struct Notice {
    /// For whom.
    pub device: DeviceId,
    /// The same again within a day is dropped.
    pub deduplication_key: String,
    /// What: not a Welcome, which comes with its commit.
    pub cipher_suite: u32,
    /// See [`InboxContent::LowStock`].
    pub one_time: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub at: u64,
}
