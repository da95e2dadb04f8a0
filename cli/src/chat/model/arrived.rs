//! What an event changes, and how it looks.

use valise_client_sdk::{Content, Event, EventKind, Kind, Position};

use super::Model;
use crate::chat::history::{Notice, Tone};
use crate::chat::message;
use crate::chat::text::{clean, clean_line};
use crate::out::printable;
use crate::show;

impl Model {
    pub(super) fn arrived(&mut self, event: &Event) {
        self.newest = self.newest.max(event.id);
        let known = self.groups.iter().position(|group| group.id == event.group);
        let index = known.unwrap_or(self.groups.len());
        if known.is_none() {
            self.groups.push(self.new_group(event.group));
        }
        let is_open = index == self.selected && !self.is_away;
        let (tone, line) = self.line(event);
        let counts = matches!(tone, Tone::Others | Tone::Alarm);
        if let Some(group) = self.groups.get_mut(index) {
            if let EventKind::GroupNamed { name, .. } = &event.kind {
                group.name = clean_line(name);
            }
            if event.position != Position::NONE {
                group.history.reached(event.position);
            }
            if let Some(text) = line {
                let line = Notice::new(event.position, event.at, tone, text);
                group.history.push(line);
            }
            // Failures change messages, too.
            group.history.outdated();
            group.arrived(event.id, is_open, counts);
        }
    }

    /// What an event is, and how it looks; `None` where that is shown by what is remembered of messages.
    fn line(&self, event: &Event) -> (Tone, Option<String>) {
        let (sender, text) = show::who_and_what(event);
        let tone = match (&event.kind, &sender) {
            (EventKind::Message { content, .. }, _) if !says_something(content) => Tone::Notice,
            (EventKind::Message { .. } | EventKind::Ephemeral { .. }, Some(sender)) => {
                if sender.user == self.user {
                    Tone::Own
                } else {
                    Tone::Others
                }
            }
            (kind, _) => tone_of(kind),
        };
        if matches!(event.kind, EventKind::Message { .. }) {
            return (tone, None);
        }
        let (time, text) = (message::hour(event.at), clean(&text));
        let said = matches!(event.kind, EventKind::Ephemeral { .. });
        let line = match sender {
            Some(sender) if said => {
                let other_device = if tone == Tone::Own && sender.device != self.device {
                    " (another device)"
                } else {
                    ""
                };
                format!("{time} {}{other_device}: {text}", printable(sender.user.as_str()))
            }
            Some(sender) => format!("{time} * {} {text}", printable(sender.user.as_str())),
            None => format!("{time} * {text}"),
        };
        (tone, Some(line))
    }
}

/// Is it something to read, and not what became of another message?
fn says_something(content: &Content) -> bool {
    let is_about_others = matches!(content.kind(), Kind::Reaction { .. } | Kind::Receipt(_));
    content.replaces().is_none() && !is_about_others
}

/// What is not known to be usual is to be looked at.
fn tone_of(kind: &EventKind) -> Tone {
    match kind {
        EventKind::Joined { .. }
        | EventKind::MembersChanged { .. }
        | EventKind::GroupNamed { .. }
        | EventKind::Removed { .. } => Tone::Notice,
        _ => Tone::Alarm,
    }
}
