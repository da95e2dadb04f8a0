//! The embedded backend: one SQLite file, one writer thread, many appends a transaction.
//!
//! Concurrent appends share one transaction and one fsync (`synchronous=FULL`): the writer takes what has queued up while the last
//! transaction went to disk. Reads run on their own connections and never wait for the writer (WAL).

mod append;
mod read;
mod reports;
mod reset;
mod snapshots;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{broadcast, mpsc, oneshot};
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId};
use valise_sql_database::{ended_cleanly, note_clean_end};

use super::{
    Append, Appended, CommitReport, Created, Entry, Head, InboxItem, Membership, NewGroup, News, Notice,
    OrderedLog, Refused, ReportedCommit, Reset, Snapshot, Standing, StoreError, Window,
};
use writer::{Job, Writer};

/// The schema's version, kept in `user_version`.
const SCHEMA_VERSION: i64 = 2;
/// Jobs that may wait for the writer; beyond it callers wait.
const QUEUE: usize = 4096;
/// News that a slow listener may be behind before it is told that it missed some.
const NEWS: usize = 8192;
/// Connections for reading.
const READERS: usize = 4;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer version of the service.
    #[error(
        "{path}: schema version {found} is newer than this program's ({SCHEMA_VERSION}): use a newer program"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Another process has it.
    #[error("{path}: in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Not to be written to.
    #[error("{path}: cannot be written: {reason}")]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Not a database, or a damaged one.
    #[error("{path}: not a database of this service, or damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
}

/// The log in one SQLite file.
pub struct SqliteLog {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
    news: broadcast::Sender<News>,
}

struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteLog {
    /// Opens the file, or creates it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = open_writer(path)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (news, _) = broadcast::channel(NEWS);
        let writer = Writer::new(connection, queue, news.clone());
        let writer = std::thread::Builder::new()
            .name("valise-log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::NotWritable {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        let readers = Arc::new(Readers {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
        });
        Ok(Self {
            jobs: Some(jobs),
            writer: Some(writer),
            readers,
            news,
        })
    }

    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError("the writer has stopped".to_owned());
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job(answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    async fn read_with<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.readers);
        let task = tokio::task::spawn_blocking(move || {
            let idle = readers.idle.lock().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open_reader(&readers.path)?,
            };
            let result = query(&connection);
            let mut idle = readers.idle.lock();
            if result.is_ok() && idle.len() < READERS {
                idle.push(connection);
            }
            result
        });
        task.await
            .map_err(|error| StoreError(error.to_string()))?
            .map_err(|error| StoreError(error.to_string()))
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        // So that the writer's connection is the last one: that one leaves everything in the file itself.
        self.readers.idle.lock().clear();
        // Ends the queue, and with it the writer, once it has done what was waiting.
        self.jobs = None;
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(())) => note_clean_end(&self.readers.path),
            Some(Err(_)) => tracing::error!("the log writer ended by a panic"),
            None => {}
        }
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let fail = |error: rusqlite::Error| open_error(path, &error);
    let as_it_was_closed = ended_cleanly(path);
    let mut connection = Connection::open(path).map_err(fail)?;
    connection
        .busy_timeout(Duration::from_millis(200))
        .map_err(fail)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(fail)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(fail)?;
    // Checkpoints of a larger log are rarer, and one copies a page that changed often only once.
    connection
        .pragma_update(None, "wal_autocheckpoint", 4000)
        .map_err(fail)?;
    connection.set_prepared_statement_cache_capacity(64);
    if !as_it_was_closed {
        let check: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(fail)?;
        if check != "ok" {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                reason: check,
            });
        }
    }
    migrate(&mut connection, path)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let fail = |error: rusqlite::Error| open_error(path, &error);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(fail)?;
    let found: i64 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(fail)?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::NewerSchema {
            path: path.to_owned(),
            found,
        });
    }
    if found < 1 {
        transaction
            .execute_batch(include_str!("sqlite/schema.sql"))
            .map_err(fail)?;
    }
    if found < 2 {
        transaction
            .execute_batch(include_str!("sqlite/2_reset.sql"))
            .map_err(fail)?;
    }
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(fail)?;
    transaction.commit().map_err(fail)
}

fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path },
        Some(
            ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::DiskFull,
        ) => OpenError::NotWritable {
            path,
            reason: error.to_string(),
        },
        _ => OpenError::Damaged {
            path,
            reason: error.to_string(),
        },
    }
}

#[async_trait]
impl OrderedLog for SqliteLog {
    async fn create(&self, group: NewGroup) -> Result<Created, StoreError> {
        self.write(|answer| Job::Create(Box::new(group), answer)).await
    }

    async fn append(&self, append: Append) -> Result<Result<Appended, Refused>, StoreError> {
        self.write(|answer| Job::Append(Box::new(append), answer)).await
    }

