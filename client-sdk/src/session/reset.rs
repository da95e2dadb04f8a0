//! Groups that were reset: one device after the other tries to make the successor, and whoever made it adds the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use valise_proto::{DeviceId, GroupId};

use super::Session;
use crate::Error;
use crate::engine::{Behind, Engine, Operation};
use crate::kill_point::{self, Step};
use crate::store::{ResetRow, ResetStep};
use crate::transport::{Backoff, Failure};

/// Most devices of one claim, and of one commit.
const BATCH: usize = 256;
/// Rounds in which others are added; who cannot be by then has to be added by somebody.
const ROUNDS: u32 = 5;
/// The steps at which a test may end the process.
const ADD_OTHERS: &str = "add_others";

/// What this run knows of resets; all else is in the store.
#[derive(Default)]
struct Known {
    /// Since when it has waited for its turn.
    waiting_since: HashMap<GroupId, Instant>,
    rounds: HashMap<GroupId, u32>,
}

/// When to look again; whenever there is something new, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Next {
    at: Option<Instant>,
    /// When the engine has done something.
    progress: bool,
    /// A little later than the last time.
    later: bool,
}

impl Next {
    /// When there is something new.
    const NEWS: Self = Self {
        at: None,
        progress: false,
        later: false,
    };
    const PROGRESS: Self = Self {
        progress: true,
        ..Self::NEWS
    };
    const LATER: Self = Self {
        later: true,
        ..Self::NEWS
    };

    const fn at(at: Instant) -> Self {
        Self {
            at: Some(at),
            ..Self::NEWS
        }
    }

    /// Whichever comes first; but what has just failed is not tried again with each thing that the engine does.
    fn or(self, other: Self) -> Self {
        let later = self.later || other.later;
        Self {
            at: self.at.into_iter().chain(other.at).min(),
            progress: (self.progress || other.progress) && !later,
            later,
        }
    }
}

pub(super) async fn run(session: Arc<Session>) {
    let new_backoff = || Backoff::new(Duration::from_millis(100), Duration::from_mins(1));
    let mut backoff = new_backoff();
    let mut known = Known::default();
    loop {
        // Never while the device still reads what it missed: an invitation may be among it.
        if !session.has_caught_up().await {
            return;
        }
        let mut progress = session.progress.clone();
        progress.mark_unchanged();
        let next = match session.follow_resets(&mut known).await {
            Ok(next) => next,
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "resets could not be followed yet");
                Next::LATER
            }
        };
        if !next.later {
            backoff = new_backoff();
        }
        let later = next.later.then(|| Instant::now() + backoff.step());
        let timer = async {
            match next.at.into_iter().chain(later).min() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = session.resets.notified() => {}
            () = timer => {}
            // A client that is closed ends this task, too.
            _ = progress.changed(), if next.progress => {}
        }
    }
}

impl Session {
    async fn follow_resets(&self, known: &mut Known) -> Result<Next, Error> {
        let mut next = Next::NEWS;
        for reset in self.engine.run(Engine::open_resets).await? {
            let followed = if reset.step == ResetStep::Adding {
                self.add_others(&reset, known).await
            } else {
                self.make_successor(&reset, known).await
            };
            next = next.or(or_later(reset.group, followed)?);
        }
        Ok(next)
    }

    /// In its turn.
    async fn make_successor(&self, reset: &ResetRow, known: &mut Known) -> Result<Next, Error> {
        let group = reset.group;
        let Some(old) = &reset.old else {
            return Ok(Next::NEWS);
        };
        let since = *known.waiting_since.entry(group).or_insert_with(Instant::now);
        let turn = since + self.options.commit_delay.saturating_mul(old.rank.unwrap_or(0));
        if Instant::now() < turn {
            return Ok(Next::at(turn));
        }
        let current = if old.complete {
            None
        } else {
            match self.transport.group_info(group, true).await {
                Ok(current) => Some(current),
                Err(Failure::Refused(refusal)) if !Failure::Refused(refusal.clone()).is_passing() => {
                    let cause = refusal.reason.as_str();
                    self.engine
                        .run(move |engine| engine.leave_succession(group, cause))
                        .await?;
                    return Ok(Next::NEWS);
                }
                Err(_) => return Ok(Next::LATER),
            }
        };
        let made = self
            .engine
            .run(move |engine| engine.make_successor(group, current.as_ref()))
            .await;
        match made {
            Ok(()) => Ok(Next::NEWS),
            Err(error) if error.stops_all() => Err(error),
            Err(error) => {
                let cause = error.to_string();
                self.engine
                    .run(move |engine| engine.leave_succession(group, &cause))
                    .await?;
                Ok(Next::NEWS)
            }
        }
    }

