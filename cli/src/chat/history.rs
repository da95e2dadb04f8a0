//! The lines of one group that arrived in this run.

use std::collections::VecDeque;

use super::text::wrap;

/// Most lines of a group that are kept.
const MAX_LINES: usize = 2000;
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

struct Line {
    tone: Tone,
    /// Clean.
    text: String,
}

/// Lines, oldest first, and how far they are scrolled back.
#[derive(Default)]
pub(super) struct History {
    lines: VecDeque<Line>,
    /// Rows below the lowest that is shown.
    back: usize,
    /// Columns and rows of where it is shown.
    pane: (usize, usize),
}

impl History {
    /// The text must be clean.
    pub(super) fn push(&mut self, tone: Tone, text: String) {
        if self.back > 0 {
            // What is being read stays where it is.
            self.back += wrap(&text, self.pane.0, INDENT).len();
        }
        self.lines.push_back(Line { tone, text });
        if self.lines.len() > MAX_LINES {
            self.lines.pop_front();
        }
        self.scroll(0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
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
        let all: usize = self
            .lines
            .iter()
            .map(|line| wrap(&line.text, self.pane.0, INDENT).len())
            .sum();
        self.back = wanted.min(all.saturating_sub(self.pane.1));
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
        let kept = self.lines.iter().map(|line| (line.tone, line.text.as_str()));
        let mut rows: Vec<(Tone, String)> = Vec::with_capacity(height);
        let mut below = self.back;
        for (tone, text) in kept.chain(more).rev() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(lines: usize) -> History {
        let mut history = History::default();
        history.set_pane(20, 3);
        for number in 0..lines {
            history.push(Tone::Others, format!("line {number}"));
        }
        history
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
        history.push(
            Tone::Others,
            "a line that takes more than one row of the pane".into(),
        );
        assert_eq!(shown(&history), before);
        history.show_newest();
        assert_ne!(shown(&history), before);
    }

    #[test]
    fn old_lines_go() {
        let history = history(MAX_LINES + 5);
        assert_eq!(history.lines.len(), MAX_LINES);
        assert_eq!(history.lines[0].text, "line 5");
    }
}
