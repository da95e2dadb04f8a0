//! Users and the codes made for them.

use std::time::SystemTime;

use sqlx::PgConnection;
use valise_proto::UserId;

use crate::store::row::{CodeRow, UserRow, all, kind_name, millis};
use crate::store::{Code, CodeHash, NewCode, StoreError, User, sql};

pub(super) async fn ensure(db: &mut PgConnection, user: &UserId, at: SystemTime) -> Result<(), StoreError> {
    sqlx::query(sql::ENSURE_USER)
        .bind(user.as_str())
        .bind(millis(at))
        .execute(db)
        .await?;
    Ok(())
}

/// Until the transaction ends the user stays as it is, and nobody else enrols its devices or makes it codes. Is it
/// suspended?
pub(super) async fn lock(db: &mut PgConnection, user: &UserId) -> Result<bool, StoreError> {
    let suspended = sqlx::query_scalar("SELECT suspended FROM users WHERE user_id = $1 FOR NO KEY UPDATE")
        .bind(user.as_str())
        .fetch_optional(db)
        .await?;
    Ok(suspended.unwrap_or(false))
}

/// Did that change anything?
pub(super) async fn set_suspended(
    db: &mut PgConnection,
    user: &UserId,
    suspended: bool,
) -> Result<bool, StoreError> {
    let changed = sqlx::query(sql::SET_SUSPENDED)
        .bind(user.as_str())
        .bind(suspended)
        .execute(db)
        .await?;
    Ok(changed.rows_affected() == 1)
}

pub(super) async fn one(db: &mut PgConnection, user: &UserId) -> Result<Option<User>, StoreError> {
    let row: Option<UserRow> = sqlx::query_as(sql::USER)
        .bind(user.as_str())
        .fetch_optional(db)
        .await?;
    row.map(User::try_from).transpose()
}

pub(super) async fn page(db: &mut PgConnection, after: &str, limit: u32) -> Result<Vec<User>, StoreError> {
    let rows: Vec<UserRow> = sqlx::query_as(sql::USERS)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    all(rows)
}

/// Adds the code, and forgets those that can no longer be used, and what nobody can ask for any more: without waiting for whoever
/// else is at them.
pub(super) async fn add_code(
    db: &mut PgConnection,
    code: &NewCode,
    at: SystemTime,
) -> Result<(), StoreError> {
    for forget in [
        "DELETE FROM enrolment_codes WHERE code_hash IN
             (SELECT code_hash FROM enrolment_codes WHERE expires_at <= $1 FOR UPDATE SKIP LOCKED)",
        "DELETE FROM enrolment_answers WHERE code_hash IN
             (SELECT code_hash FROM enrolment_answers WHERE expires_at <= $1 FOR UPDATE SKIP LOCKED)",
    ] {
        sqlx::query(forget).bind(millis(at)).execute(&mut *db).await?;
    }
    sqlx::query(sql::ADD_CODE)
        .bind(&code.hash[..])
        .bind(code.user.as_str())
        .bind(kind_name(code.kind))
        .bind(code.bootstrap)
        .bind(millis(code.expires_at))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn void_bootstrap_codes(db: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query(sql::VOID_BOOTSTRAP_CODES).execute(db).await?;
    Ok(())
}

pub(super) async fn code(
    db: &mut PgConnection,
    hash: &CodeHash,
    at: SystemTime,
) -> Result<Option<Code>, StoreError> {
    let row: Option<CodeRow> = sqlx::query_as(sql::CODE)
        .bind(&hash[..])
        .bind(millis(at))
        .fetch_optional(db)
        .await?;
    row.map(Code::try_from).transpose()
}

/// Uses the code up, and says until when (milliseconds) it could have been; `None` where it was not there.
pub(super) async fn take_code(db: &mut PgConnection, hash: &CodeHash) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(sql::TAKE_CODE)
        .bind(&hash[..])
        .fetch_optional(db)
        .await?)
}
