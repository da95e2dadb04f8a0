//! Redis comes back from an older copy of its file, and is written to until the group's log is longer than it was: other entries have the
//! places of those that devices have applied, and that were not all archived. It is noticed and the group frozen; the devices give back
//! what the archive lacks, an administrator repairs the group, and it goes on as if nothing had happened, unless somebody lies.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod archive;
mod redis_files;
mod repairs;
mod scene;

use valise_client_sdk::{
    DeviceId, Error, Group, GroupId, GroupStatus, Position, Reason, RepairEnd, Store, WhatNow,
};
use valise_proto::delivery::v1 as wire;
use valise_tests::crowd::{Crowd, Size, servers};
use valise_tests::people::options;
use valise_tests::raw::stream::{Stream, after, cursor};
use valise_tests::wait::until;

use archive::{Lock, position_in_archive};
use scene::{SIZE, Scene, groups, observer_at, send, start, talk};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_give_back_what_was_lost_and_go_on() {
    let scene = Scene::begin().await;
    let plan = scene.offered().await;
    assert_eq!(
        (plan.archived.0, plan.position.0),
        (scene.archived, scene.last()),
        "{plan:?}"
    );
    // A plan changes nothing; and who would rejoin now is told to wait.
    for group in groups(&scene.crowd) {
        let refused = group.rejoin().await.unwrap_err();
        let stopped = matches!(refused, Error::GroupNotActive(GroupStatus::LogRegressed));
        assert!(stopped && refused.what_now() == WhatNow::Retry, "{refused}");
        assert_eq!(group.info().await.unwrap().status, GroupStatus::LogRegressed);
    }

    let repair = scene.repair().await;
    println!(
        "{} entries archived, {} came back from {} devices; the other log had {}",
        scene.archived,
        repair.restored(),
        repair.devices,
        scene.other
    );
    assert_eq!(repair, plan);
    assert_eq!((repair.end, repair.lost()), (RepairEnd::Complete, 0));
    assert_eq!(repair.abandoned, Some(Position(scene.other)));
    assert!(!repair.group_info_missing, "its committer had it");
    for group in groups(&scene.crowd) {
        until("a device to go on", async || {
            let state = group.info().await.unwrap();
            (state.status == GroupStatus::Active).then_some(())
        })
        .await;
    }
    assert_eq!(scene.log().await, scene.known, "every entry, in its place");

    // And the group goes on; nobody has rejoined.
    talk(&scene.crowd, 99).await;
    let tally = scene.crowd.judge(&scene.stack).await;
    println!("{tally:?}");
    assert!(tally.entries as u64 > scene.last());
    let again = scene.crowd.administrator().administration();
    let refused = again.repair_group(scene.group, None).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::PolicyDenied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_ends_what_comes_back_and_a_forgery_does_not() {
    let scene = Scene::begin().await;
    let plan = scene.offered().await;
    assert_eq!(plan.position.0, scene.last());

    // What cannot be an offer is refused, and nothing of it kept.
    let next = scene.archived + 1;
    let mut elsewhere = scene.forged(next);
    elsewhere.group_id = GroupId::from_bytes([9; 16]).to_vec().into();
    let mut far = scene.forged(next);
    far.position = next + 1_000_000;
    let denied = |rule: &str| Err((Reason::PolicyDenied, rule.to_owned()));
    let malformed = |field: &str| Err((Reason::Malformed, field.to_owned()));
    assert_eq!(scene.offer(vec![]).await, malformed("entries"));
    assert_eq!(scene.offer(vec![elsewhere]).await, malformed("group_id"));
    assert_eq!(scene.offer(vec![far]).await, denied("too_far"));
    assert_eq!(
        scene.offer(vec![scene.forged(next - 1)]).await,
        denied("archived")
    );
    let (first, second) = (scene.forged(next), scene.forged(next + 1));
    assert_eq!(
        scene.offer(vec![second.clone(), first.clone()]).await,
        malformed("position")
    );
    let many = vec![first.clone(); 201];
    assert_eq!(scene.offer(many).await.unwrap_err().0, Reason::MessageTooLarge);

    // A commit that no member has made is passed over.
    let forgery = wire::Entry {
        kind: wire::EntryKind::Commit.into(),
        ..first
    };
    assert_eq!(scene.offer(vec![forgery]).await, Ok(next));
    assert_eq!(scene.plan().await.position.0, scene.last());
    assert_eq!(
        scene.offer(vec![scene.forged(next)]).await,
        denied("offered_otherwise")
    );

    // A message is opaque: nobody can say who lies.
    assert_eq!(scene.offer(vec![second]).await, Ok(next + 1));
    let repair = scene.repair().await;
    assert_eq!((repair.end, repair.position.0), (RepairEnd::Conflict, next));
    assert_eq!(repair.lost(), scene.last() - next);
    let observer = scene.crowd.observer().id;
    let mut sides: Vec<usize> = Vec::new();
    for candidate in &repair.candidates {
        assert_eq!(candidate.rule, "", "{candidate:?}");
        sides.push(candidate.devices.len());
        assert_eq!(
            candidate.devices.contains(&observer),
            candidate.devices.len() == 1
        );
    }
    sides.sort_unstable();
    assert_eq!(sides, [1, SIZE.devices]);
    assert_eq!(scene.log().await, scene.known[..next as usize]);

    // Devices that know more come back as after any loss, and the group goes on.
    for group in groups(&scene.crowd) {
        assert_eq!(group.info().await.unwrap().status, GroupStatus::LogRegressed);
    }
    for group in groups(&scene.crowd) {
        until("a device to be back", async || group.rejoin().await.ok()).await;
    }
    let sent = groups(&scene.crowd)[0].send("we are all here").await.unwrap();
    let mut authenticators = std::collections::BTreeSet::new();
    for group in groups(&scene.crowd) {
        let state = until("a device to have it", async || {
            let state = group.info().await.unwrap();
            (state.position >= sent.position).then_some(state)
        })
        .await;
        authenticators.insert(state.epoch_authenticator);
    }
    assert_eq!(authenticators.len(), 1, "all members have the same epoch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_live_is_told_without_asking() {
    let mut stack = start(1).await;
    let alone = Size {
        devices: 1,
        members: 1,
        ..SIZE
    };
    let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], alone).await;
    let group = crowd.groups_of(0)[0].id();
    let door = observer_at(&crowd, &stack, 0).await;
    let mut stream = Stream::open(&door, vec![cursor(group.as_bytes(), 0, &[])], 0)
        .await
        .unwrap();
    let first = stream.entry().await;
    stream.ack(vec![after(&first)]).await;
    stream.caught_up().await;
    until("the archive to have it", async || {
        (position_in_archive(&stack).await == 1).then_some(())
    })
    .await;

    // One entry that is not archived, and then Redis has nothing any more.
    let lock = Lock::hold(&stack).await;
    assert_eq!(send(&door, group, 1, "lost").await, Ok(2));
    assert_eq!(stream.entry().await.position, 2);
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    assert_eq!(send(&door, group, 1, "late").await, Err(Reason::LogRegressed));
    let ended = stream.group_ended().await;
    assert_eq!(
        (ended.reason.as_str(), ended.position),
        (Reason::LogRegressed.as_str(), 1)
    );
    drop(lock);
}

