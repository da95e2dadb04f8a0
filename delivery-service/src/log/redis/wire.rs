//! Packed forms: what is in the store and on the channels. Numbers are big-endian. The scripts read and write the same.

use bytes::Bytes;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId, Uuid};

use super::value::damaged;
use crate::log::{Entry, EntryKind, Head, Reset, StoreError, Window};

/// Reads from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, size: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or_else(|| damaged("length"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.take(N)?.try_into().map_err(|_| damaged("length"))
    }

    pub(super) fn byte(&mut self) -> Result<u8, StoreError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn short(&mut self) -> Result<u16, StoreError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn word(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn position(&mut self) -> Result<Position, StoreError> {
        self.long().map(Position)
    }

    pub(super) fn epoch(&mut self) -> Result<Epoch, StoreError> {
        self.long().map(Epoch)
    }

    pub(super) fn entry_id(&mut self) -> Result<EntryId, StoreError> {
        self.array().map(EntryId::from_bytes)
    }

    pub(super) fn group(&mut self) -> Result<GroupId, StoreError> {
        self.array().map(GroupId::from_bytes)
    }

    pub(super) fn device(&mut self) -> Result<DeviceId, StoreError> {
        self.array()
            .map(|bytes| DeviceId::from_uuid(Uuid::from_bytes(bytes)))
    }

    pub(super) fn user(&mut self) -> Result<UserId, StoreError> {
        let size = self.short()?;
        std::str::from_utf8(self.take(usize::from(size))?)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| damaged("user"))
    }
}

fn put_user(packed: &mut Vec<u8>, user: &UserId) {
    let name = user.as_str().as_bytes();
    // A user id has at most 318 bytes.
    packed.extend_from_slice(&(name.len() as u16).to_be_bytes());
    packed.extend_from_slice(name);
}

pub(super) fn kind_code(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Commit => 1,
        EntryKind::Proposal => 2,
        EntryKind::Application => 3,
    }
}

fn kind(code: u8) -> Result<EntryKind, StoreError> {
    match code {
        1 => Ok(EntryKind::Commit),
        2 => Ok(EntryKind::Proposal),
        3 => Ok(EntryKind::Application),
        _ => Err(damaged("kind")),
    }
}

/// Flags of a head.
const FROZEN: u8 = 1;
const RESET: u8 = 2;

/// A group's head as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HeadRow {
    /// What callers see of it.
    pub(crate) head: Head,
    /// When its newest entry was accepted, in milliseconds since 1970-01-01 UTC.
    pub(crate) accepted_at: u64,
    /// The key of the group's creation.
    pub(crate) key: IdempotencyKey,
}

impl HeadRow {
    pub(super) fn read(packed: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(packed);
        let flags = reader.byte()?;
        let (epoch, position) = (reader.epoch()?, reader.position()?);
        let (commit_position, proposal_position) = (reader.position()?, reader.position()?);
        let accepted_at = reader.long()?;
        let head = Head {
            epoch,
            position,
            commit_position,
            proposal_position,
            origin: reader.entry_id()?,
            frozen: flags & FROZEN != 0,
            reset: flags & RESET != 0,
        };
        let key = IdempotencyKey::from_bytes(reader.array()?);
        Ok(Self {
            head,
            accepted_at,
            key,
        })
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let head = &self.head;
        let mut packed = vec![u8::from(head.frozen) * FROZEN + u8::from(head.reset) * RESET];
        for number in [
            head.epoch.0,
            head.position.0,
            head.commit_position.0,
            head.proposal_position.0,
            self.accepted_at,
        ] {
            packed.extend_from_slice(&number.to_be_bytes());
        }
        packed.extend_from_slice(head.origin.as_bytes());
        packed.extend_from_slice(self.key.as_bytes());
        packed
    }
}

/// What a stream says of an entry, besides its position and bytes.
pub(super) struct EntryMeta {
    pub(super) kind: EntryKind,
    pub(super) epoch: Epoch,
    pub(super) accepted_at: u64,
    pub(super) id: EntryId,
    pub(super) key: IdempotencyKey,
    pub(super) sender: Option<DeviceId>,
}

