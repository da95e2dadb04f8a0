//! The store of many replicas: one PostgreSQL database. Claims and look-ups that come together share a statement, see
//! [`together`].
//!
//! Whoever changes several packages of a device and may have to wait for others locks the device's row first, of several
//! devices in the order of their ids; claims and sweeps skip what is locked. So nobody waits in a circle.

use std::str::FromStr;

use futures::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use valise_proto::{DeviceId, UserId};
use valise_sql_database::{OpenError, PostgresUrl, within};

use super::{
    Handed, KnownDevice, LowStock, Publication, PublishOutcome, StockLine, Store, StoreError, Swept, Usable,
    Wanted,
};
use claim::Claims;
use find::{Finds, Sought};
use together::Together;

mod claim;
mod find;
mod publish;
mod stock;
mod together;
mod upkeep;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// The most connections of one replica.
const CONNECTIONS: u32 = 16;
/// Statements at the same time that claim, and that look up. Few: what waits for them shares the next one.
const AT_ONCE: usize = 2;
/// Every statement here is short, and goes by an index whatever the size of the tables. So it is planned once, and a plan
/// that was made while a table was small does not scan it when it is large. Locks are taken row by row, as
/// `READ COMMITTED` means it.
const PLANNING: [(&str, &str); 4] = [
    ("default_transaction_isolation", "read committed"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// What a piece of work on a connection gives, in time.
type Done<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Key packages in a PostgreSQL database.
pub(crate) struct PostgresStore {
    pool: PgPool,
    claims: Together<Claims>,
    finds: Together<Finds>,
}

/// Brings the schema up to date.
pub(crate) async fn migrate(url: &PostgresUrl) -> Result<(), OpenError> {
    valise_sql_database::migrate(url, &MIGRATIONS).await
}

impl PostgresStore {
    /// Opens a database whose schema is up to date.
    pub(crate) async fn open(url: &PostgresUrl) -> Result<Self, OpenError> {
        let pool = valise_sql_database::open(url, &MIGRATIONS, CONNECTIONS).await?;
        let options = pool.connect_options();
        pool.set_connect_options((*options).clone().options(PLANNING));
        Ok(Self {
            claims: Together::start(&pool, AT_ONCE),
            finds: Together::start(&pool, AT_ONCE),
            pool,
        })
    }
}

#[tonic::async_trait]
impl Store for PostgresStore {
    async fn publish(&self, publication: Publication) -> Result<PublishOutcome, StoreError> {
        within(async { publish::publish(&publication, &mut *self.pool.acquire().await?).await }).await
    }

    async fn find_devices(
        &self,
        users: &[UserId],
        devices: &[DeviceId],
        limit: u32,
    ) -> Result<Vec<KnownDevice>, StoreError> {
        let sought = Sought {
            users: users.to_vec(),
            devices: devices.to_vec(),
            limit,
        };
        self.finds.ask(sought).await
    }

    async fn claim(&self, wanted: Wanted) -> Result<Vec<Handed>, StoreError> {
        self.claims.ask(wanted).await
    }

    async fn low(
        &self,
        suspects: &[(DeviceId, u16)],
        usable: Usable,
        below: u32,
    ) -> Result<Vec<LowStock>, StoreError> {
        within(async { stock::low(suspects, usable, below, &mut *self.pool.acquire().await?).await }).await
    }

    async fn stock(&self, device: DeviceId, usable: Usable) -> Result<Vec<StockLine>, StoreError> {
        within(async { stock::stock(device, usable, &mut *self.pool.acquire().await?).await }).await
    }

    async fn suites(&self, devices: &[DeviceId], usable: Usable) -> Result<Vec<(DeviceId, u16)>, StoreError> {
        within(async { stock::suites(devices, usable, &mut *self.pool.acquire().await?).await }).await
    }

    async fn delete(&self, device: DeviceId) -> Result<u64, StoreError> {
        within(async { upkeep::delete(device, &mut *self.pool.acquire().await?).await }).await
    }

    async fn purge(&self, devices: Vec<DeviceId>) -> Result<u64, StoreError> {
        within(async { upkeep::purge(&devices, &mut *self.pool.acquire().await?).await }).await
    }

    async fn sweep(&self, now: u64, usable: Usable, limit: u32) -> Result<Swept, StoreError> {
        within(async { upkeep::sweep(now, usable, limit, &mut *self.pool.acquire().await?).await }).await
    }

    async fn reachable(&self) -> bool {
        valise_sql_database::reachable(&self.pool).await
    }

    async fn close(&self) {
        self.claims.close().await;
        self.finds.close().await;
        self.pool.close().await;
    }
}

/// PostgreSQL's integers are signed.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn key(device: DeviceId) -> [u8; 16] {
    *device.as_uuid().as_bytes()
}

fn keys(devices: &[DeviceId]) -> Vec<[u8; 16]> {
    devices.iter().copied().map(key).collect()
}

fn device(row: &PgRow, column: &str) -> Result<DeviceId, StoreError> {
    let bytes: &[u8] = row.try_get(column)?;
    uuid::Uuid::from_slice(bytes)
        .map(DeviceId::from_uuid)
        .map_err(|_| StoreError::Unreadable("device id"))
}

fn suite(row: &PgRow) -> Result<u16, StoreError> {
    u16::try_from(row.try_get::<i32, _>("suite")?).map_err(|_| StoreError::Unreadable("cipher suite"))
}

fn user(row: &PgRow) -> Result<UserId, StoreError> {
    UserId::from_str(row.try_get("user_id")?).map_err(|_| StoreError::Unreadable("user id"))
}

#[cfg(test)]
mod tests;
