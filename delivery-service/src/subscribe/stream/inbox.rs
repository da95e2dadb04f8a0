//! Where a stream stands in its device's inbox.
//!
//! A store that went back in time may know of fewer items than a device has had, and numbers anew what comes. The device would pass that over; so it is shown what
//! is left, and what comes, with numbers after its last one. Once the store's count has reached the device's, what came meanwhile cannot be told from what the
//! device has had: of items that came while it was away, as many as were lost may be passed over.

use valise_proto::Refusal;

/// Where a stream stands in its device's inbox, in the store's own numbers.
pub(super) struct Inbox {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    /// There may be more.
    pub(super) news: bool,
    /// How much greater the numbers are that the device is shown.
    ahead: u64,
}

impl Inbox {
    /// `has`: the last item that the device has. `newest`: the last that there ever was, as far as the store knows. `first`: the first that is left.
    pub(super) fn begin(has: u64, newest: u64, first: Option<u64>) -> Self {
        let passed = if has <= newest {
            has
        } else {
            first.map_or(newest, |first| first.saturating_sub(1)).min(has)
        };
        Self {
            sent: passed,
            acknowledged: passed,
            news: true,
            ahead: has - passed,
        }
    }

    /// The number that the device is shown.
    pub(super) const fn shown(&self, number: u64) -> u64 {
        number.saturating_add(self.ahead)
    }

    /// The device has everything up to that number, as it is shown. Says up to which item that is, if it is news.
    pub(super) fn acknowledge(&mut self, shown: u64) -> Result<Option<u64>, Refusal> {
        let number = shown.saturating_sub(self.ahead);
        if number > self.sent {
            return Err(Refusal::malformed("inbox_number"));
        }
        if number <= self.acknowledged {
            return Ok(None);
        }
        self.acknowledged = number;
        Ok(Some(number))
    }

    /// Is nothing left to be sent or acknowledged?
    pub(super) const fn is_empty(&self) -> bool {
        !self.news && self.acknowledged == self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_stores_where_it_has_what_the_device_has() {
        assert_eq!(Inbox::begin(5, 5, None).shown(6), 6);
        assert_eq!(Inbox::begin(5, 9, Some(9)).shown(9), 9, "some have gone unread");
        assert_eq!(
            Inbox::begin(5, 9, Some(4)).shown(6),
            6,
            "what it has is not deleted yet"
        );
        let mut inbox = Inbox::begin(5, 7, Some(6));
        assert_eq!((inbox.sent, inbox.shown(6)), (5, 6));
        assert!(inbox.acknowledge(6).is_err(), "it was not sent");
        inbox.sent = 6;
        assert_eq!(inbox.acknowledge(6), Ok(Some(6)));
        assert_eq!(inbox.acknowledge(6), Ok(None));
    }

    #[test]
    fn after_a_loss_all_that_is_left_is_shown_after_what_the_device_has() {
        for (newest, first, passed) in [
            (2, None, 2),
            (0, None, 0),
            (2, Some(1), 0),
            (0, Some(3), 2),
            (0, Some(90), 7),
        ] {
            let mut inbox = Inbox::begin(7, newest, first);
            assert_eq!((inbox.sent, inbox.shown(passed + 1)), (passed, 8));
            inbox.sent = passed + 1;
            assert_eq!(inbox.acknowledge(7), Ok(None));
            assert_eq!(inbox.acknowledge(8), Ok(Some(passed + 1)));
        }
    }
}
