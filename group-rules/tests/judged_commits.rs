//! Real commits, judged: each act by each role under each policy, as the committer judges it and as the service does.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

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
    Act, CommitSummary, ExternalJoin, GroupLimits, Policy, ROLES_EXTENSION, Role, Roles, Roster,
    capabilities, credential, group_context_extensions, join_config, judge_commit, suites,
};
use valise_proto::{DeviceId, UserId};

type Issuer = CertifiedIssuer<'static, KeyPair>;
type Judged = Result<CommitSummary, &'static str>;

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

fn user(name: &str) -> UserId {
    format!("{name}@a.example").parse().unwrap()
}

struct Device {
    provider: OpenMlsRustCrypto,
    signer: SignatureKeyPair,
    credential: CredentialWithKey,
}

impl Device {
    fn new(authority: &Issuer, name: &str) -> Self {
        let signer = SignatureKeyPair::new(suites()[0].signature_algorithm()).unwrap();
        let (user, device) = (user(name), DeviceId::from_uuid(uuid::Uuid::new_v4()));
        let mut params = CertificateParams::default();
        params.subject_alt_names = [user.uri(), device.uri(&user)]
            .map(|uri| SanType::URI(uri.try_into().unwrap()))
            .to_vec();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params
            .signed_by(&LeafKey(signer.to_public_vec()), authority)
            .unwrap();
        Self {
            provider: OpenMlsRustCrypto::default(),
            credential: CredentialWithKey {
                credential: credential(&[chain.der().to_vec()]),
                signature_key: signer.to_public_vec().into(),
            },
            signer,
        }
    }

    fn package(&self) -> KeyPackage {
        KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .build(suites()[0], &self.provider, &self.signer, self.credential.clone())
            .unwrap()
            .into_key_package()
    }
}

/// What a commit is to do.
#[derive(Default)]
struct Plan {
    adds: Vec<KeyPackage>,
    removals: Vec<LeafNodeIndex>,
    roles: Option<Roles>,
    path: bool,
}

/// The first device of each role (leaves 0 to 3, the owner first), then the second of each (4 to 7), then a member of whom others
/// make something (8).
struct Scene {
    authority: Issuer,
    devices: Vec<Device>,
    groups: Vec<MlsGroup>,
    roles: Roles,
}

const NAMES: [&str; 4] = ["owner", "reader", "member", "moderator"];
const RANKS: [Role; 4] = [Role::Owner, Role::Reader, Role::Member, Role::Moderator];
const VICTIM: u32 = 8;

