//! Where the authentication service keeps what it knows.
//!
//! To add a backend, implement [`Store`] and call the [conformance suite](conformance) on it. What the trait asks of every
//! backend: each method is one transaction, so that it happens whole or not at all and is durable when it returns; several
//! replicas may use one store at the same time; [`Act`]s and revocations are numbered 1, 2, 3… without a gap, in the
//! transaction of what they tell about, and whoever sees one sees all before it.

#[cfg(test)]
pub(crate) mod conformance;
mod postgres;
mod row;
mod sql;
mod sqlite;

use std::sync::Arc;
use std::time::SystemTime;

use valise_access_token::Revocation;
use valise_proto::{DeviceId, UserId};
use valise_sql_database::{Database, is_conflict, is_unavailable};

pub(crate) use postgres::migrate;
pub(crate) use sqlite::Sqlite;

use crate::StartError;
use postgres::Postgres;

/// Most devices of a user, revoked ones included: what a list of them may hold.
pub(crate) const MAX_DEVICES: u32 = 1000;

/// Why a store did not do its work. Its texts name tables and columns, never values.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Busy, out of reach or out of space: the outcome is unknown.
    #[error("the store cannot be used now: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It did what a store must not do.
    #[error("the store failed: {0}")]
    Failed(#[source] sqlx::Error),
    /// It holds what this service never writes.
    #[error("the store is damaged: {0} is not readable")]
    Damaged(&'static str),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if sqlite::is_unavailable(&error) || is_unavailable(&error) || is_conflict(&error) {
            Self::Unavailable(error)
        } else {
            Self::Failed(error)
        }
    }
}

/// Device or administrator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeviceKind {
    Device,
    Administrator,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) user: UserId,
    pub(crate) name: String,
    pub(crate) kind: DeviceKind,
    /// Its current key.
    pub(crate) public_key: Vec<u8>,
    pub(crate) enrolled_at: SystemTime,
    pub(crate) certificate_expires_at: SystemTime,
    pub(crate) revoked_at: Option<SystemTime>,
    pub(crate) user_suspended: bool,
}

/// A device that is about to be enrolled. Its user and kind come from the code.
#[derive(Clone, Debug)]
pub(crate) struct NewDevice {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) public_key: Vec<u8>,
    /// Its certificate and the issuers of that, DER.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) certificate_expires_at: SystemTime,
}

/// What was answered when a code was used up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// As it is now.
    pub(crate) device: Device,
    pub(crate) chain: Vec<Vec<u8>>,
}

/// A user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) suspended: bool,
    pub(crate) active_devices: u32,
    pub(crate) created_at: SystemTime,
}

/// The SHA-256 of an enrolment code.
pub(crate) type CodeHash = [u8; 32];

/// An enrolment code that is about to be handed out.
#[derive(Clone, Debug)]
pub(crate) struct NewCode {
    pub(crate) hash: CodeHash,
    pub(crate) user: UserId,
    pub(crate) kind: DeviceKind,
    /// For the first administrator: void as soon as the next one of its kind is made.
    pub(crate) bootstrap: bool,
    pub(crate) expires_at: SystemTime,
}

/// An enrolment code that can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Code {
    pub(crate) user: UserId,
    pub(crate) kind: DeviceKind,
    pub(crate) user_suspended: bool,
}

/// What goes to the audit log with a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Act {
    pub(crate) at: SystemTime,
    pub(crate) actor: String,
    pub(crate) action: &'static str,
    pub(crate) subject: String,
}

/// A line of the audit log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AuditEvent {
    pub(crate) number: u64,
    pub(crate) at: SystemTime,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) subject: String,
}

/// Lines of the revocation feed, and the number of the newest of all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RevocationPage {
    pub(crate) newest: u64,
    pub(crate) lines: Vec<Revocation>,
}

/// What became of a code that was to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodeOutcome {
    Created,
    UserSuspended,
}

/// What became of an enrolment. Only the first changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EnrolOutcome {
    Enrolled,
    /// Unknown, used, void or expired.
    CodeUnusable,
    UserSuspended,
    KeyInUse,
    TooManyDevices,
}

/// What became of a renewal. Only the first changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RenewOutcome {
    Renewed,
    /// Unknown or revoked.
    NoSuchDevice,
    KeyInUse,
}

