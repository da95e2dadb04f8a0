//! Opens a group that was frozen because its log went back in time: back to the archive's end, and on from there with what devices have
//! offered.
//!
//! - [`plan`]: goes through the offers position by position, until there is none, or more than one that could be right.
//! - [`judge`]: would this entry have been accepted there?
//!
//! A dry run makes the same plan and leaves it at that.

mod judge;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::oneshot;
use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, Epoch, GroupId, Position, Reason, Refusal};

use self::judge::Rules;
use self::plan::{End, Judged, Plan};
use crate::audit::Act;
use crate::log::offers::{Frozen, Restoration, restored_key};
use crate::log::{Head, Snapshot};
use crate::service::Delivery;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repair {
    pub(crate) group: GroupId,
    /// Only say what would be done.
    pub(crate) dry_run: bool,
    /// Take nothing after this position from devices.
    pub(crate) up_to: Option<Position>,
}

/// What was done, or would be.
#[derive(Debug)]
pub(crate) struct Repaired {
    pub(crate) position: Position,
    pub(crate) epoch: Epoch,
    /// Up to here it is what the archive had.
    pub(crate) archived: Position,
    pub(crate) offering_devices: usize,
    pub(crate) least_agreeing: usize,
    pub(crate) end: End,
    /// The newest position that anybody has offered.
    pub(crate) offered: Position,
    pub(crate) candidates: Vec<Judged>,
    pub(crate) group_info_missing: bool,
    /// The end of the log that is given up.
    pub(crate) abandoned: Position,
}

impl Delivery {
    /// For administrators. It is written to the audit log first, and to the service's log, which is where operators look for the regression.
    pub(crate) async fn repair_group(
        self: &Arc<Self>,
        administrator: DeviceId,
        repair: Repair,
    ) -> Result<Repaired, Refusal> {
        let group = repair.group;
        let Some(frozen) = self.log.frozen(group).await? else {
            return Err(self.not_frozen(group).await?);
        };
        let up_to = repair.up_to.unwrap_or(Position(u64::MAX));
        let mut plan = self.plan_repair(group, &frozen, up_to).await?;
        let snapshot = plan.snapshot.take();
        let restoration = std::mem::take(&mut plan.restoration);
        let planned = repaired(&frozen, plan);
        if repair.dry_run {
            return Ok(planned);
        }
        self.audit
            .write_down(administrator, Act::GroupRepaired { group })
            .await?;
        // A caller that goes away must not stop it halfway.
        let (done, result) = oneshot::channel();
        let delivery = Arc::clone(self);
        self.lifecycle.spawn("repair", async move {
            let repaired = delivery.put_back(group, restoration, snapshot).await;
            if let Ok(head) = &repaired {
                say(administrator, group, head, &planned);
            }
            let is_repaired = repaired.is_ok();
            // Nobody listens: the caller has gone.
            let _ = done.send(repaired.map(|_| planned));
            if is_repaired {
                // Whoever was revoked meanwhile may be back in, or may never have been proposed for removal.
                delivery.issue_removals_again(group).await;
            }
        });
        result.await.map_err(|_| Reason::Internal)?
    }

    async fn put_back(
        &self,
        group: GroupId,
        restoration: Restoration,
        snapshot: Option<Snapshot>,
    ) -> Result<Head, Refusal> {
        let Some(head) = self.log.repair(group, restoration).await? else {
            return Err(self.not_frozen(group).await?);
        };
        self.forget(group);
        if let Some(snapshot) = snapshot
            && let Err(error) = self.log.put_snapshot(group, snapshot).await
        {
            tracing::error!(%error, %group, "a snapshot could not be kept");
        }
        Ok(head)
    }

    /// The refusal for a group that there is nothing to repair of.
    pub(crate) async fn not_frozen(&self, group: GroupId) -> Result<Refusal, Refusal> {
        Ok(match self.log.head(group).await? {
            Some(_) => Refusal::new(Reason::PolicyDenied).with("rule", "not_frozen"),
            None => Reason::GroupNotFound.into(),
        })
    }

