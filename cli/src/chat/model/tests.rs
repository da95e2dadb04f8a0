mod messages;

use std::time::{Duration, SystemTime};

use valise_client_sdk::{Epoch, GroupState, GroupStatus, Member, Peer, Reaction, SendStatus};

use super::group::Person;
use super::*;
use crate::chat::command;
use crate::chat::input::Edit;

pub(in crate::chat) const ME: &str = "alice@a.example";

pub(in crate::chat) fn peer(user: &str) -> Peer {
    Peer {
        user: user.parse().unwrap(),
        device: "0b000000-0000-4000-8000-000000000002".parse().unwrap(),
    }
}

pub(in crate::chat) fn group_id(number: u8) -> GroupId {
    GroupId::from_bytes([number; 16])
}

pub(in crate::chat) fn event(group: u8, id: u64, kind: EventKind) -> Happening {
    Happening::Arrived(Box::new(Event {
        id: EventId(id),
        group: group_id(group),
        position: Position(id),
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        kind,
    }))
}

pub(in crate::chat) fn message(group: u8, id: u64, from: &str, text: &str) -> Happening {
    let kind = EventKind::Message {
        sender: peer(from),
        content: Content::text(text),
    };
    event(group, id, kind)
}

pub(in crate::chat) fn id(number: u64) -> MessageId {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&number.to_le_bytes());
    MessageId::from_bytes(bytes).unwrap()
}

/// What is remembered of a message with the id of that number, at that position of the log.
pub(in crate::chat) fn said(position: u64, from: &str, text: &str) -> HistoryMessage {
    HistoryMessage {
        id: id(position),
        group: group_id(1),
        sender: peer(from),
        status: SendStatus::Accepted {
            position: Position(position),
        },
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        content: Some(Content::text(text)),
        edited: false,
        expires_at: None,
        reactions: Vec::new(),
        read_by: Vec::new(),
    }
}

pub(in crate::chat) fn remember(model: &mut Model, group: u8, messages: Vec<HistoryMessage>) {
    model.update(Happening::Remembered {
        group: group_id(group),
        messages,
        whole: true,
    });
}

pub(in crate::chat) fn known(group: u8, name: &str, status: GroupStatus, members: &[(&str, Role)]) -> Known {
    let members = members.iter().zip(0..).map(|(&(user, role), leaf_index)| Member {
        user: user.parse().unwrap(),
        device: peer(user).device,
        role,
        leaf_index,
    });
    Known {
        id: group_id(group),
        members: members.collect(),
        state: GroupState {
            name: name.into(),
            status,
            epoch: Epoch(7),
            position: Position(1),
            cipher_suite: None,
            members: 0,
            epoch_authenticator: Vec::new(),
            forked_at: None,
            successor: None,
        },
    }
}

pub(in crate::chat) fn model() -> Model {
    let mut model = Model::new(ME.parse().unwrap(), peer(ME).device);
    let members = [
        ("bob@a.example", Role::Member),
        (ME, Role::Owner),
        ("bob@a.example", Role::Member),
    ];
    let groups = ["Lunch", "Budget", "Night shift"];
    model.update(Happening::Groups(
        (1..)
            .zip(groups)
            .map(|(number, name)| known(number, name, GroupStatus::Active, &members))
            .collect(),
    ));
    model
}

pub(in crate::chat) fn enter(model: &mut Model, line: &str) -> Option<Order> {
    model.update(Happening::Did(Action::Edit(Edit::Insert(line.into()))));
    model.update(Happening::Did(Action::Enter))
}

