//! Keys are kept fresh: on schedule, with a renewed certificate, and without members that let theirs go stale.

use std::time::Duration;

use valise_clock::{Clock, ManualClock};

use super::people::{Log, Person, World};
use super::*;

const DAY: Duration = Duration::from_hours(24);

fn movable(person: &mut Person) -> ManualClock {
    let (clock, hand) = Clock::movable();
    person.engine.options.clock = clock;
    hand
}

fn commits(person: &mut Person, log: &mut Log, others: &mut [&mut Person]) -> usize {
    person.engine.upkeep().unwrap();
    let commits = person.peek_kinds().len();
    log.accept_all(person);
    log.deliver(person);
    for other in others {
        log.deliver(other);
    }
    commits
}

/// A message that the service says it accepted so many days from now.
fn says(person: &mut Person, log: &mut Log, days: u64) {
    person.send(log.group, "what day is it?");
    log.accept_all(person);
    let entry = log.entries.last_mut().unwrap();
    let at = entry.accepted_at.as_mut().unwrap();
    at.seconds += (DAY.as_secs() * days).cast_signed();
    log.deliver(person);
}

/// When the certificate in a device's leaf ends, as another device sees it.
fn certificate_end(watcher: &mut Person, log: &Log, of: DeviceId) -> u64 {
    let live = live::get(&mut watcher.engine.live, &watcher.engine.db, log.group).unwrap();
    live.roster.device(of).unwrap().identity.certificate_not_after
}

#[test]
fn new_keys_come_soon_after_joining_and_then_on_schedule() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let hand = movable(&mut bob);
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 0, "not at once");
    hand.advance(DAY);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 1);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 0, "once");
    hand.advance(DAY * 22);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 0);
    hand.advance(DAY * 8);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 1);
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!(a.epoch.0, 3);
    assert_eq!(a.epoch_authenticator, b.epoch_authenticator);
}

/// With twenty others, Bob comes into a group of Alice's by a last-resort package, and has no schedule. How long he waits then.
fn joined_with_many(world: &World, alice: &mut Person, bob: &mut Person) -> (Log, Duration) {
    bob.engine.options.key_upkeep.self_update = Duration::ZERO;
    let mut others: Vec<Person> = (0..20)
        .map(|number| world.person(&format!("member{number}")))
        .collect();
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut others.iter_mut().collect::<Vec<_>>());
    let packages = vec![bob.package(true)];
    drop(alice.submit(log.group, Operation::Add { packages }));
    let commit = alice.upload();
    log.accept(alice, &commit);
    log.deliver(alice);
    bob.join(&log, &commit, alice.tree(log.group));
    let waits = bob.chores().into_iter().find_map(|chore| match chore {
        Chore::UpdateKeys { after, .. } => Some(after),
        _ => None,
    });
    (log, waits.expect("he waits"))
}

#[test]
fn many_who_join_by_last_resort_packages_do_not_all_change_their_keys_at_once() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let hand = movable(&mut bob);
    let (mut log, after) = joined_with_many(&world, &mut alice, &mut bob);
    assert_eq!(bob.peek_kinds(), [], "not at once");
    // Of 22 members, eight are few.
    assert!(after <= Duration::from_millis(300) * 14, "{after:?}");
    hand.advance(after);
    bob.engine.update_keys(log.group).unwrap();
    assert_eq!(bob.peek_kinds(), [UploadKind::Commit], "K2");
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    log.deliver(&mut alice);
    assert_eq!(alice.state(log.group).epoch.0, 3);
    bob.engine.update_keys(log.group).unwrap();
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 0, "once");
}

#[test]
fn who_ends_before_its_keys_are_changed_changes_them_later() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let hand = movable(&mut bob);
    let (mut log, after) = joined_with_many(&world, &mut alice, &mut bob);
    // Of what it was to do, only the store is left.
    hand.advance(after);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 1);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 0, "once");
}

#[test]
fn without_a_schedule_a_renewed_certificate_is_one_commit() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let hand = movable(&mut bob);
    bob.engine.options.key_upkeep.self_update = Duration::ZERO;
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let first = world.certify(&mut bob, 200);
    bob.engine.adopt_certificate(first).unwrap();
    bob.done(&mut log, Operation::SelfUpdate);
    log.deliver(&mut alice);
    let second = world.certify(&mut bob, 201);
    bob.engine.adopt_certificate(second).unwrap();
    // A quarter of what remained of the first.
    hand.advance(DAY * 51);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 1);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 0, "once");
}

