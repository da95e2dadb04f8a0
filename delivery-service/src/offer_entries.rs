//! Takes what a device gives back of a log that went back in time, for the administrator who repairs the group ([`crate::repair_group`]).
//!
//! Nothing is believed here: what is kept is who says what. Only members have a say: those of the archive's end, and those whom an
//! offered commit has added after it.

use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, Position, Reason, Refusal, UserId};

use crate::door::{group_id, sized};
use crate::log::offers::{OfferRefused, OfferedEntry};
use crate::log::{Entry, EntryKind};
use crate::service::Delivery;

/// Most entries of a request.
const MAX_ENTRIES: usize = 200;
/// A request's size, beyond which it has one entry alone.
pub(crate) const MAX_BYTES: usize = 4 * 1024 * 1024;

impl Delivery {
    /// Says the newest position that the device has offered.
    pub(crate) async fn offer_entries(
        &self,
        user: &UserId,
        device: DeviceId,
        request: wire::OfferEntriesRequest,
    ) -> Result<Position, Refusal> {
        let group = group_id("group_id", &request.group_id)?;
        let offered = self.read_offer(group, device, request.entries)?;
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        if !self.reads_on(group, device).await? {
            return Err(Reason::NotAMember.into());
        }
        if !head.frozen {
            return Err(not_taken("not_frozen"));
        }
        match self.log.offer(group, (user, device), offered).await? {
            Ok(newest) => Ok(newest),
            Err(refused) => Err(not_taken(match refused {
                OfferRefused::NotFrozen => "not_frozen",
                OfferRefused::Archived => "archived",
                OfferRefused::TooFar => "too_far",
                OfferRefused::TooMany => "too_many",
                OfferRefused::Otherwise => "offered_otherwise",
            })),
        }
    }

    fn read_offer(
        &self,
        group: GroupId,
        device: DeviceId,
        entries: Vec<wire::OfferedEntry>,
    ) -> Result<Vec<OfferedEntry>, Refusal> {
        if entries.is_empty() {
            return Err(Refusal::malformed("entries"));
        }
        if entries.len() > MAX_ENTRIES {
            return Err(Refusal::too_large("entries", MAX_ENTRIES));
        }
        let mut offered: Vec<OfferedEntry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let entry = read_entry(group, device, entry, self.limits.commit_bytes)?;
            if offered
                .last()
                .is_some_and(|before| before.entry.position >= entry.entry.position)
            {
                return Err(Refusal::malformed("position"));
            }
            offered.push(entry);
        }
        let size: usize = offered.iter().map(OfferedEntry::size).sum();
        if offered.len() > 1 && size > MAX_BYTES {
            return Err(Refusal::too_large("entries", MAX_BYTES));
        }
        Ok(offered)
    }

    /// May that device read what comes next? In a frozen group: as of the archive's end, or by a commit that was offered after it.
    pub(crate) async fn reads_on(&self, group: GroupId, device: DeviceId) -> Result<bool, Refusal> {
        let windows = self.log.windows(group, device).await?;
        if windows.iter().any(|window| window.until.is_none()) {
            return Ok(true);
        }
        let Some(frozen) = self.log.frozen(group).await? else {
            return Ok(false);
        };
        if frozen.offered <= frozen.head.position {
            return Ok(false);
        }
        // Anybody may ask, and a plan takes as much memory as there are offers: one at a time.
        let _turn = self
            .plans_asked_for
            .acquire()
            .await
            .map_err(|_| Reason::Internal)?;
        let plan = self.plan_repair(group, &frozen, Position(u64::MAX)).await?;
        Ok(plan.lets_in(device))
    }
}

fn not_taken(rule: &str) -> Refusal {
    Refusal::new(Reason::PolicyDenied).with("rule", rule)
}

fn read_entry(
    group: GroupId,
    device: DeviceId,
    offered: wire::OfferedEntry,
    limit: usize,
) -> Result<OfferedEntry, Refusal> {
    let entry = offered.entry.ok_or_else(|| Refusal::malformed("entry"))?;
    if group_id("group_id", &entry.group_id)? != group {
        return Err(Refusal::malformed("group_id"));
    }
    let kind = match entry.kind() {
        wire::EntryKind::Commit => EntryKind::Commit,
        wire::EntryKind::Proposal => EntryKind::Proposal,
        wire::EntryKind::Application => EntryKind::Application,
        wire::EntryKind::Unspecified => return Err(Refusal::malformed("kind")),
    };
    let sender: Option<DeviceId> = match entry.sender_device_id.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Refusal::malformed("sender_device_id"))?),
    };
    // What the stores can number.
    let number = |field, number: u64| match i64::try_from(number) {
        Ok(_) => Ok(number),
        Err(_) => Err(Refusal::malformed(field)),
    };
    sized("mls_message", &entry.mls_message, limit)?;
    if offered.group_info.len() > limit {
        return Err(Refusal::too_large("group_info", limit));
    }
    let own_commit = kind == EntryKind::Commit && sender == Some(device);
    if !offered.group_info.is_empty() && !own_commit {
        return Err(Refusal::malformed("group_info"));
    }
    Ok(OfferedEntry {
        group_info: (!offered.group_info.is_empty()).then_some(offered.group_info),
        entry: Entry {
            group,
            position: Position(number("position", entry.position)?),
            kind,
            epoch: Epoch(number("epoch", entry.epoch)?),
            accepted_at: millis(entry.accepted_at.as_ref())?,
            id: EntryId::try_from(entry.entry_id.as_ref()).map_err(|_| Refusal::malformed("entry_id"))?,
            sender,
            bytes: entry.mls_message,
        },
    })
}

