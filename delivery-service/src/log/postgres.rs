//! The durable half of the production store: snapshots, and every group's log as the archiver copied it out of Redis.
//!
//! Nothing is decided here. Positions, epochs and who won were settled in Redis; a row is written once it can no longer be taken
//! back there, by the holder of its partition's lease, who names the lease's token in the same transaction ([`lease`]).

pub(crate) mod acknowledge;
pub(crate) mod identity;
pub(crate) mod keys;
pub(crate) mod lease;
pub(crate) mod offers;
pub(crate) mod read;
pub(crate) mod reports;
pub(crate) mod reset;
pub(crate) mod restore;
pub(crate) mod retention;
pub(crate) mod trim;
pub(crate) mod write;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{Row, query};
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId};
use valise_sql_database::{OpenError, PostgresUrl};

use super::{Head, Snapshot, StoreError};

/// The schema.
pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");
/// Connections of one replica, at most.
const CONNECTIONS: u32 = 16;

/// How long connections may take to end.
const CLOSE: Duration = Duration::from_secs(2);

/// Snapshots and archived logs in PostgreSQL.
#[derive(Clone, Debug)]
pub(crate) struct PostgresArchive {
    pool: PgPool,
}

/// A group as the archive knows it: up to its newest archived entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ArchivedGroup {
    pub(crate) group: GroupId,
    /// The archive's own name for it.
    pub(crate) number: i64,
    /// Where it stands, as far as it is archived; frozen, where its log in Redis is known to be another one.
    pub(crate) head: Head,
    /// The id of the newest archived entry; the origin while there is none.
    pub(crate) entry_id: EntryId,
    /// Up to here (inclusive) its entries have left Redis.
    pub(crate) trimmed: Position,
    /// When its newest archived entry was accepted, in milliseconds since 1970-01-01 UTC.
    pub(crate) accepted_at: u64,
    /// The key of its creation, where it is known.
    pub(crate) creation_key: Option<IdempotencyKey>,
    /// How often it was repaired.
    pub(crate) repairs: i32,
}

/// A group that the archive learns of.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) group: GroupId,
    pub(crate) partition: u16,
    pub(crate) origin: EntryId,
    pub(crate) creation_key: Option<IdempotencyKey>,
    /// Its first member, where it is known.
    pub(crate) creator: Option<(UserId, DeviceId)>,
    /// GroupInfo of epoch 0, where it is known.
    pub(crate) group_info: Option<Bytes>,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    pub(crate) at: u64,
}

const GROUP: &str =
    "SELECT number, group_id, origin, position, entry_id, epoch, commit_position, proposal_position,
     accepted_at, creation_key, regressed_at IS NOT NULL, trimmed, repairs FROM groups";

impl PostgresArchive {
    /// Connects; refuses a server or a schema that it must not run on.
    pub(crate) async fn open(url: &PostgresUrl) -> Result<Self, OpenError> {
        let pool = valise_sql_database::open(url, &MIGRATIONS, CONNECTIONS).await?;
        Ok(Self { pool })
    }

    /// Ends all connections.
    pub(crate) async fn close(&self) {
        // One that hangs must not keep the service from stopping.
        let _ = tokio::time::timeout(CLOSE, self.pool.close()).await;
    }

    /// What is known of a group.
    pub(crate) async fn group(&self, group: GroupId) -> Result<Option<ArchivedGroup>, StoreError> {
        Ok(self.groups(&[group]).await?.pop())
    }

    /// What is known of these groups, in no order; one that is not known is left out.
    pub(crate) async fn groups(&self, groups: &[GroupId]) -> Result<Vec<ArchivedGroup>, StoreError> {
        let ids: Vec<&[u8]> = groups.iter().map(|group| group.as_bytes().as_slice()).collect();
        within(async {
            query(sqlx::AssertSqlSafe(format!("{GROUP} WHERE group_id = ANY($1)")))
                .bind(ids)
                .try_map(|row| archived_group(&row))
                .fetch_all(&self.pool)
                .await
        })
        .await
    }

    /// The groups of a partition after a number, by number.
    pub(crate) async fn groups_of(
        &self,
        partition: u16,
        after: i64,
        max: usize,
    ) -> Result<Vec<ArchivedGroup>, StoreError> {
        within(async {
            query(sqlx::AssertSqlSafe(format!(
                "{GROUP} WHERE partition = $1 AND number > $2 ORDER BY number LIMIT $3"
            )))
            .bind(partition.cast_signed())
            .bind(after)
            .bind(max as i64)
            .try_map(|row| archived_group(&row))
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// Takes note of a group, so that it is missed if Redis loses it. One that is known stays as it is.
    pub(crate) async fn register(&self, registration: &Registration) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.pool.begin().await?;
            let number: Option<i64> = query(
                "INSERT INTO groups (group_id, partition, creation_key, origin, entry_id, accepted_at)
                 VALUES ($1, $2, $3, $4, $4, $5)
                 ON CONFLICT (group_id) DO UPDATE SET creation_key = coalesce(groups.creation_key, excluded.creation_key)
                     WHERE groups.origin = excluded.origin
                 RETURNING number",
            )
            .bind(registration.group.as_bytes().as_slice())
            .bind(registration.partition.cast_signed())
            .bind(registration.creation_key.as_ref().map(|key| key.as_bytes().as_slice()))
            .bind(registration.origin.as_bytes().as_slice())
            .bind(registration.at.cast_signed())
            .try_map(|row: PgRow| row.try_get(0))
            .fetch_optional(&mut *transaction)
            .await?;
            if let Some(number) = number {
                beginnings(&mut transaction, number, registration).await?;
            }
            transaction.commit().await
        })
        .await
    }

