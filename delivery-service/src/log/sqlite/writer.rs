//! The one writer: takes what has queued up, does it in one transaction, answers after the fsync.

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{broadcast, mpsc, oneshot};
use valise_proto::{DeviceId, GroupId, Position};

use super::append::{self, Heads};
use super::{reports, reset, snapshots};
use crate::log::{
    Append, Appended, CommitReport, Created, NewGroup, News, Notice, Refused, Reset, Snapshot, StoreError,
};

/// Most jobs in a transaction, so that the first does not wait for long.
const BATCH: usize = 512;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Something to write.
pub(super) enum Job {
    Create(Box<NewGroup>, Answer<Created>),
    Append(Box<Append>, Answer<Result<Appended, Refused>>),
    Notify(Vec<Notice>, Answer<()>),
    Acknowledge {
        device: DeviceId,
        groups: Vec<(GroupId, Position)>,
        inbox: u64,
        answer: Answer<()>,
    },
    Snapshot(GroupId, Snapshot, Answer<()>),
    Reset {
        group: GroupId,
        successor: GroupId,
        at: u64,
        answer: Answer<Result<Reset, Refused>>,
    },
    Report(CommitReport, Answer<bool>),
}

/// What is sent once the transaction is on disk, or instead, if it is not.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(super) struct Writer {
    connection: Connection,
    queue: mpsc::Receiver<Job>,
    news: broadcast::Sender<News>,
    heads: Heads,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        queue: mpsc::Receiver<Job>,
        news: broadcast::Sender<News>,
    ) -> Self {
        Self {
            connection,
            queue,
            news,
            heads: Heads::default(),
        }
    }

    /// Until the queue ends.
    pub(super) fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = self.queue.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(job) = self.queue.try_recv()
            {
                batch.push(job);
            }
            self.write(batch.drain(..));
        }
    }

    fn write(&mut self, batch: impl Iterator<Item = Job>) {
        let mut finishes: Vec<Finish> = Vec::new();
        let mut news = Vec::new();
        let outcome = self.transaction(batch, &mut finishes, &mut news);
        if let Err(error) = &outcome {
            // What the heads say may not have happened.
            self.heads.clear();
            tracing::error!(%error, jobs = finishes.len(), "the log could not be written");
        } else {
            for item in news {
                // Nobody may be listening.
                let _ = self.news.send(item);
            }
        }
        let failure = outcome.err().map(|error| error.to_string());
        for finish in finishes {
            finish(match &failure {
                None => Ok(()),
                Some(failure) => Err(StoreError(failure.clone())),
            });
        }
    }

    fn transaction(
        &mut self,
        batch: impl Iterator<Item = Job>,
        finishes: &mut Vec<Finish>,
        news: &mut Vec<News>,
    ) -> rusqlite::Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let mut failed = None;
        for job in batch {
            // After a failure the rest only learns of it.
            let result = match (&transaction, &failed) {
                (Ok(transaction), None) => Some(transaction),
                _ => None,
            };
            match job {
                Job::Create(group, answer) => {
                    let done = result.map(|t| append::create(t, &mut self.heads, &group));
                    finishes.push(finish(done, answer, &mut failed));
                }
                Job::Append(entry, answer) => {
                    let done = result.map(|t| append::append(t, &mut self.heads, *entry, news));
                    finishes.push(finish(done, answer, &mut failed));
                }
                Job::Notify(notices, answer) => {
                    let done = result.map(|t| append::notify(t, &notices, news));
                    finishes.push(finish(done, answer, &mut failed));
                }
                Job::Acknowledge {
                    device,
                    groups,
                    inbox,
                    answer,
                } => {
                    let done = result.map(|t| append::acknowledge(t, device, &groups, inbox));
                    finishes.push(finish(done, answer, &mut failed));
                }
                Job::Snapshot(group, snapshot, answer) => {
                    let done = result.map(|t| snapshots::put(t, group, &snapshot));
                    finishes.push(finish(done, answer, &mut failed));
                }
                Job::Reset {
                    group,
                    successor,
                    at,
                    answer,
                } => {
                    let done = result.map(|t| reset::reset(t, &mut self.heads, group, successor, at, news));
                    finishes.push(finish(done, answer, &mut failed));
                }
                Job::Report(report, answer) => {
                    let done = result.map(|t| reports::put(t, &report));
                    finishes.push(finish(done, answer, &mut failed));
                }
            }
        }
        let transaction = transaction?;
        match failed {
            Some(error) => Err(error),
            None => {
                self.heads.write(&transaction)?;
                transaction.commit()
            }
        }
    }
}

fn finish<T: Send + 'static>(
    done: Option<rusqlite::Result<T>>,
    answer: Answer<T>,
    failed: &mut Option<rusqlite::Error>,
) -> Finish {
    let value = match done {
        Some(Ok(value)) => Some(value),
        Some(Err(error)) => {
            *failed = Some(error);
            None
        }
        None => None,
    };
    Box::new(move |outcome| {
        let result = outcome.and_then(|()| value.ok_or_else(|| StoreError("not written".to_owned())));
        // The caller may have gone.
        let _ = answer.send(result);
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use valise_proto::{EntryId, Epoch};

    use super::*;
    use crate::log::conformance::{device, message, new_group};
    use crate::log::sqlite::open_writer;

    #[test]
    fn what_is_answered_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writer(&folder.path().join("delivery.db")).unwrap();
        let synchronous: i64 = connection
            .query_row("PRAGMA synchronous", [], |row| row.get(0))
            .unwrap();
        let journal_mode: String = connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        assert_eq!((synchronous, journal_mode.as_str()), (2, "wal"), "2 is FULL");
    }

    #[test]
    fn a_transaction_that_failed_has_moved_no_head() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writer(&folder.path().join("delivery.db")).unwrap();
        let (_jobs, queue) = mpsc::channel(1);
        let mut writer = Writer::new(connection, queue, broadcast::channel(1).0);
        let new = new_group(GroupId::random(&mut rand::rng()), device());
        let (group, alice) = (new.group, new.creator.1);
        let (answer, mut created) = oneshot::channel();
        writer.write([Job::Create(Box::new(new), answer)].into_iter());
        assert_eq!(created.try_recv().unwrap().unwrap(), Created::Yes);

        // An entry, and in the same transaction something that cannot be written.
        writer.connection.execute("DROP TABLE snapshots", []).unwrap();
        let snapshot = Snapshot {
            epoch: Epoch(0),
            position: Position::NONE,
            anchor: EntryId::from_bytes([7; 8]),
            state: Bytes::new(),
        };
        let (answer, mut lost) = oneshot::channel();
        let (unwritable, _) = oneshot::channel();
        let jobs = [
            Job::Append(Box::new(message(group, alice, 0, "lost")), answer),
            Job::Snapshot(group, snapshot, unwritable),
        ];
        writer.write(jobs.into_iter());
        assert!(lost.try_recv().unwrap().is_err());

        let (answer, mut kept) = oneshot::channel();
        let job = Job::Append(Box::new(message(group, alice, 0, "kept")), answer);
        writer.write([job].into_iter());
        let appended = kept.try_recv().unwrap().unwrap().unwrap();
        assert_eq!(appended.position, Position(1));
    }
}
