//! What a device has been sent and has not acknowledged.

use std::collections::VecDeque;

use valise_proto::Position;

/// The unacknowledged entries of one group, in order.
#[derive(Default, Debug)]
pub(crate) struct Unacknowledged {
    sent: VecDeque<(Position, usize)>,
}

impl Unacknowledged {
    /// The first of them.
    pub(crate) fn first(&self) -> Option<Position> {
        self.sent.front().map(|(position, _)| *position)
    }
}

/// How much of all groups together may be under way.
#[derive(Debug)]
pub(crate) struct Window {
    max_entries: usize,
    max_bytes: usize,
    entries: usize,
    bytes: usize,
}

impl Window {
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            max_entries,
            max_bytes,
            entries: 0,
            bytes: 0,
        }
    }

    /// May another entry go out?
    pub(crate) fn is_open(&self) -> bool {
        self.entries < self.max_entries && self.bytes < self.max_bytes
    }

    /// How many more entries may go out.
    pub(crate) fn room(&self) -> usize {
        self.max_entries.saturating_sub(self.entries)
    }

    /// How many more bytes may go out.
    pub(crate) fn room_bytes(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes)
    }

    pub(crate) fn sent(&mut self, group: &mut Unacknowledged, position: Position, bytes: usize) {
        group.sent.push_back((position, bytes));
        self.entries += 1;
        self.bytes += bytes;
    }

    /// Everything up to there is acknowledged. Returns whether that was news.
    pub(crate) fn acknowledged(&mut self, group: &mut Unacknowledged, up_to: Position) -> bool {
        let mut news = false;
        while let Some(&(position, bytes)) = group.sent.front()
            && position <= up_to
        {
            group.sent.pop_front();
            self.entries -= 1;
            self.bytes -= bytes;
            news = true;
        }
        news
    }

    /// The group is not followed any more.
    pub(crate) fn forget(&mut self, group: &mut Unacknowledged) {
        self.acknowledged(group, Position(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_closes_when_it_is_full_and_opens_with_acknowledgements() {
        let mut window = Window::new(3, 100);
        let mut group = Unacknowledged::default();
        for position in 1..=3 {
            assert!(window.is_open());
            window.sent(&mut group, Position(position), 10);
        }
        assert!(!window.is_open());
        assert!(window.acknowledged(&mut group, Position(2)));
        assert!(!window.acknowledged(&mut group, Position(2)));
        assert_eq!((window.room(), window.room_bytes()), (2, 90));
        window.sent(&mut group, Position(4), 95);
        assert!(!window.is_open());
        window.forget(&mut group);
        assert_eq!((window.room(), window.room_bytes()), (3, 100));
    }
}
