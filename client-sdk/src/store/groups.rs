//! The groups of the device.

use rusqlite::{OptionalExtension, Row, params};
use valise_proto::{DeviceId, Epoch, GroupId, Position};

use super::Database;
use crate::{Error, GroupStatus};

/// A group's row.
#[derive(Clone, Debug)]
pub(crate) struct GroupRow {
    pub(crate) id: GroupId,
    pub(crate) status: GroupStatus,
    pub(crate) name: String,
    /// MLS cipher suite.
    pub(crate) suite: u16,
    /// The last entry applied.
    pub(crate) position: Position,
    /// Its id; empty before the first.
    pub(crate) entry_id: Vec<u8>,
}

const COLUMNS: &str = "group_id, status, name, suite, position, entry_id";

fn read(row: &Row<'_>) -> rusqlite::Result<GroupRow> {
    let broken =
        |column| rusqlite::Error::InvalidColumnType(column, String::new(), rusqlite::types::Type::Null);
    let id: Vec<u8> = row.get(0)?;
    let status: String = row.get(1)?;
    Ok(GroupRow {
        id: GroupId::try_from(id.as_slice()).map_err(|_| broken(0))?,
        status: GroupStatus::from_text(&status).ok_or_else(|| broken(1))?,
        name: row.get(2)?,
        suite: row.get(3)?,
        position: Position(row.get::<_, i64>(4)?.cast_unsigned()),
        entry_id: row.get(5)?,
    })
}