fn lines(model: &Model) -> Vec<String> {
    let (_, group) = model.selected().unwrap();
    let rows = group.history.rows(200, 50, model.pending(group.id));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn unread(model: &Model) -> Vec<u64> {
    model.groups().iter().map(|group| group.unread).collect()
}

#[test]
fn what_others_say_elsewhere_is_unread_until_it_is_looked_at() {
    let mut model = model();
    model.update(message(1, 1, "bob@a.example", "here"));
    model.update(message(2, 2, "bob@a.example", "there"));
    model.update(message(2, 3, "bob@a.example", "again"));
    model.update(message(3, 4, ME, "from my other device"));
    let by = peer("bob@a.example");
    let name = "Budget 2".to_owned();
    model.update(event(2, 5, EventKind::GroupNamed { name, by }));
    assert_eq!(
        unread(&model),
        [0, 2, 0],
        "neither one's own messages nor notices count"
    );
    let (entry_id, evidence) = (vec![1], vec![2]);
    model.update(event(3, 6, EventKind::LogRegressed { entry_id, evidence }));
    assert_eq!(unread(&model), [0, 2, 1], "alarms do");

    model.update(Happening::Did(Action::Switch(1)));
    assert_eq!(unread(&model), [0, 0, 1]);
    assert_eq!(model.selected().unwrap().1.title(), "Budget 2");
    let bobs = [(2, "there"), (3, "again")].map(|(number, text)| said(number, "bob@a.example", text));
    remember(&mut model, 2, bobs.into());
    assert_eq!(
        lines(&model),
        [
            "— 2023-11-14 —",
            "22:13 #2 bob@a.example: there",
            "22:13 #3 bob@a.example: again",
            "22:13 * bob@a.example named the group Budget 2"
        ]
    );
}

#[test]
fn what_is_in_no_log_stands_where_it_came() {
    let mut model = model();
    let at_no_place = |text: &str| {
        let kind = EventKind::Ephemeral {
            sender: peer("bob@a.example"),
            content: Content::text(text),
        };
        Happening::Arrived(Box::new(Event {
            id: EventId::NONE,
            group: group_id(1),
            position: Position::NONE,
            // This device's clock is an hour slow.
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - 3600),
            kind,
        }))
    };
    model.update(message(1, 1, "bob@a.example", "one"));
    model.update(at_no_place("between"));
    model.update(message(1, 2, "bob@a.example", "two"));
    model.update(at_no_place("last"));
    let messages = [(1, "one"), (2, "two")].map(|(number, text)| said(number, "bob@a.example", text));
    remember(&mut model, 1, messages.into());
    let lines = lines(&model);
    let said: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(_, said)| said)
        .collect();
    assert_eq!(said, ["one", "(passing) between", "two", "(passing) last"]);
}

#[test]
fn switching_goes_around() {
    let mut model = model();
    let mut seen = Vec::new();
    for by in [-1, -1, 1, 1, 1] {
        model.update(Happening::Did(Action::Switch(by)));
        seen.push(model.selected().unwrap().0);
    }
    assert_eq!(seen, [2, 1, 2, 0, 1]);
    model.update(Happening::Open(group_id(3)));
    assert_eq!(model.selected().unwrap().0, 2);
    model.update(Happening::Open(group_id(99)));
    assert_eq!(model.selected().unwrap().0, 2);

    let mut empty = Model::new(ME.parse().unwrap(), peer(ME).device);
    empty.update(Happening::Did(Action::Switch(1)));
    empty.update(Happening::Did(Action::ScrollPages(1)));
    assert!(empty.selected().is_none());
    assert_eq!(enter(&mut empty, "hello?"), None);
    assert!(empty.notice().unwrap().is_error);
}

#[test]
fn only_what_was_looked_at_is_confirmed() {
    let mut model = model();
    assert_eq!(model.read_marks(), ReadMarks::NOTHING);
    model.update(message(1, 1, "bob@a.example", "a"));
    assert_eq!(model.read_marks().all, EventId(1));
    model.update(message(2, 2, "bob@a.example", "b"));
    model.update(message(1, 3, "bob@a.example", "c"));
    let expected = ReadMarks {
        all: EventId(1),
        groups: vec![(group_id(1), EventId(3))],
    };
    assert_eq!(model.read_marks(), expected);
    model.update(Happening::Did(Action::Switch(1)));
    let expected = ReadMarks {
        all: EventId(3),
        groups: Vec::new(),
    };
    assert_eq!(model.read_marks(), expected);
    // What is not stored cannot be confirmed.
    let kind = EventKind::Ephemeral {
        sender: peer("bob@a.example"),
        content: Content::text("typing"),
    };
    model.update(event(1, 0, kind));
    assert_eq!(model.read_marks(), expected);
    assert_eq!(unread(&model)[0], 1);
}

