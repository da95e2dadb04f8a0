//! What the engine asks for besides sending and following.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use valise_proto::delivery::v1::ReportCommitRequest;
use valise_proto::{GroupId, Reason, Refusal};

use super::Session;
use crate::Error;
use crate::engine::Chore;
use crate::store::ReportRow;
use crate::transport::{Backoff, Failure};

/// How often the service is asked for one GroupInfo.
const COMPARISON_TRIES: u32 = 5;

pub(super) async fn run(session: Arc<Session>, mut chores: mpsc::UnboundedReceiver<Chore>) {
    // Once for all epochs that begin while it is waited for.
    let comparing = Arc::new(Mutex::new(HashSet::<GroupId>::new()));
    while let Some(chore) = chores.recv().await {
        match chore {
            Chore::TopUp => session.top_up.notify_one(),
            Chore::Rejoin => session.rejoins.notify_one(),
            Chore::Regressed => session.regressed.notify_one(),
            Chore::FollowReset => session.resets.notify_one(),
            Chore::AddUsers => session.adds.notify_one(),
            Chore::Expire => session.expiring.notify_one(),
            Chore::Scrub => session.scrubbing.notify_one(),
            Chore::CommitProposals { group, epoch, after } => {
                let engine = session.engine.clone();
                session.spawn(async move {
                    tokio::time::sleep(after).await;
                    if let Err(error) = engine
                        .run(move |engine| engine.commit_proposals(group, epoch))
                        .await
                    {
                        tracing::error!(%error, %group, "proposals could not be committed");
                    }
                });
            }
            Chore::UpdateKeys { group, after } => {
                let engine = session.engine.clone();
                session.spawn(async move {
                    tokio::time::sleep(after).await;
                    let updated = engine.run(move |engine| engine.update_keys(group)).await;
                    if let Err(error) = updated {
                        // Upkeep finds it due.
                        tracing::warn!(%error, %group, "new keys after joining are tried again");
                    }
                });
            }
            Chore::CompareGroupInfo { group, after } => {
                if comparing.lock().insert(group) {
                    let (session, comparing) = (Arc::clone(&session), Arc::clone(&comparing));
                    session.clone().spawn(async move {
                        tokio::time::sleep(after).await;
                        comparing.lock().remove(&group);
                        session.compare_group_info(group).await;
                    });
                }
            }
            Chore::Report(report) => {
                let session = Arc::clone(&session);
                session
                    .clone()
                    .spawn(async move { session.report_commit(report).await });
            }
        }
    }
}

impl Session {
    /// Tells the service of a commit until it has answered: members and administrators must hear of it, and this device may hold the only proof.
    async fn report_commit(&self, report: ReportRow) {
        let ReportRow {
            group,
            position,
            fault,
        } = report;
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(10));
        loop {
            let request = ReportCommitRequest {
                group_id: group.to_vec().into(),
                position: position.0,
                fault,
            };
            let Err(error) = self.transport.report_commit(request).await else {
                break;
            };
            // The user may be let in again, and the log repaired.
            let passes = |refusal: &Refusal| {
                matches!(
                    refusal.reason,
                    Reason::UserSuspended | Reason::UnknownDevice | Reason::LogRegressed
                ) || Failure::Refused(refusal.clone()).is_passing()
            };
            let final_refusal = matches!(&error, Error::Refused(refusal) if !passes(refusal));
            tracing::warn!(%error, %group, %position, "a bad commit could not be reported");
            if final_refusal {
                break;
            }
            tokio::time::sleep(backoff.step()).await;
        }
        let done = self.engine.run(move |engine| engine.reported(&report)).await;
        if let Err(error) = done {
            tracing::warn!(%error, %group, %position, "that a bad commit was reported could not be noted");
        }
    }

    /// What the service gives to those who come into a group, compared with what this device knows.
    async fn compare_group_info(&self, group: GroupId) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        let mut tries = 0;
        let current = loop {
            tries += 1;
            match self.transport.group_info(group, false).await {
                Ok(current) => break current,
                Err(failure) if failure.is_passing() && tries < COMPARISON_TRIES => {
                    tokio::time::sleep(backoff.step()).await;
                }
                // It is no member any more; or the next epoch's will be compared.
                Err(_) => return,
            }
        };
        let compared = self
            .engine
            .run(move |engine| engine.compare_group_info(group, &current))
            .await;
        if let Err(error) = compared {
            tracing::warn!(%error, %group, "the GroupInfo that the service gives out could not be compared");
        }
    }
}
