//! Reading what was said: pages, single messages, and what has certain words.

use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Row, params};
use valise_proto::{GroupId, Position};

use super::{Failure, MessageNumber};
use crate::history::{HistoryMessage, Reaction, SendStatus};
use crate::store::Database;
use crate::{Content, Error, MessageId, Peer, ReceiptStatus};

/// Most messages at once.
const MAX_PAGE: usize = 1000;
/// Most words of a search, and characters of one: what goes beyond is not looked for.
const MAX_WORDS: usize = 32;
const MAX_WORD: usize = 64;

const COLUMNS: &str = "number, group_id, message_id, messages.user_id, device_id, position, at, failure, content, edited, \
     expires, intent";

/// A message without what others have said about it.
fn read(row: &Row<'_>) -> Result<(MessageNumber, HistoryMessage), Error> {
    const BROKEN: Error = Error::InvalidInput("the store's message");
    let group: Vec<u8> = row.get(1)?;
    let id: Vec<u8> = row.get(2)?;
    let id = MessageId::from_slice(&id).ok_or(BROKEN)?;
    let (user, device): (String, String) = (row.get(3)?, row.get(4)?);
    let position: Option<i64> = row.get(5)?;
    let failure: Option<String> = row.get(7)?;
    let status = match (position, failure) {
        (Some(position), _) => SendStatus::Accepted {
            position: Position(position.cast_unsigned()),
        },
        (None, None) => SendStatus::Queued,
        (None, Some(failure)) => {
            let Failure { cause, what_now } = serde_json::from_str(&failure)?;
            SendStatus::Failed {
                cause,
                what_now: what_now.into(),
            }
        }
    };
    let time = |millis: i64| UNIX_EPOCH + Duration::from_millis(millis.cast_unsigned());
    let message = HistoryMessage {
        id,
        group: GroupId::try_from(group.as_slice()).map_err(|_| BROKEN)?,
        sender: Peer {
            user: user.parse().map_err(|_| BROKEN)?,
            device: device.parse().map_err(|_| BROKEN)?,
        },
        status,
        at: time(row.get(6)?),
        content: content_of(id, row.get(8)?)?,
        edited: row.get(9)?,
        expires_at: row.get::<_, Option<i64>>(10)?.map(time),
        reactions: Vec::new(),
        read_by: Vec::new(),
    };
    Ok((MessageNumber(row.get(0)?), message))
}

fn content_of(id: MessageId, bytes: Option<Vec<u8>>) -> Result<Option<Content>, Error> {
    bytes.map(|bytes| Content::from_stored(id, &bytes)).transpose()
}

