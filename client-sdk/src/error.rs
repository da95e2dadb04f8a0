//! What can go wrong, and what to do then.

use std::error::Error as StdError;
use std::sync::Arc;

use openmls::group::{CreateMessageError, StageCommitError};
use rusqlite::ErrorCode;
use valise_device_certificate::CertificateError;
use valise_group_rules::RuleViolation;
use valise_proto::{GroupId, Reason, Refusal};

use crate::{CipherSuite, GroupStatus};

/// Why an operation failed.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// use valise_client_sdk::{Error, Reason};
///
/// let group = alice.create_group("Budget 2027").await?;
/// match group.add(&["not a user"]).await {
///     Err(Error::InvalidInput(what)) => println!("{what}"),
///     Err(error) => println!("{error}: {:?}", error.what_now()),
///     Ok(added) => println!("{} devices", added.devices.len()),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A service refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The server cannot be reached, or does not speak as it should.
    #[error("the server cannot be reached")]
    Unreachable,
    /// The server's address cannot be used.
    #[error("not a server address: {0}")]
    ServerAddress(&'static str),
    /// Another process (or another client of this one) has the store open.
    #[error("the store is in use")]
    StoreInUse,
    /// The key is not the store's, or the file is not a store.
    #[error("the store cannot be opened with this key")]
    StoreKey,
    /// A newer version of this library wrote the store.
    #[error("the store has schema {found}, this library knows up to {known}: use a newer version")]
    StoreTooNew {
        /// The schema of the store.
        found: u32,
        /// The newest that this library knows.
        known: u32,
    },
    /// The store holds no enrolled device.
    #[error("the store holds no enrolled device")]
    NotEnrolled,
    /// The store holds a device already.
    #[error("the store holds an enrolled device already")]
    AlreadyEnrolled,
    /// Reading or writing the store failed. What was asked for has not happened; what was stored before stays, and is tried again.
    #[error("the store failed: {0}")]
    Store(Arc<dyn StdError + Send + Sync>),
    /// This device knows no group with that id.
    #[error("there is no group {0} on this device")]
    UnknownGroup(GroupId),
    /// The group cannot be used (any more).
    #[error("the group cannot be used: {0}")]
    GroupNotActive(GroupStatus),
    /// An argument cannot be used.
    #[error("invalid input: {0}")]
    InvalidInput(&'static str),
    /// A rule of groups, certificates or key packages would be, or was, broken.
    #[error("rule broken: {0}")]
    Rule(&'static str),
    /// MLS state does not allow it.
    #[error("{doing}: {cause}")]
    Mls {
        /// What was being done.
        doing: &'static str,
        /// What openmls says.
        cause: String,
    },
    /// This suite needs a signature key of another kind than the device has, or than its other suites need.
    #[error(
        "the cipher suite {0} does not fit the device's key: which kind it has is settled when it enrols"
    )]
    SuiteOfOtherKey(CipherSuite),
    /// There is no cipher suite that this device and all devices of these users have key packages of.
    #[error("the devices of these users share no cipher suite")]
    NoSharedSuite,
    /// The deployment's delivery service has no key for groups with suites that this device's key fits.
    #[error("this deployment has no groups for devices with a key of this kind")]
    KeyKindNotServed,
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

/// What to do about an [`Error`].
///
/// ```
/// use valise_client_sdk::{Error, WhatNow};
///
/// fn tell(error: &Error) -> &'static str {
///     match error.what_now() {
///         WhatNow::Retry => "The server cannot be reached. Try again later.",
///         WhatNow::CatchUp => "Others were faster. Try again.",
///         WhatNow::Rejoin => "This group needs to be joined again on this device.",
///         WhatNow::Denied => "That is not possible.",
///         WhatNow::Bug => "Something is broken. Please report it.",
///     }
/// }
/// assert_eq!(tell(&Error::Unreachable), "The server cannot be reached. Try again later.");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhatNow {
    /// Try again later: the server cannot be reached or is busy, the store's disk is full or fails, or the group waits until its log is
    /// repaired ([`GroupStatus::LogRegressed`]).
    Retry,
    /// Let the client catch up, then try again.
    CatchUp,
    /// The group's state on this device cannot go on: rejoin ([`crate::Group::rejoin`]), or be added again.
    Rejoin,
    /// It is not allowed, or the input is wrong: trying again will not help.
    Denied,
    /// Something is wrong with this library, the service or the store.
    Bug,
}

