//! Verifiable delivery: the hash chain over what this device is shown of a group's log, and what others say of theirs
//! (`docs/verifiable-delivery.md`).
//!
//! The chain moves in the transaction that applies an entry. What this device sends says where it stands; what it receives is compared.
//! A difference changes nothing but what the app is told: the sender is genuine, and refusing what it sent would add a fork to the one
//! that the service made.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{GroupContext, ProcessedMessage, ProcessedMessageContent, Sender};
use prost::Message as _;
use valise_group_rules::claimed_identity;
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::Engine;
use super::inbox::accepted_at;
use super::live::{self, peer};
use crate::delivery_chain::{ChainValue, Claim, Link, Said};
use crate::{Error, EventKind, Peer};

/// The commit that began an epoch, as the service tells it.
#[derive(Clone, Copy, Default)]
pub(super) struct Beginning<'a> {
    /// [`Position::NONE`] for epoch 0.
    pub(super) position: Position,
    /// Milliseconds since 1970-01-01 UTC; 0 for epoch 0.
    pub(super) accepted_at: u64,
    /// Empty for epoch 0.
    pub(super) entry_id: &'a [u8],
}

impl Engine {
    /// The group is in a new epoch, or new to this device.
    pub(super) fn begin_chain(&mut self, group: GroupId, beginning: Beginning<'_>) -> Result<(), Error> {
        let live = live::get(&mut self.live, &self.db, group)?;
        let origin = origin(beginning.position, live.mls.public_group().group_context())?;
        let value = origin.start(beginning.accepted_at, beginning.entry_id);
        self.db.start_chain(group, beginning.position, value)
    }

    /// An entry was applied, or passed over because it cannot be read: either way the log has it.
    pub(super) fn move_chain(&mut self, group: GroupId, entry: &wire::Entry) -> Result<(), Error> {
        let position = Position(entry.position);
        let at = accepted_at(entry.accepted_at.as_ref());
        if entry.kind() == wire::EntryKind::Commit {
            if !self.has_keys(group)? {
                // It has removed this device.
                return self.db.delete_chain(group);
            }
            return self.begin_chain(
                group,
                Beginning {
                    position,
                    accepted_at: at,
                    entry_id: &entry.entry_id,
                },
            );
        }
        let before = Position(position.0.saturating_sub(1));
        // There is none yet in a group that was entered by a version without chains: it begins with the next commit.
        let Some(value) = self.db.chain_value(group, before)? else {
            return Ok(());
        };
        let value = value.then(&Link {
            position,
            kind: entry.kind.cast_unsigned(),
            epoch: entry.epoch,
            accepted_at: at,
            entry_id: &entry.entry_id,
            sender: entry.sender_device_id.as_bytes(),
            message: &entry.mls_message,
        });
        self.db.continue_chain(group, position, value)
    }

    fn has_keys(&self, group: GroupId) -> Result<bool, Error> {
        Ok(self.db.group(group)?.is_some_and(|row| row.status.has_keys()))
    }

    /// What this device says of its chain in the authenticated data of what it sends next; nothing where it has none.
    pub(super) fn claim(&self, group: GroupId) -> Result<Vec<u8>, Error> {
        let Some(row) = self.db.group(group)? else {
            return Ok(Vec::new());
        };
        let value = self.db.chain_value(group, row.position)?;
        Ok(value.map_or(Vec::new(), |value| {
            let position = row.position;
            Claim { position, value }.to_aad()
        }))
    }

    /// What a member says of its chain, compared with one's own. Called when openmls has verified the message, before it is applied.
    pub(super) fn compare_chains(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        message: &ProcessedMessage,
    ) -> Result<(), Error> {
        let claim = match Claim::read(message.aad()) {
            Said::Claim(claim) => claim,
            Said::Nothing => return Ok(()),
            Said::Malformed => {
                // Only its sender could write it. It hides no more than saying nothing does.
                tracing::warn!(%group, position = entry.position, "a claim of verifiable delivery is malformed");
                return Ok(());
            }
        };
        let Some(sender) = self.who(group, message)? else {
            return Ok(());
        };
        let Some(start) = self.db.chain_start(group)? else {
            return Ok(());
        };
        let own = if claim.position < start || claim.position.0 >= entry.position {
            // Nobody can have read what comes later, and all that is accepted was sent in this epoch.
            None
        } else if matches!(message.sender(), Sender::NewMemberCommit) {
            // It has read nothing, and was told with the GroupInfo where the epoch began.
            let live = live::get(&mut self.live, &self.db, group)?;
            let origin = origin(start, live.mls.public_group().group_context())?;
            (claim.position == start).then_some(origin)
        } else {
            match self.db.chain_value(group, claim.position)? {
                // So long ago that it is not kept: later entries tell.
                None => return Ok(()),
                own => own,
            }
        };
        if own == Some(claim.value) {
            return Ok(());
        }
        self.forked(group, entry, sender, claim, own)
    }

    fn forked(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        sender: Peer,
        claim: Claim,
        own: Option<ChainValue>,
    ) -> Result<(), Error> {
        let epoch = live::get(&mut self.live, &self.db, group)?.epoch();
        let position = Position(entry.position);
        if !self.db.put_fork(group, sender.device, epoch, position)? {
            // It was told: a fork does not flood the app.
            return Ok(());
        }
        tracing::error!(%group, %position, claimed = %claim.position, "a member was shown another history of the log");
        if entry.kind() == wire::EntryKind::Commit {
            self.report(group, position, wire::CommitFault::DeliveryForked)?;
        }
        let kind = EventKind::DeliveryForked {
            sender,
            position: claim.position,
            theirs: claim.value,
            ours: own,
            evidence: entry.encode_to_vec(),
        };
        let at = accepted_at(entry.accepted_at.as_ref());
        self.emit(group, position, at, &kind)
    }

    /// The device that sent it: a member, or one that comes in with it, whose identity is judged with the commit.
    fn who(&mut self, group: GroupId, message: &ProcessedMessage) -> Result<Option<Peer>, Error> {
        match (message.sender(), message.content()) {
            (Sender::Member(leaf), _) => Ok(live::get(&mut self.live, &self.db, group)?.peer(*leaf)),
            (Sender::NewMemberCommit, ProcessedMessageContent::StagedCommitMessage(staged)) => {
                let leaf = staged.update_path_leaf_node();
                let identity =
                    leaf.map(|leaf| claimed_identity(leaf.credential(), leaf.signature_key().as_slice()));
                // One that cannot be read is refused with the commit.
                Ok(identity.and_then(Result::ok).map(|identity| peer(&identity)))
            }
            _ => Ok(None),
        }
    }
}

/// Of the epoch that the group is in, or that a GroupInfo shows.
pub(super) fn origin(position: Position, context: &GroupContext) -> Result<ChainValue, Error> {
    let context = context
        .tls_serialize_detached()
        .map_err(|error| Error::mls("encoding a group's context")(&error))?;
    Ok(ChainValue::origin(position, &context))
}

/// What an external commit says, which is built on that epoch.
pub(super) fn claim_of_joiner(commit_position: u64, context: &GroupContext) -> Result<Vec<u8>, Error> {
    let position = Position(commit_position);
    let value = origin(position, context)?;
    Ok(Claim { position, value }.to_aad())
}
