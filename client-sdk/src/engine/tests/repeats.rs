//! Messages that are in the log twice: their sender could not learn whether they had been accepted, and sent them once more.

use std::time::Duration;

use super::history::{page, pair, say, texts};
use super::people::{Log, Person, World};
use super::*;
use crate::{Clock, Expiry, MessageId, ReceiptStatus};

/// The same message once more, with its id, after all that was said meanwhile.
fn again(log: &mut Log, people: &mut [&mut Person], payload: &[u8]) {
    let payload = payload.to_vec();
    drop(people[0].submit(log.group, Operation::Send { payload }));
    log.accept_all(people[0]);
    for person in people {
        log.deliver(person);
    }
}

/// Says it; what can be said again.
fn say_first(log: &mut Log, people: &mut [&mut Person], content: &Content) -> Vec<u8> {
    let payload = content.to_payload().unwrap();
    again(log, people, &payload);
    payload
}

fn emojis(person: &mut Person, log: &Log) -> Vec<String> {
    let page = page(person, log);
    let reactions = page[0].reactions.iter();
    reactions.map(|reaction| reaction.emoji.clone()).collect()
}

fn reaction_id(person: &mut Person, log: &Log) -> MessageId {
    page(person, log)[0].reactions[0].id
}

#[test]
fn a_message_that_comes_twice_is_told_once() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let payload = Content::text("once").to_payload().unwrap();
    // Bob's software does what this one would not.
    bob.engine.options.history = false;
    for _ in 0..2 {
        drop(bob.submit(
            log.group,
            Operation::Send {
                payload: payload.clone(),
            },
        ));
    }
    log.accept_all(&mut bob);
    log.deliver(&mut alice);
    assert!(matches!(alice.events()[..], [EventKind::Message { .. }]));
    assert_eq!(texts(&page(&mut alice, &log)), ["once"]);
    log.deliver(&mut bob);
    assert!(bob.engine.outbox_is_empty().unwrap());
}

#[test]
fn an_edit_that_comes_again_does_not_undo_a_newer_one() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let id = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("first"));
    let old = say_first(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::edit(id, "second"),
    );
    say(&mut log, &mut [&mut alice, &mut bob], &Content::edit(id, "third"));
    bob.events();
    again(&mut log, &mut [&mut alice, &mut bob], &old);
    for person in [&mut alice, &mut bob] {
        assert_eq!(texts(&page(person, &log)), ["third"]);
    }
    assert_eq!(bob.events(), [], "it says nothing new");
    assert!(alice.engine.outbox_is_empty().unwrap());
}

#[test]
fn an_edit_of_a_message_from_before_that_comes_again_does_not_undo_a_newer_one() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let id = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("first"));
    let mut carol = world.person("carol");
    alice.add(&mut log, &mut [&mut carol]);
    let old = say_first(
        &mut log,
        &mut [&mut alice, &mut carol],
        &Content::edit(id, "second"),
    );
    say(
        &mut log,
        &mut [&mut alice, &mut carol],
        &Content::edit(id, "third"),
    );
    again(&mut log, &mut [&mut alice, &mut carol], &old);
    assert_eq!(texts(&page(&mut carol, &log)), ["third"]);
}

#[test]
fn a_reaction_that_was_taken_back_or_changed_does_not_come_back() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let id = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("lunch?"));
    let heart = say_first(&mut log, &mut [&mut bob, &mut alice], &Content::reaction(id, "❤"));
    let of = reaction_id(&mut alice, &log);
    let star = say_first(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::reaction(id, "⭐").in_place_of(of),
    );
    let moon = say_first(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::reaction(id, "🌙").in_place_of(of),
    );
    for old in [&heart, &star] {
        again(&mut log, &mut [&mut bob, &mut alice], old);
        assert_eq!(emojis(&mut alice, &log), ["🌙"]);
    }
    say(&mut log, &mut [&mut bob, &mut alice], &Content::delete(of));
    for old in [&heart, &star, &moon] {
        again(&mut log, &mut [&mut bob, &mut alice], old);
        assert_eq!(emojis(&mut alice, &log), [""; 0]);
    }
}

#[test]
fn a_status_that_comes_again_does_not_undo_a_newer_one() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let id = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("lunch?"));
    let read = say_first(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::read_receipt(&[id]),
    );
    assert_eq!(page(&mut alice, &log)[0].read_by.len(), 1);
    let unread = Content::receipt(&[(id, ReceiptStatus::UNREAD)]);
    say(&mut log, &mut [&mut bob, &mut alice], &unread);
    again(&mut log, &mut [&mut bob, &mut alice], &read);
    assert!(page(&mut alice, &log)[0].read_by.is_empty());
}

#[test]
fn what_was_removed_before_it_was_in_the_log_does_not_come_back() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let payload = Content::text("on its way").to_payload().unwrap();
    let id = alice.engine.queue_message(log.group, payload).unwrap();
    assert!(alice.engine.remove_message(log.group, id).unwrap());
    log.accept_all(&mut alice);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
    }
    assert_eq!(page(&mut alice, &log), []);
    assert_eq!(alice.events(), []);
    assert!(alice.engine.outbox_is_empty().unwrap());
    assert_eq!(texts(&page(&mut bob, &log)), ["on its way"], "others keep it");
}

#[test]
fn what_was_deleted_removed_or_has_expired_does_not_come_back() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let (clock, hand) = Clock::movable();
    bob.engine.options.clock = clock;
    // Alice's software does what this one would not: what she keeps herself cannot be queued twice.
    alice.engine.options.history = false;
    let mut payloads = Vec::new();
    let once = Content::text("once read").expiring(Expiry::AfterRead(Duration::from_secs(60)));
    for content in [Content::text("deleted"), Content::text("removed"), once] {
        payloads.push(say_first(&mut log, &mut [&mut alice, &mut bob], &content));
    }
    let ids: Vec<MessageId> = page(&mut bob, &log).iter().map(|message| message.id).collect();
    say(&mut log, &mut [&mut alice, &mut bob], &Content::delete(ids[0]));
    assert!(bob.engine.remove_message(log.group, ids[1]).unwrap());
    bob.engine.messages_were_read(log.group, &ids[2..]).unwrap();
    hand.advance(Duration::from_secs(61));
    bob.engine.expire().unwrap();
    assert_eq!(texts(&page(&mut bob, &log)), ["-"]);
    for payload in &payloads {
        again(&mut log, &mut [&mut alice, &mut bob], payload);
    }
    assert_eq!(texts(&page(&mut bob, &log)), ["-"]);
}
