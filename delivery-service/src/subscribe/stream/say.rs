//! Puts messages onto the connection, and waits where it takes none.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::subscribe_response;
use valise_proto::{Reason, Refusal};

use super::{DeviceStream, WATCH};

impl DeviceStream {
    /// Puts a message onto the connection.
    pub(super) async fn say(&mut self, message: subscribe_response::Message) -> Result<(), Refusal> {
        self.last_said = Instant::now();
        let response = wire::SubscribeResponse {
            message: Some(message),
        };
        // Nearly always there is room, and no clock to be asked.
        match self.outgoing.try_send(response) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(response)) => {
                self.room().await?.send(response);
                Ok(())
            }
            // It has gone, which the requests' end will tell.
            Err(TrySendError::Closed(_)) => Err(Reason::SlowReader.into()),
        }
    }

    /// Waits until the connection takes more: for so long that its reader is a slow one, and not when the stream is to end anyway.
    async fn room(&self) -> Result<mpsc::Permit<'_, wire::SubscribeResponse>, Refusal> {
        // Listened to before the first judgement: nobody is revoked unheard in between.
        let mut revocations = self.delivery.verifier.revocations();
        let stopping = self.delivery.lifecycle.stopping();
        let mut watch = tokio::time::interval(WATCH);
        let patience = tokio::time::sleep(self.delivery.limits.slow_reader());
        tokio::pin!(patience);
        loop {
            self.judge_subscriber()?;
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Reason::StoreUnavailable.into()),
                () = self.mailbox.displaced.cancelled() => return Err(Reason::Displaced.into()),
                () = &mut patience => return Err(Reason::SlowReader.into()),
                // Somebody's; one that was missed is one as well.
                _ = revocations.recv() => {}
                _ = watch.tick() => {}
                permit = self.outgoing.reserve() => {
                    return permit.map_err(|_| Reason::SlowReader.into());
                }
            }
        }
    }
}
