//! Groups with a member whose credential does not stand the test: the commit that brought it in was merged, as refusing what others have
//! merged would fork the group, and nothing is sent but what takes members out. When all credentials are valid again, the group goes on.

use prost::Message as _;
use valise_group_rules::{Member, RuleViolation, identify};
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::inbox::accepted_at;
use super::intents::Operation;
use super::{Engine, live};
use crate::{Error, EventKind, GroupStatus};

/// Operations that are done in a quarantined group, too.
pub(super) fn takes_out(kind: &str) -> bool {
    [
        "remove",
        Operation::Leave.kind(),
        Operation::CommitProposals.kind(),
    ]
    .contains(&kind)
}

impl Engine {
    pub(super) fn quarantine(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        violation: RuleViolation,
    ) -> Result<(), Error> {
        let (position, rule) = (Position(entry.position), violation.0);
        tracing::error!(%group, rule, "an accepted commit breaks a rule: the group is quarantined");
        self.report(group, position, wire::CommitFault::Policy)?;
        self.stop(group, GroupStatus::Quarantined)?;
        let kind = EventKind::Quarantined {
            rule: rule.to_owned(),
            evidence: entry.encode_to_vec(),
        };
        self.emit(group, position, accepted_at(entry.accepted_at.as_ref()), &kind)
    }

    /// Where the group is quarantined, and all its members' certificates are valid at that time, in seconds since 1970-01-01 UTC: it goes on. To be
    /// asked after a commit, which the event names with its position and time in milliseconds, and when other authorities are trusted.
    pub(super) fn end_quarantine(
        &mut self,
        group: GroupId,
        (position, accepted_at): (Position, u64),
        at: u64,
    ) -> Result<(), Error> {
        let row = self.db.group(group)?;
        if row.is_none_or(|row| row.status != GroupStatus::Quarantined) {
            return Ok(());
        }
        let bundle = self.device.bundle.clone();
        // Also one that has ended since: which of them is why the group was quarantined, is not known any more.
        let valid =
            |member: &Member| identify(&member.credential, &member.signature_key, &bundle, at).is_ok();
        let live = live::get(&mut self.live, &self.db, group)?;
        if !live.roster.members().all(valid) {
            return Ok(());
        }
        tracing::info!(%group, "the group is not quarantined any more");
        self.db.put_status(group, GroupStatus::Active)?;
        self.emit(group, position, accepted_at, &EventKind::QuarantineEnded)
    }

    /// Other authorities are trusted now.
    pub(super) fn end_quarantines(&mut self) -> Result<(), Error> {
        let (now, millis) = (self.now(), self.options.clock.unix_millis());
        self.transaction(|engine| {
            for row in engine.db.groups()? {
                engine.end_quarantine(row.id, (row.position, millis), now)?;
            }
            Ok(())
        })
    }
}
