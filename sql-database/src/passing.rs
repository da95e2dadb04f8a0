//! Which errors of PostgreSQL pass.

use sqlx::postgres::PgDatabaseError;

/// Will it pass, or is it unknown whether the change was made? Else the statement itself is at fault.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // https://www.postgresql.org/docs/current/errcodes-appendix.html: connection, resources, operator intervention,
        // system error; a primary that became a replica, a transaction that stood still.
        error => sqlstate(error).is_some_and(|code| {
            ["08", "53", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
                || ["25006", "25P03"].contains(&code)
        }),
    }
}

/// Did the transaction lose against another one (serialization failure, deadlock)? Nothing was changed: try it again.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| ["40001", "40P01"].contains(&code))
}

/// PostgreSQL's own code; other databases' errors have codes too, which mean something else.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::code)
}