impl Database {
    pub(super) fn content(&self, message: MessageNumber) -> Result<Option<Content>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT message_id, content FROM messages WHERE number = ?1")?;
        let row: Option<(Vec<u8>, Option<Vec<u8>>)> = statement
            .query_row([message.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((id, bytes)) = row else { return Ok(None) };
        let id = MessageId::from_slice(&id).ok_or(Error::InvalidInput("the store's message"))?;
        content_of(id, bytes)
    }

    /// The last messages before that position, in their order; without one, the last of all, and then those that are not in the
    /// log.
    pub(crate) fn history_page(
        &self,
        group: GroupId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<HistoryMessage>, Error> {
        let limit = limit.min(MAX_PAGE);
        let end = before.map_or(i64::MAX, |before| before.0.cast_signed());
        let mut page = self.messages(
            "group_id = ?1 AND position < ?2 ORDER BY position DESC LIMIT ?3",
            params![group.as_bytes().as_slice(), end, limit as i64],
        )?;
        page.reverse();
        if before.is_none() {
            page.extend(self.messages(
                "group_id = ?1 AND position IS NULL ORDER BY number LIMIT ?2",
                params![group.as_bytes().as_slice(), MAX_PAGE as i64],
            )?);
        }
        Ok(page)
    }

    /// One message, or the one of which that is an edit.
    pub(crate) fn history_message(
        &self,
        group: GroupId,
        id: MessageId,
    ) -> Result<Option<HistoryMessage>, Error> {
        let Some(message) = self.message_number(group, id)? else {
            return Ok(None);
        };
        Ok(self.messages("number = ?1", [message.0])?.pop())
    }

    /// The messages that have all these words, newest first; the last word may be the beginning of one.
    pub(crate) fn search_history(
        &self,
        group: Option<GroupId>,
        words: &str,
        limit: usize,
    ) -> Result<Vec<HistoryMessage>, Error> {
        let Some(query) = query(words) else {
            return Ok(Vec::new());
        };
        let group = group.map(|group| group.as_bytes().to_vec());
        self.messages(
            "number IN (SELECT rowid FROM messages_text WHERE messages_text MATCH ?1) AND (?2 IS NULL OR group_id = ?2)
             ORDER BY number DESC LIMIT ?3",
            params![query, group, limit.min(MAX_PAGE) as i64],
        )
    }

    fn messages(&self, which: &str, values: impl rusqlite::Params) -> Result<Vec<HistoryMessage>, Error> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM messages WHERE {which}"))?;
        let mut rows = statement.query(values)?;
        let mut messages = Vec::new();
        while let Some(row) = rows.next()? {
            let (number, mut message) = read(row)?;
            message.reactions = self.reactions(number)?;
            message.read_by = self.readers(number)?;
            messages.push(message);
        }
        Ok(messages)
    }

    fn reactions(&self, message: MessageNumber) -> Result<Vec<Reaction>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT reaction_id, user_id, emoji FROM reactions WHERE message = ?1 ORDER BY rowid",
        )?;
        let mut rows = statement.query([message.0])?;
        let mut reactions = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, user): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
            let broken = || Error::InvalidInput("the store's reaction");
            reactions.push(Reaction {
                id: MessageId::from_slice(&id).ok_or_else(broken)?,
                user: user.parse().map_err(|_| broken())?,
                emoji: row.get(2)?,
            });
        }
        Ok(reactions)
    }

    fn readers(&self, message: MessageNumber) -> Result<Vec<valise_proto::UserId>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT user_id FROM receipts WHERE message = ?1 AND status = ?2")?;
        let mut rows = statement.query(params![message.0, ReceiptStatus::READ.0])?;
        let mut readers = Vec::new();
        while let Some(row) = rows.next()? {
            let user: String = row.get(0)?;
            readers.push(
                user.parse()
                    .map_err(|_| Error::InvalidInput("the store's receipt"))?,
            );
        }
        Ok(readers)
    }
}

/// A query in the language of FTS5 that finds these words and means nothing else: each is quoted. `None`: there is nothing to
/// look for.
fn query(words: &str) -> Option<String> {
    let words: Vec<String> = words
        .split(|c: char| c.is_whitespace() || c.is_control() || c == '"')
        .filter(|word| word.contains(char::is_alphanumeric))
        .take(MAX_WORDS)
        .map(|word| format!("\"{}\"", word.chars().take(MAX_WORD).collect::<String>()))
        .collect();
    (!words.is_empty()).then(|| format!("{}*", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words_whatever_they_look_like() {
        assert_eq!(query("budget 20").as_deref(), Some("\"budget\" \"20\"*"));
        assert_eq!(query("a\" OR \"b").as_deref(), Some("\"a\" \"OR\" \"b\"*"));
        assert_eq!(query("nul\0byte").as_deref(), Some("\"nul\" \"byte\"*"));
        assert_eq!(query(" *() \"\" -- "), None);
    }

    #[test]
    fn no_search_is_an_error() {
        let database = Database::open(&crate::Store::memory()).unwrap();
        let many = "word ".repeat(10_000);
        let long = "x".repeat(1_000_000);
        for words in [
            "\"",
            "'",
            "*",
            "AND",
            "NOT",
            "a AND",
            "NEAR(",
            "text:x",
            "-x",
            "^x",
            "(",
            "a\0b",
            "x*y",
            "{a b}:c",
            "\\",
            "é",
            "日本",
            "\u{200d}",
            "½",
            "a + b",
            "; DROP TABLE messages",
            &many,
            &long,
        ] {
            assert_eq!(
                database.search_history(None, words, 10).unwrap().len(),
                0,
                "{words:.20}"
            );
        }
    }
}
