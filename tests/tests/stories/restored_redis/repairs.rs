//! Whom a repair believes, what it does not bring back twice, and what replicas know after it.

use valise_client_sdk::{Position, Reason, RepairEnd};
use valise_local_stack::LocalStack;
use valise_proto::delivery::v1 as wire;
use valise_tests::crowd::{Crowd, Size, read_log};
use valise_tests::raw::bytes::opaque;
use valise_tests::raw::refusal;
use valise_tests::wait::until;

use crate::restored_redis::archive::{Lock, position_in_archive};
use crate::restored_redis::scene::{NEVER, SIZE, observer_at, offer, send, start};

/// A group of one device and the observer, whose first entry is archived.
async fn begin(delivery_replicas: usize) -> (LocalStack, Crowd) {
    let stack = start(delivery_replicas).await;
    let size = Size {
        devices: 1,
        members: 1,
        ..SIZE
    };
    let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], size).await;
    until("the archive to have it", async || {
        (position_in_archive(&stack).await == 1).then_some(())
    })
    .await;
    (stack, crowd)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lied_and_is_revoked_has_no_say() {
    let (mut stack, crowd) = begin(1).await;
    let group = &crowd.groups_of(0)[0];
    let door = observer_at(&crowd, &stack, 0).await;
    // Everybody has it but the archive; then Redis has nothing any more.
    let _lock = Lock::hold(&stack).await;
    let said = group.send("said").await.unwrap();
    until("its sender to have it", async || {
        (group.info().await.unwrap().position == said.position).then_some(())
    })
    .await;
    let known = read_log(&door, group.id()).await;
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    let late = send(&door, group.id(), 1, "late").await;
    assert_eq!(late, Err(Reason::LogRegressed));

    let administration = crowd.administrator().administration();
    until("its sender to give it back", async || {
        let plan = administration.plan_repair(group.id(), None).await.ok()?;
        (plan.offered == said.position).then_some(())
    })
    .await;
    let lie = wire::Entry {
        entry_id: vec![1; 8].into(),
        mls_message: opaque(group.id().as_bytes(), 1, b"never said").into(),
        sender_device_id: crowd.observer().id.to_string(),
        ..known[1].clone()
    };
    assert_eq!(offer(&door, group.id(), vec![lie]).await, Ok(2));
    let plan = administration.plan_repair(group.id(), None).await.unwrap();
    assert_eq!(plan.end, RepairEnd::Conflict);

    let administrator = crowd.administrator();
    administrator.revoke_device(crowd.observer().id).await.unwrap();
    until("the service to know", async || {
        let request = wire::ListGroupsRequest::default();
        let asked = door.delivery().list_groups(request).await;
        asked
            .is_err_and(|status| refusal(&status).reason == Reason::DeviceRevoked)
            .then_some(())
    })
    .await;
    let plan = administration.plan_repair(group.id(), None).await.unwrap();
    assert_eq!((plan.end, plan.position), (RepairEnd::Complete, said.position));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_repair_brought_back_does_not_come_back_twice() {
    let (mut stack, crowd) = begin(1).await;
    let group = crowd.groups_of(0)[0].id();
    stack.delivery(0).restart_with(&[NEVER]).await;
    let door = observer_at(&crowd, &stack, 0).await;
    assert_eq!(send(&door, group, 1, "once").await, Ok(2));
    let known = read_log(&door, group).await;
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    assert_eq!(send(&door, group, 1, "late").await, Err(Reason::LogRegressed));
    assert_eq!(offer(&door, group, vec![known[1].clone()]).await, Ok(2));
    let administration = crowd.administrator().administration();
    let repair = administration.repair_group(group, None).await.unwrap();
    assert_eq!((repair.end, repair.position.0), (RepairEnd::Complete, 2));

    // In the same epoch it is lost again, and the same message offered for the next place.
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    assert_eq!(send(&door, group, 1, "late").await, Err(Reason::LogRegressed));
    let again = wire::Entry {
        position: 3,
        entry_id: vec![1; 8].into(),
        ..known[1].clone()
    };
    assert_eq!(offer(&door, group, vec![again]).await, Ok(3));
    let plan = administration.plan_repair(group, None).await.unwrap();
    assert_eq!((plan.end, plan.position.0), (RepairEnd::Refused, 2));
    assert_eq!(plan.candidates[0].rule, "repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_forgets_what_it_knew_of_a_log_that_another_one_has_repaired() {
    let (mut stack, crowd) = begin(2).await;
    let group = &crowd.groups_of(0)[0];
    let other = observer_at(&crowd, &stack, 1).await;
    // The second replica knows an epoch that will be lost.
    let _lock = Lock::hold(&stack).await;
    group.self_update().await.unwrap();
    assert_eq!(send(&other, group.id(), 2, "known").await, Ok(3));
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    let late = send(&other, group.id(), 2, "late").await;
    assert_eq!(late, Err(Reason::LogRegressed));

    // The first one puts it back to what is archived.
    let administration = crowd.administrator().administration();
    let archived = Some(Position(1));
    let repair = administration.repair_group(group.id(), archived).await.unwrap();
    assert_eq!((repair.position.0, repair.epoch.0), (1, 1));
    until("the second replica to know", async || {
        let sent = send(&other, group.id(), 1, "on").await;
        (sent == Ok(2)).then_some(())
    })
    .await;
}
