//! Background tasks that are owned: told to stop, given time, stopped, joined.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::quiet::quietly;

/// The tasks of a service, or of one part of it.
///
/// Stopping is soft at first: [`stopping`](Self::stopping) tells the tasks, which end when they are done. After the
/// grace time it is hard: what is left is dropped. If all copies of a `Lifecycle` are dropped, so are its tasks.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    spawner: Spawner,
    soft: CancellationToken,
    _hard_on_drop: Arc<DropGuard>,
}

impl Lifecycle {
    /// No tasks yet. They are told to stop when `shutdown` is cancelled, or by [`stop`](Self::stop).
    pub fn new(shutdown: &CancellationToken) -> Self {
        let hard = CancellationToken::new();
        Self {
            spawner: Spawner {
                tracker: TaskTracker::new(),
                hard: hard.clone(),
            },
            soft: shutdown.child_token(),
            _hard_on_drop: Arc::new(hard.drop_guard()),
        }
    }

    /// Cancelled when the tasks should end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.soft
    }

    /// Runs a task. Its name is for the log, should it panic.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn(name, task);
    }

    /// Ends all tasks: softly, and hard after `grace`. Returns whether all ended by themselves.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.soft.cancel();
        self.spawner.tracker.close();
        let in_time = tokio::time::timeout(grace, self.spawner.tracker.wait())
            .await
            .is_ok();
        self.spawner.hard.cancel();
        self.spawner.tracker.wait().await;
        in_time
    }

    pub(crate) fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }
}

/// Starts tasks of a [`Lifecycle`] without keeping it alive, so that its own tasks may hold it.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    tracker: TaskTracker,
    hard: CancellationToken,
}

impl Spawner {
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let hard = self.hard.clone();
        self.tracker.spawn(async move {
            let mut task = Box::pin(task);
            let task = poll_fn(|cx| quietly(name, || task.as_mut().poll(cx)).unwrap_or(Poll::Ready(())));
            tokio::select! {
                biased;
                () = hard.cancelled() => tracing::debug!(task = name, "task dropped"),
                () = task => {}
            }
        });
    }
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn("request", async move {
            task.await;
        });
    }
}

/// A token that is cancelled when the process is asked to end (SIGTERM, SIGINT).
pub fn termination() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // Not owned by a lifecycle: it is what ends all of them, and it ends with the process.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutdown requested");
        cancelled.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn tasks_are_told_and_joined() {
        let shutdown = CancellationToken::new();
        let lifecycle = Lifecycle::new(&shutdown);
        let stopping = lifecycle.stopping().clone();
        let (said, mut heard) = oneshot::channel();
        lifecycle.spawn("polite", async move {
            stopping.cancelled().await;
            said.send("done").unwrap();
        });
        shutdown.cancel();
        assert!(lifecycle.stop(LONG).await);
        assert_eq!(heard.try_recv(), Ok("done"));
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_dropped() {
        let lifecycle = Lifecycle::new(&CancellationToken::new());
        let (held, dropped) = oneshot::channel::<()>();
        lifecycle.spawn("stubborn", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        assert!(!lifecycle.stop(Duration::ZERO).await);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_own_task() {
        let lifecycle = Lifecycle::new(&CancellationToken::new());
        let (said, heard) = oneshot::channel();
        lifecycle.spawn("unlucky", async { panic!("on purpose") });
        lifecycle.spawn("other", async move { said.send(()).unwrap() });
        heard.await.unwrap();
        assert!(lifecycle.stop(LONG).await);
    }

    #[tokio::test]
    async fn tasks_do_not_outlive_their_owner() {
        let lifecycle = Lifecycle::new(&CancellationToken::new());
        let (held, dropped) = oneshot::channel::<()>();
        lifecycle.spawn("orphan", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(lifecycle);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn the_process_can_be_asked_to_end() {
        let token = termination().unwrap();
        let kill = format!("kill -TERM {}", std::process::id());
        assert!(
            std::process::Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        tokio::time::timeout(LONG, token.cancelled()).await.unwrap();
    }
}
