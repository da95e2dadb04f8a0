//! The time as a parameter: code that asks a [`Clock`] can be shown any time by a test.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time: the system's, or one that a test moves.
#[derive(Clone, Default)]
pub struct Clock {
    /// Milliseconds added to the system's time.
    offset: Option<Arc<AtomicI64>>,
}

/// Moves the clock that it was made with.
pub struct ManualClock {
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub const fn system() -> Self {
        Self { offset: None }
    }

    /// A clock that runs with the system's and can be moved.
    pub fn movable() -> (Self, ManualClock) {
        let offset = Arc::new(AtomicI64::new(0));
        (
            Self {
                offset: Some(Arc::clone(&offset)),
            },
            ManualClock { offset },
        )
    }

    /// Now.
    #[expect(clippy::disallowed_methods, reason = "this is where the time comes from")]
    pub fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        let Some(offset) = &self.offset else { return now };
        let offset = offset.load(Ordering::SeqCst);
        let by = Duration::from_millis(offset.unsigned_abs());
        if offset >= 0 { now + by } else { now - by }
    }

    /// Now, in milliseconds since 1970-01-01 UTC.
    pub fn unix_millis(&self) -> u64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Now, in seconds since 1970-01-01 UTC.
    pub fn unix_seconds(&self) -> u64 {
        self.unix_millis() / 1000
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.offset.is_some() {
            "Clock(movable)"
        } else {
            "Clock(system)"
        })
    }
}

impl ManualClock {
    /// Moves the clock forward by this much.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset.fetch_add(by, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_movable_clock_moves_and_all_its_copies_with_it() {
        let (clock, hand) = Clock::movable();
        let copy = clock.clone();
        let before = copy.unix_seconds();
        hand.advance(Duration::from_secs(3600));
        assert!(copy.unix_seconds() >= before + 3600);
    }
}
