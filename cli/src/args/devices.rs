//! `valise devices`.

use clap::{Args, Subcommand};

use crate::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    #[command(subcommand)]
    command: Option<DevicesCommand>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// List them, oldest first.
    List {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Give one another name.
    Rename {
        /// Its id, or the beginning of it.
        device: String,
        /// The new name.
        name: String,
    },
    /// Revoke one, for ever.
    Revoke {
        /// Its id, or the beginning of it.
        device: String,
    },
}

impl DevicesArgs {
    pub(crate) fn into_command(self) -> Result<DevicesCommand, CliError> {
        match self.command {
            None => Ok(DevicesCommand::List { json: self.json }),
            Some(DevicesCommand::List { json }) => Ok(DevicesCommand::List {
                json: json || self.json,
            }),
            Some(_) if self.json => Err(CliError::failed("--json is for the list of devices")),
            Some(command) => Ok(command),
        }
    }
}
