//! Locks of what has no row of its own. They are held until the transaction has ended.

use sqlx::PgConnection;

use crate::store::StoreError;

/// In the order in which they are taken. The database is the service's own, so that nobody else has these numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lock {
    /// Was there ever an administrator? Bootstrap codes.
    Administrators = 1,
    /// The next number of the revocation feed.
    Revocations = 2,
    /// The next number of the audit log.
    AuditEvents = 3,
}

pub(super) async fn take(db: &mut PgConnection, lock: Lock) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(lock as i64)
        .execute(db)
        .await?;
    Ok(())
}
