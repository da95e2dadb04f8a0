//! A group as its members have it, with openmls alone.

use bytes::Bytes;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    CredentialWithKey, ExternalSender, KeyPackage, Lifetime, MlsGroup, MlsMessageOut, OpenMlsProvider as _,
    PublicGroup, RatchetTreeIn, SignaturePublicKey, StagedWelcome, Welcome,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use valise_clock::Clock;
use valise_group_rules::{capabilities, create_config, credential, join_config, suites};
use valise_proto::GroupId;
use valise_proto::delivery::v1::{CreateGroupRequest, GetParametersRequest, SubmitCommitRequest};

use crate::raw::{Device, Identity, new_key};
use crate::{Result, say};

/// Most Adds in a commit.
pub(crate) const ADDS: usize = 256;
/// Of key packages and leaves.
const LIFETIME_SECONDS: u64 = 84 * 24 * 3600;
/// An application message with that much text is 1 KiB, padding and all, within a few bytes.
const TEXT: usize = 900;

/// One device's state of a group.
pub(crate) struct Member {
    pub(crate) mls: MlsGroup,
    pub(crate) provider: OpenMlsRustCrypto,
    /// The newest commit's.
    pub(crate) position: u64,
}

/// A commit that was built and not merged yet.
pub(crate) struct Built {
    pub(crate) commit: Bytes,
    group_info: Bytes,
    pub(crate) welcome: Bytes,
    for_joiners: Option<Welcome>,
}

impl Built {
    pub(crate) fn request(&self) -> SubmitCommitRequest {
        SubmitCommitRequest {
            commit: self.commit.clone(),
            group_info: self.group_info.clone(),
            welcome: self.welcome.clone(),
            idempotency_key: new_key(),
            may_be_repeat: false,
        }
    }
}

/// What a device joins with.
pub(crate) struct Joiner {
    provider: OpenMlsRustCrypto,
    package: KeyPackage,
}

impl Joiner {
    pub(crate) fn new(identity: &Identity) -> Result<Self> {
        let provider = OpenMlsRustCrypto::default();
        let bundle = KeyPackage::builder()
            .key_package_lifetime(lifetime())
            .leaf_node_capabilities(capabilities())
            .build(suites()[0], &provider, &identity.signer, credential_of(identity))
            .map_err(say)?;
        Ok(Self {
            provider,
            package: bundle.into_key_package(),
        })
    }

    /// The key package as it is published.
    pub(crate) fn message(&self) -> Result<Bytes> {
        bytes(&MlsMessageOut::from(self.package.clone()))
    }

    /// Joins with a Welcome for this key package.
    pub(crate) fn join(self, added: &Added) -> Result<Member> {
        let staged = StagedWelcome::build_from_welcome(&self.provider, &join_config(), added.welcome.clone())
            .map_err(say)?
            .with_ratchet_tree(added.tree.clone())
            .skip_lifetime_validation()
            .build()
            .map_err(say)?;
        let mls = staged.into_group(&self.provider).map_err(say)?;
        Ok(Member {
            mls,
            provider: self.provider,
            position: added.position,
        })
    }
}

/// What joiners need to know.
pub(crate) struct Added {
    pub(crate) welcome: Welcome,
    pub(crate) tree: RatchetTreeIn,
    pub(crate) position: u64,
}

impl Member {
    /// Registers a group with one member.
    pub(crate) async fn create(device: &Device) -> Result<Self> {
        let parameters = device
            .delivery()
            .get_parameters(device.request(GetParametersRequest {}))
            .await?
            .into_inner();
        let external_sender = ExternalSender::tls_deserialize_exact_bytes(&parameters.external_sender)?;
        let identity = &device.identity;
        let member = Self::alone(identity, external_sender)?;
        let group_info = member
            .mls
            .export_group_info(member.provider.crypto(), &identity.signer, false)
            .map_err(say)?;
        let request = CreateGroupRequest {
            group_info: bytes(&group_info)?,
            ratchet_tree: member.mls.export_ratchet_tree().tls_serialize_detached()?.into(),
            idempotency_key: new_key(),
        };
        device.delivery().create_group(device.request(request)).await?;
        Ok(member)
    }

