//! Groups whose log went back in time: gives the service what this device has of it, and goes on when the log is whole again.

use std::sync::Arc;
use std::time::Duration;

use valise_proto::delivery::v1::{GetLogStandingRequest, OfferEntriesRequest};
use valise_proto::{GroupId, Position};

use super::Session;
use crate::Error;
use crate::engine::Engine;
use crate::transport::Backoff;

/// How long somebody is waited for who repairs a group, between two looks.
const REPAIR: Duration = Duration::from_secs(15);
/// The same where nobody seems to be about to.
const NOBODY: Duration = Duration::from_mins(10);

/// How a group stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It goes on.
    Whole,
    /// The log is open, and this device's place is not in it, or it is not known whether it is. The service may not have noticed yet.
    Elsewhere,
    /// It is closed until it is repaired.
    Frozen,
}

pub(super) async fn run(session: Arc<Session>) {
    let new_backoff = || Backoff::new(Duration::from_millis(100), NOBODY);
    let mut backoff = new_backoff();
    loop {
        let worst = match session.tend_regressed().await {
            Ok(worst) => worst,
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "groups whose log went back in time could not be looked at");
                Standing::Elsewhere
            }
        };
        let wait = match worst {
            Standing::Whole => {
                backoff = new_backoff();
                session.regressed.notified().await;
                continue;
            }
            Standing::Elsewhere => backoff.step(),
            Standing::Frozen => backoff.step().min(REPAIR),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = session.regressed.notified() => backoff = new_backoff(),
        }
    }
}

impl Session {
    /// Looks at all of them; says how the worst one stands.
    async fn tend_regressed(&self) -> Result<Standing, Error> {
        let mut worst = Standing::Whole;
        for group in self.engine.run(Engine::regressed_groups).await? {
            let standing = match self.tend_group(group).await {
                Ok(standing) => standing,
                Err(error) if error.stops_all() => return Err(error),
                Err(error) => {
                    tracing::info!(%error, %group, "where the log stands is not known");
                    Standing::Elsewhere
                }
            };
            worst = worst.max(standing);
        }
        Ok(worst)
    }

    async fn tend_group(&self, group: GroupId) -> Result<Standing, Error> {
        let cursor = self
            .engine
            .run(move |engine| engine.regressed_cursor(group))
            .await?;
        if cursor.is_none() {
            // It was rejoined meanwhile.
            return Ok(Standing::Whole);
        }
        let request = GetLogStandingRequest {
            group_id: group.to_vec().into(),
            cursor,
        };
        let standing = self.transport.get_log_standing(request).await?;
        if standing.frozen {
            let from = standing.last_position.max(standing.offered_position);
            self.offer(group, Position(from)).await?;
            return Ok(Standing::Frozen);
        }
        let goes_on = self
            .engine
            .run(move |engine| engine.log_is_open(group, standing.holds_cursor))
            .await?;
        Ok(if goes_on {
            Standing::Whole
        } else {
            Standing::Elsewhere
        })
    }

    /// Gives back all that this device has after a position.
    async fn offer(&self, group: GroupId, mut after: Position) -> Result<(), Error> {
        loop {
            let entries = self
                .engine
                .run(move |engine| engine.offer_after(group, after))
                .await?;
            let last = entries.last().and_then(|offered| offered.entry.as_ref());
            let Some(last) = last.map(|entry| Position(entry.position)) else {
                return Ok(());
            };
            let request = OfferEntriesRequest {
                group_id: group.to_vec().into(),
                entries,
            };
            self.transport.offer_entries(request).await?;
            after = last;
        }
    }
}
