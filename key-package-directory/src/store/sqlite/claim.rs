//! Handing out: two statements, whatever the number of devices.

use std::collections::HashSet;

use futures::FutureExt as _;
use sqlx::{Row, SqliteConnection};
use valise_proto::DeviceId;

use super::writer::{Done, Write};
use super::{device, json_devices, stored};
use crate::store::{Handed, StoreError, Wanted};

pub(super) struct Claim(pub(super) Wanted);

impl Write for Claim {
    type Outcome = Vec<Handed>;

    fn apply<'a>(&'a self, connection: &'a mut SqliteConnection) -> Done<'a, Vec<Handed>> {
        // The inner query goes once into the index for each device.
        const ONE_TIME: &str = "
            DELETE FROM key_package WHERE number IN (
                SELECT (SELECT number FROM key_package
                        WHERE device = unhex(value) AND suite = ?2 AND last_resort = 0
                          AND not_after >= ?3 AND certificate_not_after >= ?4
                        ORDER BY not_after, certificate_not_after, number LIMIT 1)
                FROM json_each(?1))
            RETURNING device, message";
        const LAST_RESORT: &str = "
            SELECT device, message FROM key_package
            WHERE device IN (SELECT unhex(value) FROM json_each(?1)) AND suite = ?2 AND last_resort = 1
              AND not_after >= ?3 AND certificate_not_after >= ?4";
        async move {
            let mut handed = self.take(connection, ONE_TIME, &self.0.devices, false).await?;
            let without: Vec<_> = {
                let served: HashSet<_> = handed.iter().map(|handed| handed.device).collect();
                self.0
                    .devices
                    .iter()
                    .copied()
                    .filter(|device| !served.contains(device))
                    .collect()
            };
            if !without.is_empty() {
                handed.extend(self.take(connection, LAST_RESORT, &without, true).await?);
            }
            Ok(handed)
        }
        .boxed()
    }
}

impl Claim {
    async fn take(
        &self,
        connection: &mut SqliteConnection,
        statement: &'static str,
        devices: &[DeviceId],
        last_resort: bool,
    ) -> Result<Vec<Handed>, StoreError> {
        let rows = sqlx::query(statement)
            .bind(json_devices(devices))
            .bind(self.0.suite)
            .bind(stored(self.0.usable.not_after_from))
            .bind(stored(self.0.usable.certificate_not_after_from))
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| {
                let message = row.try_get("message")?;
                Ok(Handed {
                    device: device(row, "device")?,
                    message,
                    last_resort,
                })
            })
            .collect()
    }
}
