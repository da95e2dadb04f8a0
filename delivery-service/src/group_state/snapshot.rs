//! The public state of a group as bytes: what openmls keeps, as JSON (its types need a self-describing form), compressed.

use std::collections::HashMap;

use bytes::Bytes;
use openmls::prelude::{OpenMlsCrypto, PublicGroup, tls_codec::Serialize as _};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::public_storage::PublicStorageProvider;
use openmls_traits::storage::{CURRENT_VERSION, traits};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use valise_proto::GroupId;

use super::StateError;

/// Keeps nothing: for folds, whose result lives in memory.
#[derive(Debug, Default)]
pub(crate) struct NoStore;

/// Holds the parts of one group while openmls reads or writes them.
#[derive(Debug, Default)]
struct Parts(Mutex<HashMap<&'static str, Box<RawValue>>>);

#[derive(Debug, thiserror::Error)]
#[error("snapshot part cannot be encoded")]
pub(crate) struct PartError;

/// The form of a snapshot. A new form gets a new number.
#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    parts: HashMap<String, Box<RawValue>>,
}

const VERSION: u32 = 1;
const COMPRESSION: i32 = 3;
/// No snapshot of a group within the limits is larger, decompressed.
const MAX_BYTES: u64 = 512 * 1024 * 1024;

const TREE: &str = "tree";
const CONTEXT: &str = "group_context";
const INTERIM: &str = "interim_transcript_hash";
const TAG: &str = "confirmation_tag";

pub(crate) fn encode(group: &PublicGroup) -> Result<Bytes, StateError> {
    let fail = |_| StateError::Damaged("snapshot encoding");
    let parts = HashMap::from([
        (TREE.to_owned(), to_raw_value(group.treesync()).map_err(fail)?),
        (
            CONTEXT.to_owned(),
            to_raw_value(group.group_context()).map_err(fail)?,
        ),
        (
            INTERIM.to_owned(),
            to_raw_value(&interim_transcript_hash(group)?).map_err(fail)?,
        ),
        (
            TAG.to_owned(),
            to_raw_value(group.confirmation_tag()).map_err(fail)?,
        ),
    ]);
    let json = serde_json::to_vec(&Form {
        version: VERSION,
        parts,
    })
    .map_err(fail)?;
    let compressed =
        zstd::bulk::compress(&json, COMPRESSION).map_err(|_| StateError::Damaged("compression"))?;
    Ok(compressed.into())
}

/// RFC 9420 §8.2: the hash of the confirmed transcript hash and the confirmation tag. openmls keeps it to itself.
fn interim_transcript_hash(
    group: &PublicGroup,
) -> Result<openmls::prelude::InterimTranscriptHash, StateError> {
    let fail = |_| StateError::Damaged("transcript hash");
    let mut input = group.group_context().confirmed_transcript_hash().to_vec();
    group.confirmation_tag().tls_serialize(&mut input).map_err(fail)?;
    let hash = RustCrypto::default()
        .hash(group.ciphersuite().hash_algorithm(), &input)
        .map_err(|_| StateError::Damaged("transcript hash"))?;
    Ok(openmls::prelude::InterimTranscriptHash(hash))
}

pub(crate) fn decode(group: GroupId, state: &[u8]) -> Result<PublicGroup, StateError> {
    use std::io::Read as _;
    let fail = || StateError::Damaged("snapshot decoding");
    let mut json = Vec::new();
    zstd::stream::read::Decoder::new(state)
        .map_err(|_| fail())?
        .take(MAX_BYTES)
        .read_to_end(&mut json)
        .map_err(|_| fail())?;
    let form: Form = serde_json::from_slice(&json).map_err(|_| fail())?;
    if form.version != VERSION {
        return Err(StateError::Damaged("snapshot version"));
    }
    let parts = Parts::default();
    for name in [TREE, CONTEXT, INTERIM, TAG] {
        let part = form.parts.get(name).ok_or_else(fail)?;
        parts.0.lock().insert(name, part.clone());
    }
    let id = openmls::prelude::GroupId::from_slice(group.as_bytes());
    PublicGroup::load(&parts, &id)
        .map_err(|_| fail())?
        .ok_or_else(fail)
}

