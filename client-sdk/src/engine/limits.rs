//! What the service says of itself. What is too large for it is refused before it is queued: a message that cannot be sent would only be
//! found out when its turn comes, and by then the app may have shown it as on its way.

use valise_proto::Refusal;
use valise_proto::delivery::v1::GetParametersResponse;

use super::Engine;
use crate::Error;

/// Longest payload of a message, whatever the service says.
const MAX_PAYLOAD: usize = 1024 * 1024;
/// What encryption adds to a payload, at most: padding to a multiple of 256 bytes, signature, tag, headers, authenticated data.
const OVERHEAD: usize = 1024;

impl Engine {
    /// The service has said what it takes, for how long entries and their copies are kept, and which certificate it has. What it does not say
    /// stays as it was.
    pub(crate) fn adopt_parameters(&mut self, parameters: &GetParametersResponse) -> Result<(), Error> {
        let seconds = |duration: Option<prost_types::Duration>, known: u64| {
            duration.map_or(known, |duration| u64::try_from(duration.seconds).unwrap_or(0))
        };
        let retention = seconds(parameters.retention, self.device.retention);
        let entry_copies = seconds(parameters.entry_copies, self.device.entry_copies);
        if let Some(limits) = &parameters.limits {
            self.db.put_limits(limits)?;
        }
        self.db.put_keeping(retention, entry_copies)?;
        self.device.retention = retention;
        self.device.entry_copies = entry_copies;
        let sender = crate::mls::told_sender(parameters, self.device.signer.public());
        self.adopt_external_sender(sender)
    }

    /// Refuses, as the service would, a payload that makes too large a message.
    pub(super) fn check_size(&self, payload: &[u8]) -> Result<(), Error> {
        let service = self.db.message_limit()?;
        let limit = service.map_or(MAX_PAYLOAD, |limit| {
            limit.saturating_sub(OVERHEAD).min(MAX_PAYLOAD)
        });
        if payload.len() > limit {
            return Err(Refusal::too_large("payload", limit).into());
        }
        Ok(())
    }
}
