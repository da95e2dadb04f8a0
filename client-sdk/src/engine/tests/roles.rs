//! Roles: what is refused before it leaves, and what is done where a service lets a breach through.

mod breaches;

use prost::Message as _;
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, IdempotencyKey, Position, Reason, Refusal, UserId};

use super::super::live;
use super::people::{Log, Person, World};
use super::*;
use crate::mls::Provider;
use crate::store::{IntentId, Prepared};
use crate::{Act, Content, EventKind, GroupStatus, Policy, Role};

fn user(person: &Person) -> UserId {
    person.peer().user
}

fn sent_by(kind: UploadKind, group: GroupId, epoch: Epoch, message: Vec<u8>) -> Upload {
    Upload {
        intent: IntentId(0),
        group,
        operation: "add",
        kind,
        prepared: Prepared {
            key: IdempotencyKey::random(&mut rand::rng()),
            epoch,
            message,
            group_info: Some(Vec::new()),
            welcome: None,
        },
        repeat: false,
        span: tracing::Span::none(),
    }
}

fn force_message(person: &mut Person, log: &mut Log, payload: &[u8]) -> wire::Entry {
    let engine = &mut person.engine;
    let live = live::get(&mut engine.live, &engine.db, log.group).unwrap();
    let provider = Provider::new(&engine.crypto, &engine.db.connection);
    let message = live
        .mls
        .create_message(&provider, &engine.device.signer, payload)
        .unwrap();
    let upload = sent_by(
        UploadKind::Message,
        log.group,
        log.epoch,
        message.to_bytes().unwrap(),
    );
    log.accept(person, &upload);
    log.entries.last().unwrap().clone()
}

fn breaches(kinds: &[EventKind]) -> Vec<(Option<crate::Peer>, &str, wire::Entry)> {
    kinds
        .iter()
        .filter_map(|kind| match kind {
            EventKind::RuleBreach { by, rule, evidence } => Some((
                by.clone(),
                rule.as_str(),
                wire::Entry::decode(&**evidence).unwrap(),
            )),
            _ => None,
        })
        .collect()
}

/// Alice, the owner, with Bob and Carol, who are members.
fn three() -> (World, Person, Person, Person, Log) {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    log.deliver(&mut bob);
    log.deliver(&mut carol);
    for person in [&mut alice, &mut bob, &mut carol] {
        person.events();
    }
    (world, alice, bob, carol, log)
}

fn denied(person: &mut Person, group: GroupId, operation: Operation) -> &'static str {
    let mut outcome = person.submit(group, operation);
    let Err(error) = outcome.try_recv().unwrap() else {
        panic!("allowed")
    };
    assert_eq!(error.what_now(), crate::WhatNow::Denied);
    assert!(person.peek_kinds().is_empty(), "nothing leaves");
    assert!(person.engine.outbox_is_empty().unwrap());
    match error {
        Error::Rule(rule) => rule,
        other => panic!("{other}"),
    }
}

#[test]
fn a_reader_still_leaves_and_changes_its_keys() {
    let (_world, mut alice, mut bob, _carol, mut log) = three();
    alice.set_role(&mut log, &bob, Role::Reader);
    log.deliver(&mut bob);
    bob.done(&mut log, Operation::SelfUpdate);
    log.deliver(&mut alice);
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    log.deliver(&mut alice);
    let epoch = alice.state(log.group).epoch;
    alice.engine.commit_proposals(log.group, epoch).unwrap();
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
}

