//! What a repair adds to the archive: entries that came back from devices, and what follows from them.

use sqlx::postgres::PgConnection;
use sqlx::query;
use valise_proto::Epoch;

use super::lease::WriteError;
use super::write::{Part, insert_entries, write_group_infos, write_windows};
use super::{ArchivedGroup, PostgresArchive};
use crate::log::EntryKind;
use crate::log::offers::{Restoration, restored_key};
use crate::log::redis::HotRow;

/// Entries that one statement inserts.
const ROWS: usize = 500;

impl PostgresArchive {
    /// Appends to the log of a group that is frozen, all or nothing. [`WriteError::Stale`] where it is not, or is not where it was thought to be.
    pub(crate) async fn restore(
        &self,
        group: &ArchivedGroup,
        restoration: &Restoration,
    ) -> Result<(), WriteError> {
        let mut part = part(group, restoration);
        let Some(first) = part.rows.first() else {
            return Ok(());
        };
        if first.entry.position != group.head.position.next() {
            return Err(WriteError::Stale);
        }
        // Proposals of the service may be the same byte for byte; and a sender may have had that key for something else.
        self.free_keys(group.number, &mut part.rows).await?;
        valise_sql_database::within(async {
            let mut transaction = self.pool.begin().await?;
            move_group(&mut transaction, &part).await?;
            for rows in part.rows.chunks(ROWS) {
                let chunk = Part {
                    group: part.group,
                    rows: rows.to_vec(),
                    windows: Vec::new(),
                    group_info: None,
                };
                insert_entries(&mut transaction, &[chunk]).await?;
            }
            let part = [part];
            write_windows(&mut transaction, &part).await?;
            write_group_infos(&mut transaction, &part).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }
}

fn part(group: &ArchivedGroup, restoration: &Restoration) -> Part {
    let row = |entry: &std::sync::Arc<crate::log::Entry>| HotRow {
        key: restored_key(&entry.bytes),
        entry: std::sync::Arc::clone(entry),
    };
    let epoch_after = |commit| {
        let commits = restoration
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Commit);
        let of = commits.filter(|entry| entry.position == commit);
        of.map(|entry| entry.epoch.next()).next()
    };
    let info = restoration.group_info.as_ref();
    Part {
        group: *group,
        rows: restoration.entries.iter().map(row).collect(),
        windows: restoration.windows.clone(),
        group_info: info.and_then(|(info, commit)| {
            let epoch: Epoch = epoch_after(*commit)?;
            Some((info.clone(), epoch, *commit))
        }),
    }
}

async fn move_group(transaction: &mut PgConnection, part: &Part) -> Result<(), WriteError> {
    let Some(after) = part.after() else {
        return Ok(());
    };
    let moved = query(
        "UPDATE groups SET position = $3, entry_id = $4, epoch = $5, commit_position = $6, proposal_position = $7,
             accepted_at = $8
         WHERE number = $1 AND position = $2 AND entry_id = $9 AND regressed_at IS NOT NULL",
    )
    .bind(part.group.number)
    .bind(part.group.head.position.0.cast_signed())
    .bind(after.position.0.cast_signed())
    .bind(after.id.as_bytes().as_slice())
    .bind(after.epoch.0.cast_signed())
    .bind(after.commit.0.cast_signed())
    .bind(after.proposal.0.cast_signed())
    .bind(after.accepted_at.cast_signed())
    .bind(part.group.entry_id.as_bytes().as_slice())
    .execute(transaction)
    .await?;
    if moved.rows_affected() == 1 {
        Ok(())
    } else {
        Err(WriteError::Stale)
    }
}
