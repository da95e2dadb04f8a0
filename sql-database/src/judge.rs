//! What a service must not run on: an old server, a replica, one that forgets, another schema.

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgRow};

use crate::{OpenError, PostgresUrl};

/// The oldest server that is tested: `server_version_num`.
const OLDEST: i64 = 140_000;
/// Each must not be off, or a crash may take back what was answered.
const DURABILITY: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

pub(crate) async fn server(url: &PostgresUrl, connection: &mut PgConnection) -> Result<(), OpenError> {
    let failed = |error| OpenError::connecting(url, &error);
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'), pg_is_in_recovery()",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let place = url.place();
    version(&place, row.get(0), row.get(1))?;
    if row.get(2) {
        return Err(OpenError::Replica { place });
    }
    for setting in DURABILITY {
        let row = sqlx::query("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        if row.get::<&str, _>(0) == "off" {
            return Err(OpenError::Unsafe { place, setting });
        }
    }
    Ok(())
}

fn version(place: &str, number: i64, text: String) -> Result<(), OpenError> {
    if number >= OLDEST {
        return Ok(());
    }
    Err(OpenError::TooOld {
        place: place.to_owned(),
        found: text,
    })
}

/// The schema must be exactly what all the migrations make.
pub(crate) async fn schema(
    url: &PostgresUrl,
    connection: &mut PgConnection,
    migrations: &Migrator,
) -> Result<(), OpenError> {
    let (place, needed) = (url.place(), newest(migrations));
    let rows = applied(connection)
        .await
        .map_err(|error| OpenError::connecting(url, &error))?;
    let version = |row: &PgRow| row.get::<i64, _>("version");
    let Some(found) = rows.last().map(version) else {
        return Err(OpenError::OlderSchema {
            place,
            found: "no schema".to_owned(),
            needed,
        });
    };
    if found > needed {
        return Err(OpenError::NewerSchema { place, found, needed });
    }
    let missing = migrations
        .iter()
        .any(|migration| !rows.iter().any(|row| version(row) == migration.version));
    if found < needed || missing {
        return Err(OpenError::OlderSchema {
            place,
            found: format!(
                "schema version {found}{}",
                if found < needed { "" } else { " in part" }
            ),
            needed,
        });
    }
    let changed = rows.iter().find(|row| {
        let same = migrations.iter().any(|known| {
            known.version == version(row) && *known.checksum == *row.get::<&[u8], _>("checksum")
        });
        !same || !row.get::<bool, _>("success")
    });
    changed.map_or(Ok(()), |row| {
        Err(OpenError::ChangedSchema {
            place,
            version: version(row),
        })
    })
}

/// The migrations that were run, oldest first.
async fn applied(connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
    let table: bool = sqlx::query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?
        .get(0);
    if !table {
        return Ok(Vec::new());
    }
    sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")
        .fetch_all(connection)
        .await
}

/// The version of the newest migration.
pub(crate) fn newest(migrations: &Migrator) -> i64 {
    let versions = migrations.iter().map(|migration| migration.version);
    versions.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        assert!(version("db:5432/a", 140_000, "14.0".into()).is_ok());
        let error = version("db:5432/a", 130_014, "13.14".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "setting database: PostgreSQL at db:5432/a is version 13.14: 14 or newer is needed"
        );
    }
}
