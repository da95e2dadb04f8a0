//! The groups of a user: the list is the relay's, the truth is each group's windows.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use valise_proto::{DeviceId, GroupId, UserId};

use super::RedisLog;
use super::keys::Keys;
use super::partition::Partition;
use super::scripts::USER_GROUP;
use super::value::{damaged, number_or_zero, optional, pairs, tuple};
use super::wire::{HeadRow, device_field, read_windows, user_field};
use crate::log::{Membership, StoreError};

/// Groups that are looked at together.
const AT_ONCE: usize = 64;

impl RedisLog {
    /// See [`OrderedLog::memberships`](crate::log::OrderedLog::memberships). A group of which the user has just become a member may be
    /// missing for a moment.
    pub(crate) async fn memberships(
        &self,
        user: &UserId,
        device: DeviceId,
        after: Option<GroupId>,
        max: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let partition = Partition::of_user(user);
        let command = redis::cmd("HGETALL")
            .arg(Keys::of(partition).user_groups(user))
            .take();
        let mut listed = Vec::new();
        for (group, joined_at) in pairs(self.store.ask(partition, command).await?)? {
            let group = GroupId::try_from(group.as_slice()).map_err(|_| damaged("group id"))?;
            listed.push((group, joined_at));
        }
        listed.retain(|(group, _)| after.is_none_or(|after| *group > after));
        listed.sort_unstable();
        stream::iter(listed)
            .map(|(group, joined_at)| self.membership(user, device, group, joined_at))
            .buffered(AT_ONCE)
            .try_filter_map(async |membership| Ok(membership))
            .take(max)
            .try_collect()
            .await
    }

    async fn membership(
        &self,
        user: &UserId,
        device: DeviceId,
        group: GroupId,
        joined_at: Vec<u8>,
    ) -> Result<Option<Membership>, StoreError> {
        let partition = Partition::of_group(&group);
        let keys = Keys::of(partition);
        let windows = redis::cmd("HMGET")
            .arg(keys.windows(&group))
            .arg(user_field(user))
            .arg(device_field(&device))
            .take();
        let head = redis::cmd("HGET").arg(keys.heads()).arg(group.as_bytes()).take();
        let [windows, head] = self.store.ask_all(partition, [windows, head]).await?;
        let [open, own] = tuple(super::value::list(windows)?)?;
        if number_or_zero(open)? == 0 {
            self.drop_from_list(user, group, joined_at).await;
            return Ok(None);
        }
        let Some(head) = optional(head)? else {
            // Lost: what its epoch is, nobody here knows.
            tracing::error!(%group, "a group has members but no head");
            return Ok(None);
        };
        let own = match optional(own)? {
            Some(own) => read_windows(&own)?,
            None => Vec::new(),
        };
        let head = HeadRow::read(&head)?.head;
        if head.reset {
            // It goes on under another id.
            return Ok(None);
        }
        Ok(Some(Membership {
            group,
            epoch: head.epoch,
            device_is_member: own.iter().any(|window| window.until.is_none()),
        }))
    }

    /// All of the user's devices have left. If one has joined again since, the group stays.
    pub(super) async fn drop_from_list(&self, user: &UserId, group: GroupId, joined_at: Vec<u8>) {
        let partition = Partition::of_user(user);
        let names = vec![Keys::of(partition).user_groups(user)];
        let arguments = vec![group.to_vec(), joined_at, b"left".to_vec()];
        if let Err(error) = self.store.run(partition, &USER_GROUP, names, arguments).await {
            tracing::debug!(%error, "a group that was left stays on a list for now");
        }
    }
}
