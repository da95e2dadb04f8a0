//! Partitions: the 1,024 hash tags under which everything is kept.

use crc16::{State, XMODEM};
use valise_proto::{DeviceId, GroupId, UserId};

/// Hash slots of a Redis Cluster.
const SLOTS: u16 = 16_384;

/// One of the 1,024 parts of the store. A group, an inbox or a user belongs to one for ever: neither the hash nor the
/// number of partitions may ever change.
///
/// All keys of a partition carry its tag, so they are in one hash slot, and one script can reach them all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Partition(u16);

impl Partition {
    /// How many there are.
    pub(crate) const COUNT: u16 = 1024;

    /// Where a group's log is.
    pub(crate) fn of_group(group: &GroupId) -> Self {
        Self::of(group.as_bytes())
    }

    /// Where a device's inbox is.
    pub(crate) fn of_device(device: &DeviceId) -> Self {
        Self::of(device.as_uuid().as_bytes())
    }

    /// Where a user's groups are listed.
    pub(crate) fn of_user(user: &UserId) -> Self {
        Self::of(user.as_str().as_bytes())
    }

    fn of(bytes: &[u8]) -> Self {
        Self(State::<XMODEM>::calculate(bytes) % Self::COUNT)
    }

    /// The one with that number, if there is one.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        (number < Self::COUNT).then_some(Self(number))
    }

    /// Its number: 0 to 1,023.
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> + Clone {
        (0..Self::COUNT).map(Self)
    }

    /// What its keys begin with: `{p0007}`.
    pub(crate) fn tag(self) -> String {
        format!("{{p{:04}}}", self.0)
    }

    /// The channel of its news: `{p0007}ch`.
    pub(crate) fn channel(self) -> String {
        format!("{{p{:04}}}ch", self.0)
    }

    /// Whose channel it is.
    pub(crate) fn of_channel(channel: &[u8]) -> Option<Self> {
        let number = channel.strip_prefix(b"{p")?.strip_suffix(b"}ch")?;
        if number.len() != 4 || !number.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Self::from_number(std::str::from_utf8(number).ok()?.parse().ok()?)
    }

    /// Its hash slot in a cluster.
    pub(crate) fn slot(self) -> u16 {
        State::<XMODEM>::calculate(format!("p{:04}", self.0).as_bytes()) % SLOTS
    }

    /// Its number as an index.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_never_changes() {
        let group = GroupId::from_bytes([7; 16]);
        assert_eq!(Partition::of_group(&group).number(), 677);
        let user: UserId = "alice@interieur.example".parse().unwrap();
        assert_eq!(Partition::of_user(&user).number(), 219);
        // As `CLUSTER KEYSLOT {p0007}heads` says.
        assert_eq!(Partition(7).slot(), 14_315);
    }

    #[test]
    fn tags_and_channels_name_their_partition() {
        assert_eq!(Partition(7).tag(), "{p0007}");
        for partition in Partition::all() {
            assert_eq!(
                Partition::of_channel(partition.channel().as_bytes()),
                Some(partition)
            );
        }
        for wrong in ["{p0007}heads", "{p1024}ch", "{p7}ch", "{p+007}ch", "ch", ""] {
            assert_eq!(Partition::of_channel(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn groups_spread_over_all_partitions() {
        let mut rng = rand::rng();
        let mut counts = vec![0_u32; usize::from(Partition::COUNT)];
        for _ in 0..20 * Partition::COUNT {
            counts[Partition::of_group(&GroupId::random(&mut rng)).index()] += 1;
        }
        assert!(counts.iter().all(|count| (1..60).contains(count)), "{counts:?}");
    }
}
