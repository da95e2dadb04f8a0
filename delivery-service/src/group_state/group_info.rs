//! Does a GroupInfo belong to the epoch that a commit begins (RFC 9420 §12.4.3)?

use std::time::Duration;

use openmls::messages::group_info::{GroupInfo, VerifiableGroupInfo};
use openmls::prelude::{
    Ciphersuite, ConfirmationTag, DeserializeBytes as _, Extensions, GroupContext, LeafNodeIndex,
    MlsMessageBodyIn, MlsMessageIn, OpenMlsSignaturePublicKey, SignaturePublicKey, Verifiable as _,
    tls_codec::Serialize as _,
};
use openmls_rust_crypto::RustCrypto;
use valise_group_rules::{Roles, RuleViolation};

use super::{GroupState, MlsCommit, Verified};

/// An MLSMessage of wire format mls_group_info begins with a version and a wire format, two bytes each.
const HEADER: usize = 4;

/// A GroupInfo, read but not verified. openmls does not show its signer and its tag, so they are read from the bytes.
pub(crate) struct ReadGroupInfo {
    pub(crate) info: VerifiableGroupInfo,
    pub(crate) signer: LeafNodeIndex,
    pub(crate) confirmation_tag: ConfirmationTag,
}

/// Reads a GroupInfo that has what external joiners need, and no tree.
pub(crate) fn read_group_info(bytes: &[u8]) -> Result<ReadGroupInfo, RuleViolation> {
    let encoding = || RuleViolation("encoding");
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| encoding())?;
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        return Err(RuleViolation("wire_format"));
    };
    let body = bytes.get(HEADER..).ok_or_else(encoding)?;
    let (_, rest) = GroupContext::tls_deserialize_bytes(body).map_err(|_| encoding())?;
    let (_, rest) = Extensions::<GroupInfo>::tls_deserialize_bytes(rest).map_err(|_| encoding())?;
    let (confirmation_tag, rest) = ConfirmationTag::tls_deserialize_bytes(rest).map_err(|_| encoding())?;
    let (signer, _) = LeafNodeIndex::tls_deserialize_bytes(rest).map_err(|_| encoding())?;
    if info.extensions().external_pub().is_none() {
        return Err(RuleViolation("external_pub"));
    }
    if info.extensions().ratchet_tree().is_some() {
        return Err(RuleViolation("ratchet_tree"));
    }
    Ok(ReadGroupInfo {
        info,
        signer,
        confirmation_tag,
    })
}

/// How long the group's policy keeps its entries; `None` where it says nothing.
pub(crate) fn retention_of(group_info: &[u8]) -> Option<Duration> {
    let (context, _) = GroupContext::tls_deserialize_bytes(group_info.get(HEADER..)?).ok()?;
    let retention = Roles::of_context(&context).ok()?.policy().retention?;
    Some(Duration::from_secs(retention.seconds().into()))
}

/// Judges the GroupInfo that comes with a commit.
pub(crate) fn judge_group_info(
    bytes: &[u8],
    commit_tag: &[u8],
    verified: &Verified,
    before: &GroupState,
) -> Result<(), RuleViolation> {
    let read = read_group_info(bytes)?;
    if read.info.group_context() != verified.staged.group_context() {
        return Err(RuleViolation("group_context"));
    }
    let tag = read
        .confirmation_tag
        .tls_serialize_detached()
        .map_err(|_| RuleViolation("confirmation_tag"))?;
    if tag != commit_tag {
        return Err(RuleViolation("confirmation_tag"));
    }
    let committer = verified.summary.committer.leaf();
    if read.signer != committer {
        return Err(RuleViolation("signer"));
    }
    let key = match verified.staged.update_path_leaf_node() {
        Some(leaf) => leaf.signature_key().clone(),
        None => before
            .group
            .leaf(committer)
            .ok_or(RuleViolation("signer"))?
            .signature_key()
            .clone(),
    };
    let key = signature_key(key, before.group.ciphersuite());
    read.info
        .verify_no_out(&RustCrypto::default(), &key)
        .map_err(|_| RuleViolation("signature"))
}

fn signature_key(key: SignaturePublicKey, suite: Ciphersuite) -> OpenMlsSignaturePublicKey {
    OpenMlsSignaturePublicKey::from_signature_key(key, suite.signature_algorithm())
}

impl MlsCommit {
    /// The confirmation tag, TLS-encoded, to compare with a GroupInfo's.
    pub(crate) fn tag_bytes(&self) -> Result<Vec<u8>, RuleViolation> {
        let tag = self.confirmation_tag().ok_or(RuleViolation("confirmation_tag"))?;
        tag.tls_serialize_detached()
            .map_err(|_| RuleViolation("confirmation_tag"))
    }
}
