//! The groups of the caller and of its user.

use valise_proto::{DeviceId, GroupId, Refusal, UserId};

use crate::log::Membership;
use crate::service::Delivery;

const MAX_PAGE: usize = 1000;

impl Delivery {
    pub(crate) async fn list_groups(
        &self,
        user: &UserId,
        device: DeviceId,
        after: Option<GroupId>,
        page_size: u32,
    ) -> Result<Vec<Membership>, Refusal> {
        let page = match page_size as usize {
            0 => MAX_PAGE,
            page if page <= MAX_PAGE => page,
            _ => return Err(Refusal::malformed("page_size")),
        };
        Ok(self.log.memberships(user, device, after, page).await?)
    }
}
