//! Engines against each other: what one prepares is fed to the others as entries of a log. No service, no network.

mod adds;
mod delivery_chain;
mod device_changes;
mod entries;
mod ephemeral;
mod group_info;
mod history;
mod limits;
mod model;
mod packages;
mod padding;
mod people;
mod proposals;
mod quarantine;
mod regressed;
mod rejoin;
mod removals;
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
fn after_a_crash_the_same_bytes_leave_again_as_a_repeat() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let mut bob = world.person("bob");
    let mut alice = world.person_in("alice", &store);
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "before the crash");
    let first = alice.upload();
    assert!(!first.repeat);
    let alice = alice.forget();

    let mut alice = world.reopen(alice, &store);
    let second = alice.upload();
    assert!(second.repeat);
    assert_eq!(
        (second.prepared.key, &second.prepared.message),
        (first.prepared.key, &first.prepared.message)
    );
    log.accept(&alice, &first);
    log.deliver(&mut alice);
    assert_eq!(messages(&mut alice), ["before the crash"]);

    // The same with a commit: it is pending in the store, and merged when it comes back.
    let devices = vec![bob.id()];
    drop(alice.submit(log.group, Operation::Remove { devices }));
    let commit = alice.upload();
    let mut alice = world.reopen(alice.forget(), &store);
    let again = alice.upload();
    assert_eq!(again.prepared.message, commit.prepared.message);
    log.accept(&alice, &again);
    log.deliver(&mut alice);
    assert_eq!(alice.state(log.group).members, 1);
    assert!(alice.engine.outbox_is_empty().unwrap());
}

#[test]
fn a_losing_commit_is_built_again_on_the_new_epoch() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let (mut carol, mut dave) = (world.person("carol"), world.person("dave"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);

    let mut by_alice = alice.submit(
        log.group,
        Operation::Add {
            packages: vec![carol.package(false)],
        },
    );
    let mut by_bob = bob.submit(
        log.group,
        Operation::Add {
            packages: vec![dave.package(false)],
        },
    );
    let (winner, loser) = (alice.upload(), bob.upload());
    log.accept(&alice, &winner);
    bob.refuse(
        &loser,
        Refusal::new(Reason::EpochConflict).with("current_epoch", 2),
    );
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert!(matches!(by_alice.try_recv().unwrap(), Ok(Outcome::Committed { added, .. }) if added.len() == 1));
    assert!(by_bob.try_recv().is_err(), "the app sees one operation");

    let rebuilt = bob.upload();
    assert_ne!(rebuilt.prepared.key, loser.prepared.key);
    assert!(!rebuilt.repeat);
    log.accept(&bob, &rebuilt);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert!(
        matches!(by_bob.try_recv().unwrap(), Ok(Outcome::Committed { added, .. }) if added == [dave.peer()])
    );
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!((a.members, a.epoch_authenticator), (4, b.epoch_authenticator));
}

#[test]
fn who_was_added_by_another_meanwhile_is_not_added_twice() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);
    drop(alice.submit(
        log.group,
        Operation::Add {
            packages: vec![carol.package(false)],
        },
    ));
    let mut by_bob = bob.submit(
        log.group,
        Operation::Add {
            packages: vec![carol.package(false)],
        },
    );
    let winner = alice.upload();
    log.accept(&alice, &winner);
    log.deliver(&mut bob);
    let outcome = by_bob.try_recv().unwrap().unwrap();
    assert_eq!(
        outcome,
        Outcome::Committed {
            added: Vec::new(),
            removed: Vec::new()
        }
    );
}

#[test]
fn messages_of_an_ended_epoch_are_encrypted_again_in_order() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut outcomes: Vec<_> = (0..100).map(|n| alice.send(log.group, &n.to_string())).collect();
    let first = alice.upload();
    log.accept(&alice, &first);
    alice.accepted(&first, Position(log.entries.len() as u64));
    assert!(matches!(outcomes[0].try_recv().unwrap(), Ok(Outcome::Sent(_))));

    // Bob commits while 99 are on their way.
    drop(bob.submit(log.group, Operation::SelfUpdate));
    log.deliver(&mut bob);
    log.accept_all(&mut bob);
    let refused = alice.upload();
    alice.refuse(&refused, Refusal::new(Reason::EpochConflict));
    log.deliver(&mut alice);
    while !alice.engine.outbox_is_empty().unwrap() {
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
    }
    log.deliver(&mut bob);
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(messages(&mut bob), expected);
    assert_eq!(messages(&mut alice), expected);
    assert!(
        outcomes
            .iter_mut()
            .skip(1)
            .all(|outcome| matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))))
    );
}

