//! The store on PostgreSQL: for any number of replicas.
//!
//! SQLite lets one writer in at a time. Here writers meet only where they must, and what they read stays true because they
//! lock it first, always in this order: the lock of the administrators, the user's row, the code's, the device's, a key
//! (its unique index), the lock of the revocations, that of the audit log. The last two are held until the transaction has
//! ended, so that numbers become visible in their order.

mod devices;
mod lock;
mod records;
#[cfg(test)]
mod tests;
mod users;

use std::time::SystemTime;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPool;
use sqlx::{Postgres as Driver, Transaction, migrate};
use valise_proto::{DeviceId, UserId};
use valise_sql_database::{OpenError, PostgresUrl, reachable, within};

use super::{
    Act, Answer, AuditEvent, Code, CodeHash, CodeOutcome, Device, EnrolOutcome, NewCode, NewDevice,
    RenewOutcome, RevocationPage, ServiceCertificate, Store, StoreError, User,
};
use lock::Lock;

static MIGRATIONS: Migrator = migrate!("migrations/postgres");

/// Of one replica. Few are enough: no transaction waits for anything but the database.
const CONNECTIONS: u32 = 10;

/// Makes the schema, or brings it up to date.
pub(crate) async fn migrate(url: &PostgresUrl) -> Result<(), OpenError> {
    valise_sql_database::migrate(url, &MIGRATIONS).await
}

pub(crate) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// The schema must be there: see [`migrate`].
    pub(crate) async fn open(url: &PostgresUrl) -> Result<Self, OpenError> {
        let pool = valise_sql_database::open(url, &MIGRATIONS, CONNECTIONS).await?;
        Ok(Self { pool })
    }

    async fn write(&self) -> Result<Transaction<'static, Driver>, StoreError> {
        Ok(self.pool.begin().await?)
    }

    /// For more than one statement that must see the same.
    async fn snapshot(&self) -> Result<Transaction<'static, Driver>, StoreError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(self.pool.begin_with(begin).await?)
    }
}

