use ratatui::Terminal;
use ratatui::backend::TestBackend;
use valise_client_sdk::{Content, HistoryMessage, OfflineReason, Position, Progress, Role, SendStatus, Work};

use super::*;
use crate::chat::input::Edit;
use crate::chat::keys::Action;
use crate::chat::model::Happening;
use crate::chat::model::tests::{ME, enter, group_id, known, message, model, remember, said};

/// What a terminal of that size shows, row by row.
fn drawn(model: &mut Model, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let mut pane = Rect::ZERO;
    for _ in 0..2 {
        terminal.draw(|frame| pane = draw(model, frame)).unwrap();
        model.update(Happening::Pane(pane.width.into(), pane.height.into()));
    }
    let buffer = terminal.backend().buffer();
    let rows = (0..rows).map(|y| {
        let mut row = String::new();
        let mut skip = 0;
        for x in 0..columns {
            let symbol = buffer[(x, y)].symbol();
            // The second half of a wide character is a cell of its own, which is not drawn.
            if skip == 0 {
                row.push_str(symbol);
                skip = width(symbol).saturating_sub(1);
            } else {
                skip -= 1;
            }
        }
        row.trim_end().to_owned()
    });
    rows.collect()
}

#[test]
fn the_screen_shows_groups_history_members_and_the_input() {
    let mut model = model();
    model.update(Happening::Connection(Connection::Live));
    let messages = vec![
        said(1, "bob@a.example", "Où mange-t-on ?"),
        said(2, ME, "日本の店"),
    ];
    remember(&mut model, 1, messages);
    model.update(message(2, 3, "bob@a.example", "unread"));
    model.update(Happening::Did(Action::Edit(Edit::Insert("Chez Marcel".into()))));
    let rows = drawn(&mut model, 90, 9);
    assert_eq!(
        rows,
        [
            "Valise  alice@a.example  live",
            "Groups────────────────┌Lunch (01010101) active, epoch 7───────┌Members: 2─────────────────",
            "Lunch                 │                                       │alice@a.example owner",
            "Budget               1│— 2023-11-14 —                         │bob@a.example ×2 member",
            "Night shift           │22:13 #1 bob@a.example: Où mange-t-on ?│",
            "                      │22:13 #2 alice@a.example: 日本の店     │",
            "",
            "> Chez Marcel",
            "Tab: next group  PgUp/PgDn: scroll  /help: commands  Ctrl-C: quit",
        ]
    );
}

#[test]
fn trouble_is_shown() {
    let mut model = model();
    let reason = OfflineReason::Unreachable;
    model.update(Happening::Connection(Connection::Offline { reason }));
    model.update(Happening::Groups(vec![known(
        1,
        "Lunch",
        GroupStatus::HeldByBadCommit,
        &[(ME, Role::Reader)],
    )]));
    model.update(Happening::Progress(Progress {
        work: Work::Adding(group_id(1)),
        done: 256,
        total: Some(1000),
        finished: false,
    }));
    enter(&mut model, "/dance");
    let rows = drawn(&mut model, 120, 8);
    assert!(
        rows[0].ends_with("offline: the server cannot be reached"),
        "{}",
        rows[0]
    );
    assert!(
        rows[1].contains("held: a commit cannot be processed"),
        "{}",
        rows[1]
    );
    assert!(rows[2].starts_with("! Lunch"), "{}", rows[2]);
    assert!(rows[2].ends_with("alice@a.example reader"), "{}", rows[2]);
    assert!(
        rows[5].starts_with("adding users: 256 of 1000 · there is no /dance"),
        "{}",
        rows[5]
    );
}

#[test]
fn a_group_whose_members_saw_different_histories_is_marked() {
    let mut model = model();
    let mut lunch = known(1, "Lunch", GroupStatus::Active, &[(ME, Role::Reader)]);
    lunch.state.forked_at = Some(Position(4));
    model.update(Happening::Groups(vec![lunch]));
    let rows = drawn(&mut model, 120, 8);
    assert!(
        rows[1].contains("active, epoch 7, members saw different histories"),
        "{}",
        rows[1]
    );
    assert!(rows[2].starts_with("! Lunch"), "{}", rows[2]);
}

#[test]
fn what_is_hostile_stays_in_its_place() {
    let mut model = model();
    let hostile = format!(
        "{}\x1b[2J\x1b[1;1H\u{202e}{}\nbob@a.example: forged",
        "A".repeat(300),
        "語".repeat(300)
    );
    let by = crate::chat::model::tests::peer("bob@a.example");
    let name = hostile.clone();
    let mut other = said(2, "bob@a.example", &hostile);
    other.edited = true;
    remember(&mut model, 1, vec![said(1, "bob@a.example", &hostile), other]);
    model.update(crate::chat::model::tests::event(
        1,
        2,
        valise_client_sdk::EventKind::GroupNamed { name, by },
    ));
    for (columns, rows) in [(90, 30), (79, 24), (40, 10), (39, 9), (10, 5), (3, 3), (1, 1)] {
        let drawn = drawn(&mut model, columns, rows);
        for row in &drawn {
            assert!(!row.chars().any(crate::out::is_deceptive), "{row:?}");
            assert!(!row.starts_with("bob"), "{row:?}");
        }
    }
    let rows = drawn(&mut model, 90, 30);
    assert!(rows[0].starts_with("Valise"), "{rows:?}");
    assert!(
        rows[1].contains("active, epoch 7"),
        "the name gives way: {}",
        rows[1]
    );
}

