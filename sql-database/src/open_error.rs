//! Why a PostgreSQL database cannot be used.

use sqlx::migrate::MigrateError;

use crate::PostgresUrl;
use crate::passing::sqlstate;

/// Why a PostgreSQL database cannot be used. One line each, for operators, without user and password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No answer.
    #[error("setting database: PostgreSQL at {place} cannot be reached: {reason}")]
    Unreachable {
        /// Host, port and database.
        place: String,
        /// Why.
        reason: String,
    },
    /// It answers, and lets nobody in.
    #[error("setting database: PostgreSQL at {place} refuses the connection: {reason}")]
    Refused {
        /// Host, port and database.
        place: String,
        /// What the server says.
        reason: String,
    },
    /// Too old a server.
    #[error("setting database: PostgreSQL at {place} is version {found}: 14 or newer is needed")]
    TooOld {
        /// Host, port and database.
        place: String,
        /// Its version.
        found: String,
    },
    /// A standby.
    #[error("setting database: PostgreSQL at {place} is a read-only replica: name the primary")]
    Replica {
        /// Host, port and database.
        place: String,
    },
    /// An answered change may be lost.
    #[error(
        "setting database: PostgreSQL at {place} has {setting} = off: an answered change may be lost; it must be on"
    )]
    Unsafe {
        /// Host, port and database.
        place: String,
        /// The server's setting.
        setting: &'static str,
    },
    /// No schema, or an older one.
    #[error(
        "setting database: PostgreSQL at {place} has {found}, and this program needs schema version {needed}: run it with `migrate`"
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
        "setting database: PostgreSQL at {place} has schema version {found}, newer than this program's ({needed}): use a newer program"
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
        "setting database: PostgreSQL at {place}: migration {version} is not the one that this program knows, or did not end"
    )]
    ChangedSchema {
        /// Host, port and database.
        place: String,
        /// Which migration.
        version: i64,
    },
    /// A migration failed.
    #[error("setting database: PostgreSQL at {place}: the migration failed: {reason}")]
    Migration {
        /// Host, port and database.
        place: String,
        /// Why.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn connecting(url: &PostgresUrl, error: &sqlx::Error) -> Self {
        let place = url.place();
        match error {
            sqlx::Error::Database(_) => Self::Refused {
                place,
                reason: refusal(error),
            },
            sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => Self::Refused {
                place,
                reason: first_line(error),
            },
            sqlx::Error::Io(error) => Self::Unreachable {
                place,
                reason: first_line(error),
            },
            error => Self::Unreachable {
                place,
                reason: first_line(error),
            },
        }
    }

    pub(crate) fn migrating(url: &PostgresUrl, newest: i64, error: &MigrateError) -> Self {
        let place = url.place();
        match *error {
            MigrateError::VersionMissing(found) if found > newest => Self::NewerSchema {
                place,
                found,
                needed: newest,
            },
            MigrateError::VersionMissing(version)
            | MigrateError::VersionMismatch(version)
            | MigrateError::Dirty(version) => Self::ChangedSchema { place, version },
            ref error => Self::Migration {
                place,
                reason: first_line(error),
            },
        }
    }
}

/// In our words: the server's own name the user.
fn refusal(error: &sqlx::Error) -> String {
    match sqlstate(error).unwrap_or_default() {
        "28000" | "28P01" => "wrong user or password, or not let in by its pg_hba.conf".to_owned(),
        "3D000" => "there is no such database".to_owned(),
        "42501" => "the user lacks a privilege".to_owned(),
        "53300" => "it has too many connections".to_owned(),
        "57P03" => "it is starting up or shutting down".to_owned(),
        code => format!("error {code}"),
    }
}

fn first_line(error: &dyn std::error::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
