//! What application messages say.

mod expiry;
mod kind;
mod message_id;
mod mimi;
mod part;
mod payload;
mod status;

pub use expiry::Expiry;
pub use kind::Kind;
pub use message_id::MessageId;
pub use part::{Body, Disposition, External, Part, Semantics};
pub use status::ReceiptStatus;

use crate::Error;
use message_id::SALT;
use mimi::Mimi;

const TEXT: &str = "text/plain;charset=utf-8";
/// The group's name, told to those who were just added by the one who added them. Not an app's.
pub(crate) const GROUP_PROFILE: &str = "application/vnd.valise.group-profile";
/// Another name for the group. Not an app's.
pub(crate) const GROUP_RENAME: &str = "application/vnd.valise.group-rename";

/// What a message says: text, a reply, a reaction, a correction..., or bytes of any media type.
///
/// Its form is that of IETF MIMI (draft-ietf-mimi-content-09, in CBOR), so other software can read it.
///
/// ```
/// use valise_client_sdk::{Content, Kind};
///
/// let text = Content::text("Bonjour");
/// assert_eq!(text.kind(), Kind::Text("Bonjour"));
/// assert_eq!(text.as_text(), Some("Bonjour"));
///
/// let picture = Content::new("image/png", [0x89, b'P', b'N', b'G']);
/// assert_eq!(picture.kind(), Kind::Other);
/// assert_eq!(picture.content_type(), "image/png");
/// ```
///
/// Other messages are referred to by their [`MessageId`]: it is in [`crate::Sent`], and of received messages [`Content::id`].
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// use valise_client_sdk::Content;
///
/// let sent = group.send("Let us meat at ten").await?;
/// group.send(Content::edit(sent.id, "Let us meet at ten")).await?;
/// group.send(Content::reply(sent.id, "Or at eleven?")).await?;
/// group.send(Content::reaction(sent.id, "👍")).await?;
/// group.send(Content::delete(sent.id)).await?;
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Content {
    mimi: Mimi,
    /// Of a message that was sent.
    sent: Option<(MessageId, [u8; SALT])>,
}

