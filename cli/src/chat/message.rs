//! What is remembered of a message, as it is shown.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use valise_client_sdk::{Content, DeviceId, Expiry, HistoryMessage, MessageId, Position, SendStatus, UserId};

use super::history::Tone;
use super::text::{clean, clean_line};
use crate::when::timestamp;

const SECONDS_OF_A_DAY: u64 = 24 * 3600;

/// What can still be done with it depends on this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It is on its way.
    Queued,
    Accepted,
    /// It was not sent, and will not be.
    Failed,
    /// Its sender has deleted it.
    Deleted,
}

pub(super) struct Message {
    pub(super) id: MessageId,
    /// `None`: it is not in the log.
    pub(super) position: Option<Position>,
    pub(super) day: Day,
    /// This user wrote it, perhaps on another device.
    pub(super) is_own: bool,
    pub(super) state: State,
    /// It is deleted some time after it is read, and nobody has read it on this device.
    pub(super) waits_to_be_read: bool,
    /// What this user has reacted, oldest first.
    pub(super) own_reactions: Vec<MessageId>,
    pub(super) tone: Tone,
    /// Clean.
    pub(super) text: String,
}

impl Message {
    fn new(message: &HistoryMessage, reply: &str, user: &UserId, device: DeviceId) -> Self {
        let is_own = message.sender.user == *user;
        let said = match &message.content {
            Some(content) => crate::show::content_of(content).1,
            None => "(deleted)".to_owned(),
        };
        let state = match message.status {
            _ if message.content.is_none() => State::Deleted,
            SendStatus::Queued => State::Queued,
            SendStatus::Accepted { .. } => State::Accepted,
            SendStatus::Failed { .. } => State::Failed,
        };
        let expiry = message.content.as_ref().and_then(Content::expiry);
        let waits_to_be_read = state == State::Accepted
            && message.expires_at.is_none()
            && matches!(expiry, Some(Expiry::AfterRead(_)));
        let own_reactions = message.reactions.iter().filter(|own| own.user == *user);
        Self {
            id: message.id,
            position: message.position(),
            day: Day::of(message.at),
            is_own,
            state,
            waits_to_be_read,
            own_reactions: own_reactions.map(|reaction| reaction.id).collect(),
            tone: match state {
                State::Queued => Tone::Pending,
                State::Failed => Tone::Alarm,
                State::Deleted => Tone::Notice,
                State::Accepted if is_own => Tone::Own,
                State::Accepted => Tone::Others,
            },
            text: format!(
                "{} {} {}{}: {reply}{}{}",
                hour(message.at),
                name(message.id, message.position()),
                clean_line(message.sender.user.as_str()),
                if is_own && message.sender.device != device {
                    " (another device)"
                } else {
                    ""
                },
                clean(&said),
                // Cleaned by itself: a long message must not push out what became of it.
                clean_line(&crate::history::notes(message)),
            ),
        }
    }

    /// Is it the one that somebody names by this: its number, or the beginning of its id where it has no number?
    pub(super) fn is_meant_by(&self, reference: &str) -> bool {
        let number = reference.strip_prefix('#');
        match self.position {
            Some(position) => number.unwrap_or(reference).parse::<u64>() == Ok(position.0),
            None => {
                let id = self.id.to_string();
                // The first byte is the same in all.
                let shown = id.get(2..).unwrap_or_default();
                number.is_none() && shown.starts_with(&reference.to_lowercase())
            }
        }
    }
}

/// Messages as they are shown to that user on that device.
pub(super) fn shown(messages: &[HistoryMessage], user: &UserId, device: DeviceId) -> Vec<Message> {
    let positions: HashMap<MessageId, Option<Position>> = messages
        .iter()
        .map(|message| (message.id, message.position()))
        .collect();
    let reply = |message: &HistoryMessage| {
        let to = message.content.as_ref().and_then(Content::in_reply_to);
        let position = |to: MessageId| positions.get(&to).copied().flatten();
        to.map(|to| format!("(to {}) ", name(to, position(to))))
            .unwrap_or_default()
    };
    messages
        .iter()
        .map(|message| Message::new(message, &reply(message), user, device))
        .collect()
}

/// What it is called on the screen: its number in the group's log; where that is not known, the beginning of its id.
fn name(id: MessageId, position: Option<Position>) -> String {
    position.map_or_else(|| crate::history::short(id), |position| format!("#{position}"))
}

/// Hours and minutes, UTC.
pub(super) fn hour(at: SystemTime) -> String {
    timestamp(at).get(11..16).unwrap_or_default().to_owned()
}

/// A day, UTC, and the line that stands above what was said on it.
pub(super) struct Day {
    /// Since 1970-01-01.
    pub(super) number: u64,
    pub(super) line: String,
}

impl Day {
    pub(super) fn of(at: SystemTime) -> Self {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            number: seconds / SECONDS_OF_A_DAY,
            line: format!("— {} —", timestamp(at).get(..10).unwrap_or_default()),
        }
    }
}