    /// How far the offers go.
    pub(crate) async fn plan_repair(
        &self,
        group: GroupId,
        frozen: &Frozen,
        up_to: Position,
    ) -> Result<Plan, Refusal> {
        let state = self.states.apart(group).await?;
        let rules = Rules {
            limits: self.limits,
            bundle: self.verifier.trust_bundle(),
            retention_seconds: self.retention_seconds,
            now: self.clock.unix_millis(),
        };
        let verifier = self.verifier.clone();
        let mut plan = Plan::begin(state, frozen, rules);
        while let Some((after, last)) = plan.wants(frozen, up_to) {
            let mut candidates = self.log.candidates(group, after, last).await?;
            for candidate in &mut candidates {
                // Who lied about what was said may be found out, and revoked, before the repair is done.
                let mut by = Vec::new();
                for (user, device) in candidate.by.drain(..) {
                    if !verifier.is_revoked(&user, device)? {
                        by.push((user, device));
                    }
                }
                candidate.by = by;
                // A message of an epoch that is archived, perhaps by an earlier repair.
                let entry = &candidate.entry;
                if frozen.repaired && entry.epoch <= frozen.head.epoch {
                    let key = restored_key(&entry.bytes);
                    if self.log.repeat(group, key, entry.sender).await?.is_some() {
                        plan.has(key);
                    }
                }
            }
            plan = tokio::task::spawn_blocking(move || plan.go_on(&candidates, last))
                .await
                .map_err(|_| Reason::Internal)??;
        }
        Ok(plan)
    }
}

fn repaired(frozen: &Frozen, plan: Plan) -> Repaired {
    let restored = plan.state.position_of_log.0 - frozen.head.position.0;
    Repaired {
        position: plan.state.position_of_log,
        epoch: plan.state.group.epoch(),
        archived: frozen.head.position,
        offering_devices: plan.offering.len(),
        least_agreeing: if restored == 0 { 0 } else { plan.least_agreeing },
        end: plan.end.unwrap_or(End::Complete),
        offered: frozen.offered,
        candidates: plan.candidates,
        group_info_missing: plan.group_info_missing,
        abandoned: frozen.abandoned,
    }
}

fn say(administrator: DeviceId, group: GroupId, head: &Head, repaired: &Repaired) {
    tracing::warn!(
        audit = "group_repaired",
        %group,
        by = %administrator,
        position = head.position.0,
        epoch = head.epoch.0,
        archived = repaired.archived.0,
        offered = repaired.offered.0,
        "a frozen group was put back to its newest archived entry and what its devices had after it"
    );
}

impl From<Repaired> for wire::RepairGroupResponse {
    fn from(repaired: Repaired) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let end = match repaired.end {
            End::Complete => wire::RepairEnd::Complete,
            End::Missing => wire::RepairEnd::Missing,
            End::Conflict => wire::RepairEnd::Conflict,
            End::Refused => wire::RepairEnd::Refused,
            End::Limit => wire::RepairEnd::Limit,
        };
        let candidates = repaired
            .candidates
            .into_iter()
            .map(|candidate| wire::RepairCandidate {
                entry_id: candidate.id.to_vec().into(),
                device_ids: candidate.devices.iter().map(DeviceId::to_string).collect(),
                rule: candidate.rule.unwrap_or_default().to_owned(),
            });
        Self {
            position: repaired.position.0,
            epoch: repaired.epoch.0,
            archived_position: repaired.archived.0,
            offering_devices: count(repaired.offering_devices),
            least_agreeing: count(repaired.least_agreeing),
            end: end.into(),
            offered_position: repaired.offered.0,
            candidates: candidates.collect(),
            group_info_missing: repaired.group_info_missing,
            abandoned_position: repaired.abandoned.0,
        }
    }
}