#[test]
fn an_answer_to_replaced_bytes_does_not_touch_the_new_ones() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut outcome = alice.send(log.group, "late");
    let old = alice.upload();
    drop(bob.submit(log.group, Operation::SelfUpdate));
    log.accept_all(&mut bob);
    log.deliver(&mut alice);
    alice.refuse(&old, Refusal::new(Reason::PolicyDenied));
    assert!(outcome.try_recv().is_err());
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))));
}

#[test]
fn a_commit_whose_outcome_is_not_known_is_kept_until_it_is() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut outcome = alice.submit(log.group, Operation::SelfUpdate);
    let mut behind = alice.send(log.group, "behind");
    let commit = alice.upload();
    // The answer was lost, and then her user was suspended.
    log.accept(&alice, &commit);
    let refusal = Refusal::new(Reason::UserSuspended);
    let (intent, key) = (commit.intent, commit.prepared.key);
    assert!(
        alice
            .engine
            .outcome_unknown(intent, key, refusal.clone())
            .unwrap()
    );
    for waiting in [&mut outcome, &mut behind] {
        let error = waiting.try_recv().unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::UserSuspended));
    }

    // Resumed, she reads that it is done.
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
    }
    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!((a.status, a.epoch.0), (GroupStatus::Active, 2));
    assert_eq!(a.epoch_authenticator, b.epoch_authenticator);
    assert!(!alice.engine.outcome_unknown(intent, key, refusal).unwrap());
}

#[test]
fn a_refused_message_fails_and_the_next_ones_go_on() {
    let world = World::new();
    let mut alice = world.person("alice");
    let mut log = alice.create_group("");
    let mut first = alice.send(log.group, "too much");
    let mut second = alice.send(log.group, "fine");
    let upload = alice.upload();
    alice.refuse(&upload, Refusal::too_large("mls_message", 1));
    let error = first.try_recv().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::MessageTooLarge));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(second.try_recv().unwrap().is_ok());
    assert_eq!(messages(&mut alice), ["fine"]);
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
fn a_removed_device_forgets_the_group() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut waiting = bob.send(log.group, "never");
    drop(alice.submit(
        log.group,
        Operation::Remove {
            devices: vec![bob.id()],
        },
    ));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert_eq!(
        bob.events().last(),
        Some(&EventKind::Removed { by: alice.peer() })
    );
    assert!(matches!(
        waiting.try_recv().unwrap(),
        Err(Error::GroupNotActive(GroupStatus::Removed))
    ));
    let rows: i64 = bob
        .engine
        .db
        .connection
        .query_row("SELECT count(*) FROM openmls_group_data", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "S4");
    assert!(matches!(
        bob.send(log.group, "x").try_recv().unwrap(),
        Err(Error::GroupNotActive(GroupStatus::Removed))
    ));
}

#[test]
fn a_removed_device_can_be_added_again() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    drop(alice.submit(
        log.group,
        Operation::Remove {
            devices: vec![bob.id()],
        },
    ));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    // The second invitation overtakes the news of the removal: nothing may rely on the order between logs.
    alice.add(&mut log, &mut [&mut bob]);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    alice.send(log.group, "again");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut bob), ["again"]);
}

#[test]
fn leaving_is_proposed_and_committed_by_another_before_it_sends() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut left = bob.submit(log.group, Operation::Leave);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert_eq!(left.try_recv().unwrap().unwrap(), Outcome::Proposed);
    assert_eq!(bob.state(log.group).status, GroupStatus::Leaving);

    // S2: the proposal is committed before anything is sent.
    log.deliver(&mut alice);
    alice.send(log.group, "after");
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut alice), ["after"]);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert_eq!(alice.state(log.group).members, 1);
}

#[test]
fn a_name_that_is_to_be_told_waits_for_what_was_proposed() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob]);
    let packages = vec![carol.package(false)];
    drop(alice.submit(log.group, Operation::Add { packages }));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    // With her own commit, after which she tells the name before anything else, comes the proposal.
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds(), [UploadKind::Message]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert!(alice.engine.outbox_is_empty().unwrap());
}

