//! Live delivery: one bidirectional stream for each device over all its groups and its inbox.
//!
//! - [`fan_out`]: takes the log's news and puts each item into the mailboxes of the streams that want it.
//! - [`stream`]: one task and one struct for each stream: replay out of the log, then live out of the mailbox.
//! - [`pages`]: parts of the log that several streams read together.
//! - [`window`]: what a device has been sent and has not acknowledged, bounded.
//! - [`stuck`]: what devices keep failing on, counted over their streams.
//!
//! A mailbox is a hint, the log is the truth: a stream that misses a hint, or whose window is full, reads the log from where it
//! stands. So nothing is ever skipped.

pub(crate) mod fan_out;
mod follow;
pub(crate) mod pages;
mod stream;
pub(crate) mod stuck;
mod window;

use std::sync::Arc;
use std::time::SystemTime;

use futures::Stream;
use futures::future::{FusedFuture as _, FutureExt as _};
use tokio::sync::{mpsc, oneshot};
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
        let (outgoing, said) = mpsc::channel(OUTGOING);
        let (end, ended) = oneshot::channel();
        let stream = stream::DeviceStream::open(Arc::clone(self), subscriber, outgoing);
        self.lifecycle.spawn("device stream", async move {
            if let Err(refusal) = stream.run(start, requests).await {
                // The device may have gone.
                let _ = end.send(refusal);
            }
        });
        Ok(responses(said, ended))
    }
}

/// What was said, one by one, and at last why the stream ended. A reason does not wait for what the device has not read yet: it may
/// be that the device must not read on, and the rest is in the log.
fn responses(
    said: mpsc::Receiver<SubscribeResponse>,
    ended: oneshot::Receiver<Refusal>,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> {
    futures::stream::unfold(Some((said, ended.fuse())), |open| async move {
        let (mut said, mut ended) = open?;
        tokio::select! {
            biased;
            Ok(refusal) = &mut ended => Some((Err(Status::from(refusal)), None)),
            message = said.recv() => match message {
                Some(message) => Some((Ok(message), Some((said, ended)))),
                None if ended.is_terminated() => None,
                None => ended.await.ok().map(|refusal| (Err(Status::from(refusal)), None)),
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use valise_proto::Reason;

    use super::*;

    #[tokio::test]
    async fn nothing_more_is_sent_once_the_reason_of_the_end_is_known() {
        let (outgoing, said) = mpsc::channel(OUTGOING);
        let (end, ended) = oneshot::channel();
        let mut responses = std::pin::pin!(responses(said, ended));
        for _ in 0..3 {
            outgoing.send(SubscribeResponse::default()).await.unwrap();
        }
        assert!(responses.next().await.unwrap().is_ok());
        end.send(Reason::DeviceRevoked.into()).unwrap();
        let last = responses.next().await.unwrap().unwrap_err();
        assert_eq!(Refusal::from_status(&last).unwrap().reason, Reason::DeviceRevoked);
        assert!(responses.next().await.is_none());
    }

    #[tokio::test]
    async fn a_device_that_goes_politely_gets_what_was_said() {
        let (outgoing, said) = mpsc::channel(OUTGOING);
        let (end, ended) = oneshot::channel();
        for _ in 0..3 {
            outgoing.send(SubscribeResponse::default()).await.unwrap();
        }
        drop((outgoing, end));
        let responses: Vec<_> = responses(said, ended).collect().await;
        assert_eq!(responses.len(), 3);
        assert!(responses.iter().all(Result::is_ok));
    }
}
