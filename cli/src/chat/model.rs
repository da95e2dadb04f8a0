//! All that the screen shows, and how it changes with what happens. Knows no terminal, no clock and no client.

mod group;
#[cfg(test)]
pub(super) mod tests;

use valise_client_sdk::{
    Connection, DeviceId, Event, EventId, EventKind, GroupId, OfflineReason, Progress, UserId, Work,
};

use super::command::{self, Command};
use super::history::Tone;
use super::input::Input;
use super::keys::Action;
use super::text::{clean, clean_line};
use crate::out::printable;
use crate::show;

pub(super) use group::{Known, OpenGroup};

/// Something that the model has to know of.
pub(super) enum Happening {
    Did(Action),
    Arrived(Box<Event>),
    /// How all groups stand now.
    Groups(Vec<Known>),
    /// The user wants to see this group.
    Open(GroupId),
    Connection(Connection),
    Progress(Progress),
    /// A message was accepted, or why not.
    Sent {
        ticket: u64,
        outcome: Result<(), String>,
    },
    /// Something that was asked for has ended: what there is to say about it.
    Ended(Result<String, String>),
    /// Where the history is drawn: columns and rows.
    Pane(usize, usize),
}

/// What is to be done outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Send {
        ticket: u64,
        group: GroupId,
        text: String,
    },
    Add {
        group: GroupId,
        users: Vec<UserId>,
    },
    Remove {
        group: GroupId,
        users: Vec<UserId>,
    },
    Leave {
        group: GroupId,
    },
    Create {
        name: String,
    },
    Quit,
}

/// A line for the user, until the next one or the next line that is entered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// A message that the service has not accepted yet.
struct Pending {
    ticket: u64,
    group: GroupId,
    text: String,
}

/// What of the events was read, so that the rest comes again in the next run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ReadMarks {
    /// Everything up to here.
    pub(super) all: EventId,
    /// In these groups, everything up to there.
    pub(super) groups: Vec<(GroupId, EventId)>,
}

impl ReadMarks {
    pub(super) const NOTHING: Self = Self {
        all: EventId::NONE,
        groups: Vec::new(),
    };
}

pub(super) struct Model {
    pub(super) user: UserId,
    device: DeviceId,
    pub(super) connection: Connection,
    groups: Vec<OpenGroup>,
    selected: usize,
    pub(super) input: Input,
    notice: Option<Notice>,
    progress: Vec<Progress>,
    pending: Vec<Pending>,
    next_ticket: u64,
    newest: EventId,
    pane: (usize, usize),
}

impl Model {
    pub(super) fn new(user: UserId, device: DeviceId) -> Self {
        Self {
            user,
            device,
            connection: Connection::Offline {
                reason: OfflineReason::Starting,
            },
            groups: Vec::new(),
            selected: 0,
            input: Input::default(),
            notice: None,
            progress: Vec::new(),
            pending: Vec::new(),
            next_ticket: 0,
            newest: EventId::NONE,
            pane: (80, 20),
        }
    }

    pub(super) fn update(&mut self, happening: Happening) -> Option<Order> {
        match happening {
            Happening::Did(action) => return self.act(action),
            Happening::Arrived(event) => self.arrived(&event),
            Happening::Groups(known) => self.know(known),
            Happening::Open(group) => {
                if let Some(index) = self.groups.iter().position(|open| open.id == group) {
                    self.select(index);
                }
            }
            Happening::Connection(connection) => self.connection = connection,
            Happening::Progress(progress) => {
                self.progress.retain(|other| other.work != progress.work);
                if !progress.finished {
                    self.progress.push(progress);
                }
            }
            Happening::Sent { ticket, outcome } => {
                let index = self.pending.iter().position(|pending| pending.ticket == ticket);
                let text = index.map(|index| self.pending.remove(index).text);
                if let Err(why) = outcome {
                    self.tell_error(&format!("not sent: {why}"));
                    // To be tried again, unless something else was begun.
                    if let Some(text) = text.filter(|_| self.input.is_empty()) {
                        self.input.edit(super::input::Edit::Insert(text));
                    }
                }
            }
            Happening::Ended(Ok(text)) => self.tell(&text),
            Happening::Ended(Err(text)) => self.tell_error(&text),
            Happening::Pane(columns, rows) => {
                self.pane = (columns, rows);
                for group in &mut self.groups {
                    group.history.set_pane(columns, rows);
                }
            }
        }
        None
    }

