//! Sends what the engine has prepared: of each group one request at a time, so that the log has them in the order in which they
//! were asked for; of different groups side by side.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tracing::Instrument;
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position, Reason, Refusal};

use super::Session;
use crate::engine::{Upload, UploadJob, UploadKind};
use crate::kill_point::{self, Step};
use crate::transport::{Backoff, Failure};
use crate::{Connection, Error};

/// After so many failures of the service's in a row nobody waits for the outcome any more.
const MAX_INTERNAL: u32 = 8;
/// A request whose outcome is not known is tried again this often while the service refuses the device.
const AFTER_REFUSAL: Duration = Duration::from_mins(1);

pub(super) async fn run(session: Arc<Session>, mut jobs: mpsc::UnboundedReceiver<UploadJob>) {
    let mut queues: HashMap<GroupId, VecDeque<Upload>> = HashMap::new();
    let mut busy: HashSet<GroupId> = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let group = tokio::select! {
            // Jobs first: what an outcome has changed must be known before the next request of its group goes out.
            biased;
            job = jobs.recv() => match job {
                None => return,
                Some(UploadJob::Clear(group)) => {
                    queues.remove(&group);
                    continue;
                }
                Some(UploadJob::Send(upload)) => {
                    let group = upload.group;
                    queues.entry(group).or_default().push_back(upload);
                    group
                }
            },
            Some(group) = running.next(), if !running.is_empty() => {
                busy.remove(&group);
                group
            }
        };
        if busy.contains(&group) {
            continue;
        }
        match queues.get_mut(&group).and_then(VecDeque::pop_front) {
            Some(upload) => {
                busy.insert(group);
                running.push(deliver(&session, upload));
            }
            None => drop(queues.remove(&group)),
        }
    }
}

/// What a failed try means.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is tried again soon.
    Again,
    /// It has failed: the log does not have it.
    Fail,
    /// The log may have it and the service does not say: whoever waits hears that, and it is tried again.
    Tell,
}

/// What the tries of a request have come to.
struct Tries {
    /// An earlier one may be in the log.
    unknown: bool,
    /// Failures of the service's in a row.
    internal: u32,
}

impl Tries {
    fn judge(&mut self, failure: &Failure) -> Next {
        let reason = failure.reason();
        let unknown = self.unknown;
        self.unknown |= may_be_done(failure);
        self.internal = match reason {
            Some(Reason::Internal) => self.internal + 1,
            _ => 0,
        };
        match reason {
            Some(Reason::Internal) if self.internal >= MAX_INTERNAL => {
                self.internal = 0;
                Next::Tell
            }
            // Said before anybody has looked whether it is a repeat.
            Some(Reason::UserSuspended | Reason::DeviceRevoked | Reason::UnknownDevice) if unknown => {
                Next::Tell
            }
            _ if failure.is_passing() => Next::Again,
            _ => Next::Fail,
        }
    }
}

/// May the service have done what it was asked for?
fn may_be_done(failure: &Failure) -> bool {
    failure.reason().is_none_or(|reason| {
        matches!(
            reason,
            Reason::StoreUnavailable | Reason::DeadlineExceeded | Reason::Internal
        )
    })
}

/// Sends one request until there is an outcome, and tells the engine.
async fn deliver(session: &Session, upload: Upload) -> GroupId {
    let group = upload.group;
    let (intent, key, kind) = (upload.intent, upload.prepared.key, upload.kind);
    let span = upload.span.clone();
    async {
        let operation = upload.operation;
        match outcome(session, upload).await {
            None => {}
            // The next request need not wait for the engine.
            Some(Ok(accepted)) => session.engine.post(move |engine| {
                let (position, epoch) = (Position(accepted.position), Epoch(accepted.epoch));
                stored(match kind {
                    UploadKind::ExternalCommit => engine.rejoined(intent, key, &accepted),
                    _ => engine.accepted(intent, key, position, epoch),
                });
                kill_point::reached(operation, Step::Heard);
            }),
            // It must: what is queued behind this one may have to be built again.
            Some(Err(refusal)) => {
                stored(
                    session
                        .engine
                        .run(move |engine| engine.refused(intent, key, refusal))
                        .await,
                );
            }
        }
    }
    .instrument(span)
    .await;
    group
}

/// An outcome that could not be stored is not lost: the request goes out again when the store is opened again.
fn stored(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::error!(%error, "an outcome could not be stored");
    }
}

/// `None` where the request was taken back before there was one.
async fn outcome(session: &Session, upload: Upload) -> Option<Result<wire::Accepted, Refusal>> {
    let mut backoff = Backoff::of_requests();
    let mut repeat = upload.repeat;
    let mut tries = Tries {
        unknown: upload.repeat,
        internal: 0,
    };
    loop {
        kill_point::reached(upload.operation, Step::Sending);
        let failure = match once(session, &upload, repeat).await {
            Ok(accepted) => {
                kill_point::reached(upload.operation, Step::Answered);
                return Some(Ok(accepted));
            }
            Err(failure) => failure,
        };
        repeat = true;
        let wait = match (tries.judge(&failure), &failure) {
            (Next::Fail, Failure::Refused(refusal)) => return Some(Err(refusal.clone())),
            (Next::Tell, Failure::Refused(refusal)) => {
                if !still_wanted(session, &upload, refusal.clone()).await {
                    return None;
                }
                AFTER_REFUSAL
            }
            _ => failure.retry_after().unwrap_or_else(|| backoff.step()),
        };
        tracing::debug!(group = %upload.group, operation = upload.operation, reason = ?failure.reason(), "a request is tried again");
        wait_or_live(session, wait).await;
    }
}

