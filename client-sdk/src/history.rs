//! What was said, as this device remembers it.

use std::sync::Arc;
use std::time::SystemTime;

use valise_proto::{GroupId, Position, UserId};

use crate::session::Session;
use crate::{Client, Content, Error, Group, MessageId, Peer, WhatNow};

/// The messages of one group, on this device only. Kept unless [`crate::Options::history`] says otherwise.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// group.send("The budget is ready").await?;
/// alice.synced().await?;
/// let history = group.history();
/// let last = history.page(None, 50).await?;
/// assert_eq!(last.len(), 1);
/// let before = last.iter().find_map(|message| message.position());
/// let earlier = history.page(before, 50).await?;
/// assert_eq!(earlier, []);
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct History {
    session: Arc<Session>,
    group: GroupId,
}

/// A message as it stands now: edited, deleted, reacted to.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// use valise_client_sdk::Content;
///
/// let sent = group.send("Let us meat at ten").await?;
/// group.send(Content::edit(sent.id, "Let us meet at ten")).await?;
/// alice.synced().await?; // it changes the message when it has come back
/// let message = group.history().message(sent.id).await?.ok_or("forgotten")?;
/// assert!(message.edited);
/// assert_eq!(message.as_text(), Some("Let us meet at ten"));
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryMessage {
    /// Its name.
    pub id: MessageId,
    /// In which group.
    pub group: GroupId,
    /// Who sent it.
    pub sender: Peer,
    /// Is it in the group's log?
    pub status: SendStatus,
    /// When the service accepted it; until then, when it was queued.
    pub at: SystemTime,
    /// What it says, as last edited. `None`: its sender has deleted it.
    pub content: Option<Content>,
    /// Did it say something else before?
    pub edited: bool,
    /// When it will be deleted here. Of messages that expire after reading, known once they are read.
    pub expires_at: Option<SystemTime>,
    /// Reactions, in their order.
    pub reactions: Vec<Reaction>,
    /// Who has told that they read it.
    pub read_by: Vec<UserId>,
}

/// A reaction to a message.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// use valise_client_sdk::Content;
///
/// let sent = group.send("Done").await?;
/// group.send(Content::reaction(sent.id, "👍")).await?;
/// alice.synced().await?;
/// let message = group.history().message(sent.id).await?.ok_or("forgotten")?;
/// assert_eq!(message.reactions[0].emoji, "👍");
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reaction {
    /// The message that made it. Deleting that takes the reaction back.
    pub id: MessageId,
    /// Whose it is.
    pub user: UserId,
    /// What it says.
    pub emoji: String,
}

/// How far an own message has come. Those of others are accepted.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// use valise_client_sdk::SendStatus;
///
/// let id = group.queue("Bonjour").await?;
/// let message = group.history().message(id).await?.ok_or("forgotten")?;
/// match message.status {
///     SendStatus::Queued => println!("on its way"),
///     SendStatus::Accepted { position } => println!("entry {position} of the log"),
///     SendStatus::Failed { cause, what_now } => println!("not sent: {cause}; {what_now:?}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SendStatus {
    /// It is stored here and not in the group's log yet, as far as this device has seen.
    Queued,
    /// It is in the group's log.
    Accepted {
        /// Where.
        position: Position,
    },
    /// It was not sent, and will not be.
    Failed {
        /// Why: an error reason or rule.
        cause: String,
        /// What to do about it.
        what_now: WhatNow,
    },
}

impl HistoryMessage {
    /// Where it stands in the group's log, if it does.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let sent = group.send("Bonjour").await?;
    /// alice.synced().await?; // it has its place when it has come back
    /// let message = group.history().message(sent.id).await?.ok_or("forgotten")?;
    /// assert_eq!(message.position(), Some(sent.position));
    /// # Ok(()) });
    /// ```
    pub fn position(&self) -> Option<Position> {
        match self.status {
            SendStatus::Accepted { position } => Some(position),
            SendStatus::Queued | SendStatus::Failed { .. } => None,
        }
    }

    /// Its text, where it has one and is not deleted.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::Content;
    ///
    /// let sent = group.send("Forget it").await?;
    /// group.send(Content::delete(sent.id)).await?;
    /// alice.synced().await?;
    /// let message = group.history().message(sent.id).await?.ok_or("forgotten")?;
    /// assert_eq!(message.as_text(), None);
    /// # Ok(()) });
    /// ```
    pub fn as_text(&self) -> Option<&str> {
        self.content.as_ref()?.as_text()
    }
}

