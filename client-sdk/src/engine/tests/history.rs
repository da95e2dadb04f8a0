//! What is remembered of what was said.

use std::time::{Duration, UNIX_EPOCH};

use super::people::{Log, Person, World};
use super::*;
use crate::{Clock, Expiry, HistoryMessage, Kind, MessageId, SendStatus, WhatNow};

/// Says it, and lets all hear it. The message's name.
pub(super) fn say(log: &mut Log, people: &mut [&mut Person], content: &Content) -> MessageId {
    let mut outcome = people[0].say(log.group, content);
    log.accept_all(people[0]);
    for person in people {
        log.deliver(person);
    }
    let Ok(Outcome::Sent(sent)) = outcome.try_recv().unwrap() else {
        panic!("not sent")
    };
    sent.id
}

pub(super) fn page(person: &mut Person, log: &Log) -> Vec<HistoryMessage> {
    person.engine.history_page(log.group, None, 100).unwrap()
}

pub(super) fn texts(page: &[HistoryMessage]) -> Vec<&str> {
    page.iter()
        .map(|message| message.as_text().unwrap_or("-"))
        .collect()
}

fn found(person: &mut Person, words: &str) -> Vec<String> {
    let found = person.engine.search_history(None, words, 100).unwrap();
    texts(&found).into_iter().map(str::to_owned).collect()
}

fn count(person: &Person, what: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {what}");
    person
        .engine
        .db
        .connection
        .query_row(&query, [], |row| row.get(0))
        .unwrap()
}

/// The words that are left in the index.
fn words(person: &Person) -> Vec<String> {
    let connection = &person.engine.db.connection;
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.words USING fts5vocab (main, messages_text, row)",
        )
        .unwrap();
    let mut statement = connection.prepare("SELECT term FROM temp.words").unwrap();
    let words = statement.query_map([], |row| row.get(0)).unwrap();
    words.collect::<Result<_, _>>().unwrap()
}

pub(super) fn pair(world: &World) -> (Person, Person, Log) {
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.events();
    bob.events();
    (alice, bob, log)
}

#[test]
fn replies_reactions_edits_and_receipts_change_what_is_remembered() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let hello = say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("Let us meat"),
    );
    say(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::reply(hello, "Yes"),
    );
    let heart = say(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::reaction(hello, "❤"),
    );
    let edit = say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::edit(hello, "Let us meet"),
    );
    // About the edited version: it is the same message.
    say(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::reaction(edit, "👍"),
    );
    say(
        &mut log,
        &mut [&mut bob, &mut alice],
        &Content::read_receipt(&[edit]),
    );

    for person in [&mut alice, &mut bob] {
        let page = page(person, &log);
        assert_eq!(texts(&page), ["Let us meet", "Yes"]);
        assert!(page[0].edited && !page[1].edited);
        assert_eq!(page[0].id, hello);
        assert_eq!(page[1].content.as_ref().unwrap().in_reply_to(), Some(hello));
        let reactions: Vec<_> = page[0]
            .reactions
            .iter()
            .map(|reaction| reaction.emoji.as_str())
            .collect();
        assert_eq!(reactions, ["❤", "👍"]);
        assert_eq!(page[0].read_by, ["bob@a.example".parse().unwrap()]);
        assert!(found(person, "meat").is_empty());
        assert_eq!(found(person, "meet"), ["Let us meet"]);
        let kinds: Vec<_> = person
            .events()
            .iter()
            .map(|kind| match kind {
                EventKind::Message { content, .. } => content.id().is_some(),
                _ => false,
            })
            .collect();
        assert_eq!(kinds, [true; 6], "each is an event with an id");
    }
    say(&mut log, &mut [&mut bob, &mut alice], &Content::delete(heart));
    say(&mut log, &mut [&mut alice, &mut bob], &Content::delete(edit));
    for person in [&mut alice, &mut bob] {
        let page = page(person, &log);
        assert_eq!(texts(&page), ["-", "Yes"]);
        assert_eq!((page[0].content.as_ref(), page[0].reactions.len()), (None, 0));
    }
}

