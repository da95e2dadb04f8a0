//! What of a group may leave Redis: only what is archived, and neither among its newest entries nor young; or what is old.

use sqlx::{Row, query};
use valise_proto::{GroupId, Position};

use super::{PostgresArchive, group_id, position, signed, unsigned, within};
use crate::log::StoreError;

/// A group that may have entries to trim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trimmable {
    pub(crate) group: GroupId,
    pub(crate) number: i64,
    /// The newest archived entry.
    pub(crate) archived: Position,
    /// Up to here (inclusive) it is trimmed already.
    pub(crate) trimmed: Position,
}

/// When a group is to be looked at again, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgainAt {
    /// Where it has more than its newest entries in Redis.
    pub(crate) too_many: u64,
    /// Where it has only these, and more than one: they get old.
    pub(crate) old: u64,
}

impl PostgresArchive {
    /// The groups of these partitions that are to be looked at by now, at most so many. A regressed one is left as it is.
    pub(crate) async fn trimmable(
        &self,
        partitions: &[u16],
        now: u64,
        max: usize,
    ) -> Result<Vec<Trimmable>, StoreError> {
        within(async {
            query(
                "SELECT group_id, number, position, trimmed FROM groups
                 WHERE partition = ANY($1) AND trim_at <= $2 AND regressed_at IS NULL ORDER BY trim_at LIMIT $3",
            )
            .bind(signed(partitions))
            .bind(now.cast_signed())
            .bind(max as i64)
            .try_map(|row| {
                Ok(Trimmable {
                    group: group_id(&row, 0)?,
                    number: row.try_get(1)?,
                    archived: position(&row, 2)?,
                    trimmed: position(&row, 3)?,
                })
            })
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// The first entry after a position (exclusive) that was accepted after a time, and when: what is before it is older.
    pub(crate) async fn first_younger(
        &self,
        group: i64,
        after: Position,
        than: u64,
    ) -> Result<Option<(Position, u64)>, StoreError> {
        within(async {
            query(
                "SELECT position, accepted_at FROM entries
                 WHERE group_number = $1 AND position > $2 AND accepted_at > $3 ORDER BY position LIMIT 1",
            )
            .bind(group)
            .bind(after.0.cast_signed())
            .bind(than.cast_signed())
            .try_map(|row| Ok((position(&row, 0)?, unsigned(&row, 1)?)))
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// Keeps how far a group is trimmed, and when to look again, unless it has no more than one entry in Redis by now.
    pub(crate) async fn trimmed(
        &self,
        group: i64,
        up_to: Position,
        hot_entries: u64,
        again_at: AgainAt,
    ) -> Result<(), StoreError> {
        within(async {
            query(
                "UPDATE groups SET trimmed = greatest(trimmed, $2),
                     trim_at = CASE WHEN position - greatest(trimmed, $2) > $3 THEN $4::bigint
                         WHEN position - greatest(trimmed, $2) > 1 THEN $5::bigint END
                 WHERE number = $1",
            )
            .bind(group)
            .bind(up_to.0.cast_signed())
            .bind(hot_entries.cast_signed())
            .bind(again_at.too_many.cast_signed())
            .bind(again_at.old.cast_signed())
            .execute(&self.pool)
            .await
        })
        .await
        .map(drop)
    }
}
