//! Opens the database, or says in one line why not.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteError, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Row, migrate};
use valise_sql_database::ended_cleanly;

use super::Sqlite;
use crate::StartError;

static MIGRATIONS: Migrator = migrate!("migrations/sqlite");

/// How long to wait for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);
/// How long a request may wait for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

pub(super) async fn file(file: &Path) -> Result<Sqlite, StartError> {
    create(file)?;
    let as_it_was_closed = ended_cleanly(file);
    let options = options(file);
    let writer = async {
        let writer = pool(1).connect_with(options.clone()).await?;
        if !as_it_was_closed {
            check(&writer).await?;
        }
        MIGRATIONS.run(&writer).await.map_err(Problem::Migration)?;
        Ok(writer)
    };
    let writer = writer.await.map_err(|problem| start_error(file, &problem))?;
    let readers = pool(READERS).connect_lazy_with(options.pragma("query_only", "1"));
    Ok(Sqlite {
        writer,
        readers,
        file: Some(file.to_owned()),
    })
}

#[cfg(test)]
pub(super) async fn memory() -> Result<Sqlite, StartError> {
    let memory = Path::new(":memory:");
    let open = async {
        // Each connection to a database in memory has its own: there must be one, and it must not be replaced.
        let only = pool(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options(memory).in_memory(true))
            .await?;
        MIGRATIONS.run(&only).await.map_err(Problem::Migration)?;
        Ok(only)
    };
    let only: SqlitePool = open.await.map_err(|problem| start_error(memory, &problem))?;
    Ok(Sqlite {
        writer: only.clone(),
        readers: only,
        file: None,
    })
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        // An enrolment or a revocation that was answered must survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("secure_delete", "on")
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
}

/// The file holds private keys: it is made readable by its owner alone before SQLite writes to it. SQLite gives its
/// side files the same permissions.
fn create(file: &Path) -> Result<(), StartError> {
    let unusable = |reason: &str| StartError::Database {
        file: file.to_owned(),
        reason: reason.to_owned(),
    };
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => unusable("its directory does not exist"),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                unusable("it cannot be written to")
            }
            ErrorKind::IsADirectory => unusable("it is a directory"),
            kind => unusable(&kind.to_string()),
        }),
    }
}

