//! Rows to what they mean, and back. Both backends have the same columns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::FromRow;
use valise_access_token::{Revocation, RevocationSubject};
use valise_proto::{DeviceId, UserId};
use x509_parser::asn1_rs::{Any, FromDer as _};

use super::{Answer, AuditEvent, Code, Device, DeviceKind, StoreError, User};

pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// SQL's integers are signed. What does not fit is above every number there is.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned<T: TryFrom<i64>>(number: i64, column: &'static str) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| StoreError::Damaged(column))
}

fn user_id(text: &str) -> Result<UserId, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("user_id"))
}

fn device_id(text: &str) -> Result<DeviceId, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("device_id"))
}

pub(super) fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Device => "device",
        DeviceKind::Administrator => "administrator",
    }
}

fn kind(name: &str) -> Result<DeviceKind, StoreError> {
    match name {
        "device" => Ok(DeviceKind::Device),
        "administrator" => Ok(DeviceKind::Administrator),
        _ => Err(StoreError::Damaged("kind")),
    }
}

#[derive(FromRow)]
pub(super) struct CodeRow {
    user_id: String,
    kind: String,
    suspended: bool,
}

impl TryFrom<CodeRow> for Code {
    type Error = StoreError;

    fn try_from(row: CodeRow) -> Result<Self, StoreError> {
        Ok(Self {
            user: user_id(&row.user_id)?,
            kind: kind(&row.kind)?,
            user_suspended: row.suspended,
        })
    }
}

#[derive(FromRow)]
pub(super) struct DeviceRow {
    device_id: String,
    user_id: String,
    name: String,
    kind: String,
    public_key: Vec<u8>,
    enrolled_at: i64,
    certificate_expires_at: i64,
    revoked_at: Option<i64>,
    suspended: bool,
}

impl TryFrom<DeviceRow> for Device {
    type Error = StoreError;

    fn try_from(row: DeviceRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: device_id(&row.device_id)?,
            user: user_id(&row.user_id)?,
            name: row.name,
            kind: kind(&row.kind)?,
            public_key: row.public_key,
            enrolled_at: time(row.enrolled_at),
            certificate_expires_at: time(row.certificate_expires_at),
            revoked_at: row.revoked_at.map(time),
            user_suspended: row.suspended,
        })
    }
}

#[derive(FromRow)]
pub(super) struct AnswerRow {
    #[sqlx(flatten)]
    device: DeviceRow,
    chain: Vec<u8>,
}

impl TryFrom<AnswerRow> for Answer {
    type Error = StoreError;

    fn try_from(row: AnswerRow) -> Result<Self, StoreError> {
        Ok(Self {
            device: row.device.try_into()?,
            chain: chain(&row.chain)?,
        })
    }
}

/// Certificates are kept one after the other: DER says where each ends.
fn chain(mut kept: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut chain = Vec::new();
    while !kept.is_empty() {
        let (rest, _) = Any::from_der(kept).map_err(|_| StoreError::Damaged("chain"))?;
        chain.push(kept[..kept.len() - rest.len()].to_vec());
        kept = rest;
    }
    Ok(chain)
}

#[derive(FromRow)]
pub(super) struct UserRow {
    user_id: String,
    suspended: bool,
    created_at: i64,
    active_devices: i64,
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: user_id(&row.user_id)?,
            suspended: row.suspended,
            active_devices: unsigned(row.active_devices, "active_devices")?,
            created_at: time(row.created_at),
        })
    }
}

#[derive(FromRow)]
pub(super) struct RevocationRow {
    number: i64,
    kind: String,
    user_id: String,
    device_id: Option<String>,
    at: i64,
}

impl TryFrom<RevocationRow> for Revocation {
    type Error = StoreError;

    fn try_from(row: RevocationRow) -> Result<Self, StoreError> {
        let user = user_id(&row.user_id)?;
        let subject = match (row.kind.as_str(), &row.device_id) {
            ("device", Some(device)) => RevocationSubject::Device {
                user,
                device: device_id(device)?,
            },
            ("suspended", None) => RevocationSubject::Suspended { user },
            ("resumed", None) => RevocationSubject::Resumed { user },
            _ => return Err(StoreError::Damaged("kind")),
        };
        Ok(Self {
            number: unsigned(row.number, "number")?,
            subject,
            at: time(row.at),
        })
    }
}

#[derive(FromRow)]
pub(super) struct AuditEventRow {
    number: i64,
    at: i64,
    actor: String,
    action: String,
    subject: String,
}

impl TryFrom<AuditEventRow> for AuditEvent {
    type Error = StoreError;

    fn try_from(row: AuditEventRow) -> Result<Self, StoreError> {
        Ok(Self {
            number: unsigned(row.number, "number")?,
            at: time(row.at),
            actor: row.actor,
            action: row.action,
            subject: row.subject,
        })
    }
}

/// Whose key it is.
#[derive(FromRow)]
pub(super) struct KeyOwner {
    device_id: Option<String>,
    service_name: Option<String>,
}

impl KeyOwner {
    pub(super) fn is(&self, device: Option<&str>, service: Option<&str>) -> bool {
        self.device_id.as_deref() == device && self.service_name.as_deref() == service
    }
}

/// All of them, or why not.
pub(super) fn all<R, T: TryFrom<R, Error = StoreError>>(rows: Vec<R>) -> Result<Vec<T>, StoreError> {
    rows.into_iter().map(T::try_from).collect()
}
