//! How far long work has come: for a line that moves while people wait.

use tokio::sync::broadcast;
use valise_proto::GroupId;

/// Reports that a slow listener may be behind before it misses the oldest.
const KEPT: usize = 64;

/// What takes its time.
///
/// ```
/// use valise_client_sdk::Work;
///
/// fn label(work: Work) -> &'static str {
///     match work {
///         Work::CatchingUp => "Reading what you missed",
///         Work::Adding(_) => "Inviting",
///         _ => "Working",
///     }
/// }
/// assert_eq!(label(Work::CatchingUp), "Reading what you missed");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Work {
    /// Reading what happened while the device was away. Counted in entries of logs and items of the inbox.
    CatchingUp,
    /// [`crate::Group::add`]. Counted in users, each as soon as something is known of one of their devices: with every commit, and every answer of
    /// the directory.
    Adding(GroupId),
}

/// How far a piece of long work has come.
///
/// ```
/// use valise_client_sdk::Progress;
///
/// fn bar(progress: &Progress) -> String {
///     match progress.total {
///         Some(total) => format!("{} of {total}", progress.done),
///         None => format!("{}…", progress.done),
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What it is.
    pub work: Work,
    /// How much is done.
    pub done: u64,
    /// How much there is to do; `None` where nobody knows.
    pub total: Option<u64>,
    /// It has ended, well or not: nothing more comes of it.
    pub finished: bool,
}

/// Reports of long work, as it goes on ([`crate::Client::progress`]). Who listens too slowly misses some: the newest count.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// let mut reports = alice.progress();
/// let group = alice.create_group("Everybody").await?;
/// group.add(&[bob.user()]).await?;
/// while let Some(progress) = reports.next().await {
///     println!("{:?}: {} of {:?}", progress.work, progress.done, progress.total);
///     if progress.finished {
///         break;
///     }
/// }
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct ProgressReports {
    receiver: broadcast::Receiver<Progress>,
}

impl ProgressReports {
    /// The next report; waits for it. `None` once the client is gone.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// let mut reports = alice.progress();
    /// alice.create_group("Everybody").await?.add(&[bob.user()]).await?;
    /// assert!(reports.next().await.is_some());
    /// # Ok(()) });
    /// ```
    pub async fn next(&mut self) -> Option<Progress> {
        loop {
            match self.receiver.recv().await {
                Ok(progress) => return Some(progress),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Where reports begin.
pub(crate) struct ProgressSender {
    sender: broadcast::Sender<Progress>,
}

impl ProgressSender {
    pub(crate) fn new() -> Self {
        Self {
            sender: broadcast::channel(KEPT).0,
        }
    }

    pub(crate) fn subscribe(&self) -> ProgressReports {
        ProgressReports {
            receiver: self.sender.subscribe(),
        }
    }

    /// Something begins. It is finished when the report is dropped.
    pub(crate) fn begin(&self, work: Work, total: Option<u64>) -> Report<'_> {
        let report = Report {
            sender: &self.sender,
            progress: Progress {
                work,
                done: 0,
                total,
                finished: false,
            },
        };
        report.tell();
        report
    }
}

/// A piece of work that is going on.
pub(crate) struct Report<'a> {
    sender: &'a broadcast::Sender<Progress>,
    progress: Progress,
}

impl Report<'_> {
    pub(crate) fn advance(&mut self, by: u64) {
        self.progress.done = self.progress.done.saturating_add(by);
        self.tell();
    }

    fn tell(&self) {
        // Nobody has to listen.
        let _ = self.sender.send(self.progress);
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.progress.finished = true;
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_told_from_its_beginning_to_its_end() {
        let sender = ProgressSender::new();
        let mut reports = sender.subscribe();
        let mut report = sender.begin(Work::CatchingUp, Some(3));
        report.advance(2);
        // Dropped before everything is done, as after an error.
        drop(report);
        let mut told = Vec::new();
        for _ in 0..3 {
            let progress = reports.next().await.unwrap();
            told.push((progress.done, progress.total, progress.finished));
        }
        assert_eq!(
            told,
            [(0, Some(3), false), (2, Some(3), false), (2, Some(3), true)]
        );
        drop(sender);
        assert_eq!(reports.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_listener_gets_the_newest() {
        let sender = ProgressSender::new();
        let mut reports = sender.subscribe();
        let mut report = sender.begin(Work::CatchingUp, None);
        for _ in 0..1000 {
            report.advance(1);
        }
        let mut last = 0;
        while last < 1000 {
            last = reports.next().await.unwrap().done;
        }
    }
}
