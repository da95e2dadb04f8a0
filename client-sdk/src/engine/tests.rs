//! Engines against each other: what one prepares is fed to the others as entries of a log. No service, no network.

mod adds;
mod delivery_chain;
mod device_changes;
mod entries;
mod ephemeral;
mod group_info;
mod history;
mod leaving;
mod limits;
mod model;
mod outbox;
mod packages;
mod padding;
mod people;
mod proposals;
mod quarantine;
mod regressed;
mod rejoin;
mod removals;
mod repeats;
mod reset;
mod roles;
mod secrets;
mod store_faults;
mod trust;
mod upkeep;
mod welcomes;

use valise_proto::{Position, Reason, Refusal};

use super::*;
use crate::engine::inbox::Arrival;
use crate::{Content, EventKind, GroupStatus, Store, StoreKey};
use people::{Person, World};

fn messages(person: &mut Person) -> Vec<String> {
    let kinds = person.events();
    kinds
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::Message { content, .. } => content.as_text().map(str::to_owned),
            _ => None,
        })
        .collect()
}

#[test]
fn a_group_is_made_joined_and_talked_in_in_one_order() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob]);

    alice.send(log.group, "one");
    bob.send(log.group, "two");
    log.accept_all(&mut alice);
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        assert_eq!(messages(person), ["one", "two"]);
    }
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!((a.name.as_str(), b.name.as_str()), ("Budget", "Budget"));
    assert_eq!(a.epoch_authenticator, b.epoch_authenticator);
    assert_eq!((a.members, a.epoch.0, a.position), (2, 1, Position(4)));
}

#[test]
fn a_commit_changes_nothing_before_it_is_in_the_log() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let log = alice.create_group("");
    let packages = vec![bob.package(false)];
    let mut outcome = alice.submit(log.group, Operation::Add { packages });
    let state = alice.state(log.group);
    assert_eq!((state.members, state.epoch.0), (1, 0), "S1");
    assert!(outcome.try_recv().is_err());
}

#[test]
fn events_stay_until_they_are_confirmed() {
    let world = World::new();
    let mut alice = world.person("alice");
    let mut log = alice.create_group("");
    for n in 0..3 {
        alice.send(log.group, &n.to_string());
    }
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    let events = alice.engine.events_after(crate::EventId::NONE, 10).unwrap();
    assert_eq!(events.len(), 3);
    alice.engine.confirm(events[1].id).unwrap();
    let left = alice.engine.events_after(crate::EventId::NONE, 10).unwrap();
    assert_eq!(
        left.iter().map(|event| event.id).collect::<Vec<_>>(),
        [events[2].id]
    );
}
