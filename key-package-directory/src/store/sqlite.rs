//! The embedded store: one SQLite file, WAL, `synchronous=FULL`. Changes go through one [`writer`], reads through a pool.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, SqlitePool};
use valise_proto::{DeviceId, UserId};

use super::{
    Handed, KnownDevice, LowStock, Publication, PublishOutcome, StockLine, Store, StoreError, Swept, Usable,
    Wanted,
};
use writer::Writer;

mod claim;
mod publish;
mod upkeep;
mod writer;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a connection waits for another process's write lock.
const BUSY: Duration = Duration::from_secs(5);
/// Connections that read at the same time.
const READERS: u32 = 4;

/// Key packages in a SQLite file.
pub(crate) struct SqliteStore {
    writer: Writer,
    write_pool: SqlitePool,
    readers: SqlitePool,
}

/// Why the file cannot be used. One line each, for operators.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("it was written by a newer version (migration {0} is unknown here)")]
    Newer(i64),
    #[error("its schema was changed by hand (migration {0})")]
    Changed(i64),
    #[error("it is not a database, or damaged")]
    Damaged,
    #[error("it cannot be written to")]
    ReadOnly,
    #[error("another process has locked it")]
    Locked,
    #[error("it cannot be opened")]
    CannotOpen,
    #[error("{0}")]
    Other(sqlx::Error),
    #[error("its migrations failed: {0}")]
    Migration(MigrateError),
}

impl SqliteStore {
    /// Opens the file, makes it if there is none, and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_within(path, BUSY).await
    }

    async fn open_within(path: &Path, busy: Duration) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(busy);
        let write_pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        // The file's fault shows here, not at the first publish.
        write_pool.begin_with("BEGIN IMMEDIATE").await?.rollback().await?;
        MIGRATIONS.run(&write_pool).await?;
        // SQLite opens a file that must not be written, and begins no more than a reading transaction there.
        sqlx::query("DELETE FROM _sqlx_migrations WHERE version IS NULL")
            .execute(&write_pool)
            .await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options)
            .await?;
        Ok(Self {
            writer: Writer::start(write_pool.clone()),
            write_pool,
            readers,
        })
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        // Result codes: https://www.sqlite.org/rescode.html; the low byte is the primary one.
        let code = error
            .as_database_error()
            .and_then(|error| error.code()?.parse::<i32>().ok());
        match code.map(|code| code & 0xff) {
            Some(5 | 6) => Self::Locked,
            Some(8) => Self::ReadOnly,
            Some(11 | 26) => Self::Damaged,
            Some(14) => Self::CannotOpen,
            _ => Self::Other(error),
        }
    }
}

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer(version),
            MigrateError::VersionMismatch(version) => Self::Changed(version),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            error => Self::Migration(error),
        }
    }
}

#[tonic::async_trait]
impl Store for SqliteStore {
    async fn publish(&self, publication: Publication) -> Result<PublishOutcome, StoreError> {
        self.writer.write(publish::Publish(publication)).await
    }

