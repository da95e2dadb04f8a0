//! The line that is being typed.

use unicode_segmentation::UnicodeSegmentation;

use super::text::{clean_line, width};

/// Most bytes of a line.
const MAX_BYTES: usize = 8000;

/// A change of the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Edit {
    /// A character, or what was pasted. Line breaks become spaces: a paste sends nothing by itself.
    Insert(String),
    Backspace,
    Delete,
    Left,
    Right,
    Home,
    End,
    /// What is before the cursor.
    DeleteToStart,
    /// What is after the cursor.
    DeleteToEnd,
    /// The word before the cursor.
    DeleteWord,
}

#[derive(Default)]
pub(super) struct Input {
    text: String,
    /// In bytes, between graphemes.
    cursor: usize,
}

impl Input {
    pub(super) fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Insert(text) => self.insert(&text),
            Edit::Backspace => self.delete(self.before(), self.cursor),
            Edit::Delete => self.delete(self.cursor, self.after()),
            Edit::Left => self.cursor = self.before(),
            Edit::Right => self.cursor = self.after(),
            Edit::Home => self.cursor = 0,
            Edit::End => self.cursor = self.text.len(),
            Edit::DeleteToStart => self.delete(0, self.cursor),
            Edit::DeleteToEnd => self.delete(self.cursor, self.text.len()),
            Edit::DeleteWord => self.delete(self.word_start(), self.cursor),
        }
    }

    /// The line; what is left is empty.
    pub(super) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// As much as fits around the cursor, and the cursor's column in it.
    pub(super) fn window(&self, columns: usize) -> (String, usize) {
        let (left, right) = self.halves();
        let mut shown: Vec<&str> = Vec::new();
        let mut column = 0;
        // One column is the cursor's.
        for grapheme in left.graphemes(true).rev() {
            if column + width(grapheme) >= columns {
                break;
            }
            column += width(grapheme);
            shown.push(grapheme);
        }
        shown.reverse();
        let mut used = column;
        for grapheme in right.graphemes(true) {
            used += width(grapheme);
            if used > columns {
                break;
            }
            shown.push(grapheme);
        }
        (shown.concat(), column)
    }

    fn halves(&self) -> (&str, &str) {
        self.text
            .split_at_checked(self.cursor)
            .unwrap_or((&self.text, ""))
    }

    fn insert(&mut self, text: &str) {
        let text = clean_line(text);
        if self.text.len() + text.len() <= MAX_BYTES && self.text.is_char_boundary(self.cursor) {
            self.text.insert_str(self.cursor, &text);
            self.cursor += text.len();
        }
    }

    fn delete(&mut self, from: usize, to: usize) {
        if from < to && self.text.is_char_boundary(from) && self.text.is_char_boundary(to) {
            self.text.replace_range(from..to, "");
            self.cursor = from;
        }
    }

    fn before(&self) -> usize {
        let last = self.halves().0.graphemes(true).next_back();
        self.cursor - last.map_or(0, str::len)
    }

    fn after(&self) -> usize {
        let next = self.halves().1.graphemes(true).next();
        self.cursor + next.map_or(0, str::len)
    }

    fn word_start(&self) -> usize {
        let left = self.halves().0.trim_end();
        left.rfind(char::is_whitespace).map_or(0, |space| {
            let width = left.get(space..).and_then(|rest| rest.chars().next());
            space + width.map_or(1, char::len_utf8)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Input {
        let mut input = Input::default();
        input.edit(Edit::Insert(text.into()));
        input
    }

    #[test]
    fn a_line_is_edited_by_what_people_see_as_characters() {
        let mut input = typed("ae\u{301}👩‍👩‍👧‍👦z");
        for _ in 0..2 {
            input.edit(Edit::Left);
        }
        input.edit(Edit::Backspace);
        input.edit(Edit::Delete);
        input.edit(Edit::Insert("b".into()));
        assert_eq!(input.take(), "abz");
        assert!(input.is_empty());
    }

    #[test]
    fn a_paste_is_one_line_without_control_characters() {
        assert_eq!(typed("/quit\r\nrm\x1b[2J\n").take(), "/quit rm\u{fffd}[2J ");
    }

    #[test]
    fn words_and_halves_go_at_once() {
        let mut input = typed("one two  three ");
        input.edit(Edit::DeleteWord);
        input.edit(Edit::DeleteWord);
        assert_eq!(input.window(80).0, "one ");
        input.edit(Edit::Home);
        input.edit(Edit::Right);
        input.edit(Edit::DeleteToEnd);
        assert_eq!(input.window(80).0, "o");
        input.edit(Edit::DeleteToStart);
        assert!(input.is_empty());
        for edit in [
            Edit::Backspace,
            Edit::Delete,
            Edit::Left,
            Edit::Right,
            Edit::DeleteWord,
        ] {
            input.edit(edit);
        }
        assert!(input.is_empty());
    }

    #[test]
    fn the_cursor_is_always_shown() {
        let mut input = typed("0123456789日本");
        assert_eq!(input.window(6), ("9日本".to_owned(), 5));
        input.edit(Edit::Home);
        assert_eq!(input.window(6), ("012345".to_owned(), 0));
        assert_eq!(input.window(0), (String::new(), 0));
    }

    #[test]
    fn a_line_does_not_grow_without_end() {
        let mut input = typed(&"x".repeat(3000));
        for _ in 0..9 {
            input.edit(Edit::Insert("y".repeat(3000)));
        }
        assert!(input.take().len() <= MAX_BYTES);
    }
}
