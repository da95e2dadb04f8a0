//! The service's limits, as it said last.

use super::Database;
use crate::Error;

impl Database {
    /// Largest application message that the service takes, in bytes of the MLSMessage. `None` until it was asked.
    pub(crate) fn message_limit(&self) -> Result<Option<usize>, Error> {
        let limit: Option<i64> = self
            .connection
            .prepare_cached("SELECT message_limit FROM device")?
            .query_row([], |row| row.get(0))?;
        Ok(limit.and_then(|limit| usize::try_from(limit).ok()))
    }

    /// Keeps it.
    pub(crate) fn put_message_limit(&self, bytes: u32) -> Result<(), Error> {
        self.connection
            .execute("UPDATE device SET message_limit = ?1", [i64::from(bytes)])?;
        Ok(())
    }
}