#[tonic::async_trait]
impl Store for Postgres {
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        within(async { records::find_secret(&mut *self.pool.acquire().await?, name).await }).await
    }

    async fn keep_secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            let kept = records::keep_secret(&mut tx, name, fresh).await?;
            tx.commit().await?;
            Ok(kept)
        })
        .await
    }

    async fn create_code(&self, code: &NewCode, act: &Act) -> Result<CodeOutcome, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            users::ensure(&mut tx, &code.user, act.at).await?;
            if users::lock(&mut tx, &code.user).await? {
                return Ok(CodeOutcome::UserSuspended);
            }
            users::add_code(&mut tx, code, act.at).await?;
            records::write_down(&mut tx, act).await?;
            tx.commit().await?;
            Ok(CodeOutcome::Created)
        })
        .await
    }

    async fn create_bootstrap_code(&self, code: &NewCode, act: &Act) -> Result<bool, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            lock::take(&mut tx, Lock::Administrators).await?;
            if devices::any_administrator(&mut tx).await? {
                return Ok(false);
            }
            users::void_bootstrap_codes(&mut tx).await?;
            users::ensure(&mut tx, &code.user, act.at).await?;
            users::add_code(&mut tx, code, act.at).await?;
            records::write_down(&mut tx, act).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn code(&self, hash: &CodeHash, at: SystemTime) -> Result<Option<Code>, StoreError> {
        within(async { users::code(&mut *self.pool.acquire().await?, hash, at).await }).await
    }

    async fn enrol(
        &self,
        hash: &CodeHash,
        device: &NewDevice,
        act: &Act,
    ) -> Result<EnrolOutcome, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            let outcome = devices::enrol(&mut tx, hash, device, act.at).await?;
            if outcome == EnrolOutcome::Enrolled {
                records::write_down(&mut tx, act).await?;
                tx.commit().await?;
            }
            Ok(outcome)
        })
        .await
    }

    async fn answer(
        &self,
        hash: &CodeHash,
        public_key: &[u8],
        at: SystemTime,
    ) -> Result<Option<Answer>, StoreError> {
        within(async { devices::answer(&mut *self.pool.acquire().await?, hash, public_key, at).await }).await
    }

    async fn renew(
        &self,
        device: DeviceId,
        public_key: &[u8],
        certificate_expires_at: SystemTime,
        act: &Act,
    ) -> Result<RenewOutcome, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            let outcome = devices::renew(&mut tx, device, public_key, certificate_expires_at).await?;
            if outcome == RenewOutcome::Renewed {
                records::write_down(&mut tx, act).await?;
                tx.commit().await?;
            }
            Ok(outcome)
        })
        .await
    }

    async fn device(&self, device: DeviceId) -> Result<Option<Device>, StoreError> {
        within(async { devices::one(&mut *self.pool.acquire().await?, device).await }).await
    }

    async fn devices_of(&self, user: &UserId) -> Result<Option<Vec<Device>>, StoreError> {
        within(async {
            let mut tx = self.snapshot().await?;
            if users::one(&mut tx, user).await?.is_none() {
                return Ok(None);
            }
            devices::of_user(&mut tx, user).await.map(Some)
        })
        .await
    }

    async fn rename(
        &self,
        device: DeviceId,
        user: &UserId,
        name: &str,
    ) -> Result<Option<Device>, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            if !devices::rename(&mut tx, device, user, name).await? {
                return Ok(None);
            }
            let device = devices::one(&mut tx, device).await?;
            tx.commit().await?;
            Ok(device)
        })
        .await
    }

    async fn revoke(
        &self,
        device: DeviceId,
        only_of: Option<&UserId>,
        act: &Act,
    ) -> Result<Option<Device>, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            let found = devices::locked(&mut tx, device).await?;
            let Some(found) = found.filter(|found| only_of.is_none_or(|user| *user == found.user)) else {
                return Ok(None);
            };
            if found.revoked_at.is_some() {
                return Ok(Some(found));
            }
            devices::revoke(&mut tx, device, act.at).await?;
            records::add_revocation(&mut tx, "device", &found.user, Some(device), act.at).await?;
            records::write_down(&mut tx, act).await?;
            let revoked = devices::one(&mut tx, device).await?;
            tx.commit().await?;
            Ok(revoked)
        })
        .await
    }

    async fn set_suspended(
        &self,
        user: &UserId,
        suspended: bool,
        act: &Act,
    ) -> Result<Option<User>, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            if users::set_suspended(&mut tx, user, suspended).await? {
                let kind = if suspended { "suspended" } else { "resumed" };
                records::add_revocation(&mut tx, kind, user, None, act.at).await?;
                records::write_down(&mut tx, act).await?;
            }
            let user = users::one(&mut tx, user).await?;
            tx.commit().await?;
            Ok(user)
        })
        .await
    }

    async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>, StoreError> {
        within(async { users::page(&mut *self.pool.acquire().await?, after, limit).await }).await
    }

    async fn add_service_certificate(
        &self,
        issued: &ServiceCertificate,
        act: &Act,
    ) -> Result<bool, StoreError> {
        within(async {
            let mut tx = self.write().await?;
            if !records::add_service_certificate(&mut tx, issued).await? {
                return Ok(false);
            }
            records::write_down(&mut tx, act).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn service_keys(&self, name: &str, at: SystemTime) -> Result<Vec<Vec<u8>>, StoreError> {
        within(async { records::service_keys(&mut *self.pool.acquire().await?, name, at).await }).await
    }

    async fn use_assertion(
        &self,
        subject: &str,
        jti: &str,
        expires_at: SystemTime,
        at: SystemTime,
    ) -> Result<bool, StoreError> {
        within(async {
            records::use_assertion(&mut *self.pool.acquire().await?, subject, jti, expires_at, at).await
        })
        .await
    }

    async fn record(&self, act: &Act) -> Result<(), StoreError> {
        within(async {
            let mut tx = self.write().await?;
            records::write_down(&mut tx, act).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn revocations(&self, after: u64, limit: u32) -> Result<RevocationPage, StoreError> {
        within(async { records::revocations(&mut *self.snapshot().await?, after, limit).await }).await
    }

    async fn audit_events(&self, after: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        within(async { records::audit_events(&mut *self.pool.acquire().await?, after, limit).await }).await
    }

    async fn reachable(&self) -> bool {
        reachable(&self.pool).await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
