//! Everything that is read of one group. What was trimmed is not here: callers read it from the archive.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;
use valise_proto::{DeviceId, Epoch, GroupId, IdempotencyKey, Position};

use super::RedisLog;
use super::keys::{Keys, answer_field};
use super::partition::Partition;
use super::scripts::{FLOOR, HANDSHAKES, REPEAT, text};
use super::value::{damaged, list, number, optional, stream, string, tuple};
use super::wire::{EntryMeta, HeadRow, device_field, read_group_info, read_windows};
use crate::log::{Appended, Entry, Head, StoreError, Window};

/// Entries that are asked for first; how many more, their size tells.
const FIRST: usize = 32;
/// Most entries that are asked for at once.
const PAGE: usize = 512;
/// Bytes of handshakes that are asked for at once.
const HANDSHAKE_BYTES: u64 = 4 * 1024 * 1024;

/// An entry with its idempotency key: what the archive keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HotRow {
    pub(crate) entry: Arc<Entry>,
    pub(crate) key: IdempotencyKey,
}

fn hot_row(group: GroupId, position: u64, meta: &[u8], bytes: Vec<u8>) -> Result<HotRow, StoreError> {
    let meta = EntryMeta::read(meta)?;
    Ok(HotRow {
        entry: Arc::new(meta.entry(group, Position(position), Bytes::from(bytes))),
        key: meta.key,
    })
}

impl RedisLog {
    /// A group's head, with what else is kept there.
    pub(crate) async fn head_row(&self, group: GroupId) -> Result<Option<HeadRow>, StoreError> {
        let partition = Partition::of_group(&group);
        let command = redis::cmd("HGET")
            .arg(Keys::of(partition).heads())
            .arg(group.as_bytes())
            .take();
        optional(self.store.ask(partition, command).await?)?
            .map(|packed| HeadRow::read(&packed))
            .transpose()
    }

    /// See [`OrderedLog::head`](crate::log::OrderedLog::head). `None` is also said of a group whose head was lost, which cannot be
    /// written to; the archive knows better.
    pub(crate) async fn head(&self, group: GroupId) -> Result<Option<Head>, StoreError> {
        Ok(self.head_row(group).await?.map(|row| row.head))
    }

    /// See [`OrderedLog::repeat`](crate::log::OrderedLog::repeat).
    pub(crate) async fn repeat(
        &self,
        group: GroupId,
        key: IdempotencyKey,
        sender: Option<DeviceId>,
    ) -> Result<Option<Appended>, StoreError> {
        let partition = Partition::of_group(&group);
        let keys = Keys::of(partition);
        let names = vec![keys.answers(&group), keys.stream(&group)];
        let arguments = vec![answer_field(&key, sender)];
        let found = list(self.store.run(partition, &REPEAT, names, arguments).await?)?;
        if found.is_empty() {
            return Ok(None);
        }
        let [position, meta] = tuple(found)?;
        let meta = EntryMeta::read(&string(meta)?)?;
        Ok(Some(Appended {
            position: Position(number(position)?),
            id: meta.id,
            epoch: meta.epoch_after(),
            at: meta.accepted_at,
            repeated: true,
        }))
    }

    /// See [`OrderedLog::winner`](crate::log::OrderedLog::winner).
    pub(crate) async fn winner(&self, group: GroupId, epoch: Epoch) -> Result<Option<Position>, StoreError> {
        let partition = Partition::of_group(&group);
        let command = redis::cmd("HGET")
            .arg(Keys::of(partition).commits(&group))
            .arg(epoch.0)
            .take();
        match self.store.ask(partition, command).await? {
            Value::Nil => Ok(None),
            position => Ok(Some(Position(number(position)?))),
        }
    }

    /// See [`OrderedLog::read`](crate::log::OrderedLog::read). The first entry is not the next one where that was trimmed; after it there
    /// is no gap.
    pub(crate) async fn read(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let rows = self.hot_rows(group, after, max_entries, max_bytes).await?;
        Ok(rows.into_iter().map(|row| row.entry).collect())
    }

