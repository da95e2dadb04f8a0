//! A member reports an accepted commit that it cannot process, as only members can check path secrets and confirmation tags; or whose
//! committer was shown another log.

use valise_proto::delivery::v1::CommitFault;
use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal};

use crate::log::EntryKind;
use crate::service::Delivery;

impl Delivery {
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
        if !windows.iter().any(|window| window.contains(position)) {
            return Err(Reason::NotAMember.into());
        }
        let before = Position(position.0.saturating_sub(1));
        let entries = self.log.read(group, before, 1, 0).await?;
        let commit = entries
            .first()
            .filter(|entry| entry.position == position && entry.kind == EntryKind::Commit)
            .ok_or_else(|| Refusal::malformed("position"))?;
        let what = match fault {
            CommitFault::DeliveryForked => "a member was shown another log than who sent an accepted commit",
            _ => "a member cannot process an accepted commit",
        };
        tracing::error!(
            %group,
            %position,
            epoch = %commit.epoch,
            fault = fault.as_str_name(),
            reporter = %device,
            "{what}"
        );
        Ok(())
    }
}
