//! What a line that was entered asks for.

use valise_client_sdk::{Content, GroupId, MessageId};

use super::{Aside, Model, Order, Pending};
use crate::chat::command::{self, Command};
use crate::chat::history::{History, Notice};
use crate::chat::input::Edit;
use crate::chat::message::{Message, State};

impl Model {
    pub(super) fn enter(&mut self) -> Option<Order> {
        self.notice = None;
        let typed = self.input.take();
        let command = command::read(&typed, self.user.domain());
        let is_of_message = matches!(
            command,
            Command::Reply { .. } | Command::Edit { .. } | Command::Delete { .. } | Command::React { .. }
        );
        self.order(command, &typed).unwrap_or_else(|why| {
            if is_of_message {
                // Most of it is text, and only the number is wrong.
                self.input.edit(Edit::Insert(typed));
            }
            self.tell_error(&why);
            None
        })
    }

    fn order(&mut self, command: Command, typed: &str) -> Result<Option<Order>, String> {
        let group = self.groups.get(self.selected).map(|group| group.id);
        let group = group.ok_or("there is no group yet: /new NAME makes one");
        Ok(Some(match command {
            Command::Nothing => return Ok(None),
            Command::Help => {
                self.show_help();
                return Ok(None);
            }
            Command::Wrong(why) => return Err(why),
            Command::Quit => Order::Quit,
            Command::New(name) => Order::Create { name },
            Command::Say(text) => {
                self.aside = None;
                self.send(group?, Content::text(text), typed)
            }
            Command::Reply { to, text } => {
                let to = self.sent(&to)?;
                self.aside = None;
                self.send(group?, Content::reply(to, text), typed)
            }
            Command::Edit { of, text } => {
                let of = self.own(&of)?;
                self.send(group?, Content::edit(of, text), typed)
            }
            Command::Delete { of } => {
                let message = self.message(&of)?;
                if message.state == State::Failed {
                    let message = message.id;
                    return Ok(Some(Order::Forget {
                        group: group?,
                        message,
                    }));
                }
                let of = self.own(&of)?;
                self.send(group?, Content::delete(of), typed)
            }
            Command::React {
                to,
                emoji: Some(emoji),
            } => {
                let to = self.sent(&to)?;
                self.send(group?, Content::reaction(to, emoji), typed)
            }
            Command::React { to, emoji: None } => {
                let last = self.message(&to)?.own_reactions.last().copied();
                let last = last.ok_or("there is no reaction of yours to take back")?;
                self.send(group?, Content::delete(last), typed)
            }
            Command::Search(words) => Order::Search { group: group?, words },
            Command::Add(users) => Order::Add { group: group?, users },
            Command::Remove(users) => Order::Remove { group: group?, users },
            Command::Role(user, role) => Order::SetRole {
                group: group?,
                user,
                role,
            },
            Command::Rename(name) => Order::Rename { group: group?, name },
            Command::Leave => Order::Leave { group: group? },
            Command::Rejoin => Order::Rejoin { group: group? },
        }))
    }

    fn show_help(&mut self) {
        let mut history = History::default();
        history.set_pane(self.pane.0, self.pane.1);
        for line in command::HELP {
            history.push(Notice::plain(line.to_owned()));
        }
        self.aside = Some(Aside {
            title: "Commands (Esc: back)".to_owned(),
            history,
        });
    }

    fn send(&mut self, group: GroupId, content: Content, typed: &str) -> Order {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.pending.push(Pending {
            ticket,
            group,
            text: typed.trim().to_owned(),
        });
        if let Some(open) = self.groups.get_mut(self.selected) {
            open.history.show_newest();
            open.said = true;
        }
        Order::Send {
            ticket,
            group,
            content: Box::new(content),
        }
    }

    /// A message that others have, or will have.
    fn sent(&self, reference: &str) -> Result<MessageId, String> {
        let message = self.message(reference)?;
        match message.state {
            State::Queued | State::Accepted => Ok(message.id),
            State::Deleted => Err(format!("{reference} is deleted")),
            State::Failed => Err(format!(
                "{reference} was not sent: /delete {reference} removes it here"
            )),
        }
    }

    /// One of those, of this user.
    fn own(&self, reference: &str) -> Result<MessageId, String> {
        let id = self.sent(reference)?;
        if self.message(reference)?.is_own {
            Ok(id)
        } else {
            Err(format!("{reference} is not yours: only its sender may change it"))
        }
    }

    /// The message of that number, or with that beginning of its id, among those that are read.
    fn message(&self, reference: &str) -> Result<&Message, String> {
        let aside = self.aside.iter().map(|aside| &aside.history);
        let open = self.groups.get(self.selected).map(|group| &group.history);
        let read = open.into_iter().chain(aside).flat_map(History::messages);
        let mut meant: Option<&Message> = None;
        for message in read.filter(|message| message.is_meant_by(reference)) {
            if meant.is_some_and(|other| other.id != message.id) {
                return Err(format!(
                    "{reference} may be more than one message: #NUMBER, or more of the id"
                ));
            }
            meant.get_or_insert(message);
        }
        meant.ok_or_else(|| format!("no message {reference} is shown: scroll back, or /search for it"))
    }
}
