//! Messages that are not in any log.
//!
//! They use the same ratchets as stored messages, and may be lost or overtake them. So a receiver reads them with a second
//! instance of the group that is never stored: its own ratchets stay where the log is. And a sender spends only so many
//! generations on them that receivers can still skip over those that they never saw.

use std::time::{Duration, UNIX_EPOCH};

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsGroup, MlsMessageIn, ProcessedMessageContent, ProtocolMessage, Sender};
use valise_group_rules::{Act, RuleViolation};
use valise_proto::{Epoch, GroupId, Position};

use super::{Engine, live};
use crate::mls::{Provider, encrypt};
use crate::{Content, Error, Event, EventId, EventKind, GroupStatus};

/// Of the 1,000 generations that a receiver skips at most.
const MAX_SINCE_STORED: u32 = 500;

/// A group of that epoch, as it was stored when the first ephemeral message came.
pub(super) struct Reader {
    epoch: Epoch,
    mls: MlsGroup,
}

impl Engine {
    /// Encrypts a message that is sent once, or never.
    pub(crate) fn encrypt_ephemeral(&mut self, group: GroupId, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let row = self.db.group(group)?.ok_or(Error::UnknownGroup(group))?;
        if row.status != GroupStatus::Active {
            return Err(Error::GroupNotActive(row.status));
        }
        self.transaction(|engine| {
            if engine.db.count_ephemeral(group)? > MAX_SINCE_STORED {
                return Err(Error::InvalidInput(
                    "too many ephemeral messages since the last stored one",
                ));
            }
            let live = live::get(&mut engine.live, &engine.db, group)?;
            live.authority.may(&engine.device.user, Act::Send)?;
            let provider = Provider::new(&engine.crypto, &engine.db.connection);
            encrypt(&mut live.mls, &provider, &engine.device.signer, payload)
        })
    }

    /// Reads an ephemeral message and tells the app. What cannot be read is dropped, as any of them may be.
    pub(crate) fn receive_ephemeral(&mut self, group: GroupId, message: &[u8]) -> Result<(), Error> {
        let Some(row) = self.db.group(group)? else {
            return Ok(());
        };
        if !row.status.is_followed() {
            return Ok(());
        }
        self.db.begin()?;
        let read = self.read_ephemeral(group, message);
        // Whatever openmls wrote: the log's ratchets do not move.
        self.db.rollback();
        if let Some((sender, content)) = read? {
            let kind = match live::get(&mut self.live, &self.db, group)?
                .authority
                .may(&sender.user, Act::Send)
            {
                Ok(()) => EventKind::Ephemeral { sender, content },
                Err(RuleViolation(rule)) => EventKind::RuleBreach {
                    by: Some(sender),
                    rule: rule.to_owned(),
                    evidence: Vec::new(),
                },
            };
            let now = Duration::from_millis(self.options.clock.unix_millis());
            let event = Event {
                id: EventId::NONE,
                group,
                position: Position::NONE,
                at: UNIX_EPOCH + now,
                kind,
            };
            // Nobody listens: then it is lost.
            let _ = self.outlets.ephemeral.send(event);
        }
        Ok(())
    }

    fn read_ephemeral(
        &mut self,
        group: GroupId,
        message: &[u8],
    ) -> Result<Option<(crate::Peer, Content)>, Error> {
        let live = live::get(&mut self.live, &self.db, group)?;
        let epoch = live.epoch();
        if self
            .ephemeral
            .get(&group)
            .is_none_or(|reader| reader.epoch != epoch)
        {
            let Some(mls) = live::load(&self.db, group)? else {
                return Ok(None);
            };
            self.ephemeral.insert(group, Reader { epoch, mls });
        }
        let Some(reader) = self.ephemeral.get_mut(&group) else {
            return Ok(None);
        };
        let Ok(message) = MlsMessageIn::tls_deserialize_exact_bytes(message) else {
            return Ok(None);
        };
        let Ok(message) = message.try_into_protocol_message() else {
            return Ok(None);
        };
        let ProtocolMessage::PrivateMessage(message) = message else {
            return Ok(None);
        };
        let provider = Provider::new(&self.crypto, &self.db.connection);
        let Ok(processed) = reader.mls.process_message(&provider, message) else {
            return Ok(None);
        };
        let Sender::Member(leaf) = *processed.sender() else {
            return Ok(None);
        };
        let ProcessedMessageContent::ApplicationMessage(message) = processed.into_content() else {
            return Ok(None);
        };
        let Some(sender) = live.peer(leaf) else {
            return Ok(None);
        };
        let payload = message.into_bytes();
        let content = Content::from_payload(&payload, &sender.user, group, Position::NONE);
        Ok(content.map(|content| (sender, content)))
    }
}
