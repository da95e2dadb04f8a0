//! Where a group's log stands, for a device that was told that it went back in time.

use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, EntryId, GroupId, Position, Reason, Refusal};

use crate::door::group_id;
use crate::log::Head;
use crate::service::Delivery;

impl Delivery {
    pub(crate) async fn get_log_standing(
        &self,
        device: DeviceId,
        request: &wire::GetLogStandingRequest,
    ) -> Result<wire::GetLogStandingResponse, Refusal> {
        let group = group_id("group_id", &request.group_id)?;
        let cursor = request
            .cursor
            .as_ref()
            .ok_or_else(|| Refusal::malformed("cursor"))?;
        let position = Position(cursor.position);
        let id = match cursor.entry_id.as_ref() {
            [] => None,
            bytes => Some(EntryId::try_from(bytes).map_err(|_| Refusal::malformed("entry_id"))?),
        };
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        if !self.reads_on(group, device).await? {
            return Err(Reason::NotAMember.into());
        }
        let offered = self.log.newest_offer(group, device).await?;
        Ok(wire::GetLogStandingResponse {
            frozen: head.frozen,
            last_position: head.position.0,
            holds_cursor: self.holds(group, &head, position, id).await?,
            offered_position: offered.0,
        })
    }

    /// Has the log that entry at that position? One that is not kept any more cannot be compared.
    pub(crate) async fn holds(
        &self,
        group: GroupId,
        head: &Head,
        position: Position,
        id: Option<EntryId>,
    ) -> Result<bool, Refusal> {
        if position > head.position {
            return Ok(false);
        }
        let (Some(id), true) = (id, position > Position::NONE) else {
            return Ok(true);
        };
        let before = Position(position.0 - 1);
        let entries = self.log.read(group, before, 1, 0).await?;
        Ok(entries
            .first()
            .is_some_and(|entry| entry.position != position || entry.id == id))
    }
}
