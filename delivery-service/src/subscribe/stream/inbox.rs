//! Where a stream stands in its device's inbox.

use std::collections::VecDeque;

use valise_proto::Refusal;

/// Items that may be unacknowledged.
const WINDOW: usize = 16;

/// Where a stream stands in its device's inbox.
pub(super) struct Inbox {
    /// The last item that the device has.
    pub(super) acknowledged: u64,
    /// Sent, and not acknowledged.
    sent: VecDeque<u64>,
    /// There may be more.
    pub(super) news: bool,
}

impl Inbox {
    /// `has`: the last item that the device has.
    pub(super) const fn begin(has: u64) -> Self {
        Self {
            acknowledged: has,
            sent: VecDeque::new(),
            news: true,
        }
    }

    /// The last item that the device has or was sent.
    pub(super) fn last(&self) -> u64 {
        self.sent.back().copied().unwrap_or(self.acknowledged)
    }

    pub(super) fn sent(&mut self, number: u64) {
        self.sent.push_back(number);
    }

    /// May more be sent?
    pub(super) fn has_room(&self) -> bool {
        self.sent.len() < WINDOW
    }

    /// The device has everything up to that number. Says whether that is news.
    pub(super) fn acknowledge(&mut self, number: u64) -> Result<bool, Refusal> {
        if number > self.last() {
            return Err(Refusal::malformed("inbox_number"));
        }
        if number <= self.acknowledged {
            return Ok(false);
        }
        self.acknowledged = number;
        while self.sent.front().is_some_and(|sent| *sent <= number) {
            self.sent.pop_front();
        }
        Ok(true)
    }

    /// Is nothing left to be sent or acknowledged?
    pub(super) fn is_empty(&self) -> bool {
        !self.news && self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_is_acknowledged() {
        let mut inbox = Inbox::begin(5);
        assert!(inbox.acknowledge(6).is_err(), "it was not sent");
        inbox.sent(90);
        inbox.sent(95);
        assert!(inbox.acknowledge(96).is_err());
        assert_eq!(inbox.acknowledge(90), Ok(true));
        assert_eq!(inbox.acknowledge(90), Ok(false));
        assert_eq!((inbox.acknowledged, inbox.last()), (90, 95));
        inbox.news = false;
        assert!(!inbox.is_empty());
        assert_eq!(inbox.acknowledge(95), Ok(true));
        assert!(inbox.is_empty());
    }

    #[test]
    fn so_many_items_are_on_their_way_whatever_their_numbers_are() {
        let mut inbox = Inbox::begin(0);
        for item in 1..=WINDOW as u64 {
            assert!(inbox.has_room());
            inbox.sent(item * 1_000_000);
        }
        assert!(!inbox.has_room());
        inbox.acknowledge(2_000_000).unwrap();
        assert!(inbox.has_room());
    }
}
