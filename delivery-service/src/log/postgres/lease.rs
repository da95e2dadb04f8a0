//! Who archives which partition: leases with fencing tokens.
//!
//! A replica that archives says so every few seconds ([`PostgresArchive::lease`]); one that does not in time, by the database's
//! clock, has gone, and its partitions are taken over by others, each of which takes its share. A replica that was only slow does
//! not know that yet: so each take-over raises the partition's token, and every write checks it in its own transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Row, query};
use valise_proto::Uuid;

use super::{PostgresArchive, store_error, within};
use crate::log::StoreError;

/// The right to archive a partition, as long as nobody has taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) partition: u16,
    pub(crate) token: i64,
}

/// What a partition's lease says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leased {
    pub(crate) token: i64,
    /// The change up to which everything was archived when this was read.
    pub(crate) change: u64,
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Another replica has taken over.
    #[error("the lease has gone to another replica")]
    Stale,
    /// A position, a key or an epoch is taken: the log does not continue the archived one.
    #[error("the log does not continue the archived one")]
    Conflict,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        if database.is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
            return Self::Conflict;
        }
        Self::Store(store_error(&error))
    }
}

impl PostgresArchive {
    /// Says that this replica is alive for so long, gives away what is above its share of the partitions, takes what it may have,
    /// and returns all that it holds.
    pub(crate) async fn lease(
        &self,
        holder: Uuid,
        duration: Duration,
    ) -> Result<BTreeMap<u16, Leased>, StoreError> {
        within(async {
            let mut transaction = self.pool.begin().await?;
            query(
                "INSERT INTO archivers (holder, expires_at)
                 VALUES ($1, clock_timestamp() + $2 * interval '1 millisecond')
                 ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at",
            )
            .bind(holder.as_bytes().as_slice())
            .bind(duration.as_millis() as f64)
            .execute(&mut *transaction)
            .await?;
            let share = share(&mut transaction).await?;
            release_above(&mut transaction, holder, share).await?;
            take_up_to(&mut transaction, holder, share).await?;
            let held = held(&mut transaction, holder).await?;
            transaction.commit().await?;
            Ok(held)
        })
        .await
    }

    /// Gives all back, so that others need not wait.
    pub(crate) async fn release(&self, holder: Uuid) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.pool.begin().await?;
            release_above(&mut transaction, holder, 0).await?;
            query("DELETE FROM archivers WHERE holder = $1")
                .bind(holder.as_bytes().as_slice())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        })
        .await
    }

    /// Up to which change each partition is archived, whoever does it: 1,024 numbers.
    pub(crate) async fn archived_changes(&self) -> Result<Vec<u64>, StoreError> {
        within(async {
            query("SELECT change FROM leases ORDER BY partition")
                .try_map(|row| super::unsigned(&row, 0))
                .fetch_all(&self.pool)
                .await
        })
        .await
    }
}

/// Checks, as a part of the transaction, that the lease is still its holder's. Until the transaction ends nobody can take over.
pub(super) async fn fence(transaction: &mut PgConnection, lease: Lease) -> Result<(), WriteError> {
    let current = query("SELECT 1 FROM leases WHERE partition = $1 AND token = $2 FOR SHARE")
        .bind(lease.partition.cast_signed())
        .bind(lease.token)
        .fetch_optional(transaction)
        .await?;
    current.map(drop).ok_or(WriteError::Stale)
}

/// How many partitions each archiving replica should have.
async fn share(transaction: &mut PgConnection) -> sqlx::Result<i64> {
    query("DELETE FROM archivers WHERE expires_at < clock_timestamp() - interval '1 hour'")
        .execute(&mut *transaction)
        .await?;
    let row = query(
        "SELECT (SELECT count(*) FROM leases), (SELECT count(*) FROM archivers WHERE expires_at > clock_timestamp())",
    )
    .fetch_one(transaction)
    .await?;
    let (partitions, replicas): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    // Rounded up: all shares together are all partitions.
    Ok((partitions + replicas - 1) / replicas.max(1))
}

async fn release_above(transaction: &mut PgConnection, holder: Uuid, share: i64) -> sqlx::Result<()> {
    query(
        "UPDATE leases SET holder = NULL WHERE partition IN
             (SELECT partition FROM leases WHERE holder = $1 ORDER BY partition OFFSET $2)",
    )
    .bind(holder.as_bytes().as_slice())
    .bind(share)
    .execute(transaction)
    .await
    .map(drop)
}

/// A row that is locked belongs to somebody who is taking it, or writing under it: it is left for the next time.
async fn take_up_to(transaction: &mut PgConnection, holder: Uuid, share: i64) -> sqlx::Result<()> {
    query(
        "UPDATE leases SET holder = $1, token = token + 1 WHERE partition IN
             (SELECT partition FROM leases l
              WHERE holder IS DISTINCT FROM $1 AND NOT EXISTS
                  (SELECT 1 FROM archivers a WHERE a.holder = l.holder AND a.expires_at > clock_timestamp())
              ORDER BY partition
              LIMIT greatest(0, $2 - (SELECT count(*) FROM leases WHERE holder = $1))
              FOR UPDATE SKIP LOCKED)",
    )
    .bind(holder.as_bytes().as_slice())
    .bind(share)
    .execute(transaction)
    .await
    .map(drop)
}

async fn held(transaction: &mut PgConnection, holder: Uuid) -> sqlx::Result<BTreeMap<u16, Leased>> {
    let rows = query("SELECT partition, token, change FROM leases WHERE holder = $1")
        .bind(holder.as_bytes().as_slice())
        .fetch_all(transaction)
        .await?;
    rows.iter()
        .map(|row| {
            let leased = Leased {
                token: row.try_get(1)?,
                change: super::unsigned(row, 2)?,
            };
            Ok((row.try_get::<i16, _>(0)?.cast_unsigned(), leased))
        })
        .collect()
}
