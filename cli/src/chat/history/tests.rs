use std::time::Duration;

use valise_client_sdk::{HistoryMessage, SendStatus};

use super::*;
use crate::chat::message;
use crate::chat::model::tests::{ME, peer, said};

fn history(lines: usize) -> History {
    let mut history = History::default();
    history.set_pane(20, 3);
    for number in 0..lines {
        history.push(Notice::plain(format!("line {number}")));
    }
    history
}

fn remember(history: &mut History, messages: &[HistoryMessage], whole: bool) {
    let messages = message::shown(messages, &ME.parse().unwrap(), peer(ME).device);
    history.remember(messages, whole);
}

fn notice(position: u64, text: &str) -> Notice {
    let at = said(1, ME, "").at;
    Notice::new(Position(position), at, Tone::Notice, text.to_owned())
}

fn rows(history: &History, height: usize) -> Vec<String> {
    let rows = history.rows(60, height, [].into_iter());
    rows.into_iter().map(|(_, row)| row).collect()
}

fn shown(history: &History) -> Vec<String> {
    let rows = history.rows(20, 3, [].into_iter());
    rows.into_iter().map(|(_, row)| row).collect()
}

#[test]
fn the_newest_lines_are_shown() {
    assert_eq!(shown(&history(2)), ["line 0", "line 1"]);
    assert_eq!(shown(&history(9)), ["line 6", "line 7", "line 8"]);
    let pending = [(Tone::Pending, "on its way")];
    let history = history(9);
    let rows = history.rows(20, 2, pending.into_iter());
    assert_eq!(rows[1], (Tone::Pending, "on its way".to_owned()));
}

#[test]
fn scrolling_stays_within_the_lines() {
    let mut history = history(9);
    history.scroll_pages(1);
    assert_eq!(shown(&history), ["line 4", "line 5", "line 6"]);
    history.scroll_pages(1000);
    assert_eq!(shown(&history), ["line 0", "line 1", "line 2"]);
    history.scroll(-1);
    assert_eq!(shown(&history), ["line 1", "line 2", "line 3"]);
    history.scroll_pages(-1000);
    assert_eq!(shown(&history), ["line 6", "line 7", "line 8"]);
}

#[test]
fn what_is_read_stays_when_more_arrives() {
    let mut history = history(9);
    history.scroll(2);
    let before = shown(&history);
    history.push(Notice::plain(
        "a line that takes more than one row of the pane".into(),
    ));
    assert_eq!(shown(&history), before);
    history.show_newest();
    assert_ne!(shown(&history), before);
}

#[test]
fn what_is_read_stays_when_other_messages_change() {
    let mut messages: Vec<HistoryMessage> = (1..=9).map(|number| said(number, ME, "so")).collect();
    let mut history = History::default();
    history.set_pane(60, 3);
    remember(&mut history, &messages, true);
    history.scroll(4);
    let before = rows(&history, 3);
    assert!(before[2].contains("#5 "), "{before:?}");
    messages[7].content = Some("zwei\nZeilen".into());
    messages.remove(0);
    messages.push(said(10, ME, "so"));
    remember(&mut history, &messages, true);
    assert_eq!(rows(&history, 3), before);
}

#[test]
fn messages_and_what_else_happened_are_in_one_order() {
    let mut history = History::default();
    history.set_pane(60, 9);
    history.push(notice(1, "joined"));
    history.push(notice(4, "named"));
    // From no entry of the log: between those that came before and after it.
    history.reached(Position(5));
    let late = said(1, ME, "").at + Duration::from_secs(24 * 3600);
    history.push(Notice::new(Position::NONE, late, Tone::Alarm, "failed".into()));
    history.reached(Position(6));
    let mut next_day = said(6, ME, "f");
    next_day.at = late + Duration::from_secs(1);
    let mut queued = said(7, ME, "q");
    queued.status = SendStatus::Queued;
    let messages = [said(2, ME, "b"), said(5, ME, "e"), next_day, queued];
    remember(&mut history, &messages, true);
    let all = rows(&history, 20);
    let starts: Vec<&str> = all
        .iter()
        .map(|row| row.rsplit(": ").next().unwrap_or(row))
        .collect();
    assert_eq!(
        starts,
        [
            "— 2023-11-14 —",
            "joined",
            "b",
            "named",
            "e",
            "— 2023-11-15 —",
            "failed",
            "f",
            "— 2023-11-14 —",
            "q  [queued]"
        ]
    );
    // What was before the oldest that was read has its place there, not here.
    remember(&mut history, &messages[1..], false);
    assert!(rows(&history, 20)[1].ends_with('e'));
}

#[test]
fn what_is_in_no_log_stands_where_it_came_whatever_the_clock_says() {
    let mut history = History::default();
    history.set_pane(60, 9);
    let at = said(1, ME, "").at;
    let fast = at + Duration::from_secs(1000);
    let slow = at - Duration::from_secs(1000);
    history.push(Notice::new(Position::NONE, fast, Tone::Alarm, "A".into()));
    history.push(Notice::new(Position::NONE, slow, Tone::Alarm, "B".into()));
    let ends = |history: &History| -> String {
        rows(history, 20)
            .iter()
            .skip(1)
            .filter_map(|row| row.chars().last())
            .collect()
    };
    let messages: Vec<HistoryMessage> = (1..=3)
        .map(|number| said(number, ME, &number.to_string()))
        .collect();
    remember(&mut history, &messages[..2], true);
    assert_eq!(ends(&history), "12AB");
    history.reached(Position(3));
    history.push(Notice::new(Position::NONE, slow, Tone::Alarm, "C".into()));
    remember(&mut history, &messages, true);
    assert_eq!(ends(&history), "12AB3C");
    // It has its place.
    history.reached(Position(9));
    history.push(notice(9, "D"));
    assert_eq!(ends(&history), "12AB3CD");
    let mut messages = messages;
    messages.push(said(9, ME, "9"));
    remember(&mut history, &messages, true);
    assert_eq!(ends(&history), "12AB3C9D");
}

#[test]
fn old_notices_go() {
    let history = history(MAX_NOTICES + 5);
    assert_eq!(history.notices.len(), MAX_NOTICES);
    assert_eq!(history.notices[0].1.text, "line 5");
}

#[test]
fn older_messages_are_read_when_they_are_about_to_be_seen() {
    let mut history = History::default();
    history.set_pane(40, 3);
    assert_eq!(history.next_reading(), Some((None, false)));
    assert_eq!(history.next_reading(), None);
    let messages: Vec<HistoryMessage> = (11..=20).map(|number| said(number, ME, "so")).collect();
    remember(&mut history, &messages, false);
    history.scroll(1);
    assert_eq!(history.next_reading(), None, "the top is far");
    history.outdated();
    assert_eq!(history.next_reading(), Some((Some(Position(11)), false)));
    history.scroll_pages(10);
    assert_eq!(history.next_reading(), Some((Some(Position(11)), true)));
    remember(&mut history, &messages, true);
    history.scroll_pages(10);
    assert_eq!(history.next_reading(), None, "there are none");
    history.show_newest();
    history.outdated();
    assert_eq!(history.next_reading(), Some((None, false)));
}
