//! The hot log on real servers.

mod append;
mod faults;
mod read;
mod relay;
mod standings;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use valise_local_stack::{Redis, RedisCluster, RedisProgram};
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId};

use super::config::{RedisConfig, RedisMode};
use super::links::Links;
use super::{RedisLog, Settings};
use crate::log::conformance::{self, Backend};
use crate::log::sqlite::SqliteLog;
use crate::log::{
    Append, Appended, CommitReport, Created, Entry, Head, InboxItem, Membership, NewGroup, News, Notice,
    OrderedLog, Refused, ReportedCommit, Reset, Snapshot, Standing, StoreError, Window,
};

const SETTINGS: Settings = Settings {
    inbox_kept: Duration::from_secs(3600),
    sweep: Duration::from_millis(500),
};

async fn open_on(mode: RedisMode, urls: &[String], wait_replicas: u32) -> RedisLog {
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    let mut config = RedisConfig::new(mode, urls);
    config.wait_replicas = Some(wait_replicas);
    let links = Links::open(&config).await.unwrap();
    RedisLog::open(Arc::new(links), SETTINGS).await.unwrap()
}

async fn open(server: &Redis) -> RedisLog {
    open_on(RedisMode::Standalone, &[server.url()], 0).await
}

/// How often a server has found a key to be of another type.
async fn wrong_types(server: &Redis) -> u64 {
    let info = server.command(&["INFO", "errorstats"]).await;
    let count = info
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_WRONGTYPE:count="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// Puts these fields and values in the place of an entry; where there are none, the entry is missing.
async fn replace(log: &Hot, group: GroupId, position: u64, values: &[&str]) {
    let script = "local entries = redis.call('XRANGE', KEYS[1], '-', '+')
        redis.call('DEL', KEYS[1])
        for _, entry in ipairs(entries) do
            local values = entry[2]
            if entry[1] == ARGV[1] then values = {unpack(ARGV, 2)} end
            if #values > 0 then redis.call('XADD', KEYS[1], entry[1], unpack(values)) end
        end
        return #entries";
    let partition = super::partition::Partition::of_group(&group);
    let stream = super::keys::Keys::of(partition).stream(&group);
    let mut command = redis::cmd("EVAL");
    command
        .arg(script)
        .arg(1)
        .arg(stream)
        .arg(format!("{position}-0"));
    for value in values {
        command.arg(*value);
    }
    log.log.store.ask(partition, command).await.unwrap();
}

/// The hot log as an [`OrderedLog`]; what production keeps in SQL, an SQLite file keeps.
struct Hot {
    log: RedisLog,
    sql: SqliteLog,
    /// Who got which successor first.
    resets: Mutex<HashMap<GroupId, GroupId>>,
    _folder: tempfile::TempDir,
}

impl Hot {
    fn new(log: RedisLog) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(Self {
            log,
            sql: SqliteLog::open(&folder.path().join("sql.db")).unwrap(),
            resets: Mutex::default(),
            _folder: folder,
        })
    }
}

#[async_trait]
impl OrderedLog for Hot {
    async fn create(&self, group: NewGroup) -> Result<Created, StoreError> {
        self.log.create(group).await
    }

    async fn append(&self, append: Append) -> Result<Result<Appended, Refused>, StoreError> {
        self.log.append(append).await
    }

    async fn repeat(
        &self,
        group: GroupId,
        key: IdempotencyKey,
        sender: Option<DeviceId>,
    ) -> Result<Option<Appended>, StoreError> {
        self.log.repeat(group, key, sender).await
    }

    async fn winner(&self, group: GroupId, epoch: Epoch) -> Result<Option<Position>, StoreError> {
        self.log.winner(group, epoch).await
    }

    async fn head(&self, group: GroupId) -> Result<Option<Head>, StoreError> {
        self.log.head(group).await
    }

    async fn read(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.log.read(group, after, max_entries, max_bytes).await
    }

    async fn handshakes(
        &self,
        group: GroupId,
        after: Position,
        max_entries: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.log.handshakes(group, after, max_entries).await
    }

    async fn group_info(&self, group: GroupId) -> Result<Option<(Bytes, Epoch, Position)>, StoreError> {
        self.log.group_info(group).await
    }

    async fn windows(&self, group: GroupId, device: DeviceId) -> Result<Vec<Window>, StoreError> {
        self.log.windows(group, device).await
    }

    async fn standings(
        &self,
        device: DeviceId,
        asked: Vec<(GroupId, Position)>,
    ) -> Result<Vec<Standing>, StoreError> {
        self.log.standings(device, &asked).await
    }

