//! Rows to what they mean, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use valise_access_token::{Revocation, RevocationSubject};
use valise_proto::{DeviceId, UserId};

use crate::store::{AuditEvent, Device, DeviceKind, StoreError, User};

pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// SQLite's integers are signed. What does not fit is above every number there is.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Damaged(column))
}

fn user_id(row: &SqliteRow) -> Result<UserId, StoreError> {
    row.try_get::<&str, _>("user_id")?
        .parse()
        .map_err(|_| StoreError::Damaged("user_id"))
}

fn device_id(row: &SqliteRow) -> Result<DeviceId, StoreError> {
    row.try_get::<&str, _>("device_id")?
        .parse()
        .map_err(|_| StoreError::Damaged("device_id"))
}

pub(super) fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Device => "device",
        DeviceKind::Administrator => "administrator",
    }
}

pub(super) fn kind(row: &SqliteRow) -> Result<DeviceKind, StoreError> {
    match row.try_get("kind")? {
        "device" => Ok(DeviceKind::Device),
        "administrator" => Ok(DeviceKind::Administrator),
        _ => Err(StoreError::Damaged("kind")),
    }
}

pub(super) fn code(row: &SqliteRow) -> Result<crate::store::Code, StoreError> {
    Ok(crate::store::Code {
        user: user_id(row)?,
        kind: kind(row)?,
        user_suspended: row.try_get("suspended")?,
    })
}

pub(super) fn device(row: &SqliteRow) -> Result<Device, StoreError> {
    Ok(Device {
        id: device_id(row)?,
        user: user_id(row)?,
        name: row.try_get("name")?,
        kind: kind(row)?,
        public_key: row.try_get("public_key")?,
        enrolled_at: time(row.try_get("enrolled_at")?),
        certificate_expires_at: time(row.try_get("certificate_expires_at")?),
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(time),
        user_suspended: row.try_get("suspended")?,
    })
}

pub(super) fn user(row: &SqliteRow) -> Result<User, StoreError> {
    Ok(User {
        id: user_id(row)?,
        suspended: row.try_get("suspended")?,
        active_devices: row.try_get("active_devices")?,
        created_at: time(row.try_get("created_at")?),
    })
}

pub(super) fn revocation(row: &SqliteRow) -> Result<Revocation, StoreError> {
    let user = user_id(row)?;
    let subject = match row.try_get("kind")? {
        "device" => RevocationSubject::Device {
            user,
            device: device_id(row)?,
        },
        "suspended" => RevocationSubject::Suspended { user },
        "resumed" => RevocationSubject::Resumed { user },
        _ => return Err(StoreError::Damaged("kind")),
    };
    Ok(Revocation {
        number: unsigned(row, "number")?,
        subject,
        at: time(row.try_get("at")?),
    })
}

pub(super) fn audit_event(row: &SqliteRow) -> Result<AuditEvent, StoreError> {
    Ok(AuditEvent {
        number: unsigned(row, "number")?,
        at: time(row.try_get("at")?),
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
    })
}
