//! The one writer of a SQLite store: a task that runs what was asked for, many requests in one transaction.
//!
//! SQLite has one writer at a time and an fsync for each commit. Requests that arrive while a commit is on its way
//! wait in a queue and share the next one. A request is answered after the commit that holds it.

use futures::future::BoxFuture;
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::store::StoreError;

/// The most requests that share a transaction.
const BATCH: usize = 128;
/// The most requests that wait; more wait for a place, and their callers' deadlines end that.
const QUEUE: usize = 1024;

/// What a change gives, in time.
pub(super) type Done<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A change of the database.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller gets.
    type Outcome: Send + 'static;
    /// Does it, inside a transaction. It may be called again after a rollback.
    fn apply<'a>(&'a self, connection: &'a mut SqliteConnection) -> Done<'a, Self::Outcome>;
}

/// A request in the queue, whatever its outcome's type.
trait Pending: Send {
    fn apply<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> Done<'a, ()>;
    /// Tells the caller; `Ok` only after a commit.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Request<W: Write> {
    write: W,
    outcome: Option<W::Outcome>,
    caller: oneshot::Sender<Result<W::Outcome, StoreError>>,
}

impl<W: Write> Pending for Request<W> {
    fn apply<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> Done<'a, ()> {
        Box::pin(async move {
            self.outcome = Some(self.write.apply(connection).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, caller, .. } = *self;
        let answer = committed.and_then(|()| outcome.ok_or(StoreError::NotCommitted));
        // A caller that has gone away lost only the answer.
        caller.send(answer).ok();
    }
}

/// Hands requests to the writer task and owns it.
pub(super) struct Writer {
    queue: parking_lot::Mutex<Option<mpsc::Sender<Box<dyn Pending>>>>,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the task on a pool of one connection.
    pub(super) fn start(pool: SqlitePool) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(pool, requests));
        Self {
            queue: parking_lot::Mutex::new(Some(queue)),
            task: parking_lot::Mutex::new(Some(task)),
        }
    }

    /// Does a change and returns after it is durable.
    pub(super) async fn write<W: Write>(&self, write: W) -> Result<W::Outcome, StoreError> {
        let queue = self.queue.lock().clone().ok_or(StoreError::Closed)?;
        let (caller, answer) = oneshot::channel();
        queue
            .send(Box::new(Request {
                write,
                outcome: None,
                caller,
            }))
            .await
            .map_err(|_| StoreError::Closed)?;
        drop(queue);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Does what is queued, then ends the task.
    pub(super) async fn close(&self) {
        self.queue.lock().take();
        let task = self.task.lock().take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!("the writer task of the key-package store panicked");
        }
    }
}

async fn run(pool: SqlitePool, mut requests: mpsc::Receiver<Box<dyn Pending>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        match commit(&pool, &mut batch).await {
            Ok(()) => batch.drain(..).for_each(|request| request.answer(Ok(()))),
            // One request must not fail its neighbours: each gets a transaction of its own.
            Err(Failed::Request(error)) if batch.len() > 1 => {
                tracing::warn!(%error, requests = batch.len(), "a batch failed, trying each request alone");
                for mut request in batch.drain(..) {
                    let done = commit(&pool, std::slice::from_mut(&mut request)).await;
                    request.answer(done.map_err(Failed::into_error));
                }
            }
            // The first caller gets the cause, and logs it once.
            Err(failed) => {
                let mut cause = Some(failed.into_error());
                for request in batch.drain(..) {
                    request.answer(Err(cause.take().unwrap_or(StoreError::NotCommitted)));
                }
            }
        }
    }
}

/// Where a batch failed.
enum Failed {
    /// In one of its requests.
    Request(StoreError),
    /// In beginning or committing the transaction.
    Transaction(sqlx::Error),
}

impl Failed {
    fn into_error(self) -> StoreError {
        match self {
            Self::Request(error) => error,
            Self::Transaction(error) => error.into(),
        }
    }
}

async fn commit(pool: &SqlitePool, batch: &mut [Box<dyn Pending>]) -> Result<(), Failed> {
    // IMMEDIATE takes the write lock now: a read lock could fail to be raised in the middle.
    let mut transaction = pool
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(Failed::Transaction)?;
    for request in batch {
        request.apply(&mut transaction).await.map_err(Failed::Request)?;
    }
    transaction.commit().await.map_err(Failed::Transaction)
}
