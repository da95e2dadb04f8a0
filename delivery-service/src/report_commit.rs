//! A member reports an accepted commit that it cannot process, as only members can check path secrets and confirmation tags; or whose
//! committer was shown another log.

use opentelemetry::KeyValue;
use valise_proto::delivery::v1::CommitFault;
use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal};
use valise_service_runtime::names;

use crate::log::{CommitReport, EntryKind, Window};
use crate::service::Delivery;

impl Delivery {
    /// Kept for administrators, once for each device and commit.
    pub(crate) async fn report_commit(
        &self,
        device: DeviceId,
        group: GroupId,
        position: Position,
        fault: CommitFault,
    ) -> Result<(), Refusal> {
        if fault == CommitFault::Unspecified {
            return Err(Refusal::malformed("fault"));
        }
        if self.log.head(group).await?.is_none() {
            return Err(Reason::GroupNotFound.into());
        }
        let windows = self.log.windows(group, device).await?;
        // Who was added knows what came with the commit that added it, though it does not read that.
        let knows = |window: &Window| window.after == position || window.contains(position);
        if !windows.iter().any(knows) {
            return Err(Reason::NotAMember.into());
        }
        let before = Position(position.0.saturating_sub(1));
        let entries = self.log.read(group, before, 1, 0).await?;
        let commit = entries
            .first()
            .filter(|entry| entry.position == position && entry.kind == EntryKind::Commit)
            .ok_or_else(|| Refusal::malformed("position"))?;
        let report = CommitReport {
            group,
            position,
            epoch: commit.epoch,
            sender: commit.sender,
            reporter: device,
            fault: fault.into(),
            at: self.clock.unix_millis(),
        };
        if !self.log.report(report).await? {
            return Ok(());
        }
        let meter = opentelemetry::global::meter(names::SCOPE);
        let what = match fault {
            CommitFault::DeliveryForked => "a member was shown another log than who sent an accepted commit",
            _ => "a member cannot process an accepted commit",
        };
        let fault = fault.as_str_name();
        meter
            .u64_counter(names::COMMIT_REPORTS)
            .build()
            .add(1, &[KeyValue::new(names::FAULT, fault)]);
        tracing::error!(
            %group,
            %position,
            epoch = %commit.epoch,
            fault,
            reporter = %device,
            "{what}"
        );
        Ok(())
    }
}
