//! Everything that is read. A value that cannot be what was written is an error, never a guess.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId};

use crate::log::{
    Appended, Entry, EntryKind, Head, InboxContent, InboxItem, Membership, Reset, Snapshot, Standing, Window,
};

pub(super) fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::cast_unsigned)
}

pub(super) fn position(row: &Row<'_>, index: usize) -> rusqlite::Result<Position> {
    unsigned(row, index).map(Position)
}

fn damaged(index: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(index, "damaged".to_owned(), Type::Blob)
}

fn entry_id(row: &Row<'_>, index: usize) -> rusqlite::Result<EntryId> {
    row.get_ref(index)?
        .as_blob()
        .ok()
        .and_then(|bytes| EntryId::try_from(bytes).ok())
        .ok_or_else(|| damaged(index))
}

pub(super) fn group_id(row: &Row<'_>, index: usize) -> rusqlite::Result<GroupId> {
    row.get_ref(index)?
        .as_blob()
        .ok()
        .and_then(|bytes| GroupId::try_from(bytes).ok())
        .ok_or_else(|| damaged(index))
}

pub(super) fn device_id(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<DeviceId>> {
    let bytes: Option<[u8; 16]> = row.get(index)?;
    Ok(bytes.map(|bytes| DeviceId::from_uuid(uuid(bytes))))
}

fn uuid(bytes: [u8; 16]) -> valise_proto::Uuid {
    valise_proto::Uuid::from_bytes(bytes)
}

fn bytes(row: &Row<'_>, index: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(index).map(Bytes::from)
}

pub(super) fn head_row(
    connection: &Connection,
    group: GroupId,
) -> rusqlite::Result<Option<(i64, Head, u64)>> {
    connection
        .prepare_cached(
            "SELECT number, epoch, position, commit_position, proposal_position, origin, frozen, accepted_at,
                 successor IS NOT NULL FROM groups WHERE group_id = ?1",
        )?
        .query_row([group.as_bytes()], |row| {
            let head = Head {
                epoch: Epoch(unsigned(row, 1)?),
                position: position(row, 2)?,
                commit_position: position(row, 3)?,
                proposal_position: position(row, 4)?,
                origin: entry_id(row, 5)?,
                frozen: row.get(6)?,
                reset: row.get(8)?,
            };
            Ok((row.get(0)?, head, unsigned(row, 7)?))
        })
        .optional()
}

pub(super) fn head(connection: &Connection, group: GroupId) -> rusqlite::Result<Option<Head>> {
    Ok(head_row(connection, group)?.map(|(_, head, _)| head))
}

pub(super) fn repeat(
    connection: &Connection,
    group: GroupId,
    key: IdempotencyKey,
    sender: Option<DeviceId>,
) -> rusqlite::Result<Option<Appended>> {
    connection
        .prepare_cached(
            "SELECT position, entry_id, epoch, kind, accepted_at FROM entries
             WHERE group_number = (SELECT number FROM groups WHERE group_id = ?1) AND idempotency_key = ?2
                 AND sender IS ?3",
        )?
        .query_row(
            params![
                group.as_bytes(),
                key.as_bytes(),
                sender.map(|device| device.as_uuid().as_bytes().to_vec())
            ],
            |row| {
                let sent_in = Epoch(unsigned(row, 2)?);
                let epoch = if kind(row, 3)? == EntryKind::Commit {
                    sent_in.next()
                } else {
                    sent_in
                };
                Ok(Appended {
                    position: position(row, 0)?,
                    id: entry_id(row, 1)?,
                    epoch,
                    at: unsigned(row, 4)?,
                    repeated: true,
                })
            },
        )
        .optional()
}

/// The commit that ended an epoch.
pub(super) fn commit_of_epoch(
    connection: &Connection,
    group_number: i64,
    epoch: Epoch,
) -> rusqlite::Result<Option<Position>> {
    connection
        .prepare_cached(
            "SELECT position FROM entries INDEXED BY entries_handshakes
             WHERE group_number = ?1 AND kind < 3 AND kind = 1 AND epoch = ?2",
        )?
        .query_row(params![group_number, epoch.0.cast_signed()], |row| {
            position(row, 0)
        })
        .optional()
}

const ENTRY: &str = "SELECT position, kind, epoch, accepted_at, entry_id, sender, bytes FROM entries
    WHERE group_number = (SELECT number FROM groups WHERE group_id = ?1) AND position > ?2";

fn entry(group: GroupId, row: &Row<'_>) -> rusqlite::Result<Arc<Entry>> {
    Ok(Arc::new(Entry {
        group,
        position: position(row, 0)?,
        kind: kind(row, 1)?,
        epoch: Epoch(unsigned(row, 2)?),
        accepted_at: unsigned(row, 3)?,
        id: entry_id(row, 4)?,
        sender: device_id(row, 5)?,
        bytes: bytes(row, 6)?,
    }))
}

fn kind(row: &Row<'_>, index: usize) -> rusqlite::Result<EntryKind> {
    match row.get::<_, i64>(index)? {
        1 => Ok(EntryKind::Commit),
        2 => Ok(EntryKind::Proposal),
        3 => Ok(EntryKind::Application),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(index, other)),
    }
}

