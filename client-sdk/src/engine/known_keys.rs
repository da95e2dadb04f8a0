//! The devices of users and their keys, as this device has verified them: the rosters of its groups.

use std::collections::BTreeSet;

use valise_proto::{GroupId, UserId};

use super::{Engine, live};
use crate::safety_number::KnownDevice;
use crate::{Error, GroupStatus};

/// The devices of this device's user and of another, in groups that both are in.
pub(crate) struct SharedDevices {
    pub(crate) own: BTreeSet<KnownDevice>,
    pub(crate) others: BTreeSet<KnownDevice>,
}

/// A roster that is verified and up to date, as far as this device knows. In a quarantined group a credential did not stand the
/// test; groups that are held, lost or regressed are no longer followed.
fn counts(status: GroupStatus) -> bool {
    matches!(status, GroupStatus::Active | GroupStatus::Leaving)
}

impl Engine {
    /// Of one group, or of all; `None` where there is no group with both.
    pub(crate) fn shared_devices(
        &mut self,
        other: &UserId,
        only: Option<GroupId>,
    ) -> Result<Option<SharedDevices>, Error> {
        let mut groups = self.db.groups()?;
        if let Some(only) = only {
            groups.retain(|row| row.id == only);
            let row = groups.first().ok_or(Error::UnknownGroup(only))?;
            if !counts(row.status) {
                return Err(Error::GroupNotActive(row.status));
            }
        }
        let mut shared: Option<SharedDevices> = None;
        for row in groups.iter().filter(|row| counts(row.status)) {
            let roster = &live::get(&mut self.live, &self.db, row.id)?.roster;
            if !roster.has_user(other) {
                continue;
            }
            let shared = shared.get_or_insert_with(|| SharedDevices {
                own: BTreeSet::new(),
                others: BTreeSet::new(),
            });
            for member in roster.members() {
                let side = match &member.identity.user {
                    user if user == other => &mut shared.others,
                    user if *user == self.device.user => &mut shared.own,
                    _ => continue,
                };
                side.insert(KnownDevice {
                    device: member.identity.device,
                    signature_key: member.signature_key.clone(),
                });
            }
        }
        Ok(shared)
    }
}