#[test]
fn a_leave_that_was_not_committed_is_proposed_again() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    drop(alice.submit(log.group, Operation::SelfUpdate));
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    // Made before the proposal came; a service would refuse it.
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.peek_kinds(), [UploadKind::Proposal]);
    for _ in 0..2 {
        log.accept_all(&mut bob);
        log.deliver(&mut alice);
        let epoch = alice.state(log.group).epoch;
        alice.engine.commit_proposals(log.group, epoch).unwrap();
        log.accept_all(&mut alice);
    }
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
}

#[test]
fn the_last_member_leaves_by_itself() {
    let world = World::new();
    let mut alice = world.person("alice");
    let log = alice.create_group("");
    let mut left = alice.submit(log.group, Operation::Leave);
    assert_eq!(left.try_recv().unwrap().unwrap(), Outcome::Proposed);
    assert_eq!(alice.state(log.group).status, GroupStatus::Removed);
    assert_eq!(alice.events(), [EventKind::Removed { by: alice.peer() }]);
    assert!(alice.peek_kinds().is_empty());
}

#[test]
fn a_message_refused_for_a_proposal_waits_for_it() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut sent = alice.send(log.group, "hello");
    let early = alice.upload();
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    let position = log.entries.len();
    alice.refuse(
        &early,
        Refusal::new(Reason::ProposalsMissing).with("position", position),
    );
    assert!(
        alice.peek_kinds().is_empty(),
        "nothing goes out before the proposal has come"
    );
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(sent.try_recv().unwrap().is_ok());
}

#[test]
fn members_commit_a_proposal_after_a_delay_by_rank() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    drop(alice.submit(log.group, Operation::Leave));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    log.deliver(&mut carol);
    // Alice, who leaves, does not count.
    assert_eq!(bob.commit_delay(), Some(std::time::Duration::ZERO));
    assert_eq!(carol.commit_delay(), Some(Options::default().commit_delay));
    assert_eq!(alice.commit_delay(), None);
    let epoch = bob.state(log.group).epoch;
    bob.engine.commit_proposals(log.group, epoch).unwrap();
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
    }
    carol.engine.commit_proposals(log.group, epoch).unwrap();
    assert!(carol.peek_kinds().is_empty(), "somebody else was faster");
    assert_eq!(carol.state(log.group).members, 2);
    assert_eq!(alice.state(log.group).status, GroupStatus::Removed);
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

#[test]
fn ephemeral_messages_do_not_move_the_logs_ratchets() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut heard = bob.ends.ephemeral.subscribe();
    for n in 0..100 {
        alice.send(log.group, &n.to_string());
    }
    let payload = Content::text("typing").to_payload().unwrap();
    for _ in 0..30 {
        let message = alice.engine.encrypt_ephemeral(log.group, &payload).unwrap();
        bob.engine.receive_ephemeral(log.group, &message).unwrap();
        bob.engine.receive_ephemeral(log.group, &message).unwrap();
    }
    let count = std::iter::from_fn(|| heard.try_recv().ok()).count();
    assert_eq!(count, 30, "each is heard once");
    while !alice.engine.outbox_is_empty().unwrap() {
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
    }
    log.deliver(&mut bob);
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(messages(&mut bob), expected);
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

#[test]
fn a_failed_operation_that_nobody_waits_for_any_more_is_an_event() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let mut alice = world.person_in("alice", &store);
    let log = alice.create_group("");
    alice.send(log.group, "x");
    let mut alice = world.reopen(alice.forget(), &store);
    let pending = alice.engine.pending(log.group).unwrap();
    let [waiting] = &pending[..] else {
        panic!("one message waits: {pending:?}");
    };
    assert_eq!((waiting.operation.as_str(), waiting.prepared), ("send", true));
    assert!(waiting.message.is_some());
    let upload = alice.upload();
    alice.refuse(&upload, Refusal::new(Reason::PolicyDenied));
    assert_eq!(alice.engine.pending(log.group).unwrap(), []);
    let expected = EventKind::OperationFailed {
        operation: "send".to_owned(),
        cause: "POLICY_DENIED".to_owned(),
        what_now: crate::WhatNow::Denied,
        message: waiting.message,
        users: Vec::new(),
    };
    assert_eq!(alice.events(), [expected]);
    assert!(alice.engine.outbox_is_empty().unwrap());
}
