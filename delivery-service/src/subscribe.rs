//! Live delivery: one bidirectional stream for each device over all its groups and its inbox.
//!
//! - [`fan_out`]: takes the log's news and puts each item into the mailboxes of the streams that want it.
//! - [`stream`]: one task and one struct for each stream: replay out of the log, then live out of the mailbox.
//! - [`window`]: what a device has been sent and has not acknowledged, bounded.
//!
//! A mailbox is a hint, the log is the truth: a stream that misses a hint, or whose window is full, reads the log from where it
//! stands. So nothing is ever skipped.

pub(crate) mod fan_out;
mod follow;
mod stream;
mod window;

use std::sync::Arc;
use std::time::SystemTime;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use valise_access_token::VerifiedToken;
use valise_proto::delivery::v1::{SubscribeRequest, SubscribeResponse, subscribe_request};
use valise_proto::{DeviceId, Refusal, UserId};

use crate::service::Delivery;

/// Messages that wait for the connection; beyond it the stream's task waits.
const OUTGOING: usize = 64;

/// Whose stream it is.
pub(crate) struct Subscriber {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) expires_at: SystemTime,
}

impl Subscriber {
    pub(crate) fn of(token: &VerifiedToken) -> Result<Self, Refusal> {
        let (user, device) = token.caller.device()?;
        Ok(Self {
            user: user.clone(),
            device,
            expires_at: token.expires_at,
        })
    }
}

impl Delivery {
    /// Opens a device's stream; an older one of the same device ends.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        subscriber: Subscriber,
        mut requests: Streaming<SubscribeRequest>,
    ) -> Result<impl Stream<Item = Result<SubscribeResponse, Status>> + use<>, Status> {
        // The first message must come before anything is kept for the stream.
        let first = requests.message().await?.and_then(|request| request.message);
        let Some(subscribe_request::Message::Start(start)) = first else {
            return Err(Refusal::malformed("start").into());
        };
        if start.groups.len() > self.limits.groups_per_device {
            return Err(Refusal::too_large("start.groups", self.limits.groups_per_device).into());
        }
        let (outgoing, responses) = mpsc::channel(OUTGOING);
        let stream = stream::DeviceStream::open(Arc::clone(self), subscriber, outgoing.clone());
        self.lifecycle.spawn("device stream", async move {
            if let Err(refusal) = stream.run(start, requests).await {
                // The device may have gone.
                let _ = outgoing.send(Err(refusal.into())).await;
            }
        });
        Ok(ReceiverStream::new(responses))
    }
}