/// A group that takes nothing does not keep who was revoked in others, and loses it once it is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_leaves_other_groups_at_once_and_this_one_after_its_repair() {
    let scene = Scene::begin().await;
    // The service has noticed.
    scene.offered().await;
    let (town, administrator) = (scene.crowd.town(), scene.crowd.administrator());
    let servers = servers(&scene.stack, scene.stack.delivery(0).url());
    let erin = town.device_at(servers, "erin", Store::memory(), options(5)).await;
    let other = administrator.create_group("Other").await.unwrap();
    other.add(&[erin.user()]).await.unwrap();

    // In this order.
    let observer = scene.crowd.observer().id;
    administrator.revoke_device(observer).await.unwrap();
    administrator.revoke_device(erin.device()).await.unwrap();
    is_without(&other, erin.device()).await;
    assert!(
        scene.plan().await.position.0 >= scene.archived,
        "it is frozen still"
    );

    scene.repair().await;
    is_without(groups(&scene.crowd)[0], observer).await;
}

/// The revocation came while the service did not know where the group's members were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_while_a_group_is_lost_is_removed_after_its_repair() {
    let mut stack = start(1).await;
    let alone = Size {
        devices: 1,
        members: 1,
        ..SIZE
    };
    let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], alone).await;
    let group = &crowd.groups_of(0)[0];
    until("the archive to have it", async || {
        (position_in_archive(&stack).await == 1).then_some(())
    })
    .await;
    let door = observer_at(&crowd, &stack, 0).await;
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    assert_eq!(
        send(&door, group.id(), 1, "late").await,
        Err(Reason::LogRegressed)
    );
    crowd
        .administrator()
        .revoke_device(crowd.observer().id)
        .await
        .unwrap();
    until("the service to know", async || {
        (send(&door, group.id(), 1, "late").await == Err(Reason::DeviceRevoked)).then_some(())
    })
    .await;
    crowd
        .administrator()
        .administration()
        .repair_group(group.id(), None)
        .await
        .unwrap();
    is_without(group, crowd.observer().id).await;
}

/// Waits until that device is no member.
async fn is_without(group: &Group, device: DeviceId) {
    until("a device to be removed", async || {
        let members = group.members().await.unwrap();
        members.iter().all(|member| member.device != device).then_some(())
    })
    .await;
}
