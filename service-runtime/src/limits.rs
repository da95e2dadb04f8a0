//! A rate limit per caller.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::Deserialize;
use valise_clock::Clock;

/// So many requests (or other units of cost) in so many seconds, all of which may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many at once, and in each `seconds`.
    pub requests: NonZeroU32,
    /// In which they come back.
    pub seconds: NonZeroU32,
}

impl RateLimit {
    /// `requests` in `seconds`; 0 counts as 1.
    pub const fn new(requests: u32, seconds: u32) -> Self {
        const fn at_least_one(number: u32) -> NonZeroU32 {
            match NonZeroU32::new(number) {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self {
            requests: at_least_one(requests),
            seconds: at_least_one(seconds),
        }
    }

    /// All of it, in nanoseconds.
    fn window(self) -> u64 {
        u64::from(self.seconds.get()) * 1_000_000_000
    }
}

/// A token bucket for each key, in bounded memory: beyond `max_keys`, the key that was not used for longest begins anew.
///
/// It is of this process: behind several replicas a caller may have the limit at each of them.
pub struct KeyedLimiter<K> {
    limit: RateLimit,
    clock: Clock,
    /// By key, when its bucket will be full again, in nanoseconds since 1970. A bucket that is full is no different from
    /// one that was never used, so it need not be kept.
    full_at: Cache<K, Arc<Mutex<u64>>>,
}

impl<K: Hash + Eq + Send + Sync + Clone + 'static> KeyedLimiter<K> {
    /// Every bucket is full.
    pub fn new(limit: RateLimit, max_keys: u64, clock: Clock) -> Self {
        let full_at = Cache::builder()
            .max_capacity(max_keys)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(Duration::from_nanos(limit.window()))
            .build();
        Self {
            limit,
            clock,
            full_at,
        }
    }

    /// Takes `cost` from the bucket of `key`, or takes nothing and says when there will be enough.
    ///
    /// A cost above the whole limit is taken as the whole limit, so that it can be met at all.
    pub fn check(&self, key: &K, cost: u32) -> Result<(), Duration> {
        let window = self.limit.window();
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let cost = u64::from(cost.min(self.limit.requests.get()));
        let price =
            u64::try_from(u128::from(window) * u128::from(cost) / u128::from(self.limit.requests.get()))
                .unwrap_or(window);

        let bucket = self.full_at.get_with_by_ref(key, || Arc::new(Mutex::new(0)));
        let mut full_at = bucket.lock();
        // A clock that was set back must not lock anybody out: a bucket is never emptier than empty.
        let from = (*full_at).clamp(now, now.saturating_add(window));
        let then = from.saturating_add(price);
        match then.checked_sub(now.saturating_add(window)) {
            None | Some(0) => {
                *full_at = then;
                Ok(())
            }
            Some(short) => Err(Duration::from_nanos(short)),
        }
    }
}

impl<K> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn limiter(
        requests: u32,
        seconds: u32,
        max_keys: u64,
    ) -> (KeyedLimiter<&'static str>, valise_clock::ManualClock) {
        let (clock, hand) = Clock::movable();
        (
            KeyedLimiter::new(RateLimit::new(requests, seconds), max_keys, clock),
            hand,
        )
    }

    #[test]
    fn all_at_once_then_one_by_one() {
        let (limiter, hand) = limiter(3, 3 * 3600, 10);
        for _ in 0..3 {
            limiter.check(&"a", 1).unwrap();
        }
        let wait = limiter.check(&"a", 1).unwrap_err();
        assert!(wait <= HOUR && wait > HOUR / 2, "{wait:?}");
        // The clock moves in milliseconds.
        hand.advance(wait + Duration::from_millis(1));
        limiter.check(&"a", 1).unwrap();
        limiter.check(&"a", 1).unwrap_err();
        limiter.check(&"b", 3).unwrap();
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let (limiter, _hand) = limiter(3, 3 * 3600, 10);
        limiter.check(&"a", 2).unwrap();
        for _ in 0..5 {
            limiter.check(&"a", 2).unwrap_err();
        }
        limiter.check(&"a", 1).unwrap();
    }

    #[test]
    fn a_cost_above_the_limit_needs_the_whole_of_it() {
        let (limiter, hand) = limiter(3, 3600, 10);
        limiter.check(&"a", 100).unwrap();
        limiter.check(&"a", 1).unwrap_err();
        hand.advance(HOUR);
        limiter.check(&"a", 100).unwrap();
    }

    #[test]
    fn memory_is_bounded() {
        let (clock, _hand) = Clock::movable();
        let limiter = KeyedLimiter::new(RateLimit::new(1, 3600), 100, clock);
        for key in 0..10_000_u32 {
            limiter.check(&key, 1).unwrap();
        }
        limiter.full_at.run_pending_tasks();
        assert!(limiter.full_at.entry_count() <= 100);
        limiter.check(&9_999, 1).unwrap_err();
    }
}
