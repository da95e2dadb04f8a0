//! The life of a new group with openmls alone: what one makes, and what each of the others does with it. Everything goes through
//! bytes, as it does on the wire.

use bytes::Bytes;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    ExternalSender, KeyPackage, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    ProcessedMessageContent, ProtocolVersion, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use valise_group_rules::credential;

use crate::group::{ADDS, Added, Joiner, Member};
use crate::raw::Identity;
use crate::{Result, say};

/// A commit that adds, and what its joiners get.
struct Batch {
    commit: Bytes,
    welcome: Bytes,
    tree: Vec<u8>,
}

/// What the creator of a group sends.
pub(crate) struct Alone {
    batches: Vec<Batch>,
    message: Bytes,
}

impl Alone {
    /// Makes a group, adds all of them with as few commits as may be, and says something.
    pub(crate) fn make(creator: &Identity, joiners: &[Joiner]) -> Result<Self> {
        let external_sender =
            ExternalSender::new(creator.signer.to_public_vec().into(), credential(&creator.chain));
        let mut member = Member::alone(creator, external_sender)?;
        let mut batches = Vec::new();
        for joiners in joiners.chunks(ADDS) {
            let packages = joiners.iter().map(verified).collect::<Result<_>>()?;
            let built = member.build(creator, packages)?;
            member.accepted(0)?;
            batches.push(Batch {
                tree: member.mls.export_ratchet_tree().tls_serialize_detached()?,
                commit: built.commit,
                welcome: built.welcome,
            });
        }
        let message = member.encrypt(creator)?;
        Ok(Self { batches, message })
    }

    /// What the joiner with that number does: it joins with its batch, follows the commits after it, and reads the message.
    pub(crate) fn follow(&self, number: usize, joiner: Joiner) -> Result<()> {
        let (batch, later) = self
            .batches
            .get(number / ADDS..)
            .and_then(<[Batch]>::split_first)
            .ok_or("no batch")?;
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact_bytes(&batch.welcome)?.extract()
        else {
            return Err("not a Welcome".into());
        };
        let mut member = joiner.join(&Added {
            welcome,
            tree: RatchetTreeIn::tls_deserialize_exact_bytes(&batch.tree)?,
            position: 0,
        })?;
        for bytes in later.iter().map(|batch| &batch.commit).chain([&self.message]) {
            let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes)?;
            let message = message.try_into_protocol_message().map_err(say)?;
            let provider = &member.provider;
            let processed = member.mls.process_message(provider, message).map_err(say)?;
            match processed.into_content() {
                ProcessedMessageContent::StagedCommitMessage(staged) => {
                    member.mls.merge_staged_commit(provider, *staged).map_err(say)?;
                }
                ProcessedMessageContent::ApplicationMessage(_) => {}
                _ => return Err("something else".into()),
            }
        }
        Ok(())
    }
}

/// A key package as it is read from the directory's answer.
fn verified(joiner: &Joiner) -> Result<KeyPackage> {
    let bytes = joiner.message()?;
    let MlsMessageBodyIn::KeyPackage(package) = MlsMessageIn::tls_deserialize_exact_bytes(&bytes)?.extract()
    else {
        return Err("not a key package".into());
    };
    package
        .validate(OpenMlsRustCrypto::default().crypto(), ProtocolVersion::Mls10)
        .map_err(say)
}
