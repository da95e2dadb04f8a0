//! Messages of people: what a received one does to those before it, and what this device keeps of them.
//!
//! Whether an edit or a deletion is its author's is judged by what is kept: only the user who sent a message may change it
//! (draft-ietf-mimi-content-09 §9.3). What changes a message does so once, at its first place in the log: no two messages have one id (§9.1).
//! Those are no rules of groups: members who judge otherwise do not fork.

use prost::Message as _;
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::Engine;
use super::effects::{Chore, Effect};
use super::inbox::accepted_at;
use super::intents::Operation;
use crate::history::HistoryMessage;
use crate::store::{Failure, IntentId, MessageNumber, MessagePlace as Place, Named, NewMessage};
use crate::{Content, Error, EventId, EventKind, Expiry, Kind, MessageId, Peer, ReceiptStatus, kill_point};

/// A message that came with an entry of the log.
struct Heard<'a> {
    group: GroupId,
    entry: &'a wire::Entry,
    position: Position,
    /// When it was accepted, in milliseconds since 1970-01-01 UTC.
    at: u64,
    sender: &'a Peer,
    content: &'a Content,
}

impl Engine {
    /// A message was received, or an own one has come back: tells the app, and keeps it.
    pub(super) fn heard(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        sender: Peer,
        content: Content,
    ) -> Result<(), Error> {
        let (position, at) = (Position(entry.position), accepted_at(entry.accepted_at.as_ref()));
        let told = self.take_up(&Heard {
            group,
            entry,
            position,
            at,
            sender: &sender,
            content: &content,
        })?;
        match told {
            Told::AsItIs => self.emit(group, position, at, &EventKind::Message { sender, content }),
            Told::Instead(kind) => self.emit(group, position, at, &kind),
            Told::Already | Told::Nothing => Ok(()),
        }
    }

    fn take_up(&mut self, heard: &Heard<'_>) -> Result<Told, Error> {
        let unreadable = || {
            Told::Instead(Box::new(EventKind::Unreadable {
                sender: Some(heard.sender.clone()),
                evidence: heard.entry.encode_to_vec(),
            }))
        };
        if heard.content.expires_too_late(heard.at / 1000) {
            return Ok(unreadable());
        }
        if self.is_over(heard.content) {
            if let Some(id) = heard.content.id()
                && let Named::TheirOwn(queued) = self.db.named(heard.group, id, &heard.sender.user)?
            {
                self.db.remove_message(queued)?;
            }
            return Ok(Told::Nothing);
        }
        let Some(id) = heard.content.id().filter(|_| self.options.history) else {
            return Ok(Told::AsItIs);
        };
        // Its id is a hash of all that it says: one that comes again (see `take_message`) must not undo what came after it.
        if !heard.content.is_message() && !self.db.see_message(heard.group, id)? {
            return Ok(Told::Nothing);
        }
        if let Some(of) = heard.content.replaces() {
            return self.take_replacement(heard, of);
        }
        match heard.content.kind() {
            Kind::Reaction { to, emojis } => {
                let event = self.tell(heard)?;
                if let Some(message) = self.db.message_number(heard.group, to)? {
                    for emoji in emojis {
                        let by = (id, &heard.sender.user);
                        self.db.put_reaction(message, by, emoji, event)?;
                    }
                }
            }
            Kind::Receipt(report) => {
                self.tell(heard)?;
                self.take_receipt(heard, report)?;
            }
            _ => return self.take_message(heard, id, unreadable),
        }
        Ok(Told::Already)
    }

    fn take_message(
        &mut self,
        heard: &Heard<'_>,
        id: MessageId,
        unreadable: impl Fn() -> Told,
    ) -> Result<Told, Error> {
        let accepted = (heard.position, heard.at);
        let queued = match self.db.named(heard.group, id, &heard.sender.user)? {
            // It was removed here, or has expired.
            Named::Unknown if self.db.was_seen(heard.group, id)? => return Ok(Told::Nothing),
            Named::Unknown => None,
            Named::TheirOwn(message) if self.is_own(heard.sender) => Some(message),
            // Its id is a hash of all that it says: it was sent once more, by a device that could not learn whether it had been accepted
            // (the entry was not kept any more), and says nothing new.
            Named::TheirOwn(_) => return Ok(Told::Nothing),
            // Two messages do not have the same id (§9.1).
            Named::NotTheirs => return Ok(unreadable()),
        };
        let event = self.tell(heard)?;
        let message = match queued {
            Some(_) => self.db.accept_message(heard.group, id, accepted, event)?,
            None => Some(self.keep(heard, id, true, event)?),
        };
        if let Some(message) = message {
            // Its author has read it.
            if heard.sender.user == self.device.user {
                self.db.message_was_read(message, heard.at)?;
            }
            self.watch_expiry(heard.content);
        }
        Ok(Told::Already)
    }

