//! Who is in reads; who was removed reads no further, and who is new reads no earlier. Leaving works, by another member's hand.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

use openmls::prelude::LeafNodeIndex;
use openmls::prelude::tls_codec::Serialize as _;
use rusqlite::Connection;
use valise_client_sdk::{EventKind, GroupId, GroupStatus, Position, Reason};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_tests::people::{Town, event, joined, text};
use valise_tests::raw::stream::{Stream, cursor};
use valise_tests::raw::{Device, Door, Plan, refusal};
use valise_tests::retention::{database, snapshot_after};
use valise_tests::service::Service;

/// Positions: 1 adds Bob, 2 is a message, 3 adds Carol, 4 is a message, 5 removes Bob, 6 is a message.
struct Scene {
    service: Service,
    alice: Device,
    bob: Device,
    carol: Device,
    group: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let alice = Device::enrol(&service, &town.code("alice").await).await;
        let bob = Device::enrol(&service, &town.code("bob").await).await;
        let carol = Device::enrol(&service, &town.code("carol").await).await;
        let mut group = alice.new_group();
        alice.register(&group).await.unwrap();
        for plan in [
            Plan::add(vec![bob.key_package()]),
            Plan::add(vec![carol.key_package()]),
            Plan::remove(vec![LeafNodeIndex::new(1)]),
        ] {
            let bundle = alice.commit(&mut group, plan);
            alice.submit(&bundle).await.unwrap();
            group.merge_pending_commit(&alice.provider).unwrap();
            alice.send(&mut group, b"a message").await.unwrap();
        }
        let group = group.group_id().as_slice().to_vec();
        Self {
            service,
            alice,
            bob,
            carol,
            group,
        }
    }

    async fn reads(&self, device: &Device, after: u64) -> Result<(Vec<u64>, u64), Reason> {
        let part = device
            .read(&self.group, after, 0)
            .await
            .map_err(|refusal| refusal.reason)?;
        Ok((
            part.entries.iter().map(|entry| entry.position).collect(),
            part.last_position,
        ))
    }

    /// What a stream from that position brings: entries until it has caught up, and how it ended.
    async fn follows(&self, device: &Device, from: u64) -> (Vec<u64>, Option<(String, u64)>) {
        let mut stream = Stream::open(&device.door, vec![cursor(&self.group, from, &[])], 0)
            .await
            .unwrap();
        let (mut positions, mut end) = (Vec::new(), None);
        loop {
            match stream.next().await.unwrap() {
                In::Entry(entry) => {
                    positions.push(entry.position);
                    let ack = cursor(&self.group, entry.position, &entry.entry_id);
                    stream.ack(vec![ack]).await;
                }
                In::InboxItem(item) => stream.ack_inbox(item.number).await,
                In::GroupEnded(ended) => end = Some((ended.reason, ended.position)),
                In::CaughtUp(_) => return (positions, end),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_reads_from_its_own_beginning() {
    let scene = Scene::new().await;
    assert_eq!(
        scene.reads(&scene.alice, 0).await,
        Ok((vec![1, 2, 3, 4, 5, 6], 6))
    );
    assert_eq!(
        scene.follows(&scene.alice, 0).await,
        (vec![1, 2, 3, 4, 5, 6], None)
    );
    // Carol was added by 3: what was before is not for her.
    assert_eq!(scene.reads(&scene.carol, 3).await, Ok((vec![4, 5, 6], 6)));
    for before in 0..3 {
        assert_eq!(
            scene.reads(&scene.carol, before).await,
            Err(Reason::NotAMember),
            "after {before}"
        );
        assert_eq!(
            scene.follows(&scene.carol, before).await,
            (vec![4, 5, 6], None),
            "after {before}"
        );
    }
    assert_eq!(scene.follows(&scene.carol, 4).await, (vec![5, 6], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_reads_what_removed_it_and_nothing_more() {
    let scene = Scene::new().await;
    assert_eq!(scene.reads(&scene.bob, 1).await, Ok((vec![2, 3, 4, 5], 5)));
    assert_eq!(scene.reads(&scene.bob, 4).await, Ok((vec![5], 5)));
    assert_eq!(scene.reads(&scene.bob, 5).await, Ok((vec![], 5)));
    assert_eq!(scene.reads(&scene.bob, 0).await, Err(Reason::NotAMember));
    let end = Some(("NOT_A_MEMBER".to_owned(), 5));
    assert_eq!(
        scene.follows(&scene.bob, 1).await,
        (vec![2, 3, 4, 5], end.clone())
    );
    assert_eq!(scene.follows(&scene.bob, 5).await, (vec![], end));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_whose_stream_is_live_gets_what_removed_it_and_nothing_more() {
    let scene = Scene::new().await;
    let (mut left, _) = scene.alice.group_with(&[&scene.bob]).await;
    let (mut kept, _) = scene.alice.group_with(&[&scene.bob]).await;
    let [left_id, kept_id] = [&left, &kept].map(|group| group.group_id().as_slice().to_vec());
    // Nothing is missed but three Welcomes: the entry that added him to each group is applied.
    let cursors = vec![cursor(&left_id, 1, &[]), cursor(&kept_id, 1, &[])];
    let mut stream = Stream::open(&scene.bob.door, cursors, 0).await.unwrap();
    for _ in 0..3 {
        let item = stream.inbox_item().await;
        stream.ack_inbox(item.number).await;
    }
    stream.caught_up().await;

    let removal = scene
        .alice
        .commit(&mut left, Plan::remove(vec![LeafNodeIndex::new(1)]));
    scene.alice.submit(&removal).await.unwrap();
    left.merge_pending_commit(&scene.alice.provider).unwrap();
    scene.alice.send(&mut left, b"he is gone").await.unwrap();
    scene.alice.send(&mut kept, b"he is here").await.unwrap();
    let entry = stream.entry().await;
    assert_eq!((entry.group_id.to_vec(), entry.position), (left_id.clone(), 2));
    let ended = stream.group_ended().await;
    assert_eq!(
        (ended.group_id.to_vec(), ended.reason.as_str(), ended.position),
        (left_id, "NOT_A_MEMBER", 2)
    );
    // What was sent to the other group came after what he must not see.
    assert_eq!(stream.entry().await.group_id, kept_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_whose_tree_cannot_be_computed_any_more_is_too_old() {
    let mut scene = Scene::new().await;
    let id = GroupId::try_from(&*scene.group).unwrap();
    // That of epoch 2, which the commit at 3 began.
    snapshot_after(&scene.service, id, Position(2)).await;
    scene.service.kill().await;
    let deleted = database(&scene.service)
        .execute("DELETE FROM snapshots WHERE epoch < 2", [])
        .unwrap();
    assert!(deleted > 0);
    scene.service.restart().await;

    let door = Door::open(scene.service.connect().await);
    let token = scene.bob.new_token_at(&door).await.unwrap();
    let mut delivery = door.with_token(&token).delivery();
    let request = |epoch| wire::GetRatchetTreeRequest {
        group_id: scene.group.clone().into(),
        epoch,
    };
    let status = delivery.get_ratchet_tree(request(1)).await.unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::EpochTooOld);
    delivery.get_ratchet_tree(request(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_in_can_do_nothing() {
    let scene = Scene::new().await;
    let (mut group, _) = scene.bob.group_with(&[]).await;
    let own = group.group_id().as_slice().to_vec();
    let bob = &scene.bob;

    // A message of Bob's own group, made to look like one of the group that he is no longer in.
    let message = bob.encrypt(&mut group, b"hello?");
    let at = message.windows(16).position(|window| window == own).unwrap();
    let mut forged = message.clone();
    forged[at..at + 16].copy_from_slice(&scene.group);
    let reason = |refusal: valise_proto::Refusal| refusal.reason;
    assert_eq!(
        bob.send_bytes(forged.clone()).await.map_err(reason),
        Err(Reason::NotAMember)
    );
    let ephemeral = wire::SendEphemeralRequest {
        mls_message: forged.into(),
    };
    let status = bob.door.delivery().send_ephemeral(ephemeral).await.unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::NotAMember);
    assert!(bob.send_bytes(message).await.is_ok());

    for epoch in [0, 3, 4] {
        let request = wire::GetRatchetTreeRequest {
            group_id: scene.group.clone().into(),
            epoch,
        };
        let status = bob.door.delivery().get_ratchet_tree(request).await.unwrap_err();
        let expected = if epoch == 4 {
            Reason::EpochAhead
        } else {
            Reason::NotAMember
        };
        assert_eq!(refusal(&status).reason, expected, "epoch {epoch}");
    }
    // The epochs that he was in are no secret to him.
    for epoch in [1, 2] {
        let request = wire::GetRatchetTreeRequest {
            group_id: scene.group.clone().into(),
            epoch,
        };
        assert!(
            !bob.door
                .delivery()
                .get_ratchet_tree(request)
                .await
                .unwrap()
                .into_inner()
                .ratchet_tree
                .is_empty()
        );
    }
    let request = wire::GetGroupInfoRequest {
        group_id: scene.group.clone().into(),
        ..wire::GetGroupInfoRequest::default()
    };
    let status = bob.door.delivery().get_group_info(request).await.unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::NotAMember);
    let report = |position| wire::ReportCommitRequest {
        group_id: scene.group.clone().into(),
        position,
        fault: wire::CommitFault::ConfirmationTag.into(),
    };
    // The first one added him: he does not read it, and knows what came with it.
    for position in [1, 5] {
        bob.door.delivery().report_commit(report(position)).await.unwrap();
    }
    let status = bob.door.delivery().report_commit(report(6)).await.unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::NotAMember);
    let groups = bob
        .door
        .delivery()
        .list_groups(wire::ListGroupsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        groups
            .groups
            .iter()
            .map(|group| group.group_id.to_vec())
            .collect::<Vec<_>>(),
        [own]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_removed_and_comes_back_reads_both_its_times() {
    let scene = Scene::new().await;
    // In a group of their own: 1 adds Bob, 2 removes him, 3 adds him again.
    let mut group = scene.alice.new_group();
    scene.alice.register(&group).await.unwrap();
    for plan in [
        Plan::add(vec![scene.bob.key_package()]),
        Plan::remove(vec![LeafNodeIndex::new(1)]),
        Plan::self_update(),
        Plan::add(vec![scene.bob.key_package()]),
        Plan::self_update(),
    ] {
        let bundle = scene.alice.commit(&mut group, plan);
        scene.alice.submit(&bundle).await.unwrap();
        group.merge_pending_commit(&scene.alice.provider).unwrap();
    }
    let scene = Scene {
        group: group.group_id().as_slice().to_vec(),
        ..scene
    };
    assert_eq!(scene.reads(&scene.bob, 1).await, Ok((vec![2], 2)));
    assert_eq!(scene.reads(&scene.bob, 4).await, Ok((vec![5], 5)));
    assert_eq!(scene.reads(&scene.bob, 2).await, Err(Reason::NotAMember));
    assert_eq!(scene.reads(&scene.bob, 3).await, Err(Reason::NotAMember));
    assert_eq!(scene.follows(&scene.bob, 4).await, (vec![5], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_oneself_can_be_proposed_to_go() {
    let scene = Scene::new().await;
    let (mut group, mut joined) = scene.alice.group_with(&[&scene.bob, &scene.carol]).await;
    let propose = |proposal: openmls::prelude::MlsMessageOut| proposal.tls_serialize_detached().unwrap();

    let (proposal, _) = joined[0]
        .propose_remove_member(&scene.bob.provider, &scene.bob.signer, LeafNodeIndex::new(2))
        .unwrap();
    let refused = scene.bob.propose_bytes(propose(proposal)).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidProposal, "proposal_type")
    );
    let package = scene.carol.key_package();
    let (proposal, _) = group
        .propose_add_member(&scene.alice.provider, &scene.alice.signer, &package)
        .unwrap();
    let refused = scene.alice.propose_bytes(propose(proposal)).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidProposal, "proposal_type")
    );

    let leave = propose(
        joined[1]
            .leave_group(&scene.carol.provider, &scene.carol.signer)
            .unwrap(),
    );
    let refused = scene.bob.propose_bytes(leave.clone()).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidProposal, "sender")
    );
    let accepted = scene.carol.propose_bytes(leave.clone()).await.unwrap();
    assert_eq!((accepted.position, accepted.epoch), (2, 1));
    let refused = scene.carol.propose_bytes(leave).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidProposal, "duplicate_remove")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_takes_another_members_hand() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let (anna, ben, cleo) = (
        town.device("anna").await,
        town.device("ben").await,
        town.device("cleo").await,
    );
    let group = anna.create_group("Short").await.unwrap();
    group
        .add(&[ben.user().clone(), cleo.user().clone()])
        .await
        .unwrap();
    let bens = joined(&ben, group.id()).await;
    let cleos = joined(&cleo, group.id()).await;

    bens.leave().await.unwrap();
    let mut events = ben.events();
    event(&ben, &mut events, |event| {
        matches!(event.kind, EventKind::Removed { .. }).then_some(())
    })
    .await;
    assert_eq!(bens.info().await.unwrap().status, GroupStatus::Removed);
    assert!(bens.send("still here?").await.is_err());
    group.send("he is gone").await.unwrap();
    let mut events = cleo.events();
    assert_eq!(event(&cleo, &mut events, text).await, "he is gone");
    assert_eq!(cleos.members().await.unwrap().len(), 2);

    // Removed by somebody else.
    group.remove(&[cleo.user().clone()]).await.unwrap();
    event(&cleo, &mut events, |event| {
        matches!(event.kind, EventKind::Removed { .. }).then_some(())
    })
    .await;
    group.send("alone").await.unwrap();
    assert_eq!(group.members().await.unwrap().len(), 1);
    // And invited again.
    group.add(&[ben.user().clone()]).await.unwrap();
    let mut events = ben.events();
    event(&ben, &mut events, |event| {
        matches!(event.kind, EventKind::Joined { .. }).then_some(())
    })
    .await;
    group.send("welcome back").await.unwrap();
    assert_eq!(event(&ben, &mut events, text).await, "welcome back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_of_an_epoch_of_which_nothing_is_kept_is_not_given() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    let mut group = alice.new_group();
    alice.register(&group).await.unwrap();
    for _ in 0..2 {
        let bundle = alice.commit(&mut group, Plan::self_update());
        alice.submit(&bundle).await.unwrap();
        group.merge_pending_commit(&alice.provider).unwrap();
    }
    service.kill().await;
    let log = Connection::open(service.data().join("delivery.db")).unwrap();
    let trimmed = log.execute("DELETE FROM entries WHERE epoch = 0", []);
    assert_eq!(trimmed.unwrap(), 1);
    drop(log);
    service.restart().await;

    let door = Door::open(service.connect().await);
    let token = alice.new_token_at(&door).await.unwrap();
    let request = wire::GetRatchetTreeRequest {
        group_id: group.group_id().as_slice().to_vec().into(),
        epoch: 1,
    };
    let asked = door.with_token(&token).delivery().get_ratchet_tree(request).await;
    let refused = refusal(&asked.unwrap_err());
    assert_eq!(
        (refused.reason, refused.number("current_epoch")),
        (Reason::EpochTooOld, Some(2))
    );
}
