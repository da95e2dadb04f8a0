//! What was said: messages, what became of them, and the index of their words.

mod read;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use valise_proto::{GroupId, Position, UserId};

use super::{Database, IntentId};
use crate::{Content, Error, EventId, Expiry, MessageId, Peer, ReceiptStatus, WhatNow};

/// Most reactions that one user's messages can leave at one message.
const MAX_REACTIONS: i64 = 32;

/// The number of a message in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MessageNumber(i64);

/// A message to be stored.
pub(crate) struct NewMessage<'a> {
    pub(crate) group: GroupId,
    pub(crate) id: MessageId,
    pub(crate) sender: &'a Peer,
    /// See the table's column.
    pub(crate) genuine: bool,
    pub(crate) place: Place,
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) at: u64,
    pub(crate) content: &'a Content,
}

/// Where a message stands.
pub(crate) enum Place {
    Queued(IntentId),
    Accepted(Position, Option<EventId>),
}

/// Whose message an id names.
pub(crate) enum Named {
    /// The one who asks.
    TheirOwn(MessageNumber),
    NotTheirs,
    Unknown,
}

/// Why a message was not sent.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) cause: String,
    pub(crate) what_now: StoredWhatNow,
}

/// [`WhatNow`] as it is stored.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredWhatNow {
    Retry,
    CatchUp,
    Rejoin,
    Denied,
    Bug,
}

impl From<WhatNow> for StoredWhatNow {
    fn from(what: WhatNow) -> Self {
        match what {
            WhatNow::Retry => Self::Retry,
            WhatNow::CatchUp => Self::CatchUp,
            WhatNow::Rejoin => Self::Rejoin,
            WhatNow::Denied => Self::Denied,
            WhatNow::Bug => Self::Bug,
        }
    }
}

impl From<StoredWhatNow> for WhatNow {
    fn from(what: StoredWhatNow) -> Self {
        match what {
            StoredWhatNow::Retry => Self::Retry,
            StoredWhatNow::CatchUp => Self::CatchUp,
            StoredWhatNow::Rejoin => Self::Rejoin,
            StoredWhatNow::Denied => Self::Denied,
            StoredWhatNow::Bug => Self::Bug,
        }
    }
}

fn number(event: Option<EventId>) -> Option<i64> {
    event.map(|event| event.0.cast_signed())
}

/// When a message is deleted: seconds after reading, or milliseconds since 1970.
fn expiry(content: &Content) -> (Option<i64>, Option<i64>) {
    match content.expiry() {
        None => (None, None),
        Some(Expiry::AfterRead(after)) => (i64::try_from(after.as_secs()).ok(), None),
        Some(Expiry::At(at)) => {
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            (None, i64::try_from(since.as_millis()).ok())
        }
    }
}

fn encoded(content: &Content) -> Result<Vec<u8>, Error> {
    let stored = content.to_stored();
    let (_, bytes) = stored.ok_or(Error::InvalidInput("a message without an id"))?;
    Ok(bytes)
}

impl Database {
    pub(crate) fn put_message(&self, message: &NewMessage<'_>) -> Result<MessageNumber, Error> {
        let (intent, position, event) = match message.place {
            Place::Queued(intent) => (Some(intent.0), None, None),
            Place::Accepted(position, event) => (None, Some(position.0.cast_signed()), number(event)),
        };
        let (expires_after, expires) = expiry(message.content);
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO messages (group_id, message_id, user_id, device_id, genuine, intent, position, at, content, text,
                edited, expires_after, expires, event)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?;
        let number = statement.insert(params![
            message.group.as_bytes().as_slice(),
            message.id.as_bytes().as_slice(),
            message.sender.user.as_str(),
            message.sender.device.to_string(),
            message.genuine,
            intent,
            position,
            message.at.cast_signed(),
            encoded(message.content)?,
            message.content.as_text(),
            !message.genuine,
            expires_after,
            expires,
            event,
        ])?;
        Ok(MessageNumber(number))
    }

