//! The store on SQLite: one file, for a deployment of one process.

mod devices;
mod open;
mod records;
mod users;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite as Driver, Transaction};
use valise_proto::{DeviceId, UserId};
use valise_sql_database::note_clean_end;

use super::{
    Act, Answer, AuditEvent, Code, CodeHash, CodeOutcome, Device, EnrolOutcome, NewCode, NewDevice,
    RenewOutcome, RevocationPage, ServiceCertificate, Store, StoreError, User,
};
use crate::StartError;

/// SQLite allows one writer: writes queue for one connection rather than at the file's lock. Reads have their own.
pub(crate) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    /// `None` for one in memory.
    file: Option<PathBuf>,
}

impl Sqlite {
    /// Opens the file and brings its schema up to date; makes it, readable by its owner alone, where there is none.
    pub(crate) async fn open(file: &Path) -> Result<Self, StartError> {
        open::file(file).await
    }

    /// Kept in memory only.
    #[cfg(test)]
    pub(crate) async fn in_memory() -> Result<Self, StartError> {
        open::memory().await
    }

    /// A transaction that holds the write lock from its start, so that what it reads stays true until it ends.
    async fn write(&self) -> Result<Transaction<'static, Driver>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Busy, out of reach or out of space?
pub(super) fn is_unavailable(error: &sqlx::Error) -> bool {
    let database = error.as_database_error().and_then(open::primary_code);
    // SQLITE_BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN
    matches!(database, Some(5..=10 | 13 | 14))
        || matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed
        )
}

