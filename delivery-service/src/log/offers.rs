//! What devices give back of a log that went back in time, and what a repair makes of it.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use valise_proto::{DeviceId, IdempotencyKey, Position, UserId};

use super::{Entry, EntryKind, Head, Window};

/// Positions beyond the archive's end that may be offered. What was answered and is not archived is of the last seconds, or, while
/// PostgreSQL was away, of that time.
pub(crate) const MAX_POSITIONS: u64 = 20_000;
/// Different entries that are kept for one position.
pub(crate) const MAX_VARIANTS: usize = 8;
/// Bytes that are kept for a group, and of these at most so many that one device brought first.
pub(crate) const MAX_BYTES: usize = 128 * 1024 * 1024;
pub(crate) const MAX_DEVICE_BYTES: usize = 48 * 1024 * 1024;

/// An entry as a device says that it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedEntry {
    /// The entry.
    pub entry: Entry,
    /// Of a commit of the offering device itself: the GroupInfo that came with it.
    pub group_info: Option<Bytes>,
}

impl OfferedEntry {
    /// What two offers of one entry have alike, and others have not: everything but the GroupInfo, which only the committer has.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let entry = &self.entry;
        let kind: u8 = match entry.kind {
            EntryKind::Commit => 1,
            EntryKind::Proposal => 2,
            EntryKind::Application => 3,
        };
        let mut hash = Sha256::new();
        // Fields of fixed length, then one that takes the rest.
        hash.update(entry.group.as_bytes());
        hash.update(entry.position.0.to_be_bytes());
        hash.update([kind]);
        hash.update(entry.epoch.0.to_be_bytes());
        hash.update(entry.accepted_at.to_be_bytes());
        hash.update(entry.id.as_bytes());
        match &entry.sender {
            Some(device) => {
                hash.update([1]);
                hash.update(device.as_uuid().as_bytes());
            }
            None => hash.update([0]),
        }
        hash.update(&entry.bytes);
        hash.finalize().into()
    }

    /// What it takes to keep it, in bytes.
    pub(crate) fn size(&self) -> usize {
        let fixed = 128;
        fixed + self.entry.bytes.len() + self.group_info.as_ref().map_or(0, Bytes::len)
    }
}

/// Why an offer is not taken. Nothing of it is kept then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfferRefused {
    /// There is no such group, or it is not frozen.
    NotFrozen,
    /// The archive has that position.
    Archived,
    /// The position is too far beyond the archive.
    TooFar,
    /// As much as is kept has been offered.
    TooMany,
    /// The device has offered another entry for that position.
    Otherwise,
}

/// An entry that was offered, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Of a commit, where its committer has offered it.
    pub group_info: Option<Bytes>,
    /// The devices that offer exactly this.
    pub by: Vec<(UserId, DeviceId)>,
}

/// A frozen group, as far as it is certain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// Where the archive ends.
    pub head: Head,
    /// When its newest archived entry was accepted, in milliseconds since 1970-01-01 UTC.
    pub accepted_at: u64,
    /// Who reads what, as of then.
    pub windows: Vec<(UserId, DeviceId, Window)>,
    /// Where the log ends that is not the archived one; [`Position::NONE`] where it is lost altogether.
    pub abandoned: Position,
    /// The newest position that was offered; [`Position::NONE`] for none.
    pub offered: Position,
    /// Was it repaired before? Then the archive may have messages under the keys that a repair gives them.
    pub repaired: bool,
}

/// What a repair adds to the archived log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restoration {
    /// In order and without a gap, the first after the archive's end.
    pub entries: Vec<Arc<Entry>>,
    /// Devices that read more or less because of them, with all their windows, oldest first.
    pub windows: Vec<(UserId, DeviceId, Vec<Window>)>,
    /// GroupInfo of the newest commit among them, with that commit's position, where it is known.
    pub group_info: Option<(Bytes, Position)>,
}

/// The key under which a restored entry is kept: nobody but its sender knows the one that it was submitted with. A sender that repeats it
/// sends the same bytes, and no two messages of MLS are the same.
pub(crate) fn restored_key(bytes: &[u8]) -> IdempotencyKey {
    let mut key = [0; 16];
    let digest = Sha256::digest(bytes);
    key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    IdempotencyKey::from_bytes(key)
}

#[cfg(test)]
mod tests {
    use valise_proto::{EntryId, Epoch, GroupId};

    use super::*;

    #[test]
    fn entries_that_differ_in_anything_are_different() {
        let device = DeviceId::from_uuid(valise_proto::Uuid::from_bytes([7; 16]));
        let offered = OfferedEntry {
            entry: Entry {
                group: GroupId::from_bytes([1; 16]),
                position: Position(5),
                kind: EntryKind::Application,
                epoch: Epoch(2),
                accepted_at: 1000,
                id: EntryId::from_bytes([3; 8]),
                sender: Some(device),
                bytes: Bytes::from_static(b"message"),
            },
            group_info: None,
        };
        let changes: [fn(&mut Entry); 8] = [
            |entry| entry.group = GroupId::from_bytes([2; 16]),
            |entry| entry.position = Position(6),
            |entry| entry.kind = EntryKind::Commit,
            |entry| entry.epoch = Epoch(3),
            |entry| entry.accepted_at = 1001,
            |entry| entry.id = EntryId::from_bytes([4; 8]),
            |entry| entry.sender = None,
            |entry| entry.bytes = Bytes::from_static(b"other"),
        ];
        let mut digests = std::collections::BTreeSet::from([offered.digest()]);
        for change in changes {
            let mut other = offered.clone();
            change(&mut other.entry);
            assert!(digests.insert(other.digest()), "{other:?}");
        }
        let with_info = OfferedEntry {
            group_info: Some(Bytes::from_static(b"info")),
            ..offered.clone()
        };
        assert_eq!(with_info.digest(), offered.digest());
    }
}
