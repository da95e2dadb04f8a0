//! Devices and their keys.

use std::time::SystemTime;

use sqlx::SqliteConnection;
use valise_proto::{DeviceId, UserId};

use super::users;
use crate::store::row::{AnswerRow, DeviceRow, KeyOwner, all, kind_name, millis};
use crate::store::{
    Answer, CodeHash, Device, EnrolOutcome, MAX_DEVICES, NewDevice, RenewOutcome, StoreError, sql,
};

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
    if count(&mut *db, &code.user).await? >= MAX_DEVICES.into() {
        return Ok(EnrolOutcome::TooManyDevices);
    }
    let Some(code_expires_at) = users::take_code(&mut *db, hash).await? else {
        return Ok(EnrolOutcome::CodeUnusable);
    };
    let id = device.id.to_string();
    sqlx::query(sql::ADD_DEVICE)
        .bind(&id)
        .bind(code.user.as_str())
        .bind(&device.name)
        .bind(kind_name(code.kind))
        .bind(&device.public_key)
        .bind(millis(at))
        .bind(millis(device.certificate_expires_at))
        .execute(&mut *db)
        .await?;
    sqlx::query(sql::KEEP_ANSWER)
        .bind(&hash[..])
        .bind(&id)
        .bind(&device.public_key)
        .bind(device.chain.concat())
        .bind(code_expires_at.min(millis(device.certificate_expires_at)))
        .execute(&mut *db)
        .await?;
    if claim_key(db, &device.public_key, Some(&id), None).await? {
        Ok(EnrolOutcome::Enrolled)
    } else {
        Ok(EnrolOutcome::KeyInUse)
    }
}

pub(super) async fn answer(
    db: &mut SqliteConnection,
    hash: &CodeHash,
    public_key: &[u8],
    at: SystemTime,
) -> Result<Option<Answer>, StoreError> {
    let row: Option<AnswerRow> = sqlx::query_as(sql::ANSWER)
        .bind(&hash[..])
        .bind(public_key)
        .bind(millis(at))
        .fetch_optional(db)
        .await?;
    row.map(Answer::try_from).transpose()
}

/// Changes that are not committed unless it answers `Renewed`.
pub(super) async fn renew(
    db: &mut SqliteConnection,
    device: DeviceId,
    public_key: &[u8],
    certificate_expires_at: SystemTime,
) -> Result<RenewOutcome, StoreError> {
    let id = device.to_string();
    let changed = sqlx::query(sql::RENEW)
        .bind(&id)
        .bind(public_key)
        .bind(millis(certificate_expires_at))
        .execute(&mut *db)
        .await?;
    if changed.rows_affected() != 1 {
        return Ok(RenewOutcome::NoSuchDevice);
    }
    if claim_key(db, public_key, Some(&id), None).await? {
        Ok(RenewOutcome::Renewed)
    } else {
        Ok(RenewOutcome::KeyInUse)
    }
}

/// Makes the key that of this device or service. False where it is another's.
pub(super) async fn claim_key(
    db: &mut SqliteConnection,
    public_key: &[u8],
    device: Option<&str>,
    service: Option<&str>,
) -> Result<bool, StoreError> {
    sqlx::query(sql::ADD_KEY)
        .bind(public_key)
        .bind(device)
        .bind(service)
        .execute(&mut *db)
        .await?;
    let owner: KeyOwner = sqlx::query_as(sql::KEY_OWNER)
        .bind(public_key)
        .fetch_one(db)
        .await?;
    Ok(owner.is(device, service))
}

async fn is_key_known(db: &mut SqliteConnection, public_key: &[u8]) -> Result<bool, StoreError> {
    let row = sqlx::query(sql::FIND_KEY)
        .bind(public_key)
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}

async fn count(db: &mut SqliteConnection, user: &UserId) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(sql::COUNT_DEVICES)
        .bind(user.as_str())
        .fetch_one(db)
        .await?)
}

/// Was an administrator ever enrolled?
pub(super) async fn any_administrator(db: &mut SqliteConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query(sql::ANY_ADMINISTRATOR)
        .fetch_optional(db)
        .await?
        .is_some())
}

pub(super) async fn one(db: &mut SqliteConnection, device: DeviceId) -> Result<Option<Device>, StoreError> {
    let row: Option<DeviceRow> = sqlx::query_as(sql::DEVICE)
        .bind(device.to_string())
        .fetch_optional(db)
        .await?;
    row.map(Device::try_from).transpose()
}

pub(super) async fn of_user(db: &mut SqliteConnection, user: &UserId) -> Result<Vec<Device>, StoreError> {
    let rows: Vec<DeviceRow> = sqlx::query_as(sql::DEVICES)
        .bind(user.as_str())
        .fetch_all(db)
        .await?;
    all(rows)
}

/// Was there such a device of that user?
pub(super) async fn rename(
    db: &mut SqliteConnection,
    device: DeviceId,
    user: &UserId,
    name: &str,
) -> Result<bool, StoreError> {
    let changed = sqlx::query(sql::RENAME)
        .bind(device.to_string())
        .bind(user.as_str())
        .bind(name)
        .execute(db)
        .await?;
    Ok(changed.rows_affected() == 1)
}

pub(super) async fn revoke(
    db: &mut SqliteConnection,
    device: DeviceId,
    at: SystemTime,
) -> Result<(), StoreError> {
    sqlx::query(sql::REVOKE)
        .bind(device.to_string())
        .bind(millis(at))
        .execute(db)
        .await?;
    Ok(())
}
