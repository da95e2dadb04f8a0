//! Going on in the successor of a group that was reset.

mod held;

use valise_group_rules::Roles;
use valise_proto::GroupId;

use super::people::{Log, Person, World};
use super::*;
use crate::Role;
use crate::engine::intents::Outcome;
use crate::engine::{UploadKind, live};
use crate::store::{OldGroup, ResetStep};

fn new_id() -> GroupId {
    GroupId::random(&mut rand::rng())
}

/// Alice owns the group, Carol moderates, Bob is a member; all have read all of it.
fn scene(world: &World) -> (Person, Person, Person, Log) {
    with(world.person("alice"), world.person("bob"), world.person("carol"))
}

fn with(mut alice: Person, mut bob: Person, mut carol: Person) -> (Person, Person, Person, Log) {
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    alice.set_role(&mut log, &carol, Role::Moderator);
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
        person.events();
    }
    (alice, bob, carol, log)
}

fn reset(log: &Log, people: &mut [&mut Person]) -> GroupId {
    let successor = new_id();
    for person in people {
        person.hear_of_reset(log, successor);
        assert_eq!(person.events(), [EventKind::GroupReset { successor }]);
    }
    successor
}

fn step(person: &Person, old: &Log) -> ResetStep {
    person.engine.db.reset(old.group).unwrap().unwrap().step
}

fn old_of(person: &Person, old: &Log) -> OldGroup {
    person.engine.db.reset(old.group).unwrap().unwrap().old.unwrap()
}

/// The person makes the successor, which the service registers.
fn makes(person: &mut Person, old: &Log, successor: GroupId) -> Log {
    person.engine.make_successor(old.group, None).unwrap();
    let upload = person.upload();
    assert_eq!((upload.kind, upload.group), (UploadKind::Create, successor));
    person.accepted(&upload, Position::NONE);
    Log {
        group: successor,
        entries: Vec::new(),
        epoch: valise_proto::Epoch(0),
    }
}

/// Are there still keys of that group?
fn has_keys(person: &Person, group: GroupId) -> bool {
    live::load(&person.engine.db, group).unwrap().is_some()
}

#[test]
fn a_group_is_read_to_its_end_before_it_is_over() {
    let world = World::new();
    let (mut alice, mut bob, _carol, mut log) = scene(&world);
    alice.send(log.group, "the last word");
    log.accept_all(&mut alice);
    let mut queued = bob.send(log.group, "too late");
    let successor = new_id();
    bob.hear_of_reset(&log, successor);
    assert_eq!(bob.events(), []);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);

    log.deliver(&mut bob);
    let events = bob.events();
    assert!(matches!(events[0], EventKind::Message { .. }), "{events:?}");
    assert!(
        events.contains(&EventKind::GroupReset { successor }),
        "{events:?}"
    );
    let state = bob.state(log.group);
    assert_eq!(
        (state.status, state.successor),
        (GroupStatus::Reset, Some(successor))
    );
    assert_eq!((state.members, state.name.as_str()), (0, "Budget"));
    assert!(!has_keys(&bob, log.group), "S4");
    assert!(
        bob.engine
            .offer_after(log.group, Position::NONE)
            .unwrap()
            .is_empty()
    );
    assert_eq!(bob.engine.db.chain_start(log.group).unwrap(), None);
    assert!(bob.engine.cursors().unwrap().groups.is_empty());
    let failed = queued.try_recv().unwrap().unwrap_err();
    assert!(
        matches!(failed, Error::GroupNotActive(GroupStatus::Reset)),
        "{failed}"
    );
    assert!(old_of(&bob, &log).complete);
    // The first word counts, and it is heard once.
    bob.hear_of_reset(&log, new_id());
    assert_eq!(bob.events(), []);
    assert_eq!(bob.state(log.group).successor, Some(successor));
}

#[test]
fn a_group_whose_end_cannot_be_read_any_more_is_over() {
    // The device is shown that the log went back in time, or told; or told that the log is trimmed.
    let (regressed, trimmed) = (Reason::LogRegressed, Reason::PositionTrimmed);
    for (shown, reason) in [(true, regressed), (false, regressed), (false, trimmed)] {
        let world = World::new();
        let (mut alice, mut bob, _carol, mut log) = scene(&world);
        let mut forged = log.entries.last().unwrap().clone();
        forged.entry_id = vec![0; 8].into();
        alice.send(log.group, "never read");
        log.accept_all(&mut alice);
        let successor = new_id();
        bob.hear_of_reset(&log, successor);
        assert_eq!(bob.events(), []);
        if shown {
            bob.engine.apply(vec![Arrival::Entry(forged)]).unwrap();
        } else {
            let first = Position(log.entries.len() as u64 + 1);
            bob.engine.group_ended(log.group, reason.as_str(), first).unwrap();
        }
        let events = bob.events();
        let began = match events.first() {
            Some(EventKind::Lost) => reason == trimmed,
            Some(EventKind::LogRegressed { evidence, .. }) => {
                reason != trimmed && shown != evidence.is_empty()
            }
            _ => false,
        };
        assert!(began, "shown: {shown}: {events:?}");
        assert_eq!(
            events.last(),
            Some(&EventKind::GroupReset { successor }),
            "{reason}"
        );
        assert_eq!(bob.state(log.group).status, GroupStatus::Reset);
        assert!(bob.engine.outbox_is_empty().unwrap());
    }
}

