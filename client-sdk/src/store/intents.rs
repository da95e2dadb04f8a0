//! The outbox's rows.

use rusqlite::{OptionalExtension, Row, params};
use valise_proto::{Epoch, GroupId, IdempotencyKey};

use super::Database;
use crate::{Error, GroupStatus};

/// The number of an intent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct IntentId(pub(crate) i64);

/// An intent to be stored.
pub(crate) struct NewIntent<'a> {
    pub(crate) group: GroupId,
    pub(crate) urgent: bool,
    pub(crate) kind: &'static str,
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) detail: Option<String>,
}

/// An intent as it is stored.
pub(crate) struct IntentRow {
    pub(crate) id: IntentId,
    pub(crate) group: GroupId,
    pub(crate) kind: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) detail: Option<String>,
    pub(crate) prepared: Option<Prepared>,
}

/// The exact request of a prepared intent.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) key: IdempotencyKey,
    pub(crate) epoch: Epoch,
    pub(crate) message: Vec<u8>,
    pub(crate) group_info: Option<Vec<u8>>,
    /// Of a creation: the ratchet tree.
    pub(crate) welcome: Option<Vec<u8>>,
}

const COLUMNS: &str =
    "id, group_id, kind, payload, detail, idempotency_key, epoch, message, group_info, welcome";

fn read(row: &Row<'_>) -> rusqlite::Result<IntentRow> {
    let broken =
        |column| rusqlite::Error::InvalidColumnType(column, String::new(), rusqlite::types::Type::Null);
    let group: Vec<u8> = row.get(1)?;
    let prepared = match row.get::<_, Option<Vec<u8>>>(5)? {
        None => None,
        Some(key) => Some(Prepared {
            key: IdempotencyKey::try_from(key.as_slice()).map_err(|_| broken(5))?,
            epoch: Epoch(row.get::<_, i64>(6)?.cast_unsigned()),
            message: row.get(7)?,
            group_info: row.get(8)?,
            welcome: row.get(9)?,
        }),
    };
    Ok(IntentRow {
        id: IntentId(row.get(0)?),
        group: GroupId::try_from(group.as_slice()).map_err(|_| broken(1))?,
        kind: row.get(2)?,
        payload: row.get(3)?,
        detail: row.get(4)?,
        prepared,
    })
}

