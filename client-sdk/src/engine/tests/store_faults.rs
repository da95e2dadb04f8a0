//! Writing to the store fails: then nothing has happened, and what came can come again.

use super::people::Log;
use super::*;
use crate::WhatNow;

/// Alice and Bob in a group, and a message of hers that he has not read.
fn scene(world: &World) -> (Person, Person, Log) {
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "once");
    log.accept_all(&mut alice);
    bob.events();
    (alice, bob, log)
}

fn execute(person: &Person, sql: &str) {
    person.engine.db.connection.execute_batch(sql).unwrap();
}

/// Nothing can be inserted into that table.
fn break_inserts(person: &Person, table: &str) {
    let trigger = format!(
        "CREATE TEMP TRIGGER fault BEFORE INSERT ON main.{table} BEGIN SELECT RAISE(ABORT, 'broken'); END"
    );
    execute(person, &trigger);
}

/// What inserts into that table cannot be committed: it leaves a reference to a row that is not there.
fn break_commits(person: &Person, table: &str) {
    let trigger = format!(
        "CREATE TABLE there (id INTEGER PRIMARY KEY);
         CREATE TABLE missing (id INTEGER REFERENCES there (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TEMP TRIGGER fault AFTER INSERT ON main.{table} BEGIN INSERT INTO missing VALUES (1); END"
    );
    execute(person, &trigger);
}

fn mend(person: &Person) {
    execute(person, "DROP TRIGGER fault");
}

/// The last entry of the log comes, and cannot be applied now.
fn fails_at(person: &mut Person, log: &Log) {
    let last = log.entries.last().unwrap().clone();
    let applied = person.engine.apply(vec![Arrival::Entry(last)]);
    assert!(matches!(applied, Err(Error::Store(_))));
}

#[test]
fn a_message_that_could_not_be_stored_is_read_when_it_comes_again() {
    let world = World::new();
    let (_alice, mut bob, log) = scene(&world);
    break_inserts(&bob, "events");
    fails_at(&mut bob, &log);
    mend(&bob);
    log.deliver(&mut bob);
    let events = bob.events();
    assert!(
        matches!(&events[..], [EventKind::Message { content, .. }] if content.as_text() == Some("once")),
        "{events:?}"
    );
}

#[test]
fn a_message_is_not_passed_over_when_its_ratchet_cannot_be_stored() {
    let world = World::new();
    let (_alice, mut bob, log) = scene(&world);
    let before = bob.state(log.group).position;
    break_inserts(&bob, "openmls_group_data");
    fails_at(&mut bob, &log);
    assert_eq!(bob.state(log.group).position, before);
    mend(&bob);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut bob), ["once"]);
}

#[test]
fn a_message_whose_ratchet_cannot_be_stored_may_be_sent_again() {
    let world = World::new();
    let (mut alice, _bob, mut log) = scene(&world);
    log.deliver(&mut alice);
    break_inserts(&alice, "openmls_group_data");
    let error = alice.send(log.group, "later").try_recv().unwrap().unwrap_err();
    assert!(error.is_of_store(), "{error}");
    assert_eq!(error.what_now(), WhatNow::Retry);
    assert!(alice.peek_kinds().is_empty());
    assert!(alice.engine.outbox_is_empty().unwrap());
    let error = alice.engine.encrypt_ephemeral(log.group, b"now").unwrap_err();
    assert!(error.is_of_store(), "{error}");
    mend(&alice);
    let mut outcome = alice.send(log.group, "later");
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))));
}

#[test]
fn a_queued_message_whose_ratchet_cannot_be_stored_stays_queued() {
    let world = World::new();
    let (mut alice, _bob, mut log) = scene(&world);
    log.deliver(&mut alice);
    // One more than are encrypted at once: its turn comes when the first is in the log.
    let mut outcomes: Vec<_> = (0..=64)
        .map(|number| alice.send(log.group, &number.to_string()))
        .collect();
    let first = alice.upload();
    log.accept(&alice, &first);
    break_inserts(&alice, "openmls_group_data");
    fails_at(&mut alice, &log);
    assert_eq!(alice.peek_kinds().len(), 63);
    mend(&alice);
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds().len(), 64);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    for outcome in &mut outcomes {
        assert!(matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))));
    }
}

#[test]
fn a_full_disk_is_no_fault_of_the_software() {
    let world = World::new();
    let (mut alice, _bob, mut log) = scene(&world);
    log.deliver(&mut alice);
    // As large as it is now.
    execute(&alice, "PRAGMA max_page_count = 1");
    let long = "x".repeat(500_000);
    let error = alice.send(log.group, &long).try_recv().unwrap().unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error}");
    assert_eq!(error.what_now(), WhatNow::Retry);
    execute(&alice, "PRAGMA max_page_count = 1000000");
    let mut outcome = alice.send(log.group, &long);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))));
}

#[test]
fn what_was_asked_for_does_not_leave_before_it_is_committed() {
    let world = World::new();
    let (mut alice, _bob, log) = scene(&world);
    break_commits(&alice, "intents");
    let mut outcome = alice.send(log.group, "never stored");
    assert!(alice.peek_kinds().is_empty());
    assert!(matches!(outcome.try_recv().unwrap(), Err(Error::Store(_))));
}

#[test]
fn everybody_whose_operation_could_not_be_stored_hears_why() {
    let world = World::new();
    let (mut alice, _bob, log) = scene(&world);
    break_inserts(&alice, "intents");
    let (submissions, outcomes): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (answer, outcome) = oneshot::channel();
            let submission = Submission {
                group: log.group,
                operation: Operation::SelfUpdate,
                span: Span::none(),
                answer,
            };
            (submission, outcome)
        })
        .unzip();
    alice.engine.submit_all(submissions);
    for mut outcome in outcomes {
        assert!(matches!(outcome.try_recv().unwrap(), Err(Error::Store(_))));
    }
}

#[test]
fn nobody_hears_of_an_outcome_before_it_is_committed() {
    let world = World::new();
    let (mut alice, _bob, mut log) = scene(&world);
    log.deliver(&mut alice);
    let mut outcome = alice.send(log.group, "twice");
    log.accept_all(&mut alice);
    break_commits(&alice, "events");
    fails_at(&mut alice, &log);
    assert!(outcome.try_recv().is_err());
    mend(&alice);
    log.deliver(&mut alice);
    assert!(matches!(outcome.try_recv().unwrap(), Ok(Outcome::Sent(_))));
}
