//! A group with devices of all roles, and commits in it.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    CredentialWithKey, Extension, Extensions, ExternalSender, GroupContext, KeyPackage, LeafNodeIndex,
    LeafNodeParameters, MlsGroup, MlsGroupCreateConfig, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut,
    OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, ProposalStore,
    PublicGroup, RatchetTreeIn, Sender, StagedWelcome, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm,
};
use valise_group_rules::{
    CommitSummary, GroupLimits, Policy, ROLES_EXTENSION, Role, Roles, Roster, capabilities, credential,
    group_context_extensions, join_config, judge_commit, suites,
};
use valise_proto::{DeviceId, UserId};

type Issuer = CertifiedIssuer<'static, KeyPair>;
pub(crate) type Judged = Result<CommitSummary, &'static str>;

struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    format!("{name}@a.example").parse().unwrap()
}

pub(crate) fn new_id() -> DeviceId {
    DeviceId::from_uuid(uuid::Uuid::new_v4())
}

fn certify(authority: &Issuer, name: &str, id: DeviceId, signer: &SignatureKeyPair) -> CredentialWithKey {
    let user = user(name);
    let mut params = CertificateParams::default();
    params.subject_alt_names = [user.uri(), id.uri(&user)]
        .map(|uri| SanType::URI(uri.try_into().unwrap()))
        .to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let chain = params
        .signed_by(&LeafKey(signer.to_public_vec()), authority)
        .unwrap();
    CredentialWithKey {
        credential: credential(&[chain.der().to_vec()]),
        signature_key: signer.to_public_vec().into(),
    }
}

pub(crate) struct Device {
    pub(crate) id: DeviceId,
    provider: OpenMlsRustCrypto,
    signer: SignatureKeyPair,
    credential: CredentialWithKey,
}

impl Device {
    pub(crate) fn new(authority: &Issuer, name: &str) -> Self {
        Self::with_id(authority, name, new_id())
    }

    pub(crate) fn with_id(authority: &Issuer, name: &str, id: DeviceId) -> Self {
        let signer = SignatureKeyPair::new(suites()[0].signature_algorithm()).unwrap();
        Self {
            id,
            provider: OpenMlsRustCrypto::default(),
            credential: certify(authority, name, id, &signer),
            signer,
        }
    }

    /// The same key is another device's from now on.
    pub(crate) fn becomes(&mut self, authority: &Issuer, name: &str, id: DeviceId) {
        self.credential = certify(authority, name, id, &self.signer);
        self.id = id;
    }

    pub(crate) fn package(&self) -> KeyPackage {
        KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .build(suites()[0], &self.provider, &self.signer, self.credential.clone())
            .unwrap()
            .into_key_package()
    }
}

/// What a commit is to do.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) adds: Vec<KeyPackage>,
    pub(crate) removals: Vec<LeafNodeIndex>,
    pub(crate) roles: Option<Roles>,
    pub(crate) path: bool,
}

/// The first device of each role (leaves 0 to 3, the owner first), then the second of each (4 to 7), then a member of whom others
/// make something (8).
pub(crate) struct Scene {
    pub(crate) authority: Issuer,
    pub(crate) devices: Vec<Device>,
    pub(crate) groups: Vec<MlsGroup>,
    pub(crate) roles: Roles,
}

pub(crate) const NAMES: [&str; 4] = ["owner", "reader", "member", "moderator"];
pub(crate) const RANKS: [Role; 4] = [Role::Owner, Role::Reader, Role::Member, Role::Moderator];
pub(crate) const VICTIM: u32 = 8;

impl Scene {
    pub(crate) fn new(policy: Policy) -> Self {
        let authority = authority();
        let roles = Roles::owned_by(user("owner"))
            .with(user("reader"), Role::Reader)
            .with(user("moderator"), Role::Moderator)
            .with_policy(policy);
        let devices: Vec<_> = NAMES
            .iter()
            .chain(&NAMES)
            .chain(&["victim"])
            .map(|name| Device::new(&authority, name))
            .collect();
        let service = ExternalSender::new(vec![7; 32].into(), credential(&[vec![1, 2, 3]]));
        let extensions = group_context_extensions(service, &user("owner")).unwrap();
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(suites()[0])
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .capabilities(capabilities())
            .with_group_context_extensions(with_roles(&extensions, &roles))
            .build();
        let first = &devices[0];
        let mut group =
            MlsGroup::new(&first.provider, &first.signer, &config, first.credential.clone()).unwrap();
        let adds = devices[1..].iter().map(Device::package).collect();
        let (_, welcome) = commit(
            first,
            &mut group,
            Plan {
                adds,
                ..Plan::default()
            },
        );
        group.merge_pending_commit(&first.provider).unwrap();
        let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
        let mut groups = vec![group];
        groups.extend(
            devices[1..]
                .iter()
                .map(|device| join(device, welcome.as_ref().unwrap(), &tree)),
        );
        Self {
            authority,
            devices,
            groups,
            roles,
        }
    }

