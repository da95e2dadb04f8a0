//! Devices' inboxes, and the lists of users' groups: what is kept apart from the groups, in partitions of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use valise_proto::{DeviceId, EntryId, GroupId};

use super::RedisLog;
use super::keys::Keys;
use super::partition::Partition;
use super::scripts::{INBOX_ACKNOWLEDGE, INBOX_PUT, Store, WELCOME_TAKEN, text, unknown};
use super::value::{list, number_or_zero, optional, stream, string};
use super::wire::InboxRow;
use crate::log::{InboxContent, InboxItem, Notice, StoreError};

/// Partitions that are asked at the same time.
const AT_ONCE: usize = 16;

/// Something for an inbox, which knows it by its mark for a day.
pub(super) struct Delivery {
    pub(super) device: DeviceId,
    pub(super) mark: Vec<u8>,
    /// By whose clock a day is measured: that of a notice's caller; `None` for the server's, where exactly once matters.
    pub(super) at: Option<u64>,
    pub(super) content: Vec<u8>,
}

/// Puts items into inboxes, each once. Whoever does not take them within the time for which they are `kept` misses them.
pub(super) async fn put(store: &Store, kept: Duration, deliveries: Vec<Delivery>) -> Result<(), StoreError> {
    let mut by_partition: BTreeMap<Partition, Vec<Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        by_partition
            .entry(Partition::of_device(&delivery.device))
            .or_default()
            .push(delivery);
    }
    stream::iter(by_partition)
        .map(|(partition, deliveries)| put_into(store, kept, partition, deliveries))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn put_into(
    store: &Store,
    kept: Duration,
    partition: Partition,
    deliveries: Vec<Delivery>,
) -> Result<(), StoreError> {
    let keys = Keys::of(partition);
    let mut names = keys.numbering();
    names.extend([keys.channel(), keys.inbox_heads()]);
    let mut arguments = Vec::with_capacity(1 + deliveries.len() * 4);
    arguments.push(text(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)));
    for delivery in deliveries {
        names.push(keys.inbox(&delivery.device));
        names.push(match delivery.at {
            Some(_) => keys.notices(&delivery.device),
            None => keys.welcomes(&delivery.device),
        });
        arguments.push(delivery.device.as_uuid().as_bytes().to_vec());
        arguments.push(delivery.mark);
        arguments.push(delivery.at.map(text).unwrap_or_default());
        arguments.push(delivery.content);
    }
    store.run(partition, &INBOX_PUT, names, arguments).await?;
    Ok(())
}

impl RedisLog {
    /// See [`OrderedLog::notify`](crate::log::OrderedLog::notify).
    pub(crate) async fn notify(&self, notices: Vec<Notice>) -> Result<(), StoreError> {
        let deliveries = notices.into_iter().map(|notice| {
            let row = InboxRow::LowStock {
                cipher_suite: notice.cipher_suite,
                one_time: notice.one_time,
            };
            Delivery {
                device: notice.device,
                mark: notice.deduplication_key.into_bytes(),
                at: Some(notice.at),
                content: row.pack(notice.at),
            }
        });
        put(&self.store, self.inbox_kept, deliveries.collect())
            .await
            .map_err(unknown)
    }

    /// See [`OrderedLog::newest_inbox`](crate::log::OrderedLog::newest_inbox).
    pub(crate) async fn newest_inbox(&self, device: DeviceId) -> Result<u64, StoreError> {
        let partition = Partition::of_device(&device);
        let command = redis::cmd("HGET")
            .arg(Keys::of(partition).inbox_heads())
            .arg(device.as_uuid().as_bytes())
            .take();
        number_or_zero(self.store.ask(partition, command).await?)
    }

    /// See [`OrderedLog::read_inbox`](crate::log::OrderedLog::read_inbox). A Welcome that was kept for as long as entries are
    /// and is gone is passed over.
    pub(crate) async fn read_inbox(
        &self,
        device: DeviceId,
        after: u64,
        max: usize,
    ) -> Result<Vec<InboxItem>, StoreError> {
        let mut items = Vec::new();
        let mut after = after;
        while items.len() < max {
            let wanted = max - items.len();
            let rows = self.inbox_rows(device, after, wanted).await?;
            let (Some((newest, ..)), count) = (rows.last(), rows.len()) else {
                break;
            };
            after = *newest;
            let page: Vec<Option<InboxItem>> = stream::iter(rows)
                .map(|(number, row, accepted_at)| self.inbox_item(number, row, accepted_at))
                .buffered(AT_ONCE)
                .try_collect()
                .await?;
            items.extend(page.into_iter().flatten());
            if count < wanted {
                break;
            }
        }
        Ok(items)
    }

