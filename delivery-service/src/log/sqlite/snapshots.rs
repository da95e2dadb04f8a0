//! Snapshots, and which of them are kept: each commit that adds somebody leaves one, as large as the group.
//!
//! Entries are never deleted here, and so every state can be folded from an older snapshot; but an Add only until its key package
//! expires. Kept for good are therefore the newest snapshots, where the state goes on, and those of epochs to which somebody
//! is invited who has not come yet. Of the others one in so many epochs stays, so that no fold is long.

use rusqlite::{Transaction, params};
use valise_proto::GroupId;

use crate::log::Snapshot;

/// How many of the newest ones are kept: one of them may be of a history that was lost.
const NEWEST: i64 = 4;
/// Of older ones, the first in so many epochs is kept.
const SPACING: i64 = 64;

/// Writes one, and deletes those that are not needed any more.
pub(super) fn put(
    transaction: &Transaction<'_>,
    group: GroupId,
    snapshot: &Snapshot,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO snapshots (group_id, epoch, anchor, position, state) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (group_id, epoch, anchor) DO NOTHING",
        )?
        .execute(params![
            group.as_bytes(),
            snapshot.epoch.0.cast_signed(),
            snapshot.anchor.as_bytes(),
            snapshot.position.0.cast_signed(),
            snapshot.state.as_ref()
        ])?;
    // Those of epoch 0 stay: before the group is created nobody knows which of several tries it will be.
    transaction
        .prepare_cached(
            "DELETE FROM snapshots WHERE rowid IN (
                 SELECT s.rowid FROM snapshots s
                 WHERE s.group_id = ?1
                     AND s.epoch < (SELECT epoch FROM snapshots WHERE group_id = ?1 ORDER BY epoch DESC LIMIT 1 OFFSET ?2)
                     AND s.epoch > (SELECT min(epoch) FROM snapshots WHERE group_id = ?1 AND epoch >= s.epoch / ?3 * ?3)
                     AND s.position NOT IN (SELECT position FROM welcomes WHERE group_id = ?1))",
        )?
        .execute(params![group.as_bytes(), NEWEST - 1, SPACING])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rusqlite::Connection;
    use valise_proto::{EntryId, Epoch, Position};

    use super::*;
    use crate::log::sqlite::open_writer;

    fn epochs(connection: &Connection, group: GroupId) -> Vec<i64> {
        connection
            .prepare("SELECT epoch FROM snapshots WHERE group_id = ?1 ORDER BY epoch")
            .unwrap()
            .query_map([group.as_bytes()], |row| row.get(0))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap()
    }

    #[test]
    fn those_that_nobody_needs_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open_writer(&folder.path().join("delivery.db")).unwrap();
        let transaction = connection.transaction().unwrap();
        let (group, other) = (
            GroupId::random(&mut rand::rng()),
            GroupId::random(&mut rand::rng()),
        );
        let put_at = |group, epoch: u64| {
            let snapshot = Snapshot {
                epoch: Epoch(epoch),
                position: Position(epoch * 2),
                anchor: EntryId::random(&mut rand::rng()),
                state: Bytes::from_static(b"a tree"),
            };
            put(&transaction, group, &snapshot).unwrap();
        };
        // Of another group of the same age nothing is touched.
        for epoch in 1..=4 {
            put_at(other, epoch);
        }
        // Somebody was added in epoch 10, and has not come yet.
        transaction
            .execute(
                "INSERT INTO welcomes (group_id, epoch, position, entry_id, welcome) VALUES (?1, 10, 20, x'00', x'00')",
                [group.as_bytes()],
            )
            .unwrap();
        for _ in 0..2 {
            put_at(group, 0);
        }
        for epoch in 1..=200 {
            put_at(group, epoch);
        }
        assert_eq!(
            epochs(&transaction, group),
            [0, 0, 10, 64, 128, 192, 197, 198, 199, 200]
        );

        transaction.execute("DELETE FROM welcomes", []).unwrap();
        put_at(group, 201);
        assert_eq!(
            epochs(&transaction, group),
            [0, 0, 64, 128, 192, 198, 199, 200, 201]
        );
        assert_eq!(epochs(&transaction, other), [1, 2, 3, 4]);
    }
}
