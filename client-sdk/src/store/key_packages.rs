//! Key packages whose private keys this device has.

use rusqlite::params;

use super::Database;
use crate::Error;

/// A key package of this device.
pub(crate) struct KeyPackageRow {
    /// KeyPackageRef.
    pub(crate) reference: Vec<u8>,
    pub(crate) suite: u16,
    pub(crate) last_resort: bool,
    /// Seconds since 1970-01-01 UTC.
    pub(crate) not_after: u64,
    /// MLSMessage.
    pub(crate) message: Vec<u8>,
    /// Publishing was tried before.
    pub(crate) tried: bool,
}

impl Database {
    pub(crate) fn put_key_package(&self, package: &KeyPackageRow) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO key_packages (reference, suite, last_resort, not_after, message, tried)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        statement.execute(params![
            package.reference,
            package.suite,
            package.last_resort,
            package.not_after.cast_signed(),
            package.message,
            package.tried,
        ])?;
        Ok(())
    }

    /// Packages that may not be published yet.
    pub(crate) fn unpublished_key_packages(&self) -> Result<Vec<KeyPackageRow>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT reference, suite, last_resort, not_after, message, tried FROM key_packages
             WHERE message IS NOT NULL ORDER BY rowid",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(KeyPackageRow {
                reference: row.get(0)?,
                suite: row.get(1)?,
                last_resort: row.get(2)?,
                not_after: row.get::<_, i64>(3)?.cast_unsigned(),
                message: row.get(4)?,
                tried: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn mark_tried(&self, references: &[Vec<u8>]) -> Result<(), Error> {
        for reference in references {
            self.connection.execute(
                "UPDATE key_packages SET tried = 1 WHERE reference = ?1",
                [reference],
            )?;
        }
        Ok(())
    }

    pub(crate) fn mark_published(&self, references: &[Vec<u8>]) -> Result<(), Error> {
        for reference in references {
            self.connection.execute(
                "UPDATE key_packages SET message = NULL WHERE reference = ?1",
                [reference],
            )?;
        }
        Ok(())
    }

    /// References of packages that ended before that time (seconds since 1970-01-01 UTC), taken out of the list.
    pub(crate) fn take_expired_key_packages(&self, before: u64) -> Result<Vec<Vec<u8>>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM key_packages WHERE not_after < ?1 RETURNING reference")?;
        Ok(statement
            .query_map([before.cast_signed()], |row| row.get(0))?
            .collect::<Result<_, _>>()?)
    }

    pub(crate) fn forget_key_package(&self, reference: &[u8]) -> Result<(), Error> {
        self.connection
            .execute("DELETE FROM key_packages WHERE reference = ?1", [reference])?;
        Ok(())
    }
}
