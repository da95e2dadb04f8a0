//! What the user asked for goes to standard output, in one place, so that nothing is printed by accident.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::CliError;

/// Standard output, or something like it.
pub(crate) struct Out<W = io::Stdout>(W);

impl Out {
    pub(crate) fn stdout() -> Self {
        Self(io::stdout())
    }
}

impl<W: Write> Out<W> {
    /// Text for people, as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.write(text.as_bytes())?;
        self.flush()
    }

    /// One line for people.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), CliError> {
        self.text(&format!("{line}\n"))
    }

    /// One JSON object on one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.write(json_line(value)?.as_bytes())?;
        self.flush()
    }

    /// Not flushed.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.0.write_all(bytes).map_err(CliError::Output)
    }

    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.0.flush().map_err(CliError::Output)
    }
}

/// One JSON object and the end of the line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String, CliError> {
    let mut line = serde_json::to_string(value).map_err(|error| CliError::Output(error.into()))?;
    line.push('\n');
    Ok(line)
}

/// Text of other people on one line and without control characters, which could rewrite what a terminal shows.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if is_deceptive(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// Control characters, and those that turn the direction of the text around.
pub(crate) fn is_deceptive(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_object_is_one_line() {
        let mut out = Out(Vec::new());
        out.json(&serde_json::json!({ "text": "a\nb" })).unwrap();
        assert_eq!(out.0, b"{\"text\":\"a\\nb\"}\n");
    }

    #[test]
    fn terminals_are_not_steered_by_messages() {
        assert_eq!(printable("été\tok"), "été\tok");
        assert_eq!(
            printable("a\x1b[2Jb\r\nc\u{202e}d"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}d"
        );
    }
}
