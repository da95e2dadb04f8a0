//! A replica judges a commit by the state that it knows, which may be behind the log where another replica appends. What it answers is
//! nevertheless right, and it goes on rightly.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{LeafNodeIndex, MlsGroup};
use valise_client_sdk::{DeviceId, Reason};
use valise_local_stack::LocalStack;
use valise_proto::Refusal;
use valise_proto::delivery::v1 as wire;
use valise_tests::crowd::door;
use valise_tests::raw::{Bundle, Device, Plan, key, refusal};
use valise_tests::replicas::Replicas;

/// Alice (leaf 0) talks to the first replica; Bob (leaf 1) and Carol (leaf 2) to the second.
struct Scene {
    stack: LocalStack,
    alice: Device,
    bob: Device,
    carol: Device,
    alices: MlsGroup,
    bobs: MlsGroup,
    carols: MlsGroup,
    position: u64,
}

impl Scene {
    /// Both replicas know the group.
    async fn new() -> Self {
        let replicas = Replicas::start().await;
        let alice = replicas.device(0, "alice").await;
        let bob = replicas.device(1, "bob").await;
        let carol = replicas.device(1, "carol").await;
        let (alices, joined) = alice.group_with(&[&bob, &carol]).await;
        let [bobs, carols] = <[MlsGroup; 2]>::try_from(joined).ok().unwrap();
        let (position, _) = bob.head(&alices).await;
        let mut scene = Self {
            stack: replicas.stack,
            alice,
            bob,
            carol,
            alices,
            bobs,
            carols,
            position,
        };
        let bundle = scene.bob.commit(&mut scene.bobs, Plan::self_update());
        scene.bob.submit(&bundle).await.unwrap();
        scene.bobs.merge_pending_commit(&scene.bob.provider).unwrap();
        scene.position += 1;
        for (device, group) in [
            (&scene.alice, &mut scene.alices),
            (&scene.carol, &mut scene.carols),
        ] {
            device.apply(group, &bundle.commit);
        }
        scene
    }

    /// Alice commits through the first replica; the second one does not know it yet.
    async fn alice_commits(&mut self, plan: Plan) -> Bundle {
        let bundle = self.alice.commit(&mut self.alices, plan);
        let accepted = self.alice.submit(&bundle).await.unwrap();
        self.alices.merge_pending_commit(&self.alice.provider).unwrap();
        self.position += 1;
        assert_eq!(accepted.position, self.position);
        bundle
    }

