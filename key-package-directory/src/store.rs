//! Where key packages are kept: the one I/O boundary of this crate, in its own words.
//!
//! # Adding a backend
//!
//! Implement [`Store`] and run `conformance` against it. Many replicas may share one store, so nothing that decides
//! who gets a package may live in a process. What a backend must give:
//!
//! - [`Store::publish`], [`Store::claim`], [`Store::delete`] and [`Store::purge`] are each one transaction, durable
//!   when they return.
//! - A one-time package leaves the store in the transaction that hands it out (`DELETE … RETURNING`; on PostgreSQL the
//!   rows are chosen with `FOR UPDATE SKIP LOCKED`), so that two claims never get the same one (RFC 9420 §16.8).
//!   A claim falls back to the last-resort package only where each usable one-time package is gone or on its way out.
//! - A last-resort package is only read: any number of claims get it without waiting for each other.
//! - All checks of a publication come before its first write.

use std::fmt;
use std::sync::Arc;

use valise_proto::{DeviceId, Reason, Refusal, UserId};
use valise_sql_database::{Database, is_unavailable};

#[cfg(test)]
pub(crate) mod conformance;
mod postgres;
mod sqlite;

pub(crate) use postgres::migrate;

use crate::StartError;
use postgres::PostgresStore;
use sqlite::SqliteStore;

/// The backend that the configuration asks for.
pub(crate) async fn open(database: &Database) -> Result<Arc<dyn Store>, StartError> {
    Ok(match database {
        Database::Sqlite(file) => {
            let opened = SqliteStore::open(file).await;
            Arc::new(opened.map_err(|problem| StartError::Store {
                file: file.clone(),
                problem: problem.to_string(),
            })?)
        }
        Database::Postgres(url) => Arc::new(PostgresStore::open(url).await?),
    })
}

/// Storage of key packages.
#[tonic::async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Checks a publication against what is stored and stores all of it, or nothing.
    ///
    /// Packages of the device that are no longer usable are deleted first and do not count. A signature key other than
    /// the stored one's deletes all packages of the device first. A last-resort package replaces the one of its suite.
    async fn publish(&self, publication: Publication) -> Result<PublishOutcome, StoreError>;

    /// The devices of these users, and these devices, as far as they have ever published. In no particular order,
    /// each once. At most `limit` of them.
    async fn find_devices(
        &self,
        users: &[UserId],
        devices: &[DeviceId],
        limit: u32,
    ) -> Result<Vec<KnownDevice>, StoreError>;

    /// Hands out a package for each of the devices: the usable one-time package that ends first, which is deleted, or
    /// else the usable last-resort one. Devices without either are left out. In no particular order.
    async fn claim(&self, wanted: Wanted) -> Result<Vec<Handed>, StoreError>;

    /// Of these devices and suites, those of which fewer usable one-time packages than `below` are left, and how many.
    /// In no particular order.
    async fn low(
        &self,
        suspects: &[(DeviceId, u16)],
        usable: Usable,
        below: u32,
    ) -> Result<Vec<LowStock>, StoreError>;

    /// What can be handed out of a device: one line for each suite that it has published, by suite.
    async fn stock(&self, device: DeviceId, usable: Usable) -> Result<Vec<StockLine>, StoreError>;

    /// Of these devices, the suites of which something can be handed out. In no particular order, each once.
    async fn suites(&self, devices: &[DeviceId], usable: Usable) -> Result<Vec<(DeviceId, u16)>, StoreError>;

    /// Deletes all packages of a device and returns how many. What it has published before stays seen.
    async fn delete(&self, device: DeviceId) -> Result<u64, StoreError>;

    /// Deletes all packages of revoked devices and returns how many. The devices can never publish again.
    /// Devices that have never published are not marked.
    async fn purge(&self, devices: Vec<DeviceId>) -> Result<u64, StoreError>;

    /// Deletes at most `limit` unusable packages, and forgets at most `limit` init keys of packages whose lifetime has
    /// ended. A result below `limit` in both says that nothing is left to do, or another replica is doing it.
    async fn sweep(&self, now: u64, usable: Usable, limit: u32) -> Result<Swept, StoreError>;

    /// Can it be used now?
    async fn reachable(&self) -> bool;

    /// Waits for accepted work and closes the store.
    async fn close(&self);
}