pub(super) fn entries(
    connection: &Connection,
    group: GroupId,
    after: Position,
    max_entries: usize,
    max_bytes: usize,
) -> rusqlite::Result<Vec<Arc<Entry>>> {
    let mut statement = connection.prepare_cached(&format!("{ENTRY} ORDER BY position LIMIT ?3"))?;
    let mut rows = statement.query(params![
        group.as_bytes(),
        after.0.cast_signed(),
        max_entries as i64
    ])?;
    let mut entries = Vec::new();
    let mut size = 0;
    while let Some(row) = rows.next()? {
        let entry = entry(group, row)?;
        size += entry.bytes.len();
        if size > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

pub(super) fn standing(
    connection: &Connection,
    group: GroupId,
    device: DeviceId,
    position: Position,
) -> rusqlite::Result<Standing> {
    let head = head(connection, group)?;
    let windows = windows(connection, group, device)?;
    let mut id = None;
    if position > Position::NONE {
        let entries = entries(connection, group, Position(position.0 - 1), 1, 0)?;
        let entry = entries.first().filter(|entry| entry.position == position);
        id = entry.map(|entry| entry.id);
    }
    Ok(Standing { head, windows, id })
}

pub(super) fn handshakes(
    connection: &Connection,
    group: GroupId,
    after: Position,
    max_entries: usize,
) -> rusqlite::Result<Vec<Arc<Entry>>> {
    connection
        .prepare_cached(&format!("{ENTRY} AND kind < 3 ORDER BY position LIMIT ?3"))?
        .query_map(
            params![group.as_bytes(), after.0.cast_signed(), max_entries as i64],
            |row| entry(group, row),
        )?
        .collect()
}

pub(super) fn group_info(
    connection: &Connection,
    group: GroupId,
) -> rusqlite::Result<Option<(Bytes, Epoch, Position)>> {
    connection
        .prepare_cached(
            "SELECT group_info, epoch, commit_position FROM group_infos
             WHERE group_number = (SELECT number FROM groups WHERE group_id = ?1)",
        )?
        .query_row([group.as_bytes()], |row| {
            Ok((bytes(row, 0)?, Epoch(unsigned(row, 1)?), position(row, 2)?))
        })
        .optional()
}

pub(super) fn windows(
    connection: &Connection,
    group: GroupId,
    device: DeviceId,
) -> rusqlite::Result<Vec<Window>> {
    connection
        .prepare_cached(
            "SELECT joined_at, left_at FROM windows
             WHERE group_number = (SELECT number FROM groups WHERE group_id = ?1) AND device = ?2
             ORDER BY joined_at",
        )?
        .query_map(params![group.as_bytes(), device.as_uuid().as_bytes()], |row| {
            let until = row
                .get::<_, Option<i64>>(1)?
                .map(|until| Position(until.cast_unsigned()));
            Ok(Window {
                after: position(row, 0)?,
                until,
            })
        })?
        .collect()
}

pub(super) fn memberships(
    connection: &Connection,
    user: &UserId,
    device: DeviceId,
    after: Option<GroupId>,
    max: usize,
) -> rusqlite::Result<Vec<Membership>> {
    connection
        .prepare_cached(
            "SELECT g.group_id, g.epoch, max(w.device = ?2) FROM windows w JOIN groups g ON g.number = w.group_number
             WHERE w.user_id = ?1 AND w.left_at IS NULL AND g.group_id > ?3 AND g.successor IS NULL
             GROUP BY g.group_id, g.epoch ORDER BY g.group_id LIMIT ?4",
        )?
        .query_map(
            params![
                user.as_str(),
                device.as_uuid().as_bytes(),
                after.map(|group| group.to_vec()).unwrap_or_default(),
                max as i64
            ],
            |row| {
                Ok(Membership {
                    group: group_id(row, 0)?,
                    epoch: Epoch(unsigned(row, 1)?),
                    device_is_member: row.get(2)?,
                })
            },
        )?
        .collect()
}

pub(super) fn inbox(
    connection: &Connection,
    device: DeviceId,
    after: u64,
    max: usize,
) -> rusqlite::Result<Vec<InboxItem>> {
    connection
        .prepare_cached(
            "SELECT i.number, i.accepted_at, i.cipher_suite, i.one_time,
                    w.welcome, w.group_id, w.epoch, w.position, w.entry_id, g.group_id, g.successor, g.position
             FROM inbox_items i LEFT JOIN welcomes w ON w.number = i.welcome_number
                 LEFT JOIN groups g ON g.number = i.reset_group
             WHERE i.device = ?1 AND i.number > ?2 ORDER BY i.number LIMIT ?3",
        )?
        .query_map(
            params![device.as_uuid().as_bytes(), after.cast_signed(), max as i64],
            |row| {
                let content = match row.get::<_, Option<u32>>(2)? {
                    Some(cipher_suite) => InboxContent::LowStock {
                        cipher_suite,
                        one_time: row.get(3)?,
                    },
                    None if row.get::<_, Option<Vec<u8>>>(9)?.is_some() => InboxContent::GroupReset(Reset {
                        group: group_id(row, 9)?,
                        successor: group_id(row, 10)?,
                        last: position(row, 11)?,
                    }),
                    None => InboxContent::Welcome {
                        welcome: bytes(row, 4)?,
                        group: group_id(row, 5)?,
                        epoch: Epoch(unsigned(row, 6)?),
                        commit: (position(row, 7)?, entry_id(row, 8)?),
                    },
                };
                Ok(InboxItem {
                    number: unsigned(row, 0)?,
                    accepted_at: unsigned(row, 1)?,
                    content,
                })
            },
        )?
        .collect()
}

pub(super) fn newest_inbox(connection: &Connection, device: DeviceId) -> rusqlite::Result<u64> {
    let newest = connection
        .prepare_cached("SELECT newest FROM inbox_heads WHERE device = ?1")?
        .query_row([device.as_uuid().as_bytes()], |row| unsigned(row, 0))
        .optional()?;
    Ok(newest.unwrap_or(0))
}

pub(super) fn snapshots(
    connection: &Connection,
    group: GroupId,
    origin: EntryId,
    up_to: Epoch,
    max: usize,
) -> rusqlite::Result<Vec<Snapshot>> {
    connection
        .prepare_cached(
            "SELECT epoch, position, anchor, state FROM snapshots
             WHERE group_id = ?1 AND epoch <= ?2 AND (epoch > 0 OR anchor = ?3) ORDER BY epoch DESC LIMIT ?4",
        )?
        .query_map(
            params![
                group.as_bytes(),
                up_to.0.cast_signed(),
                origin.as_bytes(),
                max as i64
            ],
            |row| {
                Ok(Snapshot {
                    epoch: Epoch(unsigned(row, 0)?),
                    position: position(row, 1)?,
                    anchor: entry_id(row, 2)?,
                    state: bytes(row, 3)?,
                })
            },
        )?
        .collect()
}
