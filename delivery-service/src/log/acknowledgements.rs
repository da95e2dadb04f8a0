//! What devices acknowledge, kept in memory and written in batches: a command for each would cost more than the message.
//!
//! What a crash loses, the devices say again with their next acknowledgement; until then entries are only kept for longer.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use valise_proto::{DeviceId, GroupId, Position};

use super::StoreError;
use super::postgres::PostgresArchive;

/// Between two writes.
const FLUSH: Duration = Duration::from_secs(1);
/// Acknowledgements of one statement.
const BATCH: usize = 5000;
/// While they cannot be written, so many wait; what comes then is dropped.
const WAITING: usize = 500_000;

/// The acknowledgements that this replica has heard and not yet written.
#[derive(Debug)]
pub(crate) struct Acknowledgements {
    archive: PostgresArchive,
    waiting: Mutex<HashMap<(GroupId, DeviceId), Position>>,
}

impl Acknowledgements {
    pub(crate) fn new(archive: PostgresArchive) -> Self {
        Self {
            archive,
            waiting: Mutex::default(),
        }
    }

    /// Takes note of what a device has applied.
    pub(crate) fn note(&self, device: DeviceId, groups: Vec<(GroupId, Position)>) {
        let mut waiting = self.waiting.lock();
        for (group, position) in groups {
            let full = waiting.len() >= WAITING;
            match waiting.get_mut(&(group, device)) {
                Some(known) => *known = position.max(*known),
                None if full => {}
                None => {
                    waiting.insert((group, device), position);
                }
            }
        }
    }

    /// Until `stopping`: writes what has come. What is left then, [`flush`](Self::flush) writes.
    pub(crate) async fn run(&self, stopping: CancellationToken) {
        let mut tick = tokio::time::interval(FLUSH);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut troubled = false;
        while stopping.run_until_cancelled(tick.tick()).await.is_some() {
            let outcome = self.flush().await;
            match &outcome {
                Err(error) if !troubled => {
                    tracing::warn!(%error, "acknowledgements cannot be kept: they wait");
                }
                Ok(()) if troubled => tracing::info!("acknowledgements are kept again"),
                _ => {}
            }
            troubled = outcome.is_err();
        }
    }

    /// Writes what has come so far; what cannot be written waits on.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let all: Vec<_> = self.waiting.lock().drain().collect();
        let all: Vec<_> = all
            .into_iter()
            .map(|((group, device), position)| (group, device, position))
            .collect();
        let mut outcome = Ok(());
        for batch in all.chunks(BATCH) {
            if outcome.is_ok() {
                outcome = self.archive.acknowledge(batch).await;
            }
            if outcome.is_err() {
                for (group, device, position) in batch {
                    self.note(*device, vec![(*group, *position)]);
                }
            }
        }
        outcome
    }
}