enum Problem {
    Damaged,
    Sql(sqlx::Error),
    Migration(MigrateError),
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// SQLite notices damage only when it comes across it: better now than in the middle of an enrolment.
async fn check(writer: &SqlitePool) -> Result<(), Problem> {
    let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(writer).await?;
    if row.try_get::<&str, _>(0)? == "ok" {
        Ok(())
    } else {
        Err(Problem::Damaged)
    }
}

/// SQLite's code without what it calls its extension. Other databases' codes mean something else.
pub(super) fn primary_code(error: &(dyn DatabaseError + 'static)) -> Option<u32> {
    let error = error.try_downcast_ref::<SqliteError>()?;
    error.code()?.parse::<u32>().ok().map(|code| code & 0xff)
}

fn start_error(file: &Path, problem: &Problem) -> StartError {
    let sql = |error: &sqlx::Error| match error {
        sqlx::Error::Database(database) => match primary_code(database.as_ref()) {
            Some(5 | 6) => "it is locked by another process".to_owned(),
            Some(8) => "it cannot be written to".to_owned(),
            Some(10) => "it cannot be read or written".to_owned(),
            Some(11 | 26) => "it is damaged or is not a database".to_owned(),
            Some(13) => "the disk is full".to_owned(),
            Some(14) => "it cannot be opened".to_owned(),
            _ => format!("it cannot be used ({})", database.message()),
        },
        sqlx::Error::PoolTimedOut => "it is locked by another process".to_owned(),
        error => format!("it cannot be used ({error})"),
    };
    let reason = match problem {
        Problem::Damaged => "it is damaged or is not a database".to_owned(),
        Problem::Sql(error)
        | Problem::Migration(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
            sql(error)
        }
        Problem::Migration(MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..)) => {
            "it was made by a newer version of Valise".to_owned()
        }
        Problem::Migration(error) => format!("its schema is not that of this version ({error})"),
    };
    StartError::Database {
        file: file.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::store::Store;

    async fn reason(file: &Path) -> String {
        match Sqlite::open(file).await {
            Err(error @ StartError::Database { .. }) => error.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it opened"),
        }
    }

    fn only_line(text: &str, end: &str) {
        assert!(text.ends_with(end), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_refused_in_one_clear_line() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/a.db");
        only_line(&reason(&missing).await, "its directory does not exist");
        only_line(&reason(directory.path()).await, "it is a directory");
        let garbage = directory.path().join("garbage.db");
        fs::write(&garbage, "not a database at all ".repeat(500)).unwrap();
        only_line(&reason(&garbage).await, "it is damaged or is not a database");
    }

    #[tokio::test]
    async fn what_is_answered_is_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&directory.path().join("a.db")).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&store.writer)
            .await
            .unwrap();
        let journal_mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&store.writer)
            .await
            .unwrap();
        assert_eq!((synchronous, journal_mode.as_str()), (2, "wal"), "2 is FULL");
    }

    #[tokio::test]
    async fn a_newer_schema_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.db");
        let store = Sqlite::open(&file).await.unwrap();
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', 1, x'00', 0)",
        )
        .execute(&store.writer)
        .await
        .unwrap();
        store.writer.close().await;
        only_line(&reason(&file).await, "it was made by a newer version of Valise");
    }

    #[tokio::test]
    async fn a_damaged_page_is_found_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.db");
        let store = Sqlite::open(&file).await.unwrap();
        // So that everything is in the main file.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&store.writer)
            .await
            .unwrap();
        store.readers.close().await;
        store.writer.close().await;
        let mut bytes = fs::read(&file).unwrap();
        for byte in bytes.iter_mut().skip(4096) {
            *byte ^= 0x5a;
        }
        fs::write(&file, bytes).unwrap();
        only_line(&reason(&file).await, "it is damaged or is not a database");
    }

    #[tokio::test]
    async fn a_file_that_was_closed_in_order_is_not_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.db");
        let store = Sqlite::open(&file).await.unwrap();
        let index: i64 =
            sqlx::query_scalar("SELECT rootpage FROM sqlite_schema WHERE name = 'enrolment_answers_by_end'")
                .fetch_one(&store.writer)
                .await
                .unwrap();
        store.close().await;
        // Damage that only reading everything tells of: size and time are as they were.
        let damaged = fs::File::options().write(true).open(&file).unwrap();
        let before = damaged.metadata().unwrap();
        damaged
            .write_all_at(&[0xaa; 4096], (index.cast_unsigned() - 1) * 4096)
            .unwrap();
        damaged.set_modified(before.modified().unwrap()).unwrap();
        Sqlite::open(&file).await.unwrap().close().await;

        // Without the note of its end, as after a crash.
        assert!(ended_cleanly(&file));
        only_line(&reason(&file).await, "it is damaged or is not a database");
    }

    #[tokio::test]
    async fn a_locked_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.db");
        let holder = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(
                SqliteConnectOptions::new()
                    .filename(&file)
                    .create_if_missing(true),
            )
            .await
            .unwrap();
        let _lock = holder.begin_with("BEGIN EXCLUSIVE").await.unwrap();
        only_line(&reason(&file).await, "it is locked by another process");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.db");
        let _store = Sqlite::open(&file).await.unwrap();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_directory_that_cannot_be_written_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
        if fs::write(directory.path().join("probe"), "").is_ok() {
            return; // root may write anywhere
        }
        only_line(
            &reason(&directory.path().join("a.db")).await,
            "it cannot be written to",
        );
    }
}
