//! What waits to leave a device: it leaves again after a crash, is built again on a new epoch, or fails.

use super::*;

#[test]
fn after_a_crash_the_same_bytes_leave_again_as_a_repeat() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let mut bob = world.person("bob");
    let mut alice = world.person_in("alice", &store);
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "before the crash");
    let first = alice.upload();
    assert!(!first.repeat);
    let alice = alice.forget();

    let mut alice = world.reopen(alice, &store);
    let second = alice.upload();
    assert!(second.repeat);
    assert_eq!(
        (second.prepared.key, &second.prepared.message),
        (first.prepared.key, &first.prepared.message)
    );
    log.accept(&alice, &first);
    log.deliver(&mut alice);
    assert_eq!(messages(&mut alice), ["before the crash"]);

    // The same with a commit: it is pending in the store, and merged when it comes back.
    let devices = vec![bob.id()];
    drop(alice.submit(log.group, Operation::Remove { devices }));
    let commit = alice.upload();
    let mut alice = world.reopen(alice.forget(), &store);
    let again = alice.upload();
    assert_eq!(again.prepared.message, commit.prepared.message);
    log.accept(&alice, &again);
    log.deliver(&mut alice);
    assert_eq!(alice.state(log.group).members, 1);
    assert!(alice.engine.outbox_is_empty().unwrap());
}

#[test]
fn a_losing_commit_is_built_again_on_the_new_epoch() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let (mut carol, mut dave) = (world.person("carol"), world.person("dave"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);

    let mut by_alice = alice.submit(
        log.group,
        Operation::Add {
            packages: vec![carol.package(false)],
        },
    );
    let mut by_bob = bob.submit(
        log.group,
        Operation::Add {
            packages: vec![dave.package(false)],
        },
    );
    let (winner, loser) = (alice.upload(), bob.upload());
    log.accept(&alice, &winner);
    bob.refuse(
        &loser,
        Refusal::new(Reason::EpochConflict).with("current_epoch", 2),
    );
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert!(matches!(by_alice.try_recv().unwrap(), Ok(Outcome::Committed { added, .. }) if added.len() == 1));
    assert!(by_bob.try_recv().is_err(), "the app sees one operation");

    let rebuilt = bob.upload();
    assert_ne!(rebuilt.prepared.key, loser.prepared.key);
    assert!(!rebuilt.repeat);
    log.accept(&bob, &rebuilt);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert!(
        matches!(by_bob.try_recv().unwrap(), Ok(Outcome::Committed { added, .. }) if added == [dave.peer()])
    );
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!((a.members, a.epoch_authenticator), (4, b.epoch_authenticator));
}

#[test]
fn who_was_added_by_another_meanwhile_is_not_added_twice() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);
    drop(alice.submit(
        log.group,
        Operation::Add {
            packages: vec![carol.package(false)],
        },
    ));
    let mut by_bob = bob.submit(
        log.group,
        Operation::Add {
            packages: vec![carol.package(false)],
        },
    );
    let winner = alice.upload();
    log.accept(&alice, &winner);
    log.deliver(&mut bob);
    let outcome = by_bob.try_recv().unwrap().unwrap();
    assert_eq!(
        outcome,
        Outcome::Committed {
            added: Vec::new(),
            removed: Vec::new()
        }
    );
}

#[test]
fn messages_of_an_ended_epoch_are_encrypted_again_in_order() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut outcomes: Vec<_> = (0..100).map(|n| alice.send(log.group, &n.to_string())).collect();
    let first = alice.upload();
    log.accept(&alice, &first);
    alice.accepted(&first, Position(log.entries.len() as u64));
    assert!(matches!(outcomes[0].try_recv().unwrap(), Ok(Outcome::Sent(_))));

    // Bob commits while 99 are on their way.
    drop(bob.submit(log.group, Operation::SelfUpdate));
    log.deliver(&mut bob);
    log.accept_all(&mut bob);
    let refused = alice.upload();
    alice.refuse(&refused, Refusal::new(Reason::EpochConflict));
    log.deliver(&mut alice);
    while !alice.engine.outbox_is_empty().unwrap() {
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
    }
    log.deliver(&mut bob);
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(messages(&mut bob), expected);
    assert_eq!(messages(&mut alice), expected);
    assert!(
        outcomes
            .iter_mut()
            .skip(1)
            .all(|outcome| matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))))
    );
}

