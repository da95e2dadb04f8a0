//! Commits that the service has to be told about.

use rusqlite::params;
use valise_proto::{GroupId, Position};

use super::Database;
use crate::Error;

/// A commit, and what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReportRow {
    pub(crate) group: GroupId,
    pub(crate) position: Position,
    /// `valise.delivery.v1.CommitFault`.
    pub(crate) fault: i32,
}

impl Database {
    /// Says whether that is news.
    pub(crate) fn put_report(&self, report: &ReportRow) -> Result<bool, Error> {
        let put = self.connection.execute(
            "INSERT INTO reports (group_id, position, fault) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![
                report.group.as_bytes().as_slice(),
                report.position.0.cast_signed(),
                report.fault,
            ],
        )?;
        Ok(put == 1)
    }

    pub(crate) fn reports(&self) -> Result<Vec<ReportRow>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT group_id, position, fault FROM reports ORDER BY group_id, position")?;
        let mut rows = statement.query([])?;
        let mut reports = Vec::new();
        while let Some(row) = rows.next()? {
            let group: Vec<u8> = row.get(0)?;
            reports.push(ReportRow {
                group: GroupId::try_from(group.as_slice())
                    .map_err(|_| Error::InvalidInput("the store's group id"))?,
                position: Position(row.get::<_, i64>(1)?.cast_unsigned()),
                fault: row.get(2)?,
            });
        }
        Ok(reports)
    }

    pub(crate) fn delete_report(&self, report: &ReportRow) -> Result<(), Error> {
        self.connection.execute(
            "DELETE FROM reports WHERE group_id = ?1 AND position = ?2 AND fault = ?3",
            params![
                report.group.as_bytes().as_slice(),
                report.position.0.cast_signed(),
                report.fault,
            ],
        )?;
        Ok(())
    }
}
