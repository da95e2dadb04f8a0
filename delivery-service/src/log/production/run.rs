//! Opening, running and closing a replica's part of the log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use valise_clock::Clock;
use valise_device_certificate::KeyKind;
use valise_proto::GroupId;
use valise_sql_database::PostgresUrl;

use super::ProductionLog;
use super::watch::Watch;
use crate::config::ArchiveConfig;
use crate::fingerprint::Fingerprint;
use crate::log::StoreError;
use crate::log::acknowledgements::Acknowledgements;
use crate::log::archiver::{Archiver, Gone};
use crate::log::postgres::PostgresArchive;
use crate::log::redis::config::RedisConfig;
use crate::log::redis::links::{self, Links};
use crate::log::redis::partition::Partition;
use crate::log::redis::{RedisLog, Settings};

/// How long writing the last acknowledgements may take.
const LAST: Duration = Duration::from_secs(2);

/// Why the stores cannot be opened. One line each.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not with that PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] valise_sql_database::OpenError),
    /// Not with that Redis.
    #[error(transparent)]
    Redis(#[from] links::OpenError),
    /// Redis was lost while the log was opened.
    #[error("Redis cannot be read (setting redis.urls): {0}")]
    Log(StoreError),
}

impl ProductionLog {
    /// Connects to both, and refuses what must not be used. Entries and Welcomes are kept for `retention` at most.
    pub(crate) async fn open(
        database: &PostgresUrl,
        redis: &RedisConfig,
        settings: &ArchiveConfig,
        retention: Duration,
    ) -> Result<Self, OpenError> {
        let archive = PostgresArchive::open(database).await?;
        let links = Arc::new(Links::open(redis).await?);
        let hot_settings = Settings {
            inbox_kept: retention,
            sweep: settings.sweep(),
        };
        let hot = RedisLog::open(links, hot_settings)
            .await
            .map_err(OpenError::Log)?;
        Ok(Self {
            hot: Arc::new(hot),
            acknowledgements: Acknowledgements::new(archive.clone()),
            archive,
            watch: Watch::new(settings.max_unarchived_entries),
            settings: settings.clone(),
        })
    }

    /// The identity of all replicas with a key of that kind: this one, if there is none yet.
    pub(crate) async fn keep_identity(
        &self,
        kind: KeyKind,
        own: &Fingerprint,
        former: &Fingerprint,
    ) -> Result<Fingerprint, StoreError> {
        self.archive.keep_identity(kind, own, former).await
    }

    /// This replica's part in archiving.
    pub(crate) fn archiver(&self, retention: Duration, clock: Clock, gone: Gone) -> Archiver {
        Archiver::new(
            Arc::clone(&self.hot),
            self.archive.clone(),
            self.settings.clone(),
            retention,
            clock,
            gone,
        )
    }

    /// Until `stopping`: keeps acknowledgements, and an eye on the archive. `other_log` is told of groups whose log is another one from now on.
    pub(crate) async fn run(&self, stopping: CancellationToken, other_log: impl Fn(GroupId) + Send + Sync) {
        let watch = self
            .watch
            .run(&self.hot, &self.archive, self.settings.sweep(), other_log);
        tokio::join!(
            self.acknowledgements.run(stopping.clone()),
            stopping.run_until_cancelled(watch)
        );
    }

    /// Can it be appended to? For readiness. Without PostgreSQL that goes on until too much waits for the archive.
    ///
    /// Where a part of the partitions cannot be used, all replicas see the same, and the groups of the others go on: a replica is
    /// ready for as long as there are any.
    pub(crate) async fn reachable(&self) -> bool {
        let unusable = self.hot.links().unusable().await;
        self.watch.note_unusable(unusable);
        unusable < usize::from(Partition::COUNT) && !self.watch.is_full()
    }

    /// Keeps the last acknowledgements, and ends all connections.
    pub(crate) async fn close(&self) {
        let last = tokio::time::timeout(LAST, self.acknowledgements.flush()).await;
        if !matches!(last, Ok(Ok(()))) {
            tracing::warn!("the last acknowledgements could not be kept");
        }
        self.hot.close().await;
        self.archive.close().await;
    }
}