/// A service's certificate, as issued.
#[derive(Clone, Debug)]
pub(crate) struct ServiceCertificate {
    pub(crate) name: String,
    pub(crate) public_key: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) expires_at: SystemTime,
}

/// Where the authentication service keeps what it knows. See the [module](self) for what is asked of a backend.
#[tonic::async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// The secret of that name.
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Makes `fresh` the secret of that name where there is none. All callers ever get the same one.
    async fn keep_secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Makes the code, and its user where it is new.
    async fn create_code(&self, code: &NewCode, act: &Act) -> Result<CodeOutcome, StoreError>;

    /// Makes the code unless an administrator was ever enrolled, and voids the bootstrap codes before it. Was it made?
    async fn create_bootstrap_code(&self, code: &NewCode, act: &Act) -> Result<bool, StoreError>;

    /// The code, if it can be used at that time.
    async fn code(&self, hash: &CodeHash, at: SystemTime) -> Result<Option<Code>, StoreError>;

    /// Uses up the code and makes its device, at the time of the act. A code is used up once, whoever else tries.
    async fn enrol(&self, hash: &CodeHash, device: &NewDevice, act: &Act)
    -> Result<EnrolOutcome, StoreError>;

    /// What was answered when that key used up the code: until the code or the certificate ends, and as long as the key is that of
    /// the device. Whoever is refused because the code was just used up finds it here.
    async fn answer(
        &self,
        hash: &CodeHash,
        public_key: &[u8],
        at: SystemTime,
    ) -> Result<Option<Answer>, StoreError>;

    /// A new certificate for the device, and its current key from now on.
    async fn renew(
        &self,
        device: DeviceId,
        public_key: &[u8],
        certificate_expires_at: SystemTime,
        act: &Act,
    ) -> Result<RenewOutcome, StoreError>;

    /// A device.
    async fn device(&self, device: DeviceId) -> Result<Option<Device>, StoreError>;

    /// The devices of a user, oldest first; `None` for a user that is not known.
    async fn devices_of(&self, user: &UserId) -> Result<Option<Vec<Device>>, StoreError>;

    /// Changes the name of a device of that user.
    async fn rename(&self, device: DeviceId, user: &UserId, name: &str)
    -> Result<Option<Device>, StoreError>;

    /// Revokes a device (of that user only, if one is given) at the time of the act. One that is revoked stays as it is.
    async fn revoke(
        &self,
        device: DeviceId,
        only_of: Option<&UserId>,
        act: &Act,
    ) -> Result<Option<Device>, StoreError>;

    /// Suspends or resumes a user at the time of the act. One that is so already stays as it is.
    async fn set_suspended(
        &self,
        user: &UserId,
        suspended: bool,
        act: &Act,
    ) -> Result<Option<User>, StoreError>;

    /// At most `limit` users by user id, after that one.
    async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>, StoreError>;

    /// Keeps a service's certificate; false where its key belongs to somebody else.
    async fn add_service_certificate(
        &self,
        issued: &ServiceCertificate,
        act: &Act,
    ) -> Result<bool, StoreError>;

    /// The keys of a service's certificates that are valid at that time, newest first, at most 64.
    async fn service_keys(&self, name: &str, at: SystemTime) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Notes that an assertion was used; false if it was before. Forgets those that have expired at `at`.
    async fn use_assertion(
        &self,
        subject: &str,
        jti: &str,
        expires_at: SystemTime,
        at: SystemTime,
    ) -> Result<bool, StoreError>;

    /// Writes down an act that changes nothing here.
    async fn record(&self, act: &Act) -> Result<(), StoreError>;

    /// At most `limit` lines of the revocation feed above that number.
    async fn revocations(&self, after: u64, limit: u32) -> Result<RevocationPage, StoreError>;

    /// At most `limit` lines of the audit log above that number.
    async fn audit_events(&self, after: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError>;

    /// Can it be used now?
    async fn reachable(&self) -> bool;

    /// Ends its work.
    async fn close(&self);
}

/// The backend that the configuration asks for.
pub(crate) async fn open(database: &Database) -> Result<Arc<dyn Store>, StartError> {
    Ok(match database {
        Database::Sqlite(file) => Arc::new(Sqlite::open(file).await?),
        Database::Postgres(url) => Arc::new(Postgres::open(url).await?),
    })
}
