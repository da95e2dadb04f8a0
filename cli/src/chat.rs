//! `valise chat`: a conversation, on the whole screen of a terminal, or line by line where input or output is none.
//!
//! On the screen: [`model`] is all that is shown and changes with what happens, without a terminal; [`view`] draws it; [`run`] brings
//! keys, events, what the device remembers and outcomes together. What other people wrote passes [`text`] before it is drawn.

mod command;
mod history;
mod input;
mod keys;
mod message;
mod model;
mod orders;
mod plain;
mod run;
mod screen;
mod text;
mod view;

use std::io::IsTerminal;

use crate::args::ChatArgs;
use crate::error::CliError;
use crate::profile::Profile;

pub(crate) async fn run(arguments: ChatArgs, profile: &Profile) -> Result<(), CliError> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if terminal && !arguments.plain {
        return run::run(arguments.group, profile).await;
    }
    match arguments.group {
        Some(group) => plain::run(&group, profile).await,
        None => Err(CliError::failed("name the group: valise chat GROUP")),
    }
}