    /// A queued message is in the log now. `None`: there is none that waits for this.
    pub(crate) fn accept_message(
        &self,
        group: GroupId,
        id: MessageId,
        (position, at): (Position, u64),
        event: Option<EventId>,
    ) -> Result<Option<MessageNumber>, Error> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE messages SET position = ?3, at = ?4, event = ?5, intent = NULL, failure = NULL
             WHERE group_id = ?1 AND message_id = ?2 AND position IS NULL RETURNING number",
        )?;
        let changes = params![
            group.as_bytes().as_slice(),
            id.as_bytes().as_slice(),
            position.0.cast_signed(),
            at.cast_signed(),
            number(event),
        ];
        let number = statement.query_row(changes, |row| row.get(0)).optional()?;
        Ok(number.map(MessageNumber))
    }

    /// An own message was not sent.
    pub(crate) fn fail_message(&self, intent: IntentId, failure: &Failure) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("UPDATE messages SET failure = ?2, intent = NULL WHERE intent = ?1")?;
        statement.execute(params![intent.0, serde_json::to_string(failure)?])?;
        Ok(())
    }

    /// Whose message, or edit of a message, that is.
    pub(crate) fn named(&self, group: GroupId, id: MessageId, user: &UserId) -> Result<Named, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, user_id, genuine FROM messages WHERE group_id = ?1 AND message_id = ?2
             UNION ALL
             SELECT number, user_id, 1 FROM message_versions JOIN messages ON number = message
             WHERE version_id = ?2 AND group_id = ?1",
        )?;
        let mut rows = statement.query(params![group.as_bytes().as_slice(), id.as_bytes().as_slice()])?;
        let mut named = Named::Unknown;
        while let Some(row) = rows.next()? {
            if row
                .get_ref(1)?
                .as_str()
                .is_ok_and(|sender| sender == user.as_str())
            {
                return Ok(Named::TheirOwn(MessageNumber(row.get(0)?)));
            }
            if row.get(2)? {
                named = Named::NotTheirs;
            }
        }
        Ok(named)
    }

    /// The message of that id, or of which that is an edit.
    pub(crate) fn message_number(
        &self,
        group: GroupId,
        id: MessageId,
    ) -> Result<Option<MessageNumber>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, genuine FROM messages WHERE group_id = ?1 AND message_id = ?2
             UNION ALL
             SELECT number, 1 FROM message_versions JOIN messages ON number = message
             WHERE version_id = ?2 AND group_id = ?1
             ORDER BY genuine DESC LIMIT 1",
        )?;
        let key = params![group.as_bytes().as_slice(), id.as_bytes().as_slice()];
        let number = statement.query_row(key, |row| row.get(0)).optional()?;
        Ok(number.map(MessageNumber))
    }

    /// Notes that a message has done what it does. Says whether that is news.
    pub(crate) fn see_message(&self, group: GroupId, id: MessageId) -> Result<bool, Error> {
        let mut statement = self
            .connection
            .prepare_cached("INSERT OR IGNORE INTO seen_messages (group_id, message_id) VALUES (?1, ?2)")?;
        let key = params![group.as_bytes().as_slice(), id.as_bytes().as_slice()];
        Ok(statement.execute(key)? > 0)
    }

    /// Has it done what it does?
    pub(crate) fn was_seen(&self, group: GroupId, id: MessageId) -> Result<bool, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM seen_messages WHERE group_id = ?1 AND message_id = ?2")?;
        Ok(statement.exists(params![group.as_bytes().as_slice(), id.as_bytes().as_slice()])?)
    }

    /// The message says something else now. A deleted one stays deleted.
    pub(crate) fn edit_message(
        &self,
        message: MessageNumber,
        edit: &Content,
        event: Option<EventId>,
    ) -> Result<(), Error> {
        let Some(before) = self.content(message)? else {
            return Ok(());
        };
        let after = before.edited(edit);
        self.connection
            .prepare_cached("UPDATE messages SET content = ?2, text = ?3, edited = 1 WHERE number = ?1")?
            .execute(params![message.0, encoded(&after)?, after.as_text()])?;
        if let Some(version) = edit.id() {
            self.connection
                .prepare_cached(
                    "INSERT INTO message_versions (message, version_id, event) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![message.0, version.as_bytes().as_slice(), number(event)])?;
        }
        Ok(())
    }

    /// Nothing is left of what the message said, only that there was one.
    pub(crate) fn retract_message(&self, message: MessageNumber) -> Result<(), Error> {
        self.forget_events(message)?;
        for statement in [
            "UPDATE messages SET content = NULL, text = NULL, expires_after = NULL, expires = NULL WHERE number = ?1",
            "DELETE FROM reactions WHERE message = ?1",
        ] {
            self.connection.prepare_cached(statement)?.execute([message.0])?;
        }
        Ok(())
    }

    /// Nothing is left of the message, but that it does not come back: neither as a repeat, nor when it was queued and is accepted now.
    pub(crate) fn remove_message(&self, message: MessageNumber) -> Result<(), Error> {
        self.forget_events(message)?;
        for statement in [
            "INSERT OR IGNORE INTO seen_messages (group_id, message_id)
             SELECT group_id, message_id FROM messages WHERE number = ?1 AND genuine AND failure IS NULL",
            "DELETE FROM messages WHERE number = ?1",
        ] {
            self.connection.prepare_cached(statement)?.execute([message.0])?;
        }
        Ok(())
    }

    /// The app has not taken up all that it was told: what is deleted is not told any more.
    fn forget_events(&self, message: MessageNumber) -> Result<(), Error> {
        self.connection
            .prepare_cached(
                "DELETE FROM events WHERE id IN (
                    SELECT event FROM messages WHERE number = ?1
                    UNION ALL SELECT event FROM message_versions WHERE message = ?1
                    UNION ALL SELECT event FROM reactions WHERE message = ?1)",
            )?
            .execute([message.0])?;
        Ok(())
    }

    pub(crate) fn put_reaction(
        &self,
        message: MessageNumber,
        (reaction, user): (MessageId, &UserId),
        emoji: &str,
        event: Option<EventId>,
    ) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(
            "INSERT OR IGNORE INTO reactions (message, reaction_id, user_id, emoji, event) SELECT ?1, ?2, ?3, ?4, ?5
             WHERE (SELECT count(*) FROM reactions WHERE message = ?1 AND user_id = ?3) < ?6
                AND EXISTS (SELECT 1 FROM messages WHERE number = ?1 AND content IS NOT NULL)",
        )?;
        statement.execute(params![
            message.0,
            reaction.as_bytes().as_slice(),
            user.as_str(),
            emoji,
            number(event),
            MAX_REACTIONS,
        ])?;
        Ok(())
    }

    /// To which message, and by whom, that message was a reaction.
    pub(crate) fn reaction(
        &self,
        group: GroupId,
        reaction: MessageId,
    ) -> Result<Option<(MessageNumber, String)>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, reactions.user_id FROM reactions JOIN messages ON number = message
             WHERE reaction_id = ?1 AND group_id = ?2 LIMIT 1",
        )?;
        let key = params![reaction.as_bytes().as_slice(), group.as_bytes().as_slice()];
        Ok(statement
            .query_row(key, |row| Ok((MessageNumber(row.get(0)?), row.get(1)?)))
            .optional()?)
    }

    pub(crate) fn remove_reaction(&self, message: MessageNumber, reaction: MessageId) -> Result<(), Error> {
        self.connection
            .prepare_cached("DELETE FROM reactions WHERE message = ?1 AND reaction_id = ?2")?
            .execute(params![message.0, reaction.as_bytes().as_slice()])?;
        Ok(())
    }

    pub(crate) fn put_receipt(
        &self,
        message: MessageNumber,
        user: &UserId,
        status: ReceiptStatus,
    ) -> Result<(), Error> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO receipts (message, user_id, status) VALUES (?1, ?2, ?3)")?
            .execute(params![message.0, user.as_str(), status.0])?;
        Ok(())
    }

    /// The user has read it at that time: from now on it expires, if it was to after reading. Says whether it does.
    pub(crate) fn message_was_read(&self, message: MessageNumber, at: u64) -> Result<bool, Error> {
        // Whatever the service says that the time was: the sum is a number that can be stored.
        let at = at.min(1 << 53);
        let mut statement = self.connection.prepare_cached(
            "UPDATE messages SET expires = ?2 + expires_after * 1000
             WHERE number = ?1 AND expires IS NULL AND expires_after IS NOT NULL",
        )?;
        Ok(statement.execute(params![message.0, at.cast_signed()])? > 0)
    }

    /// Messages whose time has come.
    pub(crate) fn expired_messages(&self, now: u64) -> Result<Vec<MessageNumber>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT number FROM messages WHERE expires <= ?1")?;
        Ok(statement
            .query_map([now.cast_signed()], |row| Ok(MessageNumber(row.get(0)?)))?
            .collect::<Result<_, _>>()?)
    }

    /// When the next message expires, in milliseconds since 1970-01-01 UTC.
    pub(crate) fn next_expiry(&self) -> Result<Option<u64>, Error> {
        let next: Option<i64> = self.connection.query_row(
            "SELECT min(expires) FROM messages WHERE expires IS NOT NULL",
            [],
            |row| row.get(0),
        )?;
        Ok(next.map(i64::cast_unsigned))
    }

    pub(crate) fn delete_history(&self) -> Result<(), Error> {
        self.connection
            .execute_batch("DELETE FROM messages; DELETE FROM seen_messages;")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use valise_proto::DeviceId;

    use super::*;
    use crate::store::migrate;

    const GROUP: GroupId = GroupId::from_bytes([7; 16]);

    fn content(sender: &Peer, text: &str) -> Content {
        let payload = Content::text(text).to_payload().unwrap();
        Content::from_payload(&payload, &sender.user, GROUP, Position::NONE).unwrap()
    }

    /// Is anything left in the file of what was deleted and edited? Encryption would hide it, so here there is none.
    fn is_left_behind(secure_delete: bool) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("plain");
        let mut connection = rusqlite::Connection::open(&file).unwrap();
        connection
            .execute_batch("PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON;")
            .unwrap();
        migrate(&mut connection).unwrap();
        if !secure_delete {
            let without = "INSERT INTO messages_text (messages_text, rank) VALUES ('secure-delete', 0)";
            connection.execute_batch(without).unwrap();
        }
        let database = Database { connection };
        let sender = Peer {
            user: "alice@a.example".parse().unwrap(),
            device: DeviceId::from_uuid(uuid::Uuid::nil()),
        };
        let put = |position, text: &str| {
            let content = content(&sender, text);
            let message = NewMessage {
                group: GROUP,
                id: content.id().unwrap(),
                sender: &sender,
                genuine: true,
                place: Place::Accepted(Position(position), None),
                at: 1,
                content: &content,
            };
            database.put_message(&message).unwrap()
        };
        let in_file = |text: &[u8]| {
            let bytes = std::fs::read(&file).unwrap();
            bytes.windows(text.len()).any(|window| window == text)
        };
        let retracted = put(1, "needleone is retracted");
        let removed = put(2, &"needletwo is removed ".repeat(500));
        let edited = put(3, "needlethree is edited");
        for position in 4..200 {
            put(position, "harmless hay");
        }
        assert!(in_file(b"needle"));
        database.retract_message(retracted).unwrap();
        database.remove_message(removed).unwrap();
        let edit = content(&sender, "it is now something else");
        database.edit_message(edited, &edit, None).unwrap();
        assert!(in_file(b"harmless") && in_file(b"something else"));
        in_file(b"needle")
    }

    #[test]
    fn what_is_deleted_is_overwritten_in_the_file() {
        assert!(!is_left_behind(true));
        assert!(is_left_behind(false), "it is the index that keeps it");
    }
}
