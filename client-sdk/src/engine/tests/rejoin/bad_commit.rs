//! Whether a bad commit is left behind is for the app, or its policy, to say.

use super::*;
use crate::WhatNow;

/// Bob is held by a commit of Alice's that he cannot process, and that the log has nevertheless.
fn held(alice: &mut Person, bob: &mut Person, log: &mut Log) {
    log.deliver(bob);
    drop(alice.submit(log.group, Operation::SelfUpdate));
    log.accept_all(alice);
    log.deliver(alice);
    let mut entry = log.entries.last().unwrap().clone();
    let mut bytes = entry.mls_message.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    entry.mls_message = bytes.into();
    bob.engine.apply(vec![Arrival::Entry(entry)]).unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::HeldByBadCommit);
    assert!(bob.reported());
}

#[test]
fn a_bad_commit_is_not_left_behind_unless_the_app_says_so() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    let old = alice.current(&log);
    held(&mut alice, &mut bob, &mut log);
    assert!(bob.engine.due_rejoins().unwrap().is_empty(), "S7");
    let error = bob.send(log.group, "x").try_recv().unwrap().unwrap_err();
    assert_eq!(error.what_now(), WhatNow::Rejoin);

    // State from before the bad commit would take the device back to an epoch that has ended.
    let before = bob.state(log.group);
    let mut outcome = ask(&mut bob, log.group);
    bob.engine.rejoin_with(log.group, &old).unwrap();
    assert!(matches!(
        outcome.try_recv().unwrap(),
        Err(Error::Rule("group_info_epoch"))
    ));
    let after = bob.state(log.group);
    assert_eq!(after.status, GroupStatus::HeldByBadCommit);
    assert_eq!(after.epoch_authenticator, before.epoch_authenticator);

    let mut outcome = ask(&mut bob, log.group);
    comes_back(&mut bob, &mut alice, &mut log);
    assert_eq!(outcome.try_recv().unwrap().unwrap(), Outcome::Rejoined);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    agree(&mut alice, &mut bob, &mut log);
}

#[test]
fn policy_may_leave_a_bad_commit_behind_and_forbid_to_come_back() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    bob.engine.options.rejoin.lost = ByItself::Never;
    lose(&mut bob, &log);
    assert_eq!(bob.state(log.group).status, GroupStatus::Lost);
    assert!(bob.engine.due_rejoins().unwrap().is_empty());

    let (mut alice2, mut bob2, mut log2) = scene(&world);
    bob2.engine.options.rejoin.bad_commit = ByItself::Always;
    log2.deliver(&mut bob2);
    drop(alice2.submit(log2.group, Operation::SelfUpdate));
    log2.accept_all(&mut alice2);
    log2.deliver(&mut alice2);
    let mut entry = log2.entries.last().unwrap().clone();
    let mut bytes = entry.mls_message.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    entry.mls_message = bytes.into();
    bob2.engine.apply(vec![Arrival::Entry(entry)]).unwrap();
    comes_back(&mut bob2, &mut alice2, &mut log2);
    log2.deliver(&mut alice2);
    log2.accept_all(&mut alice2);
    agree(&mut alice2, &mut bob2, &mut log2);

    drop(ask(&mut bob, log.group));
    comes_back(&mut bob, &mut alice, &mut log);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
}
