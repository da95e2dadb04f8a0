//! Which servers of the local stack run, for the process that stops them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::process::{LOOK, signal};

/// Longer than a service gives to what it is at.
const GRACE: Duration = Duration::from_secs(30);

/// A file with a line for each server, in the order in which they were started.
#[derive(Debug, Clone)]
pub(crate) struct Record(PathBuf);

/// One server.
#[derive(Debug)]
struct Entry {
    name: String,
    id: u32,
    /// When it started: another process may get its id.
    started: u64,
    /// The signal that asks it to end.
    end: String,
}

impl Record {
    pub(crate) fn in_folder(data: &Path) -> Self {
        Self(data.join("running"))
    }

    /// Enters a server that was just started.
    pub(crate) fn add(&self, name: &str, id: u32, end: &str) {
        // If it is gone already, nobody has to stop it.
        let Some(started) = started(id) else { return };
        let file = File::options().append(true).create(true).open(&self.0);
        let written = file.and_then(|mut file| writeln!(file, "{id} {started} {end} {name}"));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", self.0.display()));
    }

    fn running(&self) -> Vec<Entry> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter_map(parse).filter(Entry::runs).collect()
    }

    /// How many of them run.
    pub(crate) fn count(&self) -> usize {
        self.running().len()
    }

    /// Stops all that run, the services before what they store in; kills what takes too long. Says how many there were.
    pub(crate) async fn stop(&self) -> usize {
        let (services, servers): (Vec<_>, Vec<_>) = self
            .running()
            .into_iter()
            .partition(|entry| entry.name.starts_with("valise-"));
        let count = services.len() + servers.len();
        for entries in [services, servers] {
            for entry in &entries {
                signal(&entry.end, &entry.id.to_string());
            }
            let deadline = Instant::now() + GRACE;
            while entries.iter().any(Entry::runs) {
                if Instant::now() > deadline {
                    for entry in entries.iter().filter(|entry| entry.runs()) {
                        signal("KILL", &entry.id.to_string());
                    }
                }
                sleep(LOOK).await;
            }
        }
        self.forget();
        count
    }

    /// Begins anew, where nothing runs any more.
    pub(crate) fn forget(&self) {
        drop(fs::remove_file(&self.0));
    }
}

impl Entry {
    fn runs(&self) -> bool {
        started(self.id) == Some(self.started)
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut words = line.splitn(4, ' ');
    Some(Entry {
        id: words.next()?.parse().ok()?,
        started: words.next()?.parse().ok()?,
        end: words.next()?.to_owned(),
        name: words.next()?.to_owned(),
    })
}

/// When a process started, in ticks since the machine did. None: it is not there, or only its exit code is.
fn started(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // After the name in brackets: the state, and as the twentieth the start.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    (words.next()? != "Z").then_some(())?;
    words.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_is_stopped_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::in_folder(folder.path());
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        record.add("sleeper", sleeper.id(), "TERM");
        // An id that somebody else has by now: ours.
        let own = std::process::id();
        let other = format!("{own} {} KILL somebody\n", started(own).unwrap() + 1);
        File::options()
            .append(true)
            .open(&record.0)
            .unwrap()
            .write_all(other.as_bytes())
            .unwrap();
        assert_eq!(record.count(), 1);
        assert_eq!(record.stop().await, 1);
        assert!(!sleeper.wait().unwrap().success());
        assert_eq!(record.stop().await, 0);
    }
}
