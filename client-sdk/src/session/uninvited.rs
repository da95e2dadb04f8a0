//! Groups that this device is a member of and has never heard of: an invitation is kept for as long as entries are, so one that was away
//! for longer may have lost it. It comes in as one that lost its place does, by an external commit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use valise_proto::GroupId;

use super::Session;
use crate::transport::Backoff;
use crate::{ByItself, Connection, Error};

pub(super) async fn run(session: Arc<Session>) {
    if session.options.rejoin.lost != ByItself::Always {
        return;
    }
    let new_backoff = || Backoff::new(Duration::from_secs(1), Duration::from_mins(10));
    let mut backoff = new_backoff();
    let mut connection = session.connection.subscribe();
    // Each time that the device is in touch again: while it is, it hears of everything.
    while session.has_caught_up().await {
        match session.come_in_uninvited().await {
            Ok(()) => backoff = new_backoff(),
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "groups without an invitation are looked for again later");
                tokio::time::sleep(backoff.step()).await;
                continue;
            }
        }
        if connection.wait_for(|now| *now != Connection::Live).await.is_err() {
            return;
        }
    }
}

impl Session {
    async fn come_in_uninvited(&self) -> Result<(), Error> {
        let before = self.never_heard_of().await?;
        if before.is_empty() {
            return Ok(());
        }
        // An invitation goes to the inbox by itself, and may come later than the membership is known.
        tokio::time::sleep(self.options.rejoin.invitation_wait).await;
        let still = self.never_heard_of().await?;
        let groups: Vec<GroupId> = still.intersection(&before).copied().collect();
        if groups.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            count = groups.len(),
            "invitations are gone: coming in without them"
        );
        self.engine.run(move |engine| engine.come_in(&groups)).await
    }

    /// As the service says: it cannot make the device a member that way, only show it what it is one of.
    async fn never_heard_of(&self) -> Result<HashSet<GroupId>, Error> {
        let mut unknown = HashSet::new();
        let listed = self.listed().await?;
        for group in listed.iter().filter(|group| group.device_is_member) {
            let Ok(id) = GroupId::try_from(&*group.group_id) else {
                continue;
            };
            let standing = self.engine.run(move |engine| engine.standing(id)).await?;
            if standing.is_none() {
                unknown.insert(id);
            }
        }
        Ok(unknown)
    }
}
