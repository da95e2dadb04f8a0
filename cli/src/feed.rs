//! Events that are shown once: written out first, then confirmed.
//!
//! Confirming an event confirms all before it. Where only one group is shown, the events of others must stay, so what was
//! shown after the first of them is kept in a file of the profile instead, and confirmed when those are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::stream::ReadyChunks;
use valise_client_sdk::{Client, Event, EventId, Events, GroupId};

use crate::error::CliError;

/// The most events that are written out before they are confirmed.
const CHUNK: usize = 256;

/// The events of one group, or of all, that were not shown before.
pub(crate) struct Feed<'a> {
    client: &'a Client,
    events: ReadyChunks<Events>,
    only: Option<GroupId>,
    shown: Shown,
    /// The first event of another group, which must not be confirmed.
    passed_over: Option<EventId>,
}

impl<'a> Feed<'a> {
    pub(crate) fn new(client: &'a Client, only: Option<GroupId>, shown: &Path) -> Result<Self, CliError> {
        Ok(Self {
            client,
            events: client.events().ready_chunks(CHUNK),
            only,
            shown: Shown::load(shown)?,
            passed_over: None,
        })
    }

    /// Waits for events; `None` once the client is closed. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let mut events = self.events.next().await?;
            events.retain(|event| self.is_to_be_shown(event));
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    fn is_to_be_shown(&mut self, event: &Event) -> bool {
        if self.only.is_some_and(|only| only != event.group) {
            if event.id != EventId::NONE {
                self.passed_over.get_or_insert(event.id);
            }
            return false;
        }
        event.id == EventId::NONE || !self.shown.has(event)
    }

    /// To be called when an event, and all before it, are written and flushed: they will not be shown again.
    pub(crate) async fn confirm(&mut self, last: &Event) -> Result<(), CliError> {
        if last.id == EventId::NONE {
            return Ok(());
        }
        if self.passed_over.is_some_and(|first| first < last.id) {
            return self.shown.put(last);
        }
        self.client.confirm(last.id).await?;
        self.shown.forget(last.id)
    }
}

impl Feed<'_> {
    /// Where all groups are shown, but not all are looked at: confirms everything up to an event, and keeps in mind what was seen
    /// of some groups after that.
    pub(crate) async fn confirm_read(
        &mut self,
        all: EventId,
        groups: &[(GroupId, EventId)],
    ) -> Result<(), CliError> {
        if all != EventId::NONE {
            self.client.confirm(all).await?;
            self.shown.forget(all)?;
        }
        self.shown.put_all(groups)
    }
}

/// Of each group, the last event that was shown though it could not be confirmed.
struct Shown {
    file: PathBuf,
    last: BTreeMap<String, u64>,
}

impl Shown {
    fn load(file: &Path) -> Result<Self, CliError> {
        let unreadable = || format!("cannot read {}", file.display());
        let last = match fs::read(file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| CliError::io(unreadable())(error.into()))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(CliError::io(unreadable())(error)),
        };
        Ok(Self {
            file: file.to_owned(),
            last,
        })
    }

    fn has(&self, event: &Event) -> bool {
        self.last
            .get(&event.group.to_string())
            .is_some_and(|&last| event.id.0 <= last)
    }

    fn put(&mut self, event: &Event) -> Result<(), CliError> {
        self.last.insert(event.group.to_string(), event.id.0);
        self.save()
    }

    fn put_all(&mut self, groups: &[(GroupId, EventId)]) -> Result<(), CliError> {
        let mut changed = false;
        for (group, seen) in groups {
            let last = self.last.entry(group.to_string()).or_default();
            changed |= *last < seen.0;
            *last = seen.0.max(*last);
        }
        if changed { self.save() } else { Ok(()) }
    }

    /// What is confirmed needs no note.
    fn forget(&mut self, confirmed: EventId) -> Result<(), CliError> {
        let before = self.last.len();
        self.last.retain(|_, last| *last > confirmed.0);
        if self.last.len() == before {
            Ok(())
        } else {
            self.save()
        }
    }

    /// As a whole or not at all.
    fn save(&self) -> Result<(), CliError> {
        let failed = || CliError::io(format!("cannot write {}", self.file.display()));
        let bytes = serde_json::to_vec(&self.last).map_err(|error| failed()(error.into()))?;
        let part = self.file.with_extension("part");
        fs::File::create(&part)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&part, &self.file))
            .map_err(failed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use valise_client_sdk::{EventKind, Position};

    use super::*;

    fn event(group: u8, id: u64) -> Event {
        Event {
            id: EventId(id),
            group: GroupId::from_bytes([group; 16]),
            position: Position(1),
            at: SystemTime::UNIX_EPOCH,
            kind: EventKind::Lost,
        }
    }

    #[test]
    fn what_was_shown_is_remembered_until_it_is_confirmed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shown.json");
        let mut shown = Shown::load(&file).unwrap();
        assert!(!shown.has(&event(1, 1)));
        shown.put(&event(1, 5)).unwrap();
        shown.put(&event(2, 9)).unwrap();

        let mut shown = Shown::load(&file).unwrap();
        assert!(shown.has(&event(1, 5)));
        assert!(!shown.has(&event(1, 6)));
        assert!(shown.has(&event(2, 6)));
        shown.forget(EventId(6)).unwrap();

        let shown = Shown::load(&file).unwrap();
        assert!(!shown.has(&event(1, 5)));
        assert!(shown.has(&event(2, 9)));
    }

    #[test]
    fn what_was_seen_of_some_groups_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shown.json");
        let mut shown = Shown::load(&file).unwrap();
        let group = |number| GroupId::from_bytes([number; 16]);
        shown.put_all(&[]).unwrap();
        assert!(!file.exists(), "nothing to write");
        let seen = |last| [(group(1), EventId(last)), (group(2), EventId(7))];
        shown.put_all(&seen(5)).unwrap();
        shown.put_all(&seen(3)).unwrap();
        let shown = Shown::load(&file).unwrap();
        assert!(shown.has(&event(1, 5)) && !shown.has(&event(1, 6)));
        assert!(shown.has(&event(2, 7)));
    }

    #[test]
    fn a_damaged_note_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shown.json");
        fs::write(&file, "{").unwrap();
        assert!(Shown::load(&file).is_err());
    }
}