#[test]
fn only_the_sender_edits_and_deletes() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let mine = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("mine"));
    let heart = say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::reaction(mine, "❤"),
    );
    alice.events();
    bob.events();
    for attempt in [
        Content::edit(mine, "forged"),
        Content::delete(mine),
        Content::delete(heart),
    ] {
        let of = attempt.replaces().unwrap();
        say(&mut log, &mut [&mut bob, &mut alice], &attempt);
        let sender = bob.peer();
        for person in [&mut alice, &mut bob] {
            let refused = EventKind::ReplacementRefused {
                sender: sender.clone(),
                of,
            };
            assert_eq!(person.events(), [refused]);
            let page = page(person, &log);
            assert_eq!((texts(&page), page[0].reactions.len()), (vec!["mine"], 1));
        }
    }
}

#[test]
fn the_devices_of_a_user_are_one_sender() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let mut phone = world.person("alice");
    alice.add(&mut log, &mut [&mut phone]);
    log.deliver(&mut bob);
    let first = say(
        &mut log,
        &mut [&mut alice, &mut bob, &mut phone],
        &Content::text("first"),
    );
    say(
        &mut log,
        &mut [&mut phone, &mut bob, &mut alice],
        &Content::edit(first, "second"),
    );
    for person in [&mut alice, &mut bob, &mut phone] {
        assert_eq!(texts(&page(person, &log)), ["second"]);
    }
}

#[test]
fn an_own_message_is_there_at_once_and_says_how_it_fares() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    drop(alice.send(log.group, "hello"));
    let queued = page(&mut alice, &log);
    assert_eq!(
        (texts(&queued), &queued[0].status),
        (vec!["hello"], &SendStatus::Queued)
    );
    assert_eq!(found(&mut alice, "hello"), ["hello"]);

    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    let accepted = page(&mut alice, &log);
    let position = Position(log.entries.len() as u64);
    assert_eq!(accepted[0].status, SendStatus::Accepted { position });
    assert_eq!(accepted[0].id, queued[0].id);
    log.deliver(&mut bob);
    assert_eq!(page(&mut bob, &log)[0].id, queued[0].id);

    // Queued on its own, and refused: nobody waits, so an event tells.
    alice.events();
    let payload = Content::text("too much").to_payload().unwrap();
    let id = alice.engine.queue_message(log.group, payload).unwrap();
    let upload = alice.upload();
    alice.refuse(&upload, Refusal::new(Reason::MessageTooLarge));
    let failed = alice.engine.history_message(log.group, id).unwrap().unwrap();
    let cause = "MESSAGE_TOO_LARGE".to_owned();
    let what_now = WhatNow::Denied;
    assert_eq!(failed.status, SendStatus::Failed { cause, what_now });
    assert!(matches!(alice.events()[..], [EventKind::OperationFailed { .. }]));
    assert_eq!(texts(&page(&mut alice, &log)), ["hello", "too much"]);
    assert!(alice.engine.remove_message(log.group, id).unwrap());
    assert_eq!(texts(&page(&mut alice, &log)), ["hello"]);
}

#[test]
fn whoever_dropped_the_future_is_told_by_an_event() {
    let (mut alice, _, log) = pair(&World::new());
    drop(alice.send(log.group, "dropped"));
    let upload = alice.upload();
    alice.refuse(&upload, Refusal::new(Reason::PolicyDenied));
    assert!(matches!(alice.events()[..], [EventKind::OperationFailed { .. }]));
}

#[test]
fn history_and_queue_survive_a_crash() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person_in("alice", &store), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    say(&mut log, &mut [&mut alice], &Content::text("before"));
    drop(alice.send(log.group, "on its way"));
    let upload = alice.upload();
    let mut alice = world.reopen(alice.forget(), &store);
    assert_eq!(texts(&page(&mut alice, &log)), ["before", "on its way"]);
    log.accept(&alice, &upload);
    log.deliver(&mut alice);
    let page = page(&mut alice, &log);
    assert_eq!(page.len(), 2);
    assert!(page.iter().all(|message| message.position().is_some()));
}

