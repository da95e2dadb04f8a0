//! Groups for which there is no room on the device's stream: they are read now and then. Nothing of them is lost, it comes later.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use valise_proto::GroupId;

/// Between two looks at all of them.
const INTERVAL: Duration = Duration::from_mins(5);
/// And so long after one could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(15);

pub(super) struct Others {
    groups: BTreeSet<GroupId>,
    /// Those that are to be read now.
    due: BTreeSet<GroupId>,
    /// When all of them are to be read.
    pub(super) next_look: Instant,
}

impl Others {
    /// All of them are to be read as soon as the stream leaves time for it.
    pub(super) fn new(groups: BTreeSet<GroupId>) -> Self {
        Self {
            groups,
            due: BTreeSet::new(),
            next_look: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// One more; it is read now.
    pub(super) fn add(&mut self, group: GroupId) {
        self.groups.insert(group);
        self.due.insert(group);
    }

    /// It is on the stream, or not followed any more.
    pub(super) fn remove(&mut self, group: GroupId) {
        self.groups.remove(&group);
        self.due.remove(&group);
    }

    /// There is something new in a group. One that is on the stream needs no reading.
    pub(super) fn has_news(&mut self, group: GroupId) {
        if self.groups.contains(&group) {
            self.due.insert(group);
        }
    }

    /// All are to be read now.
    pub(super) fn look(&mut self) {
        self.due.clone_from(&self.groups);
        self.next_look = Instant::now() + INTERVAL;
    }

    /// One could not be read: all are read sooner than else.
    pub(super) fn look_soon(&mut self) {
        self.next_look = self.next_look.min(Instant::now() + AFTER_FAILURE);
    }

    /// Is any to be read now?
    pub(super) fn any_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The next one that is to be read now.
    pub(super) fn next_due(&mut self) -> Option<GroupId> {
        self.due.pop_first()
    }
}
