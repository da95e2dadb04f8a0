//! The services in the test's own process, on a real socket, with a clock that the test can move.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use valise_cli::up::{Embedded, Options as UpOptions};
use valise_client_sdk::{Clock, Options};
use valise_clock::ManualClock;

use crate::people::{Town, options};

const DOMAIN: &str = "valise.example";

/// Services with new data, and an administrator.
pub struct Services {
    folder: TempDir,
    up: UpOptions,
    embedded: Embedded,
    hands: ManualClock,
}

impl Services {
    /// Starts them, and enrols the administrator.
    pub async fn start() -> (Self, Town) {
        Self::start_with(|_| {}).await
    }

    /// The same, with other settings.
    pub async fn start_with(change: impl FnOnce(&mut UpOptions)) -> (Self, Town) {
        let folder = tempfile::tempdir().unwrap();
        let (clock, hands) = Clock::movable();
        let mut up = UpOptions::new(folder.path().join("data")).unwrap();
        up.clock = clock;
        change(&mut up);
        let embedded = Embedded::start(up.clone()).await.unwrap();
        let services = Self {
            folder,
            up,
            embedded,
            hands,
        };
        let code = services.embedded.administrator_enrolment_code().unwrap();
        let url = services.url();
        let town = Town::at_with(url.into(), code, DOMAIN, services.options(1)).await;
        (services, town)
    }

    /// Ends them, and starts them again at the same address with the same data and other settings.
    pub async fn restart_with(mut self, change: impl FnOnce(&mut UpOptions)) -> Self {
        self.up.listen = self.embedded.address();
        change(&mut self.up);
        self.embedded.stop().await;
        Self {
            embedded: Embedded::start(self.up.clone()).await.unwrap(),
            ..self
        }
    }

    /// Where they answer, `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        self.embedded.url()
    }

    /// Where the delivery service has its logs, and for as long as the test runs, a place for files.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// For devices that go by the same clock, with so many one-time key packages in stock.
    pub fn options(&self, one_time: usize) -> Options {
        let mut options = options(one_time);
        options.clock = self.up.clock.clone();
        options
    }

    /// Moves the clock of the services, and of all devices that go by it.
    pub fn advance(&self, by: Duration) {
        self.hands.advance(by);
    }
}