#[tonic::async_trait]
impl Store for Sqlite {
    async fn find_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        records::find_secret(&mut *self.readers.acquire().await?, name).await
    }

    async fn keep_secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut tx = self.write().await?;
        if let Some(secret) = records::find_secret(&mut tx, name).await? {
            return Ok(secret);
        }
        records::add_secret(&mut tx, name, fresh).await?;
        tx.commit().await?;
        Ok(fresh.to_vec())
    }

    async fn create_code(&self, code: &NewCode, act: &Act) -> Result<CodeOutcome, StoreError> {
        let mut tx = self.write().await?;
        users::ensure(&mut tx, &code.user, act.at).await?;
        if users::is_suspended(&mut tx, &code.user).await? {
            return Ok(CodeOutcome::UserSuspended);
        }
        users::add_code(&mut tx, code, act.at).await?;
        records::write_down(&mut tx, act).await?;
        tx.commit().await?;
        Ok(CodeOutcome::Created)
    }

    async fn create_bootstrap_code(&self, code: &NewCode, act: &Act) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        if devices::any_administrator(&mut tx).await? {
            return Ok(false);
        }
        users::void_bootstrap_codes(&mut tx).await?;
        users::ensure(&mut tx, &code.user, act.at).await?;
        users::add_code(&mut tx, code, act.at).await?;
        records::write_down(&mut tx, act).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn code(&self, hash: &CodeHash, at: SystemTime) -> Result<Option<Code>, StoreError> {
        users::code(&mut *self.readers.acquire().await?, hash, at).await
    }

    async fn enrol(
        &self,
        hash: &CodeHash,
        device: &NewDevice,
        act: &Act,
    ) -> Result<EnrolOutcome, StoreError> {
        let mut tx = self.write().await?;
        let outcome = devices::enrol(&mut tx, hash, device, act.at).await?;
        if outcome == EnrolOutcome::Enrolled {
            records::write_down(&mut tx, act).await?;
            tx.commit().await?;
        }
        Ok(outcome)
    }

    async fn answer(
        &self,
        hash: &CodeHash,
        public_key: &[u8],
        at: SystemTime,
    ) -> Result<Option<Answer>, StoreError> {
        devices::answer(&mut *self.readers.acquire().await?, hash, public_key, at).await
    }

    async fn renew(
        &self,
        device: DeviceId,
        public_key: &[u8],
        certificate_expires_at: SystemTime,
        act: &Act,
    ) -> Result<RenewOutcome, StoreError> {
        let mut tx = self.write().await?;
        let outcome = devices::renew(&mut tx, device, public_key, certificate_expires_at).await?;
        if outcome == RenewOutcome::Renewed {
            records::write_down(&mut tx, act).await?;
            tx.commit().await?;
        }
        Ok(outcome)
    }

    async fn device(&self, device: DeviceId) -> Result<Option<Device>, StoreError> {
        devices::one(&mut *self.readers.acquire().await?, device).await
    }

    async fn devices_of(&self, user: &UserId) -> Result<Option<Vec<Device>>, StoreError> {
        // One snapshot for both questions.
        let mut tx = self.readers.begin().await?;
        if users::one(&mut tx, user).await?.is_none() {
            return Ok(None);
        }
        devices::of_user(&mut tx, user).await.map(Some)
    }

    async fn rename(
        &self,
        device: DeviceId,
        user: &UserId,
        name: &str,
    ) -> Result<Option<Device>, StoreError> {
        let mut tx = self.write().await?;
        if !devices::rename(&mut tx, device, user, name).await? {
            return Ok(None);
        }
        let device = devices::one(&mut tx, device).await?;
        tx.commit().await?;
        Ok(device)
    }

    async fn revoke(
        &self,
        device: DeviceId,
        only_of: Option<&UserId>,
        act: &Act,
    ) -> Result<Option<Device>, StoreError> {
        let mut tx = self.write().await?;
        let found = devices::one(&mut tx, device).await?;
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
    }

    async fn set_suspended(
        &self,
        user: &UserId,
        suspended: bool,
        act: &Act,
    ) -> Result<Option<User>, StoreError> {
        let mut tx = self.write().await?;
        if users::set_suspended(&mut tx, user, suspended).await? {
            let kind = if suspended { "suspended" } else { "resumed" };
            records::add_revocation(&mut tx, kind, user, None, act.at).await?;
            records::write_down(&mut tx, act).await?;
        }
        let user = users::one(&mut tx, user).await?;
        tx.commit().await?;
        Ok(user)
    }

    async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>, StoreError> {
        users::page(&mut *self.readers.acquire().await?, after, limit).await
    }

    async fn add_service_certificate(
        &self,
        issued: &ServiceCertificate,
        act: &Act,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        if !records::add_service_certificate(&mut tx, issued).await? {
            return Ok(false);
        }
        records::write_down(&mut tx, act).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn service_keys(&self, name: &str, at: SystemTime) -> Result<Vec<Vec<u8>>, StoreError> {
        records::service_keys(&mut *self.readers.acquire().await?, name, at).await
    }

    async fn use_assertion(
        &self,
        subject: &str,
        jti: &str,
        expires_at: SystemTime,
        at: SystemTime,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let fresh = records::use_assertion(&mut tx, subject, jti, expires_at, at).await?;
        tx.commit().await?;
        Ok(fresh)
    }

    async fn record(&self, act: &Act) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        records::write_down(&mut tx, act).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn revocations(&self, after: u64, limit: u32) -> Result<RevocationPage, StoreError> {
        let mut tx = self.readers.begin().await?;
        records::revocations(&mut tx, after, limit).await
    }

    async fn audit_events(&self, after: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        records::audit_events(&mut *self.readers.acquire().await?, after, limit).await
    }

    async fn reachable(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.readers).await.is_ok()
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        if let Some(file) = &self.file {
            note_clean_end(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn conforms_in_memory() {
        conformance::run(async || Sqlite::in_memory().await.unwrap()).await;
    }

    #[tokio::test]
    async fn conforms_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut number = 0;
        conformance::run(async || {
            number += 1;
            Sqlite::open(&directory.path().join(format!("{number}.db")))
                .await
                .unwrap()
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms_with_two_at_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut number = 0;
        conformance::run_on_replicas(async || {
            number += 1;
            let file = directory.path().join(format!("{number}.db"));
            [
                Sqlite::open(&file).await.unwrap(),
                Sqlite::open(&file).await.unwrap(),
            ]
        })
        .await;
    }
}
