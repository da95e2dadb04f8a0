//! Opening PostgreSQL, and what its errors mean.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Row};

use crate::PostgresUrl;

/// The oldest server that is tested: `server_version_num`.
const OLDEST: i64 = 140_000;
/// How long a caller waits for a connection before the store counts as unreachable.
const ACQUIRE: Duration = Duration::from_secs(5);

/// Why a PostgreSQL database cannot be used. One line each, for operators, without user and password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No answer.
    #[error("PostgreSQL at {place} cannot be reached: {reason}")]
    Unreachable {
        /// Host, port and database.
        place: String,
        /// Why.
        reason: String,
    },
    /// It answers, and lets nobody in.
    #[error("PostgreSQL at {place} refuses the connection (setting database): {reason}")]
    Refused {
        /// Host, port and database.
        place: String,
        /// What the server says.
        reason: String,
    },
    /// Too old a server.
    #[error("PostgreSQL at {place} is version {found}: 14 or newer is needed")]
    TooOld {
        /// Host, port and database.
        place: String,
        /// Its version.
        found: String,
    },
    /// A standby.
    #[error("PostgreSQL at {place} is a read-only replica: name the primary in the setting database")]
    Replica {
        /// Host, port and database.
        place: String,
    },
    /// An answered change may be lost.
    #[error("PostgreSQL at {place} has {setting} = off: an answered change may be lost; it must be on")]
    Unsafe {
        /// Host, port and database.
        place: String,
        /// The server's setting.
        setting: &'static str,
    },
    /// No schema, or an older one.
    #[error(
        "PostgreSQL at {place} has {found}, and this program needs schema version {needed}: run it with `migrate`"
    )]
    OlderSchema {
        /// Host, port and database.
        place: String,
        /// What it has.
        found: String,
        /// What it should have.
        needed: i64,
    },
    /// Written by a newer program.
    #[error(
        "PostgreSQL at {place} has schema version {found}, newer than this program's ({needed}): use a newer program"
    )]
    NewerSchema {
        /// Host, port and database.
        place: String,
        /// What it has.
        found: i64,
        /// What this program knows.
        needed: i64,
    },
    /// Not the schema that the migration made, or one that was left half done.
    #[error(
        "PostgreSQL at {place}: migration {version} is not the one that this program knows, or did not end"
    )]
    ChangedSchema {
        /// Host, port and database.
        place: String,
        /// Which migration.
        version: i64,
    },
    /// A migration failed.
    #[error("PostgreSQL at {place}: the migration failed: {reason}")]
    Migration {
        /// Host, port and database.
        place: String,
        /// Why.
        reason: String,
    },
}

impl OpenError {
    fn of(url: &PostgresUrl, error: &sqlx::Error) -> Self {
        let (place, reason) = (url.place(), one_line(error));
        match error {
            sqlx::Error::Database(_) | sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => {
                Self::Refused { place, reason }
            }
            _ => Self::Unreachable { place, reason },
        }
    }
}

fn one_line(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error => error.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}

/// Connects, judges server and schema, and returns a pool of at most so many connections.
pub async fn open(url: &PostgresUrl, migrations: &Migrator, connections: u32) -> Result<PgPool, OpenError> {
    let mut connection = connect(url).await?;
    judge_server(url, &mut connection).await?;
    judge_schema(url, &mut connection, migrations).await?;
    // It may have gone already.
    let _ = connection.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .connect_lazy_with((*url.0).clone()))
}

/// Brings the schema up to date. Safe to run at the same time as another one; refuses a newer schema.
pub async fn migrate(url: &PostgresUrl, migrations: &Migrator) -> Result<(), OpenError> {
    let mut connection = connect(url).await?;
    judge_server(url, &mut connection).await?;
    let place = url.place();
    migrations
        .run(&mut connection)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(found) => OpenError::NewerSchema {
                place,
                found,
                needed: newest(migrations),
            },
            MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
                OpenError::ChangedSchema { place, version }
            }
            error => OpenError::Migration {
                place,
                reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
            },
        })
}

/// Does the store answer? For readiness.
pub async fn reachable(pool: &PgPool) -> bool {
    sqlx::query("SELECT 1").execute(pool).await.is_ok()
}

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
        // system error, read-only transaction (a primary that became a replica).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "25006"
        }),
        _ => false,
    }
}

/// Did the transaction lose against another one (serialization failure, deadlock)? Nothing was changed: try it again.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == "40001" || code == "40P01")
}

async fn connect(url: &PostgresUrl) -> Result<PgConnection, OpenError> {
    match tokio::time::timeout(ACQUIRE, PgConnection::connect_with(&url.0)).await {
        Ok(connected) => connected.map_err(|error| OpenError::of(url, &error)),
        Err(_) => Err(OpenError::Unreachable {
            place: url.place(),
            reason: format!("no answer within {} s", ACQUIRE.as_secs()),
        }),
    }
}

async fn judge_server(url: &PostgresUrl, connection: &mut PgConnection) -> Result<(), OpenError> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'),
                pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'),
                current_setting('synchronous_commit')",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| OpenError::of(url, &error))?;
    let place = url.place();
    if row.get::<i64, _>(0) < OLDEST {
        return Err(OpenError::TooOld {
            place,
            found: row.get(1),
        });
    }
    if row.get::<bool, _>(2) {
        return Err(OpenError::Replica { place });
    }
    for (index, setting) in [(3, "fsync"), (4, "full_page_writes"), (5, "synchronous_commit")] {
        if row.get::<String, _>(index) == "off" {
            return Err(OpenError::Unsafe { place, setting });
        }
    }
    Ok(())
}

async fn judge_schema(
    url: &PostgresUrl,
    connection: &mut PgConnection,
    migrations: &Migrator,
) -> Result<(), OpenError> {
    let fail = |error: sqlx::Error| OpenError::of(url, &error);
    let needed = newest(migrations);
    let has_table: bool = sqlx::query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(fail)?
        .get(0);
    let rows = if has_table {
        sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut *connection)
            .await
            .map_err(fail)?
    } else {
        Vec::new()
    };
    let found = rows.last().map(|row| row.get::<i64, _>(0));
    match found {
        None => {
            return Err(OpenError::OlderSchema {
                place: url.place(),
                found: "no schema".to_owned(),
                needed,
            });
        }
        Some(found) if found > needed => {
            return Err(OpenError::NewerSchema {
                place: url.place(),
                found,
                needed,
            });
        }
        Some(found) if found < needed => {
            return Err(OpenError::OlderSchema {
                place: url.place(),
                found: format!("schema version {found}"),
                needed,
            });
        }
        Some(_) => {}
    }
    for row in rows {
        let version = row.get::<i64, _>(0);
        let known = migrations.iter().find(|migration| migration.version == version);
        let same = known.is_some_and(|known| known.checksum.as_ref() == row.get::<Vec<u8>, _>(2));
        if !same || !row.get::<bool, _>(1) {
            return Err(OpenError::ChangedSchema {
                place: url.place(),
                version,
            });
        }
    }
    Ok(())
}

fn newest(migrations: &Migrator) -> i64 {
    migrations
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}
