//! Users who are to be added: claims their key packages, a batch at a time, until each has been added or has failed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tracing::Instrument as _;

use valise_proto::Reason;

use super::Session;
use crate::Error;
use crate::engine::DueAdd;
use crate::kill_point::{self, Step};
use crate::store::AddId;
use crate::transport::Failure;

const CLAIM: &str = "claim_key_packages";

/// When what has failed is tried again. The call itself has been patient by then.
const AGAIN: Duration = Duration::from_secs(5);

pub(super) async fn run(session: Arc<Session>) {
    let mut claims = FuturesUnordered::new();
    let mut claiming = HashSet::new();
    loop {
        let mut progress = session.progress.clone();
        progress.mark_unchanged();
        let (mut waiting, mut again) = (false, false);
        let under_way = claiming.clone();
        match session
            .engine
            .run(move |engine| engine.due_adds(&under_way))
            .await
        {
            Ok(due) => {
                waiting = due.waiting;
                for add in due.claims {
                    if claiming.insert(add.id) {
                        claims.push(claim(Arc::clone(&session), add));
                    }
                }
            }
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "users could not be added yet");
                again = true;
            }
        }
        tokio::select! {
            Some(id) = claims.next() => {
                claiming.remove(&id);
            }
            () = session.adds.notified() => {}
            // A client that is closed ends this task, too.
            _ = progress.changed(), if waiting && !again => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
}

/// Claims once for the next users of an add. What has failed for now is due again a little later.
async fn claim(session: Arc<Session>, add: DueAdd) -> AddId {
    let (id, span) = (add.id, add.span.clone());
    if let Err(error) = try_claim(&session, add).instrument(span).await {
        tracing::warn!(%error, "key packages are claimed again later");
        tokio::time::sleep(AGAIN).await;
    }
    id
}

async fn try_claim(session: &Session, add: DueAdd) -> Result<(), Error> {
    let DueAdd { id, users, suite, .. } = add;
    kill_point::reached(CLAIM, Step::Sending);
    let claims = match session.transport.claim(&users, suite).await {
        Ok(claims) => claims,
        Err(error) if is_passing(&error) => return Err(error),
        Err(error) => {
            return session
                .engine
                .run(move |engine| engine.give_up_add(id, &error))
                .await;
        }
    };
    kill_point::reached(CLAIM, Step::Answered);
    loop {
        let (users, claims) = (users.clone(), claims.clone());
        let added = session
            .engine
            .run(move |engine| engine.add_claimed(id, &users, claims))
            .await;
        match added {
            // What was claimed is spent: it is not claimed again.
            Err(error) if error.is_of_store() => {
                tracing::warn!(%error, "key packages that were claimed could not be stored yet");
                tokio::time::sleep(AGAIN).await;
            }
            added => return added,
        }
    }
}

fn is_passing(error: &Error) -> bool {
    match error {
        // The call has been patient with that by now, and more of it may never help.
        Error::Refused(refusal) if refusal.reason == Reason::Internal => false,
        Error::Refused(refusal) => Failure::Refused(refusal.clone()).is_passing(),
        error => matches!(error, Error::Unreachable),
    }
}