#[test]
fn of_a_deleted_message_nothing_is_left() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    let secret = say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("alpha needle"),
    );
    say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::edit(secret, "beta needle"),
    );
    say(&mut log, &mut [&mut alice, &mut bob], &Content::text("harmless"));
    assert_eq!(words(&bob), ["beta", "harmless", "needle"]);
    // Bob's app has not taken up anything yet.
    say(&mut log, &mut [&mut alice, &mut bob], &Content::delete(secret));

    for person in [&mut alice, &mut bob] {
        assert_eq!(words(person), ["harmless"]);
        assert_eq!(
            count(
                person,
                "messages WHERE instr(content, 'needle') OR instr(text, 'needle')"
            ),
            0
        );
        assert_eq!(count(person, "events WHERE instr(body, 'needle')"), 0);
        assert_eq!(count(person, "intents"), 0);
        assert!(found(person, "needle").is_empty());
        let index = &person.engine.db.connection;
        index
            .execute_batch("INSERT INTO messages_text (messages_text) VALUES ('integrity-check')")
            .unwrap();
        let kinds = person.events();
        let heard: Vec<_> = kinds
            .iter()
            .filter_map(|kind| match kind {
                EventKind::Message { content, .. } => Some(content.kind()),
                _ => None,
            })
            .collect();
        assert_eq!(heard, [Kind::Text("harmless"), Kind::Delete { of: secret }]);
    }
}

#[test]
fn messages_are_deleted_when_their_time_comes() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let (clock, hand) = Clock::movable();
    bob.engine.options.clock = clock.clone();
    let in_a_minute = Expiry::At(clock.now() + Duration::from_secs(60));
    let after_reading = Expiry::AfterRead(Duration::from_secs(3600));
    say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("soon over").expiring(in_a_minute),
    );
    let read = say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("once read").expiring(after_reading),
    );
    say(&mut log, &mut [&mut alice, &mut bob], &Content::text("for good"));
    assert!(bob.expires());
    let next = bob.engine.expire().unwrap().unwrap();
    let asked_for = Content::text("").expiring(in_a_minute).expiry();
    assert_eq!(
        Some(Expiry::At(UNIX_EPOCH + Duration::from_millis(next))),
        asked_for
    );
    assert_eq!(
        texts(&page(&mut bob, &log)),
        ["soon over", "once read", "for good"]
    );

    hand.advance(Duration::from_secs(61));
    assert_eq!(
        bob.engine.expire().unwrap(),
        None,
        "what is not read does not expire"
    );
    assert_eq!(texts(&page(&mut bob, &log)), ["once read", "for good"]);
    assert_eq!(words(&bob), ["for", "good", "once", "read"]);
    assert_eq!(messages(&mut bob), ["once read", "for good"]);

    bob.engine.messages_were_read(log.group, &[read]).unwrap();
    assert!(bob.expires());
    assert!(page(&mut bob, &log)[0].expires_at.is_some());
    hand.advance(Duration::from_secs(3601));
    assert_eq!(bob.engine.expire().unwrap(), None);
    assert_eq!(texts(&page(&mut bob, &log)), ["for good"]);
    // Its author has read it when it was sent.
    assert!(page(&mut alice, &log)[1].expires_at.is_some());
}

#[test]
fn what_a_user_has_read_expires_on_all_devices_of_the_user() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let mut phone = world.person("bob");
    alice.add(&mut log, &mut [&mut phone]);
    log.deliver(&mut bob);
    let content = Content::text("once read").expiring(Expiry::AfterRead(Duration::from_secs(60)));
    let read = say(&mut log, &mut [&mut alice, &mut bob, &mut phone], &content);
    assert!(page(&mut phone, &log)[0].expires_at.is_none());
    say(
        &mut log,
        &mut [&mut bob, &mut phone],
        &Content::read_receipt(&[read]),
    );
    for person in [&mut bob, &mut phone] {
        assert!(page(person, &log)[0].expires_at.is_some());
    }
}

