//! What the engine asks for besides sending and following.

use std::sync::Arc;

use tokio::sync::mpsc;
use valise_proto::delivery::v1::ReportCommitRequest;

use super::Session;
use crate::engine::Chore;

pub(super) async fn run(session: Arc<Session>, mut chores: mpsc::UnboundedReceiver<Chore>) {
    while let Some(chore) = chores.recv().await {
        match chore {
            Chore::TopUp => session.top_up.notify_one(),
            Chore::Rejoin => session.rejoins.notify_one(),
            Chore::Regressed => session.regressed.notify_one(),
            Chore::FollowReset => session.resets.notify_one(),
            Chore::Expire => session.expiring.notify_one(),
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
            Chore::Report {
                group,
                position,
                fault,
            } => {
                let transport = session.transport.clone();
                session.spawn(async move {
                    let request = ReportCommitRequest {
                        group_id: group.to_vec().into(),
                        position: position.0,
                        fault: fault.into(),
                    };
                    if let Err(error) = transport.report_commit(request).await {
                        tracing::warn!(%error, %group, %position, "a bad commit could not be reported");
                    }
                });
            }
        }
    }
}