#[test]
fn what_ones_role_does_not_allow_is_denied_before_anything_leaves() {
    let (world, alice, mut bob, carol, log) = three();
    let mut dave = world.person("dave");
    let packages = vec![dave.package(false)];
    assert_eq!(
        denied(&mut bob, log.group, Operation::Add { packages }),
        "role_add"
    );
    let devices = vec![carol.id()];
    assert_eq!(
        denied(&mut bob, log.group, Operation::Remove { devices }),
        "role_remove"
    );
    let payload = Content::group_rename("Mine").unwrap();
    assert_eq!(
        denied(&mut bob, log.group, Operation::Rename { payload }),
        "role_rename"
    );
    let role = Operation::SetRole {
        user: user(&bob),
        role: Role::Owner,
    };
    assert_eq!(denied(&mut bob, log.group, role), "role_change");
    let policy = Policy::default().with(Act::Add, Role::Member);
    assert_eq!(
        denied(&mut bob, log.group, Operation::SetPolicy { policy }),
        "role_change"
    );
    // Key packages of others are not even claimed.
    assert!(matches!(
        bob.engine.check_add(log.group, &[user(&dave)]),
        Err(Error::Rule("role_add"))
    ));
    assert!(
        bob.engine.check_add(log.group, &[user(&bob)]).is_ok(),
        "one's own devices"
    );

    let (mut alice, log) = (alice, log);
    let down = Operation::SetRole {
        user: user(&alice),
        role: Role::Member,
    };
    assert_eq!(denied(&mut alice, log.group, down), "last_owner");
    let stranger = Operation::SetRole {
        user: user(&dave),
        role: Role::Moderator,
    };
    assert_eq!(denied(&mut alice, log.group, stranger), "unknown_member");
}

#[test]
fn a_change_of_roles_that_lost_is_built_again() {
    let (_world, mut alice, mut bob, mut carol, mut log) = three();
    let mut role = alice.submit(
        log.group,
        Operation::SetRole {
            user: user(&bob),
            role: Role::Moderator,
        },
    );
    let lost = alice.upload();
    carol.done(&mut log, Operation::SelfUpdate);
    alice.refuse(&lost, Refusal::new(Reason::EpochConflict));
    log.deliver(&mut alice);
    assert!(role.try_recv().is_err());
    log.accept_all(&mut alice);
    let policy = Policy::default().with(Act::Send, Role::Moderator);
    log.deliver(&mut alice);
    assert!(role.try_recv().unwrap().is_ok());
    alice.done(&mut log, Operation::SetPolicy { policy });
    for person in [&mut bob, &mut carol] {
        log.deliver(person);
        assert_eq!(person.engine.policy(log.group).unwrap(), policy);
        let roles: Vec<_> = person
            .engine
            .members(log.group)
            .unwrap()
            .into_iter()
            .map(|member| member.role)
            .collect();
        assert_eq!(roles, [Role::Owner, Role::Moderator, Role::Member]);
    }
    let payload = Content::text("…").to_payload().unwrap();
    assert_eq!(
        denied(&mut carol, log.group, Operation::Send { payload }),
        "role_send"
    );
    assert!(matches!(
        bob.events().last(),
        Some(EventKind::RolesChanged { users, policy: Some(new), .. }) if users.is_empty() && *new == policy
    ));
}

#[test]
fn a_change_of_roles_survives_a_crash() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = crate::Store::file(directory.path().join("alice.valise"), crate::StoreKey::random());
    let (mut alice, mut bob) = (world.person_in("alice", &store), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let role = Operation::SetRole {
        user: user(&bob),
        role: Role::Moderator,
    };
    drop(alice.submit(log.group, role));
    let policy = Policy::default().with(Act::Rename, Role::Owner);
    drop(alice.submit(log.group, Operation::SetPolicy { policy }));
    let payload = Content::group_rename("After").unwrap();
    drop(alice.submit(log.group, Operation::Rename { payload }));
    let first = alice.upload();
    let mut alice = world.reopen(alice.forget(), &store);
    let again = alice.upload();
    assert!(again.repeat);
    assert_eq!(again.prepared.message, first.prepared.message);
    log.accept(&alice, &again);
    for _ in 0..3 {
        log.deliver(&mut alice);
        log.accept_all(&mut alice);
    }
    assert!(alice.engine.outbox_is_empty().unwrap());
    log.deliver(&mut bob);
    assert_eq!(bob.engine.policy(log.group).unwrap(), policy);
    assert_eq!(bob.state(log.group).name, "After");
    assert_eq!(bob.engine.members(log.group).unwrap()[1].role, Role::Moderator);
}

