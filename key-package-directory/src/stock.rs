//! What a device has in stock, and the end of it.

use valise_proto::{DeviceId, Refusal};

use crate::directory::Directory;
use crate::store::{LowStock, StoreError};

/// What is in stock of one suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StockStatus {
    pub(crate) suite: u16,
    pub(crate) one_time: u32,
    pub(crate) last_resort: bool,
    /// When the first package stops being handed out, in seconds since 1970-01-01 UTC.
    pub(crate) first_unusable_at: Option<u64>,
    pub(crate) low: bool,
}

impl Directory {
    /// The stock of each suite that the device has published, by suite.
    pub(crate) async fn stock(&self, device: DeviceId) -> Result<Vec<StockStatus>, Refusal> {
        let usable = self.usable_at(self.clock.unix_seconds());
        let lines = self.store.stock(device, usable).await?;
        let status = |line: crate::store::StockLine| StockStatus {
            suite: line.suite,
            one_time: line.one_time,
            last_resort: line.last_resort,
            first_unusable_at: line
                .first_not_after
                .zip(line.first_certificate_not_after)
                .map(|(lifetime, certificate)| self.last_usable(lifetime, certificate)),
            low: line.one_time < self.packages.low_level,
        };
        Ok(lines.into_iter().map(status).collect())
    }

    /// Those of these devices and suites that have little left.
    pub(crate) async fn low(&self, suspects: &[(DeviceId, u16)]) -> Result<Vec<LowStock>, StoreError> {
        let usable = self.usable_at(self.clock.unix_seconds());
        self.store.low(suspects, usable, self.packages.low_level).await
    }

    /// Deletes all packages of the device and says how many. They stay seen.
    pub(crate) async fn delete(&self, device: DeviceId) -> Result<u32, Refusal> {
        let deleted = self.store.delete(device).await?;
        tracing::info!(%device, deleted, "key packages deleted by their device");
        Ok(u32::try_from(deleted).unwrap_or(u32::MAX))
    }
}
