//! For the archiver: what changed, what is here, and what may go.

use bytes::Bytes;
use valise_proto::{DeviceId, EntryId, GroupId, Position, UserId};

use super::RedisLog;
use super::keys::Keys;
use super::partition::Partition;
use super::scripts::{FREEZE, RESTORE, TRIM, text, unknown};
use super::value::{damaged, list, number, number_or_zero, pairs, scores, tuple};
use super::wire::{
    HandOff, HeadRow, Reader, device_field, pack_group_info, pack_windows, read_windows, user_field,
};
use crate::log::{StoreError, Window};

/// Entries that one step of trimming takes, so that it stays short.
const TRIM_STEP: u64 = 64;

/// What [`RedisLog::restore`] puts back.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    /// Which group.
    pub(crate) group: GroupId,
    /// Its head, frozen or not.
    pub(crate) row: HeadRow,
    /// GroupInfo of the head's epoch.
    pub(crate) group_info: Bytes,
    /// Every device that ever was a member, with its windows, oldest first.
    pub(crate) windows: Vec<(UserId, DeviceId, Vec<Window>)>,
}

impl RedisLog {
    /// Groups of a partition that had an append after a sequence (exclusive), in the order of their last ones.
    pub(crate) async fn changed(
        &self,
        partition: Partition,
        after_sequence: u64,
        max: usize,
    ) -> Result<Vec<(GroupId, u64)>, StoreError> {
        let command = redis::cmd("ZRANGEBYSCORE")
            .arg(Keys::of(partition).changes())
            .arg(format!("({after_sequence}"))
            .arg("+inf")
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(0)
            .arg(max)
            .take();
        read_changes(self.store.ask(partition, command).await?)
    }

    /// The partition's sequence: how many changes it ever had.
    pub(crate) async fn sequence(&self, partition: Partition) -> Result<u64, StoreError> {
        let command = redis::cmd("HGET")
            .arg(Keys::of(partition).heads())
            .arg("seq")
            .take();
        number_or_zero(self.store.ask(partition, command).await?)
    }

    /// Deletes entries up to a position (inclusive), with their keys and index members. Heads, windows and GroupInfo stay. Where one of
    /// them, or the next one, is missing or cannot be read, the error is [`is_damaged`](super::is_damaged) and names it.
    pub(crate) async fn trim(&self, group: GroupId, up_to: Position) -> Result<(), StoreError> {
        self.trim_old(group, up_to, u64::MAX).await.map(drop)
    }

    /// The same of those alone that were accepted up to a time (inclusive), in milliseconds since 1970-01-01 UTC. Says which one is the oldest
    /// then, and when that was accepted, if any is left.
    pub(crate) async fn trim_old(
        &self,
        group: GroupId,
        up_to: Position,
        accepted_until: u64,
    ) -> Result<Option<(Position, u64)>, StoreError> {
        let partition = Partition::of_group(&group);
        let keys = Keys::of(partition);
        loop {
            let names = vec![
                keys.stream(&group),
                keys.answers(&group),
                keys.handshakes(&group),
                keys.commits(&group),
            ];
            let arguments = vec![text(up_to.0), text(TRIM_STEP), text(accepted_until)];
            let trimmed = self.store.run(partition, &TRIM, names, arguments).await?;
            let [gone, oldest, accepted_at] = tuple(list(trimmed)?)?;
            if number(gone)? < TRIM_STEP {
                let oldest = Position(number(oldest)?);
                return Ok((oldest > Position::NONE).then_some((oldest, number(accepted_at)?)));
            }
        }
    }

    /// Closes a group for writes, or opens it. False where it has no head: it is closed anyway.
    pub(crate) async fn set_frozen(&self, group: GroupId, frozen: bool) -> Result<bool, StoreError> {
        let partition = Partition::of_group(&group);
        let names = vec![Keys::of(partition).heads()];
        let arguments = vec![group.to_vec(), text(u64::from(frozen))];
        let found = self.store.run(partition, &FREEZE, names, arguments).await?;
        Ok(number(found)? == 1)
    }

    /// Every device that ever was a member of a group, with its user and its windows, oldest first.
    pub(crate) async fn all_windows(
        &self,
        group: GroupId,
    ) -> Result<Vec<(UserId, DeviceId, Vec<Window>)>, StoreError> {
        let partition = Partition::of_group(&group);
        let command = redis::cmd("HGETALL")
            .arg(Keys::of(partition).windows(&group))
            .take();
        let mut devices = Vec::new();
        for (field, packed) in pairs(self.store.ask(partition, command).await?)? {
            // The other fields count users.
            if field.first() == Some(&b'd') {
                let device = Reader(&field[1..]).device()?;
                devices.push((Reader(&packed).user()?, device, read_windows(&packed)?));
            }
        }
        Ok(devices)
    }

    /// Replaces all that is here of a group by what the archive knows, in one step. Entries are read from the archive afterwards: none stays
    /// here. Members' lists follow. False, and nothing is done, where the group's head is no longer `seen`: it was repaired meanwhile, and
    /// what was answered since must stay.
    pub(crate) async fn restore(
        &self,
        restored: Restored,
        seen: Option<&HeadRow>,
    ) -> Result<bool, StoreError> {
        let Restored {
            group,
            row,
            group_info,
            windows,
        } = restored;
        let partition = Partition::of_group(&group);
        let keys = Keys::of(partition);
        let mut names = keys.numbering();
        names.extend([keys.out(), keys.channel()]);
        names.extend(keys.group(&group));
        let is_open = |windows: &[Window]| windows.iter().filter(|window| window.until.is_none()).count();
        let members = windows.iter().filter(|(.., windows)| is_open(windows) > 0);
        let hand_off = HandOff {
            group,
            position: row.head.position,
            epoch: row.head.epoch,
            id: EntryId::from_bytes([0; 8]),
            accepted_at: row.accepted_at,
            welcome: false,
            joined: members.map(|(user, device, _)| (user.clone(), *device)).collect(),
        };
        let mut arguments = vec![
            group.to_vec(),
            row.pack(),
            pack_group_info(row.head.epoch, row.head.commit_position, &group_info),
            hand_off.pack(),
            seen.map(HeadRow::pack).unwrap_or_default(),
        ];
        let mut open = std::collections::BTreeMap::<UserId, usize>::new();
        for (user, device, windows) in windows {
            arguments.push(device_field(&device));
            arguments.push(pack_windows(&user, &windows));
            *open.entry(user).or_default() += is_open(&windows);
        }
        for (user, open) in open.into_iter().filter(|(_, open)| *open > 0) {
            arguments.push(user_field(&user));
            arguments.push(text(open as u64));
        }
        let refused = self
            .store
            .run(partition, &RESTORE, names, arguments)
            .await
            .map_err(unknown)?;
        self.relay.look_at_once(partition);
        Ok(number(refused)? == 0)
    }
}

/// Groups with sequences.
fn read_changes(value: redis::Value) -> Result<Vec<(GroupId, u64)>, StoreError> {
    scores(value)?
        .into_iter()
        .map(|(group, sequence)| {
            let group = GroupId::try_from(group.as_slice()).map_err(|_| damaged("group id"))?;
            Ok((group, sequence))
        })
        .collect()
}
