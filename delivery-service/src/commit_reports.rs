//! What members reported of commits, and where a group stands: what an administrator decides on.

use valise_proto::{Epoch, GroupId, Position, Reason, Refusal};

use crate::log::ReportedCommit;
use crate::service::Delivery;

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// Where a group stands.
pub(crate) struct Standing {
    pub(crate) position: Position,
    pub(crate) epoch: Epoch,
    /// Devices.
    pub(crate) members: usize,
    pub(crate) frozen: bool,
    pub(crate) successor: Option<GroupId>,
    pub(crate) predecessor: Option<GroupId>,
}

impl Delivery {
    /// For administrators.
    pub(crate) async fn commit_reports(
        &self,
        group: Option<GroupId>,
        after: Option<(GroupId, Position)>,
        page_size: u32,
    ) -> Result<Vec<ReportedCommit>, Refusal> {
        let page = match page_size as usize {
            0 => DEFAULT_PAGE,
            page if page <= MAX_PAGE => page,
            _ => return Err(Refusal::malformed("page_size")),
        };
        Ok(self.log.reports(group, after, page).await?)
    }

    /// For administrators.
    pub(crate) async fn describe_group(&self, group: GroupId) -> Result<Standing, Refusal> {
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        let view = self.states.refresh(group).await?;
        Ok(Standing {
            position: head.position,
            epoch: head.epoch,
            members: view.roster.len(),
            frozen: head.frozen,
            successor: self.log.successor(group).await?,
            predecessor: self.log.predecessor(group).await?,
        })
    }
}
