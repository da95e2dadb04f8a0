//! Requests that come at the same time share a statement, and its commit.
//!
//! A few tasks, each with a connection of its own, take what waits. While all are busy, requests gather; the next task that
//! is free takes them together. On an idle store nobody waits for company: a request is a statement. While one runs, it is waited for a
//! little: a statement for many costs little more than one for few.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use valise_sql_database::{is_unavailable, within};

use super::Done;
use crate::store::StoreError;

/// The most requests that wait; more wait for a place, and their callers' deadlines end that.
const QUEUE: usize = 1024;
/// A statement takes no more requests once they weigh as much.
const WEIGHT: usize = 1024;
/// While a statement runs, no other one is begun for so long.
const PATIENCE: Duration = Duration::from_millis(2);
/// A connection that was idle for longer is tried first: a claim that is sent into a broken one may be lost.
const FRESH: Duration = Duration::from_secs(1);
/// How long it may take to show that it lives.
const TRY: Duration = Duration::from_secs(1);

/// What a statement does for many requests at once.
pub(super) trait Shared: Send + Sync + 'static {
    /// What one caller asks for.
    type Request: Send + Sync + 'static;
    /// What it gets.
    type Answer: Send + 'static;

    /// How much of a statement's work it is.
    fn weight(request: &Self::Request) -> usize;

    /// Does it for all of them: an answer for each, in their order.
    fn run<'a>(
        requests: &'a [Self::Request],
        connection: &'a mut PgConnection,
    ) -> Done<'a, VecDeque<Self::Answer>>;
}

type Caller<S> = oneshot::Sender<Result<<S as Shared>::Answer, StoreError>>;
type Waiting<S> = (<S as Shared>::Request, Caller<S>);

/// Hands requests to the tasks and owns them.
pub(super) struct Together<S: Shared> {
    queue: parking_lot::Mutex<Option<mpsc::Sender<Waiting<S>>>>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl<S: Shared> Together<S> {
    /// Starts so many tasks.
    pub(super) fn start(pool: &PgPool, tasks: usize) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let work = |_| tokio::spawn(work::<S>(Held::of(pool), Arc::clone(&waiting)));
        Self {
            queue: parking_lot::Mutex::new(Some(queue)),
            tasks: parking_lot::Mutex::new((0..tasks).map(work).collect()),
        }
    }

    /// Does a request, maybe together with others.
    pub(super) async fn ask(&self, request: S::Request) -> Result<S::Answer, StoreError> {
        let queue = self.queue.lock().clone().ok_or(StoreError::Closed)?;
        let (caller, answer) = oneshot::channel();
        queue
            .send((request, caller))
            .await
            .map_err(|_| StoreError::Closed)?;
        drop(queue);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Does what waits, then ends the tasks.
    pub(super) async fn close(&self) {
        self.queue.lock().take();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("a task of the key-package store panicked");
            }
        }
    }
}

async fn work<S: Shared>(mut held: Held, waiting: Arc<Mutex<mpsc::Receiver<Waiting<S>>>>) {
    loop {
        // Whoever has it is the one that takes what waits.
        let mut turn = waiting.lock().await;
        let Some((requests, callers)) = gather::<S>(&mut turn).await else {
            return;
        };
        if requests.is_empty() {
            continue;
        }
        let done = {
            let done = within(async {
                let connection = held.connection().await?;
                S::run(&requests, connection).await
            });
            tokio::pin!(done);
            let early = timeout(PATIENCE, &mut done).await;
            drop(turn);
            match early {
                Ok(done) => done,
                Err(_) => done.await,
            }
        };
        match done {
            Ok(answers) => {
                held.used();
                for (caller, answer) in callers.into_iter().zip(answers) {
                    // A caller that has gone away lost only the answer.
                    caller.send(Ok(answer)).ok();
                }
            }
            // The first caller gets the cause, and logs it once.
            Err(error) => {
                held.failed(&error);
                let mut cause = Some(error);
                for caller in callers {
                    let error = cause.take().unwrap_or(StoreError::NotCommitted);
                    caller.send(Err(error)).ok();
                }
            }
        }
    }
}

/// What waits, as much as one statement does. `None` once the queue is closed and empty.
async fn gather<S: Shared>(
    waiting: &mut mpsc::Receiver<Waiting<S>>,
) -> Option<(Vec<S::Request>, Vec<Caller<S>>)> {
    let (mut requests, mut callers, mut weight) = (Vec::new(), Vec::new(), 0);
    let mut next = Some(waiting.recv().await?);
    while let Some((request, caller)) = next {
        // Nothing is done, and no package lost, for who has gone away.
        if !caller.is_closed() {
            weight += S::weight(&request);
            requests.push(request);
            callers.push(caller);
        }
        next = if weight < WEIGHT {
            waiting.try_recv().ok()
        } else {
            None
        };
    }
    Some((requests, callers))
}

/// The connection of a task, for as long as it is good.
struct Held {
    pool: PgPool,
    connection: Option<(PoolConnection<Postgres>, Instant)>,
}

impl Held {
    fn of(pool: &PgPool) -> Self {
        Self {
            pool: pool.clone(),
            connection: None,
        }
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        if let Some((connection, used)) = &mut self.connection
            && used.elapsed() > FRESH
            && !matches!(timeout(TRY, connection.ping()).await, Ok(Ok(())))
        {
            self.connection = None;
        }
        let (connection, _) = match self.connection.take() {
            Some(held) => self.connection.insert(held),
            None => {
                let new = self.pool.acquire().await?;
                self.connection.insert((new, Instant::now()))
            }
        };
        Ok(connection)
    }

    fn used(&mut self) {
        if let Some((_, used)) = &mut self.connection {
            *used = Instant::now();
        }
    }

    /// The pool looks at it when it comes back, and closes it if it is broken.
    fn failed(&mut self, error: &StoreError) {
        if !matches!(error, StoreError::Database(error) if !is_unavailable(error)) {
            self.connection = None;
        }
    }
}
