//! What is too large for the service is refused before it is queued: a message that cannot be sent would only be found out when
//! its turn comes, and by then the app may have shown it as on its way.

use valise_proto::Refusal;
use valise_proto::delivery::v1::Limits;

use super::Engine;
use crate::Error;

/// Longest payload of a message, whatever the service says.
const MAX_PAYLOAD: usize = 1024 * 1024;
/// What encryption adds to a payload, at most: padding to a multiple of 256 bytes, signature, tag, headers, authenticated data.
const OVERHEAD: usize = 1024;

impl Engine {
    /// The service has said what it takes.
    pub(crate) fn adopt_limits(&mut self, limits: &Limits) -> Result<(), Error> {
        self.db.put_message_limit(limits.max_message_bytes)
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