#[test]
fn narrow_terminals_show_the_conversation() {
    let mut model = model();
    remember(
        &mut model,
        1,
        vec![said(1, "bob@a.example", "one two three four")],
    );
    let rows = drawn(&mut model, 30, 8);
    assert_eq!(rows[3], "│22:13 #1 bob@a.example: one");
    assert_eq!(rows[4], "│  two three four");
    assert!(!rows.iter().any(|row| row.contains("Night shift")));
}

#[test]
fn long_lists_keep_what_matters_in_sight() {
    let mut model = model();
    let groups = (4..60).map(|number| known(number, &format!("Group {number}"), GroupStatus::Active, &[]));
    model.update(Happening::Groups(groups.collect()));
    model.update(Happening::Did(Action::Switch(-1)));
    let users: Vec<String> = (0..30)
        .map(|number| format!("user{number:02}@a.example"))
        .collect();
    let members: Vec<(&str, Role)> = users.iter().map(|user| (user.as_str(), Role::Member)).collect();
    model.update(Happening::Groups(vec![known(
        59,
        "Group 59",
        GroupStatus::Active,
        &members,
    )]));
    let rows = drawn(&mut model, 100, 10);
    assert!(rows[6].starts_with("Group 59"), "{rows:?}");
    assert!(rows[6].ends_with("and 26 more"), "{rows:?}");
}

#[test]
fn scrolling_shows_older_lines() {
    let mut model = model();
    let bobs = |number| said(number, "bob@a.example", &format!("line {number}"));
    let mut messages: Vec<HistoryMessage> = (1..=50).map(bobs).collect();
    remember(&mut model, 1, messages.clone());
    drawn(&mut model, 100, 10);
    model.update(Happening::Did(Action::ScrollPages(1)));
    let rows = drawn(&mut model, 100, 10);
    assert!(rows[1].contains("4 more below"), "{}", rows[1]);
    assert!(rows[6].contains("line 46 "), "{}", rows[6]);
    messages.push(bobs(51));
    remember(&mut model, 1, messages);
    assert!(drawn(&mut model, 100, 10)[6].contains("line 46 "));
    enter(&mut model, "so");
    assert!(drawn(&mut model, 100, 10)[6].contains("so"));
}

#[test]
fn what_became_of_messages_is_shown_where_they_stand() {
    let mut model = model();
    assert!(drawn(&mut model, 100, 9)[2].contains("nothing is remembered here"));
    let mut queued = said(9, ME, "now");
    queued.status = SendStatus::Queued;
    remember(&mut model, 1, vec![said(1, "bob@a.example", "soon"), queued]);
    let rows = drawn(&mut model, 100, 9);
    assert!(rows[4].contains("#1 bob@a.example: soon "), "{rows:?}");
    assert!(rows[5].contains("now  [queued]"), "{rows:?}");
    let mut edited = said(1, "bob@a.example", "later");
    edited.edited = true;
    let mut accepted = said(9, ME, "");
    accepted.content = Some(Content::reply(edited.id, "now"));
    remember(&mut model, 1, vec![edited, accepted]);
    let rows = drawn(&mut model, 100, 9);
    assert!(rows[4].contains("#1 bob@a.example: later  [edited]"), "{rows:?}");
    assert!(rows[5].contains("#9 alice@a.example: (to #1) now"), "{rows:?}");
    assert!(!rows[5].contains("queued"), "{rows:?}");
}

#[test]
fn what_was_found_takes_the_place_of_the_history() {
    let mut model = model();
    remember(&mut model, 1, vec![said(1, "bob@a.example", "something else")]);
    let bobs = |number| said(number, "bob@a.example", &format!("budget {number}"));
    model.update(Happening::Found {
        group: group_id(1),
        words: "budget".into(),
        messages: (1..=9).map(bobs).collect(),
    });
    let rows = drawn(&mut model, 120, 9);
    assert!(
        rows[1].contains("9 found in Lunch (Esc: back): budget"),
        "{rows:?}"
    );
    assert!(rows[5].contains("#9 bob@a.example: budget 9"), "{rows:?}");
    model.update(Happening::Did(Action::ScrollPages(1)));
    let rows = drawn(&mut model, 120, 9);
    assert!(rows[1].contains("budget, 3 more below"), "{rows:?}");
    assert!(rows[5].contains("#6 bob@a.example: budget 6"), "{rows:?}");
    model.update(Happening::Did(Action::Escape));
    assert!(drawn(&mut model, 120, 9)[5].contains("something else"));
}

#[test]
fn help_lists_the_commands() {
    let mut model = model();
    enter(&mut model, "/help");
    let rows = drawn(&mut model, 120, 30);
    for command in ["/reply N TEXT", "/search WORDS", "/role USER ROLE", "/quit"] {
        assert!(rows.iter().any(|row| row.contains(command)), "{rows:?}");
    }
}