    async fn add_others(&self, reset: &ResetRow, known: &mut Known) -> Result<Next, Error> {
        let group = reset.group;
        let Some(behind) = self.engine.run(move |engine| engine.left_behind(group)).await? else {
            return Ok(Next::PROGRESS);
        };
        if behind.devices.is_empty() {
            self.engine
                .run(move |engine| engine.end_succession(group, None))
                .await?;
            return Ok(Next::NEWS);
        }
        let round = known.rounds.entry(group).or_default();
        *round += 1;
        let last = *round >= ROUNDS;
        match self.add_round(&behind).await {
            // Looks once more, and finds nobody.
            Ok(None) => Ok(Next::PROGRESS),
            Ok(Some(cause)) | Err(Error::Rule(cause)) if last => {
                self.engine
                    .run(move |engine| engine.end_succession(group, Some(cause)))
                    .await?;
                Ok(Next::NEWS)
            }
            Ok(Some(_)) | Err(Error::Rule(_)) => Ok(Next::LATER),
            Err(error) => Err(error),
        }
    }

    /// Adds whom it can; says why some could not be.
    async fn add_round(&self, behind: &Behind) -> Result<Option<&'static str>, Error> {
        let successor = behind.successor;
        let mut failed = None;
        for devices in behind.devices.chunks(BATCH) {
            kill_point::reached(ADD_OTHERS, Step::Sending);
            let claims = self.transport.claim_devices(devices, behind.suite).await?;
            kill_point::reached(ADD_OTHERS, Step::Answered);
            let (mut packages, failures) = self
                .engine
                .run(move |engine| engine.sift_claims(successor, claims))
                .await?;
            failed = failures.first().map(|(.., failure)| failure.cause()).or(failed);
            if packages.is_empty() {
                continue;
            }
            // The order in which they can be added.
            let place = |device: DeviceId| devices.iter().position(|other| *other == device);
            packages.sort_by_key(|package| place(package.peer.device));
            let operation = Operation::Add { packages };
            match self
                .engine
                .submit(successor, operation, tracing::Span::current())
                .await
            {
                Ok(_) => {}
                Err(error) if error.stops_all() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, group = %successor, "members could not be added to a successor");
                    failed = Some(error.reason().map_or("commit", |reason| reason.as_str()));
                }
            }
        }
        Ok(failed)
    }
}

/// What fails of one reset is tried again later, and does not concern the others.
fn or_later(group: GroupId, followed: Result<Next, Error>) -> Result<Next, Error> {
    match followed {
        Err(error) if error.stops_all() => Err(error),
        Err(error) => {
            tracing::warn!(%error, %group, "a reset could not be followed yet");
            Ok(Next::LATER)
        }
        followed => followed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_first_is_waited_for() {
        let now = Instant::now();
        let soon = Next::at(now + Duration::from_secs(1));
        let far = Next::at(now + Duration::from_secs(9));
        assert_eq!(far.or(soon).or(far), soon);
        assert_eq!(Next::NEWS.or(soon), soon);
        let turn = Next::PROGRESS.or(far).or(soon);
        assert_eq!((turn.at, turn.progress, turn.later), (soon.at, true, false));
        let failed = turn.or(Next::LATER).or(Next::PROGRESS);
        assert_eq!((failed.at, failed.progress, failed.later), (soon.at, false, true));
    }

    #[test]
    fn one_reset_that_fails_does_not_end_the_others() {
        let group = GroupId::from_bytes([1; 16]);
        let turn = Next::at(Instant::now());
        assert_eq!(or_later(group, Ok(turn)).unwrap(), turn);
        for passing in [Error::Unreachable, Error::UnknownGroup(group), Error::Rule("")] {
            assert_eq!(or_later(group, Err(passing)).unwrap(), Next::LATER);
        }
        let broken = Error::Store(Arc::new(std::io::Error::other("full")));
        for lasting in [Error::Closed, broken] {
            assert!(or_later(group, Err(lasting)).is_err());
        }
    }
}
