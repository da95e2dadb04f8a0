//! Empties the store's write-ahead log soon after secrets were deleted, not only with the next upkeep.
//!
//! What must go at once, the keys of a group that this device is out of, the engine sees to itself.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use crate::Error;
use crate::engine::Engine;

/// Emptying it waits for the disk: in a busy group not with each commit.
const PAUSE: Duration = Duration::from_mins(1);

pub(super) async fn run(session: Arc<Session>) {
    loop {
        session.scrubbing.notified().await;
        // While the device reads what it missed, one epoch follows the other.
        if !session.has_caught_up().await {
            return;
        }
        match session.engine.run(Engine::scrub).await {
            Ok(()) => {}
            Err(Error::Closed) => return,
            Err(error) => tracing::warn!(%error, "the store's write-ahead log could not be emptied"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
