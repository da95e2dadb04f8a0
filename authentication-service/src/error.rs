//! Why the service does not start, and why it refuses a request.

use std::path::PathBuf;

use valise_proto::{Reason, Refusal};

use crate::store::StoreError;

/// Why the service cannot start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used.
    #[error("cannot use the database {}: {reason}", file.display())]
    Database {
        /// The database.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A setting is not usable.
    #[error("configuration: {setting}: {problem}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The root certificate or its key cannot be used.
    #[error("cannot use the root certificate: {0}")]
    Root(&'static str),
    /// The key that access tokens are signed with cannot be used.
    #[error("cannot use the access token signing key: it is damaged")]
    SigningKey,
    /// The store answered, but not as it should.
    #[error("cannot read from the store")]
    Store,
    /// The requests cannot be served.
    #[error(transparent)]
    Serve(#[from] valise_service_runtime::ServeError),
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The caller is told why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not do its work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signature could not be made.
    #[error("cannot sign: {0}")]
    Signing(&'static str),
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason.into())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal,
            Error::Store(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(%error, "store unavailable");
                Reason::StoreUnavailable.into()
            }
            Error::Store(error @ (StoreError::Failed(_) | StoreError::Damaged(_))) => {
                tracing::error!(%error, "store failed");
                Reason::Internal.into()
            }
            error @ Error::Signing(_) => {
                tracing::error!(%error, "signing failed");
                Reason::Internal.into()
            }
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Refusal::from(error).into()
    }
}