impl Error {
    /// What to do about it.
    ///
    /// ```
    /// use valise_client_sdk::{Error, WhatNow};
    ///
    /// assert_eq!(Error::StoreInUse.what_now(), WhatNow::Retry);
    /// assert_eq!(Error::Closed.what_now(), WhatNow::Denied);
    /// ```
    pub fn what_now(&self) -> WhatNow {
        match self {
            Self::Refused(refusal) => of_reason(refusal.reason),
            Self::Unreachable | Self::StoreInUse => WhatNow::Retry,
            Self::GroupNotActive(status) => match status {
                GroupStatus::Creating | GroupStatus::Active | GroupStatus::Rejoining => WhatNow::CatchUp,
                // Whoever gives up its place now gives up what may repair the log.
                GroupStatus::LogRegressed => WhatNow::Retry,
                GroupStatus::HeldByBadCommit | GroupStatus::Lost | GroupStatus::WelcomeUnusable => {
                    WhatNow::Rejoin
                }
                // As long as the member is in it that should not be, nobody comes back into a quarantined group, either.
                GroupStatus::Quarantined
                | GroupStatus::Leaving
                | GroupStatus::Removed
                | GroupStatus::Reset => WhatNow::Denied,
            },
            Self::ServerAddress(_)
            | Self::StoreKey
            | Self::StoreTooNew { .. }
            | Self::NotEnrolled
            | Self::AlreadyEnrolled
            | Self::UnknownGroup(_)
            | Self::InvalidInput(_)
            | Self::Rule(_)
            | Self::SuiteOfOtherKey(_)
            | Self::NoSharedSuite
            | Self::KeyKindNotServed
            | Self::Closed => WhatNow::Denied,
            Self::Store(fault) if passes(&**fault) => WhatNow::Retry,
            Self::Store(_) | Self::Mls { .. } => WhatNow::Bug,
        }
    }

    /// The reason that a service gave.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// use valise_client_sdk::Reason;
    ///
    /// let error = alice.administration().users().await.err().ok_or("allowed")?;
    /// assert_eq!(error.reason(), Some(Reason::PolicyDenied));
    /// # Ok(()) });
    /// ```
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            _ => None,
        }
    }

    /// Reading or writing the store failed, whatever was being done: the same may go well later.
    pub(crate) const fn is_of_store(&self) -> bool {
        matches!(self, Self::Store(_) | Self::StoreInUse | Self::StoreKey)
    }

    /// Nothing else that a task has to do would go well either.
    pub(crate) const fn stops_all(&self) -> bool {
        self.is_of_store() || matches!(self, Self::Closed)
    }

    pub(crate) fn mls(doing: &'static str) -> impl FnOnce(&dyn std::fmt::Display) -> Self {
        move |cause| Self::Mls {
            doing,
            cause: cause.to_string(),
        }
    }
}

/// Is it a fault of the store that may pass? A disk can be emptied; what is stored and cannot be read stays so.
fn passes(fault: &(dyn StdError + Send + Sync + 'static)) -> bool {
    let Some(fault) = fault.downcast_ref::<rusqlite::Error>() else {
        // openmls does not say which fault it met.
        return fault.is::<CreateMessageError>() || fault.is::<StageCommitError>();
    };
    matches!(
        fault.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
        )
    )
}

fn of_reason(reason: Reason) -> WhatNow {
    match reason {
        Reason::StoreUnavailable
        | Reason::Overloaded
        | Reason::RateLimited
        | Reason::DeadlineExceeded
        | Reason::KeyPackagesExhausted
        | Reason::TokenExpired
        | Reason::SlowReader
        | Reason::LogRegressed => WhatNow::Retry,
        Reason::EpochConflict | Reason::EpochTooOld | Reason::EpochAhead | Reason::ProposalsMissing => {
            WhatNow::CatchUp
        }
        Reason::PositionTrimmed => WhatNow::Rejoin,
        Reason::NotAMember
        | Reason::PolicyDenied
        | Reason::GroupExists
        | Reason::GroupNotFound
        | Reason::GroupReset
        | Reason::UnknownDevice
        | Reason::UnknownUser
        | Reason::DeviceRevoked
        | Reason::UserSuspended
        | Reason::InvalidEnrolmentProof
        | Reason::MessageTooLarge
        | Reason::Displaced => WhatNow::Denied,
        Reason::InvalidCommit
        | Reason::InvalidProposal
        | Reason::InvalidKeyPackage
        | Reason::InvalidGroupInfo
        | Reason::WelcomeMismatch
        | Reason::InvalidCertificateRequest
        | Reason::InvalidAssertion
        | Reason::TokenInvalid
        | Reason::Malformed
        | Reason::Internal => WhatNow::Bug,
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RuleViolation> for Error {
    fn from(RuleViolation(rule): RuleViolation) -> Self {
        Self::Rule(rule)
    }
}

impl From<CertificateError> for Error {
    fn from(error: CertificateError) -> Self {
        Self::Rule(match error {
            CertificateError::ChainSize => "certificate_chain_size",
            CertificateError::Encoding => "certificate_encoding",
            CertificateError::Untrusted => "certificate_untrusted",
            CertificateError::Expired => "certificate_expired",
            CertificateError::Names => "certificate_names",
            CertificateError::Key => "certificate_key",
            CertificateError::File => "certificate_file",
        })
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::StoreKey,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::StoreInUse,
            _ => Self::Store(Arc::new(error)),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}
