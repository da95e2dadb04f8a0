//! Where a service keeps its rows: one SQLite file, or a PostgreSQL database of its own.
//!
//! For PostgreSQL it opens the pool, refuses in one line what a service must not run on (an older or newer schema, a
//! replica, settings under which an answered change may be lost), runs migrations, and tells errors that pass from those
//! that do not. Of an SQLite file it says whether it was closed in order. What the rows are is the services' own business.

mod clean_end;
mod judge;
mod open_error;
mod passing;
mod postgres;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use sqlx::postgres::PgConnectOptions;

pub use clean_end::{ended_cleanly, note_clean_end};
pub use open_error::OpenError;
pub use passing::{is_conflict, is_unavailable};
pub use postgres::{migrate, open, reachable, within};

/// What may be asked for in a URL. What is misspelt would be left out without a word, an `sslmode` too.
const PARAMETERS: [&str; 6] = [
    "application_name",
    "options",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
];

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
            Some(("postgres" | "postgresql", _)) => text.parse().map(Self::Postgres),
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
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.0
    }

    /// Host, port and database.
    pub fn place(&self) -> String {
        let database = self.0.get_database().unwrap_or("(the user's own)");
        format!("{}:{}/{database}", self.0.get_host(), self.0.get_port())
    }
}

impl FromStr for PostgresUrl {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let mut parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        if !parameters.all(|parameter| {
            PARAMETERS.contains(&parameter.split_once('=').map_or(parameter, |(name, _)| name))
        }) {
            return Err(
                "a URL with an unknown parameter: sslmode, sslrootcert, sslcert, sslkey, options and application_name are known",
            );
        }
        PgConnectOptions::from_str(url)
            .map(|options| Self(Box::new(options)))
            .map_err(|_| "not a URL of the form postgres://user:password@host:port/name")
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
            matches!("data/delivery.db".parse(), Ok(Database::Sqlite(path)) if path == std::path::Path::new("data/delivery.db"))
        );
        assert!(matches!(
            "postgres://valise@db:5433/delivery?sslmode=verify-full&sslrootcert=/ca.pem".parse(),
            Ok(Database::Postgres(_))
        ));
        for wrong in [
            "",
            "mysql://db/delivery",
            "postgres://[::1",
            "postgres://db/a?sslmod=verify-full",
            "postgres://db/a?sslmode=sometimes",
            "postgres://db/a?sslmode=require&password=hush",
        ] {
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
