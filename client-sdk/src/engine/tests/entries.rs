//! Entries that are not what they should be, or no longer.

use prost::Message as _;
use valise_proto::delivery::v1::{self as wire, EntryKind};

use super::*;

#[test]
fn a_commit_that_comes_as_a_message_is_not_applied() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    drop(alice.submit(log.group, Operation::SelfUpdate));
    let commit = alice.upload();
    let mut entry = log.entry(&alice, &commit);
    entry.kind = EntryKind::Application.into();
    let evidence = entry.encode_to_vec();
    let before = bob.state(log.group);
    bob.events();
    bob.engine.apply(vec![Arrival::Entry(entry)]).unwrap();
    let sender = Some(alice.peer());
    assert_eq!(bob.events(), [EventKind::Unreadable { sender, evidence }]);
    assert_eq!(bob.state(log.group).epoch, before.epoch);
}

#[test]
fn a_message_of_the_epoch_before_cannot_be_read_any_more() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    alice.send(log.group, "late");
    bob.send(log.group, "late");
    let (of_alice, of_bob) = (alice.upload(), bob.upload());
    carol.done(&mut log, Operation::SelfUpdate);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        person.events();
    }
    // How long secrets are kept is settled where a group is made and where it is joined.
    let (to_maker, to_joiner) = (log.entry(&bob, &of_bob), log.entry(&alice, &of_alice));
    let unreadable = |of: &Person, entry: &wire::Entry| EventKind::Unreadable {
        sender: Some(of.peer()),
        evidence: entry.encode_to_vec(),
    };
    let (by_bob, by_alice) = (unreadable(&bob, &to_maker), unreadable(&alice, &to_joiner));
    alice.engine.apply(vec![Arrival::Entry(to_maker)]).unwrap();
    bob.engine.apply(vec![Arrival::Entry(to_joiner)]).unwrap();
    assert_eq!(alice.events(), [by_bob]);
    assert_eq!(bob.events(), [by_alice]);
}

#[test]
fn entries_are_applied_once_and_gaps_are_not_skipped() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    for n in 0..3 {
        alice.send(log.group, &n.to_string());
    }
    log.accept_all(&mut alice);
    let arrival = |position: usize| Arrival::Entry(log.entries[position - 1].clone());
    // The commit that added bob is entry 1; messages are 2, 3, 4.
    let applied = bob.engine.apply(vec![arrival(2), arrival(4)]).unwrap();
    assert_eq!(applied.gaps, [log.group]);
    assert_eq!(applied.cursors[0].cursor.as_ref().unwrap().position, 2);
    let applied = bob
        .engine
        .apply(vec![arrival(2), arrival(3), arrival(3), arrival(4), arrival(2)])
        .unwrap();
    assert!(applied.gaps.is_empty());
    assert_eq!(applied.cursors[0].cursor.as_ref().unwrap().position, 4);
    assert_eq!(messages(&mut bob), ["0", "1", "2"]);
}

#[test]
fn another_entry_in_an_applied_place_is_noticed() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "x");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    let mut forged = log.entries.last().unwrap().clone();
    let entry_id = forged.entry_id.to_vec();
    forged.entry_id = vec![0; 8].into();
    let evidence = prost::Message::encode_to_vec(&forged);
    bob.engine.apply(vec![Arrival::Entry(forged)]).unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::LogRegressed);
    let told = EventKind::LogRegressed { entry_id, evidence };
    assert_eq!(bob.events().last(), Some(&told));
}

#[test]
fn a_bad_commit_holds_the_group_and_is_reported() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    drop(alice.submit(log.group, Operation::SelfUpdate));
    let commit = alice.upload();
    let mut entry = log.entry(&alice, &commit);
    let mut bytes = entry.mls_message.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    entry.mls_message = bytes.into();
    let before = bob.state(log.group);
    let waiting = bob.send(log.group, "x");
    bob.engine.apply(vec![Arrival::Entry(entry)]).unwrap();
    let after = bob.state(log.group);
    assert_eq!(after.status, GroupStatus::HeldByBadCommit);
    assert_eq!((after.epoch, after.position), (before.epoch, before.position));
    assert_eq!(after.epoch_authenticator, before.epoch_authenticator);
    assert!(matches!(
        bob.events().last(),
        Some(EventKind::HeldByBadCommit { .. })
    ));
    assert!(bob.reported());
    drop(waiting);
}

#[test]
fn an_unreadable_message_is_passed_over() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "broken");
    alice.send(log.group, "whole");
    log.accept_all(&mut alice);
    let broken = log.entries.len() - 2;
    let mut bytes = log.entries[broken].mls_message.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    log.entries[broken].mls_message = bytes.into();
    log.deliver(&mut bob);
    let kinds = bob.events();
    assert!(kinds.contains(&EventKind::Unreadable {
        sender: Some(alice.peer()),
        evidence: prost::Message::encode_to_vec(&log.entries[broken]),
    }));
    assert!(
        matches!(kinds.last(), Some(EventKind::Message { content, .. }) if content.as_text() == Some("whole"))
    );
}
