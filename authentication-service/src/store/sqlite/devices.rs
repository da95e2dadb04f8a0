//! Devices and their keys.

use std::time::SystemTime;

use sqlx::{Row, SqliteConnection};
use valise_proto::{DeviceId, UserId};

use super::row::{self, kind_name, millis};
use super::users;
use crate::store::{CodeHash, Device, EnrolOutcome, MAX_DEVICES, NewDevice, RenewOutcome, StoreError};

/// Uses up the code and makes the device; changes that are not committed unless it answers `Enrolled`.
pub(super) async fn enrol(
    db: &mut SqliteConnection,
    hash: &CodeHash,
    device: &NewDevice,
    at: SystemTime,
) -> Result<EnrolOutcome, StoreError> {
    let Some(code) = users::code(&mut *db, hash, at).await? else {
        return Ok(EnrolOutcome::CodeUnusable);
    };
    if code.user_suspended {
        return Ok(EnrolOutcome::UserSuspended);
    }
    if is_key_known(&mut *db, &device.public_key).await? {
        return Ok(EnrolOutcome::KeyInUse);
    }
    if count(&mut *db, &code.user).await? >= MAX_DEVICES {
        return Ok(EnrolOutcome::TooManyDevices);
    }
    if !users::take_code(&mut *db, hash).await? {
        return Ok(EnrolOutcome::CodeUnusable);
    }
    sqlx::query(
        "INSERT INTO devices (device_id, user_id, name, kind, public_key, enrolled_at, certificate_expires_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(device.id.to_string())
    .bind(code.user.as_str())
    .bind(&device.name)
    .bind(kind_name(code.kind))
    .bind(&device.public_key)
    .bind(millis(at))
    .bind(millis(device.certificate_expires_at))
    .execute(&mut *db)
    .await?;
    bind_key(db, device.id, &device.public_key).await?;
    Ok(EnrolOutcome::Enrolled)
}

pub(super) async fn renew(
    db: &mut SqliteConnection,
    device: DeviceId,
    public_key: &[u8],
    certificate_expires_at: SystemTime,
) -> Result<RenewOutcome, StoreError> {
    let owner = sqlx::query("SELECT device_id FROM keys WHERE public_key = ?")
        .bind(public_key)
        .fetch_optional(&mut *db)
        .await?
        .map(|row| row.try_get::<Option<String>, _>("device_id"))
        .transpose()?;
    let name = device.to_string();
    match owner {
        Some(owner) if owner.as_deref() != Some(&name) => return Ok(RenewOutcome::KeyInUse),
        _ => {}
    }
    let is_new = owner.is_none();
    let changed = sqlx::query(
        "UPDATE devices SET public_key = ?, certificate_expires_at = ? WHERE device_id = ? AND revoked_at IS NULL",
    )
    .bind(public_key)
    .bind(millis(certificate_expires_at))
    .bind(&name)
    .execute(&mut *db)
    .await?;
    if changed.rows_affected() != 1 {
        return Ok(RenewOutcome::NoSuchDevice);
    }
    if is_new {
        bind_key(db, device, public_key).await?;
    }
    Ok(RenewOutcome::Renewed)
}

async fn bind_key(db: &mut SqliteConnection, device: DeviceId, public_key: &[u8]) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO keys (public_key, device_id) VALUES (?, ?)")
        .bind(public_key)
        .bind(device.to_string())
        .execute(db)
        .await?;
    Ok(())
}

async fn is_key_known(db: &mut SqliteConnection, public_key: &[u8]) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT 1 FROM keys WHERE public_key = ?")
        .bind(public_key)
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}

async fn count(db: &mut SqliteConnection, user: &UserId) -> Result<u32, StoreError> {
    let row = sqlx::query("SELECT count(*) AS devices FROM devices WHERE user_id = ?")
        .bind(user.as_str())
        .fetch_one(db)
        .await?;
    Ok(row.try_get("devices")?)
}

/// Was an administrator ever enrolled?
pub(super) async fn any_administrator(db: &mut SqliteConnection) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT 1 FROM devices WHERE kind = 'administrator' LIMIT 1")
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}

pub(super) async fn one(db: &mut SqliteConnection, device: DeviceId) -> Result<Option<Device>, StoreError> {
    let row = sqlx::query(
        "SELECT device_id, devices.user_id, name, kind, public_key, enrolled_at, certificate_expires_at, revoked_at, suspended
         FROM devices JOIN users USING (user_id) WHERE device_id = ?",
    )
    .bind(device.to_string())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(row::device).transpose()
}

pub(super) async fn of_user(db: &mut SqliteConnection, user: &UserId) -> Result<Vec<Device>, StoreError> {
    let rows = sqlx::query(
        "SELECT device_id, devices.user_id, name, kind, public_key, enrolled_at, certificate_expires_at, revoked_at, suspended
         FROM devices JOIN users USING (user_id) WHERE devices.user_id = ? ORDER BY enrolled_at, device_id",
    )
    .bind(user.as_str())
    .fetch_all(db)
    .await?;
    rows.iter().map(row::device).collect()
}

/// Was there such a device of that user?
pub(super) async fn rename(
    db: &mut SqliteConnection,
    device: DeviceId,
    user: &UserId,
    name: &str,
) -> Result<bool, StoreError> {
    let changed = sqlx::query("UPDATE devices SET name = ? WHERE device_id = ? AND user_id = ?")
        .bind(name)
        .bind(device.to_string())
        .bind(user.as_str())
        .execute(db)
        .await?;
    Ok(changed.rows_affected() == 1)
}

pub(super) async fn revoke(
    db: &mut SqliteConnection,
    device: DeviceId,
    at: SystemTime,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE devices SET revoked_at = ? WHERE device_id = ? AND revoked_at IS NULL")
        .bind(millis(at))
        .bind(device.to_string())
        .execute(db)
        .await?;
    Ok(())
}
