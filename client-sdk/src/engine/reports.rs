//! Commits that the service has to be told about: kept until it has answered.

use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::Engine;
use super::effects::{Chore, Effect};
use crate::Error;
use crate::store::ReportRow;

impl Engine {
    /// Tells the service what is wrong with an accepted commit (RFC 9420 §16.12), or what came with it.
    pub(super) fn report(
        &mut self,
        group: GroupId,
        position: Position,
        fault: wire::CommitFault,
    ) -> Result<(), Error> {
        let report = ReportRow {
            group,
            position,
            fault: fault.into(),
        };
        if self.db.put_report(&report)? {
            self.effects.push(Effect::Chore(Chore::Report(report)));
        }
        Ok(())
    }

    /// What a former run could not tell.
    pub(super) fn resume_reports(&mut self) -> Result<(), Error> {
        let reports = self.db.reports()?.into_iter().map(Chore::Report);
        self.effects.extend(reports.map(Effect::Chore));
        Ok(())
    }

    /// The service has taken it, or never will.
    pub(crate) fn reported(&mut self, report: &ReportRow) -> Result<(), Error> {
        self.db.delete_report(report)
    }
}