    async fn inbox_rows(
        &self,
        device: DeviceId,
        after: u64,
        max: usize,
    ) -> Result<Vec<(u64, InboxRow, u64)>, StoreError> {
        let partition = Partition::of_device(&device);
        let command = redis::cmd("XRANGE")
            .arg(Keys::of(partition).inbox(&device))
            .arg(format!("{}-0", after.saturating_add(1)))
            .arg("+")
            .arg("COUNT")
            .arg(max)
            .take();
        let rows = stream(self.store.ask(partition, command).await?)?;
        rows.into_iter()
            .map(|item| {
                let (row, accepted_at) = InboxRow::read(item.values.first().map_or(&[], Vec::as_slice))?;
                Ok((item.id.0, row, accepted_at))
            })
            .collect()
    }

    async fn inbox_item(
        &self,
        number: u64,
        row: InboxRow,
        accepted_at: u64,
    ) -> Result<Option<InboxItem>, StoreError> {
        let content = match row {
            InboxRow::Welcome { group, epoch, commit } => {
                let Some(welcome) = self.welcome(&group, &commit.1).await? else {
                    return Ok(None);
                };
                InboxContent::Welcome {
                    welcome,
                    group,
                    epoch,
                    commit,
                }
            }
            InboxRow::LowStock {
                cipher_suite,
                one_time,
            } => InboxContent::LowStock {
                cipher_suite,
                one_time,
            },
            InboxRow::GroupReset(reset) => InboxContent::GroupReset(reset),
        };
        Ok(Some(InboxItem {
            number,
            content,
            accepted_at,
        }))
    }

    async fn welcome(&self, group: &GroupId, commit: &EntryId) -> Result<Option<Bytes>, StoreError> {
        let partition = Partition::of_group(group);
        let command = redis::cmd("HGET")
            .arg(Keys::of(partition).welcome(group, *commit))
            .arg("")
            .take();
        let welcome = optional(self.store.ask(partition, command).await?)?;
        Ok(welcome.map(Bytes::from))
    }

    /// Deletes the items of a device's inbox up to a number (0: none).
    pub(crate) async fn acknowledge_inbox(&self, device: DeviceId, number: u64) -> Result<(), StoreError> {
        if number == 0 {
            return Ok(());
        }
        let partition = Partition::of_device(&device);
        let keys = Keys::of(partition);
        let names = vec![keys.inbox(&device), keys.inbox_changes()];
        let arguments = vec![
            device.as_uuid().as_bytes().to_vec(),
            text(number),
            text(number.saturating_add(1)),
        ];
        let gone = self
            .store
            .run(partition, &INBOX_ACKNOWLEDGE, names, arguments)
            .await?;
        let mut taken = Vec::new();
        for row in list(gone)? {
            if let (InboxRow::Welcome { group, commit, .. }, _) = InboxRow::read(&string(row)?)? {
                taken.push((group, commit.1));
            }
        }
        if !taken.is_empty() {
            let store = self.store.clone();
            self.tasks
                .spawn(self.stopping.clone().run_until_cancelled_owned(async move {
                    for (group, commit) in taken {
                        welcome_taken(&store, device, &group, &commit).await;
                    }
                }));
        }
        Ok(())
    }
}

/// What fails here goes with time.
async fn welcome_taken(store: &Store, device: DeviceId, group: &GroupId, commit: &EntryId) {
    let partition = Partition::of_group(group);
    let names = vec![Keys::of(partition).welcome(group, *commit)];
    let arguments = vec![device.as_uuid().as_bytes().to_vec()];
    if let Err(error) = store.run(partition, &WELCOME_TAKEN, names, arguments).await {
        tracing::debug!(%error, "a welcome that was taken stays until its time is over");
    }
}
