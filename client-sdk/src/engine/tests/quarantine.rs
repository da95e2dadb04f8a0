//! Groups with a member whose certificate does not stand the test.

use prost::Message as _;
use valise_proto::delivery::v1::CommitFault;

use super::people::{Log, Person, World};
use super::*;
use crate::WhatNow;

/// Alice, and Bob as a moderator, with Eve of another authority, whom Alice alone trusts: Bob has not heard of her yet.
fn scene() -> (Person, Person, Person, Log) {
    let (world, elsewhere) = (World::new(), World::new());
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut eve = elsewhere.person("eve");
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);
    alice.engine.device.bundle = world.bundle_with(&elsewhere);
    let packages = vec![eve.package(false)];
    alice.done(&mut log, Operation::Add { packages });
    (alice, bob, eve, log)
}

/// The same, and Bob has heard of her.
fn quarantined() -> (Person, Person, Person, Log) {
    let (alice, mut bob, eve, log) = scene();
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Quarantined);
    bob.events();
    (alice, bob, eve, log)
}

#[test]
fn a_group_with_a_member_of_another_authority_is_quarantined() {
    let (mut alice, mut bob, _eve, log) = scene();
    let waiting = bob.send(log.group, "never");
    log.deliver(&mut bob);

    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!(b.status, GroupStatus::Quarantined);
    assert_eq!(
        (b.epoch, b.epoch_authenticator),
        (a.epoch, a.epoch_authenticator),
        "who refused what others have merged would fork the group"
    );
    let rule = "certificate_untrusted".to_owned();
    let evidence = log.entries.last().unwrap().encode_to_vec();
    assert_eq!(
        bob.events().last(),
        Some(&EventKind::Quarantined { rule, evidence })
    );
    assert_eq!(bob.report(), Some(CommitFault::Policy));
    for mut refused in [waiting, bob.send(log.group, "nor this")] {
        let error = refused.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, Error::GroupNotActive(GroupStatus::Quarantined)));
        assert_eq!(error.what_now(), WhatNow::Denied);
    }
}

#[test]
fn whoever_brought_it_about_can_be_removed_and_the_group_goes_on() {
    let (mut alice, mut bob, eve, mut log) = quarantined();
    // Queued by itself, it waits.
    bob.engine
        .queue(log.group, &Operation::SelfUpdate, false)
        .unwrap();
    let devices = vec![eve.id()];
    let mut outcome = bob.submit(log.group, Operation::Remove { devices });
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
    }
    assert!(matches!(
        outcome.try_recv().unwrap(),
        Ok(Outcome::Committed { removed, .. }) if removed == [eve.peer()]
    ));
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    assert_eq!(bob.events().last(), Some(&EventKind::QuarantineEnded));
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    bob.send(log.group, "again");
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        assert_eq!(messages(person), ["again"]);
    }
}

#[test]
fn another_member_may_end_it_and_a_commit_that_does_not_changes_nothing() {
    let (mut alice, mut bob, eve, mut log) = quarantined();
    alice.done(&mut log, Operation::SelfUpdate);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Quarantined);
    let devices = vec![eve.id()];
    alice.done(&mut log, Operation::Remove { devices });
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    assert_eq!(bob.events().last(), Some(&EventKind::QuarantineEnded));
}

#[test]
fn who_wants_to_leave_a_quarantined_group_may() {
    let (mut alice, mut bob, _eve, mut log) = quarantined();
    drop(alice.submit(log.group, Operation::SelfUpdate));
    drop(bob.submit(log.group, Operation::Leave));
    assert_eq!(bob.peek_kinds(), [UploadKind::Proposal]);
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Leaving);
    // Made before the proposal came; a service would refuse it.
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Quarantined, "as it was");
    assert_eq!(bob.peek_kinds(), [UploadKind::Proposal], "asked again");
}

#[test]
fn a_time_that_cannot_be_true_quarantines_no_group() {
    const YEAR: i64 = 365 * 24 * 3600;
    let now = Options::default().clock.unix_seconds().cast_signed();
    // None at all, before there were certificates, and after all key packages have ended.
    for said in [None, Some(YEAR), Some(now + YEAR)] {
        let world = World::new();
        let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
        let mut carol = world.person("carol");
        let mut log = alice.create_group("");
        alice.add(&mut log, &mut [&mut bob]);
        alice.send(log.group, "now");
        log.accept_all(&mut alice);
        for person in [&mut alice, &mut bob] {
            log.deliver(person);
        }
        let packages = vec![carol.package(false)];
        drop(alice.submit(log.group, Operation::Add { packages }));
        log.accept_all(&mut alice);
        let commit = log.entries.last_mut().unwrap();
        commit.accepted_at = said.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        log.deliver(&mut bob);
        let state = bob.state(log.group);
        assert_eq!(
            (state.status, state.members),
            (GroupStatus::Active, 3),
            "{said:?}"
        );
    }
}

#[test]
fn a_report_is_kept_until_the_service_has_answered() {
    let (world, elsewhere) = (World::new(), World::new());
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person("alice"), world.person_in("bob", &store));
    let mut eve = elsewhere.person("eve");
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.engine.device.bundle = world.bundle_with(&elsewhere);
    let packages = vec![eve.package(false)];
    alice.done(&mut log, Operation::Add { packages });
    log.deliver(&mut bob);

    let reports = |person: &mut Person| -> Vec<_> {
        let reports = person.chores().into_iter().filter_map(|chore| match chore {
            Chore::Report(report) => Some(report),
            _ => None,
        });
        reports.collect()
    };
    let first = reports(&mut bob);
    let [report] = first[..] else {
        panic!("one report: {first:?}");
    };
    assert_eq!(
        (report.group, report.position.0),
        (log.group, log.entries.len() as u64)
    );
    let mut bob = world.reopen(bob.forget(), &store);
    assert_eq!(reports(&mut bob), [report], "the answer has not come");
    bob.engine.reported(&report).unwrap();
    let mut bob = world.reopen(bob.forget(), &store);
    assert_eq!(reports(&mut bob), []);
}
