//! Reads a part of a group's log, as far as the caller may see it.

use std::sync::Arc;

use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal};

use crate::log::{Entry, Window};
use crate::service::Delivery;

/// Entries of an answer, if the caller does not say.
const DEFAULT_ENTRIES: usize = 100;
/// Most entries of an answer.
const MAX_ENTRIES: usize = 1000;
/// An answer's size, beyond which no further entry goes in.
const MAX_BYTES: usize = 2 * 1024 * 1024;

pub(crate) struct ReadablePart {
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The last position that the caller may read now.
    pub(crate) last: Position,
}

impl Delivery {
    pub(crate) async fn read_entries(
        &self,
        device: DeviceId,
        group: GroupId,
        after: Position,
        max_entries: u32,
    ) -> Result<ReadablePart, Refusal> {
        let wanted = match max_entries as usize {
            0 => DEFAULT_ENTRIES,
            wanted if wanted <= MAX_ENTRIES => wanted,
            _ => return Err(Refusal::malformed("max_entries")),
        };
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        let windows = self.log.windows(group, device).await?;
        let window = window_after(&windows, after).ok_or(Reason::NotAMember)?;
        let last = window.until.unwrap_or(head.position);
        if after >= last {
            return Ok(ReadablePart {
                entries: Vec::new(),
                last,
            });
        }
        if after < window.after {
            // Earlier entries are not for this device.
            return Err(Refusal::new(Reason::NotAMember).with("first_position", window.after.next()));
        }
        let mut entries = self.log.read(group, after, wanted, MAX_BYTES).await?;
        if let Some(first) = trimmed(&entries, after) {
            return Err(Refusal::new(Reason::PositionTrimmed).with("first_position", first));
        }
        entries.retain(|entry| window.contains(entry.position));
        Ok(ReadablePart { entries, last })
    }
}

/// The first position that is kept, where that is not the next one.
pub(crate) fn trimmed(entries: &[Arc<Entry>], after: Position) -> Option<Position> {
    let first = entries.first()?.position;
    (first > after.next()).then_some(first)
}

/// The window in which a device that has read up to there goes on.
pub(crate) fn window_after(windows: &[Window], after: Position) -> Option<Window> {
    windows
        .iter()
        .find(|window| window.until.is_none_or(|until| after < until))
        .or_else(|| windows.last())
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_on_in_the_window_that_is_open_to_it() {
        let first = Window {
            after: Position(2),
            until: Some(Position(5)),
        };
        let second = Window {
            after: Position(9),
            until: None,
        };
        assert_eq!(window_after(&[], Position(0)), None);
        assert_eq!(window_after(&[first], Position(3)), Some(first));
        assert_eq!(window_after(&[first], Position(5)), Some(first));
        assert_eq!(window_after(&[first, second], Position(4)), Some(first));
        assert_eq!(window_after(&[first, second], Position(5)), Some(second));
        assert!(!first.contains(Position(2)) && first.contains(Position(3)));
        assert!(first.contains(Position(5)) && !first.contains(Position(6)));
    }
}