/// The ratchet tree (RFC 9420 §7.8), TLS-encoded.
pub(crate) fn encode_tree(group: &PublicGroup) -> Result<Bytes, StateError> {
    let bytes = group
        .export_ratchet_tree()
        .tls_serialize_detached()
        .map_err(|_| StateError::Damaged("tree"))?;
    Ok(bytes.into())
}

impl Parts {
    fn get<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, PartError> {
        let part = self.0.lock().remove(name);
        part.map(|part| serde_json::from_str(part.get()))
            .transpose()
            .map_err(|_| PartError)
    }
}

/// What both have alike: nothing is ever written or deleted through them.
macro_rules! writes_nothing {
    () => {
        fn write_tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
            &self,
            _: &G,
            _: &T,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn write_interim_transcript_hash<
            G: traits::GroupId<CURRENT_VERSION>,
            H: traits::InterimTranscriptHash<CURRENT_VERSION>,
        >(
            &self,
            _: &G,
            _: &H,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn write_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
            &self,
            _: &G,
            _: &C,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn write_confirmation_tag<
            G: traits::GroupId<CURRENT_VERSION>,
            T: traits::ConfirmationTag<CURRENT_VERSION>,
        >(
            &self,
            _: &G,
            _: &T,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn queue_proposal<
            G: traits::GroupId<CURRENT_VERSION>,
            R: traits::ProposalRef<CURRENT_VERSION>,
            Q: traits::QueuedProposal<CURRENT_VERSION>,
        >(
            &self,
            _: &G,
            _: &R,
            _: &Q,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn queued_proposals<
            G: traits::GroupId<CURRENT_VERSION>,
            R: traits::ProposalRef<CURRENT_VERSION>,
            Q: traits::QueuedProposal<CURRENT_VERSION>,
        >(
            &self,
            _: &G,
        ) -> Result<Vec<(R, Q)>, PartError> {
            Ok(Vec::new())
        }

        fn delete_tree<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), PartError> {
            Ok(())
        }

        fn delete_confirmation_tag<G: traits::GroupId<CURRENT_VERSION>>(
            &self,
            _: &G,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn delete_context<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), PartError> {
            Ok(())
        }

        fn delete_interim_transcript_hash<G: traits::GroupId<CURRENT_VERSION>>(
            &self,
            _: &G,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn remove_proposal<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
            &self,
            _: &G,
            _: &R,
        ) -> Result<(), PartError> {
            Ok(())
        }

        fn clear_proposal_queue<
            G: traits::GroupId<CURRENT_VERSION>,
            R: traits::ProposalRef<CURRENT_VERSION>,
        >(
            &self,
            _: &G,
        ) -> Result<(), PartError> {
            Ok(())
        }
    };
}

impl PublicStorageProvider<CURRENT_VERSION> for NoStore {
    type PublicError = PartError;
    writes_nothing!();

    fn tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, PartError> {
        Ok(None)
    }

    fn group_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, PartError> {
        Ok(None)
    }

    fn interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Option<H>, PartError> {
        Ok(None)
    }

    fn confirmation_tag<G: traits::GroupId<CURRENT_VERSION>, T: traits::ConfirmationTag<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, PartError> {
        Ok(None)
    }
}

impl PublicStorageProvider<CURRENT_VERSION> for Parts {
    type PublicError = PartError;
    writes_nothing!();

    fn tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, PartError> {
        self.get(TREE)
    }

    fn group_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, PartError> {
        self.get(CONTEXT)
    }

    fn interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Option<H>, PartError> {
        self.get(INTERIM)
    }

    fn confirmation_tag<G: traits::GroupId<CURRENT_VERSION>, T: traits::ConfirmationTag<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, PartError> {
        self.get(TAG)
    }
}
