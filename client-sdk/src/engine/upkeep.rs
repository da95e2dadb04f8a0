//! What a device does without being asked: new keys in its groups, the new certificate into every leaf, stale members out.
//!
//! A device gives itself new keys soon after it joined a group and then on a schedule, so that an attacker who once read its state is shut
//! out again (RFC 9750 §6.2). Times are spread by chance: the devices of a group do not all commit at once.

use std::time::Duration;

use openmls::prelude::{CredentialWithKey, MlsGroup};
use openmls_traits::signatures::Signer as _;
use valise_device_certificate::{certification_request, read};
use valise_group_rules::identify;
use valise_proto::{DeviceId, GroupId};

use super::effects::{Chore, Effect};
use super::intents::Operation;
use super::{Device, Engine, live};
use crate::store::Enrolled;
use crate::{Error, kill_point};

/// Certificates are renewed when this many thirds of their life are over.
const RENEWAL_THIRDS: u64 = 2;
/// The new certificate is in all groups within this part of what remained of the old one's life.
const RENEWAL_SPREAD: u64 = 4;

/// So few members settle it by the epoch who commits first, should many of them want to at once.
const FEW: usize = 8;
/// For each member beyond these, devices that joined by last-resort packages wait so much longer: about as long as a commit takes to be everywhere.
const APART: Duration = Duration::from_millis(300);
/// And no longer than this.
const WITHIN: Duration = Duration::from_mins(5);

/// What has to be done with the help of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The certificate is to be renewed.
    pub(crate) renewal: bool,
    /// The key packages at the directory are to be replaced.
    pub(crate) key_packages: bool,
}

impl Device {
    /// The device's credential, where its leaf has an older one.
    pub(super) fn successor(&self, group: &MlsGroup) -> Option<CredentialWithKey> {
        let current = group.own_leaf_node()?.credential();
        (*current != self.credential.credential).then(|| self.credential.clone())
    }

    /// First and last second of its certificate.
    fn validity(&self) -> Result<(u64, u64), Error> {
        let certificate = read(&self.chain)?;
        Ok((certificate.not_before, certificate.not_after))
    }
}

impl Engine {
    /// Queues what is due in the groups, and says what else is.
    pub(crate) fn upkeep(&mut self) -> Result<Due, Error> {
        let now = self.now();
        let due = self.transaction(|engine| {
            engine.db.sweep_key_updates()?;
            engine.trim_copies()?;
            for (group, due) in engine.db.key_updates()? {
                match due {
                    Some(due) if due > now => {}
                    Some(_) => engine.queue_update(group, false)?,
                    // Of a store from before there was a schedule.
                    None => engine.plan_first_update(group)?,
                }
                engine.evict_stale(group, now)?;
                engine.pump(group)?;
            }
            let (not_before, not_after) = engine.device.validity()?;
            let life = not_after.saturating_sub(not_before);
            Ok(Due {
                renewal: now >= not_before.saturating_add(life / 3 * RENEWAL_THIRDS),
                key_packages: engine.db.key_packages_outdated()?,
            })
        })?;
        self.scrub()?;
        Ok(due)
    }

    /// Empties the store's write-ahead log, where deleted secrets still are (RFC 9420 §9.2).
    pub(crate) fn scrub(&mut self) -> Result<(), Error> {
        self.db.scrub()
    }

    fn queue_update(&mut self, group: GroupId, urgent: bool) -> Result<(), Error> {
        let operation = Operation::SelfUpdate;
        if !self.db.has_intent(group, operation.kind())? {
            self.queue(group, &operation, urgent)?;
        }
        Ok(())
    }

    /// After joining by a last-resort package: others may have been welcomed with the same key (RFC 9420 §16.8). In a small group there are new
    /// ones at once. With this device many may have come into a large one in that way, by one commit: they do not all commit at once.
    pub(super) fn update_soon(&mut self, group: GroupId) -> Result<(), Error> {
        let members = live::get(&mut self.live, &self.db, group)?.roster.len();
        let beyond = u32::try_from(members.saturating_sub(FEW)).unwrap_or(u32::MAX);
        let within = APART.saturating_mul(beyond).min(WITHIN);
        if within.is_zero() {
            return self.queue_update(group, true);
        }
        let within = u64::try_from(within.as_millis()).unwrap_or(0);
        let after = Duration::from_millis(between(0, within));
        // Where this run ends before that, upkeep finds it due.
        let due = self.now().saturating_add(after.as_secs());
        self.db.put_key_update(group, due)?;
        self.effects
            .push(Effect::Chore(Chore::UpdateKeys { group, after }));
        Ok(())
    }

    /// That time is over: new keys, unless the device has given itself some since.
    pub(crate) fn update_keys(&mut self, group: GroupId) -> Result<(), Error> {
        let now = self.now();
        self.transaction(|engine| {
            if engine.db.key_update(group)?.is_some_and(|due| due <= now) {
                engine.queue_update(group, true)?;
                engine.pump(group)?;
            }
            Ok(())
        })
    }