impl Database {
    pub(crate) fn group(&self, id: GroupId) -> Result<Option<GroupRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM groups WHERE group_id = ?1"))?;
        Ok(statement.query_row([id.as_bytes().as_slice()], read).optional()?)
    }

    /// All, oldest first.
    pub(crate) fn groups(&self) -> Result<Vec<GroupRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM groups ORDER BY number"))?;
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// All, that with the newest applied entry first; of those without one the newest.
    pub(crate) fn groups_by_activity(&self) -> Result<Vec<GroupRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM groups ORDER BY accepted_at DESC, number DESC"
        ))?;
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// A new group; a removed one of the same id makes way for it.
    pub(crate) fn put_group(&self, group: &GroupRow) -> Result<(), Error> {
        self.connection.execute(
            "INSERT OR REPLACE INTO groups (group_id, status, name, suite, position, entry_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                group.id.as_bytes().as_slice(),
                group.status.as_str(),
                group.name,
                group.suite,
                group.position.0.cast_signed(),
                group.entry_id,
            ],
        )?;
        Ok(())
    }

    pub(crate) fn delete_group(&self, id: GroupId) -> Result<(), Error> {
        self.connection.execute(
            "DELETE FROM groups WHERE group_id = ?1",
            [id.as_bytes().as_slice()],
        )?;
        Ok(())
    }

    pub(crate) fn put_status(&self, id: GroupId, status: GroupStatus) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET status = ?2 WHERE group_id = ?1",
            params![id.as_bytes().as_slice(), status.as_str()],
        )?;
        Ok(())
    }

    /// The group stands still, until its log is as it was.
    pub(crate) fn put_regressed(&self, id: GroupId, before: GroupStatus) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET status = ?2, status_before = ?3 WHERE group_id = ?1",
            params![
                id.as_bytes().as_slice(),
                GroupStatus::LogRegressed.as_str(),
                before.as_str()
            ],
        )?;
        Ok(())
    }

    /// What the group is again, should it go on; `None`: active.
    pub(crate) fn put_status_before(&self, id: GroupId, before: Option<GroupStatus>) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET status_before = ?2 WHERE group_id = ?1",
            params![id.as_bytes().as_slice(), before.map(GroupStatus::as_str)],
        )?;
        Ok(())
    }

    /// This device has left, or was removed; that was the last epoch of which it had the keys.
    pub(crate) fn put_left_epoch(&self, id: GroupId, epoch: Epoch) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET left_epoch = ?2 WHERE group_id = ?1",
            params![id.as_bytes().as_slice(), epoch.0.cast_signed()],
        )?;
        Ok(())
    }

    /// The last epoch of a group that this device has left; 0 where it has left none.
    pub(crate) fn left_epoch(&self, id: GroupId) -> Result<Epoch, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT left_epoch FROM groups WHERE group_id = ?1")?;
        let epoch: Option<i64> = statement
            .query_row([id.as_bytes().as_slice()], |row| row.get(0))
            .optional()?;
        Ok(Epoch(epoch.unwrap_or(0).cast_unsigned()))
    }

    /// It is as it was, and so is the group.
    pub(crate) fn put_restored(&self, id: GroupId) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET status = coalesce(status_before, ?2), status_before = NULL WHERE group_id = ?1",
            params![id.as_bytes().as_slice(), GroupStatus::Active.as_str()],
        )?;
        Ok(())
    }

    /// What it was when it began to stand still; `None` where it does not.
    pub(crate) fn status_before(&self, id: GroupId) -> Result<Option<GroupStatus>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT status_before FROM groups WHERE group_id = ?1")?;
        let before: Option<Option<String>> = statement
            .query_row([id.as_bytes().as_slice()], |row| row.get(0))
            .optional()?;
        Ok(before
            .flatten()
            .and_then(|before| GroupStatus::from_text(&before)))
    }

    pub(crate) fn put_name(&self, id: GroupId, name: &str) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET name = ?2 WHERE group_id = ?1",
            params![id.as_bytes().as_slice(), name],
        )?;
        Ok(())
    }

    /// Who added this device, as long as nobody has told it the group's name since.
    pub(crate) fn added_by(&self, id: GroupId) -> Result<Option<DeviceId>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT added_by FROM groups WHERE group_id = ?1")?;
        let added_by: Option<Option<String>> = statement
            .query_row([id.as_bytes().as_slice()], |row| row.get(0))
            .optional()?;
        Ok(added_by.flatten().and_then(|device| device.parse().ok()))
    }

    pub(crate) fn put_added_by(&self, id: GroupId, device: Option<DeviceId>) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE groups SET added_by = ?2 WHERE group_id = ?1",
            params![id.as_bytes().as_slice(), device.map(|device| device.to_string())],
        )?;
        Ok(())
    }

    /// The last entry that was applied, and when it was accepted, in seconds since 1970-01-01 UTC.
    pub(crate) fn put_cursor(
        &self,
        id: GroupId,
        position: Position,
        entry_id: &[u8],
        accepted_at: u64,
    ) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE groups SET position = ?2, entry_id = ?3, accepted_at = ?4 WHERE group_id = ?1",
        )?;
        statement.execute(params![
            id.as_bytes().as_slice(),
            position.0.cast_signed(),
            entry_id,
            accepted_at.cast_signed()
        ])?;
        Ok(())
    }

    /// When the newest applied entry was accepted, in seconds since 1970-01-01 UTC, as far as the service is believed; 0 before the
    /// first.
    pub(crate) fn newest_accepted_at(&self, id: GroupId) -> Result<u64, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT accepted_at FROM groups WHERE group_id = ?1")?;
        let at: Option<i64> = statement
            .query_row([id.as_bytes().as_slice()], |row| row.get(0))
            .optional()?;
        Ok(at.map_or(0, |at| u64::try_from(at).unwrap_or(0)))
    }

    /// Counts one more ephemeral message since the last stored one; says how many those are.
    pub(crate) fn count_ephemeral(&self, id: GroupId) -> Result<u32, Error> {
        Ok(self.connection.query_row(
            "UPDATE groups SET ephemerals = ephemerals + 1 WHERE group_id = ?1 RETURNING ephemerals",
            [id.as_bytes().as_slice()],
            |row| row.get(0),
        )?)
    }

    pub(crate) fn reset_ephemerals(&self, id: GroupId) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("UPDATE groups SET ephemerals = 0 WHERE group_id = ?1 AND ephemerals > 0")?;
        statement.execute([id.as_bytes().as_slice()])?;
        Ok(())
    }
}
