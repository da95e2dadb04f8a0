//! Groups with a member whose credential does not stand the test: the commit that brought it in was merged, as refusing what others have
//! merged would fork the group, and nothing is sent but what takes members out. When all credentials are valid again, the group goes on.

use prost::Message as _;
use valise_group_rules::{Member, RuleViolation, identify, identify_member};
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

    /// After a commit. `at` is in seconds since 1970-01-01 UTC.
    pub(super) fn end_quarantine(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
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
        if !self.all_members(group, valid)? {
            return Ok(());
        }
        tracing::info!(%group, "the group is not quarantined any more");
        self.db.put_status(group, GroupStatus::Active)?;
        let (position, at) = (Position(entry.position), accepted_at(entry.accepted_at.as_ref()));
        self.emit(group, position, at, &EventKind::QuarantineEnded)
    }

    /// What a group is when this device has asked to leave it and was not let go yet. `at` is in seconds since 1970-01-01 UTC.
    pub(super) fn status_of_stayer(&mut self, group: GroupId, at: u64) -> Result<GroupStatus, Error> {
        let bundle = self.device.bundle.clone();
        let valid =
            |member: &Member| identify_member(&member.credential, &member.signature_key, &bundle, at).is_ok();
        Ok(if self.all_members(group, valid)? {
            GroupStatus::Active
        } else {
            GroupStatus::Quarantined
        })
    }

    fn all_members(&mut self, group: GroupId, valid: impl Fn(&Member) -> bool) -> Result<bool, Error> {
        let live = live::get(&mut self.live, &self.db, group)?;
        Ok(live.roster.members().all(valid))
    }
}
