//! Replay: sends what the log and the inbox have, page by page.

use std::sync::Arc;

use valise_proto::{GroupId, Position, Reason, Refusal};

use super::DeviceStream;
use crate::grpc;
use crate::log::{Entry, StoreError};
use crate::read_entries::{trimmed, window_after};
use crate::subscribe::pages::Page;

/// Entries that are read at once while catching up.
const READ_ENTRIES: usize = 200;
/// And their bytes: less than a window, so that streams that begin together read the same.
const READ_BYTES: usize = 1024 * 1024;
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
        let known = followed.known;
        let entries = self.read(group, sent, known).await?;
        if entries.is_empty() {
            // As far as anybody knows; whatever comes now is in the mailbox.
            if let Some(followed) = self.groups.get_mut(&group) {
                followed.behind = false;
            }
            return Ok(());
        }
        // Roster before entries would miss a removal in between; so it is asked for afterwards.
        let windows = self.delivery.log.windows(group, self.subscriber.device).await?;
        let Some(followed) = self.groups.get_mut(&group) else {
            return Ok(());
        };
        followed.until = window_after(&windows, sent).and_then(|window| window.until);
        // Whether that was all, the next read tells.
        followed.behind = true;
        if let Some(first) = trimmed(&entries, sent) {
            // What the device missed is gone: it comes back by a new join.
            self.drop_group(group);
            self.say(grpc::group_ended(group, Reason::PositionTrimmed, first))
                .await?;
            return self.judge_target().await;
        }
        for entry in &*entries {
            if !self.groups.contains_key(&group) {
                break;
            }
            self.send_entry(entry).await?;
        }
        Ok(())
    }

    /// The next page. The log has entries up to `known` at least.
    async fn read(
        &self,
        group: GroupId,
        after: Position,
        known: Position,
    ) -> Result<Arc<[Arc<Entry>]>, StoreError> {
        let page = Page {
            group,
            after,
            max_entries: self.window.room().min(READ_ENTRIES),
            max_bytes: self.window.room_bytes().min(READ_BYTES),
            news: self.delivery.fan_out.news_of(group),
        };
        let (log, pages) = (&self.delivery.log, &self.delivery.pages);
        let read = || log.read(group, after, page.max_entries, page.max_bytes);
        let entries = pages.get(page, read()).await?;
        if entries.is_empty() && after < known {
            // Others were there before the news, which this stream has asked for.
            return Ok(read().await?.into());
        }
        Ok(entries)
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
