//! Waiting until this device knows what the service knows.

use valise_proto::{GroupId, Position, Reason};

use super::Session;
use crate::{Connection, Error, OfflineReason};

/// What has to be applied: a group, as far as that position; or, of an invitation that has not come, whatever it leads to.
type Target = (GroupId, Option<Position>);

impl Session {
    /// Waits until everything that the service has now is applied, and the outbox is empty.
    pub(crate) async fn synced(&self) -> Result<(), Error> {
        self.live().await?;
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

    async fn live(&self) -> Result<(), Error> {
        let mut connection = self.connection.subscribe();
        let now = connection
            .wait_for(|connection| match connection {
                Connection::Live => true,
                Connection::Offline { reason } => {
                    matches!(reason, OfflineReason::Displaced | OfflineReason::Closed)
                }
                Connection::CatchingUp => false,
            })
            .await
            .map_err(|_| Error::Closed)?;
        if *now == Connection::Live {
            Ok(())
        } else {
            Err(Error::Closed)
        }
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
