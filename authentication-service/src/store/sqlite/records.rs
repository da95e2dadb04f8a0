//! What is written down: secrets, service certificates, used assertions, revocations, audit events.

use std::time::SystemTime;

use sqlx::SqliteConnection;
use valise_proto::{DeviceId, UserId};

use super::devices::claim_key;
use crate::store::row::{AuditEventRow, RevocationRow, all, millis, number, unsigned};
use crate::store::{Act, AuditEvent, RevocationPage, ServiceCertificate, StoreError, sql};

pub(super) async fn find_secret(
    db: &mut SqliteConnection,
    name: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar(sql::FIND_SECRET)
        .bind(name)
        .fetch_optional(db)
        .await?)
}

pub(super) async fn add_secret(
    db: &mut SqliteConnection,
    name: &str,
    secret: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO secrets (name, value) VALUES (?, ?)")
        .bind(name)
        .bind(secret)
        .execute(db)
        .await?;
    Ok(())
}

/// The next line of the audit log.
pub(super) async fn write_down(db: &mut SqliteConnection, act: &Act) -> Result<(), StoreError> {
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
    db: &mut SqliteConnection,
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
    db: &mut SqliteConnection,
    kind: &'static str,
    user: &UserId,
    device: Option<DeviceId>,
    at: SystemTime,
) -> Result<(), StoreError> {
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
    db: &mut SqliteConnection,
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
    db: &mut SqliteConnection,
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
    db: &mut SqliteConnection,
    name: &str,
    at: SystemTime,
) -> Result<Vec<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar(sql::SERVICE_KEYS)
        .bind(name)
        .bind(millis(at))
        .fetch_all(db)
        .await?)
}

pub(super) async fn use_assertion(
    db: &mut SqliteConnection,
    subject: &str,
    jti: &str,
    expires_at: SystemTime,
    at: SystemTime,
) -> Result<bool, StoreError> {
    sqlx::query("DELETE FROM used_assertions WHERE expires_at <= ?")
        .bind(millis(at))
        .execute(&mut *db)
        .await?;
    let used = sqlx::query(
        "INSERT INTO used_assertions (subject, jti, expires_at) VALUES (?, ?, ?) ON CONFLICT (subject, jti) DO NOTHING",
    )
    .bind(subject)
    .bind(jti)
    .bind(millis(expires_at))
    .execute(db)
    .await?;
    Ok(used.rows_affected() == 1)
}
