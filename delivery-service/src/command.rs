//! What the process is asked to do.

use std::ffi::OsString;
use std::path::PathBuf;

use valise_sql_database::Database;

use crate::log::postgres;
use crate::{Config, StartError};

/// `valise-delivery-service [migrate] [CONFIGURATION]`: serve, or bring the schema of the database up to date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// To bring the schema up to date, and no more.
    pub migrate: bool,
    /// The TOML file with the settings; without it they are all in the environment.
    pub configuration: Option<PathBuf>,
}

impl Arguments {
    /// Reads them. The program's name is not one of them.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, StartError> {
        let mut arguments = arguments.into_iter().peekable();
        let migrate = arguments.next_if(|argument| argument == "migrate").is_some();
        let configuration = arguments.next();
        let is_option = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"-");
        if arguments.next().is_some() || configuration.as_ref().is_some_and(is_option) {
            return Err(StartError::Arguments);
        }
        Ok(Self {
            migrate,
            configuration: configuration.map(PathBuf::from),
        })
    }
}

/// Brings the schema of a PostgreSQL database up to date. An SQLite file needs none of it: the service itself does that
/// at its start.
pub async fn migrate(config: &Config) -> Result<(), StartError> {
    let done = match &config.database {
        Database::Sqlite(_) => {
            "nothing to migrate: an SQLite file is brought up to date when the service starts"
        }
        Database::Postgres(url) => {
            postgres::migrate(url).await?;
            "the database has the schema of this program"
        }
    };
    #[expect(clippy::print_stdout, reason = "the one line for whoever asked for it")]
    {
        println!("{done}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Option<(bool, Option<&'static str>)> {
        let parsed = Arguments::parse(arguments.iter().map(OsString::from)).ok()?;
        let configuration = parsed.configuration.map(|file| match file.to_str() {
            Some("a.toml") => "a.toml",
            other => panic!("{other:?}"),
        });
        Some((parsed.migrate, configuration))
    }

    #[test]
    fn there_are_few_arguments() {
        assert_eq!(parse(&[]), Some((false, None)));
        assert_eq!(parse(&["a.toml"]), Some((false, Some("a.toml"))));
        assert_eq!(parse(&["migrate"]), Some((true, None)));
        assert_eq!(parse(&["migrate", "a.toml"]), Some((true, Some("a.toml"))));
        for wrong in [
            &["a.toml", "b.toml"][..],
            &["a.toml", "migrate"],
            &["migrate", "a.toml", "b.toml"],
            &["--help"],
            &["migrate", "-x"],
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
