//! The service's limits, as it said last.

use valise_proto::delivery::v1::Limits;

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

    /// Most groups that the service takes on the device's stream. `None` until it was asked.
    pub(crate) fn group_limit(&self) -> Result<Option<usize>, Error> {
        let limit: Option<i64> = self
            .connection
            .query_row("SELECT group_limit FROM device", [], |row| row.get(0))?;
        Ok(limit.and_then(|limit| usize::try_from(limit).ok()))
    }

    /// Keeps them. A stream without groups is of no use: a service that says so has said nothing.
    pub(crate) fn put_limits(&self, limits: &Limits) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE device SET message_limit = ?1, group_limit = coalesce(nullif(?2, 0), group_limit)",
            [
                i64::from(limits.max_message_bytes),
                i64::from(limits.max_groups_per_device),
            ],
        )?;
        Ok(())
    }
}
