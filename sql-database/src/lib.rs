//! Where a service keeps its rows: one SQLite file, or a PostgreSQL database of its own.
//!
//! For PostgreSQL it opens the pool, refuses in one line what a service must not run on (an older or newer schema, a
//! replica, settings under which an answered change may be lost), runs migrations, and tells errors that pass from those
//! that do not. What the rows are is the services' own business.

mod postgres;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use sqlx::postgres::PgConnectOptions;

pub use postgres::{OpenError, is_conflict, is_unavailable, migrate, open, reachable};

/// The setting `database`: the path of an SQLite file, or `postgres://user:password@host:port/name`.
///
/// TLS to PostgreSQL is asked for in the URL: `?sslmode=verify-full`, with `&sslrootcert=FILE` for an authority of one's own.
#[derive(Clone, Debug)]
pub enum Database {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which belongs to one service alone.
    Postgres(PostgresUrl),
}

impl FromStr for Database {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => PgConnectOptions::from_str(text)
                .map(|options| Self::Postgres(PostgresUrl(Box::new(options))))
                .map_err(|_| "not a URL of the form postgres://user:password@host:port/name"),
            Some(_) => Err("neither the path of a file nor a postgres:// URL"),
            None if text.is_empty() => Err("the path of a file, or a postgres:// URL"),
            None => Ok(Self::Sqlite(PathBuf::from(text))),
        }
    }
}

impl From<PathBuf> for Database {
    fn from(file: PathBuf) -> Self {
        Self::Sqlite(file)
    }
}

impl<'de> Deserialize<'de> for Database {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// How to reach a PostgreSQL database. Shown without user and password.
#[derive(Clone)]
pub struct PostgresUrl(Box<PgConnectOptions>);

impl PostgresUrl {
    /// Host, port and database.
    pub fn place(&self) -> String {
        let database = self.0.get_database().unwrap_or("(the user's own)");
        format!("{}:{}/{database}", self.0.get_host(), self.0.get_port())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}", self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_a_file_or_a_server() {
        assert!(
            matches!("data/delivery.db".parse(), Ok(Database::Sqlite(path)) if path == PathBuf::from("data/delivery.db"))
        );
        assert!(matches!(
            "postgres://valise@db:5433/delivery".parse(),
            Ok(Database::Postgres(_))
        ));
        for wrong in ["", "mysql://db/delivery", "postgres://[::1"] {
            assert!(wrong.parse::<Database>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let database: Database = "postgres://valise:hush@db:5433/delivery?sslmode=require"
            .parse()
            .unwrap();
        assert_eq!(format!("{database:?}"), "Postgres(postgres://db:5433/delivery)");
    }
}