/// Milliseconds since 1970-01-01 UTC: whole ones, as the service has said them.
fn millis(at: Option<&prost_types::Timestamp>) -> Result<u64, Refusal> {
    let malformed = || Refusal::malformed("accepted_at");
    let at = at.ok_or_else(malformed)?;
    let seconds = u64::try_from(at.seconds).map_err(|_| malformed())?;
    let nanos = u32::try_from(at.nanos).map_err(|_| malformed())?;
    if nanos >= 1_000_000_000 || nanos % 1_000_000 != 0 {
        return Err(malformed());
    }
    seconds
        .checked_mul(1000)
        .and_then(|millis| millis.checked_add(u64::from(nanos) / 1_000_000))
        .filter(|millis| i64::try_from(*millis).is_ok())
        .ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::door::timestamp;

    fn device() -> DeviceId {
        DeviceId::from_uuid(valise_proto::Uuid::from_bytes([9; 16]))
    }

    fn group() -> GroupId {
        GroupId::from_bytes([1; 16])
    }

    fn offered() -> wire::OfferedEntry {
        wire::OfferedEntry {
            entry: Some(wire::Entry {
                group_id: group().to_vec().into(),
                position: 3,
                kind: wire::EntryKind::Commit.into(),
                epoch: 1,
                accepted_at: Some(timestamp(1234)),
                entry_id: vec![5; 8].into(),
                mls_message: vec![1].into(),
                sender_device_id: device().to_string(),
            }),
            group_info: vec![2].into(),
        }
    }

    #[test]
    fn an_offer_is_read_as_it_was_sent() {
        let read = read_entry(group(), device(), offered(), 100).unwrap();
        assert_eq!(read.entry.accepted_at, 1234);
        assert_eq!(crate::grpc::entry(&read.entry), offered().entry.unwrap());
    }

    #[test]
    fn a_hostile_offer_is_refused_and_the_field_named() {
        let field = |change: fn(&mut wire::OfferedEntry, &mut wire::Entry)| {
            let mut offered = offered();
            let mut entry = offered.entry.take().unwrap();
            change(&mut offered, &mut entry);
            offered.entry = Some(entry);
            let refusal = read_entry(group(), device(), offered, 100).unwrap_err();
            refusal.metadata.get("field").cloned().unwrap_or_default()
        };
        assert_eq!(field(|_, entry| entry.group_id = vec![2; 16].into()), "group_id");
        assert_eq!(field(|_, entry| entry.group_id = vec![2; 3].into()), "group_id");
        assert_eq!(field(|_, entry| entry.kind = 0), "kind");
        assert_eq!(field(|_, entry| entry.kind = 77), "kind");
        assert_eq!(field(|_, entry| entry.position = u64::MAX), "position");
        assert_eq!(field(|_, entry| entry.epoch = 1 << 63), "epoch");
        assert_eq!(field(|_, entry| entry.entry_id = vec![5; 7].into()), "entry_id");
        assert_eq!(field(|_, entry| entry.mls_message = vec![].into()), "mls_message");
        assert_eq!(
            field(|_, entry| entry.mls_message = vec![0; 101].into()),
            "mls_message"
        );
        assert_eq!(
            field(|_, entry| entry.sender_device_id = "x".into()),
            "sender_device_id"
        );
        assert_eq!(
            field(|offered, _| offered.group_info = vec![0; 101].into()),
            "group_info"
        );
        // Nobody speaks for another committer.
        assert_eq!(
            field(|_, entry| entry.sender_device_id = String::new()),
            "group_info"
        );
        let at = |seconds, nanos| millis(Some(&Timestamp { seconds, nanos }));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (0, 1), (i64::MAX, 0)] {
            assert!(at(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
        assert!(millis(None).is_err());
        assert_eq!(at(2, 5_000_000).unwrap(), 2005);
    }
}