#[test]
fn nothing_that_others_wrote_steers_the_terminal() {
    let hostile = "\x1b[2J\u{9b}1m\x07\u{202e}gnp\u{2069}\r\nbob@a.example: forged";
    let mut model = model();
    let mut other = said(2, "bob@a.example", "");
    other.content = Some(Content::new(format!("text/{hostile}"), *b"x"));
    other.reactions.push(Reaction {
        id: id(3),
        user: ME.parse().unwrap(),
        emoji: hostile.to_owned(),
    });
    let mut failed = said(3, ME, hostile);
    failed.status = SendStatus::Failed {
        cause: hostile.to_owned(),
        what_now: valise_client_sdk::WhatNow::Retry,
    };
    let messages = vec![said(1, "bob@a.example", hostile), other, failed];
    remember(&mut model, 1, messages.clone());
    let by = peer("bob@a.example");
    let name = hostile.to_owned();
    model.update(event(1, 2, EventKind::GroupNamed { name, by: by.clone() }));
    let content = Content::text(hostile);
    model.update(event(1, 0, EventKind::Ephemeral { sender: by, content }));
    let cause = hostile.to_owned();
    let evidence = Vec::new();
    model.update(event(1, 4, EventKind::HeldByBadCommit { cause, evidence }));
    model.update(Happening::Groups(vec![known(
        2,
        hostile,
        GroupStatus::Active,
        &[],
    )]));
    model.update(Happening::Ended(Err(hostile.into())));
    let mut shown = lines(&model);
    assert!(shown.len() > 9, "{shown:?}");
    let (group, words) = (group_id(1), hostile.to_owned());
    model.update(Happening::Found {
        group,
        words,
        messages,
    });
    shown.push(model.aside().unwrap().title.clone());
    shown.extend(model.groups().iter().map(OpenGroup::title));
    shown.push(model.notice().unwrap().text.clone());
    for line in &shown {
        assert!(!line.chars().any(crate::out::is_deceptive), "{line:?}");
    }
    assert!(!shown.iter().any(|line| line.starts_with("bob")), "{shown:?}");
}

#[test]
fn what_is_entered_is_sent_and_waits_until_it_is_accepted() {
    let mut model = model();
    let order = enter(&mut model, "  bonjour ");
    let group = group_id(1);
    let content = Box::new(Content::text("bonjour"));
    assert_eq!(
        order,
        Some(Order::Send {
            ticket: 0,
            group,
            content
        })
    );
    assert_eq!(lines(&model), ["bonjour"]);
    let outcome = Ok(());
    model.update(Happening::Sent { ticket: 0, outcome });
    let mut queued = said(1, ME, "bonjour");
    queued.status = SendStatus::Queued;
    remember(&mut model, 1, vec![queued]);
    assert_eq!(
        lines(&model)[1..],
        ["22:13 01000000 alice@a.example: bonjour  [queued]"]
    );
    remember(&mut model, 1, vec![said(1, ME, "bonjour")]);
    assert_eq!(lines(&model)[1..], ["22:13 #1 alice@a.example: bonjour"]);
    assert!(model.notice().is_none());

    enter(&mut model, "/reply 1 too much");
    assert_eq!(lines(&model)[2..], ["/reply 1 too much"]);
    let outcome = Err("refused".to_owned());
    model.update(Happening::Sent { ticket: 1, outcome });
    assert_eq!(model.notice().unwrap().text, "not sent: refused");
    assert_eq!(model.input.window(40).0, "/reply 1 too much", "to be tried again");
    assert_eq!(lines(&model).len(), 2);
}

