//! A commit can be wrong in many ways. Each is refused with its own reason, and the group goes on as if it had never come.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    Ciphersuite, Extension, Extensions, GroupContext, KeyPackage, LeafNodeIndex, LeafNodeParameters,
    Lifetime, MlsGroup, MlsMessageBodyIn, MlsMessageIn, NewSignerBundle, OpenMlsProvider as _,
    PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, PreSharedKeyProposal, Proposal, RatchetTreeIn, UnknownExtension,
};
use openmls::schedule::psk::{ExternalPsk, PreSharedKeyId, Psk};
use openmls_basic_credential::SignatureKeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm,
};
use valise_client_sdk::{DeviceId, Reason, UserId};
use valise_group_rules::{ROLES_EXTENSION, Role, Roles, capabilities, credential, join_config};
use valise_proto::Refusal;
use valise_proto::delivery::v1 as wire;
use valise_tests::people::Town;
use valise_tests::raw::bytes::{Framed, Info, flipped, inline, vector};
use valise_tests::raw::{Bundle, Device, Plan, bundle, credential_with_key, lifetime, refusal};
use valise_tests::service::Service;

/// Alice (leaf 0), Bob (leaf 1) and Carol (leaf 2) are in a group; Dave and Mallory are not.
struct Scene {
    _service: Service,
    alice: Device,
    bob: Device,
    carol: Device,
    dave: Device,
    mallory: Device,
    group: MlsGroup,
    bobs: MlsGroup,
    position: u64,
    epoch: u64,
    refused: usize,
}