    async fn find_devices(
        &self,
        users: &[UserId],
        devices: &[DeviceId],
        limit: u32,
    ) -> Result<Vec<KnownDevice>, StoreError> {
        const FIND: &str = "
            SELECT id, user_id, revoked FROM device WHERE user_id IN (SELECT value FROM json_each(?1))
            UNION
            SELECT id, user_id, revoked FROM device WHERE id IN (SELECT unhex(value) FROM json_each(?2))
            LIMIT ?3";
        let rows = sqlx::query(FIND)
            .bind(json_list(users.iter().map(UserId::as_str)))
            .bind(json_devices(devices))
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                let user = UserId::from_str(row.try_get("user_id")?)
                    .map_err(|_| StoreError::Unreadable("user id"))?;
                Ok(KnownDevice {
                    user,
                    device: device(row, "id")?,
                    revoked: row.try_get("revoked")?,
                })
            })
            .collect()
    }

    async fn claim(&self, wanted: Wanted) -> Result<Vec<Handed>, StoreError> {
        self.writer.write(claim::Claim(wanted)).await
    }

    async fn low(
        &self,
        suspects: &[(DeviceId, u16)],
        usable: Usable,
        below: u32,
    ) -> Result<Vec<LowStock>, StoreError> {
        const LOW: &str = "
            SELECT unhex(value ->> 0) AS device, value ->> 1 AS suite,
                   (SELECT count(*) FROM (
                        SELECT 1 FROM key_package
                        WHERE device = unhex(value ->> 0) AND suite = value ->> 1 AND last_resort = 0
                          AND not_after >= ?2 AND certificate_not_after >= ?3
                        LIMIT ?4)) AS one_time
            FROM json_each(?1) WHERE one_time < ?4";
        let pair = |(device, suite): &(DeviceId, u16)| format!("[\"{}\",{suite}]", device.as_uuid().simple());
        let pairs: Vec<_> = suspects.iter().map(pair).collect();
        let rows = sqlx::query(LOW)
            .bind(format!("[{}]", pairs.join(",")))
            .bind(stored(usable.not_after_from))
            .bind(stored(usable.certificate_not_after_from))
            .bind(below)
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(LowStock {
                    device: device(row, "device")?,
                    suite: row.try_get("suite")?,
                    one_time: row.try_get("one_time")?,
                })
            })
            .collect()
    }

    async fn stock(&self, device: DeviceId, usable: Usable) -> Result<Vec<StockLine>, StoreError> {
        const STOCK: &str = "
            SELECT s.suite,
                   count(k.number) FILTER (WHERE k.last_resort = 0) AS one_time,
                   count(k.number) FILTER (WHERE k.last_resort = 1) AS last_resort,
                   min(k.not_after) AS first_not_after,
                   min(k.certificate_not_after) AS first_certificate_not_after
            FROM published_suite s
            LEFT JOIN key_package k ON k.device = s.device AND k.suite = s.suite
                 AND k.not_after >= ?2 AND k.certificate_not_after >= ?3
            WHERE s.device = ?1 GROUP BY s.suite ORDER BY s.suite";
        let rows = sqlx::query(STOCK)
            .bind(key(device))
            .bind(stored(usable.not_after_from))
            .bind(stored(usable.certificate_not_after_from))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(StockLine {
                    suite: row.try_get("suite")?,
                    one_time: row.try_get("one_time")?,
                    last_resort: row.try_get::<i64, _>("last_resort")? > 0,
                    first_not_after: row
                        .try_get::<Option<i64>, _>("first_not_after")?
                        .map(i64::unsigned_abs),
                    first_certificate_not_after: row
                        .try_get::<Option<i64>, _>("first_certificate_not_after")?
                        .map(i64::unsigned_abs),
                })
            })
            .collect()
    }

    async fn suites(&self, devices: &[DeviceId], usable: Usable) -> Result<Vec<(DeviceId, u16)>, StoreError> {
        const SUITES: &str = "
            SELECT s.device, s.suite FROM published_suite s
            WHERE s.device IN (SELECT unhex(value) FROM json_each(?1))
              AND EXISTS (SELECT 1 FROM key_package k WHERE k.device = s.device AND k.suite = s.suite
                          AND k.not_after >= ?2 AND k.certificate_not_after >= ?3)";
        let rows = sqlx::query(SUITES)
            .bind(json_devices(devices))
            .bind(stored(usable.not_after_from))
            .bind(stored(usable.certificate_not_after_from))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| Ok((self::device(row, "device")?, row.try_get("suite")?)))
            .collect()
    }

    async fn delete(&self, device: DeviceId) -> Result<u64, StoreError> {
        self.writer.write(upkeep::Delete(device)).await
    }

    async fn purge(&self, devices: Vec<DeviceId>) -> Result<u64, StoreError> {
        self.writer.write(upkeep::Purge(devices)).await
    }

    async fn sweep(&self, now: u64, usable: Usable, limit: u32) -> Result<Swept, StoreError> {
        self.writer.write(upkeep::Sweep { now, usable, limit }).await
    }

    async fn reachable(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.readers).await.is_ok()
    }

    async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.write_pool.close().await;
    }
}

/// SQLite's integers are signed.
fn stored(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn key(device: DeviceId) -> Vec<u8> {
    device.as_uuid().as_bytes().to_vec()
}

fn device(row: &SqliteRow, column: &str) -> Result<DeviceId, StoreError> {
    let bytes: &[u8] = row.try_get(column)?;
    uuid::Uuid::from_slice(bytes)
        .map(DeviceId::from_uuid)
        .map_err(|_| StoreError::Unreadable("device id"))
}

/// A list for `json_each`, so that one statement serves any number of values. Only for text that needs no escape.
fn json_list(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let items: Vec<_> = items.map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", items.join(","))
}

fn json_devices(devices: &[DeviceId]) -> String {
    json_list(devices.iter().map(|device| device.as_uuid().simple()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, concurrency};

    async fn open(directory: &tempfile::TempDir) -> SqliteStore {
        SqliteStore::open(&directory.path().join("directory.db"))
            .await
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms() {
        let directory = tempfile::tempdir().unwrap();
        conformance::run(&std::sync::Arc::new(open(&directory).await)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms_with_two_at_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (open(&directory).await, open(&directory).await);
        concurrency::replicas(&std::sync::Arc::new(one), &std::sync::Arc::new(other)).await;
    }

    #[tokio::test]
    async fn what_was_handed_out_stays_handed_out_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let before = concurrency::publish_and_claim_half(&store).await;
        store.close().await;
        let store = open(&directory).await;
        concurrency::claim_the_other_half(&store, &before).await;
    }

    #[tokio::test]
    async fn what_is_answered_is_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&store.write_pool)
            .await
            .unwrap();
        let journal_mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&store.write_pool)
            .await
            .unwrap();
        assert_eq!((synchronous, journal_mode.as_str()), (2, "wal"), "2 is FULL");
    }

    #[tokio::test]
    async fn a_closed_store_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        store.close().await;
        assert!(matches!(
            store.delete(conformance::device(1)).await,
            Err(StoreError::Closed)
        ));
    }

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', CURRENT_TIMESTAMP, 1, x'00', 0)")
            .execute(&store.write_pool)
            .await
            .unwrap();
        store.close().await;
        let error = SqliteStore::open(&directory.path().join("directory.db"))
            .await
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "it was written by a newer version (migration 9999 is unknown here)"
        );
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("directory.db");
        std::fs::write(&path, [b'x'; 8192]).unwrap();
        let error = SqliteStore::open(&path).await.err().unwrap();
        assert_eq!(error.to_string(), "it is not a database, or damaged");
        let error = SqliteStore::open(&directory.path().join("no/such/folder.db"))
            .await
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "it cannot be opened");
    }

    #[tokio::test]
    async fn a_locked_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let lock = store.write_pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let path = directory.path().join("directory.db");
        let error = SqliteStore::open_within(&path, Duration::from_millis(10))
            .await
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "another process has locked it");
        lock.rollback().await.unwrap();
    }
}
