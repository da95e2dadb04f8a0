//! Groups that an administrator has ended, and what they were here.

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use valise_proto::{DeviceId, GroupId, Position, UserId};

use super::Database;
use crate::Error;

/// How far this device is in going on under the new id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ResetStep {
    /// It reads the old group to its end.
    Reading,
    /// It is going to make the successor, if nobody else has.
    Waiting,
    /// It has asked the service to register it.
    Creating,
    /// It has made it, and adds the others.
    Adding,
    /// Somebody else has made it: an invitation comes.
    Invited,
    /// It is in the successor, and has no more to do.
    Done,
}

impl ResetStep {
    const ALL: [Self; 6] = [
        Self::Reading,
        Self::Waiting,
        Self::Creating,
        Self::Adding,
        Self::Invited,
        Self::Done,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Waiting => "waiting",
            Self::Creating => "creating",
            Self::Adding => "adding",
            Self::Invited => "invited",
            Self::Done => "done",
        }
    }
}

/// What a group was to this device when it ended: what its successor is made from, and judged by.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OldGroup {
    pub(crate) name: String,
    /// MLS cipher suite; 0 where it is not known.
    pub(crate) suite: u16,
    /// The device had read all of it: its roles and members were those of the end.
    pub(crate) complete: bool,
    /// The roles extension; empty where it is not known.
    pub(crate) roles: Vec<u8>,
    /// Who was in it.
    pub(crate) members: Vec<(UserId, DeviceId)>,
    /// How many devices go before this one in making the successor; `None` where it does not.
    pub(crate) rank: Option<u32>,
    /// What this device knew, where roles and members are what the service has shown since.
    #[serde(default)]
    pub(crate) known: Option<Known>,
}

/// Roles and members as a device has read them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The roles extension; empty where it is not known.
    pub(crate) roles: Vec<u8>,
    pub(crate) members: Vec<(UserId, DeviceId)>,
}

impl OldGroup {
    /// What this device has read of it.
    pub(crate) fn known(&self) -> (&[u8], &[(UserId, DeviceId)]) {
        match &self.known {
            Some(known) => (&known.roles, &known.members),
            None => (&self.roles, &self.members),
        }
    }
}

/// A reset.
#[derive(Clone)]
pub(crate) struct ResetRow {
    pub(crate) group: GroupId,
    pub(crate) successor: GroupId,
    /// The old group's last entry.
    pub(crate) last: Position,
    pub(crate) step: ResetStep,
    /// Set once the group has ended here.
    pub(crate) old: Option<OldGroup>,
}

const COLUMNS: &str = "group_id, successor, last_position, step, old";

fn read(row: &Row<'_>) -> rusqlite::Result<ResetRow> {
    let broken =
        |column| rusqlite::Error::InvalidColumnType(column, String::new(), rusqlite::types::Type::Null);
    let id = |column| {
        let bytes: Vec<u8> = row.get(column)?;
        GroupId::try_from(bytes.as_slice()).map_err(|_| broken(column))
    };
    let step: String = row.get(3)?;
    let old: Option<String> = row.get(4)?;
    Ok(ResetRow {
        group: id(0)?,
        successor: id(1)?,
        last: Position(row.get::<_, i64>(2)?.cast_unsigned()),
        step: ResetStep::ALL
            .into_iter()
            .find(|known| known.as_str() == step)
            .ok_or_else(|| broken(3))?,
        old: old
            .map(|old| serde_json::from_str(&old))
            .transpose()
            .map_err(|_| broken(4))?,
    })
}

impl Database {
    /// The first word about a group counts. Says whether it was that.
    pub(crate) fn put_reset(
        &self,
        group: GroupId,
        successor: GroupId,
        last: Position,
    ) -> Result<bool, Error> {
        let put = self.connection.execute(
            "INSERT INTO resets (group_id, successor, last_position, step) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
            params![
                group.as_bytes().as_slice(),
                successor.as_bytes().as_slice(),
                last.0.cast_signed(),
                ResetStep::Reading.as_str(),
            ],
        )?;
        Ok(put == 1)
    }

    pub(crate) fn put_reset_step(
        &self,
        group: GroupId,
        step: ResetStep,
        old: Option<&OldGroup>,
    ) -> Result<(), Error> {
        let old = old.map(serde_json::to_string).transpose()?;
        self.connection.execute(
            "UPDATE resets SET step = ?2, old = coalesce(?3, old) WHERE group_id = ?1",
            params![group.as_bytes().as_slice(), step.as_str(), old],
        )?;
        Ok(())
    }

    pub(crate) fn reset(&self, group: GroupId) -> Result<Option<ResetRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM resets WHERE group_id = ?1"))?;
        Ok(statement
            .query_row([group.as_bytes().as_slice()], read)
            .optional()?)
    }

    /// The reset after which that group goes on.
    pub(crate) fn reset_before(&self, successor: GroupId) -> Result<Option<ResetRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM resets WHERE successor = ?1"))?;
        Ok(statement
            .query_row([successor.as_bytes().as_slice()], read)
            .optional()?)
    }

    /// Those of which something is left to do here.
    pub(crate) fn open_resets(&self) -> Result<Vec<ResetRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM resets WHERE step IN ('waiting', 'adding') ORDER BY group_id"
        ))?;
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }
}
