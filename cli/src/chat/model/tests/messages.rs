//! What is remembered of messages, and what is done with them.

use valise_client_sdk::{Expiry, Reaction, SendStatus, WhatNow};

use super::*;

fn failed() -> SendStatus {
    SendStatus::Failed {
        cause: "POLICY_DENIED".into(),
        what_now: WhatNow::Denied,
    }
}

fn reaction(number: u64, user: &str, emoji: &str) -> Reaction {
    Reaction {
        id: id(number),
        user: user.parse().unwrap(),
        emoji: emoji.into(),
    }
}

/// Of Bob, of this user, deleted by this user, and not sent.
fn conversation() -> Model {
    let mut model = model();
    let mut bobs = said(1, "bob@a.example", "Chez Marcel");
    bobs.reactions = vec![
        reaction(101, "bob@a.example", "🍽"),
        reaction(102, ME, "👍"),
        reaction(103, ME, "❤"),
    ];
    let mut mine = said(2, ME, "Quand ?");
    mine.edited = true;
    let mut deleted = said(3, ME, "");
    deleted.content = None;
    let mut unsent = said(4, ME, "Allô ?");
    unsent.status = failed();
    remember(&mut model, 1, vec![bobs, mine, deleted, unsent]);
    model
}

fn sent(model: &mut Model, line: &str) -> Option<Content> {
    match enter(model, line) {
        Some(Order::Send { content, .. }) => Some(*content),
        _ => None,
    }
}

/// Why a line is refused. It stays, to be mended.
fn refused(model: &mut Model, line: &str) -> String {
    assert_eq!(enter(model, line), None);
    assert_eq!(model.input.take(), line);
    let notice = model.notice().unwrap();
    assert!(notice.is_error);
    notice.text.clone()
}

#[test]
fn what_became_of_a_message_is_shown_at_it() {
    let mut model = conversation();
    assert_eq!(
        lines(&model),
        [
            "— 2023-11-14 —",
            "22:13 #1 bob@a.example: Chez Marcel  [🍽 👍 ❤]",
            "22:13 #2 alice@a.example: Quand ?  [edited]",
            "22:13 #3 alice@a.example: (deleted)",
            "22:13 04000000 alice@a.example: Allô ?  [not sent: POLICY_DENIED: it is not allowed]",
        ]
    );
    let mut answer = said(2, ME, "");
    answer.content = Some(Content::reply(id(1), "À midi"));
    answer.sender.device = "0a000000-0000-4000-8000-000000000001".parse().unwrap();
    let mut unknown = said(3, "bob@a.example", "");
    unknown.content = Some(Content::reply(id(0xAB), "Bien"));
    let of = said(1, "bob@a.example", "Chez Marcel");
    remember(&mut model, 1, vec![of, answer, unknown]);
    assert_eq!(
        lines(&model)[2..],
        [
            "22:13 #2 alice@a.example (another device): (to #1) À midi",
            "22:13 #3 bob@a.example: (to ab000000) Bien",
        ]
    );
    // However long it is.
    let mut long = said(1, ME, &"x".repeat(100_000));
    long.edited = true;
    remember(&mut model, 1, vec![long]);
    assert!(lines(&model).last().unwrap().ends_with("…  [edited]"));
}

#[test]
fn messages_are_read_for_the_group_that_is_shown_when_something_has_changed() {
    let mut model = model();
    let reading = |group, back_to, more| Reading {
        group: group_id(group),
        back_to,
        more,
    };
    assert_eq!(model.next_reading(), Some(reading(1, None, false)));
    assert_eq!(model.next_reading(), None);
    model.update(message(2, 1, "bob@a.example", "there"));
    assert_eq!(model.next_reading(), None);
    model.update(message(1, 2, "bob@a.example", "here"));
    assert_eq!(model.next_reading(), Some(reading(1, None, false)));
    model.update(Happening::Did(Action::Switch(1)));
    assert_eq!(model.next_reading(), Some(reading(2, None, false)));
    model.update(Happening::Did(Action::Switch(-1)));
    assert_eq!(model.next_reading(), None, "nothing has changed");
    model.update(Happening::Groups(Vec::new()));
    assert_eq!(
        model.next_reading(),
        Some(reading(1, None, false)),
        "something may have expired"
    );
    model.update(Happening::Did(Action::ScrollPages(1)));
    assert_eq!(model.next_reading(), Some(reading(1, None, true)));
}

