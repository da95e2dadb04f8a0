//! One group on a device's stream.

use valise_proto::delivery::v1::GroupCursor;
use valise_proto::{DeviceId, EntryId, GroupId, Position, Reason, Refusal};

use super::window::Unacknowledged;
use crate::door;
use crate::log::Standing;
use crate::read_entries::window_after;
use crate::service::Delivery;

/// Where a device stands in a group that it follows.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The last entry that was put onto the stream.
    pub(crate) sent: Position,
    /// Its id, where it is known.
    pub(crate) sent_id: Option<EntryId>,
    /// The log has entries up to there at least.
    pub(crate) known: Position,
    /// The last entry that the device has applied.
    pub(crate) acknowledged: Position,
    /// The last entry that it may see, once it is known.
    pub(crate) until: Option<Position>,
    /// The log may have more than was sent.
    pub(crate) behind: bool,
    pub(crate) unacknowledged: Unacknowledged,
}

/// A cursor, read.
pub(crate) struct Start {
    pub(crate) group: GroupId,
    position: Position,
    id: Option<EntryId>,
}

impl Start {
    pub(crate) fn at(group: GroupId, position: Position, id: Option<EntryId>) -> Self {
        Self { group, position, id }
    }

    pub(crate) fn read(cursor: &GroupCursor) -> Result<Self, Refusal> {
        let group = door::group_id("group_id", &cursor.group_id)?;
        let cursor = cursor
            .cursor
            .as_ref()
            .ok_or_else(|| Refusal::malformed("cursor"))?;
        let id = match cursor.entry_id.as_ref() {
            [] => None,
            bytes => Some(EntryId::try_from(bytes).map_err(|_| Refusal::malformed("entry_id"))?),
        };
        Ok(Self {
            group,
            position: Position(cursor.position),
            id,
        })
    }
}

/// Where a device goes on in a group, with the last position that it may read now; or why it cannot follow it, and from where on.
pub(crate) type Verdict = Result<(Followed, Position), (Reason, Position)>;

impl Delivery {
    /// Where the device goes on in groups, in their order.
    pub(crate) async fn start_following(
        &self,
        device: DeviceId,
        starts: &[Start],
    ) -> Result<Vec<Verdict>, Refusal> {
        let asked = starts.iter().map(|start| {
            let with_id = start.id.map(|_| start.position);
            (start.group, with_id.unwrap_or(Position::NONE))
        });
        let standings = self.log.standings(device, asked.collect()).await?;
        let mut verdicts = Vec::with_capacity(starts.len());
        for (start, standing) in starts.iter().zip(standings) {
            verdicts.push(self.judge_start(start, standing).await?);
        }
        Ok(verdicts)
    }

    async fn judge_start(&self, start: &Start, standing: Standing) -> Result<Verdict, Refusal> {
        let Some(head) = standing.head else {
            return Ok(Err((Reason::GroupNotFound, Position::NONE)));
        };
        let Some(window) = window_after(&standing.windows, start.position) else {
            return Ok(Err((Reason::NotAMember, Position::NONE)));
        };
        if let Some(until) = window.until
            && start.position >= until
        {
            return Ok(Err((Reason::NotAMember, until)));
        }
        if start.position > head.position {
            // The device knows more than the log.
            return Ok(Err((Reason::LogRegressed, head.position)));
        }
        let holds = match standing.id {
            Some(id) => start.id == Some(id),
            None => self.holds(start.group, &head, start.position, start.id).await?,
        };
        if !holds {
            return Ok(Err((Reason::LogRegressed, start.position)));
        }
        let from = start.position.max(window.after);
        let target = window.until.unwrap_or(head.position);
        let followed = Followed {
            sent: from,
            sent_id: start.id.filter(|_| from == start.position),
            known: head.position,
            acknowledged: from,
            until: window.until,
            behind: from < target,
            unacknowledged: Unacknowledged::default(),
        };
        Ok(Ok((followed, target)))
    }
}