#[test]
fn the_highest_role_goes_first_and_all_stay_what_they_were() {
    let world = World::new();
    let (mut alice, mut bob, mut carol, log) = scene(&world);
    let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
    let ranks = [&alice, &carol, &bob].map(|person| old_of(person, &log).rank);
    assert_eq!(ranks, [Some(0), Some(1), Some(2)]);

    // The owner is away, so the moderator makes it. It becomes nothing by that.
    let mut new = makes(&mut carol, &log, successor);
    assert_eq!(carol.events(), [EventKind::Joined { by: carol.peer() }]);
    let behind = carol.engine.left_behind(log.group).unwrap().unwrap();
    // Those of lower roles first: with the owner in it, Carol may not add any more whom she likes.
    assert_eq!(behind.devices, [bob.id(), alice.id()]);
    carol.add(&mut new, &mut [&mut bob, &mut alice]);
    for person in [&mut alice, &mut bob, &mut carol] {
        new.deliver(person);
        let state = person.state(successor);
        assert_eq!((state.members, state.name.as_str()), (3, "Budget"));
        let members = person.engine.members(successor).unwrap();
        let role = |of: &UserId| members.iter().find(|member| member.user == *of).unwrap().role;
        let user = |name: &str| format!("{name}@a.example").parse().unwrap();
        let roles = ["alice", "bob", "carol"].map(|name| role(&user(name)));
        assert_eq!(roles, [Role::Owner, Role::Member, Role::Moderator]);
    }
    for person in [&mut alice, &mut bob] {
        assert_eq!(person.events(), [EventKind::Joined { by: carol.peer() }]);
        assert_eq!(step(person, &log), ResetStep::Done);
    }
    let behind = carol.engine.left_behind(log.group).unwrap().unwrap();
    assert!(behind.devices.is_empty());
    carol.engine.end_succession(log.group, None).unwrap();
    assert!(carol.engine.open_resets().unwrap().is_empty());
}

#[test]
fn a_successor_that_its_maker_has_changed_is_not_entered() {
    for (change, rule) in [(true, "successor_roles"), (false, "successor_members")] {
        let world = World::new();
        let (mut alice, mut bob, mut carol, log) = scene(&world);
        let mut dave = world.person("dave");
        let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
        let mut old = old_of(&bob, &log);
        if change {
            old.roles = Roles::owned_by(bob.peer().user).to_bytes();
        }
        bob.engine
            .db
            .put_reset_step(log.group, ResetStep::Waiting, Some(&old))
            .unwrap();
        let mut new = makes(&mut bob, &log, successor);
        if change {
            bob.add(&mut new, &mut [&mut alice]);
        } else {
            bob.add(&mut new, &mut [&mut dave, &mut alice]);
        }
        let cause = format!("rule broken: {rule}");
        assert_eq!(alice.events(), [EventKind::WelcomeUnusable { cause }]);
        assert_eq!(alice.state(successor).status, GroupStatus::WelcomeUnusable);
        // Whom nothing ties to the old group, nothing tells that this is wrong.
        if !change {
            assert_eq!(dave.state(successor).status, GroupStatus::Active);
        }
    }
}

#[test]
fn what_was_changed_later_is_shown() {
    let world = World::new();
    let (mut alice, mut bob, mut carol, log) = scene(&world);
    let mut dave = world.person("dave");
    let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
    let mut new = makes(&mut alice, &log, successor);
    alice.add(&mut new, &mut [&mut carol]);
    alice.set_role(&mut new, &carol, Role::Reader);
    alice.add(&mut new, &mut [&mut dave]);
    alice.add(&mut new, &mut [&mut bob]);
    let (by, epoch) = (alice.peer(), bob.state(successor).epoch);
    assert_eq!(
        bob.events(),
        [
            EventKind::Joined { by: by.clone() },
            EventKind::RolesChanged {
                users: vec![(carol.peer().user, Role::Reader)],
                policy: None,
                by: by.clone(),
                epoch,
            },
            EventKind::MembersChanged {
                added: vec![dave.peer()],
                removed: Vec::new(),
                by,
                epoch,
            },
        ]
    );
}

