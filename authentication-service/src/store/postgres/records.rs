//! What is written down: secrets, service certificates, used assertions, revocations, audit events.

use std::time::SystemTime;

use sqlx::PgConnection;
use valise_proto::{DeviceId, UserId};

use super::devices::claim_key;
use super::lock::{self, Lock};
use crate::store::row::{AuditEventRow, RevocationRow, all, millis, number, unsigned};
use crate::store::{Act, AuditEvent, RevocationPage, ServiceCertificate, StoreError, sql};

pub(super) async fn find_secret(db: &mut PgConnection, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar(sql::FIND_SECRET)
        .bind(name)
        .fetch_optional(db)
        .await?)
}

/// Of those who come at the same time, the others wait for the first, and get its secret.
pub(super) async fn keep_secret(
    db: &mut PgConnection,
    name: &str,
    fresh: &[u8],
) -> Result<Vec<u8>, StoreError> {
    sqlx::query("INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(fresh)
        .execute(&mut *db)
        .await?;
    Ok(sqlx::query_scalar(sql::FIND_SECRET)
        .bind(name)
        .fetch_one(db)
        .await?)
}

/// The next line of the audit log. The last thing a transaction does: it keeps all others that write one waiting.
pub(super) async fn write_down(db: &mut PgConnection, act: &Act) -> Result<(), StoreError> {
    lock::take(&mut *db, Lock::AuditEvents).await?;
    sqlx::query(sql::ADD_AUDIT_EVENT)
        .bind(millis(act.at))
        .bind(&act.actor)
        .bind(act.action)
        .bind(&act.subject)
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn audit_events(
    db: &mut PgConnection,
    after: u64,
    limit: u32,
) -> Result<Vec<AuditEvent>, StoreError> {
    let rows: Vec<AuditEventRow> = sqlx::query_as(sql::AUDIT_EVENTS)
        .bind(number(after))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    all(rows)
}

/// The next line of the revocation feed.
pub(super) async fn add_revocation(
    db: &mut PgConnection,
    kind: &'static str,
    user: &UserId,
    device: Option<DeviceId>,
    at: SystemTime,
) -> Result<(), StoreError> {
    lock::take(&mut *db, Lock::Revocations).await?;
    sqlx::query(sql::ADD_REVOCATION)
        .bind(kind)
        .bind(user.as_str())
        .bind(device.map(|device| device.to_string()))
        .bind(millis(at))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn revocations(
    db: &mut PgConnection,
    after: u64,
    limit: u32,
) -> Result<RevocationPage, StoreError> {
    let newest = sqlx::query_scalar(sql::NEWEST_REVOCATION)
        .fetch_one(&mut *db)
        .await?;
    let rows: Vec<RevocationRow> = sqlx::query_as(sql::REVOCATIONS)
        .bind(number(after))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    Ok(RevocationPage {
        newest: unsigned(newest, "newest")?,
        lines: all(rows)?,
    })
}

/// False where the key belongs to a device or another service.
pub(super) async fn add_service_certificate(
    db: &mut PgConnection,
    issued: &ServiceCertificate,
) -> Result<bool, StoreError> {
    if !claim_key(&mut *db, &issued.public_key, None, Some(&issued.name)).await? {
        return Ok(false);
    }
    sqlx::query(sql::ADD_SERVICE_CERTIFICATE)
        .bind(&issued.public_key)
        .bind(&issued.name)
        .bind(&issued.certificate)
        .bind(millis(issued.expires_at))
        .execute(db)
        .await?;
    Ok(true)
}

pub(super) async fn service_keys(
    db: &mut PgConnection,
    name: &str,
    at: SystemTime,
) -> Result<Vec<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar(sql::SERVICE_KEYS)
        .bind(name)
        .bind(millis(at))
        .fetch_all(db)
        .await?)
}

/// One statement, for it is part of every token that is issued. It forgets a bounded number of others, and does not wait
/// for whoever else does.
pub(super) async fn use_assertion(
    db: &mut PgConnection,
    subject: &str,
    jti: &str,
    expires_at: SystemTime,
    at: SystemTime,
) -> Result<bool, StoreError> {
    let used = sqlx::query(
        "WITH forgotten AS (
             DELETE FROM used_assertions WHERE (subject, jti) IN
                 (SELECT subject, jti FROM used_assertions WHERE expires_at <= $4 AND (subject, jti) <> ($1, $2)
                  ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED))
         INSERT INTO used_assertions (subject, jti, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (subject, jti) DO UPDATE SET expires_at = excluded.expires_at
             WHERE used_assertions.expires_at <= $4",
    )
    .bind(subject)
    .bind(jti)
    .bind(millis(expires_at))
    .bind(millis(at))
    .execute(db)
    .await?;
    Ok(used.rows_affected() == 1)
}