impl Content {
    /// Bytes of that media type (RFC 6838).
    ///
    /// ```
    /// use valise_client_sdk::Content;
    ///
    /// let order = Content::new("application/json", br#"{"table":4}"#);
    /// assert_eq!(order.content_type(), "application/json");
    /// ```
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::from_part(Part::single(
            Disposition::RENDER,
            content_type.into(),
            body.into(),
        ))
    }

    /// Plain text.
    ///
    /// ```
    /// use valise_client_sdk::Content;
    ///
    /// assert_eq!(Content::text("Bonjour"), Content::from("Bonjour"));
    /// ```
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(TEXT, text.into().into_bytes())
    }

    /// A text in answer to a message.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// let reply = Content::reply(id, "At eleven");
    /// assert_eq!(reply.kind(), Kind::Reply { to: id, text: "At eleven" });
    /// ```
    pub fn reply(to: MessageId, text: impl Into<String>) -> Self {
        Self::text(text).in_answer_to(to)
    }

    /// A reaction to a message: an emoji.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// let reaction = Content::reaction(id, "👍");
    /// assert_eq!(reaction.kind(), Kind::Reaction { to: id, emojis: vec!["👍"] });
    /// ```
    pub fn reaction(to: MessageId, emoji: impl Into<String>) -> Self {
        let part = Part::single(Disposition::REACTION, TEXT.to_owned(), emoji.into().into_bytes());
        Self::from_part(part).in_answer_to(to)
    }

    /// Another text for an own message. A message that was edited before keeps its first id.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// let edit = Content::edit(id, "At noon");
    /// assert_eq!(edit.kind(), Kind::Edit { of: id, text: "At noon" });
    /// ```
    pub fn edit(of: MessageId, text: impl Into<String>) -> Self {
        Self::text(text).in_place_of(of)
    }

    /// Takes an own message, or reaction, back.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// assert_eq!(Content::delete(id).kind(), Kind::Delete { of: id });
    /// ```
    pub fn delete(of: MessageId) -> Self {
        Self::from_part(Part {
            disposition: Disposition::RENDER,
            language: String::new(),
            body: Body::Empty,
        })
        .in_place_of(of)
    }

    /// Tells the group that these messages (at most 1,024) were read.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind, MessageId, ReceiptStatus};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// assert_eq!(Content::read_receipt(&[id]).kind(), Kind::Receipt(vec![(id, ReceiptStatus::READ)]));
    /// ```
    pub fn read_receipt(messages: &[MessageId]) -> Self {
        let report: Vec<_> = messages
            .iter()
            .map(|&message| (message, ReceiptStatus::READ))
            .collect();
        Self::receipt(&report)
    }

    /// Tells the group what became of these messages (at most 1,024) here (draft-mahy-mimi-message-status-01).
    ///
    /// ```
    /// use valise_client_sdk::{Content, Kind, MessageId, ReceiptStatus};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// let arrived = Content::receipt(&[(id, ReceiptStatus::DELIVERED)]);
    /// assert_eq!(arrived.kind(), Kind::Receipt(vec![(id, ReceiptStatus::DELIVERED)]));
    /// ```
    pub fn receipt(report: &[(MessageId, ReceiptStatus)]) -> Self {
        Self::from_part(Part::single(
            Disposition(0),
            status::MEDIA_TYPE.to_owned(),
            status::encode(report),
        ))
    }

    /// Any body: several parts, or something that is elsewhere.
    ///
    /// ```
    /// use valise_client_sdk::{Body, Content, Disposition, External, Part};
    ///
    /// let report = Content::from_part(Part {
    ///     disposition: Disposition::ATTACHMENT,
    ///     language: "fr".to_owned(),
    ///     body: Body::External(Box::new(External {
    ///         content_type: "application/pdf".to_owned(),
    ///         url: "https://files.interieur.example/7c1e".to_owned(),
    ///         filename: "budget.pdf".to_owned(),
    ///         ..External::default()
    ///     })),
    /// });
    /// assert_eq!(report.content_type(), "application/pdf");
    /// ```
    pub fn from_part(part: Part) -> Self {
        Self {
            mimi: Mimi::new(part),
            sent: None,
        }
    }

    /// The same in answer to a message.
    ///
    /// ```
    /// use valise_client_sdk::{Content, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// let picture = Content::new("image/png", [0x89, b'P', b'N', b'G']).in_answer_to(id);
    /// assert_eq!(picture.in_reply_to(), Some(id));
    /// ```
    pub fn in_answer_to(mut self, message: MessageId) -> Self {
        self.mimi.in_reply_to = Some(message);
        self
    }

    /// The same in place of an own message.
    ///
    /// ```
    /// use valise_client_sdk::{Content, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// let better = Content::new("image/png", [0x89, b'P', b'N', b'G']).in_place_of(id);
    /// assert_eq!(better.replaces(), Some(id));
    /// ```
    pub fn in_place_of(mut self, message: MessageId) -> Self {
        self.mimi.replaces = Some(message);
        self
    }

    /// The name of the message, once it is sent. Before, there is none: what is sent twice is two messages.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::Content;
    ///
    /// assert_eq!(Content::text("Not sent yet").id(), None);
    /// let sent = group.send("Bonjour").await?;
    /// let message = group.history().message(sent.id).await?.ok_or("forgotten")?;
    /// assert_eq!(message.content.and_then(|content| content.id()), Some(sent.id));
    /// # Ok(()) });
    /// ```
    pub fn id(&self) -> Option<MessageId> {
        self.sent.map(|(id, _)| id)
    }

    /// The first text in it: a message's, a reply's, an edit's, or an emoji. Markdown is a text.
    ///
    /// ```
    /// use valise_client_sdk::Content;
    ///
    /// assert_eq!(Content::text("Bonjour").as_text(), Some("Bonjour"));
    /// assert_eq!(Content::new("image/png", []).as_text(), None);
    /// ```
    pub fn as_text(&self) -> Option<&str> {
        self.mimi.part.singles().into_iter().find_map(part::text_of)
    }

    /// The media type of its bytes; empty where it has none, or several.
    ///
    /// ```
    /// use valise_client_sdk::Content;
    ///
    /// assert_eq!(Content::text("Bonjour").content_type(), "text/plain;charset=utf-8");
    /// ```
    pub fn content_type(&self) -> &str {
        match &self.mimi.part.body {
            Body::Single { content_type, .. } => content_type,
            Body::External(external) => &external.content_type,
            Body::Empty | Body::Multi { .. } => "",
        }
    }

    /// Its bytes, where it is not in several parts, nor elsewhere.
    ///
    /// ```
    /// use valise_client_sdk::Content;
    ///
    /// assert_eq!(Content::text("Bonjour").body(), b"Bonjour");
    /// ```
    pub fn body(&self) -> &[u8] {
        match &self.mimi.part.body {
            Body::Single { content, .. } => content,
            Body::Empty | Body::External(_) | Body::Multi { .. } => &[],
        }
    }

    /// Its body.
    ///
    /// ```
    /// use valise_client_sdk::{Content, Disposition};
    ///
    /// assert_eq!(Content::text("Bonjour").part().disposition, Disposition::RENDER);
    /// ```
    pub fn part(&self) -> &Part {
        &self.mimi.part
    }

    /// The message that it answers, or reacts to.
    ///
    /// ```
    /// use valise_client_sdk::{Content, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// assert_eq!(Content::reply(id, "Yes").in_reply_to(), Some(id));
    /// ```
    pub fn in_reply_to(&self) -> Option<MessageId> {
        self.mimi.in_reply_to
    }

    /// The message in whose place it comes.
    ///
    /// ```
    /// use valise_client_sdk::{Content, MessageId};
    ///
    /// # let id = MessageId::from_bytes([1; 32]).unwrap();
    /// assert_eq!(Content::delete(id).replaces(), Some(id));
    /// ```
    pub fn replaces(&self) -> Option<MessageId> {
        self.mimi.replaces
    }

    /// The same message with another body: nothing else of it can be edited (§9.3).
    pub(crate) fn edited(&self, by: &Self) -> Self {
        let mut edited = self.clone();
        edited.mimi.part = by.mimi.part.clone();
        edited
    }

    /// How it is stored. An edited message keeps its id beside it.
    pub(crate) fn to_stored(&self) -> Option<(MessageId, Vec<u8>)> {
        let (id, salt) = self.sent?;
        Some((id, self.mimi.write(&salt)?))
    }

    pub(crate) fn from_stored(id: MessageId, bytes: &[u8]) -> Result<Self, Error> {
        let decoded = mimi::decode(bytes).ok_or(Error::InvalidInput("the store's message"))?;
        Ok(Self {
            mimi: decoded.mimi,
            sent: Some((id, decoded.salt)),
        })
    }
}

/// The media type under which [`Content::to_stored`] is kept.
pub(crate) const STORED: &str = payload::MIMI;

/// Contents are equal if they say the same, as different messages or not.
impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.mimi == other.mimi
    }
}

impl Eq for Content {}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// What people write is not for logs.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("id", &self.id())
            .field("part", &self.mimi.part)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
