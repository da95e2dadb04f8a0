//! Users who are to be added.

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use valise_proto::{GroupId, UserId};

use super::history::StoredWhatNow;
use super::{Database, IntentId};
use crate::{Error, WhatNow};

/// The number of an add.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct AddId(pub(crate) i64);

/// An add, as far as it has come.
pub(crate) struct AddRow {
    pub(crate) id: AddId,
    pub(crate) group: GroupId,
    /// Whose key packages are still to be claimed.
    pub(crate) users: Vec<UserId>,
    /// How many devices are members by now.
    pub(crate) added: i64,
    pub(crate) failed: Vec<FailedAdd>,
}

/// Somebody, or a device of somebody, who could not be added.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct FailedAdd {
    pub(crate) user: UserId,
    pub(crate) cause: String,
    what_now: StoredWhatNow,
}

impl FailedAdd {
    pub(crate) fn new(user: UserId, cause: String, what_now: WhatNow) -> Self {
        Self {
            user,
            cause,
            what_now: what_now.into(),
        }
    }

    pub(crate) fn what_now(&self) -> WhatNow {
        self.what_now.into()
    }
}

const COLUMNS: &str = "id, group_id, users, added, failed";

fn read(row: &Row<'_>) -> rusqlite::Result<AddRow> {
    let broken =
        |column| rusqlite::Error::InvalidColumnType(column, String::new(), rusqlite::types::Type::Null);
    let group: Vec<u8> = row.get(1)?;
    let users: String = row.get(2)?;
    let failed: String = row.get(4)?;
    Ok(AddRow {
        id: AddId(row.get(0)?),
        group: GroupId::try_from(group.as_slice()).map_err(|_| broken(1))?,
        users: serde_json::from_str(&users).map_err(|_| broken(2))?,
        added: row.get(3)?,
        failed: serde_json::from_str(&failed).map_err(|_| broken(4))?,
    })
}

impl Database {
    pub(crate) fn put_new_add(&self, group: GroupId, users: &[UserId]) -> Result<AddId, Error> {
        let mut statement = self
            .connection
            .prepare_cached("INSERT INTO adds (group_id, users) VALUES (?1, ?2)")?;
        let users = serde_json::to_string(users)?;
        Ok(AddId(
            statement.insert(params![group.as_bytes().as_slice(), users])?,
        ))
    }

    pub(crate) fn put_add(&self, add: &AddRow) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE adds SET users = ?2, added = ?3, failed = ?4 WHERE id = ?1",
            params![
                add.id.0,
                serde_json::to_string(&add.users)?,
                add.added,
                serde_json::to_string(&add.failed)?,
            ],
        )?;
        Ok(())
    }

    pub(crate) fn delete_add(&self, id: AddId) -> Result<(), Error> {
        self.connection
            .execute("DELETE FROM adds WHERE id = ?1", [id.0])?;
        Ok(())
    }

    pub(crate) fn add(&self, id: AddId) -> Result<Option<AddRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM adds WHERE id = ?1"))?;
        Ok(statement.query_row([id.0], read).optional()?)
    }

    /// All that are not done, in order.
    pub(crate) fn adds(&self) -> Result<Vec<AddRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM adds ORDER BY id"))?;
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// This intent is one of its commits.
    pub(crate) fn put_add_commit(&self, intent: IntentId, add: AddId) -> Result<(), Error> {
        self.connection.execute(
            "INSERT INTO add_commits (intent, add_id) VALUES (?1, ?2)",
            params![intent.0, add.0],
        )?;
        Ok(())
    }

    /// The add that this intent is a commit of.
    pub(crate) fn add_of(&self, intent: IntentId) -> Result<Option<AddId>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT add_id FROM add_commits WHERE intent = ?1")?;
        Ok(statement
            .query_row([intent.0], |row| row.get(0).map(AddId))
            .optional()?)
    }

    pub(crate) fn delete_add_commit(&self, intent: IntentId) -> Result<(), Error> {
        self.connection
            .execute("DELETE FROM add_commits WHERE intent = ?1", [intent.0])?;
        Ok(())
    }

    /// Are commits of it under way?
    pub(crate) fn has_add_commits(&self, id: AddId) -> Result<bool, Error> {
        Ok(self.connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM add_commits WHERE add_id = ?1)",
            [id.0],
            |row| row.get(0),
        )?)
    }
}
