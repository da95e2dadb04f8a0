//! A device without the SDK: its own key, its own openmls groups, its own calls. It keeps to the contract only as far as a
//! test wants it to.

pub mod bytes;
mod commits;
mod door;
pub mod stream;

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    Credential, CredentialWithKey, ExternalSender, KeyPackage, KeyPackageBuilder, Lifetime, MlsGroup,
    MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsProvider as _, ProcessedMessageContent,
    ProtocolVersion, RatchetTreeIn, StagedWelcome,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;
use valise_access_token::{ASSERTION_AUDIENCE, assertion};
use valise_clock::Clock;
use valise_device_certificate::{KeyKind, certification_request};
use valise_group_rules::{capabilities, create_config, credential, join_config, suites};
use valise_proto::authentication::v1 as authentication;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::inbox_item::Item;
use valise_proto::directory::v1 as directory;
use valise_proto::{DeviceId, GroupId, Refusal, UserId};

pub use self::commits::{Bundle, Plan, bundle};
pub use self::door::{Bearer, Calls, Door, refusal};

use self::stream::Stream;
use crate::service::Service;

/// Seconds of a day.
pub const DAY: u64 = 24 * 3600;
/// The suite of all groups here.
pub const SUITE: u32 = 1;

/// A device.
pub struct Device {
    /// Its user.
    pub user: UserId,
    /// The device.
    pub id: DeviceId,
    /// Its signature key.
    pub signer: SignatureKeyPair,
    /// Its certificate chain.
    pub chain: Vec<Vec<u8>>,
    /// Its openmls storage.
    pub provider: OpenMlsRustCrypto,
    /// The service as external sender.
    pub external_sender: ExternalSender,
    /// Its calls, with its token.
    pub door: Door,
}

impl Device {
    /// Enrols with a code, and gets a token. It publishes nothing.
    pub async fn enrol(service: &Service, code: &str) -> Self {
        Self::enrol_at(Door::open(service.connect().await), code).await
    }

    /// Enrols by that door.
    pub async fn enrol_at(door: Door, code: &str) -> Self {
        let signer = new_signer();
        let request = authentication::EnrolRequest {
            proof: Some(authentication::enrol_request::Proof::EnrolmentCode(
                code.to_owned(),
            )),
            certification_request: request_of(&signer),
            device_name: "a raw device".to_owned(),
        };
        let answer = door.authentication().enrol(request).await.unwrap().into_inner();
        let id: DeviceId = answer.device_id.parse().unwrap();
        let token = token(&door, id, &signer).await.unwrap();
        let door = door.with_token(&token);
        let parameters = door
            .delivery()
            .get_parameters(wire::GetParametersRequest {})
            .await
            .unwrap()
            .into_inner();
        Self {
            user: answer.user_id.parse().unwrap(),
            id,
            signer,
            chain: answer.chain.unwrap().certificates,
            provider: OpenMlsRustCrypto::default(),
            external_sender: ExternalSender::tls_deserialize_exact_bytes(&parameters.external_sender)
                .unwrap(),
            door,
        }
    }

    /// Another token.
    pub async fn new_token(&self) -> Result<String, Refusal> {
        self.new_token_at(&self.door).await
    }

    /// Another token, by that door.
    pub async fn new_token_at(&self, door: &Door) -> Result<String, Refusal> {
        token(door, self.id, &self.signer).await
    }

    /// A key package of each device of these users.
    pub async fn claim(&self, user_ids: Vec<String>) -> Vec<KeyPackage> {
        let request = directory::ClaimKeyPackagesRequest {
            user_ids,
            device_ids: Vec::new(),
            cipher_suite: SUITE,
        };
        let claims = self
            .door
            .directory()
            .claim_key_packages(request)
            .await
            .unwrap()
            .into_inner()
            .claims;
        claims.into_iter().map(|claim| self.read_package(claim)).collect()
    }

