//! Replay: sends what the log and the inbox have, page by page.

use valise_proto::{GroupId, Reason, Refusal};

use super::DeviceStream;
use crate::grpc;
use crate::read_entries::{trimmed, window_after};

/// Entries that are read at once while catching up.
const READ_ENTRIES: usize = 200;
/// Inbox items that are read at once: each may be a Welcome of up to 2 MiB.
const READ_INBOX: usize = 4;

impl DeviceStream {
    /// Sends what the log has and the window allows.
    pub(super) async fn pump(&mut self) -> Result<(), Refusal> {
        self.pump_inbox().await?;
        while self.window.is_open() {
            let behind: Vec<GroupId> = self
                .groups
                .iter()
                .filter(|(_, followed)| followed.behind)
                .map(|(group, _)| *group)
                .collect();
            if behind.is_empty() {
                break;
            }
            // One read each, so that a long log does not keep the others waiting.
            for group in behind {
                if self.window.is_open() {
                    self.pump_group(group).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn pump_group(&mut self, group: GroupId) -> Result<(), Refusal> {
        // Pages may follow each other for long.
        self.judge_subscriber()?;
        let Some(followed) = self.groups.get_mut(&group) else {
            return Ok(());
        };
        let sent = followed.sent;
        let max = self.window.room().min(READ_ENTRIES);
        let entries = self
            .delivery
            .log
            .read(group, sent, max, self.window.room_bytes())
            .await?;
        // Roster before entries would miss a removal in between; so it is asked for afterwards.
        let windows = self.delivery.log.windows(group, self.subscriber.device).await?;
        let Some(followed) = self.groups.get_mut(&group) else {
            return Ok(());
        };
        followed.until = window_after(&windows, sent).and_then(|window| window.until);
        // Whether that was all, the next read tells.
        followed.behind = !entries.is_empty();
        if let Some(first) = trimmed(&entries, sent) {
            // What the device missed is gone: it comes back by a new join.
            self.drop_group(group);
            self.say(grpc::group_ended(group, Reason::PositionTrimmed, first))
                .await?;
            return self.judge_target().await;
        }
        for entry in &entries {
            if !self.groups.contains_key(&group) {
                break;
            }
            self.send_entry(entry).await?;
        }
        Ok(())
    }

    pub(super) async fn pump_inbox(&mut self) -> Result<(), Refusal> {
        while self.inbox.news && self.inbox.has_room() {
            self.judge_subscriber()?;
            let items = self
                .delivery
                .log
                .read_inbox(self.subscriber.device, self.inbox.last(), READ_INBOX)
                .await?;
            if items.is_empty() {
                self.inbox.news = false;
                self.judge_target().await?;
            }
            for item in items {
                self.inbox.sent(item.number);
                self.say(grpc::inbox_item(item)).await?;
            }
        }
        Ok(())
    }
}
