//! Deleted secrets are gone from the disk (RFC 9420 §9.2). Bob's store is not encrypted here, so that one can look into its files.

use tempfile::TempDir;

use super::people::{Log, Person, World};
use super::*;
use crate::store::remains::Secrets;

/// Alice's group with Bob in it, whose secrets are all in his store's file.
fn scene(world: &World) -> (TempDir, Person, Person, Log) {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open_in_clear(&folder.path().join("bob.valise")).unwrap();
    let (mut alice, mut bob) = (world.person("alice"), world.person_with("bob", db));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    bob.engine.scrub().unwrap();
    bob.chores();
    (folder, alice, bob, log)
}

fn is_to_be_scrubbed(person: &mut Person) -> bool {
    person.chores().iter().any(|chore| matches!(chore, Chore::Scrub))
}

#[test]
fn after_a_commit_nothing_of_the_epoch_before_is_left() {
    let world = World::new();
    let (folder, mut alice, mut bob, mut log) = scene(&world);
    for by_alice in [true, false] {
        let before = Secrets::of(&bob.engine.db);
        assert!(before.are_in(folder.path()));
        let committer = if by_alice { &mut alice } else { &mut bob };
        drop(committer.submit(log.group, Operation::SelfUpdate));
        log.accept_all(committer);
        for person in [&mut alice, &mut bob] {
            log.deliver(person);
        }
        assert_eq!(alice.state(log.group).epoch, bob.state(log.group).epoch);
        let deleted = before.deleted(&bob.engine.db);
        assert!(deleted.count_in(folder.path()) > 0, "so far they are there");
        assert!(is_to_be_scrubbed(&mut bob), "by Alice: {by_alice}");
        bob.engine.scrub().unwrap();
        assert_eq!(deleted.count_in(folder.path()), 0, "by Alice: {by_alice}");
    }
}

#[test]
fn the_private_keys_of_a_key_package_that_was_used_are_to_be_scrubbed() {
    let world = World::new();
    let (_folder, mut alice, mut bob, _) = scene(&world);
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    assert!(is_to_be_scrubbed(&mut bob));
}

#[test]
fn of_a_group_that_this_device_was_removed_from_nothing_is_left() {
    let world = World::new();
    let (folder, mut alice, mut bob, mut log) = scene(&world);
    let before = Secrets::of(&bob.engine.db);
    let devices = vec![bob.id()];
    alice.done(&mut log, Operation::Remove { devices });
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    let deleted = before.deleted(&bob.engine.db);
    assert!(!deleted.is_empty());
    assert_eq!(deleted.count_in(folder.path()), 0);
}

#[test]
fn of_a_group_that_was_ended_nothing_is_left() {
    let world = World::new();
    let (folder, _alice, mut bob, log) = scene(&world);
    let before = Secrets::of(&bob.engine.db);
    bob.hear_of_reset(&log, GroupId::random(&mut rand::rng()));
    assert_eq!(bob.state(log.group).status, GroupStatus::Reset);
    let deleted = before.deleted(&bob.engine.db);
    assert!(!deleted.is_empty());
    assert_eq!(deleted.count_in(folder.path()), 0);
}

#[test]
fn a_closed_store_has_no_write_ahead_log() {
    let world = World::new();
    let (folder, mut alice, mut bob, mut log) = scene(&world);
    let before = Secrets::of(&bob.engine.db);
    alice.done(&mut log, Operation::SelfUpdate);
    log.deliver(&mut bob);
    let deleted = before.deleted(&bob.engine.db);
    assert!(deleted.count_in(folder.path()) > 0);
    drop(bob);
    assert_eq!(deleted.count_in(folder.path()), 0);
}