/// Which packages may still be handed out. In seconds since 1970-01-01 UTC, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usable {
    /// The earliest end of a lifetime: now plus the retention window (checklist K4).
    pub(crate) not_after_from: u64,
    /// The earliest end of a certificate.
    pub(crate) certificate_not_after_from: u64,
}

/// A validated package that is to be stored.
#[derive(Clone)]
pub(crate) struct NewPackage {
    pub(crate) suite: u16,
    pub(crate) last_resort: bool,
    pub(crate) not_after: u64,
    pub(crate) certificate_not_after: u64,
    /// SHA-256 of the init key.
    pub(crate) init_key_digest: [u8; 32],
    /// The MLSMessage, as it was published.
    pub(crate) message: Vec<u8>,
}

/// What one device publishes in one call.
pub(crate) struct Publication {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    /// Of all the packages.
    pub(crate) signature_key: Vec<u8>,
    pub(crate) packages: Vec<NewPackage>,
    pub(crate) usable: Usable,
    /// The most one-time packages of one suite.
    pub(crate) capacity: u32,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishOutcome {
    /// All of it is stored.
    Stored,
    /// Nothing is stored: the device has published the init key of the package with this index before.
    SeenBefore { index: usize },
    /// Nothing is stored: there would be more one-time packages of a suite than the capacity.
    Full,
    /// Nothing is stored: the device is revoked.
    Revoked,
}

/// A device that has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownDevice {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    /// Its packages were purged.
    pub(crate) revoked: bool,
}

/// A claim, as the store sees it.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) suite: u16,
    /// Each once.
    pub(crate) devices: Vec<DeviceId>,
    pub(crate) usable: Usable,
}

/// A package that was handed out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) device: DeviceId,
    pub(crate) message: Vec<u8>,
    pub(crate) last_resort: bool,
}

/// A device has few one-time packages of a suite left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LowStock {
    pub(crate) device: DeviceId,
    pub(crate) suite: u16,
    pub(crate) one_time: u32,
}

/// What is in stock of one suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StockLine {
    pub(crate) suite: u16,
    pub(crate) one_time: u32,
    pub(crate) last_resort: bool,
    /// The earliest end of a usable package's lifetime.
    pub(crate) first_not_after: Option<u64>,
    /// The earliest end of a usable package's certificate.
    pub(crate) first_certificate_not_after: Option<u64>,
}

/// What a sweep deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Swept {
    pub(crate) packages: u64,
    pub(crate) init_keys: u64,
}

/// Key packages are public, but no log needs their bytes.
impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed")
            .field("device", &self.device)
            .field("last_resort", &self.last_resort)
            .finish_non_exhaustive()
    }
}

/// The store did not do it, or its answer was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database said no.
    #[error("the database failed: {}", DatabaseFault(.0))]
    Database(#[from] sqlx::Error),
    /// It was part of a transaction that failed; the cause was told to another caller.
    #[error("the transaction failed")]
    NotCommitted,
    /// A stored value is not what this version writes.
    #[error("the database holds an unreadable {0}")]
    Unreadable(&'static str),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match &error {
            // Whoever must act on it is told by the probe of readiness.
            StoreError::Database(database) if is_unavailable(database) => {
                tracing::warn!(%error, "the key-package store cannot be reached");
                Refusal::new(Reason::StoreUnavailable)
            }
            StoreError::Database(_) => {
                tracing::error!(%error, "the key-package store failed");
                Refusal::new(Reason::StoreUnavailable)
            }
            StoreError::Unreadable(_) => {
                tracing::error!(%error, "the key-package store is not as it should be");
                Refusal::new(Reason::Internal)
            }
            StoreError::NotCommitted | StoreError::Closed => Refusal::new(Reason::StoreUnavailable),
        }
    }
}

/// What may be logged of a database error: its kind and code, never a query or a value.
struct DatabaseFault<'a>(&'a sqlx::Error);

impl fmt::Display for DatabaseFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            sqlx::Error::Database(error) => write!(f, "code {}", error.code().unwrap_or("unknown".into())),
            sqlx::Error::Io(error) => write!(f, "i/o: {}", error.kind()),
            sqlx::Error::PoolTimedOut => f.write_str("no connection in time"),
            sqlx::Error::PoolClosed => f.write_str("closed"),
            sqlx::Error::WorkerCrashed => f.write_str("the connection's thread ended"),
            sqlx::Error::RowNotFound => f.write_str("row not found"),
            _ => f.write_str("other"),
        }
    }
}
