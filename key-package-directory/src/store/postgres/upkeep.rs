//! Deleting: what a device takes back, what was revoked, what has ended.

use sqlx::{Connection as _, PgConnection};
use valise_proto::DeviceId;

use super::{key, keys, stored};
use crate::store::{StoreError, Swept, Usable};

pub(super) async fn delete(device: DeviceId, connection: &mut PgConnection) -> Result<u64, StoreError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT FROM device WHERE id = $1 FOR UPDATE")
        .bind(key(device))
        .execute(&mut *transaction)
        .await?;
    let deleted = sqlx::query("DELETE FROM key_package WHERE device = $1")
        .bind(key(device))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(deleted.rows_affected())
}

/// A device that is marked cannot publish: those that were marked before have nothing to delete.
pub(super) async fn purge(devices: &[DeviceId], connection: &mut PgConnection) -> Result<u64, StoreError> {
    const NEW: &str =
        "SELECT id FROM device WHERE id = ANY ($1::bytea[]) AND NOT revoked ORDER BY id FOR UPDATE";
    const PACKAGES: &str = "DELETE FROM key_package WHERE device = ANY ($1::bytea[])";
    // What was seen matters only for the next publish, which there will not be.
    const REST: [&str; 3] = [
        "DELETE FROM seen_init_key WHERE device = ANY ($1::bytea[])",
        "DELETE FROM published_suite WHERE device = ANY ($1::bytea[])",
        "UPDATE device SET revoked = true WHERE id = ANY ($1::bytea[])",
    ];
    let mut transaction = connection.begin().await?;
    let new: Vec<Vec<u8>> = sqlx::query_scalar(NEW)
        .bind(keys(devices))
        .fetch_all(&mut *transaction)
        .await?;
    if new.is_empty() {
        return Ok(0);
    }
    let purged = sqlx::query(PACKAGES)
        .bind(&new)
        .execute(&mut *transaction)
        .await?;
    for statement in REST {
        sqlx::query(statement)
            .bind(&new)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(purged.rows_affected())
}

/// What another replica is deleting is left to it.
pub(super) async fn sweep(
    now: u64,
    usable: Usable,
    limit: u32,
    connection: &mut PgConnection,
) -> Result<Swept, StoreError> {
    const BY_END: &str = "
        DELETE FROM key_package WHERE number = ANY (ARRAY(
            SELECT number FROM key_package WHERE not_after < $1
            ORDER BY not_after LIMIT $2 FOR UPDATE SKIP LOCKED))";
    const BY_CERTIFICATE_END: &str = "
        DELETE FROM key_package WHERE number = ANY (ARRAY(
            SELECT number FROM key_package WHERE certificate_not_after < $1
            ORDER BY certificate_not_after LIMIT $2 FOR UPDATE SKIP LOCKED))";
    const INIT_KEYS: &str = "
        DELETE FROM seen_init_key WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM seen_init_key WHERE not_after < $1
            ORDER BY not_after LIMIT $2 FOR UPDATE SKIP LOCKED))";
    let mut delete = async |statement: &'static str, before, limit: u64| {
        let deleted = sqlx::query(statement)
            .bind(stored(before))
            .bind(stored(limit))
            .execute(&mut *connection)
            .await?;
        Ok::<_, StoreError>(deleted.rows_affected())
    };
    let limit = u64::from(limit);
    let ended = delete(BY_END, usable.not_after_from, limit).await?;
    let rest = limit.saturating_sub(ended);
    let without_certificate = delete(BY_CERTIFICATE_END, usable.certificate_not_after_from, rest).await?;
    Ok(Swept {
        packages: ended + without_certificate,
        init_keys: delete(INIT_KEYS, now, limit).await?,
    })
}
