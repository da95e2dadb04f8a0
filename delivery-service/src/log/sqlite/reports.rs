//! What members reported of commits.

use rusqlite::{Connection, Transaction, params};
use valise_proto::{Epoch, GroupId, Position};

use super::read::{device_id, group_id, position, unsigned};
use crate::log::{CommitReport, MAX_REPORTS, ReportedCommit};

/// Keeps a report, and of its reporter in that group no more than [`MAX_REPORTS`].
pub(super) fn put(transaction: &Transaction<'_>, report: &CommitReport) -> rusqlite::Result<bool> {
    let group = report.group.as_bytes();
    let reporter = report.reporter.as_uuid().as_bytes();
    let new = transaction
        .prepare_cached(
            "INSERT INTO commit_reports (group_id, position, reporter, epoch, sender, fault, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            group,
            report.position.0.cast_signed(),
            reporter,
            report.epoch.0.cast_signed(),
            report.sender.as_ref().map(|device| device.as_uuid().as_bytes()),
            report.fault,
            report.at.cast_signed(),
        ])?;
    transaction
        .prepare_cached(
            "DELETE FROM commit_reports WHERE group_id = ?1 AND reporter = ?2 AND position <=
                 (SELECT position FROM commit_reports WHERE group_id = ?1 AND reporter = ?2
                  ORDER BY position DESC LIMIT 1 OFFSET ?3)",
        )?
        .execute(params![group, reporter, MAX_REPORTS as i64])?;
    // One that is older than all that are kept is gone at once: that is none that is new.
    let is_kept = transaction
        .prepare_cached(
            "SELECT 1 FROM commit_reports WHERE group_id = ?1 AND position = ?2 AND reporter = ?3",
        )?
        .exists(params![group, report.position.0.cast_signed(), reporter])?;
    Ok(new == 1 && is_kept)
}

/// By group and position; one commit's reports are together.
pub(super) fn list(
    connection: &Connection,
    group: Option<GroupId>,
    after: Option<(GroupId, Position)>,
    max: usize,
) -> rusqlite::Result<Vec<ReportedCommit>> {
    let (after_group, after_position) = after.unwrap_or((GroupId::from_bytes([0; 16]), Position::NONE));
    let mut statement = connection.prepare_cached(
        "WITH page AS (
             SELECT DISTINCT group_id, position FROM commit_reports
             WHERE (?1 IS NULL OR group_id = ?1) AND (group_id, position) > (?2, ?3)
             ORDER BY group_id, position LIMIT ?4)
         SELECT group_id, position, fault, count(*), min(epoch), min(sender), min(at), max(at)
         FROM commit_reports JOIN page USING (group_id, position)
         GROUP BY group_id, position, fault ORDER BY group_id, position, fault",
    )?;
    let mut rows = statement.query(params![
        group.as_ref().map(GroupId::as_bytes),
        after_group.as_bytes(),
        after_position.0.cast_signed(),
        max as i64
    ])?;
    let mut commits: Vec<ReportedCommit> = Vec::new();
    while let Some(row) = rows.next()? {
        let fault = (row.get(2)?, row.get(3)?);
        let (first_at, last_at) = (unsigned(row, 6)?, unsigned(row, 7)?);
        let (group, position) = (group_id(row, 0)?, position(row, 1)?);
        match commits.last_mut() {
            Some(last) if (last.group, last.position) == (group, position) => {
                last.faults.push(fault);
                last.first_at = last.first_at.min(first_at);
                last.last_at = last.last_at.max(last_at);
            }
            _ => commits.push(ReportedCommit {
                group,
                position,
                epoch: Epoch(unsigned(row, 4)?),
                sender: device_id(row, 5)?,
                faults: vec![fault],
                first_at,
                last_at,
            }),
        }
    }
    Ok(commits)
}