#[test]
fn an_answer_to_replaced_bytes_does_not_touch_the_new_ones() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut outcome = alice.send(log.group, "late");
    let old = alice.upload();
    drop(bob.submit(log.group, Operation::SelfUpdate));
    log.accept_all(&mut bob);
    log.deliver(&mut alice);
    alice.refuse(&old, Refusal::new(Reason::PolicyDenied));
    assert!(outcome.try_recv().is_err());
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))));
}

#[test]
fn a_commit_whose_outcome_is_not_known_is_kept_until_it_is() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut outcome = alice.submit(log.group, Operation::SelfUpdate);
    let mut behind = alice.send(log.group, "behind");
    let commit = alice.upload();
    // The answer was lost, and then her user was suspended.
    log.accept(&alice, &commit);
    let refusal = Refusal::new(Reason::UserSuspended);
    let (intent, key) = (commit.intent, commit.prepared.key);
    assert!(
        alice
            .engine
            .outcome_unknown(intent, key, refusal.clone())
            .unwrap()
    );
    for waiting in [&mut outcome, &mut behind] {
        let error = waiting.try_recv().unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::UserSuspended));
    }

    // Resumed, she reads that it is done.
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
    }
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!((a.status, a.epoch.0), (GroupStatus::Active, 2));
    assert_eq!(a.epoch_authenticator, b.epoch_authenticator);
    assert!(!alice.engine.outcome_unknown(intent, key, refusal).unwrap());
}

#[test]
fn a_refused_message_fails_and_the_next_ones_go_on() {
    let world = World::new();
    let mut alice = world.person("alice");
    let mut log = alice.create_group("");
    let mut first = alice.send(log.group, "too much");
    let mut second = alice.send(log.group, "fine");
    let upload = alice.upload();
    alice.refuse(&upload, Refusal::too_large("mls_message", 1));
    let error = first.try_recv().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::MessageTooLarge));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(second.try_recv().unwrap().is_ok());
    assert_eq!(messages(&mut alice), ["fine"]);
}

#[test]
fn what_members_do_unasked_is_not_pending() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("Budget");
    let packages = vec![bob.package(false)];
    let mut added = alice.submit(log.group, Operation::Add { packages });
    let commit = alice.upload();
    log.accept(&alice, &commit);
    log.deliver(&mut alice);
    assert!(added.try_recv().unwrap().is_ok());
    // The group's name, for the one who was added.
    assert!(!alice.engine.outbox_is_empty().unwrap());
    assert_eq!(alice.engine.pending(log.group).unwrap(), []);
}

#[test]
fn a_failed_operation_that_nobody_waits_for_any_more_is_an_event() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let mut alice = world.person_in("alice", &store);
    let log = alice.create_group("");
    alice.send(log.group, "x");
    let mut alice = world.reopen(alice.forget(), &store);
    let pending = alice.engine.pending(log.group).unwrap();
    let [waiting] = &pending[..] else {
        panic!("one message waits: {pending:?}");
    };
    assert_eq!((waiting.operation.as_str(), waiting.prepared), ("send", true));
    assert!(waiting.message.is_some());
    let upload = alice.upload();
    alice.refuse(&upload, Refusal::new(Reason::PolicyDenied));
    assert_eq!(alice.engine.pending(log.group).unwrap(), []);
    let expected = EventKind::OperationFailed {
        operation: "send".to_owned(),
        cause: "POLICY_DENIED".to_owned(),
        what_now: crate::WhatNow::Denied,
        message: waiting.message,
        users: Vec::new(),
    };
    assert_eq!(alice.events(), [expected]);
    assert!(alice.engine.outbox_is_empty().unwrap());
}
