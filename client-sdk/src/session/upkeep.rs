//! Keeps keys fresh: looks regularly whether something is due, and does it.

use std::sync::Arc;
use std::time::Duration;

use valise_proto::authentication::v1::RenewCertificateRequest;
use valise_proto::directory::v1::DeleteKeyPackagesRequest;

use super::{Session, limits, stock};
use crate::Error;
use crate::engine::Engine;
use crate::kill_point::{self, Step};

/// What is due is due for days: nobody notices some minutes.
const INTERVAL: Duration = Duration::from_mins(15);

pub(super) async fn run(session: Arc<Session>) {
    loop {
        if let Err(error) = limits::ask(&session).await {
            tracing::debug!(%error, "what may have changed is asked for again later");
        }
        match tend(&session).await {
            Ok(()) => {}
            Err(Error::Closed) => return,
            Err(error) => tracing::warn!(%error, "the upkeep of keys failed; it is tried again"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Does what is due now. What it queues in groups goes out like all other operations.
pub(crate) async fn tend(session: &Session) -> Result<(), Error> {
    let _turn = session.tending.lock().await;
    let keys = tend_keys(session).await;
    // Packages end whether or not a certificate can be renewed.
    let stock = stock::look_after(session).await;
    keys.and(stock)
}

async fn tend_keys(session: &Session) -> Result<(), Error> {
    let mut due = session.engine.run(Engine::upkeep).await?;
    if due.renewal {
        renew(session).await?;
        due = session.engine.run(Engine::upkeep).await?;
    }
    if due.key_packages {
        // A claimed package whose certificate ends soon would shut its owner out of the group soon.
        kill_point::reached("replace_key_packages", Step::Sending);
        session
            .transport
            .delete_key_packages(DeleteKeyPackagesRequest {})
            .await?;
        kill_point::reached("replace_key_packages", Step::Answered);
        stock::publish(session).await?;
        session.engine.run(Engine::key_packages_replaced).await?;
    }
    Ok(())
}

async fn renew(session: &Session) -> Result<(), Error> {
    let certification_request = session.engine.run(Engine::certification_request).await?;
    kill_point::reached("renew_certificate", Step::Sending);
    let answer = session
        .transport
        .renew_certificate(RenewCertificateRequest {
            certification_request,
        })
        .await?;
    kill_point::reached("renew_certificate", Step::Answered);
    let chain = answer.chain.ok_or(Error::Unreachable)?.certificates;
    session
        .engine
        .run(move |engine| engine.adopt_certificate(chain))
        .await
}
