//! What the use cases work with.

use std::sync::Arc;
use std::time::Duration;

use valise_access_token::Verifier;
use valise_clock::Clock;
use valise_proto::{DeviceId, Reason, Refusal, UserId};
use valise_service_runtime::KeyedLimiter;

use crate::config::{Config, PackageConfig};
use crate::known_devices::KnownDevices;
use crate::notices::Notices;
use crate::store::{Store, Usable};

/// A certificate must be valid for this long after a claim, in seconds: the commit that adds it is judged a little
/// later, when it is accepted.
const CERTIFICATE_MARGIN: u64 = 600;
/// Callers that are remembered by each limiter.
const LIMITED_CALLERS: u64 = 100_000;
/// Pairs of caller and device that are remembered.
const LIMITED_PAIRS: u64 = 200_000;

/// The store, and all that is asked before it is.
pub(crate) struct Directory {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) known_devices: KnownDevices,
    pub(crate) verifier: Verifier,
    pub(crate) clock: Clock,
    pub(crate) packages: PackageConfig,
    pub(crate) limits: Limits,
    pub(crate) notices: Notices,
}

/// Who may do how much. Kept by each replica: what must hold exactly (a package is handed out once) is in the store.
pub(crate) struct Limits {
    pub(crate) publish: KeyedLimiter<DeviceId>,
    pub(crate) claim: KeyedLimiter<UserId>,
    pub(crate) claim_of_one_device: KeyedLimiter<(UserId, DeviceId)>,
    pub(crate) find_suites: KeyedLimiter<UserId>,
}

impl Directory {
    pub(crate) fn new(
        config: &Config,
        store: Arc<dyn Store>,
        verifier: Verifier,
        clock: Clock,
        notices: Notices,
    ) -> Self {
        let limits = Limits {
            publish: KeyedLimiter::new(config.limits.publish, LIMITED_CALLERS, clock.clone()),
            claim: KeyedLimiter::new(config.limits.claim, LIMITED_CALLERS, clock.clone()),
            claim_of_one_device: KeyedLimiter::new(
                config.limits.claim_of_one_device,
                LIMITED_PAIRS,
                clock.clone(),
            ),
            find_suites: KeyedLimiter::new(config.limits.find_suites, LIMITED_CALLERS, clock.clone()),
        };
        Self {
            store,
            known_devices: KnownDevices::new(),
            verifier,
            clock,
            packages: config.packages.clone(),
            limits,
            notices,
        }
    }

    /// Which packages may be handed out at that time (checklist K4, K5).
    pub(crate) fn usable_at(&self, now: u64) -> Usable {
        Usable {
            not_after_from: now.saturating_add(self.packages.retention.as_secs()),
            certificate_not_after_from: now.saturating_add(CERTIFICATE_MARGIN),
        }
    }

    /// When a package stops being handed out: the inverse of [`Directory::usable_at`].
    pub(crate) fn last_usable(&self, first_not_after: u64, first_certificate_not_after: u64) -> u64 {
        let by_lifetime = first_not_after.saturating_sub(self.packages.retention.as_secs());
        by_lifetime.min(first_certificate_not_after.saturating_sub(CERTIFICATE_MARGIN))
    }
}

/// [`Reason::RateLimited`] with the time to wait.
pub(crate) fn rate_limited(wait: Duration) -> Refusal {
    Refusal::new(Reason::RateLimited).retry_after(wait)
}
