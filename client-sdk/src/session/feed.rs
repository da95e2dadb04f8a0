//! Events on their way to the app.

use tokio::sync::{broadcast, mpsc, watch};

use crate::engine::EngineHandle;
use crate::{Error, Event, EventId};

/// Events that are read from the store at once.
const BATCH: usize = 128;

/// Sends events in order, beginning with the first that is not confirmed, until nobody listens any more.
pub(super) async fn run(
    engine: EngineHandle,
    mut newest: watch::Receiver<EventId>,
    mut ephemeral: broadcast::Receiver<Event>,
    to: mpsc::Sender<Event>,
) {
    let mut after = EventId::NONE;
    loop {
        newest.borrow_and_update();
        match stored(&engine, &mut after, &to).await {
            Ok(true) => {}
            Ok(false) | Err(Error::Closed) => return,
            Err(error) => {
                tracing::error!(%error, "events could not be read");
                return;
            }
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = to.closed() => return,
            event = ephemeral.recv() => match event {
                Ok(event) => if to.send(event).await.is_err() { return },
                // They may be lost.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

/// Sends all that are stored. Says whether somebody still listens.
async fn stored(engine: &EngineHandle, after: &mut EventId, to: &mpsc::Sender<Event>) -> Result<bool, Error> {
    loop {
        let last = *after;
        let events = engine.run(move |engine| engine.events_after(last, BATCH)).await?;
        if events.is_empty() {
            return Ok(true);
        }
        for event in events {
            *after = event.id;
            if to.send(event).await.is_err() {
                return Ok(false);
            }
        }
    }
}
