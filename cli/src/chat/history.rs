//! The lines of one group: what its device remembers of what was said, and what else happened in this run.

use std::collections::{HashSet, VecDeque};
use std::time::SystemTime;

use valise_client_sdk::{MessageId, Position};

use super::message::{Day, Message, State};
use super::text::wrap;

/// Most notices of a group that are kept.
const MAX_NOTICES: usize = 2000;
/// Messages after which scrolling back reads no more: all that are shown are read again when one changes.
const MAX_MESSAGES: usize = 5000;
const INDENT: usize = 2;

/// What a line is, and so how it looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    /// What this user said.
    Own,
    /// What somebody else said.
    Others,
    /// What happened.
    Notice,
    /// What should not happen, or should be looked at.
    Alarm,
    /// What is on its way.
    Pending,
}

/// What is no message, and not remembered.
pub(super) struct Notice {
    /// It stands after the messages up to here. `None`: after all, until something comes that has a place in the log.
    after: Option<Position>,
    day: Option<Day>,
    tone: Tone,
    text: String,
}

impl Notice {
    /// Something that happened, by an entry of the log or without one ([`Position::NONE`]). The text must be clean.
    pub(super) fn new(position: Position, at: SystemTime, tone: Tone, text: String) -> Self {
        Self {
            after: Some(position).filter(|position| *position != Position::NONE),
            day: Some(Day::of(at)),
            tone,
            text,
        }
    }

    /// A line without a time.
    pub(super) fn plain(text: String) -> Self {
        Self {
            after: None,
            day: None,
            tone: Tone::Others,
            text,
        }
    }

    /// Will it stay where it stands?
    const fn has_place(&self) -> bool {
        self.after.is_some()
    }

    fn is_before(&self, message: &Message) -> bool {
        match (self.after, message.position) {
            // Messages that are not in the log stand at the end.
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(after), Some(position)) => after < position,
        }
    }
}

/// By which a line is found again when others have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Day(u64),
    Message(MessageId),
    Notice(u64),
}

/// Is what was read what is remembered?
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Freshness {
    #[default]
    Outdated,
    Asked,
    Fresh,
}

struct Line<'a> {
    key: Key,
    tone: Tone,
    text: &'a str,
}

struct Lines<'a> {
    lines: Vec<Line<'a>>,
    /// The day of the last one.
    today: Option<u64>,
}

impl<'a> Lines<'a> {
    /// Where another day begins, a line says so.
    fn put(&mut self, day: Option<&'a Day>, line: Line<'a>) {
        if let Some(day) = day.filter(|day| self.today != Some(day.number)) {
            self.today = Some(day.number);
            self.lines.push(Line {
                key: Key::Day(day.number),
                tone: Tone::Notice,
                text: &day.line,
            });
        }
        self.lines.push(line);
    }
}

/// Lines, oldest first, and how far they are scrolled back.
#[derive(Default)]
pub(super) struct History {
    /// In the log's order; then those that are not in it.
    messages: Vec<Message>,
    /// Is nothing remembered that is older than those?
    whole: bool,
    /// With their numbers, as they came.
    notices: VecDeque<(u64, Notice)>,
    next_notice: u64,
    freshness: Freshness,
    /// Of those messages it was said that they were seen.
    seen: HashSet<MessageId>,
    /// Older messages will soon be looked at.
    wants_more: bool,
    /// Rows below the lowest that is shown.
    back: usize,
    /// Columns and rows of where it is shown.
    pane: (usize, usize),
}

impl History {
    /// An event of that entry came: what came before it, and is in no log, stands before it. Clocks do not say so: messages have the service's
    /// time, and this device's may be another.
    pub(super) fn reached(&mut self, position: Position) {
        let before = Position(position.0.saturating_sub(1));
        if self.notices.back().is_none_or(|(_, notice)| notice.has_place()) {
            return;
        }
        self.change(|history| {
            let newest = history.notices.iter_mut().rev().map(|(_, notice)| notice);
            for notice in newest.take_while(|notice| !notice.has_place()) {
                notice.after = Some(before);
            }
        });
    }

    /// Something happened.
    pub(super) fn push(&mut self, notice: Notice) {
        self.change(|history| {
            history.notices.push_back((history.next_notice, notice));
            history.next_notice += 1;
            if history.notices.len() > MAX_NOTICES {
                history.notices.pop_front();
            }
        });
    }

    /// The last messages, oldest first, and whether there are no others.
    pub(super) fn remember(&mut self, messages: Vec<Message>, whole: bool) {
        self.change(|history| {
            history.messages = messages;
            history.whole = whole;
            // They tell by themselves. What could not be noted is said again.
            history.seen.clear();
            if history.freshness == Freshness::Asked {
                history.freshness = Freshness::Fresh;
            }
        });
    }

    /// What is remembered may have changed.
    pub(super) fn outdated(&mut self) {
        self.freshness = Freshness::Outdated;
    }

    /// What is to be read now, if anything: back to that position, or only the last page; and whether a page more than that. Said once.
    pub(super) fn next_reading(&mut self) -> Option<(Option<Position>, bool)> {
        let wants_more = std::mem::take(&mut self.wants_more);
        let more = wants_more && !self.whole && self.messages.len() < MAX_MESSAGES;
        if self.freshness != Freshness::Outdated && !more {
            return None;
        }
        self.freshness = Freshness::Asked;
        // Where the newest lines are shown, the last page is enough.
        let oldest = self.messages.len().saturating_sub(MAX_MESSAGES);
        let first = self.messages.get(oldest).filter(|_| more || self.back > 0);
        Some((first.and_then(|message| message.position), more))
    }

