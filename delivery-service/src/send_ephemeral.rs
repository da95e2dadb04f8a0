//! Hands a message to the members' devices that are connected now. It is never stored.

use bytes::Bytes;
use valise_proto::{DeviceId, Reason, Refusal};

use crate::door::{sized, unreadable};
use crate::send_message::MlsApplication;
use crate::service::Delivery;

impl Delivery {
    pub(crate) async fn send_ephemeral(&self, device: DeviceId, bytes: Bytes) -> Result<(), Refusal> {
        sized("mls_message", &bytes, self.limits.ephemeral_bytes)?;
        let message = MlsApplication::read(&bytes).map_err(unreadable("mls_message"))?;
        self.admit_message(&message, device).await?;
        // What is appended learns it from the log; nothing is appended here.
        let head = self.log.head(message.group).await?.ok_or(Reason::GroupNotFound)?;
        if head.reset {
            return Err(self.was_reset(message.group).await?);
        }
        self.log
            .publish_ephemeral(message.group, message.epoch, device, bytes);
        Ok(())
    }
}
