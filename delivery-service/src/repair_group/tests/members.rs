//! Devices with real keys and certificates, a group of them, and entries that they have in their logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use openmls::messages::external_proposals::ExternalProposal;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    CredentialWithKey, ExternalSender, GroupEpoch, KeyPackage, LeafNodeIndex, Lifetime, MlsGroup,
    MlsMessageIn, MlsMessageOut, OpenMlsProvider as _, ProcessedMessageContent, ProposalStore, PublicGroup,
    RatchetTreeIn, SenderExtensionIndex,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm,
};
use valise_clock::Clock;
use valise_device_certificate::TrustBundle;
use valise_group_rules::{capabilities, create_config, credential, join_config, suites};
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, Position, UserId, Uuid};

use crate::config::Limits;
use crate::group_state::{GroupState, read_group_info};
use crate::log::offers::{Candidate, Frozen};
use crate::log::{Entry, EntryKind, Head, Window};
use crate::repair_group::judge::Rules;
use crate::repair_group::plan::Plan;

/// Where the archive ends, and when that was.
pub(super) const ARCHIVED: u64 = 4;

type Issuer = CertifiedIssuer<'static, KeyPair>;

struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

pub(super) struct Member {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    provider: OpenMlsRustCrypto,
    signer: SignatureKeyPair,
    credential: CredentialWithKey,
    pub(super) group: Option<MlsGroup>,
}

fn lifetime() -> Lifetime {
    Lifetime::new(84 * 24 * 3600)
}

impl Member {
    fn new(authority: &Issuer, name: &str) -> Self {
        let signer = SignatureKeyPair::new(suites()[0].signature_algorithm()).unwrap();
        let user: UserId = format!("{name}@a.example").parse().unwrap();
        let device = DeviceId::from_uuid(Uuid::new_v4());
        let mut params = CertificateParams::default();
        params.subject_alt_names = [user.uri(), device.uri(&user)]
            .map(|uri| SanType::URI(uri.try_into().unwrap()))
            .to_vec();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params
            .signed_by(&LeafKey(signer.to_public_vec()), authority)
            .unwrap();
        Self {
            user,
            device,
            provider: OpenMlsRustCrypto::default(),
            credential: CredentialWithKey {
                credential: credential(&[chain.der().to_vec()]),
                signature_key: signer.to_public_vec().into(),
            },
            signer,
            group: None,
        }
    }

    pub(super) fn package(&self) -> KeyPackage {
        KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .key_package_lifetime(lifetime())
            .build(suites()[0], &self.provider, &self.signer, self.credential.clone())
            .unwrap()
            .into_key_package()
    }

    fn group(&mut self) -> &mut MlsGroup {
        self.group.as_mut().unwrap()
    }

    /// Its pending commit is not to be.
    pub(super) fn forget_commit(&mut self) {
        let storage = self.provider.storage();
        self.group
            .as_mut()
            .unwrap()
            .clear_pending_commit(storage)
            .unwrap();
    }

    fn leaf(&self) -> LeafNodeIndex {
        self.group.as_ref().unwrap().own_leaf_index()
    }

    fn epoch(&self) -> u64 {
        self.group.as_ref().unwrap().epoch().as_u64()
    }

    fn join(&mut self, welcome: &MlsMessageOut, tree: RatchetTreeIn) {
        let welcome = MlsMessageIn::tls_deserialize_exact_bytes(&welcome.to_bytes().unwrap()).unwrap();
        let openmls::prelude::MlsMessageBodyIn::Welcome(welcome) = welcome.extract() else {
            unreachable!("a Welcome")
        };
        let staged =
            openmls::prelude::StagedWelcome::build_from_welcome(&self.provider, &join_config(), welcome)
                .unwrap()
                .with_ratchet_tree(tree)
                .build()
                .unwrap();
        self.group = Some(staged.into_group(&self.provider).unwrap());
    }

    fn apply(&mut self, entry: &Entry) {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&entry.bytes)
            .unwrap()
            .try_into_protocol_message()
            .unwrap();
        let group = self.group.as_mut().unwrap();
        let processed = group.process_message(&self.provider, message).unwrap();
        if let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() {
            group.merge_staged_commit(&self.provider, *staged).unwrap();
        }
    }
}

