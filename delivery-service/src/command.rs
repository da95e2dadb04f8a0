//! What the process is asked to do.

use std::ffi::OsString;
use std::path::PathBuf;

use valise_sql_database::Database;

use crate::fingerprint::{Fingerprint, fingerprint};
use crate::log::postgres::{self, PostgresArchive};
use crate::suites::Suites;
use crate::{Config, StartError};

/// What the process does, before the name of the configuration file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing was said: it serves.
    Serve,
    /// `migrate`: brings the schema of the database up to date.
    Migrate,
    /// `replace-identity`: from now on replicas have the keys that the settings name. Not needed for a renewed certificate of the same key.
    ReplaceIdentity,
}

/// `valise-delivery-service [migrate | replace-identity] [CONFIGURATION]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// What to do.
    pub command: Command,
    /// The TOML file with the settings; without it they are all in the environment.
    pub configuration: Option<PathBuf>,
}

impl Arguments {
    /// Reads them. The program's name is not one of them.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, StartError> {
        let mut arguments = arguments.into_iter().peekable();
        let mut asked = |name: &str| arguments.next_if(|argument| argument == name).is_some();
        let command = if asked("migrate") {
            Command::Migrate
        } else if asked("replace-identity") {
            Command::ReplaceIdentity
        } else {
            Command::Serve
        };
        let configuration = arguments.next();
        let is_option = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"-");
        if arguments.next().is_some() || configuration.as_ref().is_some_and(is_option) {
            return Err(StartError::Arguments);
        }
        Ok(Self {
            command,
            configuration: configuration.map(PathBuf::from),
        })
    }
}

/// Brings the schema of a PostgreSQL database up to date. An SQLite file needs none of it: the service itself does that
/// at its start.
pub async fn migrate(database: &Database) -> Result<(), StartError> {
    let done = match database {
        Database::Sqlite(_) => {
            "nothing to migrate: an SQLite file is brought up to date when the service starts"
        }
        Database::Postgres(url) => {
            postgres::migrate(url).await?;
            "the database has the schema of this program"
        }
    };
    say(done);
    Ok(())
}

/// Makes the keys that the settings name, with the names in their certificates, those of all replicas. Groups that exist go on naming the
/// former ones: in them the service cannot propose Removes any more, and new devices do not join them.
pub async fn replace_identity(config: &Config) -> Result<(), StartError> {
    let suites = Suites::open(config)?;
    match &config.database {
        Database::Sqlite(_) => say("nothing to replace: with an SQLite file there are no other replicas"),
        Database::Postgres(url) => {
            let archive = PostgresArchive::open(url).await?;
            let replaced = replace_all(&archive, &suites).await;
            archive.close().await;
            for own in replaced? {
                say(&format!("the replicas' fingerprint is {own}"));
            }
        }
    }
    Ok(())
}

async fn replace_all(archive: &PostgresArchive, suites: &Suites) -> Result<Vec<Fingerprint>, StartError> {
    let mut replaced = Vec::new();
    for (kind, external_sender) in suites.external_senders() {
        let own = fingerprint(external_sender)?;
        archive
            .replace_identity(kind, &own)
            .await
            .map_err(StartError::IdentityUnknown)?;
        replaced.push(own);
    }
    Ok(replaced)
}

#[expect(clippy::print_stdout, reason = "the one line for whoever asked for it")]
fn say(done: &str) {
    println!("{done}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Option<(Command, Option<&'static str>)> {
        let parsed = Arguments::parse(arguments.iter().map(OsString::from)).ok()?;
        let configuration = parsed.configuration.map(|file| match file.to_str() {
            Some("a.toml") => "a.toml",
            other => panic!("{other:?}"),
        });
        Some((parsed.command, configuration))
    }

    #[test]
    fn there_are_few_arguments() {
        assert_eq!(parse(&[]), Some((Command::Serve, None)));
        assert_eq!(parse(&["a.toml"]), Some((Command::Serve, Some("a.toml"))));
        for (name, command) in [
            ("migrate", Command::Migrate),
            ("replace-identity", Command::ReplaceIdentity),
        ] {
            assert_eq!(parse(&[name]), Some((command, None)));
            assert_eq!(parse(&[name, "a.toml"]), Some((command, Some("a.toml"))));
        }
        for wrong in [
            &["a.toml", "b.toml"][..],
            &["a.toml", "migrate"],
            &["migrate", "a.toml", "b.toml"],
            &["migrate", "replace-identity", "a.toml"],
            &["--help"],
            &["migrate", "-x"],
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
