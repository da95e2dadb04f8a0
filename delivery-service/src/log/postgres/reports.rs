//! What members reported of commits.

use sqlx::postgres::PgRow;
use sqlx::{Row, query};
use valise_proto::{Epoch, GroupId, Position};

use super::{PostgresArchive, device_id, group_id, position, unsigned, within};
use crate::log::{CommitReport, MAX_REPORTS, ReportedCommit, StoreError};

impl PostgresArchive {
    /// See [`OrderedLog::report`](crate::log::OrderedLog::report).
    pub(crate) async fn report(&self, report: &CommitReport) -> Result<bool, StoreError> {
        let group = report.group.as_bytes().as_slice();
        let reporter = report.reporter.as_uuid().as_bytes().as_slice();
        within(async {
            let mut transaction = self.pool.begin().await?;
            let new = query(
                "INSERT INTO commit_reports (group_id, position, reporter, epoch, sender, fault, at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(group)
            .bind(report.position.0.cast_signed())
            .bind(reporter)
            .bind(report.epoch.0.cast_signed())
            .bind(
                report
                    .sender
                    .as_ref()
                    .map(|device| device.as_uuid().as_bytes().as_slice()),
            )
            .bind(report.fault)
            .bind(report.at.cast_signed())
            .execute(&mut *transaction)
            .await?;
            query(
                "DELETE FROM commit_reports WHERE group_id = $1 AND reporter = $2 AND position <=
                     (SELECT position FROM commit_reports WHERE group_id = $1 AND reporter = $2
                      ORDER BY position DESC LIMIT 1 OFFSET $3)",
            )
            .bind(group)
            .bind(reporter)
            .bind(MAX_REPORTS as i64)
            .execute(&mut *transaction)
            .await?;
            // One that is older than all that are kept is gone at once: that is none that is new.
            let kept = "SELECT EXISTS (SELECT 1 FROM commit_reports WHERE group_id = $1 AND position = $2 AND reporter = $3)";
            let is_kept: bool = query(kept)
                .bind(group)
                .bind(report.position.0.cast_signed())
                .bind(reporter)
                .try_map(|row: PgRow| row.try_get(0))
                .fetch_one(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(new.rows_affected() == 1 && is_kept)
        })
        .await
    }

    /// See [`OrderedLog::reports`](crate::log::OrderedLog::reports).
    pub(crate) async fn reports(
        &self,
        group: Option<GroupId>,
        after: Option<(GroupId, Position)>,
        max: usize,
    ) -> Result<Vec<ReportedCommit>, StoreError> {
        let (after_group, after_position) = after.unwrap_or((GroupId::from_bytes([0; 16]), Position::NONE));
        let rows = within(async {
            query(
                "WITH page AS (
                     SELECT DISTINCT group_id, position FROM commit_reports
                     WHERE ($1::bytea IS NULL OR group_id = $1) AND (group_id, position) > ($2, $3)
                     ORDER BY group_id, position LIMIT $4)
                 SELECT group_id, position, fault, count(*), min(epoch), (array_agg(sender))[1], min(at), max(at)
                 FROM commit_reports JOIN page USING (group_id, position)
                 GROUP BY group_id, position, fault ORDER BY group_id, position, fault",
            )
            .bind(group.as_ref().map(|group| group.as_bytes().as_slice()))
            .bind(after_group.as_bytes().as_slice())
            .bind(after_position.0.cast_signed())
            .bind(max as i64)
            .try_map(|row| of_one_fault(&row))
            .fetch_all(&self.pool)
            .await
        })
        .await?;
        let mut commits: Vec<ReportedCommit> = Vec::new();
        for row in rows {
            match commits.last_mut() {
                Some(last) if (last.group, last.position) == (row.group, row.position) => {
                    last.faults.extend(row.faults);
                    last.first_at = last.first_at.min(row.first_at);
                    last.last_at = last.last_at.max(row.last_at);
                }
                _ => commits.push(row),
            }
        }
        Ok(commits)
    }
}

fn of_one_fault(row: &PgRow) -> sqlx::Result<ReportedCommit> {
    let devices = u32::try_from(unsigned(row, 3)?).unwrap_or(u32::MAX);
    let sender = match row.try_get::<Option<&[u8]>, _>(5)? {
        Some(_) => Some(device_id(row, 5)?),
        None => None,
    };
    Ok(ReportedCommit {
        group: group_id(row, 0)?,
        position: position(row, 1)?,
        epoch: Epoch(unsigned(row, 4)?),
        sender,
        faults: vec![(row.try_get(2)?, devices)],
        first_at: unsigned(row, 6)?,
        last_at: unsigned(row, 7)?,
    })
}