impl Database {
    pub(crate) fn put_intent(&self, intent: &NewIntent<'_>) -> Result<IntentId, Error> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO intents (group_id, urgent, kind, payload, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let id = statement.insert(params![
            intent.group.as_bytes().as_slice(),
            intent.urgent,
            intent.kind,
            intent.payload,
            intent.detail,
        ])?;
        Ok(IntentId(id))
    }

    pub(crate) fn intent(&self, id: IntentId) -> Result<Option<IntentRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM intents WHERE id = ?1"))?;
        Ok(statement.query_row([id.0], read).optional()?)
    }

    /// The next that are not prepared, in order.
    pub(crate) fn queued_intents(&self, group: GroupId, limit: usize) -> Result<Vec<IntentRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM intents WHERE group_id = ?1 AND idempotency_key IS NULL
             ORDER BY urgent DESC, id LIMIT ?2"
        ))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(statement
            .query_map(params![group.as_bytes().as_slice(), limit], read)?
            .collect::<Result<_, _>>()?)
    }

    /// Those that are prepared and not in the log yet, in order.
    pub(crate) fn prepared_intents(&self, group: GroupId) -> Result<Vec<IntentRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM intents WHERE group_id = ?1 AND idempotency_key IS NOT NULL
             ORDER BY urgent DESC, id"
        ))?;
        Ok(statement
            .query_map([group.as_bytes().as_slice()], read)?
            .collect::<Result<_, _>>()?)
    }

    /// How many are prepared, and how many of those are messages.
    pub(crate) fn count_prepared(&self, group: GroupId) -> Result<(usize, usize), Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT count(*), coalesce(sum(payload IS NOT NULL), 0) FROM intents
             WHERE group_id = ?1 AND idempotency_key IS NOT NULL",
        )?;
        let (all, messages): (i64, i64) = statement.query_row([group.as_bytes().as_slice()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        Ok((
            usize::try_from(all).unwrap_or(0),
            usize::try_from(messages).unwrap_or(0),
        ))
    }

    pub(crate) fn has_intent(&self, group: GroupId, kind: &str) -> Result<bool, Error> {
        Ok(self
            .connection
            .query_row(
                "SELECT 1 FROM intents WHERE group_id = ?1 AND kind = ?2 LIMIT 1",
                params![group.as_bytes().as_slice(), kind],
                |_| Ok(()),
            )
            .optional()?
            .is_some())
    }

    pub(crate) fn put_prepared(&self, id: IntentId, prepared: &Prepared, digest: &[u8]) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE intents SET idempotency_key = ?2, epoch = ?3, message = ?4, group_info = ?5, welcome = ?6,
                digest = ?7
             WHERE id = ?1",
        )?;
        statement.execute(params![
            id.0,
            prepared.key.as_bytes().as_slice(),
            prepared.epoch.0.cast_signed(),
            prepared.message,
            prepared.group_info,
            prepared.welcome,
            digest,
        ])?;
        Ok(())
    }

    /// Takes prepared requests of a group back: they are built again. Says whether there were any.
    pub(crate) fn unprepare(&self, group: GroupId) -> Result<bool, Error> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE intents SET idempotency_key = NULL, epoch = NULL, message = NULL, group_info = NULL,
                welcome = NULL, digest = NULL
             WHERE group_id = ?1 AND idempotency_key IS NOT NULL",
        )?;
        Ok(statement.execute([group.as_bytes().as_slice()])? > 0)
    }

    /// Takes one prepared request back.
    pub(crate) fn unprepare_one(&self, id: IntentId) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE intents SET idempotency_key = NULL, epoch = NULL, message = NULL, group_info = NULL,
                welcome = NULL, digest = NULL
             WHERE id = ?1",
            [id.0],
        )?;
        Ok(())
    }

    /// The oldest intent of that group and kind.
    pub(crate) fn intent_of_kind(&self, group: GroupId, kind: &str) -> Result<Option<IntentRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM intents WHERE group_id = ?1 AND kind = ?2 ORDER BY id LIMIT 1"
        ))?;
        Ok(statement
            .query_row(params![group.as_bytes().as_slice(), kind], read)
            .optional()?)
    }

    /// The prepared intent of that group whose message has that digest.
    pub(crate) fn intent_by_digest(&self, group: GroupId, digest: &[u8]) -> Result<Option<IntentRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM intents WHERE digest = ?2 AND group_id = ?1"
        ))?;
        Ok(statement
            .query_row(params![group.as_bytes().as_slice(), digest], read)
            .optional()?)
    }

    pub(crate) fn put_detail(&self, id: IntentId, detail: Option<&str>) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE intents SET detail = ?2 WHERE id = ?1",
            params![id.0, detail],
        )?;
        Ok(())
    }

    pub(crate) fn delete_intent(&self, id: IntentId) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM intents WHERE id = ?1")?;
        statement.execute([id.0])?;
        Ok(())
    }

    /// All of a group, in order.
    pub(crate) fn intents(&self, group: GroupId) -> Result<Vec<IntentRow>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM intents WHERE group_id = ?1 ORDER BY urgent DESC, id"
        ))?;
        Ok(statement
            .query_map([group.as_bytes().as_slice()], read)?
            .collect::<Result<_, _>>()?)
    }

    /// Is nothing under way? What waits for a log to be repaired is not.
    pub(crate) fn outbox_is_empty(&self) -> Result<bool, Error> {
        Ok(self.connection.query_row(
            "WITH stopped AS (SELECT group_id FROM groups WHERE status = ?1)
             SELECT NOT EXISTS (SELECT 1 FROM intents WHERE group_id NOT IN stopped)
                AND NOT EXISTS (SELECT 1 FROM adds WHERE group_id NOT IN stopped)",
            [GroupStatus::LogRegressed.as_str()],
            |row| row.get(0),
        )?)
    }
}
