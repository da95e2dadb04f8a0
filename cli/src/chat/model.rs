//! All that the screen shows, and how it changes with what happens. Knows no terminal, no clock and no client.

mod arrived;
mod enter;
mod group;
#[cfg(test)]
pub(super) mod tests;

use valise_client_sdk::{
    Connection, Content, DeviceId, Event, EventId, EventKind, GroupId, HistoryMessage, MessageId,
    OfflineReason, Position, Progress, Role, UserId, Work,
};

use super::history::{History, Tone};
use super::input::Input;
use super::keys::Action;
use super::message;
use super::text::clean_line;

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
    /// What was asked for with [`Model::next_reading`]: the last messages of a group, oldest first.
    Remembered {
        group: GroupId,
        messages: Vec<HistoryMessage>,
        /// There are no older ones.
        whole: bool,
    },
    /// What has these words, oldest first.
    Found {
        group: GroupId,
        words: String,
        messages: Vec<HistoryMessage>,
    },
    /// A message is queued, or what changes one was accepted; or why not.
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
        content: Box<Content>,
    },
    Add {
        group: GroupId,
        users: Vec<UserId>,
    },
    Remove {
        group: GroupId,
        users: Vec<UserId>,
    },
    SetRole {
        group: GroupId,
        user: UserId,
        role: Role,
    },
    Rename {
        group: GroupId,
        name: String,
    },
    Leave {
        group: GroupId,
    },
    Rejoin {
        group: GroupId,
    },
    Search {
        group: GroupId,
        words: String,
    },
    /// Remove a message here.
    Forget {
        group: GroupId,
        message: MessageId,
    },
    Create {
        name: String,
    },
    Quit,
}

/// What is to be read of what was said in a group: the last messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    pub(super) group: GroupId,
    /// At least those from here on; `None`: a page.
    pub(super) back_to: Option<Position>,
    /// A page more than that.
    pub(super) more: bool,
}

/// What is shown in place of a group's history, until it is put away.
pub(super) struct Aside {
    pub(super) title: String,
    pub(super) history: History,
}