/// What a commit does.
#[derive(Default)]
pub(super) struct Doing {
    pub(super) add: Option<usize>,
    pub(super) remove: Option<usize>,
}

/// Alice, Bob and Carol in a group that the archive knows up to [`ARCHIVED`]; Dave is not in it.
pub(super) struct Scene {
    pub(super) id: GroupId,
    pub(super) members: Vec<Member>,
    pub(super) now: u64,
    archived: GroupState,
    /// The service's key.
    service: SignatureKeyPair,
    bundle: Arc<TrustBundle>,
    next: u64,
}

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap()
}

impl Scene {
    pub(super) fn new() -> Self {
        let authority = authority();
        let mut members: Vec<_> = ["alice", "bob", "carol", "dave"]
            .map(|name| Member::new(&authority, name))
            .into();
        let id = GroupId::random(&mut rand::rng());
        let service = SignatureKeyPair::new(suites()[0].signature_algorithm()).unwrap();
        let sender = ExternalSender::new(service.to_public_vec().into(), credential(&[vec![1, 2, 3]]));
        let alice = &members[0];
        let config = create_config(suites()[0], sender, &alice.user, lifetime()).unwrap();
        let mut group = MlsGroup::new_with_group_id(
            &alice.provider,
            &alice.signer,
            &config,
            openmls::prelude::GroupId::from_slice(id.as_bytes()),
            alice.credential.clone(),
        )
        .unwrap();
        let packages = [members[1].package(), members[2].package()];
        let (_, welcome, _) = group
            .add_members(&alice.provider, &alice.signer, &packages)
            .unwrap();
        group.merge_pending_commit(&alice.provider).unwrap();
        let archived = GroupState::begin(public(alice, &group), Position(1)).unwrap();
        let tree: RatchetTreeIn = group.export_ratchet_tree().into();
        members[0].group = Some(group);
        for member in &mut members[1..3] {
            member.join(&welcome, tree.clone());
        }
        Self {
            id,
            members,
            now: Clock::system().unix_millis(),
            archived,
            service,
            bundle: Arc::new(TrustBundle::from_der([authority.der().to_vec()]).unwrap()),
            next: ARCHIVED + 1,
        }
    }

    fn entry(&mut self, kind: EntryKind, sender: usize, bytes: Vec<u8>) -> Entry {
        let position = self.next;
        self.next += 1;
        Entry {
            group: self.id,
            position: Position(position),
            kind,
            epoch: Epoch(self.members[sender].epoch()),
            accepted_at: self.at(position),
            id: EntryId::random(&mut rand::rng()),
            sender: Some(self.members[sender].device),
            bytes: bytes.into(),
        }
    }

    fn at(&self, position: u64) -> u64 {
        self.now - 10_000 + position * 100
    }

    /// The next entry: a message.
    pub(super) fn message(&mut self, by: usize, text: &str) -> Entry {
        let member = &mut self.members[by];
        let group = member.group.as_mut().unwrap();
        let message = group
            .create_message(&member.provider, &member.signer, text.as_bytes())
            .unwrap();
        self.entry(EntryKind::Application, by, message.to_bytes().unwrap())
    }

    /// The next entry: somebody asks to leave.
    pub(super) fn proposal(&mut self, by: usize) -> Entry {
        let member = &mut self.members[by];
        let group = member.group.as_mut().unwrap();
        let message = group.leave_group(&member.provider, &member.signer).unwrap();
        self.entry(EntryKind::Proposal, by, message.to_bytes().unwrap())
    }

    /// The next entry: the service asks to remove somebody.
    pub(super) fn removal(&mut self, who: usize) -> Entry {
        let member = &self.members[who];
        let message = ExternalProposal::new_remove::<OpenMlsRustCrypto>(
            member.leaf(),
            openmls::prelude::GroupId::from_slice(self.id.as_bytes()),
            GroupEpoch::from(member.epoch()),
            &self.service,
            SenderExtensionIndex::new(0),
        )
        .unwrap();
        let entry = self.entry(EntryKind::Proposal, who, message.to_bytes().unwrap());
        Entry {
            sender: None,
            ..entry
        }
    }

