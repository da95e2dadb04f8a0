//! A device asks which cipher suites other devices have packages of, before it chooses the suite of a new group. Nothing is
//! handed out.

use std::collections::HashMap;

use valise_proto::{DeviceId, Refusal, UserId};

use crate::claim::MAX_CLAIMS;
use crate::directory::{Directory, rate_limited};

/// A device that packages can be had of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceSuites {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    /// Ascending; never empty.
    pub(crate) suites: Vec<u16>,
}

impl Directory {
    /// The suites of all devices of these users, by user and device. Left out are the calling device, devices that nothing can
    /// be had of, and users who have none.
    pub(crate) async fn find_suites(
        &self,
        user: &UserId,
        device: DeviceId,
        users: Vec<UserId>,
    ) -> Result<Vec<DeviceSuites>, Refusal> {
        let found = self.store.find_devices(&users, &[], MAX_CLAIMS + 1).await?;
        if found.len() > MAX_CLAIMS as usize {
            return Err(Refusal::too_large("user_ids", MAX_CLAIMS as usize));
        }
        // Who was not found costs as much.
        let cost = u32::try_from(found.len().max(users.len())).unwrap_or(u32::MAX);
        self.limits.find_suites.check(user, cost).map_err(rate_limited)?;

        let mut owners = HashMap::new();
        for known in found.into_iter().filter(|known| known.device != device) {
            if !self.verifier.is_revoked(&known.user, known.device)? {
                owners.insert(known.device, known.user);
            }
        }
        let devices: Vec<_> = owners.keys().copied().collect();
        let usable = self.usable_at(self.clock.unix_seconds());
        let mut suites = HashMap::<_, Vec<u16>>::new();
        for (device, suite) in self.store.suites(&devices, usable).await? {
            suites.entry(device).or_default().push(suite);
        }
        let mut result: Vec<_> = suites
            .into_iter()
            .filter_map(|(device, mut suites)| {
                suites.sort_unstable();
                let user = owners.remove(&device)?;
                Some(DeviceSuites { user, device, suites })
            })
            .collect();
        result
            .sort_by(|one, other| (one.user.as_str(), one.device).cmp(&(other.user.as_str(), other.device)));
        Ok(result)
    }
}
