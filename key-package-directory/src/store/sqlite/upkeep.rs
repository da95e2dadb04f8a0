//! Deleting: what a device takes back, what was revoked, what has ended.

use futures::FutureExt as _;
use sqlx::SqliteConnection;
use valise_proto::DeviceId;

use super::writer::{Done, Write};
use super::{json_devices, key, stored};
use crate::store::{Swept, Usable};

pub(super) struct Delete(pub(super) DeviceId);

impl Write for Delete {
    type Outcome = u64;

    fn apply<'a>(&'a self, connection: &'a mut SqliteConnection) -> Done<'a, u64> {
        async move {
            let deleted = sqlx::query("DELETE FROM key_package WHERE device = ?")
                .bind(key(self.0))
                .execute(connection)
                .await?;
            Ok(deleted.rows_affected())
        }
        .boxed()
    }
}

pub(super) struct Purge(pub(super) Vec<DeviceId>);

impl Write for Purge {
    type Outcome = u64;

    fn apply<'a>(&'a self, connection: &'a mut SqliteConnection) -> Done<'a, u64> {
        const PACKAGES: &str =
            "DELETE FROM key_package WHERE device IN (SELECT unhex(value) FROM json_each(?))";
        // What was seen matters only for the next publish, which there will not be.
        const REST: [&str; 3] = [
            "DELETE FROM seen_init_key WHERE device IN (SELECT unhex(value) FROM json_each(?))",
            "DELETE FROM published_suite WHERE device IN (SELECT unhex(value) FROM json_each(?))",
            "UPDATE device SET revoked = 1 WHERE revoked = 0 AND id IN (SELECT unhex(value) FROM json_each(?))",
        ];
        async move {
            let devices = json_devices(&self.0);
            let purged = sqlx::query(PACKAGES)
                .bind(&devices)
                .execute(&mut *connection)
                .await?;
            for statement in REST {
                sqlx::query(statement)
                    .bind(&devices)
                    .execute(&mut *connection)
                    .await?;
            }
            Ok(purged.rows_affected())
        }
        .boxed()
    }
}

pub(super) struct Sweep {
    pub(super) now: u64,
    pub(super) usable: Usable,
    pub(super) limit: u32,
}

impl Write for Sweep {
    type Outcome = Swept;

    fn apply<'a>(&'a self, connection: &'a mut SqliteConnection) -> Done<'a, Swept> {
        const PACKAGES: &str = "
            DELETE FROM key_package WHERE number IN (
                SELECT number FROM key_package WHERE not_after < ?1 OR certificate_not_after < ?2 LIMIT ?3)";
        const INIT_KEYS: &str = "
            DELETE FROM seen_init_key WHERE (device, digest) IN (
                SELECT device, digest FROM seen_init_key WHERE not_after < ?1 LIMIT ?2)";
        async move {
            let packages = sqlx::query(PACKAGES)
                .bind(stored(self.usable.not_after_from))
                .bind(stored(self.usable.certificate_not_after_from))
                .bind(self.limit)
                .execute(&mut *connection)
                .await?;
            let init_keys = sqlx::query(INIT_KEYS)
                .bind(stored(self.now))
                .bind(self.limit)
                .execute(connection)
                .await?;
            Ok(Swept {
                packages: packages.rows_affected(),
                init_keys: init_keys.rows_affected(),
            })
        }
        .boxed()
    }
}
