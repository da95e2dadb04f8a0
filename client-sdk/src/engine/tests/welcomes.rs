//! Invitations that are taken, and those that are not.

use openmls::prelude::SignaturePublicKey;
use valise_proto::Epoch;
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

/// Bob has joined by a last-resort package, whose key he keeps: the group, his Welcome, and its tree.
fn joined_by_last_resort(alice: &mut Person, bob: &mut Person) -> (Log, wire::InboxItem, bytes::Bytes) {
    let mut log = alice.create_group("");
    let packages = vec![bob.package(true)];
    drop(alice.submit(log.group, Operation::Add { packages }));
    let commit = alice.upload();
    log.accept(alice, &commit);
    log.deliver(alice);
    let tree = alice.tree(log.group);
    let item = bob.welcome(&log, &commit);
    bob.engine
        .apply(vec![Arrival::Inbox(item.clone(), Some(Ok(tree.clone())))])
        .unwrap();
    bob.events();
    (log, item, tree)
}

/// The service shows a Welcome once more, as if it were of a commit far down the log.
fn shown_again(whom: &mut Person, mut item: wire::InboxItem, tree: bytes::Bytes) {
    item.number += 100;
    let commit = welcome_in(&mut item).commit.as_mut().unwrap();
    commit.position += 100;
    whom.engine
        .apply(vec![Arrival::Inbox(item, Some(Ok(tree)))])
        .unwrap();
}

#[test]
fn a_welcome_that_is_shown_again_takes_nobody_back() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let (mut log, item, tree) = joined_by_last_resort(&mut alice, &mut bob);
    // In the very epoch that it leads into it is not taken, either.
    shown_again(&mut bob, item.clone(), tree.clone());
    assert_eq!(bob.events(), [unusable("welcome_epoch")]);

    // New keys at once, after a last-resort package.
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
    }
    bob.events();
    let before = bob.state(log.group);
    assert_eq!(before.epoch, Epoch(2));
    let mut again = item.clone();
    again.number += 1;
    shown_again(&mut bob, again, tree.clone());
    assert_eq!(bob.events(), [unusable("welcome_epoch")]);
    let after = bob.state(log.group);
    assert_eq!(
        (
            after.status,
            after.epoch,
            after.epoch_authenticator,
            after.position
        ),
        (
            GroupStatus::Active,
            before.epoch,
            before.epoch_authenticator,
            before.position
        )
    );
    alice.send(log.group, "still here?");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut bob), ["still here?"]);

    // Nor on the way back.
    lose(&mut bob, &log);
    bob.events();
    let mut again = item;
    again.number += 2;
    shown_again(&mut bob, again, tree);
    assert_eq!(bob.events(), [unusable("welcome_epoch")]);
    assert_eq!(bob.state(log.group).status, GroupStatus::Rejoining);
}

#[test]
fn who_was_removed_is_not_taken_back_by_an_old_welcome_but_by_a_new_one() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let (mut log, item, tree) = joined_by_last_resort(&mut alice, &mut bob);
    let devices = vec![bob.id()];
    alice.done(&mut log, Operation::Remove { devices });
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    bob.events();
    for later in [1, 2] {
        let mut again = item.clone();
        again.number += later;
        shown_again(&mut bob, again, tree.clone());
        assert_eq!(bob.events(), [unusable("welcome_epoch")]);
    }
    let commit = invite(&mut alice, &mut bob, &mut log);
    let mut item = bob.welcome(&log, &commit);
    item.number += 300;
    let tree = alice.tree(log.group);
    bob.engine
        .apply(vec![Arrival::Inbox(item, Some(Ok(tree)))])
        .unwrap();
    assert_eq!(bob.events(), [EventKind::Joined { by: alice.peer() }]);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
}

#[test]
fn an_unusable_welcome_does_not_stop_the_inbox() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    drop(alice.submit(
        log.group,
        Operation::Add {
            packages: vec![bob.package(false)],
        },
    ));
    let commit = alice.upload();
    log.accept(&alice, &commit);
    log.deliver(&mut alice);
    let mut item = bob.welcome(&log, &commit);
    let whole = item.clone();
    let Some(valise_proto::delivery::v1::inbox_item::Item::Welcome(welcome)) = &mut item.item else {
        panic!()
    };
    let mut bytes = welcome.welcome.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    welcome.welcome = bytes.into();
    bob.engine
        .apply(vec![Arrival::Inbox(item, Some(Ok(alice.tree(log.group))))])
        .unwrap();
    assert!(matches!(
        bob.events().as_slice(),
        [EventKind::WelcomeUnusable { .. }]
    ));
    assert_eq!(bob.engine.cursors().unwrap().inbox, 1);
    assert_eq!(bob.state(log.group).status, GroupStatus::WelcomeUnusable);
    // Its key package was not eaten.
    let again = valise_proto::delivery::v1::InboxItem { number: 2, ..whole };
    bob.engine
        .apply(vec![Arrival::Inbox(again, Some(Ok(alice.tree(log.group))))])
        .unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
}

#[test]
fn who_joins_by_a_last_resort_package_changes_its_keys_at_once() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    drop(alice.submit(
        log.group,
        Operation::Add {
            packages: vec![bob.package(true)],
        },
    ));
    let commit = alice.upload();
    log.accept(&alice, &commit);
    log.deliver(&mut alice);
    bob.join(&log, &commit, alice.tree(log.group));
    assert_eq!(bob.peek_kinds(), [UploadKind::Commit], "K2");
    assert!(
        bob.engine
            .unpublished(Options::default().cipher_suite.mls())
            .unwrap()
            .1
    );
    log.accept_all(&mut bob);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(alice.state(log.group).epoch.0, 2);
}

#[test]
fn a_member_of_another_authority_is_not_joined() {
    let (world, elsewhere) = (World::new(), World::new());
    let (mut alice, mut bob) = (elsewhere.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    // The service would have to be in it: bob's package is believed by alice only if she trusts both.
    alice.engine.device.bundle = elsewhere.bundle_with(&world);
    drop(alice.submit(
        log.group,
        Operation::Add {
            packages: vec![bob.package(false)],
        },
    ));
    let commit = alice.upload();
    log.accept(&alice, &commit);
    log.deliver(&mut alice);
    bob.join(&log, &commit, alice.tree(log.group));
    assert_eq!(
        bob.events(),
        [EventKind::WelcomeUnusable {
            cause: "rule broken: certificate_untrusted".to_owned()
        }],
        "C1"
    );
}
