//! Users and the codes made for them.

use std::time::SystemTime;

use sqlx::{Row, SqliteConnection};
use valise_proto::UserId;

use super::row::{self, millis};
use crate::store::{Code, CodeHash, NewCode, StoreError, User};

pub(super) async fn ensure(
    db: &mut SqliteConnection,
    user: &UserId,
    at: SystemTime,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO users (user_id, created_at) VALUES (?, ?) ON CONFLICT (user_id) DO NOTHING")
        .bind(user.as_str())
        .bind(millis(at))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn is_suspended(db: &mut SqliteConnection, user: &UserId) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT suspended FROM users WHERE user_id = ?")
        .bind(user.as_str())
        .fetch_optional(db)
        .await?;
    Ok(row
        .map(|row| row.try_get("suspended"))
        .transpose()?
        .unwrap_or(false))
}

/// Did that change anything?
pub(super) async fn set_suspended(
    db: &mut SqliteConnection,
    user: &UserId,
    suspended: bool,
) -> Result<bool, StoreError> {
    let changed = sqlx::query("UPDATE users SET suspended = ? WHERE user_id = ? AND suspended <> ?")
        .bind(suspended)
        .bind(user.as_str())
        .bind(suspended)
        .execute(db)
        .await?;
    Ok(changed.rows_affected() == 1)
}

pub(super) async fn one(db: &mut SqliteConnection, user: &UserId) -> Result<Option<User>, StoreError> {
    let row = sqlx::query(
        "SELECT user_id, suspended, created_at, (SELECT count(*) FROM devices
             WHERE devices.user_id = users.user_id AND revoked_at IS NULL) AS active_devices
         FROM users WHERE user_id = ?",
    )
    .bind(user.as_str())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(row::user).transpose()
}

pub(super) async fn page(
    db: &mut SqliteConnection,
    after: &str,
    limit: u32,
) -> Result<Vec<User>, StoreError> {
    let rows = sqlx::query(
        "SELECT user_id, suspended, created_at, (SELECT count(*) FROM devices
             WHERE devices.user_id = users.user_id AND revoked_at IS NULL) AS active_devices
         FROM users WHERE user_id > ? ORDER BY user_id LIMIT ?",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(row::user).collect()
}

/// Adds the code, and forgets those that can no longer be used.
pub(super) async fn add_code(
    db: &mut SqliteConnection,
    code: &NewCode,
    at: SystemTime,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM enrolment_codes WHERE expires_at <= ?")
        .bind(millis(at))
        .execute(&mut *db)
        .await?;
    sqlx::query("INSERT INTO enrolment_codes (code_hash, user_id, kind, bootstrap, expires_at) VALUES (?, ?, ?, ?, ?)")
        .bind(&code.hash[..])
        .bind(code.user.as_str())
        .bind(row::kind_name(code.kind))
        .bind(code.bootstrap)
        .bind(millis(code.expires_at))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn void_bootstrap_codes(db: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM enrolment_codes WHERE bootstrap = 1")
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn code(
    db: &mut SqliteConnection,
    hash: &CodeHash,
    at: SystemTime,
) -> Result<Option<Code>, StoreError> {
    let row = sqlx::query(
        "SELECT enrolment_codes.user_id, kind, suspended FROM enrolment_codes JOIN users USING (user_id)
         WHERE code_hash = ? AND expires_at > ?",
    )
    .bind(&hash[..])
    .bind(millis(at))
    .fetch_optional(db)
    .await?;
    row.as_ref().map(row::code).transpose()
}

/// Uses the code up. Was it there?
pub(super) async fn take_code(db: &mut SqliteConnection, hash: &CodeHash) -> Result<bool, StoreError> {
    let taken = sqlx::query("DELETE FROM enrolment_codes WHERE code_hash = ?")
        .bind(&hash[..])
        .execute(db)
        .await?;
    Ok(taken.rows_affected() == 1)
}