    /// Those that were read.
    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Messages that wait to be read, and of which something is shown, with more lines after the newest. Said once.
    pub(super) fn next_seen<'a>(&mut self, more: impl Iterator<Item = &'a str>) -> Vec<MessageId> {
        let waiting = self.messages.iter().filter(|message| message.waits_to_be_read);
        let waiting: HashSet<MessageId> = waiting.map(|message| message.id).collect();
        if waiting.is_subset(&self.seen) {
            return Vec::new();
        }
        let (columns, height) = self.pane;
        let mut below: usize = more.map(|text| wrap(text, columns, INDENT).len()).sum();
        let mut seen = Vec::new();
        for line in self.lines().iter().rev() {
            if below >= self.back + height {
                break;
            }
            below += self.height(line);
            if let Key::Message(id) = line.key
                && below > self.back
                && waiting.contains(&id)
                && !self.seen.contains(&id)
            {
                seen.push(id);
            }
        }
        self.seen.extend(&seen);
        seen
    }

    /// May there be an own message that the service has not accepted?
    pub(super) fn may_have_queued(&self) -> bool {
        let mut states = self.messages.iter().map(|message| message.state);
        self.freshness != Freshness::Fresh || states.any(|state| state == State::Queued)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.notices.is_empty()
    }

    /// Where it is shown.
    pub(super) fn set_pane(&mut self, columns: usize, rows: usize) {
        if self.pane != (columns, rows) {
            self.pane = (columns, rows);
            self.scroll(0);
        }
    }

    /// Scrolls back by so many rows; forward where they are negative. Stays within the lines.
    pub(super) fn scroll(&mut self, rows: isize) {
        let wanted = self.back.saturating_add_signed(rows);
        if wanted == 0 {
            self.back = 0;
            return;
        }
        let all: usize = self.lines().iter().map(|line| self.height(line)).sum();
        let most = all.saturating_sub(self.pane.1);
        self.back = wanted.min(most);
        // Before the oldest line is reached.
        self.wants_more |= rows > 0 && most - self.back < self.pane.1.max(1);
    }

    /// By a pane, less one row.
    pub(super) fn scroll_pages(&mut self, pages: isize) {
        let page = self.pane.1.saturating_sub(1).max(1);
        self.scroll(pages.saturating_mul(page.cast_signed()));
    }

    /// To the newest line.
    pub(super) fn show_newest(&mut self) {
        self.back = 0;
    }

    /// Rows below what is shown.
    pub(super) fn rows_below(&self) -> usize {
        self.back
    }

    /// What is shown in a pane of that size, with more lines after the newest, from top to bottom.
    pub(super) fn rows<'a>(
        &'a self,
        columns: usize,
        height: usize,
        more: impl DoubleEndedIterator<Item = (Tone, &'a str)>,
    ) -> Vec<(Tone, String)> {
        let lines = self.lines().into_iter().map(|line| (line.tone, line.text));
        let mut rows: Vec<(Tone, String)> = Vec::with_capacity(height);
        let mut below = self.back;
        for (tone, text) in lines.chain(more).rev() {
            for row in wrap(text, columns, INDENT).into_iter().rev() {
                if below > 0 {
                    below -= 1;
                } else if rows.len() < height {
                    rows.push((tone, row));
                } else {
                    rows.reverse();
                    return rows;
                }
            }
        }
        rows.reverse();
        rows
    }

    /// Messages and notices in one order, with a line where a day begins.
    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Lines {
            lines: Vec::with_capacity(self.messages.len() + self.notices.len()),
            today: None,
        };
        // What happened between messages that were not read would look as if it had been just before those that were.
        let first = self.messages.first().filter(|_| !self.whole);
        let mut notices = self
            .notices
            .iter()
            .skip_while(|(_, notice)| first.is_some_and(|first| notice.is_before(first)))
            .peekable();
        for message in &self.messages {
            while let Some((number, notice)) = notices.next_if(|(_, notice)| notice.is_before(message)) {
                lines.put(notice.day.as_ref(), notice_line(*number, notice));
            }
            let line = Line {
                key: Key::Message(message.id),
                tone: message.tone,
                text: &message.text,
            };
            lines.put(Some(&message.day), line);
        }
        for (number, notice) in notices {
            lines.put(notice.day.as_ref(), notice_line(*number, notice));
        }
        lines.lines
    }

    /// Rows that it takes.
    fn height(&self, line: &Line<'_>) -> usize {
        wrap(line.text, self.pane.0, INDENT).len()
    }

    /// Changes what there is to show. What is being read stays where it is.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let reading = self.lowest();
        change(self);
        if let Some(back) = reading.and_then(|(key, hidden)| self.rows_after(key, hidden)) {
            self.back = back;
        }
        self.scroll(0);
    }

    /// The lowest line of which something is shown, and the rows of it that are not. `None` where that is the newest line.
    fn lowest(&self) -> Option<(Key, usize)> {
        if self.back == 0 {
            return None;
        }
        let mut below = 0;
        for line in self.lines().iter().rev() {
            let height = self.height(line);
            if below + height > self.back {
                return Some((line.key, self.back - below));
            }
            below += height;
        }
        None
    }

    /// Rows that are below that line, and so many of its own.
    fn rows_after(&self, key: Key, hidden: usize) -> Option<usize> {
        let mut below = 0;
        for line in self.lines().iter().rev() {
            let height = self.height(line);
            if line.key == key {
                return Some(below + hidden.min(height.saturating_sub(1)));
            }
            below += height;
        }
        None
    }
}

fn notice_line(number: u64, notice: &Notice) -> Line<'_> {
    Line {
        key: Key::Notice(number),
        tone: notice.tone,
        text: &notice.text,
    }
}

#[cfg(test)]
mod tests;