    /// A group with one member, which nobody else knows of.
    pub(crate) fn alone(identity: &Identity, external_sender: ExternalSender) -> Result<Self> {
        let config = create_config(suites()[0], external_sender, &identity.user, lifetime())?;
        let id = GroupId::random(&mut rand::rng());
        let provider = OpenMlsRustCrypto::default();
        let mls = MlsGroup::new_with_group_id(
            &provider,
            &identity.signer,
            &config,
            openmls::prelude::GroupId::from_slice(id.as_bytes()),
            credential_of(identity),
        )
        .map_err(say)?;
        Ok(Self {
            mls,
            provider,
            position: 0,
        })
    }

    /// A group of so many devices, of which the first is live.
    pub(crate) async fn create_with(device: &mut Device, others: &[&Identity]) -> Result<Self> {
        let mut member = Self::create(device).await?;
        for others in others.chunks(ADDS) {
            device.renew().await?;
            let joiners = others
                .iter()
                .map(|other| Joiner::new(other))
                .collect::<Result<Vec<_>>>()?;
            member.add(device, &joiners).await?;
        }
        Ok(member)
    }

    /// Adds them with one commit.
    pub(crate) async fn add(&mut self, device: &Device, joiners: &[Joiner]) -> Result<Added> {
        let packages = joiners.iter().map(|joiner| joiner.package.clone()).collect();
        let built = self.build(&device.identity, packages)?;
        self.submit(device, &built).await?;
        let tree = self.mls.export_ratchet_tree().into();
        Ok(Added {
            welcome: built.for_joiners.ok_or("no Welcome")?,
            tree,
            position: self.position,
        })
    }

    /// Builds a commit that adds, or, without anybody to add, gives the committer a new leaf and path.
    pub(crate) fn build(&mut self, identity: &Identity, adds: Vec<KeyPackage>) -> Result<Built> {
        let bundle = self
            .mls
            .commit_builder()
            .force_self_update(adds.is_empty())
            .propose_adds(adds)
            .load_psks(self.provider.storage())
            .map_err(say)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(
                self.provider.rand(),
                self.provider.crypto(),
                &identity.signer,
                |_| true,
            )
            .map_err(say)?
            .stage_commit(&self.provider)
            .map_err(say)?;
        let for_joiners = bundle.welcome().cloned();
        let (commit, welcome, group_info) = bundle.into_messages();
        Ok(Built {
            commit: bytes(&commit)?,
            group_info: bytes(&group_info.ok_or("no GroupInfo")?)?,
            welcome: welcome.map_or_else(|| Ok(Bytes::new()), |welcome| bytes(&welcome))?,
            for_joiners,
        })
    }

    async fn submit(&mut self, device: &Device, built: &Built) -> Result<()> {
        let answer = device
            .delivery()
            .submit_commit(device.request(built.request()))
            .await?
            .into_inner();
        self.accepted(answer.accepted.ok_or("no position")?.position)
    }

    /// The commit that was built has that position.
    pub(crate) fn accepted(&mut self, position: u64) -> Result<()> {
        self.mls.merge_pending_commit(&self.provider).map_err(say)?;
        self.position = position;
        Ok(())
    }

    /// The group as somebody outside has it.
    pub(crate) fn outside(&self) -> Result<PublicGroup> {
        PublicGroup::load(self.provider.storage(), self.mls.group_id())
            .map_err(say)?
            .ok_or_else(|| "no group".into())
    }

    /// An application message of 1 KiB.
    pub(crate) fn encrypt(&mut self, identity: &Identity) -> Result<Bytes> {
        let message = self
            .mls
            .create_message(&self.provider, &identity.signer, &[b'x'; TEXT])
            .map_err(say)?;
        bytes(&message)
    }

    /// So many of them.
    pub(crate) fn encrypt_many(&mut self, identity: &Identity, count: usize) -> Result<Vec<Bytes>> {
        (0..count).map(|_| self.encrypt(identity)).collect()
    }
}

fn lifetime() -> Lifetime {
    // Clocks differ.
    let from = Clock::system().unix_seconds().saturating_sub(3600);
    Lifetime::init(from, from + LIFETIME_SECONDS)
}

fn credential_of(identity: &Identity) -> CredentialWithKey {
    CredentialWithKey {
        credential: credential(&identity.chain),
        signature_key: SignaturePublicKey::from(identity.signer.public()),
    }
}

fn bytes(message: &MlsMessageOut) -> Result<Bytes> {
    Ok(message.to_bytes().map_err(say)?.into())
}
