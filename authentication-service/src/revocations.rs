//! The feed of revocations: from the store to this process's own verifier, and from there to every service that follows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use valise_access_token::{FeedError, Verifier, VerifierFeed};
use valise_proto::authentication::v1::watch_revocations_response::Event;
use valise_proto::authentication::v1::{RevocationHeartbeat, WatchRevocationsResponse};

use crate::app::App;
use crate::store::{Store, StoreError};

/// How often the store is asked what other replicas wrote. Twice as often as receivers are promised a sign of life.
const INTERVAL: Duration = Duration::from_millis(250);
/// How many lines are read at a time.
const PAGE: u32 = 500;
/// How many lines may wait for one receiver.
const WINDOW: usize = 64;

/// Follows the revocations of the store.
pub(crate) struct RevocationFeed {
    store: Arc<dyn Store>,
    verifier: Verifier,
    feed: VerifierFeed,
    /// One at a time reads, so that lines are taken in order.
    reading: Mutex<()>,
    /// Told each time the store was read to its end.
    caught_up: watch::Sender<()>,
}

impl RevocationFeed {
    pub(crate) fn new(store: Arc<dyn Store>, verifier: Verifier, feed: VerifierFeed) -> Self {
        Self {
            store,
            verifier,
            feed,
            reading: Mutex::default(),
            caught_up: watch::Sender::new(()),
        }
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Reads what is new.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.reading.lock().await;
        loop {
            let before = self.feed.newest();
            let page = self.store.revocations(before, PAGE).await?;
            let taken = page.lines.into_iter().try_for_each(|line| self.feed.apply(line));
            match taken.and_then(|()| self.feed.heard(page.newest)) {
                Ok(()) => break,
                // There is more than a page of them.
                Err(FeedError::Missed) if self.feed.newest() > before => {}
                Err(FeedError::WentBack) => {
                    tracing::error!("the revocations in the store went back in time: was it restored?");
                    self.feed.start_over();
                }
                Err(FeedError::Missed | FeedError::Malformed) => {
                    return Err(StoreError::Damaged("revocations"));
                }
            }
        }
        self.caught_up.send_replace(());
        Ok(())
    }

    /// After a revocation was written: tells everybody at once. It was written, so this cannot fail: at worst the next
    /// round of [`Self::follow`] finds it.
    pub(crate) async fn announce(&self) {
        if let Err(error) = self.catch_up().await {
            tracing::warn!(%error, "revocations not read");
        }
    }

    /// Reads what is new for as long as the service runs. While that fails, tokens are refused: see `MAX_SILENCE`.
    pub(crate) async fn follow(self: Arc<Self>, stopping: CancellationToken) {
        let round = async || {
            tokio::time::sleep(INTERVAL).await;
            self.catch_up().await
        };
        while let Some(outcome) = stopping.run_until_cancelled(round()).await {
            if let Err(error) = outcome {
                tracing::warn!(%error, "revocations not read");
            }
        }
    }
}

/// Sends all revocations above a number, and then those to come, with a sign of life at least every 500 ms.
pub(crate) fn watch(app: &App, after: u64) -> ReceiverStream<Result<WatchRevocationsResponse, Status>> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    let watcher = Watcher {
        feed: Arc::clone(&app.revocations),
        sender,
        sent: after,
    };
    let stopping = app.streams.clone();
    app.lifecycle.spawn("watch_revocations", async move {
        let closed = watcher.sender.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = closed.closed() => {}
            _ = watcher.run() => {}
        }
    });
    ReceiverStream::new(receiver)
}

/// One receiver's stream.
struct Watcher {
    feed: Arc<RevocationFeed>,
    sender: mpsc::Sender<Result<WatchRevocationsResponse, Status>>,
    /// Number of the newest line that was sent.
    sent: u64,
}

impl Watcher {
    /// Until the receiver is gone, or is told that it knows more than there is.
    async fn run(mut self) -> Option<()> {
        let mut caught_up = self.feed.caught_up.subscribe();
        // Another replica may have told the receiver what this one has not read yet.
        if self.feed.feed.newest() < self.sent && self.feed.catch_up().await.is_err() {
            caught_up.changed().await.ok()?;
        }
        loop {
            for line in self.feed.verifier.revocations_after(self.sent) {
                self.send(Event::Revocation((&line).into())).await?;
                self.sent = line.number;
            }
            // With the number of what was sent, not of what there is: the two may differ by now. A receiver that knows more
            // than there is must be told so.
            let newest = self.feed.feed.newest().min(self.sent);
            if self.feed.verifier.is_current() {
                self.send(Event::Heartbeat(RevocationHeartbeat {
                    newest_number: newest,
                }))
                .await?;
                if newest < self.sent {
                    return None;
                }
            }
            caught_up.changed().await.ok()?;
        }
    }

    async fn send(&self, event: Event) -> Option<()> {
        self.sender
            .send(Ok(WatchRevocationsResponse { event: Some(event) }))
            .await
            .ok()
    }
}
