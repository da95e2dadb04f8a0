//! What the archiver writes: entries with all that repair and retention need of them, in one transaction under the lease.

use bytes::Bytes;
use sqlx::postgres::PgConnection;
use sqlx::query;
use valise_proto::{DeviceId, EntryId, Epoch, Position, UserId};

use super::lease::{Lease, WriteError, fence};
use super::read::{kind_code, sender_bytes};
use super::{ArchivedGroup, PostgresArchive, within};
use crate::log::redis::HotRow;
use crate::log::{Entry, EntryKind, StoreError, Window};

/// New entries of one group, in order and without a gap, the first after its newest archived one.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) group: ArchivedGroup,
    pub(crate) rows: Vec<HotRow>,
    /// Where there are commits among the rows: every device that ever was a member, with its windows; later ones are left out.
    pub(crate) windows: Vec<(UserId, DeviceId, Vec<Window>)>,
    /// GroupInfo, epoch and commit, where the commit is the newest one of the rows.
    pub(crate) group_info: Option<(Bytes, Epoch, Position)>,
}

/// Where a group stands after its new entries.
pub(super) struct After {
    pub(super) position: Position,
    pub(super) id: EntryId,
    pub(super) epoch: Epoch,
    pub(super) commit: Position,
    pub(super) proposal: Position,
    pub(super) accepted_at: u64,
}

/// When a group that gets entries is looked at again, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upkeep {
    /// Where a group has more entries than that in Redis, it is trimmed at `trim_at`; else, where it has more than one, at `old_at`.
    pub(crate) hot_entries: u64,
    pub(crate) trim_at: u64,
    pub(crate) old_at: u64,
    pub(crate) sweep_at: u64,
}

