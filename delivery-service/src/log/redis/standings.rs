//! Where a device stands in many groups: one script for each partition, all of them at once.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use redis::Value;
use valise_proto::{DeviceId, GroupId, Position};

use super::RedisLog;
use super::keys::Keys;
use super::partition::Partition;
use super::scripts::{STANDINGS, Store, text};
use super::value::{damaged, list, optional, tuple};
use super::wire::{EntryMeta, HeadRow, device_field, read_windows};
use crate::log::{Standing, StoreError};

/// Scripts that are under way at the same time.
const AT_ONCE: usize = 64;
/// Groups of one script: a server does nothing else meanwhile.
const TOGETHER: usize = 64;

/// A group and a position, with their place in the question.
type Asked = (usize, GroupId, Position);

impl RedisLog {
    /// See [`OrderedLog::standings`](crate::log::OrderedLog::standings). Entries that were trimmed are not at hand.
    pub(crate) async fn standings(
        &self,
        device: DeviceId,
        asked: &[(GroupId, Position)],
    ) -> Result<Vec<Standing>, StoreError> {
        let mut by_partition: BTreeMap<Partition, Vec<Asked>> = BTreeMap::new();
        for (place, &(group, position)) in asked.iter().enumerate() {
            by_partition
                .entry(Partition::of_group(&group))
                .or_default()
                .push((place, group, position));
        }
        let mut parts = Vec::new();
        for (partition, asked) in by_partition {
            parts.extend(asked.chunks(TOGETHER).map(|part| (partition, part.to_vec())));
        }
        let mut found: Vec<(usize, Standing)> = stream::iter(parts)
            .map(|(partition, part)| standings_of(&self.store, partition, device, part))
            .buffer_unordered(AT_ONCE)
            .try_concat()
            .await?;
        found.sort_unstable_by_key(|(place, _)| *place);
        Ok(found.into_iter().map(|(_, standing)| standing).collect())
    }
}

async fn standings_of(
    store: &Store,
    partition: Partition,
    device: DeviceId,
    asked: Vec<Asked>,
) -> Result<Vec<(usize, Standing)>, StoreError> {
    let keys = Keys::of(partition);
    let (mut names, mut arguments) = (vec![keys.heads()], vec![device_field(&device)]);
    for (_, group, position) in &asked {
        names.extend([keys.windows(group), keys.stream(group)]);
        arguments.push(group.as_bytes().to_vec());
        arguments.push(if *position == Position::NONE {
            Vec::new()
        } else {
            text(position.0)
        });
    }
    let answers = list(store.run(partition, &STANDINGS, names, arguments).await?)?;
    if answers.len() != asked.len() {
        return Err(damaged("standings"));
    }
    asked
        .into_iter()
        .zip(answers)
        .map(|((place, ..), answer)| Ok((place, read_standing(answer)?)))
        .collect()
}

fn read_standing(answer: Value) -> Result<Standing, StoreError> {
    let [head, windows, entry] = tuple(list(answer)?)?;
    let head = optional(head)?.map(|packed| HeadRow::read(&packed)).transpose()?;
    let windows = optional(windows)?
        .map(|packed| read_windows(&packed))
        .transpose()?;
    // One that cannot be read is as good as none here.
    let entry = optional(entry)?.and_then(|packed| EntryMeta::read(&packed).ok());
    Ok(Standing {
        head: head.map(|row| row.head),
        windows: windows.unwrap_or_default(),
        id: entry.map(|meta| meta.id),
    })
}
