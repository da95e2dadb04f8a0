//! When this device gives itself new keys, group by group; and how the store itself is kept clean.

use rusqlite::{OptionalExtension, params};
use valise_proto::GroupId;
use zeroize::Zeroizing;

use super::{Database, hex};
use crate::kill_point::{self, Step};
use crate::options::StoreKey;
use crate::{Error, GroupStatus};

impl Database {
    /// From then on (seconds since 1970-01-01 UTC) new keys are due in the group.
    pub(crate) fn put_key_update(&self, group: GroupId, due: u64) -> Result<(), Error> {
        self.connection
            .prepare_cached(
                "INSERT INTO key_updates (group_id, due) VALUES (?1, ?2)
                 ON CONFLICT (group_id) DO UPDATE SET due = excluded.due",
            )?
            .execute(params![group.as_bytes().as_slice(), due.cast_signed()])?;
        Ok(())
    }

    /// Nothing is due in the group.
    pub(crate) fn forget_key_update(&self, group: GroupId) -> Result<(), Error> {
        self.connection
            .prepare_cached("DELETE FROM key_updates WHERE group_id = ?1")?
            .execute([group.as_bytes().as_slice()])?;
        Ok(())
    }

    /// When new keys are due in the group (seconds since 1970-01-01 UTC), if it can be used and that is known.
    pub(crate) fn key_update(&self, group: GroupId) -> Result<Option<u64>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT k.due FROM key_updates k JOIN groups g USING (group_id) WHERE k.group_id = ?1 AND g.status = ?2",
        )?;
        let due: Option<i64> = statement
            .query_row(
                params![group.as_bytes().as_slice(), GroupStatus::Active.as_str()],
                |row| row.get(0),
            )
            .optional()?;
        Ok(due.map(i64::cast_unsigned))
    }

    /// Groups that can be used, with the time at which new keys are due there, if it is known.
    pub(crate) fn key_updates(&self) -> Result<Vec<(GroupId, Option<u64>)>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT g.group_id, k.due FROM groups g LEFT JOIN key_updates k USING (group_id)
             WHERE g.status = ?1 ORDER BY g.number",
        )?;
        let rows = statement.query_map([GroupStatus::Active.as_str()], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<i64>>(1)?))
        })?;
        let mut updates = Vec::new();
        for row in rows {
            let (group, due) = row?;
            let group = GroupId::try_from(group.as_slice())
                .map_err(|_| Error::InvalidInput("the store's group id"))?;
            updates.push((group, due.map(i64::cast_unsigned)));
        }
        Ok(updates)
    }

    /// Times of groups that are no more.
    pub(crate) fn sweep_key_updates(&self) -> Result<(), Error> {
        self.connection.execute(
            "DELETE FROM key_updates WHERE group_id NOT IN (SELECT group_id FROM groups)",
            [],
        )?;
        Ok(())
    }

    /// The certificate was replaced: what waits to be published has the old one, as has what the directory holds.
    pub(crate) fn outdate_key_packages(&self) -> Result<(), Error> {
        // Their keys stay: some may have been published by a call whose answer was lost.
        self.connection.execute_batch(
            "UPDATE key_packages SET message = NULL; UPDATE device SET packages_outdated = 1;",
        )?;
        Ok(())
    }

    pub(crate) fn key_packages_outdated(&self) -> Result<bool, Error> {
        Ok(self
            .connection
            .query_row("SELECT packages_outdated FROM device", [], |row| row.get(0))?)
    }

    pub(crate) fn key_packages_replaced(&self) -> Result<(), Error> {
        self.connection
            .execute("UPDATE device SET packages_outdated = 0", [])?;
        Ok(())
    }

    /// Empties the write-ahead log, which holds pages as they were before secrets were deleted from them.
    pub(crate) fn scrub(&self) -> Result<(), Error> {
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            tracing::warn!("the store's write-ahead log could not be emptied");
        }
        Ok(())
    }

    /// Encrypts the file with another key. In memory nothing is encrypted, and SQLCipher refuses to change what is not there.
    pub(crate) fn change_key(&self, key: &StoreKey) -> Result<(), Error> {
        if self.connection.path().is_none_or(str::is_empty) {
            return Ok(());
        }
        let pragma = Zeroizing::new(format!("PRAGMA rekey = \"x'{}'\"", &*hex(key.as_bytes())));
        kill_point::reached("change_store_key", Step::BeforeApplied);
        self.connection.execute_batch(&pragma)?;
        kill_point::reached("change_store_key", Step::Applied);
        self.scrub()
    }
}
