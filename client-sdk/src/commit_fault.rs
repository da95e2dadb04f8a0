//! What a device found wrong with a commit, as it has told the service.

use std::fmt;

use valise_proto::delivery::v1 as wire;

/// What a member's device found wrong with an accepted commit ([`crate::ReportedCommit`]).
///
/// ```
/// use valise_client_sdk::CommitFault;
///
/// fn is_about_the_service(fault: CommitFault) -> bool {
///     fault == CommitFault::DeliveryForked
/// }
/// assert_eq!(CommitFault::Policy.to_string(), "COMMIT_FAULT_POLICY");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CommitFault {
    /// Its path secret for that device cannot be used.
    PathSecret,
    /// Its confirmation tag is wrong.
    ConfirmationTag,
    /// The `external_pub` of its GroupInfo is not the epoch's.
    ExternalPub,
    /// It breaks the group's roles or rules.
    Policy,
    /// It was applied, but its committer was shown another history of the log (`docs/verifiable-delivery.md`).
    DeliveryForked,
    /// Anything else.
    Other,
}

impl CommitFault {
    pub(crate) const fn from_wire(fault: wire::CommitFault) -> Self {
        match fault {
            wire::CommitFault::PathSecret => Self::PathSecret,
            wire::CommitFault::ConfirmationTag => Self::ConfirmationTag,
            wire::CommitFault::ExternalPub => Self::ExternalPub,
            wire::CommitFault::Policy => Self::Policy,
            wire::CommitFault::DeliveryForked => Self::DeliveryForked,
            // Of a newer service.
            wire::CommitFault::Other | wire::CommitFault::Unspecified => Self::Other,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::PathSecret => "COMMIT_FAULT_PATH_SECRET",
            Self::ConfirmationTag => "COMMIT_FAULT_CONFIRMATION_TAG",
            Self::ExternalPub => "COMMIT_FAULT_EXTERNAL_PUB",
            Self::Policy => "COMMIT_FAULT_POLICY",
            Self::DeliveryForked => "COMMIT_FAULT_DELIVERY_FORKED",
            Self::Other => "COMMIT_FAULT_OTHER",
        }
    }
}

impl fmt::Display for CommitFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_called_as_in_the_contract() {
        for number in 1.. {
            let Ok(fault) = wire::CommitFault::try_from(number) else {
                assert_eq!(number, 7, "one that is new here");
                return;
            };
            assert_eq!(CommitFault::from_wire(fault).to_string(), fault.as_str_name());
        }
    }
}
