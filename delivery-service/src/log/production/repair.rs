//! Puts a group whose log in Redis is not the archived one back to what is archived, with what has come back from devices after it.
//!
//! What of it can be believed is not judged here: see `repair_group.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use valise_proto::{DeviceId, GroupId, IdempotencyKey, Position, UserId};

use super::ProductionLog;
use crate::log::offers::{Frozen, Restoration};
use crate::log::postgres::ArchivedGroup;
use crate::log::postgres::lease::WriteError;
use crate::log::redis::{HeadRow, Restored};
use crate::log::{Head, StoreError, Window};

impl ProductionLog {
    /// See [`OrderedLog::frozen`](crate::log::OrderedLog::frozen). From then on this replica reads the group from the archive alone.
    pub(super) async fn what_is_certain(&self, group: GroupId) -> Result<Option<Frozen>, StoreError> {
        let Some((archived, hot)) = self.closed(group).await? else {
            return Ok(None);
        };
        // One that is only closed in Redis is being repaired, or was not to the end: then it is what is archived.
        if archived.head.frozen || hot.is_none() {
            self.archive.mark_regressed(&archived).await?;
            self.watch.add_regressed(group);
        }
        Ok(Some(Frozen {
            head: Head {
                frozen: true,
                ..archived.head
            },
            accepted_at: archived.accepted_at,
            windows: self.archive.all_windows(group).await?,
            abandoned: hot.map_or(Position::NONE, |row| row.head.position),
            offered: self.archive.newest_offer(group, None).await?,
            repaired: archived.repairs > 0,
        }))
    }

    /// A group that takes no writes, as the archive and as Redis know it.
    async fn closed(&self, group: GroupId) -> Result<Option<(ArchivedGroup, Option<HeadRow>)>, StoreError> {
        let Some(archived) = self.archive.group(group).await? else {
            return Ok(None);
        };
        let hot = self.hot.head_row(group).await?;
        let open = !archived.head.frozen && hot.as_ref().is_some_and(|row| !row.head.frozen);
        Ok((!open).then_some((archived, hot)))
    }

    /// See [`OrderedLog::repair`](crate::log::OrderedLog::repair). One that was interrupted can be done again.
    pub(super) async fn put_back(
        &self,
        group: GroupId,
        restoration: &Restoration,
    ) -> Result<Option<Head>, StoreError> {
        let Some((archived, hot)) = self.closed(group).await? else {
            return Ok(None);
        };
        // Marked first, so that nobody archives, trims or caches anything of it meanwhile.
        self.archive.mark_regressed(&archived).await?;
        let archived = self.add(archived, restoration).await?;
        let restored = self.restored(&archived).await?;
        if !self.hot.restore(restored, hot.as_ref()).await? {
            return Err(overtaken("its log in Redis has changed"));
        }
        self.archive.mark_repaired(&archived).await?;
        // Still frozen: from here on the archiver does not freeze it again.
        self.hot.set_frozen(group, false).await?;
        self.watch.add_repaired(group);
        // What is archived of the log does not say that it was ended.
        if let Some(reset) = self.archive.kept_reset(group).await? {
            self.hot.reset(group, reset.successor, reset.at).await?.ok();
        }
        Ok(Some(Head {
            frozen: false,
            ..archived.head
        }))
    }

    /// What came back, in the archive; the group as it stands then.
    async fn add(
        &self,
        archived: ArchivedGroup,
        restoration: &Restoration,
    ) -> Result<ArchivedGroup, StoreError> {
        match self.archive.restore(&archived, restoration).await {
            Ok(()) => {}
            Err(WriteError::Store(error)) => return Err(error),
            Err(error @ (WriteError::Stale | WriteError::Conflict)) => {
                return Err(overtaken(&error.to_string()));
            }
        }
        let now = self.archive.group(archived.group).await?;
        now.ok_or_else(|| StoreError("an archived group has gone".to_owned()))
    }

    /// All that the archive knows, closed for writes.
    async fn restored(&self, archived: &ArchivedGroup) -> Result<Restored, StoreError> {
        let group = archived.group;
        let info = self.archive.group_info(group).await?;
        // One of another epoch would let devices join what is no more; members go on without it, and the next commit brings one.
        let info = info.filter(|(.., commit)| *commit == archived.head.commit_position);
        let mut windows: BTreeMap<(DeviceId, UserId), Vec<Window>> = BTreeMap::new();
        for (user, device, window) in self.archive.all_windows(group).await? {
            windows.entry((device, user)).or_default().push(window);
        }
        Ok(Restored {
            group,
            row: HeadRow {
                head: Head {
                    frozen: true,
                    ..archived.head
                },
                accepted_at: archived.accepted_at,
                // Without it a repeat of the creation is told that the group exists, as it does.
                key: archived
                    .creation_key
                    .unwrap_or(IdempotencyKey::from_bytes([0; 16])),
            },
            group_info: info.map_or(Bytes::new(), |(info, ..)| info),
            windows: windows
                .into_iter()
                .map(|((device, user), windows)| (user, device, windows))
                .collect(),
        })
    }
}

fn overtaken(how: &str) -> StoreError {
    StoreError(format!("a repair was overtaken by another one: {how}"))
}
