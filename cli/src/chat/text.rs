//! Text of other people, made fit for cells of a terminal.
//!
//! Whoever writes a message, or names a group, must not move the cursor, recolour or clear the screen, turn the direction of what
//! is beside it, or pass off their text as somebody else's line.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::out::is_deceptive;

/// Most characters of one text that are shown.
const MAX_CHARS: usize = 4000;
/// Most line breaks of one text that are kept.
const MAX_BREAKS: usize = 60;
/// Most characters without a width in a row: accents and parts of emoji need a few, towers of them cover other lines.
const MAX_WIDTHLESS: usize = 6;

/// With line breaks, without any other control character.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(MAX_CHARS));
    let (mut breaks, mut widthless) = (0, 0);
    let mut chars = text.chars();
    for c in chars.by_ref().take(MAX_CHARS) {
        let shown = match c {
            '\r' => continue,
            '\n' if breaks < MAX_BREAKS => {
                breaks += 1;
                '\n'
            }
            '\n' | '\t' => ' ',
            c if is_mark_of_direction(c) => continue,
            c if is_deceptive(c) || is_invisible(c) => '\u{fffd}',
            c => c,
        };
        let has_width =
            shown == '\n' || unicode_width::UnicodeWidthChar::width(shown).is_some_and(|width| width > 0);
        widthless = if has_width { 0 } else { widthless + 1 };
        if widthless <= MAX_WIDTHLESS {
            clean.push(shown);
        }
    }
    if chars.next().is_some() {
        clean.push('…');
    }
    clean
}

/// The same on one line.
pub(super) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

/// They move what stands beside them, and are not seen themselves.
fn is_mark_of_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
}

/// Nothing is drawn for them, or a terminal and we differ on how much. Joiners, accents and variation selectors are not among them.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Columns of a terminal that it takes.
pub(super) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// As much of it as fits, with an ellipsis where that is not all.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 1;
    for grapheme in text.graphemes(true) {
        used += width(grapheme);
        if used > columns {
            break;
        }
        cut.push_str(grapheme);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// Rows of at most that many columns, broken between words where that is possible. All but the first are indented, so that a line
/// break in a message does not look like another message.
pub(super) fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let indent = if indent * 2 < columns { indent } else { 0 };
    let mut rows = Rows {
        done: Vec::new(),
        row: String::new(),
        used: 0,
        columns: columns.max(1),
        indent,
    };
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            rows.end_row();
        }
        for word in line.split_word_bounds() {
            rows.put(word);
        }
    }
    rows.done.push(rows.row);
    rows.done
}

struct Rows {
    done: Vec<String>,
    row: String,
    used: usize,
    columns: usize,
    indent: usize,
}

impl Rows {
    fn end_row(&mut self) {
        let next = " ".repeat(self.indent);
        self.done.push(std::mem::replace(&mut self.row, next));
        self.used = self.indent;
    }

    fn put(&mut self, word: &str) {
        let wide = width(word);
        if self.used + wide <= self.columns {
            self.row.push_str(word);
            self.used += wide;
        } else if word.trim().is_empty() {
            self.end_row();
        } else if self.indent + wide <= self.columns {
            self.end_row();
            self.row.push_str(word);
            self.used += wide;
        } else {
            for grapheme in word.graphemes(true) {
                let wide = width(grapheme);
                if self.used + wide > self.columns && self.used > self.indent {
                    self.end_row();
                }
                self.row.push_str(grapheme);
                self.used += wide;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let hostile =
            "a\x1b[2J\x1b]0;title\x07b\u{9b}31mc\x7f\r\nd\u{202e}e\u{2066}f\u{200f}g\th\u{feff}\u{e0041}";
        let clean = clean(hostile);
        assert_eq!(
            clean,
            "a\u{fffd}[2J\u{fffd}]0;title\u{fffd}b\u{fffd}31mc\u{fffd}\nd\u{fffd}e\u{fffd}fg h\u{fffd}\u{fffd}"
        );
        assert!(!clean.chars().any(|c| c.is_control() && c != '\n'));
        assert!(!clean_line(hostile).contains('\n'));
    }

    #[test]
    fn people_write_in_all_languages() {
        for text in [
            "Où ça ?",
            "日本語",
            "मराठी",
            "👩‍👩‍👧‍👦",
            "e\u{301}",
            "שלום",
            "مرحبا",
            "❤️",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn towers_and_floods_are_cut() {
        let tower = format!("x{}", "\u{301}".repeat(500));
        assert_eq!(clean(&tower).chars().count(), 1 + MAX_WIDTHLESS);
        let flood = clean(&"y".repeat(100_000));
        assert_eq!(flood.chars().count(), MAX_CHARS + 1);
        assert!(flood.ends_with('…'));
        assert_eq!(clean(&"\n".repeat(1000)).matches('\n').count(), MAX_BREAKS);
    }

    #[test]
    fn rows_break_between_words_and_are_indented() {
        assert_eq!(wrap("one two three", 9, 2), ["one two ", "  three"]);
        assert_eq!(wrap("one\ntwo", 9, 2), ["one", "  two"]);
        assert_eq!(wrap("", 9, 2), [""]);
    }

    #[test]
    fn long_words_and_wide_characters_break_where_the_row_ends() {
        assert_eq!(wrap("abcdefgh", 4, 0), ["abcd", "efgh"]);
        assert_eq!(wrap("日本語日本", 5, 0), ["日本", "語日", "本"]);
        for columns in 0..12 {
            for row in wrap("wide 日本語 and 👩‍👩‍👧‍👦 aaaaaaaaaaaaaaaaaa", columns, 2) {
                // A wide character does not fit into one column, whatever is done.
                assert!(width(&row) <= columns.max(2), "{row:?} in {columns}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_ends_with_an_ellipsis() {
        assert_eq!(cut("Lunch", 5), "Lunch");
        assert_eq!(cut("Lunchtime", 5), "Lunc…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("Lunch", 0), "");
    }
}