#[test]
fn who_enters_by_an_external_commit_is_shown_it_too() {
    let world = World::new();
    let (mut alice, mut bob, mut carol, log) = scene(&world);
    let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
    let mut new = makes(&mut alice, &log, successor);
    alice.add(&mut new, &mut [&mut carol]);
    alice.set_role(&mut new, &carol, Role::Reader);
    // Bob is added, and his invitation is lost.
    let packages = vec![bob.package(false)];
    drop(alice.submit(successor, Operation::Add { packages }));
    for _ in 0..2 {
        new.accept_all(&mut alice);
        new.deliver(&mut alice);
    }
    bob.engine.come_in(&[successor]).unwrap();
    let current = alice.current(&new);
    bob.engine.rejoin_with(successor, &current).unwrap();
    let upload = bob.upload();
    new.accept(&bob, &upload);
    bob.events();
    bob.rejoined(&new, &upload);
    let state = bob.state(successor);
    assert_eq!(
        (state.status, state.name.as_str()),
        (GroupStatus::Active, "Budget")
    );
    let shown = bob.events();
    let changed = EventKind::RolesChanged {
        users: vec![(carol.peer().user, Role::Reader)],
        policy: None,
        by: bob.peer(),
        epoch: state.epoch,
    };
    assert!(matches!(shown[0], EventKind::Rejoined { .. }), "{shown:?}");
    assert_eq!(shown[1..], [changed]);
    assert_eq!(step(&bob, &log), ResetStep::Done);

    // Once: what changes later is shown as it happens.
    new.deliver(&mut alice);
    new.accept_all(&mut alice);
    new.deliver(&mut alice);
    alice.set_role(&mut new, &carol, Role::Moderator);
    new.deliver(&mut bob);
    bob.events();
    bob.engine
        .group_ended(successor, Reason::PositionTrimmed.as_str(), Position(99))
        .unwrap();
    let current = alice.current(&new);
    bob.engine.rejoin_with(successor, &current).unwrap();
    let upload = bob.upload();
    new.accept(&bob, &upload);
    bob.events();
    bob.rejoined(&new, &upload);
    assert!(matches!(bob.events()[..], [EventKind::Rejoined { .. }]));
}

#[test]
fn who_comes_second_waits_for_its_invitation() {
    // The refusal is heard of before the invitation, or after it.
    for refused_first in [true, false] {
        let world = World::new();
        let (mut alice, mut bob, mut carol, log) = scene(&world);
        let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
        bob.engine.make_successor(log.group, None).unwrap();
        let late = bob.upload();
        let mut new = makes(&mut alice, &log, successor);
        if refused_first {
            bob.refuse(&late, Refusal::new(Reason::GroupExists));
            assert_eq!(step(&bob, &log), ResetStep::Invited);
            assert!(!bob.engine.knows_group(successor).unwrap());
            assert!(!has_keys(&bob, successor));
        }
        alice.add(&mut new, &mut [&mut bob, &mut carol]);
        if !refused_first {
            bob.refuse(&late, Refusal::new(Reason::GroupExists));
        }
        new.deliver(&mut bob);
        assert_eq!(bob.events(), [EventKind::Joined { by: alice.peer() }]);
        assert_eq!(bob.state(successor).status, GroupStatus::Active);
        assert_eq!(step(&bob, &log), ResetStep::Done);
        assert!(bob.engine.outbox_is_empty().unwrap());
        let mut sent = bob.send(successor, "here");
        new.accept_all(&mut bob);
        new.deliver(&mut bob);
        assert!(matches!(sent.try_recv().unwrap(), Ok(Outcome::Sent(_))));
    }
}

#[test]
fn a_crash_at_any_step_goes_on_there() {
    for crash in 0..5 {
        let world = World::new();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
        let alice = world.person_in("alice", &store);
        let (mut alice, mut bob, mut carol, mut log) =
            with(alice, world.person("bob"), world.person("carol"));
        carol.send(log.group, "unread");
        log.accept_all(&mut carol);
        let at = |alice: Person, now: i32| {
            if now == crash {
                world.reopen(alice.forget(), &store)
            } else {
                alice
            }
        };
        let successor = new_id();
        alice.hear_of_reset(&log, successor);
        alice = at(alice, 0);
        log.deliver(&mut alice);
        for person in [&mut bob, &mut carol] {
            log.deliver(person);
            person.hear_of_reset(&log, successor);
        }
        alice = at(alice, 1);
        assert_eq!(alice.engine.open_resets().unwrap().len(), 1);
        alice.engine.make_successor(log.group, None).unwrap();
        alice = at(alice, 2);
        // Once, however often it is asked.
        alice.engine.make_successor(log.group, None).unwrap();
        let create = alice.upload();
        assert_eq!((create.kind, create.repeat), (UploadKind::Create, crash == 2));
        assert!(alice.peek_kinds().is_empty());
        alice.accepted(&create, Position::NONE);
        let mut new = Log {
            group: successor,
            entries: Vec::new(),
            epoch: valise_proto::Epoch(0),
        };
        alice = at(alice, 3);
        let behind = alice.engine.left_behind(log.group).unwrap().unwrap();
        assert_eq!(behind.devices, [bob.id(), carol.id()]);
        alice.add(&mut new, &mut [&mut bob]);
        alice = at(alice, 4);
        let behind = alice.engine.left_behind(log.group).unwrap().unwrap();
        assert_eq!(behind.devices, [carol.id()]);
        alice.add(&mut new, &mut [&mut carol]);
        new.deliver(&mut bob);
        let (a, b, c) = (
            alice.state(successor),
            bob.state(successor),
            carol.state(successor),
        );
        assert_eq!((a.members, &a.epoch_authenticator), (3, &b.epoch_authenticator));
        assert_eq!(a.epoch_authenticator, c.epoch_authenticator);
    }
}

