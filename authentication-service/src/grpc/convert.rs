//! Wire to types that can only be valid, and back. What is too large is refused before it is looked at.

use std::time::Duration;

use valise_access_token::MAX_TOKEN_BYTES;
use valise_device_certificate::TrustBundle;
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_proto::authentication::v1::{
    self, DeviceState, EnrolRequest, IssueTokenRequest, RecordActRequest, SubjectKind, UserState,
};
use valise_proto::{DeviceId, GroupId, Reason, Refusal, UserId};

use crate::certificate::RequestedKey;
use crate::code::MAX_CODE_BYTES;
use crate::enrol::{DEFAULT_VALIDITY, Enrolment, VALIDITY};
use crate::record_act::ServiceAct;
use crate::store::{AuditEvent, Device, DeviceKind, User};

const MAX_IDENTITY_TOKEN_BYTES: usize = 16 * 1024;
/// In characters.
const MAX_DEVICE_NAME: usize = 64;
/// Name, `@` and domain.
const MAX_USER_ID_BYTES: usize = 64 + 1 + 253;
const MAX_DEVICE_ID_BYTES: usize = 36;
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

pub(super) fn enrolment(request: EnrolRequest) -> Result<Enrolment, Refusal> {
    let code = match request.proof.ok_or_else(|| Refusal::malformed("proof"))? {
        Proof::EnrolmentCode(code) if code.len() > MAX_CODE_BYTES => {
            return Err(Refusal::too_large("enrolment_code", MAX_CODE_BYTES));
        }
        Proof::EnrolmentCode(code) => code,
        Proof::OidcIdToken(token) if token.len() > MAX_IDENTITY_TOKEN_BYTES => {
            return Err(Refusal::too_large("oidc_id_token", MAX_IDENTITY_TOKEN_BYTES));
        }
        // No issuer is configured: every token is of one that is not.
        Proof::OidcIdToken(_) => return Err(Reason::InvalidEnrolmentProof.into()),
    };
    let device_name = device_name("device_name", request.device_name)?;
    Ok(Enrolment {
        code,
        key: RequestedKey::read(&request.certification_request)?,
        device_name,
    })
}

pub(super) fn assertion(request: IssueTokenRequest) -> Result<String, Refusal> {
    if request.assertion.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::too_large("assertion", MAX_TOKEN_BYTES));
    }
    Ok(request.assertion)
}

pub(super) fn service_act(request: &RecordActRequest) -> Result<(DeviceId, ServiceAct), Refusal> {
    let administrator = request
        .administrator_device_id
        .parse()
        .map_err(|_| Refusal::malformed("administrator_device_id"))?;
    let id = |field: &str, bytes: &[u8]| GroupId::try_from(bytes).map_err(|_| Refusal::malformed(field));
    let group = id("group_id", &request.group_id)?;
    let act = match v1::ServiceAct::try_from(request.act) {
        Ok(v1::ServiceAct::GroupReset) => ServiceAct::GroupReset {
            group,
            successor: id("successor_group_id", &request.successor_group_id)?,
        },
        Ok(v1::ServiceAct::GroupRepaired) if request.successor_group_id.is_empty() => {
            ServiceAct::GroupRepaired { group }
        }
        Ok(v1::ServiceAct::GroupRepaired) => return Err(Refusal::malformed("successor_group_id")),
        Ok(v1::ServiceAct::Unspecified) | Err(_) => return Err(Refusal::malformed("act")),
    };
    Ok((administrator, act))
}

pub(super) fn device_name(field: &str, name: String) -> Result<String, Refusal> {
    // A character has at most 4 bytes: a longer text need not be counted.
    if name.len() > 4 * MAX_DEVICE_NAME || name.chars().count() > MAX_DEVICE_NAME {
        return Err(Refusal::too_large(field, MAX_DEVICE_NAME));
    }
    if name.chars().any(char::is_control) {
        return Err(Refusal::malformed(field));
    }
    Ok(name)
}

pub(super) fn user_id(text: &str) -> Result<UserId, Refusal> {
    user_id_in("user_id", text)
}

pub(super) fn after_user_id(text: &str) -> Result<UserId, Refusal> {
    user_id_in("after_user_id", text)
}

fn user_id_in(field: &str, text: &str) -> Result<UserId, Refusal> {
    if text.len() > MAX_USER_ID_BYTES {
        return Err(Refusal::too_large(field, MAX_USER_ID_BYTES));
    }
    text.parse().map_err(|_| Refusal::malformed(field))
}

pub(super) fn device_id(text: &str) -> Result<DeviceId, Refusal> {
    if text.len() > MAX_DEVICE_ID_BYTES {
        return Err(Refusal::too_large("device_id", MAX_DEVICE_ID_BYTES));
    }
    text.parse().map_err(|_| Refusal::malformed("device_id"))
}

pub(super) fn page_size(size: u32) -> Result<u32, Refusal> {
    match size {
        0 => Ok(DEFAULT_PAGE),
        1..=MAX_PAGE => Ok(size),
        _ => Err(Refusal::malformed("page_size")),
    }
}

