//! What a device was promised, and what it was shown.

use std::collections::BTreeMap;

use valise_client_sdk::{Event, EventId, EventKind, Position};
use valise_tests::people::text;

/// A part of the log that a device was to read: after the first position, up to and including the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) after: Position,
    pub(crate) to: Option<Position>,
}

/// The log book of a device, through all its restarts.
#[derive(Default, Debug)]
pub(crate) struct Book {
    last: Option<EventId>,
    /// Messages in the order in which they came.
    pub(crate) shown: Vec<(Position, String)>,
    pub(crate) windows: Vec<Window>,
    /// Accepted, at that position.
    pub(crate) acknowledged: BTreeMap<String, Position>,
    /// Stored: accepted some time, or the app is told why not.
    pub(crate) queued: Vec<String>,
    /// The app was told that they failed.
    pub(crate) failed: Vec<String>,
    /// Operations that failed after a restart, by kind.
    pub(crate) failures: Vec<String>,
    /// How often what was done.
    pub(crate) deeds: BTreeMap<String, usize>,
    /// What must not happen at all.
    pub(crate) troubles: Vec<String>,
}

impl Book {
    pub(crate) fn count(&mut self, what: &str) {
        *self.deeds.entry(what.to_owned()).or_default() += 1;
    }

    /// Writes an event down. After a restart those that were not confirmed come again.
    pub(crate) fn note(&mut self, event: &Event) {
        if self.last.is_some_and(|last| event.id <= last) {
            return;
        }
        self.last = Some(event.id);
        if let Some(text) = text(event) {
            self.shown.push((event.position, text));
            return;
        }
        match &event.kind {
            EventKind::Joined { .. } => {
                if self.windows.last().is_some_and(|window| window.to.is_none()) {
                    self.troubles
                        .push(format!("joined without having been removed: {event:?}"));
                }
                self.windows.push(Window {
                    after: event.position,
                    to: None,
                });
            }
            EventKind::Removed { .. } => match self.windows.last_mut() {
                Some(window) if window.to.is_none() => window.to = Some(event.position),
                _ => self
                    .troubles
                    .push(format!("removed without having joined: {event:?}")),
            },
            EventKind::OperationFailed { operation, .. } => self.failures.push(operation.clone()),
            EventKind::HeldByBadCommit { .. }
            | EventKind::Quarantined { .. }
            | EventKind::LogRegressed { .. }
            | EventKind::Lost
            | EventKind::Rejoining
            | EventKind::Unreadable { .. }
            | EventKind::RuleBreach { .. }
            | EventKind::WelcomeUnusable { .. } => self.troubles.push(format!("{event:?}")),
            _ => {}
        }
    }
}
