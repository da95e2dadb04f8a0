//! Deletes messages when their time comes.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use crate::engine::Engine;

/// The clock that counts may move otherwise than time passes: on a machine that slept, for example.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub(super) async fn run(session: Arc<Session>) {
    loop {
        let next = match session.engine.run(Engine::expire).await {
            Ok(next) => next,
            Err(crate::Error::Closed) => return,
            Err(error) => {
                tracing::error!(%error, "expired messages could not be deleted");
                // It is tried again.
                Some(u64::MAX)
            }
        };
        let Some(next) = next else {
            session.expiring.notified().await;
            continue;
        };
        let left = next.saturating_sub(session.options.clock.unix_millis());
        let left = Duration::from_millis(left).min(LOOK_AGAIN);
        // Whichever comes first: that time, or something that may expire before.
        let _ = tokio::time::timeout(left, session.expiring.notified()).await;
    }
}