    fn read_package(&self, claim: directory::Claim) -> KeyPackage {
        let Some(directory::claim::Result::KeyPackage(bytes)) = claim.result else {
            panic!("{claim:?}")
        };
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&bytes).unwrap();
        let MlsMessageBodyIn::KeyPackage(package) = message.extract() else {
            panic!("not a key package")
        };
        package
            .validate(self.provider.crypto(), ProtocolVersion::Mls10)
            .unwrap()
    }

    /// A certificate of the same device for a new key, which from now on is the key that tokens are got with.
    pub async fn renew(&self) -> (SignatureKeyPair, Vec<Vec<u8>>) {
        let signer = new_signer();
        let request = authentication::RenewCertificateRequest {
            certification_request: request_of(&signer),
        };
        let answer = self
            .door
            .authentication()
            .renew_certificate(request)
            .await
            .unwrap()
            .into_inner();
        (signer, answer.chain.unwrap().certificates)
    }

    /// Its credential.
    pub fn credential(&self) -> CredentialWithKey {
        credential_with_key(credential(&self.chain), &self.signer)
    }

    /// How its key packages are made.
    pub fn package_builder() -> KeyPackageBuilder {
        KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .key_package_lifetime(lifetime(84 * DAY))
    }

    /// A key package.
    pub fn key_package(&self) -> KeyPackage {
        self.build_package(Self::package_builder(), &self.signer, self.credential())
    }

    /// A key package that is not as it should be.
    pub fn build_package(
        &self,
        builder: KeyPackageBuilder,
        signer: &SignatureKeyPair,
        credential: CredentialWithKey,
    ) -> KeyPackage {
        builder
            .build(suites()[0], &self.provider, signer, credential)
            .unwrap()
            .into_key_package()
    }

    /// Publishes so many one-time packages and a last-resort one. Returns their messages.
    pub async fn publish(&self, one_time: usize) -> Vec<Vec<u8>> {
        let mut packages: Vec<_> = (0..one_time).map(|_| message(self.key_package())).collect();
        let builder = Self::package_builder().mark_as_last_resort();
        packages.push(message(self.build_package(
            builder,
            &self.signer,
            self.credential(),
        )));
        for batch in packages.chunks(100) {
            let request = directory::PublishKeyPackagesRequest {
                key_packages: batch.to_vec(),
            };
            self.door.directory().publish_key_packages(request).await.unwrap();
        }
        packages
    }

    /// A group of this device alone, not registered.
    pub fn new_group(&self) -> MlsGroup {
        let config = create_config(
            suites()[0],
            self.external_sender.clone(),
            &self.user,
            lifetime(84 * DAY),
        )
        .unwrap();
        let id = openmls::prelude::GroupId::from_slice(GroupId::random(&mut rand::rng()).as_bytes());
        MlsGroup::new_with_group_id(&self.provider, &self.signer, &config, id, self.credential()).unwrap()
    }

    /// Registers a group.
    pub async fn register(&self, group: &MlsGroup) -> Result<(), Refusal> {
        let (group_info, ratchet_tree) = self.registration(group);
        self.register_bytes(group_info, ratchet_tree).await
    }

    /// Opens its stream, and joins the group that it is invited into.
    pub async fn invited(&self) -> (MlsGroup, Stream) {
        let mut stream = Stream::open(&self.door, Vec::new(), 0).await.unwrap();
        let Item::Welcome(item) = stream.invitation_or_news().await else {
            panic!("not an invitation")
        };
        let request = wire::GetRatchetTreeRequest {
            group_id: item.group_id,
            epoch: item.epoch,
        };
        let tree = self.door.delivery().get_ratchet_tree(request).await.unwrap();
        let group = self.join(&item.welcome, &tree.into_inner().ratchet_tree);
        (group, stream)
    }

    /// The GroupInfo and the ratchet tree with which a group is registered.
    pub fn registration(&self, group: &MlsGroup) -> (Vec<u8>, Vec<u8>) {
        let info = group
            .export_group_info(self.provider.crypto(), &self.signer, false)
            .unwrap();
        let tree = group.export_ratchet_tree();
        (
            info.tls_serialize_detached().unwrap(),
            tree.tls_serialize_detached().unwrap(),
        )
    }

    /// Registers a group with whatever bytes.
    pub async fn register_bytes(&self, group_info: Vec<u8>, ratchet_tree: Vec<u8>) -> Result<(), Refusal> {
        let request = wire::CreateGroupRequest {
            group_info: group_info.into(),
            ratchet_tree: ratchet_tree.into(),
            idempotency_key: key(),
        };
        let answer = self.door.delivery().create_group(request).await;
        answer.map(drop).map_err(|status| refusal(&status))
    }

    /// A registered group of this device and others, which join it.
    pub async fn group_with(&self, others: &[&Self]) -> (MlsGroup, Vec<MlsGroup>) {
        let mut group = self.new_group();
        self.register(&group).await.unwrap();
        if others.is_empty() {
            return (group, Vec::new());
        }
        let adds = others.iter().map(|other| other.key_package()).collect();
        let bundle = self.commit(&mut group, Plan::add(adds));
        self.submit(&bundle).await.unwrap();
        group.merge_pending_commit(&self.provider).unwrap();
        let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
        let joined = others
            .iter()
            .map(|other| other.join(&bundle.welcome, &tree))
            .collect();
        (group, joined)
    }

    /// Joins by a Welcome.
    pub fn join(&self, welcome: &[u8], tree: &[u8]) -> MlsGroup {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(welcome).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            panic!("not a Welcome")
        };
        StagedWelcome::build_from_welcome(&self.provider, &join_config(), welcome)
            .unwrap()
            .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap())
            .skip_lifetime_validation()
            .build()
            .unwrap()
            .into_group(&self.provider)
            .unwrap()
    }

    /// Encrypts a message.
    pub fn encrypt(&self, group: &mut MlsGroup, text: &[u8]) -> Vec<u8> {
        group
            .create_message(&self.provider, &self.signer, text)
            .unwrap()
            .tls_serialize_detached()
            .unwrap()
    }

    /// Sends a message.
    pub async fn send(&self, group: &mut MlsGroup, text: &[u8]) -> Result<wire::Accepted, Refusal> {
        let message = self.encrypt(group, text);
        self.send_bytes(message).await
    }

    /// Sends whatever bytes as a message.
    pub async fn send_bytes(&self, message: Vec<u8>) -> Result<wire::Accepted, Refusal> {
        let request = wire::SendMessageRequest {
            mls_message: message.into(),
            idempotency_key: key(),
            may_be_repeat: false,
        };
        let answer = self.door.delivery().send_message(request).await;
        answer
            .map(|answer| answer.into_inner().accepted.unwrap())
            .map_err(|status| refusal(&status))
    }

    /// Submits whatever bytes as a proposal.
    pub async fn propose_bytes(&self, proposal: Vec<u8>) -> Result<wire::Accepted, Refusal> {
        let request = wire::SubmitProposalRequest {
            proposal: proposal.into(),
            idempotency_key: key(),
            may_be_repeat: false,
        };
        let answer = self.door.delivery().submit_proposal(request).await;
        answer
            .map(|answer| answer.into_inner().accepted.unwrap())
            .map_err(|status| refusal(&status))
    }

    /// Reads a part of a log.
    pub async fn read(
        &self,
        group: &[u8],
        after: u64,
        max: u32,
    ) -> Result<wire::ReadEntriesResponse, Refusal> {
        read(&self.door, group, after, max).await
    }

    /// Reads a log from there to its end.
    pub async fn read_all(&self, group: &[u8], after: u64) -> Vec<wire::Entry> {
        read_all(&self.door, group, after).await
    }

    /// Where a log stands.
    pub async fn head(&self, group: &MlsGroup) -> (u64, u64) {
        let last = self
            .read(group.group_id().as_slice(), u64::MAX, 1)
            .await
            .unwrap()
            .last_position;
        let request = wire::GetGroupInfoRequest {
            group_id: group.group_id().as_slice().to_vec().into(),
            ..wire::GetGroupInfoRequest::default()
        };
        let epoch = self
            .door
            .delivery()
            .get_group_info(request)
            .await
            .unwrap()
            .into_inner()
            .epoch;
        (last, epoch)
    }

    /// Applies an entry. Returns the text of a message.
    pub fn apply(&self, group: &mut MlsGroup, entry: &[u8]) -> Option<Vec<u8>> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(entry)
            .unwrap()
            .try_into_protocol_message()
            .unwrap();
        let processed = group.process_message(&self.provider, message).unwrap();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => return Some(message.into_bytes()),
            ProcessedMessageContent::ProposalMessage(proposal) => {
                group
                    .store_pending_proposal(self.provider.storage(), *proposal)
                    .unwrap();
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                group.merge_staged_commit(&self.provider, *staged).unwrap();
            }
            other => panic!("{other:?}"),
        }
        None
    }
}

