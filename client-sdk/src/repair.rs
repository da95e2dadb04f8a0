//! What the repair of a frozen group has brought back, or would.

use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, EntryId, Epoch, Position};

use crate::Error;

/// Where a repaired group stands, and where that came from.
///
/// ```
/// use valise_client_sdk::Repair;
///
/// fn tell(repair: &Repair) -> String {
///     format!("{} entries came back from {} devices, {} are lost", repair.restored(), repair.devices, repair.lost())
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// Its newest entry.
    pub position: Position,
    /// Its epoch.
    pub epoch: Epoch,
    /// Up to here (inclusive) it is what the archive had; what follows came from devices.
    pub archived: Position,
    /// Devices that have given back something of it.
    pub devices: u32,
    /// The fewest devices that agree on an entry; 0 where none came from devices.
    pub least_agreeing: u32,
    /// Why it goes no further.
    pub end: RepairEnd,
    /// The newest position that any device has given back: what is after [`Repair::position`], up to here, is lost.
    pub offered: Position,
    /// What was given back for the position at which it ended.
    pub candidates: Vec<RepairCandidate>,
    /// No device can rejoin until a member commits: the GroupInfo of the newest commit is not known.
    pub group_info_missing: bool,
    /// The end of the log that the group had while it was frozen, and that is given up; none where it had lost it altogether.
    pub abandoned: Option<Position>,
}

impl Repair {
    /// Entries that came from devices.
    pub fn restored(&self) -> u64 {
        self.position.0.saturating_sub(self.archived.0)
    }

    /// Entries that devices know of, and that are lost.
    pub fn lost(&self) -> u64 {
        self.offered.0.saturating_sub(self.position.0)
    }
}

/// Why a repair goes no further.
///
/// ```
/// use valise_client_sdk::{Repair, RepairEnd};
///
/// fn is_worth_waiting(repair: &Repair) -> bool {
///     repair.end == RepairEnd::Missing // a device that is offline may have more
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RepairEnd {
    /// Everything that was given back is there.
    Complete,
    /// No device has given back the next entry.
    Missing,
    /// Devices have given back different entries, and none can be ruled out.
    Conflict,
    /// What was given back cannot have been in the log.
    Refused,
    /// The administrator wanted no more.
    Limit,
}

/// What some devices say that a position held.
///
/// ```
/// use valise_client_sdk::Repair;
///
/// fn tell(repair: &Repair) {
///     for candidate in &repair.candidates {
///         println!("{} devices: entry {:?} {}", candidate.devices.len(), candidate.entry, candidate.rule);
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairCandidate {
    /// The entry's id.
    pub entry: EntryId,
    /// The devices.
    pub devices: Vec<DeviceId>,
    /// The rule that it breaks; empty where it breaks none.
    pub rule: String,
}

impl Repair {
    pub(crate) fn from_wire(response: wire::RepairGroupResponse) -> Result<Self, Error> {
        let end = match response.end() {
            wire::RepairEnd::Complete => RepairEnd::Complete,
            wire::RepairEnd::Conflict => RepairEnd::Conflict,
            wire::RepairEnd::Refused => RepairEnd::Refused,
            wire::RepairEnd::Limit => RepairEnd::Limit,
            // An older service says nothing: it knows the archive alone.
            wire::RepairEnd::Missing | wire::RepairEnd::Unspecified => RepairEnd::Missing,
        };
        let candidate = |candidate: wire::RepairCandidate| {
            let devices = candidate.device_ids.iter().map(|device| device.parse());
            Ok(RepairCandidate {
                entry: EntryId::try_from(candidate.entry_id.as_ref()).map_err(|_| Error::Unreachable)?,
                devices: devices
                    .collect::<Result<_, _>>()
                    .map_err(|_| Error::Unreachable)?,
                rule: candidate.rule,
            })
        };
        Ok(Self {
            position: Position(response.position),
            epoch: Epoch(response.epoch),
            archived: Position(response.archived_position),
            devices: response.offering_devices,
            least_agreeing: response.least_agreeing,
            end,
            offered: Position(response.offered_position),
            candidates: response
                .candidates
                .into_iter()
                .map(candidate)
                .collect::<Result<_, Error>>()?,
            group_info_missing: response.group_info_missing,
            abandoned: (response.abandoned_position > 0).then_some(Position(response.abandoned_position)),
        })
    }
}
