//! Whose devices are known to be whose, so that a claim of devices that were claimed before asks the store once and not twice.
//!
//! A device belongs to one user for ever, and a device that has published stays known for ever: so what is remembered here
//! is never wrong. What may change, that it is revoked, is not remembered. A revoked device has no packages left, and whoever
//! finds none asks the store why.

use moka::sync::Cache;
use valise_proto::{DeviceId, UserId};

use crate::store::KnownDevice;

/// Devices that are remembered; beyond it, those that were not asked for lately are looked up again. About 20 MB.
const REMEMBERED: u64 = 100_000;

/// The users of devices, as far as they were looked up lately.
pub(crate) struct KnownDevices {
    users: Cache<DeviceId, UserId>,
}

impl KnownDevices {
    pub(crate) fn new() -> Self {
        Self {
            users: Cache::new(REMEMBERED),
        }
    }

    /// All of these devices, none of them known to be revoked; `None` where one has to be looked up.
    pub(crate) fn all(&self, devices: &[DeviceId]) -> Option<Vec<KnownDevice>> {
        let known = |&device: &DeviceId| {
            Some(KnownDevice {
                user: self.users.get(&device)?,
                device,
                revoked: false,
            })
        };
        devices.iter().map(known).collect()
    }

    /// Remembers what was looked up.
    pub(crate) fn remember(&self, found: &[KnownDevice]) {
        for known in found.iter().filter(|known| !known.revoked) {
            self.users.insert(known.device, known.user.clone());
        }
    }

    /// For devices that turned out to be revoked.
    pub(crate) fn forget(&self, device: DeviceId) {
        self.users.invalidate(&device);
    }
}