    /// The next entry, with its GroupInfo: a commit, which nobody has applied.
    pub(super) fn commit(&mut self, by: usize, doing: &Doing) -> (Entry, Bytes, Option<MlsMessageOut>) {
        let adds: Vec<_> = doing.add.iter().map(|who| self.members[*who].package()).collect();
        let removals: Vec<_> = doing.remove.iter().map(|who| self.members[*who].leaf()).collect();
        let member = &mut self.members[by];
        let group = member.group.as_mut().unwrap();
        let bundle = group
            .commit_builder()
            .force_self_update(true)
            .propose_adds(adds)
            .propose_removals(removals)
            .load_psks(member.provider.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(
                member.provider.rand(),
                member.provider.crypto(),
                &member.signer,
                |_| true,
            )
            .unwrap()
            .stage_commit(&member.provider)
            .unwrap();
        let (commit, welcome, info) = bundle.into_messages();
        let info = info.unwrap().to_bytes().unwrap();
        let entry = self.entry(EntryKind::Commit, by, commit.to_bytes().unwrap());
        (entry, info.into(), welcome)
    }

    /// Everybody who is in has that commit now.
    pub(super) fn apply(&mut self, by: usize, entry: &Entry, welcome: Option<MlsMessageOut>) {
        for (number, member) in self.members.iter_mut().enumerate() {
            if number == by {
                let provider = &member.provider;
                member
                    .group
                    .as_mut()
                    .unwrap()
                    .merge_pending_commit(provider)
                    .unwrap();
            } else if member.group.as_ref().is_some_and(MlsGroup::is_active) {
                member.apply(entry);
            }
        }
        if let Some(welcome) = welcome {
            let tree: RatchetTreeIn = self.members[by].group().export_ratchet_tree().into();
            self.members[3].join(&welcome, tree);
        }
    }

    /// That entry, offered by these.
    pub(super) fn offered(&self, entry: &Entry, by: &[usize]) -> Candidate {
        Candidate {
            entry: Arc::new(entry.clone()),
            group_info: None,
            by: by
                .iter()
                .map(|who| (self.members[*who].user.clone(), self.members[*who].device))
                .collect(),
        }
    }

    /// What comes of it.
    pub(super) fn plan(self, candidates: &[Candidate], up_to: u64) -> Plan {
        let joined = |member: &Member| {
            let window = Window {
                after: Position(1),
                until: None,
            };
            (member.user.clone(), member.device, window)
        };
        let newest = candidates.iter().map(|candidate| candidate.entry.position).max();
        let frozen = Frozen {
            head: Head {
                epoch: Epoch(1),
                position: Position(ARCHIVED),
                commit_position: Position(1),
                proposal_position: Position::NONE,
                origin: EntryId::from_bytes([0; 8]),
                frozen: true,
                reset: false,
            },
            accepted_at: self.at(ARCHIVED),
            windows: self.members[..3].iter().map(joined).collect(),
            abandoned: Position::NONE,
            repaired: false,
            offered: newest.unwrap_or(Position::NONE),
        };
        let rules = Rules {
            limits: Limits::default(),
            bundle: self.bundle,
            retention_seconds: 3600,
            now: self.now,
        };
        let mut plan = Plan::begin(self.archived, &frozen, rules);
        while let Some((after, last)) = plan.wants(&frozen, Position(up_to)) {
            assert!(last > after);
            let mut page: BTreeMap<(Position, [u8; 8]), Candidate> = BTreeMap::new();
            for candidate in candidates {
                let position = candidate.entry.position;
                if position > after && position <= last {
                    page.insert((position, *candidate.entry.id.as_bytes()), candidate.clone());
                }
            }
            plan = plan.go_on(&page.into_values().collect::<Vec<_>>(), last).unwrap();
        }
        plan
    }
}

/// The group as the service has it.
fn public(member: &Member, group: &MlsGroup) -> PublicGroup {
    let info = group
        .export_group_info(member.provider.crypto(), &member.signer, false)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
    PublicGroup::from_external(
        member.provider.crypto(),
        member.provider.storage(),
        RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap(),
        read_group_info(&info).unwrap().info,
        ProposalStore::new(),
    )
    .unwrap()
    .0
}
