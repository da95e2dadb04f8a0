//! The production log on real servers, with a tiny hot window and archivers that never rest.

mod archiving;
mod damaged;
mod faults;
mod frozen;
mod hot_window;
mod regression;
mod resets;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use valise_clock::Clock;
use valise_local_stack::{Postgres, Redis, RedisCluster, RedisProgram};
use valise_proto::{DeviceId, GroupId, Position, UserId};

use super::ProductionLog;
use crate::config::ArchiveConfig;
use crate::log::archiver::Archiver;
use crate::log::conformance::{self, Backend, eventually};
use crate::log::postgres;
use crate::log::redis::config::{RedisConfig, RedisMode};
use crate::log::redis::partition::Partition;
use crate::log::{Entry, OrderedLog};

/// The entries of these tests are from 1970.
const RETENTION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Three entries of a group stay in Redis, however young.
fn settings() -> ArchiveConfig {
    ArchiveConfig {
        hot_entries: 3,
        hot_seconds: 0,
        // The entries of these tests are from 1970.
        max_hot_seconds: RETENTION.as_secs(),
        lease_seconds: 2,
        sweep_milliseconds: 250,
        max_unarchived_entries: 1_000_000,
        retention_sweep_seconds: 1,
        device_copies_seconds: 86_400,
    }
}

/// A Redis and a PostgreSQL.
struct Servers {
    redis: Redis,
    postgres: Postgres,
    database: String,
}

impl Servers {
    async fn start() -> Self {
        let (redis, (postgres, database)) = tokio::join!(Redis::start(), start_postgres());
        Self {
            redis,
            postgres,
            database,
        }
    }

    /// One more replica, with its upkeep but without an archiver.
    async fn replica(&self, settings: &ArchiveConfig) -> Replica {
        let redis = redis_at(RedisMode::Standalone, &[self.redis.url()], 0);
        Replica::open(&self.database, &redis, settings).await
    }

    /// Servers of one's own, with a replica that archives.
    async fn archiving() -> (Self, Replica) {
        let servers = Self::start().await;
        let mut replica = servers.replica(&settings()).await;
        replica.archive();
        (servers, replica)
    }
}

/// A PostgreSQL, and the URL of a database with the schema.
async fn start_postgres() -> (Postgres, String) {
    let postgres = Postgres::start().await;
    let database = postgres.database("delivery").await;
    postgres::migrate(&database.parse().unwrap()).await.unwrap();
    (postgres, database)
}

fn redis_at(mode: RedisMode, urls: &[String], wait_replicas: u32) -> RedisConfig {
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    RedisConfig {
        wait_replicas: Some(wait_replicas),
        ..RedisConfig::new(mode, urls)
    }
}

/// A replica of the service, as far as the log goes.
struct Replica {
    log: Arc<ProductionLog>,
    stopping: CancellationToken,
    tasks: JoinSet<()>,
}

impl Replica {
    async fn open(database: &str, redis: &RedisConfig, settings: &ArchiveConfig) -> Self {
        let log = ProductionLog::open(&database.parse().unwrap(), redis, settings, RETENTION)
            .await
            .unwrap();
        let mut replica = Self {
            log: Arc::new(log),
            stopping: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let (log, stopping) = (Arc::clone(&replica.log), replica.stopping.clone());
        replica
            .tasks
            .spawn(async move { log.run(stopping, |_| {}).await });
        replica
    }

    fn archiver(&self, gone: fn(&UserId, DeviceId) -> bool) -> Archiver {
        self.log.archiver(RETENTION, Clock::system(), Arc::new(gone))
    }

    /// An archiver of all partitions that goes by that clock, and does nothing by itself.
    async fn archiver_by(&self, clock: &Clock) -> Archiver {
        let nobody = Arc::new(|_: &UserId, _: DeviceId| false);
        let archiver = self.log.archiver(RETENTION, clock.clone(), nobody);
        archiver.renew().await.unwrap();
        archiver
    }

    /// Archives as it would in production.
    fn archive(&mut self) {
        let (archiver, stopping) = (self.archiver(|_, _| false), self.stopping.clone());
        self.tasks.spawn(async move { archiver.run(stopping).await });
    }

    /// Archives without a pause.
    fn archive_restlessly(&mut self) {
        let (archiver, stopping) = (self.archiver(|_, _| false), self.stopping.clone());
        self.tasks.spawn(async move {
            archiver.renew().await.unwrap();
            while !stopping.is_cancelled() {
                archiver.round().await.unwrap();
            }
        });
    }

    async fn stop(mut self) {
        self.stopping.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.log.close().await;
    }

    /// Waits until the archive has the group up to there, and Redis no more than its newest entries.
    async fn archived(&self, group: GroupId, position: u64) {
        eventually("everything archived and trimmed", async || {
            let known = self.log.archive.group(group).await.ok()??;
            let hot = self.log.settings.hot_entries;
            (known.head.position == Position(position) && known.trimmed.0 + hot >= position).then_some(())
        })
        .await;
    }
}

/// Everything after a position, a part at a time.
async fn read_all(log: &ProductionLog, group: GroupId, mut after: Position) -> Vec<Arc<Entry>> {
    let mut entries = Vec::new();
    loop {
        let part = log.read(group, after, 7, 1 << 20).await.unwrap();
        let Some(last) = part.last() else {
            return entries;
        };
        after = last.position;
        entries.extend(part);
    }
}

fn positions(entries: &[Arc<Entry>]) -> Vec<u64> {
    entries.iter().map(|entry| entry.position.0).collect()
}

/// The entry at that position of each group of that one's partition becomes one that cannot be read.
async fn damage(servers: &Servers, group: GroupId, position: u64) {
    let tag = Partition::of_group(&group).tag();
    let script = format!(
        "for _, k in ipairs(redis.call('KEYS', '{tag}s:*')) do
             local entries = redis.call('XRANGE', k, '-', '+')
             redis.call('DEL', k)
             for _, entry in ipairs(entries) do
                 if entry[1] == '{position}-0' then entry[2] = {{'m', 'x', 'b', 'x'}} end
                 redis.call('XADD', k, entry[1], unpack(entry[2]))
             end
         end
         return 1"
    );
    assert_eq!(servers.redis.command(&["EVAL", &script, "0"]).await, "1");
}

struct Production {
    redis: RedisConfig,
    database: String,
    replica: Option<Replica>,
}

#[async_trait]
impl Backend for Production {
    fn log(&self) -> Arc<dyn OrderedLog> {
        Arc::clone(&self.replica.as_ref().unwrap().log) as Arc<dyn OrderedLog>
    }

    async fn reopen(&mut self) {
        if let Some(replica) = self.replica.take() {
            replica.stop().await;
        }
        let mut replica = Replica::open(&self.database, &self.redis, &settings()).await;
        replica.archive_restlessly();
        self.replica = Some(replica);
    }
}

async fn conforms_on(redis: RedisConfig) {
    let (_postgres, database) = start_postgres().await;
    let mut production = Production {
        redis,
        database,
        replica: None,
    };
    production.reopen().await;
    conformance::all(production).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = Redis::start().await;
    conforms_on(redis_at(RedisMode::Standalone, &[server.url()], 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_valkey() {
    let server = Redis::start_with(RedisProgram::Valkey, &[]).await;
    conforms_on(redis_at(RedisMode::Standalone, &[server.url()], 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_a_redis_cluster() {
    let cluster = RedisCluster::start(3, 1).await;
    conforms_on(redis_at(RedisMode::Cluster, &cluster.urls(), 1)).await;
}
