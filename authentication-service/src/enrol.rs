//! A device shows an enrolment code and gets a certificate. And how such a code is made.

use std::time::{Duration, SystemTime};

use uuid::Uuid;
use valise_proto::{DeviceId, Reason, Refusal, UserId};

use crate::app::App;
use crate::audit::{self, Action};
use crate::certificate::RequestedKey;
use crate::code::{self, EnrolmentCode};
use crate::error::Error;
use crate::store::{Answer, CodeHash, CodeOutcome, DeviceKind, EnrolOutcome, NewCode, NewDevice};

/// How long a code is valid where nothing else is said.
pub(crate) const DEFAULT_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it can be valid.
pub(crate) const VALIDITY: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 60 * 60);

/// What a device that enrols with a code may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Send and receive.
    Device,
    /// Administer too.
    Administrator,
}

impl From<Kind> for DeviceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Device => Self::Device,
            Kind::Administrator => Self::Administrator,
        }
    }
}

/// A code that was just made.
#[derive(Debug)]
pub struct NewEnrolmentCode {
    /// Shown once.
    pub code: EnrolmentCode,
    /// Until when it can be used.
    pub expires_at: SystemTime,
}

/// What a device asks for.
pub(crate) struct Enrolment {
    pub(crate) code: String,
    pub(crate) key: RequestedKey,
    pub(crate) device_name: String,
}

/// What it gets.
pub(crate) struct Enrolled {
    pub(crate) device: DeviceId,
    pub(crate) user: UserId,
    /// Leaf first, DER, without the root.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// Enrols one device. Unless it answers with one, nothing has changed: the code can still be used.
///
/// An answer can be lost on its way. Who has used the code asks again, with the same key, and is answered the same: a repeat makes
/// no device and no certificate, and there is nothing to write down.
pub(crate) async fn enrol(app: &App, enrolment: Enrolment) -> Result<Enrolled, Error> {
    let now = app.now();
    let hash = code::read(&enrolment.code).ok_or_else(|| refused_code(app))?;
    let Some(code) = app.store.code(&hash, now).await? else {
        return answer_again(app, &hash, &enrolment.key, now).await;
    };
    app.check_domain(&code.user)?;
    let device = DeviceId::from_uuid(Uuid::new_v4());
    let lifetime = app.config.lifetimes.device_certificate();
    let issued = app
        .authority
        .certify_device(&enrolment.key, &code.user, device, now, lifetime)?;
    let new = NewDevice {
        id: device,
        name: enrolment.device_name,
        public_key: enrolment.key.as_bytes().to_vec(),
        chain: issued.chain,
        certificate_expires_at: issued.expires_at,
    };
    let act = audit::act(now, device, Action::DeviceEnrolled, &code.user);
    // The store judges the code, the user and the key again, in the transaction that uses the code up.
    match app.store.enrol(&hash, &new, &act).await? {
        EnrolOutcome::Enrolled => {
            tracing::info!(%device, "device enrolled");
            Ok(Enrolled {
                device,
                user: code.user,
                chain: new.chain,
            })
        }
        // Perhaps by a request of the same device that was faster.
        EnrolOutcome::CodeUnusable => answer_again(app, &hash, &enrolment.key, now).await,
        EnrolOutcome::UserSuspended => Err(Reason::UserSuspended.into()),
        EnrolOutcome::KeyInUse => Err(key_in_use()),
        EnrolOutcome::TooManyDevices => Err(Refusal::new(Reason::PolicyDenied)
            .with("rule", "too_many_devices")
            .into()),
    }
}

/// What the key's device was answered when it used up the code. To everybody else a used code is like one that never was.
async fn answer_again(
    app: &App,
    hash: &CodeHash,
    key: &RequestedKey,
    now: SystemTime,
) -> Result<Enrolled, Error> {
    let answer = app.store.answer(hash, key.as_bytes(), now).await?;
    let Some(Answer { device, chain }) = answer.filter(|answer| answer.device.revoked_at.is_none()) else {
        return Err(refused_code(app));
    };
    app.check_domain(&device.user)?;
    if device.user_suspended {
        return Err(Reason::UserSuspended.into());
    }
    tracing::info!(device = %device.id, "enrolment answered again");
    Ok(Enrolled {
        device: device.id,
        user: device.user,
        chain,
    })
}

/// Makes a code for one device of that user.
pub(crate) async fn create_code(
    app: &App,
    user: UserId,
    kind: DeviceKind,
    valid_for: Duration,
    actor: &str,
) -> Result<NewEnrolmentCode, Error> {
    app.check_domain(&user)?;
    if !VALIDITY.contains(&valid_for) {
        return Err(Refusal::malformed("valid_for").into());
    }
    let (code, new) = new_code(app, user, kind, valid_for, false);
    let act = audit::act(app.now(), actor, Action::EnrolmentCodeCreated, &new.user);
    match app.store.create_code(&new, &act).await? {
        CodeOutcome::Created => Ok(NewEnrolmentCode {
            code,
            expires_at: new.expires_at,
        }),
        CodeOutcome::UserSuspended => Err(Reason::UserSuspended.into()),
    }
}

pub(crate) fn new_code(
    app: &App,
    user: UserId,
    kind: DeviceKind,
    valid_for: Duration,
    bootstrap: bool,
) -> (EnrolmentCode, NewCode) {
    let code = EnrolmentCode::generate();
    let new = NewCode {
        hash: code.hash(),
        user,
        kind,
        bootstrap,
        expires_at: app.now() + valid_for,
    };
    (code, new)
}

pub(crate) fn key_in_use() -> Error {
    Refusal::new(Reason::InvalidCertificateRequest)
        .with("rule", "key_in_use")
        .into()
}

/// A code of 120 bits cannot be guessed, so a good one is never kept waiting; but whoever tries many is told to slow down,
/// and learns nothing more.
fn refused_code(app: &App) -> Error {
    match app.failures.check(&(), 1) {
        Ok(()) => Reason::InvalidEnrolmentProof.into(),
        Err(wait) => {
            tracing::warn!("many enrolments fail");
            Refusal::new(Reason::RateLimited).retry_after(wait).into()
        }
    }
}
