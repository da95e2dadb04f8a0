//! Waiting for users to be added, and telling how far that has come.

use std::collections::HashSet;

use tokio::sync::mpsc;
use valise_proto::{GroupId, UserId};

use crate::engine::{AddNews, Adder};
use crate::progress::Report;
use crate::session::Session;
use crate::{Added, Error, Work};

/// An add that is waited for.
pub(crate) struct Adding<'a> {
    news: mpsc::UnboundedReceiver<AddNews>,
    report: Report<'a>,
    users: usize,
}

/// How it has ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// What became of everybody.
    pub(crate) added: Added,
    /// Why the last of them failed, where it was not for a reason of each device.
    error: Option<Error>,
    /// What became of some is not known yet.
    cut_short: bool,
}

impl Ended {
    /// An error only where nobody was added, or nobody can say yet.
    pub(crate) fn into_result(self) -> Result<Added, Error> {
        match self.error {
            Some(error) if self.cut_short || self.added.devices.is_empty() => Err(error),
            _ => Ok(self.added),
        }
    }
}

impl<'a> Adding<'a> {
    /// And the other end, for the engine.
    pub(crate) fn begin(
        session: &'a Session,
        group: GroupId,
        users: usize,
        span: tracing::Span,
    ) -> (Self, Adder) {
        let (sender, news) = mpsc::unbounded_channel();
        let report = session.long_work.begin(Work::Adding(group), Some(users as u64));
        let adding = Self { news, report, users };
        (adding, Adder { span, news: sender })
    }

    /// Waits until each user has been added or has failed.
    pub(crate) async fn end(mut self) -> Ended {
        let mut ended = Ended::default();
        let mut heard_of: HashSet<UserId> = HashSet::new();
        loop {
            match self.news.recv().await {
                Some(AddNews::Part(part)) => {
                    let devices = part.devices.iter().map(|(user, _)| user);
                    let before = heard_of.len();
                    heard_of.extend(devices.chain(part.failed.iter().map(|(user, ..)| user)).cloned());
                    let new = heard_of.len() - before;
                    if new > 0 {
                        self.report.advance(new as u64);
                    }
                    ended.added.devices.extend(part.devices);
                    ended.added.failed.extend(part.failed);
                }
                Some(AddNews::Failed(error)) => ended.error = Some(error),
                Some(AddNews::Suspended(error)) => {
                    ended.error = Some(error);
                    ended.cut_short = true;
                    return ended;
                }
                Some(AddNews::Done) => {
                    // Those of whom the directory has said nothing.
                    let rest = self.users.saturating_sub(heard_of.len());
                    if rest > 0 {
                        self.report.advance(rest as u64);
                    }
                    return ended;
                }
                None => {
                    ended.error = Some(Error::Closed);
                    ended.cut_short = true;
                    return ended;
                }
            }
        }
    }
}
