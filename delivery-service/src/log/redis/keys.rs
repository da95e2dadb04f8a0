//! The names of keys. All keys of a partition begin with its tag; ids follow as bytes.

use valise_proto::{DeviceId, EntryId, GroupId, UserId};

use super::partition::Partition;

/// The keys of one partition.
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn of(partition: Partition) -> Self {
        Self(partition.tag())
    }

    fn key(&self, name: &str, ids: &[&[u8]]) -> Vec<u8> {
        let mut key = Vec::with_capacity(48);
        key.extend_from_slice(self.0.as_bytes());
        key.extend_from_slice(name.as_bytes());
        for id in ids {
            key.extend_from_slice(id);
        }
        key
    }

    /// Hash: group -> head; and `seq`, the partition's sequence.
    pub(super) fn heads(&self) -> Vec<u8> {
        self.key("heads", &[])
    }

    /// Sorted set: group by the sequence of its last append.
    pub(super) fn changes(&self) -> Vec<u8> {
        self.key("chg", &[])
    }

    /// Sorted set: device by the sequence of its last inbox item.
    pub(super) fn inbox_changes(&self) -> Vec<u8> {
        self.key("ichg", &[])
    }

    /// Stream: hand-offs to other partitions.
    pub(super) fn out(&self) -> Vec<u8> {
        self.key("out", &[])
    }

    /// The channel.
    pub(super) fn channel(&self) -> Vec<u8> {
        self.key("ch", &[])
    }

    /// Hash: device -> number of its newest inbox item.
    pub(super) fn inbox_heads(&self) -> Vec<u8> {
        self.key("bh", &[])
    }

    /// What every script that numbers a change works with, in this order.
    pub(super) fn numbering(&self) -> Vec<Vec<u8>> {
        vec![self.heads(), self.changes(), self.inbox_changes()]
    }

    /// A group's entries.
    pub(super) fn stream(&self, group: &GroupId) -> Vec<u8> {
        self.key("s:", &[group.as_bytes()])
    }

    /// Hash: idempotency key and sender -> position.
    pub(super) fn answers(&self, group: &GroupId) -> Vec<u8> {
        self.key("i:", &[group.as_bytes()])
    }

    /// Sorted set: positions of commits and proposals.
    pub(super) fn handshakes(&self, group: &GroupId) -> Vec<u8> {
        self.key("k:", &[group.as_bytes()])
    }

    /// Hash: ended epoch -> position of the commit that ended it.
    pub(super) fn commits(&self, group: &GroupId) -> Vec<u8> {
        self.key("c:", &[group.as_bytes()])
    }

    /// The current epoch's GroupInfo.
    pub(super) fn group_info(&self, group: &GroupId) -> Vec<u8> {
        self.key("info:", &[group.as_bytes()])
    }

    /// Hash: reading windows by device, and open windows by user.
    pub(super) fn windows(&self, group: &GroupId) -> Vec<u8> {
        self.key("w:", &[group.as_bytes()])
    }

    /// The keys of a group, in the order that scripts expect.
    pub(super) fn group(&self, group: &GroupId) -> [Vec<u8>; 6] {
        [
            self.stream(group),
            self.answers(group),
            self.handshakes(group),
            self.commits(group),
            self.group_info(group),
            self.windows(group),
        ]
    }

    /// Hash: a Welcome, and the joiners that have not applied it.
    pub(super) fn welcome(&self, group: &GroupId, commit: EntryId) -> Vec<u8> {
        self.key("welcome:", &[group.as_bytes(), commit.as_bytes()])
    }

    /// A device's inbox.
    pub(super) fn inbox(&self, device: &DeviceId) -> Vec<u8> {
        self.key("b:", &[device.as_uuid().as_bytes()])
    }

    /// Sorted set: notices of the last day by time.
    pub(super) fn notices(&self, device: &DeviceId) -> Vec<u8> {
        self.key("bd:", &[device.as_uuid().as_bytes()])
    }

    /// Sorted set: Welcomes of the last day by time.
    pub(super) fn welcomes(&self, device: &DeviceId) -> Vec<u8> {
        self.key("bw:", &[device.as_uuid().as_bytes()])
    }

    /// Hash: group -> position at which a device of the user joined last.
    pub(super) fn user_groups(&self, user: &UserId) -> Vec<u8> {
        self.key("u:", &[user.as_str().as_bytes()])
    }
}

/// The field of an idempotency key: each sender's own; the service's is the key alone.
pub(super) fn answer_field(key: &valise_proto::IdempotencyKey, sender: Option<DeviceId>) -> Vec<u8> {
    let mut field = key.to_vec();
    if let Some(sender) = sender {
        field.extend_from_slice(sender.as_uuid().as_bytes());
    }
    field
}