#[test]
fn what_became_of_other_messages_is_not_unread() {
    let mut model = model();
    let sender = peer("bob@a.example");
    let contents = [
        Content::edit(id(1), "x"),
        Content::delete(id(1)),
        Content::reaction(id(1), "👍"),
        Content::read_receipt(&[id(1)]),
    ];
    for (number, content) in (1..).zip(contents) {
        let sender = sender.clone();
        model.update(event(2, number, EventKind::Message { sender, content }));
    }
    assert_eq!(unread(&model), [0, 0, 0]);
    let content = Content::reply(id(1), "x");
    model.update(event(2, 5, EventKind::Message { sender, content }));
    assert_eq!(unread(&model), [0, 1, 0]);
    assert_eq!(
        model.read_marks(),
        ReadMarks::NOTHING,
        "all of them come again if they are not looked at"
    );
}

#[test]
fn messages_are_changed_by_their_numbers() {
    let mut model = conversation();
    assert_eq!(
        sent(&mut model, "/edit 2 Quand donc ?"),
        Some(Content::edit(id(2), "Quand donc ?"))
    );
    assert_eq!(sent(&mut model, "/delete #2"), Some(Content::delete(id(2))));
    assert_eq!(
        sent(&mut model, "/reply 1 Bien"),
        Some(Content::reply(id(1), "Bien"))
    );
    assert_eq!(
        sent(&mut model, "/react 1 🎉"),
        Some(Content::reaction(id(1), "🎉"))
    );
    assert_eq!(
        sent(&mut model, "/react 1"),
        Some(Content::delete(id(103))),
        "the last reaction"
    );
    // Only this device has it.
    let (group, message) = (group_id(1), id(4));
    assert_eq!(
        enter(&mut model, "/delete 0400"),
        Some(Order::Forget { group, message })
    );
}

#[test]
fn what_cannot_be_done_with_a_message_is_said() {
    let mut model = conversation();
    assert!(refused(&mut model, "/edit 1 Chez Paul").contains("not yours"));
    assert!(refused(&mut model, "/delete 1").contains("not yours"));
    assert!(refused(&mut model, "/edit 3 x").contains("deleted"));
    assert!(refused(&mut model, "/react 3 👍").contains("deleted"));
    assert!(refused(&mut model, "/edit 0400 x").contains("not sent"));
    assert!(refused(&mut model, "/reply 0400 x").contains("not sent"));
    assert!(refused(&mut model, "/react 2").contains("no reaction of yours"));
    assert!(refused(&mut model, "/reply 9 x").contains("no message 9"));
    assert!(refused(&mut model, "/reply #0400 x").contains("no message"));
    assert!(model.pending(group_id(1)).next().is_none());

    // Both a number and the beginning of an id.
    let mut other = said(0x40, ME, "c");
    other.status = SendStatus::Queued;
    remember(&mut model, 1, vec![said(40, ME, "b"), other]);
    assert!(refused(&mut model, "/delete 40").contains("more than one"));
    assert_eq!(sent(&mut model, "/delete #40"), Some(Content::delete(id(40))));
}

#[test]
fn what_is_found_is_shown_until_it_is_put_away() {
    let mut model = conversation();
    let (group, words) = (group_id(1), "marcel".to_owned());
    let order = Order::Search {
        group,
        words: words.clone(),
    };
    assert_eq!(enter(&mut model, "/search marcel"), Some(order));
    let found = |group, messages| Happening::Found {
        group: group_id(group),
        words: words.clone(),
        messages,
    };
    model.update(found(2, vec![said(7, ME, "Marcel")]));
    assert!(model.aside().is_none(), "the user went elsewhere");
    model.update(found(1, Vec::new()));
    assert!(model.aside().is_none());
    assert_eq!(model.notice().unwrap().text, "nothing found here: marcel");

    model.update(found(1, vec![said(77, ME, "Marcel ?")]));
    assert_eq!(
        model.aside().unwrap().title,
        "1 found in Lunch (Esc: back): marcel"
    );
    assert_eq!(model.aside().unwrap().history.messages().len(), 1);
    // What was found can be changed, and what was there as well.
    assert_eq!(sent(&mut model, "/delete 77"), Some(Content::delete(id(77))));
    assert_eq!(sent(&mut model, "/delete 2"), Some(Content::delete(id(2))));
    model.update(Happening::Did(Action::Edit(Edit::Insert("half a line".into()))));
    model.update(Happening::Did(Action::Escape));
    assert!(model.aside().is_none());
    assert!(!model.input.is_empty());
    model.update(Happening::Did(Action::Escape));
    assert!(model.input.is_empty());

    for away in [Action::Switch(1), Action::Enter] {
        model.update(Happening::Open(group_id(1)));
        model.update(found(1, vec![said(77, ME, "Marcel ?")]));
        model.update(Happening::Did(Action::Edit(Edit::Insert("so".into()))));
        model.update(Happening::Did(away));
        assert!(model.aside().is_none());
    }
}

