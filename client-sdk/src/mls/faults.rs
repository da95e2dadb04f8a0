//! Faults of the store inside openmls's errors. They pass: what met one is done again, and is neither bad nor impossible.

use std::fmt::Display;

use openmls::group::{
    CommitBuilderStageError, ExternalCommitBuilderError, ExternalCommitBuilderFinalizeError, LeaveGroupError,
    MergeCommitError, MergePendingCommitError, NewGroupError, WelcomeError,
};
use openmls::prelude::CreationFromExternalError;

use crate::Error;

/// An error of openmls that may be the store's fault.
pub(crate) trait MlsError: Display + Sized {
    /// The store's fault; or the error, if it is another one.
    fn into_fault(self) -> Result<rusqlite::Error, Self>;
}

/// What an error of openmls is to the SDK: a fault of the store, or one of MLS.
pub(crate) fn failed<E: MlsError>(doing: &'static str) -> impl FnOnce(E) -> Error {
    move |error| match error.into_fault() {
        Ok(fault) => fault.into(),
        Err(error) => Error::mls(doing)(&error),
    }
}

macro_rules! faults {
    ($($error:ident { $($fault:pat => $found:expr),+ $(,)? })+) => {
        $(
            impl MlsError for $error<rusqlite::Error> {
                fn into_fault(self) -> Result<rusqlite::Error, Self> {
                    match self {
                        $($fault => Ok($found),)+
                        other => Err(other),
                    }
                }
            }
        )+
    };
}

faults! {
    NewGroupError {
        Self::StorageError(fault) => fault,
    }
    LeaveGroupError {
        Self::StorageError(fault) => fault,
    }
    CommitBuilderStageError {
        Self::KeyStoreError(fault) => fault,
    }
    MergeCommitError {
        Self::StorageError(fault) => fault,
    }
    MergePendingCommitError {
        Self::MergeCommitError(MergeCommitError::StorageError(fault)) => fault,
    }
    WelcomeError {
        Self::StorageError(fault) => fault,
        Self::PublicGroupError(CreationFromExternalError::WriteToStorageError(fault)) => fault,
    }
    ExternalCommitBuilderError {
        Self::StorageError(fault) => fault,
        Self::PublicGroupError(CreationFromExternalError::WriteToStorageError(fault)) => fault,
    }
    ExternalCommitBuilderFinalizeError {
        Self::StorageError(fault) => fault,
        Self::MergeCommitError(MergePendingCommitError::MergeCommitError(MergeCommitError::StorageError(fault))) => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_store_is_one_of_the_store() {
        let fault = || rusqlite::Error::QueryReturnedNoRows;
        let merge = MergeCommitError::StorageError(fault());
        let error = failed("merging")(MergePendingCommitError::MergeCommitError(merge));
        assert!(error.is_of_store(), "{error}");
        let tree = CreationFromExternalError::WriteToStorageError(fault());
        let error = failed("joining")(WelcomeError::PublicGroupError(tree));
        assert!(error.is_of_store(), "{error}");

        let error = failed("joining")(WelcomeError::<rusqlite::Error>::NoMatchingKeyPackage);
        assert!(matches!(error, Error::Mls { doing: "joining", .. }), "{error}");
    }
}
