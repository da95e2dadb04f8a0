//! What operators see of archiving.

use std::time::{Duration, Instant};

use opentelemetry::metrics::{Counter, Gauge};
use valise_service_runtime::names;

/// How far the archive is behind with one partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    /// Changes that are not archived.
    pub(super) changes: u64,
    /// Everything that changed up to this time is archived.
    reached: Instant,
    /// A time, and the change up to which the partition had come then.
    mark: (Instant, u64),
}

impl Lag {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            changes: 0,
            reached: now,
            mark: (now, 0),
        }
    }

    /// The partition has come up to `sequence`, the archive up to `change`.
    pub(super) fn is(&mut self, now: Instant, sequence: u64, change: u64) {
        self.changes = sequence.saturating_sub(change);
        if self.changes == 0 {
            self.reached = now;
            self.mark = (now, sequence);
        } else if change >= self.mark.1 {
            self.reached = self.mark.0;
            self.mark = (now, sequence);
        }
    }

    /// How old the oldest change is that is not archived; zero where there is none.
    pub(super) fn age(&self, now: Instant) -> Duration {
        if self.changes == 0 {
            Duration::ZERO
        } else {
            now.saturating_duration_since(self.reached)
        }
    }
}

pub(super) struct Measures {
    lag_changes: Gauge<u64>,
    lag_seconds: Gauge<f64>,
    archived: Counter<u64>,
    trimmed: Counter<u64>,
    deleted: Counter<u64>,
}

impl Measures {
    pub(super) fn new() -> Self {
        let meter = opentelemetry::global::meter(names::SCOPE);
        Self {
            lag_changes: meter.u64_gauge(names::ARCHIVE_LAG_CHANGES).build(),
            lag_seconds: meter.f64_gauge(names::ARCHIVE_LAG_SECONDS).with_unit("s").build(),
            archived: meter.u64_counter(names::ARCHIVED).build(),
            trimmed: meter.u64_counter(names::TRIMMED).build(),
            deleted: meter.u64_counter(names::DELETED).build(),
        }
    }

    pub(super) fn lag(&self, changes: u64, age: Duration) {
        self.lag_changes.record(changes, &[]);
        self.lag_seconds.record(age.as_secs_f64(), &[]);
    }

    pub(super) fn archived(&self, entries: usize) {
        self.archived.add(entries as u64, &[]);
    }

    pub(super) fn trimmed(&self, entries: u64) {
        self.trimmed.add(entries, &[]);
    }

    pub(super) fn deleted(&self, entries: u64) {
        self.deleted.add(entries, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_oldest_change_that_waits() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lag = Lag::new(start);
        lag.is(at(1), 10, 10);
        assert_eq!((lag.changes, lag.age(at(9))), (0, Duration::ZERO));
        // Nothing is archived for a while: since second 1 it waits.
        lag.is(at(3), 20, 10);
        lag.is(at(5), 30, 10);
        assert_eq!((lag.changes, lag.age(at(5))), (20, Duration::from_secs(4)));
        // It goes on, a little behind: what came after second 3 waits.
        lag.is(at(6), 40, 25);
        assert_eq!(lag.age(at(6)), Duration::from_secs(3));
        lag.is(at(7), 40, 40);
        assert_eq!(lag.age(at(8)), Duration::ZERO);
    }
}
