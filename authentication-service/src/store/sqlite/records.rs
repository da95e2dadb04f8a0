//! What is written down: secrets, service certificates, used assertions, revocations, audit events.

use std::time::SystemTime;

use sqlx::{Row, SqliteConnection};
use valise_proto::{DeviceId, UserId};

use super::row::{self, millis, number, unsigned};
use crate::store::{Act, AuditEvent, RevocationPage, ServiceCertificate, StoreError};

/// Most keys of a service that an assertion is tried with.
const MAX_SERVICE_KEYS: u32 = 64;

pub(super) async fn find_secret(
    db: &mut SqliteConnection,
    name: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    let row = sqlx::query("SELECT value FROM secrets WHERE name = ?")
        .bind(name)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| row.try_get("value")).transpose()?)
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
    sqlx::query(
        "INSERT INTO audit_events (number, at, actor, action, subject)
         SELECT coalesce(max(number), 0) + 1, ?, ?, ?, ? FROM audit_events",
    )
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
    let rows = sqlx::query(
        "SELECT number, at, actor, action, subject FROM audit_events WHERE number > ? ORDER BY number LIMIT ?",
    )
    .bind(number(after))
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(row::audit_event).collect()
}

/// The next line of the revocation feed.
pub(super) async fn add_revocation(
    db: &mut SqliteConnection,
    kind: &'static str,
    user: &UserId,
    device: Option<DeviceId>,
    at: SystemTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO revocations (number, kind, user_id, device_id, at)
         SELECT coalesce(max(number), 0) + 1, ?, ?, ?, ? FROM revocations",
    )
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
    let newest = sqlx::query("SELECT coalesce(max(number), 0) AS newest FROM revocations")
        .fetch_one(&mut *db)
        .await?;
    let rows = sqlx::query(
        "SELECT number, kind, user_id, device_id, at FROM revocations WHERE number > ? ORDER BY number LIMIT ?",
    )
    .bind(number(after))
    .bind(limit)
    .fetch_all(db)
    .await?;
    let lines = rows.iter().map(row::revocation).collect::<Result<_, _>>()?;
    Ok(RevocationPage {
        newest: unsigned(&newest, "newest")?,
        lines,
    })
}

/// False where the key belongs to a device or another service.
pub(super) async fn add_service_certificate(
    db: &mut SqliteConnection,
    issued: &ServiceCertificate,
) -> Result<bool, StoreError> {
    sqlx::query(
        "INSERT INTO keys (public_key, service_name) VALUES (?, ?) ON CONFLICT (public_key) DO NOTHING",
    )
    .bind(&issued.public_key)
    .bind(&issued.name)
    .execute(&mut *db)
    .await?;
    let owner = sqlx::query("SELECT service_name FROM keys WHERE public_key = ?")
        .bind(&issued.public_key)
        .fetch_one(&mut *db)
        .await?;
    if owner.try_get::<Option<&str>, _>("service_name")? != Some(&issued.name) {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO service_certificates (public_key, service_name, certificate, expires_at) VALUES (?, ?, ?, ?)",
    )
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
    let rows = sqlx::query(
        "SELECT public_key, max(expires_at) AS until FROM service_certificates WHERE service_name = ? AND expires_at > ?
         GROUP BY public_key ORDER BY until DESC, public_key LIMIT ?",
    )
    .bind(name)
    .bind(millis(at))
    .bind(MAX_SERVICE_KEYS)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok(row.try_get("public_key")?)).collect()
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