    /// Keeps a snapshot.
    pub(crate) async fn put_snapshot(&self, group: GroupId, snapshot: &Snapshot) -> Result<(), StoreError> {
        within(async {
            query(
                "INSERT INTO snapshots (group_id, epoch, anchor, position, state) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (group_id, epoch, anchor) DO NOTHING",
            )
            .bind(group.as_bytes().as_slice())
            .bind(snapshot.epoch.0.cast_signed())
            .bind(snapshot.anchor.as_bytes().as_slice())
            .bind(snapshot.position.0.cast_signed())
            .bind(snapshot.state.as_ref())
            .execute(&self.pool)
            .await
        })
        .await
        .map(drop)
    }

    /// The newest snapshots up to an epoch (inclusive), newest first.
    pub(crate) async fn snapshots(
        &self,
        group: GroupId,
        origin: EntryId,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<Snapshot>, StoreError> {
        within(async {
            query(
                "SELECT epoch, position, anchor, state FROM snapshots
                 WHERE group_id = $1 AND epoch <= $2 AND (epoch > 0 OR anchor = $3)
                 ORDER BY epoch DESC LIMIT $4",
            )
            .bind(group.as_bytes().as_slice())
            .bind(up_to.0.cast_signed())
            .bind(origin.as_bytes().as_slice())
            .bind(max as i64)
            .try_map(|row| {
                Ok(Snapshot {
                    epoch: Epoch(unsigned(&row, 0)?),
                    position: position(&row, 1)?,
                    anchor: entry_id(&row, 2)?,
                    state: bytes(&row, 3)?,
                })
            })
            .fetch_all(&self.pool)
            .await
        })
        .await
    }
}

/// What a group has before its first commit.
async fn beginnings(
    transaction: &mut PgConnection,
    number: i64,
    registration: &Registration,
) -> sqlx::Result<()> {
    if let Some((user, device)) = &registration.creator {
        query(
            "INSERT INTO windows (group_number, device, user_id, joined_at) VALUES ($1, $2, $3, 0)
             ON CONFLICT DO NOTHING",
        )
        .bind(number)
        .bind(device.as_uuid().as_bytes().as_slice())
        .bind(user.as_str())
        .execute(&mut *transaction)
        .await?;
    }
    if let Some(group_info) = &registration.group_info {
        query(
            "INSERT INTO group_infos (group_number, epoch, commit_position, group_info) VALUES ($1, 0, 0, $2)
             ON CONFLICT DO NOTHING",
        )
        .bind(number)
        .bind(group_info.as_ref())
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}

/// Runs the migrations.
pub(crate) async fn migrate(url: &PostgresUrl) -> Result<(), OpenError> {
    valise_sql_database::migrate(url, &MIGRATIONS).await
}

/// One use of the database, with an end to waiting.
async fn within<T>(work: impl Future<Output = sqlx::Result<T>>) -> Result<T, StoreError> {
    let done = valise_sql_database::within(work).await;
    done.map_err(|error| store_error(&error))
}

fn store_error(error: &sqlx::Error) -> StoreError {
    StoreError(format!("PostgreSQL: {error}"))
}

fn archived_group(row: &PgRow) -> sqlx::Result<ArchivedGroup> {
    let key: Option<Vec<u8>> = row.try_get(9)?;
    let creation_key = key
        .map(|key| IdempotencyKey::try_from(key.as_slice()).map_err(|_| damaged("creation key")))
        .transpose()?;
    Ok(ArchivedGroup {
        number: row.try_get(0)?,
        group: group_id(row, 1)?,
        head: Head {
            origin: entry_id(row, 2)?,
            position: position(row, 3)?,
            epoch: Epoch(unsigned(row, 5)?),
            commit_position: position(row, 6)?,
            proposal_position: position(row, 7)?,
            frozen: row.try_get(10)?,
            // Whether Redis has closed it, Redis knows.
            reset: false,
        },
        entry_id: entry_id(row, 4)?,
        trimmed: position(row, 11)?,
        accepted_at: unsigned(row, 8)?,
        creation_key,
        repairs: row.try_get(12)?,
    })
}

/// A value that cannot be what was written is an error, never a guess.
fn damaged(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("damaged {what}").into())
}

fn signed(partitions: &[u16]) -> Vec<i16> {
    partitions
        .iter()
        .map(|partition| partition.cast_signed())
        .collect()
}

fn unsigned(row: &PgRow, index: usize) -> sqlx::Result<u64> {
    row.try_get::<i64, _>(index).map(i64::cast_unsigned)
}

fn position(row: &PgRow, index: usize) -> sqlx::Result<Position> {
    unsigned(row, index).map(Position)
}

fn entry_id(row: &PgRow, index: usize) -> sqlx::Result<EntryId> {
    EntryId::try_from(row.try_get::<&[u8], _>(index)?).map_err(|_| damaged("entry id"))
}

fn group_id(row: &PgRow, index: usize) -> sqlx::Result<GroupId> {
    GroupId::try_from(row.try_get::<&[u8], _>(index)?).map_err(|_| damaged("group id"))
}

fn device_id(row: &PgRow, index: usize) -> sqlx::Result<DeviceId> {
    let bytes: [u8; 16] = row.try_get(index)?;
    Ok(DeviceId::from_uuid(valise_proto::Uuid::from_bytes(bytes)))
}

fn user_id(row: &PgRow, index: usize) -> sqlx::Result<UserId> {
    let text: &str = row.try_get(index)?;
    text.parse().map_err(|_| damaged("user id"))
}

fn bytes(row: &PgRow, index: usize) -> sqlx::Result<Bytes> {
    row.try_get::<Vec<u8>, _>(index).map(Bytes::from)
}