#[test]
fn messages_of_one_who_became_a_reader_fail_and_hold_nothing_up() {
    let (_world, mut alice, mut bob, _carol, mut log) = three();
    let mut outcomes: Vec<_> = (0..150).map(|n| bob.send(log.group, &n.to_string())).collect();
    let mut update = bob.submit(log.group, Operation::SelfUpdate);
    alice.set_role(&mut log, &bob, Role::Reader);
    log.deliver(&mut bob);
    for outcome in &mut outcomes {
        assert!(matches!(
            outcome.try_recv().unwrap(),
            Err(Error::Rule("role_send"))
        ));
    }
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert!(update.try_recv().unwrap().is_ok());
    assert!(bob.engine.outbox_is_empty().unwrap());
}

#[test]
fn a_name_is_changed_by_those_who_may() {
    let (_world, mut alice, mut bob, mut carol, mut log) = three();
    alice.set_role(&mut log, &bob, Role::Moderator);
    log.deliver(&mut bob);
    let payload = Content::group_rename("Budget 2028").unwrap();
    let mut renamed = bob.submit(log.group, Operation::Rename { payload });
    log.accept_all(&mut bob);
    let by = bob.peer();
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
        assert_eq!(person.state(log.group).name, "Budget 2028");
        let expected = EventKind::GroupNamed {
            name: "Budget 2028".to_owned(),
            by: by.clone(),
        };
        assert_eq!(person.events().last(), Some(&expected));
    }
    assert!(matches!(renamed.try_recv().unwrap(), Ok(Outcome::Sent(_))));

    let payload = Content::group_rename("Carol's").unwrap();
    let entry = force_message(&mut carol, &mut log, &payload);
    log.deliver(&mut alice);
    assert_eq!(alice.state(log.group).name, "Budget 2028");
    assert_eq!(
        breaches(&alice.events()),
        [(Some(carol.peer()), "role_rename", entry)]
    );
}

#[test]
fn whoever_adds_tells_the_name_and_changes_nothing_by_that() {
    let (world, mut alice, mut bob, mut carol, mut log) = three();
    let policy = Policy::default().with(Act::Add, Role::Member);
    alice.done(&mut log, Operation::SetPolicy { policy });
    log.deliver(&mut bob);
    log.deliver(&mut carol);
    let mut dave = world.person("dave");
    // Bob, a mere member, adds. What a liar among the members tells first is not heard.
    let packages = vec![dave.package(false)];
    drop(bob.submit(log.group, Operation::Add { packages }));
    let commit = bob.upload();
    log.accept(&bob, &commit);
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
        person.events();
    }
    let tree = bob.tree(log.group);
    dave.join(&log, &commit, tree);
    let lie = Content::group_profile("Casino").unwrap();
    force_message(&mut carol, &mut log, &lie);
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob, &mut dave] {
        log.deliver(person);
        assert_eq!(person.state(log.group).name, "Budget");
    }
    assert!(alice.events().is_empty(), "no change, no alarm");
    let named = EventKind::GroupNamed {
        name: "Budget".to_owned(),
        by: bob.peer(),
    };
    assert_eq!(dave.events().last(), Some(&named));
    // From now on its adder is one among others.
    let again = Content::group_profile("Casino").unwrap();
    force_message(&mut bob, &mut log, &again);
    log.deliver(&mut dave);
    assert_eq!(dave.state(log.group).name, "Budget");
}

