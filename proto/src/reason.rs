//! The closed set of error reasons and their gRPC form: a status with `google.rpc.ErrorInfo{domain: "valise"}`.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `google.rpc.ErrorInfo` of Valise.
pub const DOMAIN: &str = "valise";

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident = $text:literal, $code:ident, $message:literal; )*) => {
        /// Why a service refused a request. Each names one situation.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason {
            $( $(#[$doc])* $name, )*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$( Self::$name ),*];

            /// As it is sent, for example `EPOCH_CONFLICT`.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// The gRPC status code that goes with it.
            pub const fn code(self) -> Code {
                match self { $( Self::$name => Code::$code, )* }
            }

            /// One line for people. Never holds anything of the request or of the service's inside.
            pub const fn message(self) -> &'static str {
                match self { $( Self::$name => $message, )* }
            }
        }
    };
}

reasons! {
    /// Another commit of that epoch was accepted first. Metadata: `current_epoch`, `winner_position`.
    EpochConflict = "EPOCH_CONFLICT", Aborted, "another commit began a new epoch: catch up and try again";
    /// The epoch is older than any that could still be accepted. Metadata: `current_epoch`.
    EpochTooOld = "EPOCH_TOO_OLD", FailedPrecondition, "the epoch is no longer known: catch up";
    /// The epoch has not begun. Metadata: `current_epoch`.
    EpochAhead = "EPOCH_AHEAD", FailedPrecondition, "the epoch has not begun";
    /// Accepted proposals must be committed first. Metadata: `position` of the newest such proposal.
    ProposalsMissing = "PROPOSALS_MISSING", Aborted, "accepted proposals must be committed first: catch up";
    /// The commit is not valid for the group. Metadata: `rule`.
    InvalidCommit = "INVALID_COMMIT", InvalidArgument, "the commit is not valid";
    /// The proposal is not valid for the group or not of a kind that may stand alone. Metadata: `rule`.
    InvalidProposal = "INVALID_PROPOSAL", InvalidArgument, "the proposal is not valid";
    /// A key package breaks a rule. Metadata: `index`, `rule`.
    InvalidKeyPackage = "INVALID_KEY_PACKAGE", InvalidArgument, "the key package is not valid";
    /// The GroupInfo does not belong to the epoch that the commit begins. Metadata: `rule`.
    InvalidGroupInfo = "INVALID_GROUP_INFO", InvalidArgument, "the GroupInfo is not valid";
    /// The Welcome does not name exactly the key packages that the commit adds.
    WelcomeMismatch = "WELCOME_MISMATCH", InvalidArgument, "the Welcome does not match the commit's Adds";
    /// The caller's device is not a member of the group, or may not see that part of the log.
    NotAMember = "NOT_A_MEMBER", PermissionDenied, "the device is not a member of the group";
    /// The caller may not do that. Metadata: `rule`.
    PolicyDenied = "POLICY_DENIED", PermissionDenied, "the policy does not allow it";
    /// There is a group with that id already.
    GroupExists = "GROUP_EXISTS", AlreadyExists, "there is a group with that id already";
    /// There is no group with that id.
    GroupNotFound = "GROUP_NOT_FOUND", NotFound, "there is no group with that id";
    /// There is no device with that id, or not one that the caller may see.
    UnknownDevice = "UNKNOWN_DEVICE", NotFound, "there is no such device";
    /// There is no user with that id.
    UnknownUser = "UNKNOWN_USER", NotFound, "there is no such user";
    /// The device is revoked.
    DeviceRevoked = "DEVICE_REVOKED", PermissionDenied, "the device is revoked";
    /// The user is suspended.
    UserSuspended = "USER_SUSPENDED", PermissionDenied, "the user is suspended";
    /// The enrolment code or identity token is unknown, used, expired, or of an issuer that is not configured.
    InvalidEnrolmentProof = "INVALID_ENROLMENT_PROOF", Unauthenticated, "the enrolment code or identity token is not valid";
    /// The PKCS#10 request cannot be used. Metadata: `rule`.
    InvalidCertificateRequest = "INVALID_CERTIFICATE_REQUEST", InvalidArgument, "the certification request is not valid";
    /// The assertion is malformed, expired, replayed, or not signed by the device. Metadata: `rule`.
    InvalidAssertion = "INVALID_ASSERTION", Unauthenticated, "the assertion is not valid";
    /// The access token has expired: get a new one.
    TokenExpired = "TOKEN_EXPIRED", Unauthenticated, "the access token has expired";
    /// The access token is missing or not valid here.
    TokenInvalid = "TOKEN_INVALID", Unauthenticated, "the access token is missing or not valid";
    /// No usable key package is left. Never sent: a claim says so of each device (`CLAIM_FAILURE_EXHAUSTED`).
    KeyPackagesExhausted = "KEY_PACKAGES_EXHAUSTED", ResourceExhausted, "no key package is left";
    /// Too many requests. With `google.rpc.RetryInfo`.
    RateLimited = "RATE_LIMITED", ResourceExhausted, "too many requests: try again later";
    /// Larger than the limit. Metadata: `field`, `limit`.
    MessageTooLarge = "MESSAGE_TOO_LARGE", InvalidArgument, "larger than the limit";
    /// That part of the log is no longer kept. Metadata: `first_position`.
    PositionTrimmed = "POSITION_TRIMMED", OutOfRange, "that part of the log is no longer kept";
    /// The stream's reader did not keep up; open a new stream with the cursors reached.
    SlowReader = "SLOW_READER", Aborted, "the reader did not keep up: subscribe again";
    /// Another stream of the same device took over.
    Displaced = "DISPLACED", Aborted, "another stream of the device took over";
    /// A store or another service cannot be reached; the outcome is unknown: repeat with the same idempotency key.
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable, "temporarily unavailable, the outcome is unknown: repeat with the same key";
    /// The service has more work than it can take, and did nothing.
    Overloaded = "OVERLOADED", Unavailable, "overloaded: try again later";
    /// The log of the group went back in time; it is frozen for writes until repaired.
    LogRegressed = "LOG_REGRESSED", DataLoss, "the group's log went back in time and is frozen";
    /// The group was reset by an administrator: nothing is appended to it any more. Metadata: `successor_group_id`, under which it goes on.
    GroupReset = "GROUP_RESET", FailedPrecondition, "the group was reset and goes on under a new id";
    /// The request could not be read. Metadata: `field`.
    Malformed = "MALFORMED", InvalidArgument, "malformed";
    /// The deadline of the request passed; the outcome is unknown: repeat with the same idempotency key.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, "the deadline passed, the outcome is unknown";
    /// A fault of the service.
    Internal = "INTERNAL", Internal, "internal error";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason with its metadata: what a service answers, and what a client reads out of a status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// For example `current_epoch`, `field`, `rule`. Never secret, never personal.
    pub metadata: HashMap<String, String>,
    /// When to try again, for [`Reason::RateLimited`].
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Without metadata.
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            metadata: HashMap::new(),
            retry_after: None,
        }
    }

    /// [`Reason::Malformed`], naming the field.
    pub fn malformed(field: &str) -> Self {
        Self::new(Reason::Malformed).with("field", field)
    }

    /// [`Reason::MessageTooLarge`], naming the field and its limit in bytes (or items, for lists).
    pub fn too_large(field: &str, limit: usize) -> Self {
        Self::new(Reason::MessageTooLarge)
            .with("field", field)
            .with("limit", limit)
    }

    /// With one more line of metadata.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// With `google.rpc.RetryInfo`.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// A number from the metadata.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.metadata.get(key)?.parse().ok()
    }

    /// The reason that a status carries, if it is one of Valise's.
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info()?;
        if info.domain != DOMAIN {
            return None;
        }
        let reason = *Reason::ALL.iter().find(|reason| reason.as_str() == info.reason)?;
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        Some(Self {
            reason,
            metadata: info.metadata.clone(),
            retry_after,
        })
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut details = ErrorDetails::with_error_info(refusal.reason.as_str(), DOMAIN, refusal.metadata);
        if let Some(after) = refusal.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(refusal.reason.code(), refusal.reason.message(), details)
    }
}

impl From<Reason> for Status {
    fn from(reason: Reason) -> Self {
        Refusal::new(reason).into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.reason.message())?;
        let mut metadata: Vec<_> = self.metadata.iter().collect();
        metadata.sort();
        for (key, value) in metadata {
            write!(f, " [{key}={value}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_way_over_the_wire() {
        for &reason in Reason::ALL {
            let refusal = Refusal::new(reason)
                .with("current_epoch", 7)
                .retry_after(Duration::from_secs(3));
            let status = Status::from(refusal.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(Refusal::from_status(&status), Some(refusal));
        }
    }

    #[test]
    fn foreign_statuses_are_not_ours() {
        assert_eq!(Refusal::from_status(&Status::aborted("x")), None);
        let foreign = ErrorDetails::with_error_info("EPOCH_CONFLICT", "elsewhere", HashMap::new());
        assert_eq!(
            Refusal::from_status(&Status::with_error_details(Code::Aborted, "x", foreign)),
            None
        );
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