    /// In the order of the list.
    pub(super) fn groups(&self) -> &[OpenGroup] {
        &self.groups
    }

    /// The group that is shown, and its place in the list.
    pub(super) fn selected(&self) -> Option<(usize, &OpenGroup)> {
        Some((self.selected, self.groups.get(self.selected)?))
    }

    /// What the user wrote in that group and the service has not accepted yet.
    pub(super) fn pending(&self, group: GroupId) -> impl DoubleEndedIterator<Item = (Tone, &str)> {
        let of_group = self.pending.iter().filter(move |pending| pending.group == group);
        of_group.map(|pending| (Tone::Pending, pending.text.as_str()))
    }

    pub(super) fn notice(&self) -> Option<&Notice> {
        self.notice.as_ref()
    }

    /// How far long work has come, in words.
    pub(super) fn progress(&self) -> Option<String> {
        let texts: Vec<String> = self.progress.iter().map(crate::progress::in_words).collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }

    pub(super) fn read_marks(&self) -> ReadMarks {
        let first_unread = self.groups.iter().filter_map(|group| group.first_unread).min();
        let all = first_unread.map_or(self.newest, |first| EventId(first.0.saturating_sub(1)));
        let read = self.groups.iter().map(|group| (group.id, group.read));
        ReadMarks {
            all,
            groups: read.filter(|(_, read)| *read > all).collect(),
        }
    }

    fn act(&mut self, action: Action) -> Option<Order> {
        match action {
            Action::Edit(edit) => self.input.edit(edit),
            Action::Enter => return self.enter(),
            Action::Escape => {
                self.input.take();
                self.notice = None;
            }
            Action::Switch(by) => {
                let count = self.groups.len().max(1).cast_signed();
                let next = (self.selected.cast_signed() + by).rem_euclid(count);
                self.select(next.cast_unsigned());
            }
            Action::Scroll(rows) => self.scroll(|group| group.history.scroll(rows)),
            Action::ScrollPages(pages) => self.scroll(|group| group.history.scroll_pages(pages)),
            Action::Quit => return Some(Order::Quit),
        }
        None
    }

    fn scroll(&mut self, scroll: impl FnOnce(&mut OpenGroup)) {
        if let Some(group) = self.groups.get_mut(self.selected) {
            scroll(group);
        }
    }

    fn enter(&mut self) -> Option<Order> {
        self.notice = None;
        let command = command::read(&self.input.take(), self.user.domain());
        let group = self.groups.get_mut(self.selected);
        match (command, group) {
            (Command::Nothing, _) => None,
            (Command::Quit, _) => Some(Order::Quit),
            (Command::New(name), _) => Some(Order::Create { name }),
            (Command::Help, _) => {
                self.tell(command::HELP);
                None
            }
            (Command::Wrong(why), _) => {
                self.tell_error(&why);
                None
            }
            (_, None) => {
                self.tell_error("there is no group yet: /new NAME makes one");
                None
            }
            (Command::Say(text), Some(group)) => {
                group.history.show_newest();
                let (group, ticket) = (group.id, self.next_ticket);
                self.next_ticket += 1;
                self.pending.push(Pending {
                    ticket,
                    group,
                    text: text.clone(),
                });
                Some(Order::Send { ticket, group, text })
            }
            (Command::Add(users), Some(group)) => Some(Order::Add {
                group: group.id,
                users,
            }),
            (Command::Remove(users), Some(group)) => Some(Order::Remove {
                group: group.id,
                users,
            }),
            (Command::Leave, Some(group)) => Some(Order::Leave { group: group.id }),
        }
    }