/// Reads a part of a log.
pub async fn read(
    door: &Door,
    group: &[u8],
    after: u64,
    max: u32,
) -> Result<wire::ReadEntriesResponse, Refusal> {
    let request = wire::ReadEntriesRequest {
        group_id: group.to_vec().into(),
        after_position: after,
        max_entries: max,
    };
    let answer = door.delivery().read_entries(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| refusal(&status))
}

/// Reads a log from there to its end.
pub async fn read_all(door: &Door, group: &[u8], after: u64) -> Vec<wire::Entry> {
    let mut entries: Vec<wire::Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(after, |entry| entry.position);
        let page = read(door, group, from, 1000).await.unwrap();
        if page.entries.is_empty() {
            return entries;
        }
        entries.extend(page.entries);
    }
}

/// A random idempotency key.
pub fn key() -> ::bytes::Bytes {
    uuid::Uuid::new_v4().into_bytes().to_vec().into()
}

/// From a minute ago, and so many seconds in all.
pub fn lifetime(seconds: u64) -> Lifetime {
    let from = Clock::system().unix_seconds() - 60;
    Lifetime::init(from, from + seconds)
}

/// A credential and the public key of that signer.
pub fn credential_with_key(credential: Credential, signer: &SignatureKeyPair) -> CredentialWithKey {
    CredentialWithKey {
        credential,
        signature_key: signer.to_public_vec().into(),
    }
}