    /// The second replica still takes commits: its state is that of the log.
    async fn the_second_replica_goes_on(&mut self) {
        let bundle = self.bob.commit(&mut self.bobs, Plan::self_update());
        let accepted = self.bob.submit(&bundle).await.unwrap();
        self.position += 1;
        assert_eq!(accepted.position, self.position);
        self.bobs.merge_pending_commit(&self.bob.provider).unwrap();
        self.alice.apply(&mut self.alices, &bundle.commit);
        assert_eq!(
            self.alices.epoch_authenticator().as_slice(),
            self.bobs.epoch_authenticator().as_slice()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_an_epoch_that_has_ended_elsewhere_loses() {
    let mut scene = Scene::new().await;
    let winner = scene.alice_commits(Plan::self_update()).await;
    let bundle = scene.bob.commit(&mut scene.bobs, Plan::self_update());
    let refused = scene.bob.submit(&bundle).await.unwrap_err();
    assert_eq!(refused.reason, Reason::EpochConflict);
    assert_eq!(refused.metadata["winner_position"], scene.position.to_string());
    let current = scene.alices.epoch().as_u64();
    assert_eq!(refused.metadata["current_epoch"], current.to_string());

    scene.bob.forget(&mut scene.bobs);
    scene.bob.apply(&mut scene.bobs, &winner.commit);
    scene.the_second_replica_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_an_epoch_that_began_elsewhere_is_taken() {
    let mut scene = Scene::new().await;
    for _ in 0..2 {
        let bundle = scene.alice_commits(Plan::self_update()).await;
        scene.bob.apply(&mut scene.bobs, &bundle.commit);
        scene.the_second_replica_goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_removed_elsewhere_is_none() {
    let mut scene = Scene::new().await;
    let removal = scene
        .alice_commits(Plan::remove(vec![LeafNodeIndex::new(2)]))
        .await;
    // Of an epoch that the second replica takes for the current one, in which Carol is a member.
    let bundle = scene.carol.commit(&mut scene.carols, Plan::self_update());
    let refused = scene.carol.submit(&bundle).await.unwrap_err();
    assert_eq!(refused, Refusal::new(Reason::NotAMember), "and learns no epoch");
    scene.bob.apply(&mut scene.bobs, &removal.commit);
    scene.the_second_replica_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_came_elsewhere_must_be_seen_and_can_be_committed() {
    let mut scene = Scene::new().await;
    // By the first replica.
    let mut at_first = door(&scene.stack, 0).await;
    at_first = at_first.with_token(&scene.carol.new_token().await.unwrap());
    let leave = scene
        .carols
        .leave_group(&scene.carol.provider, &scene.carol.signer)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let request = wire::SubmitProposalRequest {
        proposal: leave.clone().into(),
        idempotency_key: key(),
        may_be_repeat: false,
    };
    at_first.delivery().submit_proposal(request).await.unwrap();
    scene.position += 1;

    let blind = scene.bob.commit(&mut scene.bobs, Plan::self_update());
    let refused = scene.bob.submit(&blind).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ProposalsMissing);
    assert_eq!(refused.metadata["position"], scene.position.to_string());
    scene.bob.forget(&mut scene.bobs);

    scene.bob.apply(&mut scene.bobs, &leave);
    scene.alice.apply(&mut scene.alices, &leave);
    let seeing = scene.bob.commit(
        &mut scene.bobs,
        Plan {
            pending: true,
            ..Plan::self_update()
        },
    );
    scene.bob.submit(&seeing).await.unwrap();
    scene.position += 1;
    scene.bobs.merge_pending_commit(&scene.bob.provider).unwrap();
    scene.alice.apply(&mut scene.alices, &seeing.commit);
    assert!(
        members(&scene.alices)
            .iter()
            .all(|device| *device != scene.carol.id)
    );
    scene.the_second_replica_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_by_reference_is_looked_for_in_the_log() {
    let mut scene = Scene::new().await;
    let leave = scene
        .carols
        .leave_group(&scene.carol.provider, &scene.carol.signer)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    // By the second replica; the first one has not heard of it when the commit comes.
    scene.carol.propose_bytes(leave.clone()).await.unwrap();
    scene.position += 1;
    scene.alice.apply(&mut scene.alices, &leave);
    scene.bob.apply(&mut scene.bobs, &leave);
    let plan = Plan {
        pending: true,
        ..Plan::self_update()
    };
    let bundle = scene.alice_commits(plan).await;
    scene.bob.apply(&mut scene.bobs, &bundle.commit);
    scene.the_second_replica_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_elsewhere_gets_the_first_answer_and_nothing_of_the_second_commit() {
    let mut scene = Scene::new().await;
    let at_second = door(&scene.stack, 1).await;
    let at_second = at_second.with_token(&scene.alice.new_token().await.unwrap());
    let key = key();
    let request = |bundle: &Bundle| wire::SubmitCommitRequest {
        commit: bundle.commit.clone().into(),
        group_info: bundle.group_info.clone().into(),
        welcome: bytes::Bytes::new(),
        idempotency_key: key.clone(),
        may_be_repeat: false,
    };
    let other = scene.alice.commit(&mut scene.alices, Plan::self_update());
    scene.alice.forget(&mut scene.alices);
    let bundle = scene.alice.commit(&mut scene.alices, Plan::self_update());
    let first = scene.alice.door.delivery().submit_commit(request(&bundle)).await;
    let first = first.map_err(|status| refusal(&status)).unwrap().into_inner();
    // For the second replica this is a good commit of the current epoch.
    let second = at_second.delivery().submit_commit(request(&other)).await;
    let second = second.map_err(|status| refusal(&status)).unwrap().into_inner();
    assert_eq!(first, second);

    scene.position += 1;
    scene.alices.merge_pending_commit(&scene.alice.provider).unwrap();
    scene.bob.apply(&mut scene.bobs, &bundle.commit);
    scene.the_second_replica_goes_on().await;
}

fn members(group: &MlsGroup) -> Vec<DeviceId> {
    let identity = |member: openmls::prelude::Member| {
        valise_group_rules::claimed_identity(&member.credential, &member.signature_key)
            .unwrap()
            .device
    };
    group.members().map(identity).collect()
}
