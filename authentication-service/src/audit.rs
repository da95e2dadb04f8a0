//! The audit log: every administrative act, numbered without a gap, written in the transaction of the act itself.

use std::fmt;
use std::time::SystemTime;

use crate::app::App;
use crate::error::Error;
use crate::store::{Act, AuditEvent};

/// Who acts when nobody is logged in: the operator, at the service itself.
pub(crate) const BOOTSTRAP: &str = "bootstrap";

/// What is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    EnrolmentCodeCreated,
    DeviceEnrolled,
    CertificateRenewed,
    DeviceRevoked,
    UserSuspended,
    UserResumed,
    ServiceCertificateIssued,
    GroupReset,
    GroupRepaired,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::EnrolmentCodeCreated => "enrolment_code.created",
            Self::DeviceEnrolled => "device.enrolled",
            Self::CertificateRenewed => "certificate.renewed",
            Self::DeviceRevoked => "device.revoked",
            Self::UserSuspended => "user.suspended",
            Self::UserResumed => "user.resumed",
            Self::ServiceCertificateIssued => "service_certificate.issued",
            Self::GroupReset => "group.reset",
            Self::GroupRepaired => "group.repaired",
        }
    }
}

/// A line for the log.
pub(crate) fn act(
    at: SystemTime,
    actor: impl fmt::Display,
    action: Action,
    subject: impl fmt::Display,
) -> Act {
    Act {
        at,
        actor: actor.to_string(),
        action: action.as_str(),
        subject: subject.to_string(),
    }
}

/// The lines above a number, oldest first.
pub(crate) async fn list(app: &App, after: u64, limit: u32) -> Result<Vec<AuditEvent>, Error> {
    Ok(app.store.audit_events(after, limit).await?)
}
