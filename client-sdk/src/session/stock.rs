//! Keeps key packages in stock at the directory.
//!
//! They end by the clock, and so it is the clock that says when to look again ([`look_after`], with all other [`super::upkeep`]): a timer
//! stands still while the machine sleeps, and an app that runs now and then has none.

use std::sync::Arc;
use std::time::Duration;

use openmls::prelude::Ciphersuite;
use valise_proto::Reason;
use valise_proto::directory::v1::{GetStockRequest, GetStockResponse, PublishKeyPackagesRequest};

use super::Session;
use crate::Error;
use crate::engine::Engine;
use crate::kill_point::{self, Step};
use crate::transport::Backoff;

/// Most packages of one call.
const BATCH: usize = 100;
/// The stock is looked at this often, in seconds, even if nobody says that it is low.
const INTERVAL: u64 = 6 * 3600;
/// Packages that are about to end are replaced this long before.
const AHEAD: u64 = 7 * 24 * 3600;

/// Fills the stock at the start, and whenever somebody says that it is low.
pub(super) async fn run(session: Arc<Session>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
    loop {
        match publish(&session).await {
            Ok(()) => {
                backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
                session.top_up.notified().await;
            }
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::debug!(%error, "key packages could not be published");
                tokio::select! {
                    () = session.top_up.notified() => {}
                    () = tokio::time::sleep(backoff.step()) => {}
                }
            }
        }
    }
}

/// Publishes what is missing, where nobody has looked for long.
pub(super) async fn look_after(session: &Session) -> Result<(), Error> {
    let mut looked_at = session.publishing.lock().await;
    let now = session.options.clock.unix_seconds();
    // A clock that was set back says nothing of how long ago that was.
    let recent = |at: u64| (at..at.saturating_add(INTERVAL)).contains(&now);
    if looked_at.is_some_and(recent) {
        return Ok(());
    }
    fill(session, &mut looked_at).await
}

/// Publishes what is missing.
pub(super) async fn publish(session: &Session) -> Result<(), Error> {
    let mut looked_at = session.publishing.lock().await;
    fill(session, &mut looked_at).await
}

async fn fill(session: &Session, looked_at: &mut Option<u64>) -> Result<(), Error> {
    session.engine.run(Engine::sweep_key_packages).await?;
    let stock = session.transport.get_stock(GetStockRequest {}).await?;
    if let Some(longest) = &stock.maximum_lifetime {
        let longest = u64::try_from(longest.seconds).unwrap_or(0);
        session
            .engine
            .run(move |engine| {
                engine.limit_lifetimes(longest);
                Ok(())
            })
            .await?;
    }
    let now = session.options.clock.unix_seconds();
    for suite in session.options.suites() {
        make(session, suite.mls(), &stock).await?;
    }
    let mut refused = false;
    loop {
        let packages = session
            .engine
            .run(|engine| engine.key_packages_to_publish(BATCH))
            .await?;
        if packages.is_empty() {
            *looked_at = Some(now);
            return Ok(());
        }
        let references: Vec<_> = packages.iter().map(|package| package.reference.clone()).collect();
        let tried = packages.iter().any(|package| package.tried);
        let key_packages = packages.into_iter().map(|package| package.message).collect();
        kill_point::reached("publish_key_packages", Step::Sending);
        let published = session
            .transport
            .publish_key_packages(PublishKeyPackagesRequest { key_packages })
            .await;
        kill_point::reached("publish_key_packages", Step::Answered);
        match published {
            Ok(_) => {}
            Err(error) if error.reason() == Some(Reason::InvalidKeyPackage) && !refused => {
                // A package is taken once. Of a call whose answer was lost, some may have been: whether they were shows in the
                // stock the next time.
                tracing::warn!(%error, tried, "key packages were refused");
                refused = true;
            }
            Err(error) => return Err(error),
        }
        session
            .engine
            .run(move |engine| engine.key_packages_published(&references))
            .await?;
    }
}

/// Makes what is missing of a suite, besides what waits to be published.
async fn make(session: &Session, suite: Ciphersuite, stock: &GetStockResponse) -> Result<(), Error> {
    let capacity = usize::try_from(stock.capacity).unwrap_or(usize::MAX);
    let wanted = session.options.key_packages.one_time.min(capacity);
    let soon = session.options.clock.unix_seconds() + AHEAD;
    let found = stock
        .stock
        .iter()
        .find(|found| found.cipher_suite == u32::from(u16::from(suite)));
    let ends_soon = found
        .and_then(|found| found.first_unusable_at.as_ref())
        .is_some_and(|at| u64::try_from(at.seconds).is_ok_and(|at| at < soon));
    let (waiting, last_resort_waits) = session
        .engine
        .run(move |engine| engine.unpublished(suite))
        .await?;
    let have = found.map_or(0, |found| found.one_time as usize) + waiting;
    let low = have <= wanted / 2 || found.is_none_or(|found| found.low) || ends_soon;
    let missing = if low { wanted.saturating_sub(have) } else { 0 };
    let last_resort = !last_resort_waits && (ends_soon || found.is_none_or(|found| !found.last_resort));
    if missing > 0 || last_resort {
        session
            .engine
            .run(move |engine| engine.make_key_packages(suite, missing, last_resort))
            .await?;
    }
    Ok(())
}
