//! Why the service does not start, and why it refuses a request.

use std::path::PathBuf;

use valise_proto::{Reason, Refusal};
use valise_sql_database::OpenError;

use crate::store::StoreError;

/// Why the service cannot start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process was asked for something else than it does.
    #[error(
        "usage: valise-authentication-service [migrate | bootstrap USER | identity SERVICE KEY-FILE CHAIN-FILE | identity-p256 SERVICE KEY-FILE CHAIN-FILE] [CONFIGURATION]"
    )]
    Usage,
    /// What was asked for is refused.
    #[error(transparent)]
    Refused(Refusal),
    /// There is no first administrator any more.
    #[error("an administrator has enrolled: ask one for a code")]
    Bootstrapped,
    /// A certificate is renewed for the key that is there; what is something else must not be written over.
    #[error(
        "the files for the key and the certificate exist already, and are not a key of that kind with a certificate of that service"
    )]
    OtherIdentity,
    /// The key or the certificate cannot be written.
    #[error("the files for the key and the certificate cannot be written")]
    IdentityNotWritten,
    /// The SQLite file cannot be used.
    #[error("cannot use the database {}: {reason}", file.display())]
    Database {
        /// The database.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The PostgreSQL database cannot be used.
    #[error(transparent)]
    Postgres(#[from] OpenError),
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
