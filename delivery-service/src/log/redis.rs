//! The production backend: the hot part of the log on Redis or Valkey.
//!
//! Everything is in one of 1,024 partitions (`partition`), each of which is one hash slot. A group's head, entries, keys and windows are in the
//! partition of the group, an inbox in that of its device, a user's list of groups in that of the user.
//!
//! - `append`: batches, and the script that checks, numbers, writes and publishes them in one step.
//! - `relay`: from the partition of a group to those of its joiners.
//! - `inbox`, `memberships`, `read`, `standings`: what is asked for.
//! - `news`: what other replicas, and this one, have appended.
//! - `upkeep`: for the archiver.
//! - `links`: connections, the fence before every answer, repeats.
//!
//! What is in the store is packed (`wire`) under the names of `keys`; `scripts/` reads and writes the same.

mod append;
pub mod config;
mod gate;
mod inbox;
mod keys;
pub(crate) mod links;
mod memberships;
mod news;
pub(crate) mod partition;
mod read;
mod relay;
mod reset;
mod scripts;
mod standings;
#[cfg(test)]
mod tests;
mod upkeep;
mod value;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use valise_proto::{DeviceId, Epoch, GroupId};

use self::append::Appender;
use self::links::Links;
use self::news::Follower;
use self::partition::Partition;
use self::relay::Relay;
use self::scripts::Store;
use super::{Append, Appended, Created, NewGroup, News, Refused, StoreError};

pub use self::links::OpenError;
pub(crate) use self::read::HotRow;
pub(crate) use self::upkeep::Restored;
pub(crate) use self::value::is_damaged;
pub(crate) use self::wire::HeadRow;

/// News that a slow listener may be behind before it is told that it missed some.
const NEWS: usize = 8192;

/// How the log works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long a Welcome waits for its joiners, and any item of an inbox for its device.
    pub(crate) inbox_kept: Duration,
    /// How often all partitions are searched for changes that no message told of, and for hand-offs that were left behind.
    pub(crate) sweep: Duration,
}

/// The hot part of the log. Its methods are those of [`OrderedLog`](super::OrderedLog), for what has not been trimmed.
pub(crate) struct RedisLog {
    store: Store,
    appender: Arc<Appender>,
    relay: Arc<Relay>,
    inbox_kept: Duration,
    news: broadcast::Sender<News>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl RedisLog {
    /// Begins to follow all partitions.
    pub(crate) async fn open(links: Arc<Links>, settings: Settings) -> Result<Self, StoreError> {
        let heard = links
            .heard()
            .ok_or_else(|| StoreError("the channels are heard elsewhere".to_owned()))?;
        let store = Store(links);
        let stopping = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (news, _) = broadcast::channel(NEWS);
        let relay = Relay::new(
            store.clone(),
            settings.inbox_kept,
            stopping.clone(),
            tasks.clone(),
        );
        let follower = Follower::start(store.clone(), Arc::clone(&relay), news.clone()).await?;
        tasks.spawn(follower.run(heard, settings.sweep, stopping.clone()));
        let appender = Appender::new(
            store.clone(),
            Arc::clone(&relay),
            settings.inbox_kept,
            stopping.clone(),
            tasks.clone(),
        );
        Ok(Self {
            store,
            appender,
            relay,
            inbox_kept: settings.inbox_kept,
            news,
            stopping,
            tasks,
        })
    }

    /// The connections.
    pub(crate) fn links(&self) -> &Arc<Links> {
        &self.store.0
    }

    /// Ends all background work and the connections. Appends that are under way fail, their outcome unknown.
    pub(crate) async fn close(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.0.close().await;
    }

    /// See [`OrderedLog::create`](super::OrderedLog::create). A group of which anything is left is never created anew.
    pub(crate) async fn create(&self, group: NewGroup) -> Result<Created, StoreError> {
        self.appender.create(group).await
    }

    /// See [`OrderedLog::append`](super::OrderedLog::append). Keys are known for as long as their entries are here.
    pub(crate) async fn append(&self, append: Append) -> Result<Result<Appended, Refused>, StoreError> {
        self.appender.append(append).await
    }

    /// See [`OrderedLog::publish_ephemeral`](super::OrderedLog::publish_ephemeral).
    pub(crate) fn publish_ephemeral(&self, group: GroupId, epoch: Epoch, sender: DeviceId, bytes: &Bytes) {
        let message = news::pack_ephemeral(group, epoch, sender, bytes);
        self.store.0.publish(Partition::of_group(&group), message);
    }

    /// See [`OrderedLog::announce_stream`](super::OrderedLog::announce_stream). On the channel that also tells of the device's inbox.
    pub(crate) fn announce_stream(&self, device: DeviceId, stream: u64) {
        let message = news::pack_stream(device, stream);
        self.store.0.publish(Partition::of_device(&device), message);
    }

    /// See [`OrderedLog::news`](super::OrderedLog::news).
    pub(crate) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }
}

impl Drop for RedisLog {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