impl History {
    /// The last messages (at most `limit`, and 1,000) before that position, oldest first. Without a position, the last of all,
    /// and after them own messages that are queued or have failed.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// for number in 1..=5 {
    ///     group.send(format!("Line {number}")).await?;
    /// }
    /// alice.synced().await?;
    /// let history = group.history();
    /// let last = history.page(None, 2).await?;
    /// let earlier = history.page(last[0].position(), 2).await?;
    /// assert_eq!(earlier[1].as_text(), Some("Line 3"));
    /// # Ok(()) });
    /// ```
    pub async fn page(&self, before: Option<Position>, limit: usize) -> Result<Vec<HistoryMessage>, Error> {
        let group = self.group;
        self.session
            .engine
            .run(move |engine| engine.history_page(group, before, limit))
            .await
    }

    /// The messages (at most `limit`, and 1,000) in which all these words are, newest first. Accents and case do not count, and
    /// the last word may be the beginning of one. Any text can be searched for.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// group.send("Le déjeuner est prêt").await?;
    /// alice.synced().await?;
    /// let found = group.history().search("dejeuner pre", 20).await?;
    /// assert_eq!(found[0].as_text(), Some("Le déjeuner est prêt"));
    /// # Ok(()) });
    /// ```
    pub async fn search(&self, words: &str, limit: usize) -> Result<Vec<HistoryMessage>, Error> {
        search(&self.session, Some(self.group), words, limit).await
    }

    /// One message, by its id or that of an edit of it.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let sent = group.send("Bonjour").await?;
    /// let message = group.history().message(sent.id).await?.ok_or("forgotten")?;
    /// assert_eq!(&message.sender.user, alice.user());
    /// # Ok(()) });
    /// ```
    pub async fn message(&self, id: MessageId) -> Result<Option<HistoryMessage>, Error> {
        let group = self.group;
        self.session
            .engine
            .run(move |engine| engine.history_message(group, id))
            .await
    }

    /// The user has read these messages: those that expire after reading begin to. Nobody is told: for that, send
    /// [`Content::read_receipt`], which does this as well, on all devices of the user.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use std::time::Duration;
    /// use valise_client_sdk::{Content, Expiry};
    ///
    /// let once = Content::text("Read me once").expiring(Expiry::AfterRead(Duration::from_secs(60)));
    /// let sent = group.send(once).await?;
    /// bob.synced().await?;
    /// of_bob.history().mark_read(&[sent.id]).await?;
    /// let message = of_bob.history().message(sent.id).await?.ok_or("forgotten")?;
    /// assert!(message.expires_at.is_some());
    /// # Ok(()) });
    /// ```
    pub async fn mark_read(&self, messages: &[MessageId]) -> Result<(), Error> {
        let (group, messages) = (self.group, messages.to_vec());
        self.session
            .engine
            .run(move |engine| engine.messages_were_read(group, &messages))
            .await
    }

    /// Removes a message from this device, for good. Others keep it, and get it where it was queued. Says whether there was one.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let sent = group.send("Only here").await?;
    /// alice.synced().await?;
    /// assert!(group.history().remove(sent.id).await?);
    /// assert!(group.history().message(sent.id).await?.is_none());
    /// # Ok(()) });
    /// ```
    pub async fn remove(&self, id: MessageId) -> Result<bool, Error> {
        let group = self.group;
        self.session
            .engine
            .run(move |engine| engine.remove_message(group, id))
            .await
    }
}

impl Group {
    /// What was said in it.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// group.send("Bonjour").await?;
    /// let messages = group.history().page(None, 50).await?;
    /// assert_eq!(messages.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn history(&self) -> History {
        History {
            session: Arc::clone(&self.session),
            group: self.id,
        }
    }
}

impl Client {
    /// [`History::search`] in all groups.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// group.send("The budget is ready").await?;
    /// alice.synced().await?;
    /// for message in alice.search("budget", 20).await? {
    ///     assert_eq!((message.group, message.as_text()), (group.id(), Some("The budget is ready")));
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn search(&self, words: &str, limit: usize) -> Result<Vec<HistoryMessage>, Error> {
        search(&self.session, None, words, limit).await
    }
}

async fn search(
    session: &Session,
    group: Option<GroupId>,
    words: &str,
    limit: usize,
) -> Result<Vec<HistoryMessage>, Error> {
    let words = words.to_owned();
    session
        .engine
        .run(move |engine| engine.search_history(group, &words, limit))
        .await
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "History({})", self.group)
    }
}