    /// The group as the service has it.
    pub(crate) fn public(&self) -> PublicGroup {
        let (owner, group) = (&self.devices[0], &self.groups[0]);
        let info = group
            .export_group_info(owner.provider.crypto(), &owner.signer, false)
            .unwrap()
            .tls_serialize_detached()
            .unwrap();
        let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
        let storage = OpenMlsRustCrypto::default();
        PublicGroup::from_external(
            owner.provider.crypto(),
            storage.storage(),
            RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap(),
            read_info(&info),
            ProposalStore::new(),
        )
        .unwrap()
        .0
    }

    /// What the committer itself and what the service find.
    pub(crate) fn judge(&mut self, by: usize, plan: Plan) -> Judged {
        self.judge_within(GroupLimits::default(), by, plan)
    }

    pub(crate) fn judge_within(&mut self, limits: GroupLimits, by: usize, plan: Plan) -> Judged {
        let public = self.public();
        let (device, group) = (&self.devices[by], &mut self.groups[by]);
        let (message, _) = commit(device, group, plan);
        let roster = Roster::of(group.members(), None).unwrap();
        let own = judge_commit(
            group.public_group(),
            &roster,
            &Sender::Member(group.own_leaf_index()),
            group.pending_commit().unwrap(),
            device.provider.crypto(),
            limits,
        );
        group.clear_pending_commit(device.provider.storage()).unwrap();
        let services = judge_as_service(limits, &public, &message);
        let own = own.map_err(|rule| rule.0);
        assert_eq!(
            own.as_ref().map(|summary| (
                summary.added.len(),
                summary.removed.clone(),
                summary.roles.clone()
            )),
            services.as_ref().map(|summary| (
                summary.added.len(),
                summary.removed.clone(),
                summary.roles.clone()
            )),
            "both judge alike"
        );
        services
    }
}

pub(crate) fn judge_as_service(limits: GroupLimits, public: &PublicGroup, message: &[u8]) -> Judged {
    let provider = OpenMlsRustCrypto::default();
    let message = MlsMessageIn::tls_deserialize_exact_bytes(message)
        .unwrap()
        .try_into_protocol_message()
        .unwrap();
    let processed = public.process_message(provider.crypto(), message).unwrap();
    let sender = processed.sender().clone();
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        unreachable!("a commit")
    };
    let roster = Roster::of(public.members(), None).unwrap();
    judge_commit(public, &roster, &sender, &staged, provider.crypto(), limits).map_err(|rule| rule.0)
}

fn read_info(info: &[u8]) -> openmls::messages::group_info::VerifiableGroupInfo {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        unreachable!("a GroupInfo")
    };
    info
}

fn with_roles(extensions: &Extensions<GroupContext>, roles: &Roles) -> Extensions<GroupContext> {
    let with = extensions.iter().map(|extension| match extension {
        Extension::Unknown(ROLES_EXTENSION, _) => {
            Extension::Unknown(ROLES_EXTENSION, UnknownExtension(roles.to_bytes()))
        }
        other => other.clone(),
    });
    Extensions::from_vec(with.collect()).unwrap()
}

fn commit(device: &Device, group: &mut MlsGroup, plan: Plan) -> (Vec<u8>, Option<Vec<u8>>) {
    let context = plan
        .roles
        .map(|roles| roles.put_into(group.public_group().group_context()).unwrap());
    let mut builder = group
        .commit_builder()
        .force_self_update(plan.path)
        .propose_adds(plan.adds)
        .propose_removals(plan.removals);
    if let Some(context) = context {
        builder = builder.propose_group_context_extensions(context).unwrap();
    }
    let built = builder
        .load_psks(device.provider.storage())
        .unwrap()
        .build(
            device.provider.rand(),
            device.provider.crypto(),
            &device.signer,
            |_| true,
        )
        .unwrap()
        .stage_commit(&device.provider)
        .unwrap();
    let (commit, welcome, _) = built.into_messages();
    let bytes = |message: MlsMessageOut| message.tls_serialize_detached().unwrap();
    (bytes(commit), welcome.map(bytes))
}

fn join(device: &Device, welcome: &[u8], tree: &[u8]) -> MlsGroup {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(welcome).unwrap();
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
        unreachable!("a Welcome")
    };
    StagedWelcome::build_from_welcome(&device.provider, &join_config(), welcome)
        .unwrap()
        .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap())
        .build()
        .unwrap()
        .into_group(&device.provider)
        .unwrap()
}

pub(crate) fn external_commit(device: &Device, from: &Device, group: &MlsGroup) -> Vec<u8> {
    let info = group
        .export_group_info(from.provider.crypto(), &from.signer, false)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
    let provider = OpenMlsRustCrypto::default();
    let (_, built) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap())
        .with_config(join_config())
        .build_group(&provider, read_info(&info), device.credential.clone())
        .unwrap()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .build(),
        )
        .load_psks(provider.storage())
        .unwrap()
        .build(provider.rand(), provider.crypto(), &device.signer, |_| true)
        .unwrap()
        .finalize(&provider)
        .unwrap();
    built.into_messages().0.tls_serialize_detached().unwrap()
}

pub(crate) fn outcome(judged: &Judged) -> Result<(), &'static str> {
    judged.as_ref().map(|_| ()).map_err(|rule| *rule)
}