impl EntryMeta {
    pub(super) fn read(packed: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(packed);
        Ok(Self {
            kind: kind(reader.byte()?)?,
            epoch: reader.epoch()?,
            accepted_at: reader.long()?,
            id: reader.entry_id()?,
            key: IdempotencyKey::from_bytes(reader.array()?),
            sender: if reader.is_empty() {
                None
            } else {
                Some(reader.device()?)
            },
        })
    }

    pub(super) fn entry(&self, group: GroupId, position: Position, bytes: Bytes) -> Entry {
        Entry {
            group,
            position,
            kind: self.kind,
            epoch: self.epoch,
            accepted_at: self.accepted_at,
            id: self.id,
            sender: self.sender,
            bytes,
        }
    }

    /// The group's epoch after it.
    pub(super) fn epoch_after(&self) -> Epoch {
        if self.kind == EntryKind::Commit {
            self.epoch.next()
        } else {
            self.epoch
        }
    }
}

/// Devices with their users, one after the other.
pub(super) fn pack_joined<'a>(joined: impl IntoIterator<Item = &'a (UserId, DeviceId)>) -> Vec<u8> {
    let mut packed = Vec::new();
    for (user, device) in joined {
        packed.extend_from_slice(device.as_uuid().as_bytes());
        put_user(&mut packed, user);
    }
    packed
}

/// GroupInfo, with its epoch and the commit that began it.
pub(super) fn pack_group_info(epoch: Epoch, commit: Position, group_info: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(16 + group_info.len());
    packed.extend_from_slice(&epoch.0.to_be_bytes());
    packed.extend_from_slice(&commit.0.to_be_bytes());
    packed.extend_from_slice(group_info);
    packed
}

pub(super) fn read_group_info(packed: Vec<u8>) -> Result<(Bytes, Epoch, Position), StoreError> {
    let mut reader = Reader(&packed);
    let (epoch, commit) = (reader.epoch()?, reader.position()?);
    Ok((Bytes::from(packed).slice(16..), epoch, commit))
}

/// The field of a device among a group's windows.
pub(super) fn device_field(device: &DeviceId) -> Vec<u8> {
    let mut field = vec![b'd'];
    field.extend_from_slice(device.as_uuid().as_bytes());
    field
}

/// The field of a user's open windows.
pub(super) fn user_field(user: &UserId) -> Vec<u8> {
    format!("u{}", user.as_str()).into_bytes()
}

/// A device's windows, with its user.
pub(super) fn pack_windows(user: &UserId, windows: &[Window]) -> Vec<u8> {
    let mut packed = Vec::new();
    put_user(&mut packed, user);
    for window in windows {
        packed.extend_from_slice(&window.after.0.to_be_bytes());
        let until = window.until.unwrap_or(Position::NONE);
        packed.extend_from_slice(&until.0.to_be_bytes());
    }
    packed
}

pub(super) fn read_windows(packed: &[u8]) -> Result<Vec<Window>, StoreError> {
    let mut reader = Reader(packed);
    reader.user()?;
    let mut windows = Vec::new();
    while !reader.is_empty() {
        let after = reader.position()?;
        let until = reader.position()?;
        windows.push(Window {
            after,
            until: (until > Position::NONE).then_some(until),
        });
    }
    Ok(windows)
}

/// What a partition hands over to others: joiners get the Welcome and the group on their user's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HandOff {
    pub(super) group: GroupId,
    /// The commit, or [`Position::NONE`] for a creation.
    pub(super) position: Position,
    pub(super) epoch: Epoch,
    pub(super) id: EntryId,
    pub(super) accepted_at: u64,
    pub(super) welcome: bool,
    pub(super) joined: Vec<(UserId, DeviceId)>,
}

