//! Why a command failed: one line, and exit code 1.

use std::io;

use valise_client_sdk::{Error, WhatNow};
use valise_service_runtime::TelemetryError;

use crate::up::UpError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("{error}{}", advice(error))]
    Client {
        #[from]
        error: Error,
    },
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// In its own words.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing: doing.into(),
            source,
        }
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }

    /// Whoever read the output does not want more of it: no reason to complain.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The one line that is shown.
    pub(crate) fn line(&self) -> String {
        crate::out::printable(&self.to_string().replace('\n', " "))
    }
}

/// What to do, where the error does not say so itself.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::StoreInUse => ": another valise uses this profile",
        Error::NotEnrolled => ": see `valise enrol --help`",
        Error::AlreadyEnrolled => ": use another --profile",
        _ => match error.what_now() {
            WhatNow::Retry => " (try again later)",
            WhatNow::CatchUp => " (try again)",
            WhatNow::Rejoin => " (the device has to be added again)",
            WhatNow::Denied | WhatNow::Bug => "",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(CliError::failed("a\nb").line(), "a b");
    }

    #[test]
    fn errors_say_what_to_do() {
        assert_eq!(
            CliError::from(Error::StoreInUse).line(),
            "the store is in use: another valise uses this profile"
        );
        assert_eq!(
            CliError::from(Error::Unreachable).line(),
            "the server cannot be reached (try again later)"
        );
    }
}