#[test]
fn a_renewed_certificate_is_in_the_leaf_soon() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let hand = movable(&mut bob);
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    hand.advance(DAY);
    commits(&mut bob, &mut log, &mut [&mut alice]);

    // The certificate is replaced by one of 90 days: whatever is committed next takes it along.
    let first = world.certify(&mut bob, 90);
    bob.engine.adopt_certificate(first).unwrap();
    let due = bob.engine.upkeep().unwrap();
    assert!(!due.renewal && due.key_packages);
    bob.engine.key_packages_replaced().unwrap();
    assert!(!bob.engine.upkeep().unwrap().key_packages);
    let before = certificate_end(&mut alice, &log, bob.id());
    let mut outcome = bob.submit(log.group, Operation::SelfUpdate);
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    log.deliver(&mut alice);
    outcome.try_recv().unwrap().unwrap();
    let first = certificate_end(&mut alice, &log, bob.id());
    assert!(first < before);

    // At two thirds of its life it is to be renewed; then the leaf follows by itself.
    hand.advance(DAY * 58);
    assert!(!bob.engine.upkeep().unwrap().renewal);
    hand.advance(DAY * 2);
    assert!(bob.engine.upkeep().unwrap().renewal);
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    log.deliver(&mut alice);
    let second = world.certify(&mut bob, 151);
    bob.engine.adopt_certificate(second).unwrap();
    assert!(!bob.engine.upkeep().unwrap().renewal);
    hand.advance(DAY * 8);
    assert_eq!(commits(&mut bob, &mut log, &mut [&mut alice]), 1);
    assert!(certificate_end(&mut alice, &log, bob.id()) > first);
    assert_eq!(alice.state(log.group).status, GroupStatus::Active);
    assert_eq!(bob.state(log.group).members, 2);
}

#[test]
fn every_commit_takes_a_renewed_certificate_along() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let before = certificate_end(&mut bob, &log, alice.id());
    let renewed = world.certify(&mut alice, 90);
    alice.engine.adopt_certificate(renewed).unwrap();
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);
    assert!(certificate_end(&mut bob, &log, alice.id()) < before);
}

#[test]
fn a_certificate_of_somebody_else_is_not_taken() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let chain = bob.engine.device.chain.clone();
    let others = world.certify(&mut alice, 90);
    assert!(bob.engine.adopt_certificate(others).is_err());
    let stranger = World::new().certify(&mut bob, 90);
    assert!(bob.engine.adopt_certificate(stranger).is_err());
    assert_eq!(bob.engine.device.chain, chain);
    assert!(!bob.engine.upkeep().unwrap().key_packages);
}

#[test]
fn a_renewed_certificate_survives_a_restart() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let mut alice = world.person_in("alice", &store);
    let chain = world.certify(&mut alice, 90);
    alice.engine.adopt_certificate(chain.clone()).unwrap();
    let mut alice = world.reopen(alice.forget(), &store);
    assert_eq!(alice.engine.device.chain, chain);
    assert!(alice.engine.upkeep().unwrap().key_packages);
}

#[test]
fn stale_members_are_removed_by_those_who_may() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut carol = world.person("carol");
    let hands = [movable(&mut alice), movable(&mut carol)];
    for person in [&mut alice, &mut carol] {
        person.engine.options.key_upkeep.self_update = Duration::ZERO;
        person.engine.options.key_upkeep.evict_stale = Some(DAY * 30);
    }
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    let short = world.certify(&mut bob, 10);
    bob.engine.adopt_certificate(short).unwrap();
    drop(bob.submit(log.group, Operation::SelfUpdate));
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
    }
    for hand in &hands {
        hand.advance(DAY * 39);
    }
    says(&mut alice, &mut log, 39);
    assert_eq!(commits(&mut alice, &mut log, &mut [&mut bob, &mut carol]), 0);
    says(&mut alice, &mut log, 41);
    assert_eq!(
        commits(&mut alice, &mut log, &mut [&mut bob, &mut carol]),
        0,
        "the service's word alone"
    );
    for hand in &hands {
        hand.advance(DAY * 2);
    }
    says(&mut alice, &mut log, 39);
    assert_eq!(
        commits(&mut alice, &mut log, &mut [&mut bob, &mut carol]),
        0,
        "this device's clock alone"
    );
    says(&mut alice, &mut log, 41);
    for person in [&mut bob, &mut carol] {
        log.deliver(person);
    }
    assert_eq!(
        commits(&mut carol, &mut log, &mut []),
        0,
        "a member may not remove"
    );
    assert_eq!(commits(&mut alice, &mut log, &mut [&mut bob, &mut carol]), 1);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert_eq!(carol.state(log.group).members, 2);
}

#[test]
fn the_write_ahead_log_is_emptied() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let mut alice = world.person_in("alice", &store);
    alice.create_group("");
    let ahead = directory.path().join("alice.valise-wal");
    let length = || std::fs::metadata(&ahead).unwrap().len();
    assert!(length() > 0);
    alice.engine.upkeep().unwrap();
    assert_eq!(length(), 0);
}