    fn take_replacement(&mut self, heard: &Heard<'_>, of: MessageId) -> Result<Told, Error> {
        let user = &heard.sender.user;
        let refused = Told::Instead(Box::new(EventKind::ReplacementRefused {
            sender: heard.sender.clone(),
            of,
        }));
        let deletes = matches!(heard.content.kind(), Kind::Delete { .. });
        if let Some((message, by)) = self.db.reaction(heard.group, of)? {
            if by != user.as_str() {
                return Ok(refused);
            }
            let event = self.tell(heard)?;
            self.db.remove_reaction(message, of)?;
            for emoji in heard.content.emojis_in_place() {
                self.db.put_reaction(message, (of, user), emoji, event)?;
            }
            return Ok(Told::Already);
        }
        match self.db.named(heard.group, of, user)? {
            Named::NotTheirs => return Ok(refused),
            Named::TheirOwn(message) => {
                let event = self.tell(heard)?;
                if deletes {
                    self.db.retract_message(message)?;
                } else {
                    self.db.edit_message(message, heard.content, event)?;
                }
            }
            Named::Unknown => {
                let event = self.tell(heard)?;
                if !deletes {
                    // From before this device was there, or forgotten: kept as what this sender says.
                    let message = self.keep(heard, of, false, event)?;
                    if user == &self.device.user {
                        self.db.message_was_read(message, heard.at)?;
                    }
                    self.watch_expiry(heard.content);
                }
            }
        }
        Ok(Told::Already)
    }

    fn take_receipt(
        &mut self,
        heard: &Heard<'_>,
        report: Vec<(MessageId, ReceiptStatus)>,
    ) -> Result<(), Error> {
        for (id, status) in report {
            let Some(message) = self.db.message_number(heard.group, id)? else {
                continue;
            };
            self.db.put_receipt(message, &heard.sender.user, status)?;
            if status == ReceiptStatus::READ
                && heard.sender.user == self.device.user
                && self.db.message_was_read(message, heard.at)?
            {
                self.effects.push(Effect::Chore(Chore::Expire));
            }
        }
        Ok(())
    }

    fn keep(
        &self,
        heard: &Heard<'_>,
        id: MessageId,
        genuine: bool,
        event: Option<EventId>,
    ) -> Result<MessageNumber, Error> {
        self.db.put_message(&NewMessage {
            group: heard.group,
            id,
            sender: heard.sender,
            genuine,
            place: Place::Accepted(heard.position, event),
            at: heard.at,
            content: heard.content,
        })
    }

    fn tell(&mut self, heard: &Heard<'_>) -> Result<Option<EventId>, Error> {
        let kind = EventKind::Message {
            sender: heard.sender.clone(),
            content: heard.content.clone(),
        };
        self.emit_numbered(heard.group, heard.position, heard.at, &kind)
    }

    fn is_own(&self, sender: &Peer) -> bool {
        sender.device == self.device.id
    }

    /// Has its time come before it arrived?
    fn is_over(&self, content: &Content) -> bool {
        matches!(content.expiry(), Some(Expiry::At(at)) if at <= self.options.clock.now())
    }

    fn watch_expiry(&mut self, content: &Content) {
        if content.expiry().is_some() {
            self.effects.push(Effect::Chore(Chore::Expire));
        }
    }