impl Scene {
    fn new(policy: Policy) -> Self {
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
    fn public(&self) -> PublicGroup {
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
    fn judge(&mut self, by: usize, plan: Plan) -> Judged {
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
            GroupLimits::default(),
        );
        group.clear_pending_commit(device.provider.storage()).unwrap();
        let services = judge_as_service(&public, &message);
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

fn judge_as_service(public: &PublicGroup, message: &[u8]) -> Judged {
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
    judge_commit(
        public,
        &roster,
        &sender,
        &staged,
        provider.crypto(),
        GroupLimits::default(),
    )
    .map_err(|rule| rule.0)
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

fn external_commit(device: &Device, from: &Device, group: &MlsGroup) -> Vec<u8> {
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

fn outcome(judged: &Judged) -> Result<(), &'static str> {
    judged.as_ref().map(|_| ()).map_err(|rule| *rule)
}

#[test]
fn each_act_by_each_role_under_each_policy() {
    for least in Role::ALL {
        let policy = Act::ALL
            .into_iter()
            .fold(Policy::default(), |policy, act| policy.with(act, least));
        let mut scene = Scene::new(policy);
        for (by, rank) in RANKS.into_iter().enumerate() {
            let (name, allowed) = (NAMES[by], rank >= least);
            let expected = |rule| if allowed { Ok(()) } else { Err(rule) };
            let what = format!("{name}, least {least}");

            let adds = vec![Device::new(&scene.authority, "newcomer").package()];
            let judged = scene.judge(
                by,
                Plan {
                    adds,
                    ..Plan::default()
                },
            );
            assert_eq!(outcome(&judged), expected("role_add"), "add: {what}");

            let removals = vec![LeafNodeIndex::new(VICTIM)];
            let judged = scene.judge(
                by,
                Plan {
                    removals,
                    ..Plan::default()
                },
            );
            let beyond = allowed && rank < Role::Member;
            let removes = if beyond {
                Err("role_above")
            } else {
                expected("role_remove")
            };
            assert_eq!(outcome(&judged), removes, "remove: {what}");

            let roles = Some(scene.roles.clone().with(user("victim"), Role::Reader));
            let judged = scene.judge(
                by,
                Plan {
                    roles,
                    ..Plan::default()
                },
            );
            let changes = if beyond {
                Err("role_above")
            } else {
                expected("role_change")
            };
            assert_eq!(outcome(&judged), changes, "change a role: {what}");
            if let Ok(summary) = judged {
                let change = summary.roles.unwrap();
                assert_eq!(
                    (change.users, change.policy),
                    (vec![(user("victim"), Role::Reader)], None)
                );
            }

            let other = Policy::default().with(Act::Send, Role::Moderator);
            let roles = Some(scene.roles.clone().with_policy(other));
            let judged = scene.judge(
                by,
                Plan {
                    roles,
                    ..Plan::default()
                },
            );
            assert_eq!(
                outcome(&judged),
                expected("role_change"),
                "change the policy: {what}"
            );

            // What every member may: new keys, and its own user's devices. Also a change that changes nothing.
            let adds = vec![Device::new(&scene.authority, name).package()];
            let removals = vec![LeafNodeIndex::new(4 + u32::try_from(by).unwrap())];
            let judged = scene.judge(
                by,
                Plan {
                    adds,
                    removals,
                    ..Plan::default()
                },
            );
            assert_eq!(outcome(&judged), Ok(()), "own devices: {what}");
            let path = Plan {
                path: true,
                ..Plan::default()
            };
            assert_eq!(outcome(&scene.judge(by, path)), Ok(()), "new keys: {what}");
            let roles = Some(scene.roles.clone());
            let judged = scene.judge(
                by,
                Plan {
                    roles,
                    ..Plan::default()
                },
            );
            assert!(judged.unwrap().roles.is_none(), "nothing: {what}");
        }
    }
}

#[test]
fn nobody_rises_and_acts_with_one_commit() {
    let mut scene = Scene::new(Policy::default().with(Act::ChangeRoles, Role::Member));
    let adds = vec![Device::new(&scene.authority, "newcomer").package()];
    let open = Policy::default().with(Act::Add, Role::Reader);
    let roles = Some(scene.roles.clone().with_policy(open));
    let judged = scene.judge(
        2,
        Plan {
            adds,
            roles,
            ..Plan::default()
        },
    );
    assert_eq!(outcome(&judged), Err("role_add"));
}

#[test]
fn the_last_owner_cannot_step_down_but_may_hand_over() {
    let mut scene = Scene::new(Policy::default());
    let down = scene.roles.clone().with(user("owner"), Role::Member);
    let judged = scene.judge(
        0,
        Plan {
            roles: Some(down.clone()),
            ..Plan::default()
        },
    );
    assert_eq!(outcome(&judged), Err("last_owner"));
    // Not to somebody who goes with the same commit, nor to somebody who is not there.
    let victim = down.clone().with(user("victim"), Role::Owner);
    let removals = vec![LeafNodeIndex::new(VICTIM)];
    let roles = Some(victim.clone());
    let judged = scene.judge(
        0,
        Plan {
            removals,
            roles,
            ..Plan::default()
        },
    );
    assert_eq!(outcome(&judged), Err("last_owner"));
    let roles = Some(down.clone().with(user("stranger"), Role::Owner));
    assert_eq!(
        outcome(&scene.judge(
            0,
            Plan {
                roles,
                ..Plan::default()
            }
        )),
        Err("last_owner")
    );
    assert_eq!(
        outcome(&scene.judge(
            0,
            Plan {
                roles: Some(victim),
                ..Plan::default()
            }
        )),
        Ok(())
    );
    // To somebody who comes with the same commit.
    let adds = vec![Device::new(&scene.authority, "heir").package()];
    let roles = Some(down.with(user("heir"), Role::Owner));
    assert_eq!(
        outcome(&scene.judge(
            0,
            Plan {
                adds,
                roles,
                ..Plan::default()
            }
        )),
        Ok(())
    );
}

#[test]
fn the_policy_says_who_comes_in_without_being_added() {
    let (lost, other, stranger) = ("lost its state", "another device", "a stranger");
    for (join, welcome) in [
        (ExternalJoin::Nobody, vec![]),
        (ExternalJoin::MemberDevices, vec![lost]),
        (ExternalJoin::MemberUsers, vec![lost, other]),
    ] {
        let policy = Policy {
            external_join: join,
            ..Policy::default()
        };
        let scene = Scene::new(policy);
        let public = scene.public();
        let (another, unknown) = (
            Device::new(&scene.authority, "reader"),
            Device::new(&scene.authority, "stranger"),
        );
        for (what, device) in [(lost, &scene.devices[1]), (other, &another), (stranger, &unknown)] {
            let message = external_commit(device, &scene.devices[0], &scene.groups[0]);
            let expected = if welcome.contains(&what) {
                Ok(())
            } else {
                Err("external_joiner")
            };
            assert_eq!(
                outcome(&judge_as_service(&public, &message)),
                expected,
                "{join:?}: {what}"
            );
        }
    }
}
