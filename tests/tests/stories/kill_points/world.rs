//! The services, and everybody's clock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use valise_client_sdk::{Client, Clock, GroupId, Options, Store};
use valise_tests::embedded::Services;
use valise_tests::people::{Town, options};
use valise_tests::retention::forget_all_but_newest;

/// One-time key packages of a witness: more than it is ever invited.
const PACKAGES: usize = 30;

/// Services on a real socket, people, and a clock that all of them go by.
pub(crate) struct World {
    folder: TempDir,
    pub(crate) url: String,
    pub(crate) town: Town,
    services: Services,
    /// In seconds.
    ahead: AtomicU64,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (services, town) = Services::start().await;
        Self {
            folder: tempfile::tempdir().unwrap(),
            url: services.url(),
            town,
            services,
            ahead: AtomicU64::new(0),
        }
    }

    /// Where a device has its store.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.valise"))
    }

    /// How devices here behave.
    pub(crate) fn options(&self) -> Options {
        self.services.options(1)
    }

    /// How far the clock is ahead of the system's.
    pub(crate) fn ahead(&self) -> Duration {
        Duration::from_secs(self.ahead.load(Ordering::SeqCst))
    }

    /// Of a group's log only the newest entry stays.
    pub(crate) fn forget(&self, group: GroupId) {
        forget_all_but_newest(&self.services.data().join("delivery.db"), group);
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.services.advance(by);
        self.ahead.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    /// A device that only watches, and does what it is told.
    pub(crate) async fn witness(&self, name: &str) -> Client {
        // Whoever joins with a last-resort package commits new keys at once, which nobody here has asked for.
        let mut options = self.services.options(PACKAGES);
        // It leaves the commits of others' proposals to the device that is watched.
        options.commit_delay = Duration::from_secs(3600);
        self.town.device_with(name, Store::memory(), options).await
    }
}

/// For a device in a process of its own, whose clock is ahead by that much.
pub(crate) fn ahead_by(ahead: Duration) -> Options {
    let (clock, hands) = Clock::movable();
    hands.advance(ahead);
    let mut options = options(1);
    options.clock = clock;
    options
}