    fn select(&mut self, index: usize) {
        self.selected = index;
        if let Some(group) = self.groups.get_mut(index) {
            group.open();
        }
    }

    fn know(&mut self, known: Vec<Known>) {
        for known in known {
            match self.groups.iter_mut().find(|group| group.id == known.id) {
                Some(group) => group.refresh(known),
                // Groups that were left long ago are of no interest.
                None if group::is_over(known.state.status) => {}
                None => {
                    let mut group = self.new_group(known.id);
                    group.refresh(known);
                    self.groups.push(group);
                }
            }
        }
    }

    fn new_group(&self, id: GroupId) -> OpenGroup {
        let mut group = OpenGroup::new(id);
        group.history.set_pane(self.pane.0, self.pane.1);
        group
    }

    fn arrived(&mut self, event: &Event) {
        self.newest = self.newest.max(event.id);
        let known = self.groups.iter().position(|group| group.id == event.group);
        let index = known.unwrap_or(self.groups.len());
        if known.is_none() {
            self.groups.push(self.new_group(event.group));
        }
        let is_open = index == self.selected;
        let (tone, text) = self.line(event);
        let counts = matches!(tone, Tone::Others | Tone::Alarm);
        if let Some(group) = self.groups.get_mut(index) {
            if let EventKind::GroupNamed { name, .. } = &event.kind {
                group.name = clean_line(name);
            }
            group.history.push(tone, text);
            group.arrived(event.id, is_open, counts);
        }
    }

    /// How an event looks.
    fn line(&self, event: &Event) -> (Tone, String) {
        let time = crate::when::timestamp(event.at);
        let time = time.get(11..16).unwrap_or_default();
        let (sender, text) = show::who_and_what(event);
        let text = clean(&text);
        match (&event.kind, sender) {
            (EventKind::Message { .. } | EventKind::Ephemeral { .. }, Some(sender)) => {
                let tone = if sender.user == self.user {
                    Tone::Own
                } else {
                    Tone::Others
                };
                let other_device = if tone == Tone::Own && sender.device != self.device {
                    " (another device)"
                } else {
                    ""
                };
                (
                    tone,
                    format!("{time} {}{other_device}: {text}", printable(sender.user.as_str())),
                )
            }
            (kind, Some(sender)) => (
                tone_of(kind),
                format!("{time} * {} {text}", printable(sender.user.as_str())),
            ),
            (kind, None) => (tone_of(kind), format!("{time} * {text}")),
        }
    }

    fn tell(&mut self, text: &str) {
        self.notice = Some(Notice {
            text: clean_line(text),
            is_error: false,
        });
    }

    fn tell_error(&mut self, text: &str) {
        self.notice = Some(Notice {
            text: clean_line(text),
            is_error: true,
        });
    }
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

/// The connection in words.
pub(super) fn connection_in_words(connection: &Connection) -> String {
    match connection {
        Connection::Live => "live".into(),
        Connection::CatchingUp => "catching up".into(),
        Connection::Offline { reason } => match reason {
            OfflineReason::Starting => "connecting".into(),
            OfflineReason::Unreachable => "offline: the server cannot be reached".into(),
            OfflineReason::Displaced => "offline: another client with this device took over".into(),
            OfflineReason::Refused(reason) => format!("offline: refused, {}", reason.message()),
            OfflineReason::Closed => "offline: closed".into(),
            _ => "offline".into(),
        },
    }
}

/// Is there something that a group list would show?
pub(super) fn may_change_groups(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Message { .. } | EventKind::Ephemeral { .. })
}

/// Does the end of such work change what a group list would show?
pub(super) fn ends_work(progress: &Progress) -> bool {
    progress.finished && matches!(progress.work, Work::CatchingUp | Work::Adding(_))
}
