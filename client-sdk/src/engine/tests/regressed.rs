//! Logs that went back in time: what a device can give back, and how it goes on.

use valise_proto::delivery::v1 as wire;

use super::people::Log;
use super::*;
use crate::WhatNow;
use crate::engine::copies::MAX_BYTES;

/// Alice and Bob, with something said by both.
fn talk(world: &World) -> (Person, Person, Log) {
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "one");
    log.accept_all(&mut alice);
    bob.send(log.group, "two");
    log.accept_all(&mut bob);
    deliver(&log, [&mut alice, &mut bob]);
    (alice, bob, log)
}

fn deliver(log: &Log, to: [&mut Person; 2]) {
    for person in to {
        log.deliver(person);
    }
}

fn copies(person: &mut Person, log: &Log, after: u64) -> Vec<wire::OfferedEntry> {
    person.engine.offer_after(log.group, Position(after)).unwrap()
}

fn entries(copies: &[wire::OfferedEntry]) -> Vec<wire::Entry> {
    copies.iter().map(|copy| copy.entry.clone().unwrap()).collect()
}

fn regress(person: &mut Person, log: &Log) {
    let reason = Reason::LogRegressed.as_str();
    person.engine.group_ended(log.group, reason, Position(1)).unwrap();
    assert_eq!(person.state(log.group).status, GroupStatus::LogRegressed);
}

#[test]
fn a_device_can_give_back_what_it_has_applied() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = talk(&world);
    drop(bob.submit(log.group, Operation::SelfUpdate));
    let commit = bob.upload();
    log.accept(&bob, &commit);
    deliver(&log, [&mut alice, &mut bob]);

    let (of_alice, of_bob) = (copies(&mut alice, &log, 1), copies(&mut bob, &log, 1));
    assert_eq!(entries(&of_alice), log.entries[1..], "as they came");
    assert_eq!(entries(&of_bob), log.entries[1..], "own ones, too");
    // The committer alone has the GroupInfo.
    let info = |copies: &[wire::OfferedEntry]| copies.last().unwrap().group_info.to_vec();
    assert!(info(&of_alice).is_empty());
    assert_eq!(Some(info(&of_bob)), commit.prepared.group_info);
    assert_eq!(entries(&copies(&mut bob, &log, 3)), log.entries[3..]);
    assert!(copies(&mut bob, &log, 4).is_empty());
}

#[test]
fn copies_are_bounded_by_bytes_and_by_age() {
    let world = World::new();
    let (_alice, mut bob, log) = talk(&world);
    let kept = copies(&mut bob, &log, 0).len();
    assert!(kept > 0);
    let now = bob.engine.options.clock.unix_millis();
    bob.engine.db.trim_copies(now + 10_000, MAX_BYTES).unwrap();
    assert!(copies(&mut bob, &log, 0).is_empty(), "all are older");

    let of = |position| wire::OfferedEntry {
        entry: Some(wire::Entry {
            group_id: log.group.to_vec().into(),
            position,
            mls_message: vec![0; 1000].into(),
            ..wire::Entry::default()
        }),
        ..wire::OfferedEntry::default()
    };
    for position in 1..=10 {
        let copy = of(position);
        bob.engine
            .db
            .put_copy(log.group, Position(position), now, &copy)
            .unwrap();
    }
    bob.engine.db.trim_copies(0, 4 * 1100).unwrap();
    let left: Vec<_> = entries(&copies(&mut bob, &log, 0))
        .iter()
        .map(|entry| entry.position)
        .collect();
    assert_eq!(left, [7, 8, 9, 10], "the newest");
    // A request takes so much at once, and at least one.
    let some = bob.engine.db.copies_after(log.group, Position(0), 2, 1 << 20);
    assert_eq!(some.unwrap().len(), 2);
    let some = bob.engine.db.copies_after(log.group, Position(0), 9, 1);
    assert_eq!(some.unwrap().len(), 1);
}

#[test]
fn where_nothing_can_be_lost_no_copies_are_kept() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = talk(&world);
    bob.engine.device.entry_copies = 0;
    alice.send(log.group, "three");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert!(copies(&mut bob, &log, 3).is_empty());
    assert_eq!(bob.state(log.group).position, Position(4));
}

