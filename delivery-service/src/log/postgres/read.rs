//! Reading archived logs. What retention has deleted is not there: reading begins with the first entry that is kept.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{Row, query};
use valise_proto::{DeviceId, Epoch, GroupId, IdempotencyKey, Position, UserId};

use super::{
    PostgresArchive, bytes, damaged, device_id, entry_id, group_id, position, unsigned, user_id, within,
};
use crate::log::{Appended, Entry, EntryKind, StoreError, Window};

const ENTRY: &str = "SELECT e.position, e.kind, e.epoch, e.accepted_at, e.entry_id, e.sender, e.bytes
     FROM groups g JOIN entries e ON e.group_number = g.number";

/// What befell a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mark {
    /// Its log in Redis is known to be another one than was archived.
    pub(crate) regressed: bool,
    /// How often it was repaired.
    pub(crate) repairs: u32,
}

impl PostgresArchive {
    /// The groups that anything befell.
    pub(crate) async fn marks(&self) -> Result<Vec<(GroupId, Mark)>, StoreError> {
        within(async {
            query(
                "SELECT group_id, regressed_at IS NOT NULL, repairs FROM groups
                 WHERE regressed_at IS NOT NULL OR repairs > 0",
            )
            .try_map(|row: PgRow| {
                let mark = Mark {
                    regressed: row.try_get(1)?,
                    repairs: row.try_get::<i32, _>(2)?.cast_unsigned(),
                };
                Ok((group_id(&row, 0)?, mark))
            })
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// As [`read`](crate::log::OrderedLog::read), as far as it is archived; begins with the first entry that is kept.
    pub(crate) async fn read(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        within(async {
            let statement = format!(
                "{ENTRY} WHERE g.group_id = $1 AND e.position > greatest($2, g.deleted)
                 ORDER BY e.position LIMIT $3"
            );
            let mut rows = query(sqlx::AssertSqlSafe(statement))
                .bind(group.as_bytes().as_slice())
                .bind(after.0.cast_signed())
                .bind(i64::try_from(max_entries).unwrap_or(i64::MAX))
                .fetch(&self.pool);
            let mut entries = Vec::new();
            let mut size = 0;
            while let Some(row) = rows.try_next().await? {
                let entry = entry(group, &row)?;
                size += entry.bytes.len();
                if size > max_bytes && !entries.is_empty() {
                    break;
                }
                entries.push(entry);
            }
            Ok(entries)
        })
        .await
    }

    /// As [`handshakes`](crate::log::OrderedLog::handshakes), as far as it is archived.
    pub(crate) async fn handshakes(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        within(async {
            let statement = format!(
                "{ENTRY} WHERE g.group_id = $1 AND e.position > $2 AND e.kind < 3
                 ORDER BY e.position LIMIT $3"
            );
            query(sqlx::AssertSqlSafe(statement))
                .bind(group.as_bytes().as_slice())
                .bind(after.0.cast_signed())
                .bind(i64::try_from(max_entries).unwrap_or(i64::MAX))
                .try_map(|row| entry(group, &row))
                .fetch_all(&self.pool)
                .await
        })
        .await
    }

    /// The answer that an append with that key by that sender got, if the entry is archived and still kept.
    pub(crate) async fn repeat(
        &self,
        group: GroupId,
        key: IdempotencyKey,
        sender: Option<DeviceId>,
    ) -> Result<Option<Appended>, StoreError> {
        within(async {
            query(
                "SELECT e.position, e.entry_id, e.epoch, e.kind, e.accepted_at
                 FROM groups g JOIN entries e ON e.group_number = g.number
                 WHERE g.group_id = $1 AND e.idempotency_key = $2 AND e.sender = $3",
            )
            .bind(group.as_bytes().as_slice())
            .bind(key.as_bytes().as_slice())
            .bind(sender_bytes(sender.as_ref()))
            .try_map(|row| {
                let sent_in = Epoch(unsigned(&row, 2)?);
                let commit = kind(&row, 3)? == EntryKind::Commit;
                Ok(Appended {
                    position: position(&row, 0)?,
                    id: entry_id(&row, 1)?,
                    epoch: if commit { sent_in.next() } else { sent_in },
                    at: unsigned(&row, 4)?,
                    repeated: true,
                })
            })
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// The commit that ended an epoch, if it is archived and still kept.
    pub(crate) async fn winner(&self, group: GroupId, epoch: Epoch) -> Result<Option<Position>, StoreError> {
        within(async {
            query(
                "SELECT e.position FROM groups g JOIN entries e ON e.group_number = g.number
                 WHERE g.group_id = $1 AND e.kind = 1 AND e.epoch = $2",
            )
            .bind(group.as_bytes().as_slice())
            .bind(epoch.0.cast_signed())
            .try_map(|row| position(&row, 0))
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// What a device may read, as of the newest archived entry.
    pub(crate) async fn windows(&self, group: GroupId, device: DeviceId) -> Result<Vec<Window>, StoreError> {
        within(async {
            query(
                "SELECT w.joined_at, w.left_at FROM groups g JOIN windows w ON w.group_number = g.number
                 WHERE g.group_id = $1 AND w.device = $2 ORDER BY w.joined_at",
            )
            .bind(group.as_bytes().as_slice())
            .bind(device.as_uuid().as_bytes().as_slice())
            .try_map(|row| window(&row, 0))
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// The GroupInfo of the epoch that the newest archived commit began, that epoch, and the commit.
    pub(crate) async fn group_info(
        &self,
        group: GroupId,
    ) -> Result<Option<(Bytes, Epoch, Position)>, StoreError> {
        within(async {
            query(
                "SELECT i.group_info, i.epoch, i.commit_position
                 FROM groups g JOIN group_infos i ON i.group_number = g.number WHERE g.group_id = $1",
            )
            .bind(group.as_bytes().as_slice())
            .try_map(|row| Ok((bytes(&row, 0)?, Epoch(unsigned(&row, 1)?), position(&row, 2)?)))
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// All reading windows of a group, as of the newest archived entry.
    pub(crate) async fn all_windows(
        &self,
        group: GroupId,
    ) -> Result<Vec<(UserId, DeviceId, Window)>, StoreError> {
        within(async {
            query(
                "SELECT w.joined_at, w.left_at, w.user_id, w.device
                 FROM groups g JOIN windows w ON w.group_number = g.number
                 WHERE g.group_id = $1 ORDER BY w.joined_at, w.device",
            )
            .bind(group.as_bytes().as_slice())
            .try_map(|row| Ok((user_id(&row, 2)?, device_id(&row, 3)?, window(&row, 0)?)))
            .fetch_all(&self.pool)
            .await
        })
        .await
    }
}

/// Empty for the service itself.
pub(super) fn sender_bytes(sender: Option<&DeviceId>) -> &[u8] {
    sender.map_or(&[], |device| device.as_uuid().as_bytes())
}

pub(super) fn kind_code(kind: EntryKind) -> i16 {
    match kind {
        EntryKind::Commit => 1,
        EntryKind::Proposal => 2,
        EntryKind::Application => 3,
    }
}

pub(super) fn kind(row: &PgRow, index: usize) -> sqlx::Result<EntryKind> {
    match row.try_get::<i16, _>(index)? {
        1 => Ok(EntryKind::Commit),
        2 => Ok(EntryKind::Proposal),
        3 => Ok(EntryKind::Application),
        _ => Err(damaged("kind")),
    }
}

fn entry(group: GroupId, row: &PgRow) -> sqlx::Result<Arc<Entry>> {
    let sender = match row.try_get::<&[u8], _>(5)? {
        [] => None,
        _ => Some(device_id(row, 5)?),
    };
    Ok(Arc::new(Entry {
        group,
        position: position(row, 0)?,
        kind: kind(row, 1)?,
        epoch: Epoch(unsigned(row, 2)?),
        accepted_at: unsigned(row, 3)?,
        id: entry_id(row, 4)?,
        sender,
        bytes: bytes(row, 6)?,
    }))
}

fn window(row: &PgRow, index: usize) -> sqlx::Result<Window> {
    let until = row.try_get::<Option<i64>, _>(index + 1)?;
    Ok(Window {
        after: position(row, index)?,
        until: until.map(|until| Position(until.cast_unsigned())),
    })
}