pub(super) fn code_kind(kind: i32) -> Result<DeviceKind, Refusal> {
    match SubjectKind::try_from(kind) {
        Ok(SubjectKind::Unspecified | SubjectKind::Device) => Ok(DeviceKind::Device),
        Ok(SubjectKind::Administrator) => Ok(DeviceKind::Administrator),
        Ok(SubjectKind::Service) | Err(_) => Err(Refusal::malformed("kind")),
    }
}

pub(super) fn valid_for(duration: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    let Some(duration) = duration else {
        return Ok(DEFAULT_VALIDITY);
    };
    // Not by prost's conversion, which overflows on the least number of seconds.
    let (seconds, nanos) = (u64::try_from(duration.seconds), u32::try_from(duration.nanos));
    let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) = (seconds, nanos) else {
        return Err(Refusal::malformed("valid_for"));
    };
    let duration = Duration::new(seconds, nanos);
    if VALIDITY.contains(&duration) {
        Ok(duration)
    } else {
        Err(Refusal::malformed("valid_for"))
    }
}

pub(super) fn chain(certificates: Vec<Vec<u8>>) -> v1::CertificateChain {
    v1::CertificateChain { certificates }
}

pub(super) fn trust_bundle(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        certificates: bundle.certificates().to_vec(),
    }
}

/// As a user sees it whose own devices are those of `own`: of others, the name is left out.
pub(super) fn device(device: Device, own: &UserId) -> v1::Device {
    let state = if device.revoked_at.is_some() {
        DeviceState::Revoked
    } else {
        DeviceState::Active
    };
    let kind = match device.kind {
        DeviceKind::Device => SubjectKind::Device,
        DeviceKind::Administrator => SubjectKind::Administrator,
    };
    v1::Device {
        device_id: device.id.to_string(),
        name: if device.user == *own {
            device.name
        } else {
            String::new()
        },
        user_id: device.user.into(),
        state: state.into(),
        enrolled_at: Some(device.enrolled_at.into()),
        certificate_expires_at: Some(device.certificate_expires_at.into()),
        revoked_at: device.revoked_at.map(Into::into),
        kind: kind.into(),
    }
}

pub(super) fn user(user: &User) -> v1::User {
    let state = if user.suspended {
        UserState::Suspended
    } else {
        UserState::Active
    };
    v1::User {
        user_id: user.id.to_string(),
        state: state.into(),
        active_devices: user.active_devices,
        created_at: Some(user.created_at.into()),
    }
}

pub(super) fn audit_event(event: AuditEvent) -> v1::AuditEvent {
    v1::AuditEvent {
        number: event.number,
        at: Some(event.at.into()),
        actor: event.actor,
        action: event.action,
        subject: event.subject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_counted_in_characters_and_have_no_control_characters() {
        let longest = "é".repeat(64);
        assert_eq!(device_name("name", longest.clone()), Ok(longest));
        assert_eq!(device_name("name", String::new()), Ok(String::new()));
        for name in ["x".repeat(65), "é".repeat(65), "x".repeat(100_000)] {
            assert_eq!(device_name("name", name), Err(Refusal::too_large("name", 64)));
        }
        for name in ["a\nb", "\u{7f}", "\0", "\u{85}"] {
            assert_eq!(
                device_name("name", name.to_owned()),
                Err(Refusal::malformed("name"))
            );
        }
    }

    #[test]
    fn codes_are_valid_from_a_minute_to_thirty_days() {
        let read = |seconds, nanos| valid_for(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(valid_for(None), Ok(DEFAULT_VALIDITY));
        assert_eq!(read(60, 0), Ok(Duration::from_secs(60)));
        assert_eq!(read(30 * 24 * 3600, 0), Ok(Duration::from_secs(30 * 24 * 3600)));
        for (seconds, nanos) in [
            (0, 0),
            (-60, 0),
            (59, 999_999_999),
            (30 * 24 * 3600, 1),
            (i64::MAX, 0),
            (i64::MIN, -1),
            (i64::MIN, i32::MIN),
            (60, -1),
            (60, 1_000_000_000),
        ] {
            assert_eq!(
                read(seconds, nanos),
                Err(Refusal::malformed("valid_for")),
                "{seconds}"
            );
        }
    }

    #[test]
    fn pages_and_kinds_have_bounds() {
        assert_eq!(
            (page_size(0), page_size(1), page_size(1000)),
            (Ok(100), Ok(1), Ok(1000))
        );
        assert_eq!(page_size(1001), Err(Refusal::malformed("page_size")));
        assert_eq!(code_kind(0), Ok(DeviceKind::Device));
        assert_eq!(
            code_kind(SubjectKind::Administrator.into()),
            Ok(DeviceKind::Administrator)
        );
        for kind in [SubjectKind::Service.into(), 99, -1] {
            assert_eq!(code_kind(kind), Err(Refusal::malformed("kind")));
        }
    }

    #[test]
    fn ids_are_measured_before_they_are_read() {
        assert_eq!(user_id(&"x".repeat(400)), Err(Refusal::too_large("user_id", 318)));
        assert_eq!(user_id("nobody"), Err(Refusal::malformed("user_id")));
        assert_eq!(
            device_id(&"0".repeat(37)),
            Err(Refusal::too_large("device_id", 36))
        );
        assert_eq!(device_id(""), Err(Refusal::malformed("device_id")));
    }
}