#[test]
fn adding_to_a_successor_waits_where_it_can_go_on_and_is_told_where_it_cannot() {
    let world = World::new();
    let (mut alice, mut bob, mut carol, log) = scene(&world);
    let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
    makes(&mut alice, &log, successor);
    alice.events();
    for waits in [GroupStatus::LogRegressed, GroupStatus::Rejoining] {
        alice.engine.db.put_status(successor, waits).unwrap();
        assert!(alice.engine.left_behind(log.group).unwrap().is_none());
        assert_eq!((step(&alice, &log), alice.events()), (ResetStep::Adding, vec![]));
    }
    let held = GroupStatus::HeldByBadCommit;
    alice.engine.db.put_status(successor, held).unwrap();
    assert!(alice.engine.left_behind(log.group).unwrap().is_none());
    assert_eq!(step(&alice, &log), ResetStep::Done);
    let failed = EventKind::OperationFailed {
        operation: "add".to_owned(),
        cause: Error::GroupNotActive(held).to_string(),
        what_now: crate::WhatNow::Retry,
        message: None,
        users: vec![bob.peer().user, carol.peer().user],
    };
    assert_eq!(alice.events(), [failed]);
}

#[test]
fn what_was_queued_in_a_successor_that_another_has_made_fails() {
    let world = World::new();
    let (mut alice, mut bob, mut carol, log) = scene(&world);
    let successor = reset(&log, &mut [&mut alice, &mut bob, &mut carol]);
    bob.engine.make_successor(log.group, None).unwrap();
    let create = bob.upload();
    let mut queued = bob.send(successor, "too early");
    bob.refuse(&create, Refusal::new(Reason::GroupExists));
    let failed = queued.try_recv().unwrap().unwrap_err();
    assert!(
        matches!(failed, Error::UnknownGroup(group) if group == successor),
        "{failed}"
    );
    assert!(bob.engine.outbox_is_empty().unwrap());
}

/// A commit of Alice's that the others cannot process, accepted by the service.
fn bad_commit(alice: &mut Person, log: &mut Log) {
    drop(alice.submit(log.group, Operation::SelfUpdate));
    let commit = alice.upload();
    log.accept(alice, &commit);
    log.deliver(alice);
    let entry = log.entries.last_mut().unwrap();
    let mut bytes = entry.mls_message.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    entry.mls_message = bytes.into();
}

#[test]
fn who_makes_a_successor_of_what_it_has_not_read_is_shown_what_is_new() {
    // Bob is first, or Alice is and invites him.
    for first in [true, false] {
        let world = World::new();
        let (mut alice, mut bob, carol, mut log) = scene(&world);
        bad_commit(&mut alice, &mut log);
        log.deliver(&mut bob);
        alice.set_role(&mut log, &carol, Role::Reader);
        log.deliver(&mut alice);
        bob.events();
        let current = alice.current(&log);
        let successor = reset(&log, &mut [&mut bob]);
        bob.engine.make_successor(log.group, Some(&current)).unwrap();
        let create = bob.upload();
        let by = if first {
            bob.accepted(&create, Position::NONE);
            bob.peer()
        } else {
            alice.hear_of_reset(&log, successor);
            let mut new = makes(&mut alice, &log, successor);
            bob.refuse(&create, Refusal::new(Reason::GroupExists));
            alice.add(&mut new, &mut [&mut bob]);
            alice.peer()
        };
        let shown = [
            EventKind::Joined { by: by.clone() },
            EventKind::RolesChanged {
                users: vec![(carol.peer().user, Role::Reader)],
                policy: None,
                by,
                epoch: bob.state(successor).epoch,
            },
        ];
        assert_eq!(bob.events(), shown, "first: {first}");
    }
}
