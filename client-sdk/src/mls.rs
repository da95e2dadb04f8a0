//! openmls as the engine uses it: its storage is the SDK's own connection, so that it takes part in the engine's transactions.

use std::borrow::Borrow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    CommitMessageBundle, CredentialWithKey, Extensions, ExternalSender, GroupContext, KeyPackage,
    LeafNodeIndex, LeafNodeParameters, Lifetime, MlsGroup, OpenMlsProvider, Proposal, ProposalType,
    RatchetTreeIn, SignaturePublicKey,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::{Codec, SqliteStorageProvider};
use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use valise_device_certificate::KeyKind;
use valise_group_rules::{
    GROUP_EXTENSIONS, Roles, RuleViolation, group_context_extensions, judge_external_senders,
    signature_scheme,
};
use valise_proto::UserId;
use valise_proto::delivery::v1::GetParametersResponse;

use crate::Error;

mod faults;

pub(crate) use faults::failed;

/// The codec of openmls's rows. It must be self-describing: openmls reads with types that skip fields.
#[derive(Default)]
pub(crate) struct Json;

impl Codec for Json {
    type Error = serde_json::Error;

    fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, Self::Error> {
        serde_json::to_vec(value)
    }

    fn from_slice<T: DeserializeOwned>(slice: &[u8]) -> Result<T, Self::Error> {
        serde_json::from_slice(slice)
    }
}

/// openmls's storage, inside whatever transaction the connection is in.
pub(crate) type Storage<'a> = SqliteStorageProvider<Json, &'a Connection>;

/// The connection, and whether openmls has asked for it.
pub(crate) struct Watched<'a> {
    connection: &'a Connection,
    asked: Rc<Cell<bool>>,
}

impl Borrow<Connection> for Watched<'_> {
    fn borrow(&self) -> &Connection {
        self.asked.set(true);
        self.connection
    }
}

/// What openmls works with.
pub(crate) struct Provider<'a> {
    crypto: &'a RustCrypto,
    storage: SqliteStorageProvider<Json, Watched<'a>>,
    /// Has the storage been used?
    asked: Rc<Cell<bool>>,
}

impl<'a> Provider<'a> {
    pub(crate) fn new(crypto: &'a RustCrypto, connection: &'a Connection) -> Self {
        let asked = Rc::new(Cell::new(false));
        let watched = Watched {
            connection,
            asked: Rc::clone(&asked),
        };
        Self {
            crypto,
            storage: SqliteStorageProvider::new(watched),
            asked,
        }
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = SqliteStorageProvider<Json, Watched<'a>>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        self.crypto
    }
}

/// A new key pair of a device, kept with openmls's tables.
pub(crate) fn new_signer(connection: &Connection, kind: KeyKind) -> Result<SignatureKeyPair, Error> {
    let signer = SignatureKeyPair::new(signature_scheme(kind))
        .map_err(|error| Error::mls("making the device's key")(&format!("{error:?}")))?;
    signer.store(&Storage::new(connection))?;
    Ok(signer)
}

/// The key pair with that public key.
pub(crate) fn load_signer(connection: &Connection, public_key: &[u8]) -> Result<SignatureKeyPair, Error> {
    KeyKind::of(public_key)
        .and_then(|kind| {
            SignatureKeyPair::read(&Storage::new(connection), public_key, signature_scheme(kind))
        })
        .ok_or_else(|| Error::mls("loading the device's key")(&"not found"))
}

/// The device's credential: its certificate chain.
pub(crate) fn credential(chain: &[Vec<u8>], signature_key: &[u8]) -> CredentialWithKey {
    CredentialWithKey {
        credential: valise_group_rules::credential(chain),
        signature_key: SignaturePublicKey::from(signature_key),
    }
}

/// The service as the external sender of every group.
pub(crate) fn external_sender(bytes: &[u8]) -> Result<ExternalSender, Error> {
    ExternalSender::tls_deserialize_exact_bytes(bytes).map_err(|_| Error::Rule("external_senders"))
}

/// What the service says of itself as external sender of the groups that a device with that key can be in: their suites are for keys of
/// its kind. Empty where it says nothing.
pub(crate) fn told_sender<'a>(parameters: &'a GetParametersResponse, signature_key: &[u8]) -> &'a [u8] {
    match KeyKind::of(signature_key) {
        Some(KeyKind::P256) => &parameters.external_sender_p256,
        Some(KeyKind::Ed25519) | None => &parameters.external_sender,
    }
}

/// From an hour ago, as clocks differ, and in all as long as asked for.
pub(crate) fn lifetime(now: u64, seconds: u64) -> Lifetime {
    let from = now.saturating_sub(3600);
    Lifetime::init(from, from.saturating_add(seconds))
}

