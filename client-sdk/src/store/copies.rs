//! Copies of entries: what this device can give back of logs that went back in time.

use prost::Message as _;
use rusqlite::params;
use valise_proto::delivery::v1::OfferedEntry;
use valise_proto::{GroupId, Position};

use super::Database;
use crate::Error;

impl Database {
    /// Keeps a copy; of a position that has one already it takes its place. Says how many bytes it has.
    pub(crate) fn put_copy(
        &self,
        group: GroupId,
        position: Position,
        accepted_at: u64,
        offer: &OfferedEntry,
    ) -> Result<usize, Error> {
        let bytes = offer.encode_to_vec();
        let mut statement = self.connection.prepare_cached(
            "INSERT OR REPLACE INTO copies (group_id, position, accepted_at, size, offer) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        statement.execute(params![
            group.as_bytes().as_slice(),
            position.0.cast_signed(),
            accepted_at.cast_signed(),
            i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            bytes,
        ])?;
        Ok(bytes.len())
    }

    /// Lets go of copies of entries that were accepted before a time (milliseconds since 1970-01-01 UTC), and of the oldest ones
    /// until the rest has at most so many bytes.
    pub(crate) fn trim_copies(&self, before: u64, max_bytes: usize) -> Result<(), Error> {
        self.connection.execute(
            "DELETE FROM copies WHERE accepted_at < ?1",
            [i64::try_from(before).unwrap_or(i64::MAX)],
        )?;
        self.connection.execute(
            "DELETE FROM copies WHERE number <= (
                 SELECT max(number) FROM (
                     SELECT number, sum(size) OVER (ORDER BY number DESC) AS total FROM copies)
                 WHERE total > ?1)",
            [i64::try_from(max_bytes).unwrap_or(i64::MAX)],
        )?;
        Ok(())
    }

    /// Copies of a group's entries after a position, in order: at most so many, and at least one if there is one, but no more than
    /// these bytes.
    pub(crate) fn copies_after(
        &self,
        group: GroupId,
        after: Position,
        max: usize,
        max_bytes: usize,
    ) -> Result<Vec<OfferedEntry>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT offer FROM copies WHERE group_id = ?1 AND position > ?2 ORDER BY position LIMIT ?3",
        )?;
        let mut rows = statement.query(params![
            group.as_bytes().as_slice(),
            after.0.cast_signed(),
            i64::try_from(max).unwrap_or(i64::MAX),
        ])?;
        let (mut copies, mut size) = (Vec::new(), 0_usize);
        while let Some(row) = rows.next()? {
            let bytes: Vec<u8> = row.get(0)?;
            size = size.saturating_add(bytes.len());
            if size > max_bytes && !copies.is_empty() {
                break;
            }
            let copy = OfferedEntry::decode(bytes.as_slice())
                .map_err(|_| Error::InvalidInput("the store's copy of an entry"))?;
            copies.push(copy);
        }
        Ok(copies)
    }

    /// Lets go of all copies of a group's entries.
    pub(crate) fn delete_copies(&self, group: GroupId) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM copies WHERE group_id = ?1")?;
        statement.execute([group.as_bytes().as_slice()])?;
        Ok(())
    }
}
