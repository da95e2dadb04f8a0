//! A group with a past, and what a refused commit must leave as it was.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{Extensions, GroupContext, KeyPackage, MlsGroup, OpenMlsProvider as _, Proposal};
use valise_client_sdk::Reason;
use valise_proto::Refusal;
use valise_proto::delivery::v1 as wire;
use valise_tests::people::Town;
use valise_tests::raw::bytes::{Framed, inline};
use valise_tests::raw::{Bundle, Device, Plan, bundle};
use valise_tests::service::Service;

/// Alice (leaf 0), Bob (leaf 1) and Carol (leaf 2) are in a group; Dave and Mallory are not.
pub(crate) struct Scene {
    _service: Service,
    pub(crate) alice: Device,
    pub(crate) bob: Device,
    pub(crate) carol: Device,
    pub(crate) dave: Device,
    pub(crate) mallory: Device,
    pub(crate) group: MlsGroup,
    pub(crate) bobs: MlsGroup,
    pub(crate) position: u64,
    pub(crate) epoch: u64,
    pub(crate) refused: usize,
}

/// What a commit is refused with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expected(pub(crate) Reason, pub(crate) Option<&'static str>);

pub(crate) const MLS: Expected = Expected(Reason::InvalidCommit, Some("mls_validation"));

pub(crate) const fn commit_rule(rule: &'static str) -> Expected {
    Expected(Reason::InvalidCommit, Some(rule))
}

pub(crate) const fn info_rule(rule: &'static str) -> Expected {
    Expected(Reason::InvalidGroupInfo, Some(rule))
}

pub(crate) const fn malformed(rule: &'static str) -> Expected {
    Expected(Reason::Malformed, Some(rule))
}

pub(crate) const fn denied(rule: &'static str) -> Expected {
    Expected(Reason::PolicyDenied, Some(rule))
}

impl Scene {
    pub(crate) async fn new() -> Self {
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
    pub(crate) fn good(&mut self, plan: Plan) -> Bundle {
        let bundle = self.alice.commit(&mut self.group, plan);
        self.alice.forget(&mut self.group);
        bundle
    }

    /// A commit of Alice's as openmls builds it with that change to the builder's proposals.
    pub(crate) fn with_proposal(&mut self, proposal: Proposal) -> Bundle {
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
    pub(crate) fn with_raw_proposals(&mut self, proposals: Vec<u8>) -> Bundle {
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

    pub(crate) fn with_package(&mut self, package: &KeyPackage) -> Bundle {
        self.with_raw_proposals(inline(1, &package.tls_serialize_detached().unwrap()))
    }

    pub(crate) async fn refused(
        &mut self,
        what: &str,
        submitted: Result<wire::Accepted, Refusal>,
        expected: Expected,
    ) {
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

    pub(crate) async fn refuses(&mut self, what: &str, bundle: Bundle, expected: Expected) {
        let submitted = self.alice.submit(&bundle).await;
        self.refused(what, submitted, expected).await;
    }

    /// A good commit and a message are accepted, and the others read them.
    pub(crate) async fn goes_on(mut self) {
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

pub(crate) fn with_context(scene: &mut Scene, extensions: Extensions<GroupContext>) -> Bundle {
    let bundle = changing_context(&scene.alice, &mut scene.group, extensions);
    scene.alice.forget(&mut scene.group);
    bundle
}

pub(crate) fn changing_context(
    device: &Device,
    group: &mut MlsGroup,
    extensions: Extensions<GroupContext>,
) -> Bundle {
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
