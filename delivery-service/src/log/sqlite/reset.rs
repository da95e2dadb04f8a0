//! Groups that were ended, and go on as others.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use valise_proto::{DeviceId, GroupId};

use super::append::{Heads, put_into_inbox};
use super::read;
use crate::log::{News, Refused, Reset};

/// Ends a group, and tells its members' inboxes in the same step.
pub(super) fn reset(
    transaction: &Transaction<'_>,
    heads: &mut Heads,
    group: GroupId,
    successor: GroupId,
    at: u64,
    news: &mut Vec<News>,
) -> rusqlite::Result<Result<Reset, Refused>> {
    let Some(mut row) = heads.get(transaction, group)? else {
        return Ok(Err(Refused::GroupNotFound));
    };
    if row.head.frozen {
        return Ok(Err(Refused::Frozen));
    }
    let last = row.head.position;
    let done = |successor| {
        Ok(Reset {
            group,
            successor,
            last,
        })
    };
    if let Some(successor) = self::successor(transaction, group)? {
        return Ok(done(successor));
    }
    transaction.execute(
        "UPDATE groups SET successor = ?2 WHERE number = ?1",
        params![row.number, successor.as_bytes()],
    )?;
    row.head.reset = true;
    for device in members(transaction, row.number)? {
        let item = [Value::Null, Value::Null, Value::Null, Value::Integer(row.number)];
        put_into_inbox(transaction, device, at, item)?;
        news.push(News::Inbox(device));
    }
    heads.put(group, row);
    Ok(done(successor))
}

fn members(connection: &Connection, number: i64) -> rusqlite::Result<Vec<DeviceId>> {
    connection
        .prepare_cached("SELECT DISTINCT device FROM windows WHERE group_number = ?1 AND left_at IS NULL")?
        .query_map([number], |row| read::device_id(row, 0))?
        .filter_map(Result::transpose)
        .collect()
}

pub(super) fn successor(connection: &Connection, group: GroupId) -> rusqlite::Result<Option<GroupId>> {
    connection
        .prepare_cached("SELECT successor FROM groups WHERE group_id = ?1 AND successor IS NOT NULL")?
        .query_row([group.as_bytes()], |row| read::group_id(row, 0))
        .optional()
}

pub(super) fn predecessor(connection: &Connection, successor: GroupId) -> rusqlite::Result<Option<GroupId>> {
    connection
        .prepare_cached("SELECT group_id FROM groups WHERE successor = ?1")?
        .query_row([successor.as_bytes()], |row| read::group_id(row, 0))
        .optional()
}
