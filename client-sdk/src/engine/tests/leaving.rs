//! Devices that leave: their proposal is committed by another, however often it takes.

use super::*;

#[test]
fn leaving_is_proposed_and_committed_by_another_before_it_sends() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut left = bob.submit(log.group, Operation::Leave);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert_eq!(left.try_recv().unwrap().unwrap(), Outcome::Proposed);
    assert_eq!(bob.state(log.group).status, GroupStatus::Leaving);

    // S2: the proposal is committed before anything is sent.
    log.deliver(&mut alice);
    alice.send(log.group, "after");
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut alice), ["after"]);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert_eq!(alice.state(log.group).members, 1);
}

#[test]
fn a_name_that_is_to_be_told_waits_for_what_was_proposed() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob]);
    let packages = vec![carol.package(false)];
    drop(alice.submit(log.group, Operation::Add { packages }));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    // With her own commit, after which she tells the name before anything else, comes the proposal.
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds(), [UploadKind::Message]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert!(alice.engine.outbox_is_empty().unwrap());
}

#[test]
fn a_leave_that_was_not_committed_is_proposed_again() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    drop(alice.submit(log.group, Operation::SelfUpdate));
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    // Made before the proposal came; a service would refuse it.
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.peek_kinds(), [UploadKind::Proposal]);
    for _ in 0..2 {
        log.accept_all(&mut bob);
        log.deliver(&mut alice);
        let epoch = alice.state(log.group).epoch;
        alice.engine.commit_proposals(log.group, epoch).unwrap();
        log.accept_all(&mut alice);
    }
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
}

#[test]
fn the_last_member_leaves_by_itself() {
    let world = World::new();
    let mut alice = world.person("alice");
    let log = alice.create_group("");
    let mut left = alice.submit(log.group, Operation::Leave);
    assert_eq!(left.try_recv().unwrap().unwrap(), Outcome::Proposed);
    assert_eq!(alice.state(log.group).status, GroupStatus::Removed);
    assert_eq!(alice.events(), [EventKind::Removed { by: alice.peer() }]);
    assert!(alice.peek_kinds().is_empty());
}
