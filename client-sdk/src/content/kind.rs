//! What a message is: a text, a reply, a reaction, an edit…

use super::part::{self, Body, Disposition};
use super::status;
use super::{Content, MessageId, ReceiptStatus};

/// Longest text that counts as a reaction: one emoji can have many characters. What is longer is a reply (§5.3).
pub(super) const MAX_EMOJI: usize = 128;
/// Most reactions of one message.
const MAX_EMOJIS: usize = 16;

/// What a [`Content`] is.
///
/// ```
/// use valise_client_sdk::{Content, Kind};
///
/// fn show(content: &Content) -> String {
///     match content.kind() {
///         Kind::Text(text) => text.to_owned(),
///         Kind::Reply { to, text } => format!("(to {to}) {text}"),
///         Kind::Reaction { to, emojis } => format!("{} to {to}", emojis.join(" ")),
///         Kind::Edit { of, text } => format!("{of} now says {text}"),
///         Kind::Delete { of } => format!("{of} is gone"),
///         Kind::Receipt(report) => format!("{} messages were read", report.len()),
///         _ => format!("{} bytes of {}", content.body().len(), content.content_type()),
///     }
/// }
/// assert_eq!(show(&Content::text("Bonjour")), "Bonjour");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind<'a> {
    /// A text.
    Text(&'a str),
    /// A text in answer to a message.
    Reply {
        /// The message.
        to: MessageId,
        /// The answer.
        text: &'a str,
    },
    /// Reactions to a message. Taken back by deleting the message that made them.
    Reaction {
        /// The message.
        to: MessageId,
        /// What its sender feels; usually one.
        emojis: Vec<&'a str>,
    },
    /// A message says something else now. [`crate::EventKind::ReplacementRefused`] comes instead where it is not its sender's.
    Edit {
        /// The message.
        of: MessageId,
        /// What it says now.
        text: &'a str,
    },
    /// A message, or a reaction, is taken back.
    Delete {
        /// The message.
        of: MessageId,
    },
    /// What became of messages at the sender's: they were read, for example.
    Receipt(Vec<(MessageId, ReceiptStatus)>),
    /// Anything else: see [`Content::content_type`], [`Content::part`], [`Content::in_reply_to`] and [`Content::replaces`].
    Other,
}

impl Content {
    /// What it is.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind};
    ///
    /// assert_eq!(Content::text("Bonjour").kind(), Kind::Text("Bonjour"));
    /// assert_eq!(Content::new("image/png", []).kind(), Kind::Other);
    /// ```
    pub fn kind(&self) -> Kind<'_> {
        if let Some(of) = self.mimi.replaces {
            return match (&self.mimi.part.body, self.as_text()) {
                (Body::Empty, _) => Kind::Delete { of },
                (_, Some(text)) => Kind::Edit { of, text },
                _ => Kind::Other,
            };
        }
        if let Some(report) = self.report() {
            return Kind::Receipt(report);
        }
        match (self.mimi.in_reply_to, self.as_text()) {
            (Some(to), Some(text)) => {
                let emojis = self.emojis();
                if emojis.is_empty() {
                    Kind::Reply { to, text }
                } else {
                    Kind::Reaction { to, emojis }
                }
            }
            (None, Some(text)) => Kind::Text(text),
            _ => Kind::Other,
        }
    }

    /// Of a reaction, what it says; otherwise nothing.
    fn emojis(&self) -> Vec<&str> {
        if self.mimi.part.disposition != Disposition::REACTION || self.mimi.replaces.is_some() {
            return Vec::new();
        }
        self.emojis_in_place()
    }

    /// What its texts say as reactions.
    pub(crate) fn emojis_in_place(&self) -> Vec<&str> {
        let texts = self.mimi.part.singles().into_iter().filter_map(part::text_of);
        texts
            .filter(|text| (1..=MAX_EMOJI).contains(&text.len()))
            .take(MAX_EMOJIS)
            .collect()
    }

    fn report(&self) -> Option<Vec<(MessageId, ReceiptStatus)>> {
        match &self.mimi.part.body {
            Body::Single {
                content_type,
                content,
            } if content_type == status::MEDIA_TYPE => status::decode(content),
            _ => None,
        }
    }

    /// May it be a message of its own, that is shown among the others?
    pub(crate) fn is_message(&self) -> bool {
        self.mimi.replaces.is_none() && !matches!(self.kind(), Kind::Reaction { .. } | Kind::Receipt(_))
    }
}

/// What people write is not for logs.
impl std::fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Reply { to, .. } => write!(f, "Reply({to})"),
            Self::Reaction { to, .. } => write!(f, "Reaction({to})"),
            Self::Edit { of, .. } => write!(f, "Edit({of})"),
            Self::Delete { of } => write!(f, "Delete({of})"),
            Self::Receipt(report) => write!(f, "Receipt({} messages)", report.len()),
            Self::Other => f.write_str("Other"),
        }
    }
}