#[test]
fn a_group_goes_on_where_it_was_when_its_log_is_whole_again() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = talk(&world);
    let before = bob.state(log.group);
    regress(&mut bob, &log);
    bob.events();
    let cursor = bob.engine.regressed_cursor(log.group).unwrap().unwrap();
    assert_eq!(cursor.position, before.position.0);
    let refused = bob.send(log.group, "not now").try_recv().unwrap().unwrap_err();
    assert!(matches!(
        refused,
        Error::GroupNotActive(GroupStatus::LogRegressed)
    ));
    // Who rejoined now would give up what may repair the log.
    assert_eq!(refused.what_now(), WhatNow::Retry);
    let refused = Error::from(Refusal::new(Reason::LogRegressed));
    assert_eq!(refused.what_now(), WhatNow::Retry);
    bob.engine.log_is_open(log.group, true).unwrap();
    assert_eq!(bob.events(), [EventKind::LogRestored]);
    let after = bob.state(log.group);
    assert_eq!(after.status, GroupStatus::Active);
    assert_eq!(
        (after.position, after.epoch_authenticator),
        (before.position, before.epoch_authenticator)
    );
    // It follows again, and talks.
    let mut followed = false;
    while let Ok(follow) = bob.ends.follows.try_recv() {
        followed = matches!(follow, Follow::Add(_));
    }
    assert!(followed);
    alice.send(log.group, "three");
    bob.send(log.group, "four");
    log.accept_all(&mut alice);
    log.accept_all(&mut bob);
    deliver(&log, [&mut alice, &mut bob]);
    assert_eq!(messages(&mut alice), ["one", "two", "three", "four"]);
    // Said again, it changes nothing.
    bob.engine.log_is_open(log.group, true).unwrap();
    assert!(!bob.events().contains(&EventKind::LogRestored));
}

#[test]
fn a_group_whose_place_is_not_in_its_log_stands_still() {
    let world = World::new();
    let (_alice, mut bob, log) = talk(&world);
    regress(&mut bob, &log);
    bob.events();
    assert!(!bob.engine.log_is_open(log.group, false).unwrap());
    assert_eq!(bob.state(log.group).status, GroupStatus::LogRegressed);
    assert_eq!(bob.events(), []);
}

#[test]
fn a_quarantined_group_stays_quarantined() {
    let world = World::new();
    let (_alice, mut bob, log) = talk(&world);
    bob.engine
        .db
        .put_status(log.group, GroupStatus::Quarantined)
        .unwrap();
    regress(&mut bob, &log);
    bob.engine.log_is_open(log.group, true).unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::Quarantined);
}

#[test]
fn what_had_left_is_found_in_the_log_or_sent_once_more() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person("alice"), world.person_in("bob", &store));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut known = bob.send(log.group, "in the log");
    let mut unknown = bob.send(log.group, "or not");
    let (first, second) = (bob.upload(), bob.upload());
    log.accept(&bob, &first);
    log.deliver(&mut alice);

    // The answers were lost, and then the log; the repeat is refused.
    bob.refuse(&first, Refusal::new(Reason::LogRegressed));
    assert_eq!(bob.state(log.group).status, GroupStatus::LogRegressed);
    for outcome in [&mut known, &mut unknown] {
        assert!(matches!(
            outcome.try_recv().unwrap(),
            Err(Error::GroupNotActive(GroupStatus::LogRegressed))
        ));
    }
    assert!(bob.engine.outbox_is_empty().unwrap(), "nothing is under way");
    assert!(bob.peek_kinds().is_empty());

    // A restart changes nothing.
    let mut bob = world.reopen(bob.forget(), &store);
    assert!(bob.peek_kinds().is_empty());

    // Alice gave the first one back.
    bob.engine.log_is_open(log.group, true).unwrap();
    let (first_again, second_again) = (bob.upload(), bob.upload());
    for (again, before) in [(&first_again, &first), (&second_again, &second)] {
        assert!(again.repeat);
        assert_eq!(again.prepared.key, before.prepared.key);
        assert_eq!(again.prepared.message, before.prepared.message);
    }
    log.deliver(&mut bob);
    log.accept(&bob, &second_again);
    deliver(&log, [&mut alice, &mut bob]);
    assert_eq!(messages(&mut bob), ["in the log", "or not"]);
    assert_eq!(messages(&mut alice), ["in the log", "or not"]);
    assert!(bob.engine.outbox_is_empty().unwrap());
}

#[test]
fn an_own_commit_that_came_back_is_merged() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = talk(&world);
    drop(bob.submit(log.group, Operation::SelfUpdate));
    let commit = bob.upload();
    log.accept(&bob, &commit);
    log.deliver(&mut alice);
    regress(&mut bob, &log);
    bob.engine.log_is_open(log.group, true).unwrap();
    log.deliver(&mut bob);
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!(b.status, GroupStatus::Active);
    assert_eq!((a.epoch.0, a.epoch_authenticator), (2, b.epoch_authenticator));
}

#[test]
fn who_leaves_the_log_keeps_nothing_of_it() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = talk(&world);
    assert!(!copies(&mut bob, &log, 0).is_empty());
    let devices = vec![bob.id()];
    alice.done(&mut log, Operation::Remove { devices });
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert!(copies(&mut bob, &log, 0).is_empty());
}