#[test]
fn what_was_said_and_is_not_accepted_is_waited_for() {
    let mut model = model();
    model.next_reading();
    assert!(!model.may_have_queued());
    enter(&mut model, "bonjour");
    model.update(Happening::Sent {
        ticket: 0,
        outcome: Ok(()),
    });
    assert!(model.may_have_queued(), "it was not looked at yet");
    assert!(model.next_reading().is_some());
    assert!(model.may_have_queued(), "it is being read");
    let mut queued = said(1, ME, "bonjour");
    queued.status = SendStatus::Queued;
    remember(&mut model, 1, vec![queued]);
    assert!(model.may_have_queued());
    model.update(message(1, 1, ME, "bonjour"));
    model.next_reading();
    remember(&mut model, 1, vec![said(1, ME, "bonjour")]);
    assert!(!model.may_have_queued());
}

/// Deleted a minute after it is read.
fn once(position: u64) -> HistoryMessage {
    let mut message = said(position, "bob@a.example", "");
    message.content = Some(Content::text("psst").expiring(Expiry::AfterRead(Duration::from_secs(60))));
    message
}

#[test]
fn what_expires_after_reading_is_read_when_it_is_seen() {
    let mut model = model();
    model.update(Happening::Pane(60, 3));
    let seen = |group, numbers: &[u64]| {
        let messages: Vec<MessageId> = numbers.iter().map(|&number| id(number)).collect();
        Some((group_id(group), messages))
    };
    let mut read = once(4);
    read.expires_at = Some(read.at);
    let mut messages = vec![once(1), said(2, ME, "a"), once(3), read, said(5, ME, "b")];
    remember(&mut model, 1, messages.clone());
    assert_eq!(model.next_seen(), seen(1, &[3]), "the first is further back");
    assert_eq!(model.next_seen(), None, "said once");
    // What waits to be sent takes the place of others.
    enter(&mut model, "on its way");
    remember(&mut model, 1, messages.clone());
    assert_eq!(model.next_seen(), None);
    model.update(Happening::Sent {
        ticket: 0,
        outcome: Ok(()),
    });
    assert_eq!(
        model.next_seen(),
        seen(1, &[3]),
        "it could not be noted, and was read again"
    );
    messages[2].expires_at = Some(messages[2].at);
    remember(&mut model, 1, messages);
    assert_eq!(model.next_seen(), None, "it was noted");
    model.update(Happening::Did(Action::ScrollPages(9)));
    assert_eq!(model.next_seen(), seen(1, &[1]));

    remember(&mut model, 2, vec![once(7)]);
    assert_eq!(model.next_seen(), None, "another group is shown");
    model.update(Happening::Did(Action::LookAway));
    model.update(Happening::Open(group_id(2)));
    assert_eq!(model.next_seen(), None, "nobody looks");
    model.update(Happening::Did(Action::LookAgain));
    enter(&mut model, "/help");
    assert_eq!(model.next_seen(), None, "the commands are shown");
    model.update(Happening::Did(Action::Escape));
    assert_eq!(model.next_seen(), seen(2, &[7]));
    let words = "psst".to_owned();
    model.update(Happening::Found {
        group: group_id(2),
        words,
        messages: vec![once(6)],
    });
    assert_eq!(model.next_seen(), seen(2, &[6]));
}

#[test]
fn what_comes_while_nobody_looks_is_unread() {
    let mut model = model();
    model.update(Happening::Did(Action::LookAway));
    model.update(message(1, 1, "bob@a.example", "anybody?"));
    assert_eq!(unread(&model), [1, 0, 0]);
    assert_eq!(model.read_marks(), ReadMarks::NOTHING);
    model.update(Happening::Did(Action::LookAgain));
    assert_eq!(unread(&model), [0, 0, 0]);
    assert_eq!(model.read_marks().all, EventId(1));
    model.update(message(1, 2, "bob@a.example", "ah"));
    assert_eq!(unread(&model), [0, 0, 0]);
}