    /// As [`RedisLog::read`], with idempotency keys.
    pub(crate) async fn hot_rows(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<HotRow>, StoreError> {
        let mut rows: Vec<HotRow> = Vec::new();
        let (mut size, mut next) = (0, Position(after.0.saturating_add(1)));
        while rows.len() < max_entries {
            let left = max_bytes.saturating_sub(size);
            let average = if rows.is_empty() { 0 } else { size / rows.len() };
            let guess = if rows.is_empty() {
                FIRST.min(max_bytes / 64)
            } else {
                left / average.max(64)
            };
            let count = guess.clamp(1, PAGE).min(max_entries - rows.len());
            let page = self.page(group, next, count).await?;
            let complete = page.len() < count;
            for row in page {
                let position = row.entry.position;
                let bytes = row.entry.bytes.len();
                // A gap after the first one was trimmed meanwhile.
                if !rows.is_empty() && (position != next || size + bytes > max_bytes) {
                    return Ok(rows);
                }
                size += bytes;
                next = position.next();
                rows.push(row);
            }
            if complete || size >= max_bytes {
                break;
            }
        }
        Ok(rows)
    }

    async fn page(&self, group: GroupId, from: Position, count: usize) -> Result<Vec<HotRow>, StoreError> {
        let partition = Partition::of_group(&group);
        let command = redis::cmd("XRANGE")
            .arg(Keys::of(partition).stream(&group))
            .arg(format!("{}-0", from.0))
            .arg("+")
            .arg("COUNT")
            .arg(count)
            .take();
        let items = stream(self.store.ask(partition, command).await?)?;
        items
            .into_iter()
            .map(|item| {
                let [meta, bytes] = item.values.try_into().map_err(|_| damaged("entry"))?;
                hot_row(group, item.id.0, &meta, bytes)
            })
            .collect()
    }

    /// See [`OrderedLog::handshakes`](crate::log::OrderedLog::handshakes). As for entries, what was trimmed is missing at the front.
    pub(crate) async fn handshakes(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let partition = Partition::of_group(&group);
        let keys = Keys::of(partition);
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        while entries.len() < max_entries {
            let last = entries.last().map_or(after, |entry| entry.position);
            let names = vec![keys.handshakes(&group), keys.stream(&group)];
            let arguments = vec![
                text(last.0),
                text((max_entries - entries.len()).min(PAGE) as u64),
                text(HANDSHAKE_BYTES),
            ];
            let page = list(self.store.run(partition, &HANDSHAKES, names, arguments).await?)?;
            if page.is_empty() {
                break;
            }
            for item in page {
                let [position, meta, bytes] = tuple(list(item)?)?;
                let row = hot_row(group, number(position)?, &string(meta)?, string(bytes)?)?;
                entries.push(row.entry);
            }
        }
        Ok(entries)
    }

    /// See [`OrderedLog::group_info`](crate::log::OrderedLog::group_info).
    pub(crate) async fn group_info(
        &self,
        group: GroupId,
    ) -> Result<Option<(Bytes, Epoch, Position)>, StoreError> {
        let partition = Partition::of_group(&group);
        let command = redis::cmd("GET")
            .arg(Keys::of(partition).group_info(&group))
            .take();
        optional(self.store.ask(partition, command).await?)?
            .map(read_group_info)
            .transpose()
    }

    /// See [`OrderedLog::windows`](crate::log::OrderedLog::windows).
    pub(crate) async fn windows(&self, group: GroupId, device: DeviceId) -> Result<Vec<Window>, StoreError> {
        let partition = Partition::of_group(&group);
        let command = redis::cmd("HGET")
            .arg(Keys::of(partition).windows(&group))
            .arg(device_field(&device))
            .take();
        match optional(self.store.ask(partition, command).await?)? {
            Some(packed) => read_windows(&packed),
            None => Ok(Vec::new()),
        }
    }

    /// The position of the oldest entry that is here; `None` where none is.
    pub(crate) async fn floor(&self, group: GroupId) -> Result<Option<Position>, StoreError> {
        let partition = Partition::of_group(&group);
        let names = vec![Keys::of(partition).stream(&group)];
        let floor = self.store.run(partition, &FLOOR, names, Vec::new()).await?;
        Ok(match floor {
            Value::Nil => None,
            floor => Some(Position(number(floor)?)),
        })
    }
}
