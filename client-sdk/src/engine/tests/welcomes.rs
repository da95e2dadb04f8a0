//! Invitations that are not taken.

use openmls::prelude::SignaturePublicKey;
use valise_proto::delivery::v1 as wire;

use super::people::Log;
use super::rejoin::lose;
use super::*;

/// Invites somebody who has not heard of it yet.
fn invite(by: &mut Person, whom: &mut Person, log: &mut Log) -> Upload {
    let packages = vec![whom.package(false)];
    drop(by.submit(log.group, Operation::Add { packages }));
    let commit = by.upload();
    log.accept(by, &commit);
    log.deliver(by);
    commit
}

fn welcome_in(item: &mut wire::InboxItem) -> &mut wire::WelcomeItem {
    let Some(wire::inbox_item::Item::Welcome(welcome)) = &mut item.item else {
        panic!("not a Welcome")
    };
    welcome
}

fn unusable(rule: &str) -> EventKind {
    EventKind::WelcomeUnusable {
        cause: format!("rule broken: {rule}"),
    }
}

#[test]
fn a_group_of_another_service_is_not_joined() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    let commit = invite(&mut alice, &mut bob, &mut log);
    bob.engine.device.external_sender = ExternalSender::new(
        SignaturePublicKey::from([8; 32].as_slice()),
        valise_group_rules::credential(&[vec![1, 2, 3]]),
    );
    bob.join(&log, &commit, alice.tree(log.group));
    assert_eq!(bob.events(), [unusable("external_senders")]);
}

#[test]
fn a_welcome_into_another_group_or_epoch_than_announced_is_not_used() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    let commit = invite(&mut alice, &mut bob, &mut log);
    let mut of_another_epoch = bob.welcome(&log, &commit);
    welcome_in(&mut of_another_epoch).epoch += 1;
    let mut of_another_group = bob.welcome(&log, &commit);
    let other = GroupId::random(&mut rand::rng());
    welcome_in(&mut of_another_group).group_id = other.to_vec().into();
    for item in [of_another_epoch, of_another_group] {
        let tree = alice.tree(log.group);
        bob.engine
            .apply(vec![Arrival::Inbox(item, Some(Ok(tree)))])
            .unwrap();
        assert_eq!(bob.events(), [unusable("welcome_group")]);
    }
}

#[test]
fn an_invitation_is_passed_over_while_an_external_commit_is_on_its_way() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    lose(&mut bob, &log);
    let current = alice.current(&log);
    bob.engine.rejoin_with(log.group, &current).unwrap();
    bob.events();
    // Whether the service has accepted it before these two, nobody here knows.
    let devices = vec![bob.id()];
    alice.done(&mut log, Operation::Remove { devices });
    let commit = invite(&mut alice, &mut bob, &mut log);
    bob.join(&log, &commit, alice.tree(log.group));
    assert_eq!(bob.events(), []);
    assert_eq!(bob.state(log.group).status, GroupStatus::Rejoining);
}

#[test]
fn a_welcome_without_a_time_is_used_now() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    let commit = invite(&mut alice, &mut bob, &mut log);
    let mut item = bob.welcome(&log, &commit);
    item.accepted_at = None;
    let tree = alice.tree(log.group);
    bob.engine
        .apply(vec![Arrival::Inbox(item, Some(Ok(tree)))])
        .unwrap();
    assert_eq!(bob.events(), [EventKind::Joined { by: alice.peer() }]);
}