/// Encrypts a message, and stores the ratchet that has moved by it. Where that fails, the group in memory is ahead of the store.
pub(crate) fn encrypt(
    group: &mut MlsGroup,
    provider: &Provider<'_>,
    signer: &SignatureKeyPair,
    payload: &[u8],
) -> Result<Vec<u8>, Error> {
    const DOING: &str = "encrypting";
    provider.asked.set(false);
    group
        .create_message(provider, signer, payload)
        .map_err(|error| {
            // openmls hides the store's fault here. To store the ratchet is all that it asks of the store, and the last that it does.
            if provider.asked.get() {
                Error::Store(Arc::new(error))
            } else {
                Error::mls(DOING)(&error)
            }
        })?
        .to_bytes()
        .map_err(|error| Error::mls(DOING)(&error))
}

/// What a commit is to do, besides committing the proposals that the log holds already.
#[derive(Default)]
pub(crate) struct CommitPlan {
    pub(crate) adds: Vec<KeyPackage>,
    pub(crate) removals: Vec<LeafNodeIndex>,
    pub(crate) self_update: bool,
    /// Other extensions of the GroupContext.
    pub(crate) extensions: Option<Extensions<GroupContext>>,
    /// The certificate has been renewed since the device's leaf was made: every commit takes the new one along.
    pub(crate) credential: Option<CredentialWithKey>,
}

/// Builds a commit and leaves it pending: nothing of the group changes (RFC 9420 §14).
pub(crate) fn build_commit(
    group: &mut MlsGroup,
    provider: &Provider<'_>,
    signer: &SignatureKeyPair,
    plan: CommitPlan,
) -> Result<CommitMessageBundle, Error> {
    const DOING: &str = "building a commit";
    let mut leaf = LeafNodeParameters::builder();
    if let Some(credential) = plan.credential {
        leaf = leaf.with_credential_with_key(credential);
    }
    let mut builder = group
        .commit_builder()
        .leaf_node_parameters(leaf.build())
        .force_self_update(plan.self_update)
        .propose_adds(plan.adds)
        .propose_removals(plan.removals);
    if let Some(extensions) = plan.extensions {
        builder = builder
            .propose_group_context_extensions(extensions)
            .map_err(|error| Error::mls(DOING)(&error))?;
    }
    builder
        .load_psks(provider.storage())
        .map_err(|error| Error::mls(DOING)(&error))?
        .create_group_info(true)
        .use_ratchet_tree_extension(false)
        .build(provider.rand(), provider.crypto(), signer, |_| true)
        .map_err(|error| Error::mls(DOING)(&error))?
        .stage_commit(provider)
        .map_err(failed(DOING))
}

/// Builds an external commit (RFC 9420 §12.4.3.2) and applies it at once: the group is in the epoch that the commit begins, if it is
/// accepted. An old leaf with the same signature key is removed by it.
pub(crate) fn build_external_commit(
    provider: &Provider<'_>,
    signer: &SignatureKeyPair,
    credential: CredentialWithKey,
    info: VerifiableGroupInfo,
    tree: RatchetTreeIn,
    aad: Vec<u8>,
) -> Result<(MlsGroup, CommitMessageBundle), Error> {
    const DOING: &str = "building an external commit";
    // openmls's default capabilities are not those that groups require.
    let leaf = LeafNodeParameters::builder()
        .with_capabilities(valise_group_rules::capabilities())
        .build();
    MlsGroup::external_commit_builder()
        .with_ratchet_tree(tree)
        .with_config(valise_group_rules::join_config())
        .with_aad(aad)
        .skip_lifetime_validation()
        .build_group(provider, info, credential)
        .map_err(failed(DOING))?
        .leaf_node_parameters(leaf)
        .load_psks(provider.storage())
        .map_err(|error| Error::mls(DOING)(&error))?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), signer, |_| true)
        .map_err(|error| Error::mls(DOING)(&error))?
        .finalize(provider)
        .map_err(failed(DOING))
}

/// The leaves that the proposals in the log are to remove.
pub(crate) fn proposed_removals(group: &MlsGroup) -> Vec<LeafNodeIndex> {
    group
        .pending_proposals()
        .filter_map(|queued| match queued.proposal() {
            Proposal::Remove(remove) => Some(remove.removed()),
            _ => None,
        })
        .collect()
}

/// Only Removes stand alone in a log: a bad proposal in the queue would stop every member from sending.
pub(crate) fn may_stand_alone(proposal: &Proposal) -> bool {
    proposal.proposal_type() == ProposalType::Remove
}

/// A joiner's check of the GroupContext: the service as the only external sender, under whichever of its certificates, the required
/// capabilities, well-formed roles, and nothing else.
pub(crate) fn judge_joined_context(
    context: &GroupContext,
    external_sender: &ExternalSender,
    anybody: &UserId,
) -> Result<(), RuleViolation> {
    let expected = group_context_extensions(external_sender.clone(), anybody)?;
    let found = context.extensions();
    if !valise_group_rules::is_allowed_suite(context.ciphersuite()) {
        return Err(RuleViolation("cipher_suite"));
    }
    judge_external_senders(found, external_sender)?;
    if found.required_capabilities() != expected.required_capabilities() {
        return Err(RuleViolation("required_capabilities"));
    }
    if found.iter().count() != GROUP_EXTENSIONS.len() {
        return Err(RuleViolation("context_extensions"));
    }
    Roles::of_context(context).map(drop)
}
