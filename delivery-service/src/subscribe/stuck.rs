//! Entries that a device keeps failing on: one stream of it after the other ends before they are acknowledged.
//!
//! Counted by each replica for itself, in memory: a report for operators, on which nothing else depends.

use std::time::Duration;

use moka::sync::Cache;
use valise_proto::{DeviceId, GroupId, Position};
use valise_service_runtime::names;

/// An entry that was sent again so often, with no acknowledgement in between, is stuck.
pub(crate) const REDELIVERIES: u32 = 5;
/// Groups of devices that are remembered.
const REMEMBERED: u64 = 50_000;
/// For so long after they were last heard of.
const IDLE: Duration = Duration::from_hours(24);

/// The first entry of a group that a device was sent and has not acknowledged.
#[derive(Clone, Copy)]
struct Unacknowledged {
    position: Position,
    /// How often it was sent again.
    redelivered: u32,
}

/// What the last streams of devices were sent in vain.
pub(crate) struct StuckEntries {
    remembered: Cache<(DeviceId, GroupId), Unacknowledged>,
}

impl Default for StuckEntries {
    fn default() -> Self {
        Self {
            remembered: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_idle(IDLE)
                .build(),
        }
    }
}

impl StuckEntries {
    /// A device's stream ended: up to where it has acknowledged a group, and the first entry that was sent after that, if any. Yields that
    /// entry when it begins to count as stuck: once.
    pub(crate) fn stream_ended(
        &self,
        device: DeviceId,
        group: GroupId,
        acknowledged: Position,
        unacknowledged: Option<Position>,
    ) -> Option<Position> {
        let key = (device, group);
        let known = self.remembered.get(&key);
        let Some(position) = unacknowledged else {
            if known.is_some_and(|known| known.position <= acknowledged) {
                self.remembered.invalidate(&key);
            }
            return None;
        };
        let redelivered = match known {
            Some(known) if known.position == position => known.redelivered.saturating_add(1),
            _ => 0,
        };
        let now = Unacknowledged {
            position,
            redelivered,
        };
        self.remembered.insert(key, now);
        (redelivered == REDELIVERIES).then_some(position)
    }
}

/// Tells operators.
pub(crate) fn report(device: DeviceId, group: GroupId, position: Position) {
    let meter = opentelemetry::global::meter(names::SCOPE);
    meter.u64_counter(names::STUCK_ENTRIES).build().add(1, &[]);
    tracing::warn!(%device, %group, %position, "an entry is sent again and again, and never acknowledged");
}

#[cfg(test)]
mod tests {
    use valise_proto::Uuid;

    use super::*;

    const GROUP: GroupId = GroupId::from_bytes([7; 16]);

    /// Streams of a device that each end with that entry unacknowledged: which of them say that it is stuck?
    fn streams(stuck: &StuckEntries, device: DeviceId, position: u64, count: u32) -> Vec<u32> {
        let (before, position) = (Position(position - 1), Position(position));
        let says = |number: &u32| {
            let said = stuck.stream_ended(device, GROUP, before, Some(position));
            assert!(said.is_none_or(|said| said == position), "{number}");
            said.is_some()
        };
        (1..=count).filter(says).collect()
    }

    #[test]
    fn an_entry_is_stuck_once_when_it_was_sent_again_so_often() {
        let stuck = StuckEntries::default();
        let device = |number| DeviceId::from_uuid(Uuid::from_u128(number));
        assert_eq!(streams(&stuck, device(1), 3, 20), [REDELIVERIES + 1]);
        // The device has come further, and fails again.
        assert_eq!(streams(&stuck, device(1), 4, 20), [REDELIVERIES + 1]);
        // Another one is another one.
        assert!(streams(&stuck, device(2), 4, REDELIVERIES).is_empty());
    }

    #[test]
    fn an_acknowledgement_in_between_begins_anew() {
        let stuck = StuckEntries::default();
        let device = DeviceId::from_uuid(Uuid::from_u128(1));
        assert!(streams(&stuck, device, 3, REDELIVERIES).is_empty());
        // It was not even sent: that says nothing.
        assert_eq!(stuck.stream_ended(device, GROUP, Position(2), None), None);
        assert_eq!(streams(&stuck, device, 3, 1), [1]);

        assert!(streams(&stuck, device, 4, REDELIVERIES).is_empty());
        assert_eq!(stuck.stream_ended(device, GROUP, Position(4), None), None);
        // A device that goes back to an older state of its own is sent the same again.
        assert!(streams(&stuck, device, 4, REDELIVERIES).is_empty());
    }
}
