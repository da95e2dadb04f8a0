//! Puts a group whose log in Redis is not the archived one back to what is archived.
//!
//! What was answered after the newest archived entry, and lost, is not brought back: nobody here knows it. The devices that have seen it
//! notice by its position and id.

use std::collections::BTreeMap;

use bytes::Bytes;
use valise_proto::{DeviceId, GroupId, IdempotencyKey, UserId};

use super::ProductionLog;
use crate::log::postgres::ArchivedGroup;
use crate::log::redis::{HeadRow, Restored};
use crate::log::{Head, StoreError, Window};

impl ProductionLog {
    /// See [`OrderedLog::repair`](crate::log::OrderedLog::repair). One that was interrupted can be done again.
    pub(super) async fn put_back(&self, group: GroupId) -> Result<Option<Head>, StoreError> {
        let Some(archived) = self.archive.group(group).await? else {
            return Ok(None);
        };
        let hot = self.hot.head(group).await?;
        if !archived.head.frozen && hot.is_some_and(|head| !head.frozen) {
            return Ok(None);
        }
        // Marked first, so that nobody archives, trims or caches anything of it meanwhile.
        self.archive.mark_regressed(&archived).await?;
        self.hot.restore(self.restored(&archived).await?).await?;
        self.archive.mark_repaired(&archived).await?;
        // Still frozen: from here on the archiver does not freeze it again.
        self.hot.set_frozen(group, false).await?;
        Ok(Some(Head {
            frozen: false,
            ..archived.head
        }))
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