    /// After joining: others have seen the keys of this device's key package for long.
    pub(super) fn plan_first_update(&mut self, group: GroupId) -> Result<(), Error> {
        let within = self.options.key_upkeep.after_joining.as_secs();
        self.plan_update(group, within / 4, within)
    }

    /// After new keys.
    pub(super) fn plan_next_update(&mut self, group: GroupId) -> Result<(), Error> {
        let interval = self.options.key_upkeep.self_update.as_secs();
        self.plan_update(group, interval / 4 * 3, interval)
    }

    /// Some time between these, in seconds from now.
    fn plan_update(&mut self, group: GroupId, from: u64, to: u64) -> Result<(), Error> {
        if self.options.key_upkeep.self_update == Duration::ZERO {
            // What was due apart from the schedule is done by now, and not due again.
            return self.db.forget_key_update(group);
        }
        let due = self.now().saturating_add(between(from, to));
        self.db.put_key_update(group, due)
    }

    /// Members that have not renewed their certificates for long are asked out, where this device may.
    fn evict_stale(&mut self, group: GroupId, now: u64) -> Result<(), Error> {
        let Some(after) = self.options.key_upkeep.evict_stale else {
            return Ok(());
        };
        // Nobody is removed because one clock is wrong, this device's or that of the service, or because one of them lies: both must
        // have seen that time. The service's is that of the newest entry; in a group in which nothing happens nobody is removed.
        let seen = now.min(self.db.newest_accepted_at(group)?);
        let live = live::get(&mut self.live, &self.db, group)?;
        let stale = |ends: u64| ends.saturating_add(after.as_secs()) < seen;
        let devices: Vec<DeviceId> = live
            .roster
            .members()
            .filter(|member| stale(member.identity.certificate_not_after))
            .filter(|member| {
                live.authority
                    .may_remove(&self.device.user, &member.identity.user)
                    .is_ok()
            })
            .map(|member| member.identity.device)
            .filter(|&device| device != self.device.id)
            .collect();
        if devices.is_empty() || self.db.has_intent(group, "remove")? {
            return Ok(());
        }
        tracing::info!(%group, count = devices.len(), "stale members are removed");
        kill_point::storing("evict_stale");
        self.queue(group, &Operation::Remove { devices }, false)?;
        Ok(())
    }

    /// A request for a new certificate of the same key (PKCS#10).
    pub(crate) fn certification_request(&mut self) -> Result<Vec<u8>, Error> {
        let signer = &self.device.signer;
        Ok(certification_request(signer.public(), |message| {
            signer.sign(message).ok()
        })?)
    }

    /// Takes a renewed certificate: it must be this device's, for its key, and lead to the trust bundle. Every group's leaf gets it soon.
    pub(crate) fn adopt_certificate(&mut self, chain: Vec<Vec<u8>>) -> Result<(), Error> {
        let key = self.device.signer.public();
        let identity = identify(
            &valise_group_rules::credential(&chain),
            key,
            &self.device.bundle,
            self.now(),
        )?;
        if identity.user != self.device.user || identity.device != self.device.id {
            return Err(Error::Rule("certificate_names"));
        }
        let now = self.now();
        let (_, old_end) = self.device.validity()?;
        let credential = crate::mls::credential(&chain, key);
        let enrolled = Enrolled {
            chain: chain.clone(),
            ..self.enrolled()?
        };
        let spread = old_end.saturating_sub(now) / RENEWAL_SPREAD;
        self.transaction(|engine| {
            kill_point::applying("renew_certificate");
            engine.db.put_enrolled(&enrolled)?;
            engine.db.outdate_key_packages()?;
            for (group, due) in engine.db.key_updates()? {
                let soon = now.saturating_add(between(0, spread));
                engine
                    .db
                    .put_key_update(group, due.map_or(soon, |due| due.min(soon)))?;
            }
            Ok(())
        })?;
        self.device.chain = chain;
        self.device.credential = credential;
        Ok(())
    }

    pub(super) fn enrolled(&self) -> Result<Enrolled, Error> {
        self.db
            .device()?
            .and_then(|row| row.enrolled)
            .ok_or(Error::NotEnrolled)
    }

    /// The directory holds none with the old certificate any more.
    pub(crate) fn key_packages_replaced(&mut self) -> Result<(), Error> {
        self.transaction(|engine| {
            kill_point::applying("replace_key_packages");
            engine.db.key_packages_replaced()
        })
    }

    /// Encrypts the store with another key.
    pub(crate) fn change_store_key(&mut self, key: &crate::StoreKey) -> Result<(), Error> {
        self.db.change_key(key)
    }
}

/// A number of seconds by chance, from `from` up to and including `to`.
pub(super) fn between(from: u64, to: u64) -> u64 {
    let mut bytes = [0; 8];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
    let range = to.saturating_sub(from).saturating_add(1);
    from.saturating_add(u64::from_le_bytes(bytes) % range)
}
