//! Waiting until this device knows what the service knows.

use valise_proto::{GroupId, Position, Reason, Refusal};

use super::Session;
use crate::{Connection, Error, OfflineReason};

/// What has to be applied: a group, as far as that position; or, of an invitation that has not come, whatever it leads to.
type Target = (GroupId, Option<Position>);

impl Session {
    /// Waits until everything that the service has now is applied, and the outbox is empty; or until that will not come.
    pub(crate) async fn synced(&self) -> Result<(), Error> {
        tokio::select! {
            error = self.refused() => Err(error),
            reached = self.reach_all() => reached,
        }
    }

    async fn reach_all(&self) -> Result<(), Error> {
        if !self.has_caught_up().await {
            return Err(Error::Closed);
        }
        let targets = self.targets().await?;
        self.read_others.notify_one();
        let mut progress = self.progress.clone();
        loop {
            progress.borrow_and_update();
            if self.reached(targets.clone()).await? {
                return Ok(());
            }
            progress.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// Resolves when nothing more comes.
    async fn refused(&self) -> Error {
        let mut connection = self.connection.subscribe();
        let refused = connection
            .wait_for(|connection| refusal(connection).is_some())
            .await
            .map(|connection| connection.clone());
        refused
            .ok()
            .and_then(|connection| refusal(&connection))
            .unwrap_or(Error::Closed)
    }

    async fn targets(&self) -> Result<Vec<Target>, Error> {
        let mut targets = Vec::new();
        let listed = self.listed().await?;
        for group in listed.iter().filter(|group| group.device_is_member) {
            let Ok(id) = GroupId::try_from(&*group.group_id) else {
                continue;
            };
            let standing = self.engine.run(move |engine| engine.standing(id)).await?;
            match standing {
                None => targets.push((id, None)),
                Some((status, position)) if status.is_followed() => {
                    targets.push((id, Some(self.head(id, position).await?)));
                }
                Some(_) => {}
            }
        }
        Ok(targets)
    }

    /// The last entry of a group that this device may read; of one whose log is trimmed beyond its place, the first that is kept: the device
    /// gets there, or past it, by coming back.
    async fn head(&self, group: GroupId, position: Position) -> Result<Position, Error> {
        match self.transport.entries_after(group, position, 1).await {
            Ok(head) => Ok(Position(head.last_position)),
            Err(Error::Refused(refusal)) if refusal.reason == Reason::PositionTrimmed => {
                Ok(refusal.number("first_position").map_or(position.next(), Position))
            }
            Err(error) => Err(error),
        }
    }

    async fn reached(&self, targets: Vec<Target>) -> Result<bool, Error> {
        self.engine
            .run(move |engine| {
                for (group, target) in targets {
                    let reached = match engine.standing(group)? {
                        None => false,
                        Some((status, position)) => {
                            !status.is_followed() || target.is_none_or(|target| position >= target)
                        }
                    };
                    if !reached {
                        return Ok(false);
                    }
                }
                engine.outbox_is_empty()
            })
            .await
    }
}

/// Why this client hears no more by waiting, where that is so.
fn refusal(connection: &Connection) -> Option<Error> {
    let Connection::Offline { reason } = connection else {
        return None;
    };
    match reason {
        OfflineReason::Refused(reason) => Some(Refusal::new(*reason).into()),
        OfflineReason::Displaced => Some(Refusal::new(Reason::Displaced).into()),
        OfflineReason::Closed => Some(Error::Closed),
        OfflineReason::Starting | OfflineReason::Unreachable => None,
    }
}