/// A line for the user, until the next one or the next line that is entered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// A line that was entered, and of which nothing is to be seen yet.
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
    aside: Option<Aside>,
    notice: Option<Notice>,
    progress: Vec<Progress>,
    pending: Vec<Pending>,
    next_ticket: u64,
    newest: EventId,
    pane: (usize, usize),
    /// Nobody looks at the terminal, as it says.
    is_away: bool,
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
            aside: None,
            notice: None,
            progress: Vec::new(),
            pending: Vec::new(),
            next_ticket: 0,
            newest: EventId::NONE,
            pane: (80, 20),
            is_away: false,
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
            Happening::Remembered {
                group,
                messages,
                whole,
            } => {
                let messages = message::shown(&messages, &self.user, self.device);
                if let Some(open) = self.groups.iter_mut().find(|open| open.id == group) {
                    open.history.remember(messages, whole);
                }
            }
            Happening::Found {
                group,
                words,
                messages,
            } => self.found(group, &words, &messages),
            Happening::Sent { ticket, outcome } => self.sent_or_not(ticket, outcome),
            Happening::Ended(Ok(text)) => self.tell(&text),
            Happening::Ended(Err(text)) => self.tell_error(&text),
            Happening::Pane(columns, rows) => {
                self.pane = (columns, rows);
                let groups = self.groups.iter_mut().map(|group| &mut group.history);
                for history in groups.chain(self.aside.iter_mut().map(|aside| &mut aside.history)) {
                    history.set_pane(columns, rows);
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

    /// What is shown in place of the group's history.
    pub(super) fn aside(&self) -> Option<&Aside> {
        self.aside.as_ref()
    }

    /// What is to be read for the group that is shown, if anything. Said once.
    pub(super) fn next_reading(&mut self) -> Option<Reading> {
        let open = self.groups.get_mut(self.selected)?;
        let (back_to, more) = open.history.next_reading()?;
        Some(Reading {
            group: open.id,
            back_to,
            more,
        })
    }

    /// Messages that wait to be read and are seen now, and their group. Said once.
    pub(super) fn next_seen(&mut self) -> Option<(GroupId, Vec<MessageId>)> {
        let open = self.groups.get_mut(self.selected).filter(|_| !self.is_away)?;
        let group = open.id;
        let seen = if let Some(aside) = &mut self.aside {
            aside.history.next_seen(std::iter::empty())
        } else {
            let pending = self.pending.iter().filter(|pending| pending.group == group);
            open.history
                .next_seen(pending.map(|pending| pending.text.as_str()))
        };
        (!seen.is_empty()).then_some((group, seen))
    }

    /// May something that was said in this run not be accepted yet?
    pub(super) fn may_have_queued(&self) -> bool {
        let mut said = self.groups.iter().filter(|group| group.said);
        said.any(|group| group.history.may_have_queued())
    }

    /// What the user entered in that group, and of which nothing is to be seen yet.
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
        let was_away = std::mem::replace(&mut self.is_away, action == Action::LookAway);
        if was_away && !self.is_away {
            // What has come meanwhile is looked at now.
            self.open_selected();
        }
        match action {
            Action::Edit(edit) => self.input.edit(edit),
            Action::Enter => return self.enter(),
            Action::Escape if self.aside.is_some() => self.aside = None,
            Action::Escape => {
                self.input.take();
                self.notice = None;
            }
            Action::Switch(by) => {
                let count = self.groups.len().max(1).cast_signed();
                let next = (self.selected.cast_signed() + by).rem_euclid(count);
                self.select(next.cast_unsigned());
            }
            Action::Scroll(rows) => self.scroll(|history| history.scroll(rows)),
            Action::ScrollPages(pages) => self.scroll(|history| history.scroll_pages(pages)),
            Action::LookAway | Action::LookAgain => {}
            Action::Quit => return Some(Order::Quit),
        }
        None
    }

    fn scroll(&mut self, scroll: impl FnOnce(&mut History)) {
        if let Some(aside) = &mut self.aside {
            scroll(&mut aside.history);
        } else if let Some(group) = self.groups.get_mut(self.selected) {
            scroll(&mut group.history);
        }
    }

    fn select(&mut self, index: usize) {
        self.selected = index;
        self.aside = None;
        self.open_selected();
    }

    fn open_selected(&mut self) {
        if let Some(group) = self.groups.get_mut(self.selected) {
            group.open();
        }
    }

    fn sent_or_not(&mut self, ticket: u64, outcome: Result<(), String>) {
        let index = self.pending.iter().position(|pending| pending.ticket == ticket);
        let Some(index) = index else { return };
        let Pending { group, text, .. } = self.pending.remove(index);
        match outcome {
            Ok(()) => {
                if let Some(open) = self.groups.iter_mut().find(|open| open.id == group) {
                    open.history.outdated();
                }
            }
            Err(why) => {
                self.tell_error(&format!("not sent: {why}"));
                // To be tried again, unless something else was begun.
                if self.input.is_empty() {
                    self.input.edit(super::input::Edit::Insert(text));
                }
            }
        }
    }

    fn found(&mut self, group: GroupId, words: &str, messages: &[HistoryMessage]) {
        let open = self.groups.get(self.selected);
        let Some(open) = open.filter(|open| open.id == group) else {
            return;
        };
        if messages.is_empty() {
            self.tell(&format!("nothing found here: {words}"));
            return;
        }
        let title = format!(
            "{} found in {} (Esc: back): {words}",
            messages.len(),
            open.title()
        );
        let mut history = History::default();
        history.set_pane(self.pane.0, self.pane.1);
        history.remember(message::shown(messages, &self.user, self.device), true);
        self.aside = Some(Aside {
            title: clean_line(&title),
            history,
        });
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
        // What has expired is gone without an event.
        if let Some(open) = self.groups.get_mut(self.selected) {
            open.history.outdated();
        }
    }

    fn new_group(&self, id: GroupId) -> OpenGroup {
        let mut group = OpenGroup::new(id);
        group.history.set_pane(self.pane.0, self.pane.1);
        group
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