    async fn memberships(
        &self,
        user: &UserId,
        device: DeviceId,
        after: Option<GroupId>,
        max: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        self.log.memberships(user, device, after, max).await
    }

    async fn notify(&self, notices: Vec<Notice>) -> Result<(), StoreError> {
        self.log.notify(notices).await
    }

    async fn read_inbox(
        &self,
        device: DeviceId,
        after: u64,
        max: usize,
    ) -> Result<Vec<InboxItem>, StoreError> {
        self.log.read_inbox(device, after, max).await
    }

    async fn newest_inbox(&self, device: DeviceId) -> Result<u64, StoreError> {
        self.log.newest_inbox(device).await
    }

    async fn acknowledge(
        &self,
        device: DeviceId,
        groups: Vec<(GroupId, Position)>,
        inbox: u64,
    ) -> Result<(), StoreError> {
        self.sql.acknowledge(device, groups, 0).await?;
        self.log.acknowledge_inbox(device, inbox).await
    }

    async fn put_snapshot(&self, group: GroupId, snapshot: Snapshot) -> Result<(), StoreError> {
        self.sql.put_snapshot(group, snapshot).await
    }

    async fn snapshots(
        &self,
        group: GroupId,
        origin: EntryId,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<Snapshot>, StoreError> {
        self.sql.snapshots(group, origin, up_to, max).await
    }

    async fn reset(
        &self,
        group: GroupId,
        successor: GroupId,
        at: u64,
    ) -> Result<Result<Reset, Refused>, StoreError> {
        let first = *self.resets.lock().entry(group).or_insert(successor);
        self.log.reset(group, first, at).await
    }

    async fn successor(&self, group: GroupId) -> Result<Option<GroupId>, StoreError> {
        Ok(self.resets.lock().get(&group).copied())
    }

    async fn predecessor(&self, successor: GroupId) -> Result<Option<GroupId>, StoreError> {
        let resets = self.resets.lock();
        Ok(resets
            .iter()
            .find(|(_, to)| **to == successor)
            .map(|(group, _)| *group))
    }

    async fn report(&self, report: CommitReport) -> Result<bool, StoreError> {
        self.sql.report(report).await
    }

    async fn reports(
        &self,
        group: Option<GroupId>,
        after: Option<(GroupId, Position)>,
        max: usize,
    ) -> Result<Vec<ReportedCommit>, StoreError> {
        self.sql.reports(group, after, max).await
    }

    fn publish_ephemeral(&self, group: GroupId, epoch: Epoch, sender: DeviceId, bytes: Bytes) {
        self.log.publish_ephemeral(group, epoch, sender, &bytes);
    }

    fn announce_stream(&self, device: DeviceId, stream: u64) {
        self.log.announce_stream(device, stream);
    }

    fn news(&self) -> broadcast::Receiver<News> {
        self.log.news()
    }
}

/// A server with a log; killed before the log is opened again, if that is said.
struct Standalone {
    server: Redis,
    kill: bool,
    log: Arc<Hot>,
}

impl Standalone {
    async fn start(program: RedisProgram, kill: bool) -> Self {
        let server = Redis::start_with(program, &[]).await;
        let log = Hot::new(open(&server).await);
        Self { server, kill, log }
    }
}

#[async_trait]
impl Backend for Standalone {
    fn log(&self) -> Arc<dyn OrderedLog> {
        Arc::clone(&self.log) as Arc<dyn OrderedLog>
    }

    async fn reopen(&mut self) {
        self.log.log.close().await;
        if self.kill {
            self.server.restart().await;
        }
        self.log = Hot::new(open(&self.server).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_conforms() {
    conformance::all(Standalone::start(RedisProgram::Redis, true).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valkey_conforms() {
    conformance::all(Standalone::start(RedisProgram::Valkey, false).await).await;
}

struct Cluster {
    cluster: RedisCluster,
    log: Arc<Hot>,
}

#[async_trait]
impl Backend for Cluster {
    fn log(&self) -> Arc<dyn OrderedLog> {
        Arc::clone(&self.log) as Arc<dyn OrderedLog>
    }

    async fn reopen(&mut self) {
        self.log.log.close().await;
        self.log = Hot::new(open_on(RedisMode::Cluster, &self.cluster.urls(), 1).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_conforms() {
    let cluster = RedisCluster::start(3, 1).await;
    let log = Hot::new(open_on(RedisMode::Cluster, &cluster.urls(), 1).await);
    conformance::all(Cluster { cluster, log }).await;
}