impl HandOff {
    pub(super) fn read(packed: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(packed);
        if reader.byte()? != 1 {
            return Err(damaged("hand-off"));
        }
        let mut hand_off = Self {
            group: reader.group()?,
            position: reader.position()?,
            epoch: reader.epoch()?,
            id: reader.entry_id()?,
            accepted_at: reader.long()?,
            welcome: reader.byte()? != 0,
            joined: Vec::new(),
        };
        while !reader.is_empty() {
            let device = reader.device()?;
            hand_off.joined.push((reader.user()?, device));
        }
        Ok(hand_off)
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packed = vec![1];
        packed.extend_from_slice(self.group.as_bytes());
        packed.extend_from_slice(&self.position.0.to_be_bytes());
        packed.extend_from_slice(&self.epoch.0.to_be_bytes());
        packed.extend_from_slice(self.id.as_bytes());
        packed.extend_from_slice(&self.accepted_at.to_be_bytes());
        packed.push(u8::from(self.welcome));
        packed.extend_from_slice(&pack_joined(&self.joined));
        packed
    }
}

/// A reset, and the member devices that are to hear of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ResetNotice {
    pub(super) reset: Reset,
    pub(super) at: u64,
    pub(super) devices: Vec<DeviceId>,
}

/// What waits in a partition to be handed over to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Joined(HandOff),
    Reset(ResetNotice),
}

impl Record {
    pub(super) fn read(packed: &[u8]) -> Result<Self, StoreError> {
        match packed.split_first() {
            Some((2, rest)) => ResetNotice::read(rest).map(Self::Reset),
            _ => HandOff::read(packed).map(Self::Joined),
        }
    }

    pub(super) fn group(&self) -> GroupId {
        match self {
            Self::Joined(hand_off) => hand_off.group,
            Self::Reset(notice) => notice.reset.group,
        }
    }
}

impl ResetNotice {
    /// Without the first byte, which says what it is. The script writes it.
    fn read(packed: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(packed);
        let reset = Reset {
            group: reader.group()?,
            successor: reader.group()?,
            last: reader.position()?,
        };
        let at = reader.long()?;
        let mut devices = Vec::new();
        while !reader.is_empty() {
            devices.push(reader.device()?);
        }
        Ok(Self { reset, at, devices })
    }
}

/// An inbox item as it is kept: a Welcome is fetched from where its group is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum InboxRow {
    Welcome {
        group: GroupId,
        epoch: Epoch,
        commit: (Position, EntryId),
    },
    LowStock {
        cipher_suite: u32,
        one_time: u32,
    },
    GroupReset(Reset),
}

impl InboxRow {
    pub(super) fn pack(&self, accepted_at: u64) -> Vec<u8> {
        let mut packed = Vec::with_capacity(56);
        match self {
            Self::Welcome { group, epoch, commit } => {
                packed.push(1);
                packed.extend_from_slice(&accepted_at.to_be_bytes());
                packed.extend_from_slice(group.as_bytes());
                packed.extend_from_slice(&epoch.0.to_be_bytes());
                packed.extend_from_slice(&commit.0.0.to_be_bytes());
                packed.extend_from_slice(commit.1.as_bytes());
            }
            Self::LowStock {
                cipher_suite,
                one_time,
            } => {
                packed.push(2);
                packed.extend_from_slice(&accepted_at.to_be_bytes());
                packed.extend_from_slice(&cipher_suite.to_be_bytes());
                packed.extend_from_slice(&one_time.to_be_bytes());
            }
            Self::GroupReset(reset) => {
                packed.push(3);
                packed.extend_from_slice(&accepted_at.to_be_bytes());
                packed.extend_from_slice(reset.group.as_bytes());
                packed.extend_from_slice(reset.successor.as_bytes());
                packed.extend_from_slice(&reset.last.0.to_be_bytes());
            }
        }
        packed
    }

