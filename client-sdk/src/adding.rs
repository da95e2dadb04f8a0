//! Waiting for users to be added, and telling how far that has come.

use std::collections::HashSet;

use tokio::sync::mpsc;
use valise_proto::{GroupId, UserId};

use crate::engine::{AddNews, Adder};
use crate::progress::{ProgressSender, Report};
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
    /// An error only where nobody can say yet.
    pub(crate) fn into_known(self) -> Result<Added, Error> {
        match self.error {
            Some(error) if self.cut_short => Err(error),
            _ => Ok(self.added),
        }
    }

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
        progress: &'a ProgressSender,
        group: GroupId,
        users: usize,
        span: tracing::Span,
    ) -> (Self, Adder) {
        let (sender, news) = mpsc::unbounded_channel();
        let report = progress.begin(Work::Adding(group), Some(users as u64));
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

#[cfg(test)]
mod tests {
    use valise_proto::DeviceId;

    use super::*;
    use crate::AddFailure;

    fn user(name: &str) -> UserId {
        format!("{name}@a.example").parse().unwrap()
    }

    fn device(name: &str) -> (UserId, DeviceId) {
        (user(name), DeviceId::from_uuid(uuid::Uuid::new_v4()))
    }

    fn begin(progress: &ProgressSender, users: usize) -> (Adding<'_>, Adder) {
        Adding::begin(
            progress,
            GroupId::from_bytes([1; 16]),
            users,
            tracing::Span::none(),
        )
    }

    #[tokio::test]
    async fn users_are_counted_as_soon_as_something_is_known_of_them() {
        let progress = ProgressSender::new();
        let mut reports = progress.subscribe();
        let (adding, adder) = begin(&progress, 4);
        let unknown = (user("carol"), None, AddFailure::UnknownUser);
        for part in [
            Added {
                devices: vec![device("bob")],
                failed: vec![unknown.clone()],
            },
            Added {
                devices: vec![device("bob"), device("dave")],
                failed: Vec::new(),
            },
        ] {
            let _ = adder.news.send(AddNews::Part(part));
        }
        let _ = adder.news.send(AddNews::Done);
        let added = adding.end().await.into_result().unwrap();
        assert_eq!((added.devices.len(), added.failed), (3, vec![unknown]));
        let mut told = Vec::new();
        while told.len() < 5 {
            let report = reports.next().await.unwrap();
            told.push((report.done, report.finished));
        }
        assert_eq!(
            told,
            [(0, false), (2, false), (3, false), (4, false), (4, true)],
            "of the fourth the directory has said nothing"
        );
    }

    #[tokio::test]
    async fn it_is_an_error_only_where_nobody_was_added_or_nobody_can_say() {
        let denied = || AddNews::Failed(Error::Rule("role_add"));
        let bob = || {
            AddNews::Part(Added {
                devices: vec![device("bob")],
                failed: Vec::new(),
            })
        };
        let stopped = || AddNews::Suspended(Error::Unreachable);
        for (news, ends_well) in [
            (vec![AddNews::Done], true),
            (vec![denied(), AddNews::Done], false),
            (vec![bob(), denied(), AddNews::Done], true),
            (vec![bob(), stopped()], false),
            // The client is closed.
            (vec![bob()], false),
        ] {
            let progress = ProgressSender::new();
            let (adding, adder) = begin(&progress, 1);
            for news in news {
                let _ = adder.news.send(news);
            }
            drop(adder);
            assert_eq!(adding.end().await.into_result().is_ok(), ends_well);
        }
    }
}