/// What a commit is refused with.
#[derive(Debug, PartialEq, Eq)]
struct Expected(Reason, Option<&'static str>);

const MLS: Expected = Expected(Reason::InvalidCommit, Some("mls_validation"));

const fn commit_rule(rule: &'static str) -> Expected {
    Expected(Reason::InvalidCommit, Some(rule))
}

const fn info_rule(rule: &'static str) -> Expected {
    Expected(Reason::InvalidGroupInfo, Some(rule))
}

const fn malformed(rule: &'static str) -> Expected {
    Expected(Reason::Malformed, Some(rule))
}

impl Scene {
    async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let mut devices = Vec::new();
        for name in ["alice", "bob", "carol", "dave", "mallory"] {
            devices.push(Device::enrol(&service, &town.code(name).await).await);
        }
        let [alice, bob, carol, dave, mallory] = <[Device; 5]>::try_from(devices).ok().unwrap();
        let (group, mut joined) = alice.group_with(&[&bob, &carol]).await;
        let bobs = joined.remove(0);
        let (position, epoch) = alice.head(&group).await;
        Self {
            _service: service,
            alice,
            bob,
            carol,
            dave,
            mallory,
            group,
            bobs,
            position,
            epoch,
            refused: 0,
        }
    }

    /// A good commit of Alice's, which is then forgotten: it can be sent, but nothing waits for it.
    fn good(&mut self, plan: Plan) -> Bundle {
        let bundle = self.alice.commit(&mut self.group, plan);
        self.alice.forget(&mut self.group);
        bundle
    }

    /// A commit of Alice's as openmls builds it with that change to the builder's proposals.
    fn with_proposal(&mut self, proposal: Proposal) -> Bundle {
        let built = self
            .group
            .commit_builder()
            .consume_proposal_store(false)
            .add_proposal(proposal)
            .load_psks(self.alice.provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(
                self.alice.provider.rand(),
                self.alice.provider.crypto(),
                &self.alice.signer,
                |_| true,
            )
            .unwrap()
            .stage_commit(&self.alice.provider)
            .unwrap();
        self.alice.forget(&mut self.group);
        bundle(built)
    }

    /// Alice's commit with other proposals, signed by her: openmls would not build it.
    fn with_raw_proposals(&mut self, proposals: Vec<u8>) -> Bundle {
        // An Add alone needs no path, so that nothing but the proposals is judged.
        let package = self.dave.key_package();
        let good = self.good(Plan::add(vec![package]));
        let mut framed = Framed::commit(&good.commit);
        framed.proposals = proposals;
        Bundle {
            commit: framed.signed(&self.group, &self.alice.signer).to_bytes(),
            ..good
        }
    }

    fn with_package(&mut self, package: &KeyPackage) -> Bundle {
        self.with_raw_proposals(inline(1, &package.tls_serialize_detached().unwrap()))
    }

    async fn refused(&mut self, what: &str, submitted: Result<wire::Accepted, Refusal>, expected: Expected) {
        let refusal = match submitted {
            Ok(accepted) => unreachable!("{what}: accepted at {}", accepted.position),
            Err(refusal) => refusal,
        };
        let rule = refusal.metadata.get("rule").map(String::as_str);
        assert_eq!(
            (refusal.reason, rule),
            (expected.0, expected.1),
            "{what}: {refusal}"
        );
        assert_eq!(
            self.alice.head(&self.group).await,
            (self.position, self.epoch),
            "{what}: nothing has changed"
        );
        self.refused += 1;
    }

    async fn refuses(&mut self, what: &str, bundle: Bundle, expected: Expected) {
        let submitted = self.alice.submit(&bundle).await;
        self.refused(what, submitted, expected).await;
    }

    /// A good commit and a message are accepted, and the others read them.
    async fn goes_on(mut self) {
        let package = self.dave.key_package();
        let bundle = self.alice.commit(
            &mut self.group,
            Plan {
                path: true,
                ..Plan::add(vec![package])
            },
        );
        let accepted = self.alice.submit(&bundle).await.unwrap();
        assert_eq!(
            (accepted.position, accepted.epoch),
            (self.position + 1, self.epoch + 1)
        );
        self.group.merge_pending_commit(&self.alice.provider).unwrap();
        let accepted = self.alice.send(&mut self.group, b"still here").await.unwrap();
        assert_eq!(accepted.position, self.position + 2);
        let read = self
            .bob
            .read_all(self.group.group_id().as_slice(), self.position)
            .await;
        assert_eq!(self.bob.apply(&mut self.bobs, &read[0].mls_message), None);
        assert_eq!(
            self.bob.apply(&mut self.bobs, &read[1].mls_message).unwrap(),
            b"still here"
        );
        assert_eq!(
            self.bobs.epoch_authenticator().as_slice(),
            self.group.epoch_authenticator().as_slice()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_no_commits() {
    let mut scene = Scene::new().await;
    let good = scene.good(Plan::self_update());
    let commit = |commit: Vec<u8>| Bundle {
        commit,
        ..good.clone()
    };

    scene
        .refuses("nothing", commit(Vec::new()), Expected(Reason::Malformed, None))
        .await;
    scene
        .refuses("garbage", commit(vec![0xa5; 300]), malformed("encoding"))
        .await;
    for missing in [1, 40, 200, good.commit.len() - 5] {
        let truncated = good.commit[..good.commit.len() - missing].to_vec();
        scene
            .refuses("truncated", commit(truncated), malformed("encoding"))
            .await;
    }
    let trailing = [good.commit.as_slice(), &[0]].concat();
    scene
        .refuses("a byte too many", commit(trailing), malformed("encoding"))
        .await;
    let oversize = [good.commit.as_slice(), &vec![0; 2 * 1024 * 1024]].concat();
    scene
        .refuses(
            "oversize",
            commit(oversize),
            Expected(Reason::MessageTooLarge, None),
        )
        .await;
    scene
        .refuses(
            "a GroupInfo",
            commit(good.group_info.clone()),
            malformed("wire_format"),
        )
        .await;

    let message = scene.alice.encrypt(&mut scene.group, b"hello");
    scene
        .refuses("a message", commit(message), malformed("wire_format"))
        .await;
    let proposal = scene
        .group
        .propose_remove_member(&scene.alice.provider, &scene.alice.signer, LeafNodeIndex::new(2))
        .unwrap()
        .0
        .tls_serialize_detached()
        .unwrap();
    scene
        .group
        .clear_pending_proposals(scene.alice.provider.storage())
        .unwrap();
    scene
        .refuses("a proposal", commit(proposal), malformed("content_type"))
        .await;

    let encrypting = openmls::prelude::MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .build();
    scene
        .group
        .set_configuration(scene.alice.provider.storage(), &encrypting)
        .unwrap();
    let encrypted = scene.good(Plan::self_update());
    scene
        .group
        .set_configuration(scene.alice.provider.storage(), &join_config())
        .unwrap();
    scene
        .refuses("an encrypted commit", encrypted, malformed("wire_format"))
        .await;
    assert_eq!(scene.refused, 12);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_not_the_committers() {
    let mut scene = Scene::new().await;
    let good = scene.good(Plan::self_update());
    let framed = Framed::commit(&good.commit);
    let commit = |commit: Vec<u8>| Bundle {
        commit,
        ..good.clone()
    };

    // The trailer: signature, confirmation tag, membership tag; before it the path.
    scene
        .refuses("a bit of the signature", commit(flipped(&good.commit, 70)), MLS)
        .await;
    scene
        .refuses("a bit of the path", commit(flipped(&good.commit, 140)), MLS)
        .await;
    scene
        .refuses(
            "a bit of the confirmation tag",
            commit(flipped(&good.commit, 40)),
            info_rule("confirmation_tag"),
        )
        .await;
    let mut unsigned = framed.clone();
    unsigned.aad = b"something else".to_vec();
    scene
        .refuses("other authenticated data", commit(unsigned.to_bytes()), MLS)
        .await;
    // The path's own signatures and hashes count too, not only the outer one.
    let mut path = framed.clone();
    path.path[40] ^= 1;
    let resigned = path.signed(&scene.group, &scene.alice.signer);
    scene
        .refuses(
            "a path that was changed and signed",
            commit(resigned.to_bytes()),
            MLS,
        )
        .await;

    let forged = framed.clone().signed(&scene.group, &scene.mallory.signer);
    scene
        .refuses("signed by somebody else", commit(forged.to_bytes()), MLS)
        .await;
    let mut others = framed.clone();
    others.leaf = 1;
    scene
        .refuses(
            "in another's name",
            commit(others.to_bytes()),
            commit_rule("sender"),
        )
        .await;
    let mut nobodys = framed.clone();
    nobodys.leaf = 77;
    scene
        .refuses(
            "of a leaf that is not there",
            commit(nobodys.to_bytes()),
            commit_rule("sender"),
        )
        .await;

    // What Bob made, with Alice's token; and what Alice made, with a stranger's.
    let bobs = scene.bob.commit(&mut scene.bobs, Plan::self_update());
    scene.bob.forget(&mut scene.bobs);
    scene
        .refuses("another member's commit", bobs, commit_rule("sender"))
        .await;
    let submitted = scene.mallory.submit(&good).await;
    scene
        .refused(
            "with a stranger's token",
            submitted,
            Expected(Reason::NotAMember, None),
        )
        .await;
    let submitted = scene.alice.submit_external(&good).await;
    scene
        .refused(
            "by the door for external commits",
            submitted,
            commit_rule("sender"),
        )
        .await;
    let info = scene
        .group
        .export_group_info(scene.alice.provider.crypto(), &scene.alice.signer, false)
        .unwrap();
    let external = external_commit(
        &scene.mallory,
        &info.tls_serialize_detached().unwrap(),
        &scene.group,
    );
    scene
        .refuses(
            "an external commit by the door for members",
            external.clone(),
            commit_rule("sender"),
        )
        .await;
    let submitted = scene.mallory.submit_external(&external).await;
    scene
        .refused(
            "a stranger's external commit",
            submitted,
            Expected(Reason::NotAMember, None),
        )
        .await;

    let mut wrong = framed.clone();
    wrong.epoch += 1;
    let ahead = wrong.clone().signed(&scene.group, &scene.alice.signer);
    scene
        .refuses(
            "of the next epoch",
            commit(ahead.to_bytes()),
            Expected(Reason::EpochAhead, None),
        )
        .await;
    wrong.epoch = 0;
    let stale = wrong.signed(&scene.group, &scene.alice.signer);
    scene
        .refuses(
            "of an epoch that has ended",
            commit(stale.to_bytes()),
            Expected(Reason::EpochConflict, None),
        )
        .await;
    let mut elsewhere = framed.clone();
    elsewhere.group = vec![7; 16];
    scene
        .refuses(
            "of no group",
            commit(elsewhere.to_bytes()),
            Expected(Reason::GroupNotFound, None),
        )
        .await;
    elsewhere.group = vec![7; 15];
    scene
        .refuses(
            "of what cannot be a group",
            commit(elsewhere.to_bytes()),
            malformed("group_id"),
        )
        .await;
    let (other, _) = scene.alice.group_with(&[&scene.bob]).await;
    elsewhere.group = other.group_id().as_slice().to_vec();
    scene
        .refuses("of another group", commit(elsewhere.to_bytes()), MLS)
        .await;
    assert_eq!(scene.refused, 18);
    scene.goes_on().await;
}

fn external_commit(device: &Device, info: &[u8], group: &MlsGroup) -> Bundle {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        unreachable!("a GroupInfo")
    };
    let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
    let (_, built) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap())
        .with_config(join_config())
        .build_group(&device.provider, info, device.credential())
        .unwrap()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .build(),
        )
        .load_psks(device.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(
            device.provider.rand(),
            device.provider.crypto(),
            &device.signer,
            |_| true,
        )
        .unwrap()
        .finalize(&device.provider)
        .unwrap();
    bundle(built)
}

#[tokio::test(flavor = "multi_thread")]
async fn group_infos_of_something_else() {
    let mut scene = Scene::new().await;
    let good = scene.good(Plan::self_update());
    let other = scene.good(Plan::self_update());
    let before = scene
        .group
        .export_group_info(scene.alice.provider.crypto(), &scene.alice.signer, false)
        .unwrap();
    let info = Info::read(&good.group_info);
    let with = |group_info: Vec<u8>| Bundle {
        group_info,
        ..good.clone()
    };

    scene
        .refuses("none", with(Vec::new()), Expected(Reason::Malformed, None))
        .await;
    scene
        .refuses("garbage", with(vec![0xa5; 300]), info_rule("encoding"))
        .await;
    scene
        .refuses("a commit", with(good.commit.clone()), info_rule("wire_format"))
        .await;
    let oversize = with(vec![0; 2 * 1024 * 1024 + 1]);
    scene
        .refuses("oversize", oversize, Expected(Reason::MessageTooLarge, None))
        .await;
    let stale = before.tls_serialize_detached().unwrap();
    scene
        .refuses(
            "that of the epoch before",
            with(stale),
            info_rule("group_context"),
        )
        .await;
    // Its context differs in the transcript.
    scene
        .refuses(
            "that of another commit",
            with(other.group_info),
            info_rule("group_context"),
        )
        .await;
    scene
        .refuses(
            "a bit of the signature",
            with(flipped(&good.group_info, 3)),
            info_rule("signature"),
        )
        .await;

    let (foreign, _) = scene.mallory.group_with(&[]).await;
    let foreign = foreign
        .export_group_info(scene.mallory.provider.crypto(), &scene.mallory.signer, false)
        .unwrap();
    let foreign = foreign.tls_serialize_detached().unwrap();
    scene
        .refuses("that of another group", with(foreign), info_rule("group_context"))
        .await;

    let mut without = info.clone();
    without.extensions = Vec::new();
    let without = without.signed(&scene.alice.signer).to_bytes();
    scene
        .refuses("without external_pub", with(without), info_rule("external_pub"))
        .await;
    let tree = scene
        .group
        .export_ratchet_tree()
        .tls_serialize_detached()
        .unwrap();
    let mut with_tree = info.clone();
    with_tree.extensions = [&[0, 2][..], &vector(&tree), &with_tree.extensions].concat();
    let with_tree = with_tree.signed(&scene.alice.signer).to_bytes();
    scene
        .refuses("with a tree", with(with_tree), info_rule("ratchet_tree"))
        .await;
    let mut tag = info.clone();
    tag.confirmation_tag[0] ^= 1;
    let tag = tag.signed(&scene.alice.signer).to_bytes();
    scene
        .refuses("with another tag", with(tag), info_rule("confirmation_tag"))
        .await;
    let mut bobs = info.clone();
    bobs.signer = 1;
    let bobs = bobs.signed(&scene.bob.signer).to_bytes();
    scene
        .refuses("signed by another member", with(bobs), info_rule("signer"))
        .await;
    let forged = info.clone().signed(&scene.mallory.signer).to_bytes();
    scene
        .refuses("signed by a stranger", with(forged), info_rule("signature"))
        .await;
    assert_eq!(scene.refused, 13);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn welcomes_for_others_than_those_added() {
    let mut scene = Scene::new().await;
    let (dave, mallory) = (scene.dave.key_package(), scene.mallory.key_package());
    let good = scene.good(Plan::add(vec![dave.clone(), mallory.clone()]));
    let for_dave = scene.good(Plan::add(vec![dave])).welcome;
    let nobody = scene.good(Plan::self_update());
    let mismatch = || Expected(Reason::WelcomeMismatch, None);
    let with = |welcome: Vec<u8>| Bundle {
        welcome,
        ..good.clone()
    };

    scene.refuses("none", with(Vec::new()), mismatch()).await;
    scene.refuses("one joiner less", with(for_dave), mismatch()).await;
    // A last-resort package would be the same in both; these are other packages of the same devices.
    let others = vec![scene.dave.key_package(), scene.mallory.key_package()];
    let foreign = scene.good(Plan::add(others)).welcome;
    scene.refuses("other packages", with(foreign), mismatch()).await;
    let unasked = Bundle {
        welcome: good.welcome.clone(),
        ..nobody
    };
    scene.refuses("nobody is added", unasked, mismatch()).await;
    scene
        .refuses("garbage", with(vec![0xa5; 300]), malformed("encoding"))
        .await;
    scene
        .refuses(
            "a GroupInfo",
            with(good.group_info.clone()),
            malformed("wire_format"),
        )
        .await;
    let oversize = with(vec![0; 2 * 1024 * 1024 + 1]);
    scene
        .refuses("oversize", oversize, Expected(Reason::MessageTooLarge, None))
        .await;
    assert_eq!(scene.refused, 7);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_that_groups_do_not_take() {
    let mut scene = Scene::new().await;
    let psk = PreSharedKeyId::new(
        Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
        scene.alice.provider.rand(),
        Psk::External(ExternalPsk::new(b"a secret".to_vec())),
    )
    .unwrap();
    psk.store(&scene.alice.provider, &[7; 32]).unwrap();
    let psk = scene.with_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
    scene
        .refuses("a pre-shared key", psk, commit_rule("proposal_type"))
        .await;

    // group_id<V>, version, cipher_suite, extensions<V>.
    let reinit = [vector(&[9; 16]), vec![0, 1, 0, 1], vector(&[])].concat();
    let reinit = scene.with_raw_proposals(inline(5, &reinit));
    scene
        .refuses("ReInit", reinit, commit_rule("proposal_type"))
        .await;
    let external_init = scene.with_raw_proposals(inline(6, &vector(&[1; 32])));
    scene
        .refuses("ExternalInit of a member", external_init, MLS)
        .await;
    let custom = scene.with_raw_proposals(inline(0xf000, &vector(b"anything")));
    scene.refuses("a custom one", custom, MLS).await;
    let reference = [&[2][..], &vector(&[3; 32])].concat();
    let reference = scene.with_raw_proposals(reference);
    scene.refuses("one that nobody has sent", reference, MLS).await;
    let of_nobody = scene.with_raw_proposals(inline(3, &77_u32.to_be_bytes()));
    scene.refuses("the removal of nobody", of_nobody, MLS).await;
    let of_oneself = scene.with_raw_proposals(inline(3, &0_u32.to_be_bytes()));
    scene
        .refuses("the committer's own removal", of_oneself, MLS)
        .await;

    for (what, dropped) in [
        ("without roles", |extension: &Extension| {
            matches!(extension, Extension::Unknown(..))
        }),
        ("without external senders", |extension: &Extension| {
            matches!(extension, Extension::ExternalSenders(_))
        }),
        (
            "without required capabilities and what they are about",
            |extension: &Extension| {
                matches!(
                    extension,
                    Extension::RequiredCapabilities(_) | Extension::Unknown(..)
                )
            },
        ),
        ("without any extension", |_: &Extension| true),
    ] as [(&str, fn(&Extension) -> bool); 4]
    {
        let left: Vec<_> = scene
            .group
            .extensions()
            .iter()
            .filter(|one| !dropped(one))
            .cloned()
            .collect();
        let bundle = with_context(&mut scene, Extensions::from_vec(left).unwrap());
        scene
            .refuses(what, bundle, commit_rule("context_extensions"))
            .await;
    }
    // openmls notices by itself that roles are no longer required; it would not build that.
    let left = scene
        .group
        .extensions()
        .iter()
        .filter(|one| !matches!(one, Extension::RequiredCapabilities(_)));
    let left = Extensions::<GroupContext>::from_vec(left.cloned().collect()).unwrap();
    let base = with_context(&mut scene, Extensions::empty());
    let mut framed = Framed::commit(&base.commit);
    framed.proposals = inline(7, &left.tls_serialize_detached().unwrap());
    let commit = framed.signed(&scene.group, &scene.alice.signer).to_bytes();
    scene
        .refuses("without required capabilities", Bundle { commit, ..base }, MLS)
        .await;
    assert_eq!(scene.refused, 12);
    scene.goes_on().await;
}

fn with_context(scene: &mut Scene, extensions: Extensions<GroupContext>) -> Bundle {
    let bundle = changing_context(&scene.alice, &mut scene.group, extensions);
    scene.alice.forget(&mut scene.group);
    bundle
}

fn changing_context(device: &Device, group: &mut MlsGroup, extensions: Extensions<GroupContext>) -> Bundle {
    let built = group
        .commit_builder()
        .propose_group_context_extensions(extensions)
        .unwrap()
        .load_psks(device.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(
            device.provider.rand(),
            device.provider.crypto(),
            &device.signer,
            |_| true,
        )
        .unwrap()
        .stage_commit(&device.provider)
        .unwrap();
    bundle(built)
}

/// The context of a group with other roles.
fn with_roles(group: &MlsGroup, change: impl FnOnce(Roles) -> Roles) -> Extensions<GroupContext> {
    let context = group.public_group().group_context();
    change(Roles::of_context(context).unwrap())
        .put_into(context)
        .unwrap()
}

const fn denied(rule: &'static str) -> Expected {
    Expected(Reason::PolicyDenied, Some(rule))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_members_role_does_not_allow() {
    let mut scene = Scene::new().await;
    let bob = scene.bob.user.clone();
    let plans = [
        ("role_add", Plan::add(vec![scene.dave.key_package()])),
        ("role_remove", Plan::remove(vec![LeafNodeIndex::new(2)])),
        ("role_remove", Plan::remove(vec![LeafNodeIndex::new(0)])),
    ];
    for (rule, plan) in plans {
        let bundle = scene.bob.commit(&mut scene.bobs, plan);
        scene.bob.forget(&mut scene.bobs);
        let submitted = scene.bob.submit(&bundle).await;
        scene.refused(rule, submitted, denied(rule)).await;
    }
    let context = with_roles(&scene.bobs, |roles| roles.with(bob.clone(), Role::Owner));
    let bundle = changing_context(&scene.bob, &mut scene.bobs, context);
    scene.bob.forget(&mut scene.bobs);
    let submitted = scene.bob.submit(&bundle).await;
    scene
        .refused("to raise oneself", submitted, denied("role_change"))
        .await;

    // The owner may much, but not leave the group without one, nor touch anything else in the same breath.
    let alice = scene.alice.user.clone();
    let context = with_roles(&scene.group, |roles| roles.with(alice, Role::Member));
    let bundle = with_context(&mut scene, context);
    scene
        .refuses("the last owner steps down", bundle, denied("last_owner"))
        .await;
    let context = with_roles(&scene.group, |roles| roles.with(bob.clone(), Role::Moderator));
    let senders = context.external_senders().unwrap();
    let twice = Extension::ExternalSenders([senders.as_slice(), senders.as_slice()].concat());
    let more = context.iter().map(|one| match one {
        Extension::ExternalSenders(_) => twice.clone(),
        other => other.clone(),
    });
    let bundle = with_context(&mut scene, Extensions::from_vec(more.collect()).unwrap());
    scene
        .refuses(
            "another external sender besides",
            bundle,
            commit_rule("context_extensions"),
        )
        .await;
    let garbage = context.iter().map(|one| match one {
        Extension::Unknown(ROLES_EXTENSION, _) => {
            Extension::Unknown(ROLES_EXTENSION, UnknownExtension(vec![1, 9, 9]))
        }
        other => other.clone(),
    });
    let bundle = with_context(&mut scene, Extensions::from_vec(garbage.collect()).unwrap());
    scene
        .refuses("roles that are none", bundle, commit_rule("roles"))
        .await;
    assert_eq!(scene.refused, 7);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_cannot_send_and_who_rose_may_act() {
    let mut scene = Scene::new().await;
    let (bob, carol) = (scene.bob.user.clone(), scene.carol.user.clone());
    let context = with_roles(&scene.group, |roles| {
        roles.with(bob, Role::Reader).with(carol, Role::Moderator)
    });
    let bundle = changing_context(&scene.alice, &mut scene.group, context);
    let accepted = scene.alice.submit(&bundle).await.unwrap();
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    (scene.position, scene.epoch) = (accepted.position, accepted.epoch);
    scene.bob.apply(&mut scene.bobs, &bundle.commit);
    let submitted = scene.bob.send(&mut scene.bobs, b"psst").await;
    scene.refused("a message", submitted, denied("role_send")).await;
    let ephemeral = wire::SendEphemeralRequest {
        mls_message: scene.bob.encrypt(&mut scene.bobs, b"psst").into(),
    };
    let status = scene
        .bob
        .door
        .delivery()
        .send_ephemeral(ephemeral)
        .await
        .unwrap_err();
    let refusal = refusal(&status);
    assert_eq!(
        (refusal.reason, refusal.metadata["rule"].as_str()),
        (Reason::PolicyDenied, "role_send")
    );
    // New keys are every member's own.
    let update = scene.bob.commit(&mut scene.bobs, Plan::self_update());
    let accepted = scene.bob.submit(&update).await.unwrap();
    scene.bobs.merge_pending_commit(&scene.bob.provider).unwrap();
    scene.alice.apply(&mut scene.group, &update.commit);
    (scene.position, scene.epoch) = (accepted.position, accepted.epoch);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_groups_do_not_take() {
    let mut scene = Scene::new().await;

    // As the service sees it, a good one first: with this way of building commits only the GroupInfo is wrong.
    let good = scene.dave.key_package();
    let bundle = scene.with_package(&good);
    scene
        .refuses(
            "a good package in a commit that was put together",
            bundle,
            info_rule("group_context"),
        )
        .await;

    let expired =
        Device::package_builder().key_package_lifetime(Lifetime::init(1_000_000_000, 1_000_001_000));
    let expired = scene
        .dave
        .build_package(expired, &scene.dave.signer, scene.dave.credential());
    let bundle = scene.with_package(&expired);
    scene.refuses("an expired package", bundle, MLS).await;
    let short = Device::package_builder().key_package_lifetime(lifetime(24 * 3600));
    let short = scene
        .dave
        .build_package(short, &scene.dave.signer, scene.dave.credential());
    let bundle = scene.good(Plan::add(vec![short]));
    scene
        .refuses(
            "a package that ends soon",
            bundle,
            commit_rule("lifetime_too_short"),
        )
        .await;

    let mallorys = credential_with_key(credential(&scene.mallory.chain), &scene.dave.signer);
    let stolen = scene
        .dave
        .build_package(Device::package_builder(), &scene.dave.signer, mallorys);
    let bundle = scene.good(Plan::add(vec![stolen]));
    scene
        .refuses(
            "another's certificate",
            bundle,
            commit_rule("certificate_key_mismatch"),
        )
        .await;
    let chain = self_made_chain(&scene.dave.user, scene.dave.id, &scene.dave.signer);
    let untrusted = credential_with_key(credential(&chain), &scene.dave.signer);
    let untrusted = scene
        .dave
        .build_package(Device::package_builder(), &scene.dave.signer, untrusted);
    let bundle = scene.good(Plan::add(vec![untrusted]));
    scene
        .refuses(
            "a certificate of one's own making",
            bundle,
            commit_rule("certificate_untrusted"),
        )
        .await;
    let garbage = valise_group_rules::credential(&[vec![1, 2, 3]]);
    let garbage = credential_with_key(garbage, &scene.dave.signer);
    let garbage = scene
        .dave
        .build_package(Device::package_builder(), &scene.dave.signer, garbage);
    let bundle = scene.good(Plan::add(vec![garbage]));
    scene
        .refuses(
            "no certificate at all",
            bundle,
            commit_rule("certificate_encoding"),
        )
        .await;

    // Carol is a member. The same key is what openmls notices; the same device with another key is for us to notice.
    let again = scene.carol.key_package();
    let bundle = scene.with_package(&again);
    scene.refuses("a member again", bundle, MLS).await;
    let (signer, chain) = scene.carol.renew().await;
    let again = credential_with_key(credential(&chain), &signer);
    let again = scene
        .carol
        .build_package(Device::package_builder(), &signer, again);
    let bundle = scene.good(Plan::add(vec![again]));
    scene
        .refuses("a member's device again", bundle, commit_rule("duplicate_device"))
        .await;
    let (signer, chain) = scene.dave.renew().await;
    let second = credential_with_key(credential(&chain), &signer);
    let second = scene
        .dave
        .build_package(Device::package_builder(), &signer, second);
    let first = scene.dave.key_package();
    let bundle = scene.good(Plan::add(vec![first, second]));
    scene
        .refuses("a device twice", bundle, commit_rule("duplicate_device"))
        .await;

    let bundle = in_the_name_of_mallory(&mut scene);
    scene
        .refuses(
            "the committer becomes somebody else",
            bundle,
            commit_rule("credential_successor"),
        )
        .await;
    let bundle = with_certificate_of_mallory(&mut scene);
    scene
        .refuses(
            "the committer shows another's certificate",
            bundle,
            commit_rule("certificate_key_mismatch"),
        )
        .await;
    assert_eq!(scene.refused, 11);
    scene.goes_on().await;
}

fn in_the_name_of_mallory(scene: &mut Scene) -> Bundle {
    let alice = &scene.alice;
    let signer = NewSignerBundle {
        signer: &scene.mallory.signer,
        credential_with_key: scene.mallory.credential(),
    };
    let built = scene
        .group
        .commit_builder()
        .load_psks(alice.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build_with_new_signer(
            alice.provider.rand(),
            alice.provider.crypto(),
            &alice.signer,
            signer,
            |_| true,
        )
        .unwrap()
        .stage_commit(&alice.provider)
        .unwrap();
    alice.forget(&mut scene.group);
    bundle(built)
}

fn with_certificate_of_mallory(scene: &mut Scene) -> Bundle {
    let alice = &scene.alice;
    let stolen = credential_with_key(credential(&scene.mallory.chain), &alice.signer);
    let built = scene
        .group
        .commit_builder()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_credential_with_key(stolen)
                .build(),
        )
        .load_psks(alice.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(
            alice.provider.rand(),
            alice.provider.crypto(),
            &alice.signer,
            |_| true,
        )
        .unwrap()
        .stage_commit(&alice.provider)
        .unwrap();
    alice.forget(&mut scene.group);
    bundle(built)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_leaves_an_accepted_proposal_undone() {
    let mut scene = Scene::new().await;
    let leave = scene
        .bobs
        .leave_group(&scene.bob.provider, &scene.bob.signer)
        .unwrap();
    let leave = leave.tls_serialize_detached().unwrap();
    let accepted = scene.bob.propose_bytes(leave.clone()).await.unwrap();
    scene.position = accepted.position;
    let bundle = scene.good(Plan::self_update());
    let missing = Expected(Reason::ProposalsMissing, None);
    scene.refuses("Bob would still be there", bundle, missing).await;
    assert_eq!(scene.alice.apply(&mut scene.group, &leave), None);
    let bundle = scene.alice.commit(
        &mut scene.group,
        Plan {
            pending: true,
            ..Plan::default()
        },
    );
    scene.alice.submit(&bundle).await.unwrap();
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    scene.alice.send(&mut scene.group, b"now").await.unwrap();
    assert_eq!(scene.group.members().count(), 2);
}

/// The key of an MLS leaf, for a certificate.
struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// A certificate as it should be, but of an authority that nobody trusts.
fn self_made_chain(user: &UserId, device: DeviceId, signer: &SignatureKeyPair) -> Vec<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = [user.uri(), device.uri(user)]
        .map(|uri| SanType::URI(uri.try_into().unwrap()))
        .to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = LeafKey(signer.to_public_vec());
    vec![params.signed_by(&key, &authority).unwrap().der().to_vec()]
}
