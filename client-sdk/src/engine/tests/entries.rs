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
