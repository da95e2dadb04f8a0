//! One group as the screen shows it.

use std::collections::BTreeMap;

use valise_client_sdk::{EventId, GroupId, GroupState, GroupStatus, Member, Role, UserId};

use crate::chat::history::History;
use crate::chat::text::clean_line;

/// What the client knows of a group.
pub(in crate::chat) struct Known {
    pub(in crate::chat) id: GroupId,
    pub(in crate::chat) state: GroupState,
    pub(in crate::chat) members: Vec<Member>,
}

/// A member with all devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::chat) struct Person {
    pub(in crate::chat) user: String,
    pub(in crate::chat) role: &'static str,
    pub(in crate::chat) devices: usize,
}

pub(in crate::chat) struct OpenGroup {
    pub(in crate::chat) id: GroupId,
    /// Clean; empty as long as nobody has told it.
    pub(in crate::chat) name: String,
    /// `None` until the client has said it.
    pub(in crate::chat) status: Option<GroupStatus>,
    pub(in crate::chat) epoch: u64,
    /// Members were shown different histories.
    pub(in crate::chat) forked: bool,
    pub(in crate::chat) people: Vec<Person>,
    pub(in crate::chat) history: History,
    /// The user has sent something in this run.
    pub(super) said: bool,
    /// Messages and alarms since it was last looked at.
    pub(in crate::chat) unread: u64,
    /// The first event since then, of any kind.
    pub(super) first_unread: Option<EventId>,
    /// The last event that was there when it was looked at.
    pub(super) read: EventId,
    last: EventId,
}

impl OpenGroup {
    pub(super) fn new(id: GroupId) -> Self {
        Self {
            id,
            name: String::new(),
            status: None,
            epoch: 0,
            forked: false,
            people: Vec::new(),
            history: History::default(),
            said: false,
            unread: 0,
            first_unread: None,
            read: EventId::NONE,
            last: EventId::NONE,
        }
    }

    /// Its name, or the beginning of its id.
    pub(in crate::chat) fn title(&self) -> String {
        if self.name.trim().is_empty() {
            self.short_id()
        } else {
            self.name.clone()
        }
    }

    /// Two groups may have the same name.
    pub(in crate::chat) fn short_id(&self) -> String {
        self.id.to_string().chars().take(8).collect()
    }

    pub(super) fn refresh(&mut self, known: Known) {
        let Known { state, members, .. } = known;
        self.name = clean_line(&state.name);
        self.status = Some(state.status);
        self.epoch = state.epoch.0;
        self.forked = state.forked_at.is_some();
        self.people = people(&members);
    }

    /// The user looks at it.
    pub(super) fn open(&mut self) {
        self.unread = 0;
        self.first_unread = None;
        self.read = self.last;
    }

    pub(super) fn arrived(&mut self, event: EventId, is_open: bool, counts: bool) {
        if !is_open {
            self.unread += u64::from(counts);
        }
        if event == EventId::NONE {
            return;
        }
        self.last = self.last.max(event);
        if is_open {
            self.read = self.last;
        } else {
            self.first_unread.get_or_insert(event);
        }
    }
}

pub(super) fn is_over(status: GroupStatus) -> bool {
    matches!(
        status,
        GroupStatus::Removed | GroupStatus::WelcomeUnusable | GroupStatus::Reset
    )
}

/// Those who may do most come first.
fn people(members: &[Member]) -> Vec<Person> {
    let mut by_user: BTreeMap<&UserId, (Role, usize)> = BTreeMap::new();
    for member in members {
        by_user.entry(&member.user).or_insert((member.role, 0)).1 += 1;
    }
    let mut people: Vec<_> = by_user.into_iter().collect();
    people.sort_by_key(|(_, (role, _))| std::cmp::Reverse(rank(*role)));
    people
        .into_iter()
        .map(|(user, (role, devices))| Person {
            user: clean_line(user.as_str()),
            role: role.as_str(),
            devices,
        })
        .collect()
}

fn rank(role: Role) -> u8 {
    match role {
        Role::Reader => 0,
        Role::Member => 1,
        Role::Moderator => 2,
        Role::Owner => 3,
    }
}