impl PostgresArchive {
    /// Writes all or nothing; with `change`, everything up to that change of the partition is archived then.
    pub(crate) async fn write(
        &self,
        lease: Lease,
        parts: &[Part],
        change: Option<u64>,
        upkeep: Upkeep,
    ) -> Result<(), WriteError> {
        valise_sql_database::within(async {
            let mut transaction = self.pool.begin().await?;
            match change {
                Some(change) => advance(&mut transaction, lease, change).await?,
                None => fence(&mut transaction, lease).await?,
            }
            if !parts.is_empty() {
                insert_entries(&mut transaction, parts).await?;
                move_groups(&mut transaction, parts, upkeep).await?;
                write_windows(&mut transaction, parts).await?;
                write_group_infos(&mut transaction, parts).await?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// The group's log in Redis is not the one that was archived up to there. Says whether that is news: it is not where the group
    /// has been archived further in the meantime, marked, or repaired.
    pub(crate) async fn mark_regressed(&self, group: &ArchivedGroup) -> Result<bool, StoreError> {
        within(async {
            query(
                "UPDATE groups SET regressed_at = clock_timestamp()
                 WHERE number = $1 AND position = $2 AND entry_id = $3 AND repairs = $4 AND regressed_at IS NULL",
            )
            .bind(group.number)
            .bind(group.head.position.0.cast_signed())
            .bind(group.entry_id.as_bytes().as_slice())
            .bind(group.repairs)
            .execute(&self.pool)
            .await
        })
        .await
        .map(|marked| marked.rows_affected() == 1)
    }

    /// The group's log in Redis is the archived one again; none of its entries is there. Snapshots of what was lost go, offers, and
    /// acknowledgements of it: what gets those positions next, nobody has read.
    pub(crate) async fn mark_repaired(&self, group: &ArchivedGroup) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.pool.begin().await?;
            query("DELETE FROM snapshots WHERE group_id = $1 AND position > $2")
                .bind(group.group.as_bytes().as_slice())
                .bind(group.head.position.0.cast_signed())
                .execute(&mut *transaction)
                .await?;
            query("UPDATE acknowledgements SET position = $2 WHERE group_number = $1 AND position > $2")
                .bind(group.number)
                .bind(group.head.position.0.cast_signed())
                .execute(&mut *transaction)
                .await?;
            query(
                "UPDATE groups SET regressed_at = NULL, repairs = repairs + 1, trimmed = position, trim_at = NULL
                 WHERE number = $1 AND regressed_at IS NOT NULL",
            )
            .bind(group.number)
            .execute(&mut *transaction)
            .await?;
            // After the group is no longer marked: from then on none is taken.
            for offers in [
                "DELETE FROM offers WHERE group_number = $1",
                "DELETE FROM offered_entries WHERE group_number = $1",
            ] {
                query(offers).bind(group.number).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
        .await
    }
}

async fn advance(transaction: &mut PgConnection, lease: Lease, change: u64) -> Result<(), WriteError> {
    let moved = query("UPDATE leases SET change = $3 WHERE partition = $1 AND token = $2")
        .bind(lease.partition.cast_signed())
        .bind(lease.token)
        .bind(change.cast_signed())
        .execute(transaction)
        .await?;
    if moved.rows_affected() == 1 {
        Ok(())
    } else {
        Err(WriteError::Stale)
    }
}

pub(super) async fn insert_entries(transaction: &mut PgConnection, parts: &[Part]) -> sqlx::Result<()> {
    let rows = || {
        parts
            .iter()
            .flat_map(|part| part.rows.iter().map(move |row| (part.group.number, row)))
    };
    let numbers =
        |of: fn(&Entry) -> u64| -> Vec<i64> { rows().map(|(_, row)| of(&row.entry).cast_signed()).collect() };
    query(
        "INSERT INTO entries (group_number, position, kind, epoch, accepted_at, entry_id, idempotency_key,
             sender, bytes)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[],
             $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[])",
    )
    .bind(rows().map(|(group, _)| group).collect::<Vec<_>>())
    .bind(numbers(|entry| entry.position.0))
    .bind(
        rows()
            .map(|(_, row)| kind_code(row.entry.kind))
            .collect::<Vec<_>>(),
    )
    .bind(numbers(|entry| entry.epoch.0))
    .bind(numbers(|entry| entry.accepted_at))
    .bind(
        rows()
            .map(|(_, row)| row.entry.id.as_bytes().as_slice())
            .collect::<Vec<_>>(),
    )
    .bind(
        rows()
            .map(|(_, row)| row.key.as_bytes().as_slice())
            .collect::<Vec<_>>(),
    )
    .bind(
        rows()
            .map(|(_, row)| sender_bytes(row.entry.sender.as_ref()))
            .collect::<Vec<_>>(),
    )
    .bind(
        rows()
            .map(|(_, row)| row.entry.bytes.as_ref())
            .collect::<Vec<_>>(),
    )
    .execute(transaction)
    .await
    .map(drop)
}

impl Part {
    /// Where the group stands after the rows; `None` where there are none.
    pub(super) fn after(&self) -> Option<After> {
        let last = self.rows.last()?;
        let newest = |kind| {
            let of_kind = self.rows.iter().rev().find(|row| row.entry.kind == kind);
            of_kind.map(|row| row.entry.position)
        };
        let before = &self.group.head;
        let commit = newest(EntryKind::Commit).unwrap_or(before.commit_position);
        let proposal = newest(EntryKind::Proposal).unwrap_or(before.proposal_position);
        let epoch = match last.entry.kind {
            EntryKind::Commit => last.entry.epoch.next(),
            _ => last.entry.epoch,
        };
        Some(After {
            position: last.entry.position,
            id: last.entry.id,
            epoch,
            commit,
            // Proposals die with their epoch.
            proposal: if proposal > commit {
                proposal
            } else {
                Position::NONE
            },
            accepted_at: last.entry.accepted_at,
        })
    }
}

/// A group that is not where it was thought to be has been written by somebody else: nothing is written.
async fn move_groups(
    transaction: &mut PgConnection,
    parts: &[Part],
    upkeep: Upkeep,
) -> Result<(), WriteError> {
    let moved: Vec<(&ArchivedGroup, After)> = parts
        .iter()
        .filter_map(|part| Some((&part.group, part.after()?)))
        .collect();
    let numbers = |of: fn(&ArchivedGroup, &After) -> u64| -> Vec<i64> {
        moved
            .iter()
            .map(|(group, after)| of(group, after).cast_signed())
            .collect()
    };
    let result = query(
        "UPDATE groups g SET position = a.position, entry_id = a.entry_id, epoch = a.epoch,
             commit_position = a.commit_position, proposal_position = a.proposal_position, accepted_at = a.accepted_at,
             trim_at = CASE WHEN a.position - g.trimmed > $9 THEN least(g.trim_at, $10)
                 WHEN a.position - g.trimmed > 1 THEN coalesce(g.trim_at, $11) END,
             sweep_at = coalesce(g.sweep_at, $12)
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[],
             $7::bigint[], $8::bigint[])
             AS a (number, before, position, entry_id, epoch, commit_position, proposal_position, accepted_at)
         WHERE g.number = a.number AND g.position = a.before AND g.regressed_at IS NULL",
    )
    .bind(moved.iter().map(|(group, _)| group.number).collect::<Vec<_>>())
    .bind(numbers(|group, _| group.head.position.0))
    .bind(numbers(|_, after| after.position.0))
    .bind(moved.iter().map(|(_, after)| after.id.as_bytes().as_slice()).collect::<Vec<_>>())
    .bind(numbers(|_, after| after.epoch.0))
    .bind(numbers(|_, after| after.commit.0))
    .bind(numbers(|_, after| after.proposal.0))
    .bind(numbers(|_, after| after.accepted_at))
    .bind(upkeep.hot_entries.cast_signed())
    .bind(upkeep.trim_at.cast_signed())
    .bind(upkeep.old_at.cast_signed())
    .bind(upkeep.sweep_at.cast_signed())
    .execute(transaction)
    .await?;
    if result.rows_affected() == moved.len() as u64 {
        Ok(())
    } else {
        Err(WriteError::Stale)
    }
}

/// As they were at the newest of the rows.
pub(super) async fn write_windows(transaction: &mut PgConnection, parts: &[Part]) -> sqlx::Result<()> {
    for part in parts.iter().filter(|part| !part.windows.is_empty()) {
        let Some(last) = part.rows.last().map(|row| row.entry.position) else {
            continue;
        };
        let (mut devices, mut users, mut joined, mut left) = (vec![], vec![], vec![], vec![]);
        for (user, device, windows) in &part.windows {
            for window in windows.iter().filter(|window| window.after <= last) {
                devices.push(device.as_uuid().as_bytes().as_slice());
                users.push(user.as_str());
                joined.push(window.after.0.cast_signed());
                let until = window.until.filter(|until| *until <= last);
                left.push(until.map(|until| until.0.cast_signed()));
            }
        }
        query(
            "INSERT INTO windows AS w (group_number, device, user_id, joined_at, left_at)
             SELECT $1::bigint, n.* FROM unnest($2::bytea[], $3::text[], $4::bigint[], $5::bigint[]) AS n
             ON CONFLICT (group_number, device, joined_at) DO UPDATE SET left_at = excluded.left_at
                 WHERE w.left_at IS DISTINCT FROM excluded.left_at",
        )
        .bind(part.group.number)
        .bind(devices)
        .bind(users)
        .bind(joined)
        .bind(left)
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}

pub(super) async fn write_group_infos(transaction: &mut PgConnection, parts: &[Part]) -> sqlx::Result<()> {
    for part in parts {
        let Some((group_info, epoch, commit)) = &part.group_info else {
            continue;
        };
        query(
            "INSERT INTO group_infos (group_number, epoch, commit_position, group_info) VALUES ($1, $2, $3, $4)
             ON CONFLICT (group_number) DO UPDATE SET epoch = excluded.epoch,
                 commit_position = excluded.commit_position, group_info = excluded.group_info
             WHERE group_infos.commit_position < excluded.commit_position",
        )
        .bind(part.group.number)
        .bind(epoch.0.cast_signed())
        .bind(commit.0.cast_signed())
        .bind(group_info.as_ref())
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}
