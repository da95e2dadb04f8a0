//! How long entries are kept: until every member device has acknowledged them, or for the retention time.
//!
//! Commits and proposals stay longer: from the newest snapshot on that every live member's epoch can be computed from. The newest
//! entry and the newest usable snapshot stay for good.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Row, query};
use valise_proto::{DeviceId, GroupId, Position, UserId};

use super::lease::{Lease, WriteError, fence};
use super::{PostgresArchive, device_id, group_id, position, signed, user_id, within};
use crate::log::StoreError;

/// Positions that one transaction deletes at most.
const STEP: u64 = 10_000;

/// A group whose old entries are to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sweepable {
    pub(crate) group: GroupId,
    pub(crate) number: i64,
    pub(crate) partition: u16,
    /// The newest archived entry.
    pub(crate) archived: Position,
    /// Up to here (inclusive) messages are gone already.
    pub(crate) deleted: Position,
}

/// A device that is a member of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reader {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    /// Everything up to here (inclusive) it has applied, or was never to read.
    pub(crate) done: Position,
}

/// What of a group may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deletion {
    /// Messages up to here (inclusive).
    pub(crate) messages: Position,
    /// Commits, proposals and snapshots before here (exclusive).
    pub(crate) handshakes: Position,
    /// When to look at the group again, if more than its newest entry is left.
    pub(crate) again_at: u64,
}

impl Sweepable {
    /// What may go, when `floor` is the least that any live member has done, `kept_from` the first entry that is younger than the
    /// retention time (`None`: none is), and `snapshot` the newest one up to `floor`.
    pub(crate) fn judge(
        &self,
        floor: Position,
        kept_from: Option<Position>,
        snapshot: Option<Position>,
        now: u64,
        interval: Duration,
    ) -> Deletion {
        // The newest entry anchors the log: repair begins with it.
        let newest = Position(self.archived.0.saturating_sub(1));
        let aged = kept_from.map_or(newest, |first| Position(first.0.saturating_sub(1)));
        let messages = floor.max(aged).min(newest).max(self.deleted);
        let step = Position(messages.0.min(self.deleted.0 + STEP));
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let again_at = if step < messages {
            now
        } else {
            now.saturating_add(interval)
        };
        Deletion {
            messages: step,
            handshakes: snapshot.map_or(Position::NONE, |snapshot| snapshot.min(step.next())),
            again_at,
        }
    }
}

impl PostgresArchive {
    /// The groups of these partitions that are to be looked at by now, at most so many. A regressed one is left as it is.
    pub(crate) async fn sweepable(
        &self,
        partitions: &[u16],
        now: u64,
        max: usize,
    ) -> Result<Vec<Sweepable>, StoreError> {
        within(async {
            query(
                "SELECT group_id, number, position, deleted, partition FROM groups
                 WHERE partition = ANY($1) AND sweep_at <= $2 AND regressed_at IS NULL ORDER BY sweep_at LIMIT $3",
            )
            .bind(signed(partitions))
            .bind(now.cast_signed())
            .bind(max as i64)
            .try_map(|row| {
                Ok(Sweepable {
                    group: group_id(&row, 0)?,
                    number: row.try_get(1)?,
                    archived: position(&row, 2)?,
                    deleted: position(&row, 3)?,
                    partition: row.try_get::<i16, _>(4)?.cast_unsigned(),
                })
            })
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// The member devices of a group.
    pub(crate) async fn readers(&self, group: i64) -> Result<Vec<Reader>, StoreError> {
        within(async {
            query(
                "SELECT w.user_id, w.device, greatest(w.joined_at, coalesce(a.position, 0))
                 FROM windows w LEFT JOIN acknowledgements a USING (group_number, device)
                 WHERE w.group_number = $1 AND w.left_at IS NULL",
            )
            .bind(group)
            .try_map(|row| {
                Ok(Reader {
                    user: user_id(&row, 0)?,
                    device: device_id(&row, 1)?,
                    done: position(&row, 2)?,
                })
            })
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// The newest snapshot up to a position (inclusive) that is of this group's history.
    pub(crate) async fn usable_snapshot(
        &self,
        group: i64,
        up_to: Position,
    ) -> Result<Option<Position>, StoreError> {
        within(async {
            query(
                "SELECT s.position FROM groups g JOIN snapshots s ON s.group_id = g.group_id
                     LEFT JOIN entries e ON e.group_number = g.number AND e.position = s.position
                 WHERE g.number = $1 AND s.position <= $2
                     AND s.anchor = CASE WHEN s.position = 0 THEN g.origin ELSE e.entry_id END
                 ORDER BY s.epoch DESC LIMIT 1",
            )
            .bind(group)
            .bind(up_to.0.cast_signed())
            .try_map(|row| position(&row, 0))
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// Deletes what may go.
    pub(crate) async fn delete(
        &self,
        lease: Lease,
        group: &Sweepable,
        deletion: Deletion,
    ) -> Result<u64, WriteError> {
        valise_sql_database::within(async {
            let mut transaction = self.pool.begin().await?;
            fence(&mut transaction, lease).await?;
            let deleted = delete(&mut transaction, group, deletion).await?;
            transaction.commit().await?;
            Ok(deleted)
        })
        .await
    }
}

async fn delete(transaction: &mut PgConnection, group: &Sweepable, deletion: Deletion) -> sqlx::Result<u64> {
    let messages = query(
        "DELETE FROM entries WHERE group_number = $1 AND position > $2 AND position <= $3 AND kind = 3",
    )
    .bind(group.number)
    .bind(group.deleted.0.cast_signed())
    .bind(deletion.messages.0.cast_signed())
    .execute(&mut *transaction)
    .await?;
    let handshakes = query("DELETE FROM entries WHERE group_number = $1 AND position < $2 AND kind < 3")
        .bind(group.number)
        .bind(deletion.handshakes.0.cast_signed())
        .execute(&mut *transaction)
        .await?;
    query("DELETE FROM snapshots WHERE group_id = $1 AND position < $2")
        .bind(group.group.as_bytes().as_slice())
        .bind(deletion.handshakes.0.cast_signed())
        .execute(&mut *transaction)
        .await?;
    query(
        "DELETE FROM acknowledgements a WHERE group_number = $1 AND NOT EXISTS
             (SELECT 1 FROM windows w
              WHERE w.group_number = a.group_number AND w.device = a.device AND w.left_at IS NULL)",
    )
    .bind(group.number)
    .execute(&mut *transaction)
    .await?;
    query(
        "UPDATE groups SET deleted = $2, sweep_at = CASE WHEN position > $2 + 1 THEN $3::bigint END WHERE number = $1",
    )
        .bind(group.number)
        .bind(deletion.messages.0.cast_signed())
        .bind(deletion.again_at.cast_signed())
        .execute(&mut *transaction)
        .await?;
    Ok(messages.rows_affected() + handshakes.rows_affected())
}
