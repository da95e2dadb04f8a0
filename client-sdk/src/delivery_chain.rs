//! The format of verifiable delivery: a chain of hashes over a group's log, and what a message says of it.
//!
//! `docs/verifiable-delivery.md` specifies it, with test vectors that the tests here compute. Nothing in this file knows of a store
//! or a group: see `engine/delivery_chain.rs`.

use std::fmt;

use sha2::{Digest, Sha256};
use valise_proto::Position;

const ORIGIN: &[u8] = b"valise/delivery-chain/1/origin\0";
const START: &[u8] = b"valise/delivery-chain/1/start\0";
const ENTRY: &[u8] = b"valise/delivery-chain/1/entry\0";

/// How a claim begins: whose format it is.
const MAGIC: &[u8] = b"valise";
const VERSION: u16 = 1;

/// A hash over what a device was shown of a group's log, from the commit that began the epoch up to a position: equal on all devices
/// that were shown the same.
///
/// ```
/// use valise_client_sdk::ChainValue;
///
/// let value = ChainValue::from_bytes([7; 32]);
/// assert_eq!(value.to_string().len(), 64); // hexadecimal
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainValue([u8; 32]);

impl ChainValue {
    /// From its 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of an epoch whose beginning is known by its GroupContext (RFC 9420 §8.1, TLS-encoded) and the position of the commit that began
    /// it; [`Position::NONE`] for epoch 0. All that whoever prepares an external commit knows.
    pub(crate) fn origin(position: Position, group_context: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(ORIGIN)
            .chain_update(position.0.to_be_bytes())
            .chain_update(group_context);
        Self(hash.finalize().into())
    }

    /// The first value of an epoch, from its origin: with what the service says of the commit that began it. Epoch 0 began with none:
    /// 0, and no id.
    pub(crate) fn start(self, accepted_at: u64, entry_id: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(START)
            .chain_update(self.0)
            .chain_update(accepted_at.to_be_bytes());
        Self(put_opaque(hash, entry_id).finalize().into())
    }

    /// The value after one more entry.
    pub(crate) fn then(self, entry: &Link<'_>) -> Self {
        let hash = Sha256::new()
            .chain_update(ENTRY)
            .chain_update(self.0)
            .chain_update(entry.position.0.to_be_bytes())
            .chain_update(entry.kind.to_be_bytes())
            .chain_update(entry.epoch.to_be_bytes())
            .chain_update(entry.accepted_at.to_be_bytes());
        let hash = put_opaque(hash, entry.entry_id);
        let hash = put_opaque(hash, entry.sender);
        Self(put_opaque(hash, entry.message).finalize().into())
    }
}

fn put_opaque(hash: Sha256, bytes: &[u8]) -> Sha256 {
    // An entry is at most 4 MiB on the wire, and this a part of it.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    hash.chain_update(length.to_be_bytes()).chain_update(bytes)
}

impl fmt::Display for ChainValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainValue({self})")
    }
}

/// All that the service says of an entry, as a device was told it.
pub(crate) struct Link<'a> {
    pub(crate) position: Position,
    /// `valise.delivery.v1.EntryKind`.
    pub(crate) kind: u32,
    pub(crate) epoch: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) accepted_at: u64,
    pub(crate) entry_id: &'a [u8],
    /// The device that submitted it, as text; empty for the service's own proposals.
    pub(crate) sender: &'a [u8],
    /// MLSMessage.
    pub(crate) message: &'a [u8],
}

/// What a sender says in a message's authenticated data: its chain had that value after that position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) position: Position,
    pub(crate) value: ChainValue,
}

/// What authenticated data says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    Claim(Claim),
    /// Nothing that this version knows: there is none, or it is of other software, or of a later version.
    Nothing,
    /// It begins like a claim of this version and is none.
    Malformed,
}

impl Claim {
    /// Authenticated data (RFC 9420 §6.3.1).
    pub(crate) fn to_aad(self) -> Vec<u8> {
        [
            MAGIC,
            &VERSION.to_be_bytes(),
            &self.position.0.to_be_bytes(),
            self.value.as_bytes(),
        ]
        .concat()
    }

    pub(crate) fn read(aad: &[u8]) -> Said {
        let Some(rest) = aad.strip_prefix(MAGIC) else {
            return Said::Nothing;
        };
        let Some((version, rest)) = rest.split_first_chunk() else {
            return Said::Malformed;
        };
        if u16::from_be_bytes(*version) != VERSION {
            return Said::Nothing;
        }
        let Some((position, rest)) = rest.split_first_chunk() else {
            return Said::Malformed;
        };
        let Ok(value) = <[u8; 32]>::try_from(rest) else {
            return Said::Malformed;
        };
        Said::Claim(Self {
            position: Position(u64::from_be_bytes(*position)),
            value: ChainValue(value),
        })
    }
}

#[cfg(test)]
mod tests;