    /// With the time of its acceptance.
    pub(super) fn read(packed: &[u8]) -> Result<(Self, u64), StoreError> {
        let mut reader = Reader(packed);
        let kind = reader.byte()?;
        let accepted_at = reader.long()?;
        let row = match kind {
            1 => Self::Welcome {
                group: reader.group()?,
                epoch: reader.epoch()?,
                commit: (reader.position()?, reader.entry_id()?),
            },
            2 => Self::LowStock {
                cipher_suite: reader.word()?,
                one_time: reader.word()?,
            },
            3 => Self::GroupReset(Reset {
                group: reader.group()?,
                successor: reader.group()?,
                last: reader.position()?,
            }),
            _ => return Err(damaged("inbox item")),
        };
        Ok((row, accepted_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(byte: u8) -> DeviceId {
        DeviceId::from_uuid(Uuid::from_bytes([byte; 16]))
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    #[test]
    fn stored_forms_stay_what_they_are() {
        let row = HeadRow {
            head: Head {
                epoch: Epoch(3),
                position: Position(300),
                commit_position: Position(299),
                proposal_position: Position(300),
                origin: EntryId::from_bytes([0xaa; 8]),
                frozen: true,
                reset: false,
            },
            accepted_at: 1000,
            key: IdempotencyKey::from_bytes([0xbb; 16]),
        };
        let packed = row.pack();
        assert_eq!(
            hex(&packed),
            "010000000000000003000000000000012c000000000000012b000000000000012c00000000000003e8\
             aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
        );
        assert_eq!(HeadRow::read(&packed).unwrap(), row);
        let reset = HeadRow {
            head: Head {
                frozen: false,
                reset: true,
                ..row.head
            },
            ..row
        };
        assert_eq!(reset.pack(), [&[2], &packed[1..]].concat());
        assert_eq!(HeadRow::read(&reset.pack()).unwrap(), reset);

        let user: UserId = "bob@b.example".parse().unwrap();
        let windows = [
            Window {
                after: Position(1),
                until: Some(Position(2)),
            },
            Window {
                after: Position(3),
                until: None,
            },
        ];
        let packed = pack_windows(&user, &windows);
        assert_eq!(
            hex(&packed),
            "000d626f6240622e6578616d706c650000000000000001000000000000000200000000000000030000000000000000"
        );
        assert_eq!(read_windows(&packed).unwrap(), windows);

        let hand_off = HandOff {
            group: GroupId::from_bytes([0xcc; 16]),
            position: Position(9),
            epoch: Epoch(2),
            id: EntryId::from_bytes([0xdd; 8]),
            accepted_at: 7,
            welcome: true,
            joined: vec![(user, device(0xee))],
        };
        let packed = hand_off.pack();
        assert_eq!(
            hex(&packed),
            "01cccccccccccccccccccccccccccccccc00000000000000090000000000000002dddddddddddddddd000000000000000701\
             eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee000d626f6240622e6578616d706c65"
        );
        assert_eq!(HandOff::read(&packed).unwrap(), hand_off);
    }

    #[test]
    fn inbox_items_stay_what_they_are() {
        let welcome = InboxRow::Welcome {
            group: GroupId::from_bytes([0xcc; 16]),
            epoch: Epoch(2),
            commit: (Position(9), EntryId::from_bytes([0xdd; 8])),
        };
        let packed = welcome.pack(5);
        assert_eq!(
            hex(&packed),
            "010000000000000005cccccccccccccccccccccccccccccccc00000000000000020000000000000009dddddddddddddddd"
        );
        assert_eq!(InboxRow::read(&packed).unwrap(), (welcome, 5));
        let low = InboxRow::LowStock {
            cipher_suite: 1,
            one_time: 3,
        };
        let packed = low.pack(6);
        assert_eq!(hex(&packed), "0200000000000000060000000100000003");
        assert_eq!(InboxRow::read(&packed).unwrap(), (low, 6));
        let reset = Reset {
            group: GroupId::from_bytes([0xcc; 16]),
            successor: GroupId::from_bytes([0xab; 16]),
            last: Position(9),
        };
        let packed = InboxRow::GroupReset(reset).pack(7);
        assert_eq!(
            hex(&packed),
            "030000000000000007ccccccccccccccccccccccccccccccccabababababababababababababababab0000000000000009"
        );
        assert_eq!(InboxRow::read(&packed).unwrap(), (InboxRow::GroupReset(reset), 7));
    }

    #[test]
    fn damaged_forms_are_errors() {
        for packed in [&[][..], &[9; 3], &[9; 200]] {
            assert!(HandOff::read(packed).is_err() && InboxRow::read(packed).is_err());
            assert!(Record::read(packed).is_err() && ResetNotice::read(packed).is_err());
            assert!(EntryMeta::read(packed).is_err() && read_windows(packed).is_err());
        }
        assert!(HeadRow::read(&[0; 64]).is_err());
    }
}