/// Tells whoever waits that the outcome is not known yet. Says whether it still matters.
async fn still_wanted(session: &Session, upload: &Upload, refusal: Refusal) -> bool {
    let (intent, key) = (upload.intent, upload.prepared.key);
    let wanted = session
        .engine
        .run(move |engine| engine.outcome_unknown(intent, key, refusal))
        .await;
    // Where the store cannot be read now, it may be later.
    wanted.unwrap_or_else(|error| !matches!(error, Error::Closed))
}

/// Waits, but not longer than until the connection is back.
async fn wait_or_live(session: &Session, wait: Duration) {
    let mut connection = session.connection.subscribe();
    let back = async {
        if *connection.borrow_and_update() == Connection::Live {
            // It is not the connection that is missing.
            std::future::pending::<()>().await;
        }
        let _ = connection
            .wait_for(|connection| *connection == Connection::Live)
            .await;
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = back => {}
    }
}

async fn once(session: &Session, upload: &Upload, may_be_repeat: bool) -> Result<wire::Accepted, Failure> {
    let transport = &session.transport;
    let client = transport.delivery();
    let prepared = &upload.prepared;
    let idempotency_key: bytes::Bytes = prepared.key.to_vec().into();
    let accepted = match upload.kind {
        UploadKind::Create => {
            let request = wire::CreateGroupRequest {
                group_info: prepared.message.clone().into(),
                ratchet_tree: prepared.welcome.clone().unwrap_or_default().into(),
                idempotency_key,
            };
            call(transport.once(&request, |request| {
                let mut client = client.clone();
                async move { client.create_group(request).await }
            }))
            .await?;
            return Ok(wire::Accepted::default());
        }
        UploadKind::Message => {
            let request = wire::SendMessageRequest {
                mls_message: prepared.message.clone().into(),
                idempotency_key,
                may_be_repeat,
            };
            call(transport.once(&request, |request| {
                let mut client = client.clone();
                async move { client.send_message(request).await }
            }))
            .await?
            .accepted
        }
        UploadKind::Commit => {
            let request = wire::SubmitCommitRequest {
                commit: prepared.message.clone().into(),
                group_info: prepared.group_info.clone().unwrap_or_default().into(),
                welcome: prepared.welcome.clone().unwrap_or_default().into(),
                idempotency_key,
                may_be_repeat,
            };
            call(transport.once(&request, |request| {
                let mut client = client.clone();
                async move { client.submit_commit(request).await }
            }))
            .await?
            .accepted
        }
        UploadKind::ExternalCommit => {
            let request = wire::SubmitExternalCommitRequest {
                commit: prepared.message.clone().into(),
                group_info: prepared.group_info.clone().unwrap_or_default().into(),
                idempotency_key,
                may_be_repeat,
            };
            call(transport.once(&request, |request| {
                let mut client = client.clone();
                async move { client.submit_external_commit(request).await }
            }))
            .await?
            .accepted
        }
        UploadKind::Proposal => {
            let request = wire::SubmitProposalRequest {
                proposal: prepared.message.clone().into(),
                idempotency_key,
                may_be_repeat,
            };
            call(transport.once(&request, |request| {
                let mut client = client.clone();
                async move { client.submit_proposal(request).await }
            }))
            .await?
            .accepted
        }
    };
    accepted.ok_or(Failure::Unknown)
}

/// Calls are large futures: one at a time is on the heap, not all of them in one.
fn call<'a, T>(
    future: impl Future<Output = Result<T, Failure>> + Send + 'a,
) -> std::pin::Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>> {
    Box::pin(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason) -> Failure {
        Failure::Refused(Refusal::new(reason))
    }

    fn tries(repeat: bool) -> Tries {
        Tries {
            unknown: repeat,
            internal: 0,
        }
    }

    #[test]
    fn a_first_try_that_is_refused_has_failed() {
        for reason in [Reason::UserSuspended, Reason::DeviceRevoked, Reason::PolicyDenied] {
            assert_eq!(tries(false).judge(&refused(reason)), Next::Fail, "{reason}");
        }
        // Tries that were refused before they were done leave nothing open.
        let mut tries = tries(false);
        assert_eq!(tries.judge(&refused(Reason::RateLimited)), Next::Again);
        assert_eq!(tries.judge(&refused(Reason::TokenInvalid)), Next::Again);
        assert_eq!(tries.judge(&refused(Reason::UserSuspended)), Next::Fail);
    }

    #[test]
    fn a_refusal_of_the_device_says_nothing_of_an_earlier_try() {
        for unknown in [
            Failure::Unknown,
            refused(Reason::StoreUnavailable),
            refused(Reason::Internal),
        ] {
            let mut tries = tries(false);
            assert_eq!(tries.judge(&unknown), Next::Again);
            assert_eq!(tries.judge(&refused(Reason::UserSuspended)), Next::Tell);
            // Whoever looks at the group has looked for the repeat.
            assert_eq!(tries.judge(&refused(Reason::NotAMember)), Next::Fail);
        }
        assert_eq!(tries(true).judge(&refused(Reason::DeviceRevoked)), Next::Tell);
    }

    #[test]
    fn failures_of_the_service_count_in_a_row_and_never_as_an_answer() {
        let mut tries = tries(false);
        for _ in 1..MAX_INTERNAL {
            assert_eq!(tries.judge(&refused(Reason::Internal)), Next::Again);
        }
        assert_eq!(tries.judge(&refused(Reason::Overloaded)), Next::Again);
        for _ in 1..MAX_INTERNAL {
            assert_eq!(tries.judge(&refused(Reason::Internal)), Next::Again);
        }
        assert_eq!(tries.judge(&refused(Reason::Internal)), Next::Tell);
    }
}