    /// An own message was queued: it is shown at once. What it does to others is done when it is in the log.
    pub(super) fn remember_queued(
        &mut self,
        intent: IntentId,
        group: GroupId,
        operation: &Operation,
    ) -> Result<Option<MessageId>, Error> {
        let Operation::Send { payload } = operation else {
            return Ok(None);
        };
        let user = &self.device.user;
        let Some(content) = Content::from_payload(payload, user, group, Position::NONE) else {
            return Ok(None);
        };
        let id = content.id();
        if let Some(id) = id
            && self.options.history
            && content.is_message()
        {
            self.db.put_message(&NewMessage {
                group,
                id,
                sender: &self.device.peer(),
                genuine: true,
                place: Place::Queued(intent),
                at: self.options.clock.unix_millis(),
                content: &content,
            })?;
            self.watch_expiry(&content);
        }
        Ok(id)
    }

    /// The name of a message of this device that is at that position.
    pub(super) fn own_message_id(
        &self,
        group: GroupId,
        payload: &[u8],
        position: Position,
    ) -> Result<MessageId, Error> {
        Content::from_payload(payload, &self.device.user, group, position)
            .and_then(|content| content.id())
            .ok_or(Error::InvalidInput("the store's message"))
    }

    /// An own message was not sent.
    pub(super) fn remember_failure(&mut self, intent: IntentId, error: &Error) -> Result<(), Error> {
        let failure = Failure {
            cause: super::outcome::cause(error),
            what_now: error.what_now().into(),
        };
        self.db.fail_message(intent, &failure)
    }

    /// Stores a message that nobody waits for, and prepares it.
    pub(crate) fn queue_message(&mut self, group: GroupId, payload: Vec<u8>) -> Result<MessageId, Error> {
        let operation = Operation::Send { payload };
        self.check_submission(group, &operation)?;
        self.transaction(|engine| {
            let intent = engine.queue(group, &operation, false)?;
            let id = engine.remember_queued(intent, group, &operation)?;
            engine.pump(group)?;
            id.ok_or(Error::InvalidInput("the message cannot be read"))
        })
    }

    /// Deletes what has expired; says when the next message does, in milliseconds since 1970-01-01 UTC.
    pub(crate) fn expire(&mut self) -> Result<Option<u64>, Error> {
        let now = self.options.clock.unix_millis();
        let expired = self.db.expired_messages(now)?;
        if !expired.is_empty() {
            self.transaction(|engine| {
                kill_point::applying("expire");
                expired
                    .into_iter()
                    .try_for_each(|message| engine.db.remove_message(message))
            })?;
        }
        self.db.next_expiry()
    }

    /// At the start, before anything is shown.
    pub(super) fn tidy_history(&mut self) -> Result<(), Error> {
        if !self.options.history {
            return self.transaction(|engine| engine.db.delete_history());
        }
        self.expire().map(drop)
    }

    pub(crate) fn history_page(
        &mut self,
        group: GroupId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<HistoryMessage>, Error> {
        self.db.history_page(group, before, limit)
    }

    pub(crate) fn history_message(
        &mut self,
        group: GroupId,
        id: MessageId,
    ) -> Result<Option<HistoryMessage>, Error> {
        self.db.history_message(group, id)
    }

    pub(crate) fn search_history(
        &mut self,
        group: Option<GroupId>,
        words: &str,
        limit: usize,
    ) -> Result<Vec<HistoryMessage>, Error> {
        self.db.search_history(group, words, limit)
    }

    pub(crate) fn messages_were_read(&mut self, group: GroupId, messages: &[MessageId]) -> Result<(), Error> {
        let now = self.options.clock.unix_millis();
        self.transaction(|engine| {
            for &id in messages {
                if let Some(message) = engine.db.message_number(group, id)?
                    && engine.db.message_was_read(message, now)?
                {
                    engine.effects.push(Effect::Chore(Chore::Expire));
                }
            }
            Ok(())
        })
    }

    pub(crate) fn remove_message(&mut self, group: GroupId, id: MessageId) -> Result<bool, Error> {
        self.transaction(|engine| {
            let Some(message) = engine.db.message_number(group, id)? else {
                return Ok(false);
            };
            kill_point::applying("remove_message");
            engine.db.remove_message(message)?;
            Ok(true)
        })
    }
}

/// What the app is told of a message.
enum Told {
    AsItIs,
    Instead(Box<EventKind>),
    Already,
    Nothing,
}