#[test]
fn a_name_that_was_overtaken_does_not_come_back() {
    let (world, mut alice, mut bob, _carol, mut log) = three();
    alice.set_role(&mut log, &bob, Role::Moderator);
    log.deliver(&mut bob);
    let mut dave = world.person("dave");
    let packages = vec![dave.package(false)];
    drop(bob.submit(log.group, Operation::Add { packages }));
    let commit = bob.upload();
    log.accept(&bob, &commit);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    let tree = bob.tree(log.group);
    dave.join(&log, &commit, tree);
    // Bob has told the old name when Alice's new one is accepted first.
    let telling = bob.upload();
    let payload = Content::group_rename("New").unwrap();
    drop(alice.submit(log.group, Operation::Rename { payload }));
    log.accept_all(&mut alice);
    log.accept(&bob, &telling);
    for person in [&mut alice, &mut bob, &mut dave] {
        log.deliver(person);
        assert_eq!(person.state(log.group).name, "New");
    }
}

#[test]
fn where_the_last_owner_left_moderators_count_as_owners() {
    let (_world, mut alice, mut bob, mut carol, mut log) = three();
    alice.set_role(&mut log, &bob, Role::Moderator);
    log.deliver(&mut bob);
    log.deliver(&mut carol);
    drop(alice.submit(log.group, Operation::Leave));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    let epoch = bob.state(log.group).epoch;
    bob.engine.commit_proposals(log.group, epoch).unwrap();
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    log.deliver(&mut carol);
    assert_eq!(bob.engine.members(log.group).unwrap()[0].role, Role::Owner);
    bob.set_role(&mut log, &carol, Role::Owner);
    log.deliver(&mut carol);
    let roles = |person: &mut Person| -> Vec<Role> {
        let members = person.engine.members(log.group).unwrap();
        members.into_iter().map(|member| member.role).collect()
    };
    assert_eq!(roles(&mut bob), [Role::Moderator, Role::Owner]);
    assert_eq!(roles(&mut carol), roles(&mut bob));
}

#[test]
fn a_removed_users_role_ends() {
    let (_world, mut alice, mut bob, _carol, mut log) = three();
    alice.set_role(&mut log, &bob, Role::Moderator);
    let devices = vec![bob.id()];
    alice.done(&mut log, Operation::Remove { devices });
    assert!(matches!(
        alice.events().last(),
        Some(EventKind::RolesChanged { users, .. }) if users == &[(user(&bob), Role::Member)]
    ));
    log.deliver(&mut bob);
    alice.add(&mut log, &mut [&mut bob]);
    let members = bob.engine.members(log.group).unwrap();
    let bobs = members.iter().find(|member| member.device == bob.id()).unwrap();
    assert_eq!(bobs.role, Role::Member);
}

#[test]
fn a_proposal_to_remove_another_is_not_taken() {
    let (_world, mut alice, mut bob, mut carol, mut log) = three();
    let engine = &mut bob.engine;
    let live = live::get(&mut engine.live, &engine.db, log.group).unwrap();
    let victim = live.roster.device(carol.id()).unwrap().leaf;
    let provider = Provider::new(&engine.crypto, &engine.db.connection);
    let (message, _) = live
        .mls
        .propose_remove_member(&provider, &engine.device.signer, victim)
        .unwrap();
    let upload = sent_by(
        UploadKind::Proposal,
        log.group,
        log.epoch,
        message.to_bytes().unwrap(),
    );
    log.accept(&bob, &upload);
    let evidence = log.entries.last().unwrap().encode_to_vec();
    alice.send(log.group, "go on");
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.deliver(&mut carol);
    let kinds = carol.events();
    assert!(kinds.contains(&EventKind::Unreadable {
        sender: Some(bob.peer()),
        evidence,
    }));
    assert!(
        matches!(kinds.last(), Some(EventKind::Message { .. })),
        "it stalls nobody"
    );
    assert_eq!(carol.state(log.group).status, GroupStatus::Active);
    assert_eq!(
        carol.state(log.group).position,
        Position(log.entries.len() as u64)
    );
}