/// A key package as it is published.
pub fn message(package: KeyPackage) -> Vec<u8> {
    MlsMessageOut::from(package).tls_serialize_detached().unwrap()
}

/// A new Ed25519 key pair.
pub fn new_signer() -> SignatureKeyPair {
    SignatureKeyPair::new(suites()[0].signature_algorithm()).unwrap()
}

/// A PKCS#10 request for that key.
pub fn request_of(signer: &SignatureKeyPair) -> Vec<u8> {
    certification_request(signer.public(), |message| signer.sign(message).ok()).unwrap()
}

/// An assertion of that subject with that key.
pub fn assertion_of(subject: &str, signer: &SignatureKeyPair) -> String {
    let jti = uuid::Uuid::new_v4().to_string();
    assertion(
        subject,
        ASSERTION_AUDIENCE,
        Clock::system().now(),
        &jti,
        KeyKind::of(signer.public()).unwrap(),
        |message| signer.sign(message).unwrap(),
    )
}

async fn token(door: &Door, device: DeviceId, signer: &SignatureKeyPair) -> Result<String, Refusal> {
    let assertion = assertion_of(&device.to_string(), signer);
    let answer = door
        .authentication()
        .issue_token(authentication::IssueTokenRequest { assertion })
        .await;
    answer
        .map(|answer| answer.into_inner().access_token)
        .map_err(|status| refusal(&status))
}
