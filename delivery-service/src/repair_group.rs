//! Opens a group that was frozen because its log went back in time.

use valise_proto::{DeviceId, GroupId, Reason, Refusal};

use crate::log::Head;
use crate::service::Delivery;

impl Delivery {
    /// For administrators. It is written to the service's log, which is where operators look for the regression, too.
    pub(crate) async fn repair_group(
        &self,
        administrator: DeviceId,
        group: GroupId,
    ) -> Result<Head, Refusal> {
        let Some(head) = self.log.repair(group).await? else {
            return Err(match self.log.head(group).await? {
                Some(_) => Refusal::new(Reason::PolicyDenied).with("rule", "not_frozen"),
                None => Reason::GroupNotFound.into(),
            });
        };
        self.states.forget(group);
        tracing::warn!(
            audit = "group_repaired",
            %group,
            by = %administrator,
            position = head.position.0,
            epoch = head.epoch.0,
            "a frozen group was put back to its newest archived entry"
        );
        Ok(head)
    }
}
