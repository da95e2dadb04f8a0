//! Groups that are to be rejoined: fetches what the external commit is built on, once everything else has been read.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;
use valise_proto::delivery::v1::GetLogStandingRequest;
use valise_proto::{GroupId, Reason};

use super::Session;
use crate::engine::Engine;
use crate::transport::{Backoff, Failure};
use crate::{ByItself, Connection, Error, GroupStatus};

pub(super) async fn run(session: Arc<Session>) {
    let new_backoff = || Backoff::new(Duration::from_millis(100), Duration::from_mins(1));
    let mut backoff = new_backoff();
    let mut look = session.options.rejoin.other_devices == ByItself::Always;
    loop {
        // Never while the device still reads what it missed: an invitation may be among it.
        if !session.has_caught_up().await {
            return;
        }
        match session.rejoin_all(&mut look).await {
            Ok(true) => {
                backoff = new_backoff();
                session.rejoins.notified().await;
            }
            Ok(false) => tokio::time::sleep(backoff.step()).await,
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "groups could not be rejoined yet");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}

impl Session {
    /// Brings this device back into a group, or into one that it was never in (`elsewhere`), and waits until it is. Not while its log waits
    /// for repair: who leaves its place there cannot go on from it when the log is whole again.
    pub(crate) async fn rejoin(&self, group: GroupId, elsewhere: bool, span: Span) -> Result<(), Error> {
        if self.is_frozen(group).await? {
            return Err(Error::GroupNotActive(GroupStatus::LogRegressed));
        }
        self.engine.rejoin(group, elsewhere, span).await
    }

    /// Does the log of a group that stands still here wait for repair?
    async fn is_frozen(&self, group: GroupId) -> Result<bool, Error> {
        let cursor = self
            .engine
            .run(move |engine| engine.regressed_cursor(group))
            .await?;
        if cursor.is_none() {
            return Ok(false);
        }
        let request = GetLogStandingRequest {
            group_id: group.to_vec().into(),
            cursor,
        };
        match self.transport.get_log_standing(request).await {
            Ok(standing) => Ok(standing.frozen),
            // Repaired without the commit that has added this device: it may come in as another device of a member does.
            Err(Error::Refused(refusal)) if refusal.reason == Reason::NotAMember => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits; false once the client is closed.
    pub(super) async fn has_caught_up(&self) -> bool {
        let mut connection = self.connection.subscribe();
        connection
            .wait_for(|connection| *connection == Connection::Live)
            .await
            .is_ok()
    }

    /// Says whether nothing is left that has to be tried again.
    async fn rejoin_all(&self, look: &mut bool) -> Result<bool, Error> {
        if *look {
            let groups = self.groups_elsewhere().await?;
            self.engine.run(move |engine| engine.come_in(&groups)).await?;
            *look = false;
        }
        let mut all = true;
        for group in self.engine.run(Engine::due_rejoins).await? {
            match self.transport.group_info(group, true).await {
                Ok(current) => {
                    self.engine
                        .run(move |engine| engine.rejoin_with(group, &current))
                        .await?;
                }
                Err(Failure::Refused(refusal))
                    if !Failure::Refused(refusal.clone()).is_passing()
                        && !matches!(
                            refusal.reason,
                            // Of the device, not of the group.
                            Reason::DeviceRevoked | Reason::UserSuspended | Reason::UnknownDevice
                        ) =>
                {
                    self.engine
                        .run(move |engine| engine.rejoin_denied(group, refusal))
                        .await?;
                }
                Err(_) => all = false,
            }
        }
        Ok(all)
    }

    /// Groups of this user's other devices that this one has never heard of.
    pub(crate) async fn groups_elsewhere(&self) -> Result<Vec<GroupId>, Error> {
        let mut elsewhere = Vec::new();
        let listed = self.listed().await?;
        for group in listed.iter().filter(|group| !group.device_is_member) {
            let Ok(id) = GroupId::try_from(&*group.group_id) else {
                continue;
            };
            let standing = self.engine.run(move |engine| engine.standing(id)).await?;
            if standing.is_none() {
                elsewhere.push(id);
            }
        }
        Ok(elsewhere)
    }
}