#[test]
fn what_is_over_is_neither_shown_at_the_start_nor_when_it_arrives_late() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let (clock, hand) = Clock::movable();
    bob.engine.options.clock = clock.clone();
    let in_a_minute = Expiry::At(clock.now() + Duration::from_secs(60));
    say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("seen").expiring(in_a_minute),
    );
    say(
        &mut log,
        &mut [&mut alice],
        &Content::text("late").expiring(in_a_minute),
    );
    hand.advance(Duration::from_secs(61));
    bob.engine.resume().unwrap();
    assert!(messages(&mut bob).is_empty());
    log.deliver(&mut bob);
    assert!(bob.events().is_empty());
    assert!(page(&mut bob, &log).is_empty());

    // Longer than anybody means.
    let in_two_years = Expiry::At(clock.now() + Duration::from_secs(2 * 366 * 24 * 3600));
    say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("x").expiring(in_two_years),
    );
    assert!(matches!(bob.events()[..], [EventKind::Unreadable { .. }]));
}

#[test]
fn pages_follow_one_another() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    for number in 0..10 {
        say(
            &mut log,
            &mut [&mut alice, &mut bob],
            &Content::text(number.to_string()),
        );
    }
    let mut before = None;
    let mut all = Vec::new();
    loop {
        let page = bob.engine.history_page(log.group, before, 4).unwrap();
        let Some(first) = page.first() else { break };
        before = first.position();
        let mut numbers: Vec<u32> = texts(&page).iter().map(|text| text.parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers.len() <= 4);
        numbers.append(&mut all);
        all = numbers;
    }
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

#[test]
fn words_are_found_in_one_group_or_all() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let mut other = alice.create_group("");
    say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::text("Le budget de l'été"),
    );
    say(
        &mut other,
        &mut [&mut alice],
        &Content::text("The Budget is final"),
    );
    assert_eq!(
        found(&mut alice, "budget"),
        ["The Budget is final", "Le budget de l'été"]
    );
    assert_eq!(
        found(&mut alice, "BUDG"),
        ["The Budget is final", "Le budget de l'été"]
    );
    assert_eq!(found(&mut alice, "ete budget"), ["Le budget de l'été"]);
    assert!(found(&mut alice, "budget spring").is_empty());
    let here = alice
        .engine
        .search_history(Some(log.group), "budget", 10)
        .unwrap();
    assert_eq!(texts(&here), ["Le budget de l'été"]);
    for hostile in ["\"", "budget OR", "text:budget*)", "'"] {
        alice.engine.search_history(None, hostile, 10).unwrap();
    }
}

#[test]
fn an_edit_of_what_nobody_here_knows_is_a_message_of_whoever_sent_it() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = pair(&world);
    let early = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("early"));
    let mut carol = world.person("carol");
    alice.add(&mut log, &mut [&mut carol]);
    log.deliver(&mut bob);
    carol.events();
    // Bob may not, and whoever knows the message sees it. Carol does not, and sees it as what Bob says.
    say(
        &mut log,
        &mut [&mut bob, &mut alice, &mut carol],
        &Content::edit(early, "forged"),
    );
    assert_eq!(texts(&page(&mut alice, &log)), ["early"]);
    say(
        &mut log,
        &mut [&mut alice, &mut bob, &mut carol],
        &Content::edit(early, "late"),
    );
    say(
        &mut log,
        &mut [&mut alice, &mut bob, &mut carol],
        &Content::edit(early, "later"),
    );
    let page = page(&mut carol, &log);
    let said: Vec<_> = page
        .iter()
        .map(|message| {
            (
                message.sender.user.as_str(),
                message.as_text().unwrap(),
                message.edited,
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("bob@a.example", "forged", true),
            ("alice@a.example", "later", true)
        ]
    );
}

#[test]
fn without_history_nothing_is_kept() {
    let (mut alice, mut bob, mut log) = pair(&World::new());
    say(&mut log, &mut [&mut alice, &mut bob], &Content::text("kept"));
    bob.events();
    bob.engine.options.history = false;
    bob.engine.resume().unwrap();
    assert_eq!((count(&bob, "messages"), words(&bob)), (0, Vec::new()));
    let id = say(&mut log, &mut [&mut alice, &mut bob], &Content::text("passing"));
    say(
        &mut log,
        &mut [&mut alice, &mut bob],
        &Content::edit(id, "passing still"),
    );
    say(&mut log, &mut [&mut bob, &mut alice], &Content::text("from bob"));
    assert_eq!(count(&bob, "messages"), 0);
    assert_eq!(messages(&mut bob), ["passing", "passing still", "from bob"]);
}
