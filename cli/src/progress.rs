//! Long work, in words: on standard error, where that is a terminal, as one line that moves and goes when the work ends.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use valise_client_sdk::{Client, Progress, Work};

/// Work that is done at once needs no words.
const WORTH_TELLING: u64 = 100;
/// To the beginning of the line, which is cleared.
const CLEAR: &str = "\r\x1b[K";

pub(crate) fn in_words(progress: &Progress) -> String {
    let doing = match progress.work {
        Work::CatchingUp => "catching up",
        Work::Adding(_) => "adding users",
        _ => "working",
    };
    match progress.total {
        Some(total) => format!("{doing}: {} of {total}", progress.done),
        None if progress.done == 0 => doing.to_owned(),
        None => format!("{doing}: {}", progress.done),
    }
}

/// Shows long work until it is dropped.
pub(crate) struct ProgressLine {
    task: Option<JoinHandle<()>>,
    /// There is something in the line.
    shown: Arc<AtomicBool>,
}

impl ProgressLine {
    pub(crate) fn start(client: &Client) -> Self {
        let shown = Arc::new(AtomicBool::new(false));
        let shows = Arc::clone(&shown);
        let terminal = std::io::stderr().is_terminal();
        let task = terminal.then(|| {
            let mut reports = client.progress();
            tokio::spawn(async move {
                while let Some(progress) = reports.next().await {
                    if let Some(line) = line(&progress) {
                        // Without standard error there is nothing to show it on.
                        let _ = write!(std::io::stderr(), "{line}");
                        shows.store(!progress.finished, Ordering::SeqCst);
                    }
                }
            })
        });
        Self { task, shown }
    }
}

/// What is written for a report.
fn line(progress: &Progress) -> Option<String> {
    let size = progress.total.unwrap_or(progress.done);
    if size < WORTH_TELLING {
        None
    } else if progress.finished {
        Some(CLEAR.to_owned())
    } else {
        Some(format!("{CLEAR}{} ", in_words(progress)))
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        if self.shown.load(Ordering::SeqCst) {
            let _ = write!(std::io::stderr(), "{CLEAR}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_work_is_worth_a_line() {
        let progress = |done, total, finished| Progress {
            work: Work::CatchingUp,
            done,
            total,
            finished,
        };
        assert_eq!(line(&progress(3, None, false)), None);
        assert_eq!(line(&progress(3, None, true)), None);
        assert_eq!(
            line(&progress(512, None, false)).unwrap(),
            "\r\x1b[Kcatching up: 512 "
        );
        assert_eq!(
            line(&progress(0, Some(1000), false)).unwrap(),
            "\r\x1b[Kcatching up: 0 of 1000 "
        );
        assert_eq!(line(&progress(256, Some(1000), true)).unwrap(), CLEAR);
    }
}
