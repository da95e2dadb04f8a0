//! Storing a publication: all checks, then all writes.

use std::collections::HashMap;

use futures::FutureExt as _;
use sqlx::{Row, SqliteConnection};

use super::writer::{Done, Write};
use super::{json_list, key, stored};
use crate::store::{NewPackage, Publication, PublishOutcome, StoreError};

pub(super) struct Publish(pub(super) Publication);

impl Write for Publish {
    type Outcome = PublishOutcome;

    fn apply<'a>(&'a self, connection: &'a mut SqliteConnection) -> Done<'a, PublishOutcome> {
        async move {
            let known = sqlx::query("SELECT revoked, signature_key FROM device WHERE id = ?")
                .bind(key(self.0.device))
                .fetch_optional(&mut *connection)
                .await?;
            let mut another_key = false;
            if let Some(row) = known {
                if row.try_get("revoked")? {
                    return Ok(PublishOutcome::Revoked);
                }
                another_key = row.try_get::<&[u8], _>("signature_key")? != self.0.signature_key;
            }
            if let Some(index) = self.first_seen(connection).await? {
                return Ok(PublishOutcome::SeenBefore { index });
            }
            if self.is_too_much(connection, another_key).await? {
                return Ok(PublishOutcome::Full);
            }
            // Nothing was written up to here, nothing is refused from here.
            self.make_room(connection, another_key).await?;
            for package in &self.0.packages {
                self.insert(connection, package).await?;
            }
            Ok(PublishOutcome::Stored)
        }
        .boxed()
    }
}

impl Publish {
    async fn first_seen(&self, connection: &mut SqliteConnection) -> Result<Option<usize>, StoreError> {
        const FIRST: &str = "
            SELECT min(key) FROM json_each(?2)
            WHERE EXISTS (SELECT 1 FROM seen_init_key WHERE device = ?1 AND digest = unhex(value))";
        let digests = self
            .0
            .packages
            .iter()
            .map(|package| hex::encode(package.init_key_digest));
        let first: Option<i64> = sqlx::query_scalar(FIRST)
            .bind(key(self.0.device))
            .bind(json_list(digests))
            .fetch_one(connection)
            .await?;
        Ok(first.and_then(|index| usize::try_from(index).ok()))
    }

    async fn is_too_much(
        &self,
        connection: &mut SqliteConnection,
        another_key: bool,
    ) -> Result<bool, StoreError> {
        const COUNT: &str = "
            SELECT suite, count(*) AS one_time FROM key_package
            WHERE device = ? AND last_resort = 0 AND not_after >= ? AND certificate_not_after >= ? GROUP BY suite";
        let mut one_time = HashMap::<u16, u32>::new();
        if !another_key {
            let rows = sqlx::query(COUNT)
                .bind(key(self.0.device))
                .bind(stored(self.0.usable.not_after_from))
                .bind(stored(self.0.usable.certificate_not_after_from))
                .fetch_all(connection)
                .await?;
            for row in rows {
                one_time.insert(row.try_get("suite")?, row.try_get("one_time")?);
            }
        }
        let new = self.0.packages.iter().filter(|package| !package.last_resort);
        Ok(new.into_iter().any(|package| {
            let count = one_time.entry(package.suite).or_default();
            *count += 1;
            *count > self.0.capacity
        }))
    }

    async fn make_room(
        &self,
        connection: &mut SqliteConnection,
        another_key: bool,
    ) -> Result<(), StoreError> {
        const DEVICE: &str = "
            INSERT INTO device (id, user_id, signature_key) VALUES (?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET signature_key = excluded.signature_key";
        sqlx::query(DEVICE)
            .bind(key(self.0.device))
            .bind(self.0.user.as_str())
            .bind(&self.0.signature_key)
            .execute(&mut *connection)
            .await?;
        if another_key {
            for all in [
                "DELETE FROM key_package WHERE device = ?",
                "DELETE FROM published_suite WHERE device = ?",
            ] {
                sqlx::query(all)
                    .bind(key(self.0.device))
                    .execute(&mut *connection)
                    .await?;
            }
            return Ok(());
        }
        sqlx::query(
            "DELETE FROM key_package WHERE device = ? AND (not_after < ? OR certificate_not_after < ?)",
        )
        .bind(key(self.0.device))
        .bind(stored(self.0.usable.not_after_from))
        .bind(stored(self.0.usable.certificate_not_after_from))
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn insert(
        &self,
        connection: &mut SqliteConnection,
        package: &NewPackage,
    ) -> Result<(), StoreError> {
        const PACKAGE: &str = "
            INSERT INTO key_package (device, suite, last_resort, not_after, certificate_not_after, message)
            VALUES (?, ?, ?, ?, ?, ?)";
        sqlx::query("INSERT INTO published_suite (device, suite) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(key(self.0.device))
            .bind(package.suite)
            .execute(&mut *connection)
            .await?;
        sqlx::query("INSERT INTO seen_init_key (device, digest, not_after) VALUES (?, ?, ?)")
            .bind(key(self.0.device))
            .bind(package.init_key_digest.as_slice())
            .bind(stored(package.not_after))
            .execute(&mut *connection)
            .await?;
        if package.last_resort {
            sqlx::query("DELETE FROM key_package WHERE device = ? AND suite = ? AND last_resort = 1")
                .bind(key(self.0.device))
                .bind(package.suite)
                .execute(&mut *connection)
                .await?;
        }
        sqlx::query(PACKAGE)
            .bind(key(self.0.device))
            .bind(package.suite)
            .bind(package.last_resort)
            .bind(stored(package.not_after))
            .bind(stored(package.certificate_not_after))
            .bind(package.message.as_slice())
            .execute(connection)
            .await?;
        Ok(())
    }
}