#[test]
fn commands_are_orders_for_the_group_that_is_shown() {
    let mut model = model();
    model.update(Happening::Did(Action::Switch(1)));
    let group = group_id(2);
    let users: Vec<UserId> = vec!["carol@a.example".parse().unwrap()];
    let add = enter(&mut model, "/add carol");
    assert_eq!(
        add,
        Some(Order::Add {
            group,
            users: users.clone()
        })
    );
    assert_eq!(
        enter(&mut model, "/remove carol@a.example"),
        Some(Order::Remove { group, users })
    );
    let (user, role) = ("carol@a.example".parse().unwrap(), Role::Moderator);
    assert_eq!(
        enter(&mut model, "/role carol moderator"),
        Some(Order::SetRole { group, user, role })
    );
    assert_eq!(enter(&mut model, "/leave"), Some(Order::Leave { group }));
    assert_eq!(enter(&mut model, "/rejoin"), Some(Order::Rejoin { group }));
    let name = "Tea".to_owned();
    assert_eq!(
        enter(&mut model, "/rename Tea"),
        Some(Order::Rename {
            group,
            name: name.clone()
        })
    );
    assert_eq!(enter(&mut model, "/new Tea"), Some(Order::Create { name }));
    assert_eq!(enter(&mut model, "/quit"), Some(Order::Quit));
    assert_eq!(model.update(Happening::Did(Action::Quit)), Some(Order::Quit));
    assert_eq!(enter(&mut model, "/dance"), None);
    assert!(model.notice().unwrap().is_error);
    model.update(Happening::Did(Action::Escape));
    assert!(model.notice().is_none());
    assert_eq!(enter(&mut model, "/help"), None);
    let help = model.aside().unwrap().history.rows(200, 50, [].into_iter());
    assert_eq!(help.len(), command::HELP.len());
    model.update(Happening::Did(Action::Escape));
    assert!(model.aside().is_none());
}

#[test]
fn groups_are_known_by_what_the_client_says() {
    let mut model = model();
    let people = &model.groups()[0].people;
    let person = |user: &str, role, devices| Person {
        user: user.into(),
        role,
        devices,
    };
    assert_eq!(
        *people,
        [person(ME, "owner", 1), person("bob@a.example", "member", 2)]
    );
    // A group may be heard of before it is listed; one that was left long ago is not listed.
    model.update(event(
        4,
        1,
        EventKind::Joined {
            by: peer("bob@a.example"),
        },
    ));
    assert_eq!(model.groups()[3].title(), "04040404");
    model.update(Happening::Groups(vec![
        known(4, "New", GroupStatus::Active, &[]),
        known(5, "Old", GroupStatus::Removed, &[]),
        known(1, "Lunch", GroupStatus::HeldByBadCommit, &[]),
    ]));
    assert_eq!(model.groups().len(), 4);
    assert_eq!(model.groups()[3].title(), "New");
    assert_eq!(model.groups()[0].status, Some(GroupStatus::HeldByBadCommit));
}

#[test]
fn long_work_is_shown_until_it_is_finished() {
    let mut model = model();
    let progress = |work, done, total, finished| {
        Happening::Progress(Progress {
            work,
            done,
            total,
            finished,
        })
    };
    model.update(progress(Work::CatchingUp, 300, None, false));
    model.update(progress(Work::Adding(group_id(1)), 0, Some(1000), false));
    model.update(progress(Work::Adding(group_id(1)), 256, Some(1000), false));
    assert_eq!(
        model.progress().unwrap(),
        "catching up: 300, adding users: 256 of 1000"
    );
    model.update(progress(Work::CatchingUp, 300, None, true));
    assert_eq!(model.progress().unwrap(), "adding users: 256 of 1000");
    model.update(progress(Work::Adding(group_id(1)), 256, Some(1000), true));
    assert_eq!(model.progress(), None);
}

#[test]
fn a_device_that_nobody_expected_is_an_alarm() {
    let mut model = model();
    model.update(event(
        2,
        1,
        EventKind::DeviceAdded {
            user: "bob@a.example".parse().unwrap(),
            device: peer(ME).device,
            by: peer("carol@a.example"),
            epoch: Epoch(8),
        },
    ));
    assert_eq!(unread(&model), [0, 1, 0]);
    model.update(Happening::Did(Action::Switch(1)));
    let (_, group) = model.selected().unwrap();
    let rows = group.history.rows(200, 9, [].into_iter());
    assert_eq!(rows[1].0, Tone::Alarm);
    assert!(rows[1].1.contains("bob@a.example") && rows[1].1.contains("carol@a.example"));
}
