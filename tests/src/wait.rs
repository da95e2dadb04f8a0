//! Awaiting a condition, with a deadline.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// For everything that is quick unless something is broken, on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(300);

/// What the future yields, or a panic after [`SOON`].
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    within(SOON, future).await
}

/// What the future yields, or a panic after that time.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(limit, future).await else {
        panic!("did not happen within {limit:?}");
    };
    value
}

/// Asks again and again until there is an answer. For what cannot be awaited, such as another process's state.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let Ok(value) = tokio::time::timeout(SOON, asking).await else {
        panic!("not within {SOON:?}: {what}");
    };
    value
}

/// All values, in the order of the futures, which run at the same time on tasks of their own.
pub async fn all<T: Debug + Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut values = Vec::with_capacity(tasks.len());
    for task in tasks {
        values.push(task.await.expect("a task panicked"));
    }
    values
}