    async fn repeat(
        &self,
        group: GroupId,
        key: IdempotencyKey,
        sender: Option<DeviceId>,
    ) -> Result<Option<Appended>, StoreError> {
        self.read_with(move |connection| read::repeat(connection, group, key, sender))
            .await
    }

    async fn winner(&self, group: GroupId, epoch: Epoch) -> Result<Option<Position>, StoreError> {
        self.read_with(move |connection| match read::head_row(connection, group)? {
            Some((number, _, _)) => read::commit_of_epoch(connection, number, epoch),
            None => Ok(None),
        })
        .await
    }

    async fn head(&self, group: GroupId) -> Result<Option<Head>, StoreError> {
        self.read_with(move |connection| read::head(connection, group))
            .await
    }

    async fn read(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.read_with(move |connection| read::entries(connection, group, after, max_entries, max_bytes))
            .await
    }

    async fn handshakes(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.read_with(move |connection| read::handshakes(connection, group, after, max_entries))
            .await
    }

    async fn group_info(&self, group: GroupId) -> Result<Option<(Bytes, Epoch, Position)>, StoreError> {
        self.read_with(move |connection| read::group_info(connection, group))
            .await
    }

    async fn windows(&self, group: GroupId, device: DeviceId) -> Result<Vec<Window>, StoreError> {
        self.read_with(move |connection| read::windows(connection, group, device))
            .await
    }

    async fn standings(
        &self,
        device: DeviceId,
        asked: Vec<(GroupId, Position)>,
    ) -> Result<Vec<Standing>, StoreError> {
        self.read_with(move |connection| {
            asked
                .iter()
                .map(|&(group, position)| read::standing(connection, group, device, position))
                .collect()
        })
        .await
    }

    async fn memberships(
        &self,
        user: &UserId,
        device: DeviceId,
        after: Option<GroupId>,
        max: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let user = user.clone();
        self.read_with(move |connection| read::memberships(connection, &user, device, after, max))
            .await
    }

    async fn notify(&self, notices: Vec<Notice>) -> Result<(), StoreError> {
        self.write(|answer| Job::Notify(notices, answer)).await
    }

    async fn read_inbox(
        &self,
        device: DeviceId,
        after: u64,
        max: usize,
    ) -> Result<Vec<InboxItem>, StoreError> {
        self.read_with(move |connection| read::inbox(connection, device, after, max))
            .await
    }

    async fn newest_inbox(&self, device: DeviceId) -> Result<u64, StoreError> {
        self.read_with(move |connection| read::newest_inbox(connection, device))
            .await
    }

    async fn acknowledge(
        &self,
        device: DeviceId,
        groups: Vec<(GroupId, Position)>,
        inbox: u64,
    ) -> Result<(), StoreError> {
        self.write(|answer| Job::Acknowledge {
            device,
            groups,
            inbox,
            answer,
        })
        .await
    }

    async fn put_snapshot(&self, group: GroupId, snapshot: Snapshot) -> Result<(), StoreError> {
        self.write(|answer| Job::Snapshot(group, snapshot, answer)).await
    }

    async fn snapshots(
        &self,
        group: GroupId,
        origin: EntryId,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<Snapshot>, StoreError> {
        self.read_with(move |connection| read::snapshots(connection, group, origin, up_to, max))
            .await
    }

    async fn reset(
        &self,
        group: GroupId,
        successor: GroupId,
        at: u64,
    ) -> Result<Result<Reset, Refused>, StoreError> {
        self.write(|answer| Job::Reset {
            group,
            successor,
            at,
            answer,
        })
        .await
    }

    async fn successor(&self, group: GroupId) -> Result<Option<GroupId>, StoreError> {
        self.read_with(move |connection| reset::successor(connection, group))
            .await
    }

    async fn predecessor(&self, successor: GroupId) -> Result<Option<GroupId>, StoreError> {
        self.read_with(move |connection| reset::predecessor(connection, successor))
            .await
    }

    async fn report(&self, report: CommitReport) -> Result<bool, StoreError> {
        self.write(|answer| Job::Report(report, answer)).await
    }

    async fn reports(
        &self,
        group: Option<GroupId>,
        after: Option<(GroupId, Position)>,
        max: usize,
    ) -> Result<Vec<ReportedCommit>, StoreError> {
        self.read_with(move |connection| reports::list(connection, group, after, max))
            .await
    }

    fn publish_ephemeral(&self, group: GroupId, epoch: Epoch, sender: DeviceId, bytes: Bytes) {
        // Nobody may be listening.
        let _ = self.news.send(News::Ephemeral {
            group,
            epoch,
            sender,
            bytes,
        });
    }

    fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }
}

#[cfg(test)]
mod tests;
