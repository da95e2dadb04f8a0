//! A device claims key packages: one for each device of the users that it wants to add (checklist K1, K2, K4 to K6).
//!
//! The order of the results is that of the request: each user's devices by device id, then the single devices; none
//! twice. The calling device is left out: who adds their own user means their other devices.

use std::collections::{HashMap, HashSet};

use valise_proto::{DeviceId, Refusal, UserId};

use crate::directory::{Directory, rate_limited};
use crate::store::{Handed, KnownDevice, Wanted};

/// The most devices in one answer.
pub(crate) const MAX_CLAIMS: u32 = 4096;

/// Who wants what.
pub(crate) struct Claim<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) device: DeviceId,
    /// All of whose devices are wanted; in the order of the request.
    pub(crate) users: Vec<UserId>,
    /// Wanted one by one.
    pub(crate) devices: Vec<DeviceId>,
    pub(crate) suite: u16,
}

/// What became of one device, or of a user of whom no device is known.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) user: Option<UserId>,
    pub(crate) device: Option<DeviceId>,
    pub(crate) result: Result<Package, Failure>,
}

/// What was handed out.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) message: Vec<u8>,
    pub(crate) last_resort: bool,
}

/// Why nothing was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was ever published.
    Unknown,
    /// Nothing usable is left.
    Exhausted,
    /// Revoked, or its user suspended.
    Revoked,
    /// Claimed too often by this user.
    RateLimited,
}

impl Directory {
    /// Hands out one package for each device.
    pub(crate) async fn claim(&self, claim: Claim<'_>) -> Result<Vec<Claimed>, Refusal> {
        // Which devices a user has changes; whose a device is does not.
        let remembered = if claim.users.is_empty() {
            self.known_devices.all(&claim.devices)
        } else {
            None
        };
        let from_memory = remembered.is_some();
        let found = match remembered {
            Some(found) => found,
            None => self.look_up(&claim.users, &claim.devices).await?,
        };
        let mut claimed = resolve(&claim, found);
        let cost = u32::try_from(claimed.len()).unwrap_or(u32::MAX);
        // What was not found costs as much: nobody finds out cheaply who exists.
        self.limits.claim.check(claim.user, cost).map_err(rate_limited)?;
        for claimed in &mut claimed {
            self.judge_target(claim.user, claimed)?;
        }

        let devices: Vec<_> = claimed.iter().filter_map(Claimed::is_wanted).collect();
        if !devices.is_empty() {
            let usable = self.usable_at(self.clock.unix_seconds());
            let wanted = Wanted {
                suite: claim.suite,
                devices,
                usable,
            };
            let handed = self.store.claim(wanted).await?;
            for handed in &handed {
                self.notices.claimed(handed.device, claim.suite);
            }
            fill_in(&mut claimed, handed);
            if from_memory {
                self.say_who_is_revoked(&mut claimed).await?;
            }
        }
        Ok(claimed)
    }

    async fn look_up(&self, users: &[UserId], devices: &[DeviceId]) -> Result<Vec<KnownDevice>, Refusal> {
        let found = self.store.find_devices(users, devices, MAX_CLAIMS + 1).await?;
        if found.len() > MAX_CLAIMS as usize {
            return Err(Refusal::too_large("user_ids", MAX_CLAIMS as usize));
        }
        self.known_devices.remember(&found);
        Ok(found)
    }

    /// Devices that were taken from memory and have nothing left: exhausted, or purged since they were looked up?
    async fn say_who_is_revoked(&self, claimed: &mut [Claimed]) -> Result<(), Refusal> {
        let without: Vec<_> = claimed.iter().filter_map(Claimed::is_wanted).collect();
        if without.is_empty() {
            return Ok(());
        }
        let found = self.look_up(&[], &without).await?;
        let revoked: HashSet<_> = found
            .iter()
            .filter(|known| known.revoked)
            .map(|known| known.device)
            .collect();
        for claimed in claimed {
            if let Some(device) = claimed.is_wanted().filter(|device| revoked.contains(device)) {
                self.known_devices.forget(device);
                claimed.result = Err(Failure::Revoked);
            }
        }
        Ok(())
    }

    /// Is the target's package to be served at all, and to this user?
    fn judge_target(&self, requester: &UserId, claimed: &mut Claimed) -> Result<(), Refusal> {
        let (Some(device), Some(user)) = (claimed.is_wanted(), &claimed.user) else {
            return Ok(());
        };
        if self.verifier.is_revoked(user, device)? {
            claimed.result = Err(Failure::Revoked);
            return Ok(());
        }
        if self
            .limits
            .claim_of_one_device
            .check(&(requester.clone(), device), 1)
            .is_err()
        {
            claimed.result = Err(Failure::RateLimited);
        }
        Ok(())
    }
}

impl Claimed {
    fn of(user: Option<UserId>, device: Option<DeviceId>, failure: Failure) -> Self {
        Self {
            user,
            device,
            result: Err(failure),
        }
    }

    /// The device, if a package of it is still to be had. Until one is, it counts as exhausted.
    fn is_wanted(&self) -> Option<DeviceId> {
        self.device
            .filter(|_| matches!(self.result, Err(Failure::Exhausted)))
    }
}

/// One line for each device and each unknown user, in the order of the request.
fn resolve(claim: &Claim<'_>, found: Vec<KnownDevice>) -> Vec<Claimed> {
    let mut by_user = HashMap::<UserId, Vec<KnownDevice>>::new();
    let mut by_device = HashMap::new();
    for known in found {
        by_device.insert(known.device, known.clone());
        by_user.entry(known.user.clone()).or_default().push(known);
    }
    let line = |known: &KnownDevice| {
        let failure = if known.revoked {
            Failure::Revoked
        } else {
            Failure::Exhausted
        };
        Claimed::of(Some(known.user.clone()), Some(known.device), failure)
    };

    let mut claimed = Vec::new();
    let mut listed_users = HashSet::new();
    // The calling device is never an answer.
    let mut listed = HashSet::from([claim.device]);
    for user in claim.users.iter().filter(|user| listed_users.insert(*user)) {
        let Some(devices) = by_user.get_mut(user) else {
            claimed.push(Claimed::of(Some(user.clone()), None, Failure::Unknown));
            continue;
        };
        devices.sort_by_key(|known| known.device);
        // Revoked devices of old are of interest only where there are no others.
        let any_live = devices.iter().any(|known| !known.revoked);
        let of_interest = devices.iter().filter(|known| !(any_live && known.revoked));
        claimed.extend(of_interest.filter(|known| listed.insert(known.device)).map(line));
    }
    for &device in &claim.devices {
        if listed.insert(device) {
            let unknown = || Claimed::of(None, Some(device), Failure::Unknown);
            claimed.push(by_device.get(&device).map_or_else(unknown, line));
        }
    }
    claimed
}

fn fill_in(claimed: &mut [Claimed], handed: Vec<Handed>) {
    let mut handed: HashMap<_, _> = handed.into_iter().map(|handed| (handed.device, handed)).collect();
    for claimed in claimed {
        if let Some(Handed {
            message, last_resort, ..
        }) = claimed.is_wanted().and_then(|device| handed.remove(&device))
        {
            claimed.result = Ok(Package { message, last_resort });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, PKCS_ED25519};
    use valise_access_token::{Verifier, VerifierFeed};
    use valise_clock::Clock;
    use valise_device_certificate::TrustBundle;

    use super::*;
    use crate::Config;
    use crate::notices::Notices;
    use crate::store::conformance::device;
    use crate::store::{self, NewPackage, Publication, Store, Usable};

    fn user(name: &str) -> UserId {
        format!("{name}@interieur.example").parse().unwrap()
    }

    fn known(name: &str, of: u128, revoked: bool) -> KnownDevice {
        KnownDevice {
            user: user(name),
            device: device(of),
            revoked,
        }
    }

    fn resolved(
        users: &[&str],
        devices: &[u128],
        found: Vec<KnownDevice>,
    ) -> Vec<(Option<UserId>, Option<DeviceId>, Failure)> {
        let alice = user("alice");
        let users = users.iter().map(|name| user(name)).collect();
        let devices = devices.iter().copied().map(device).collect();
        let claim = Claim {
            user: &alice,
            device: device(1),
            users,
            devices,
            suite: 1,
        };
        let lines = resolve(&claim, found).into_iter();
        lines
            .map(|line| (line.user, line.device, line.result.unwrap_err()))
            .collect()
    }

    #[test]
    fn the_order_is_the_requests_and_nothing_comes_twice() {
        let found = vec![
            known("bob", 9, false),
            known("carol", 5, false),
            known("bob", 8, false),
        ];
        let lines = resolved(&["carol", "bob", "carol"], &[8, 5, 5], found);
        let bob = |of| (Some(user("bob")), Some(device(of)), Failure::Exhausted);
        assert_eq!(
            lines,
            [
                (Some(user("carol")), Some(device(5)), Failure::Exhausted),
                bob(8),
                bob(9)
            ]
        );
    }

    #[test]
    fn the_calling_device_is_left_out() {
        let found = || vec![known("alice", 1, false), known("alice", 2, false)];
        let other = (Some(user("alice")), Some(device(2)), Failure::Exhausted);
        assert_eq!(resolved(&["alice"], &[1], found()), [other]);
        assert_eq!(resolved(&["alice"], &[], vec![known("alice", 1, false)]), []);
    }

    #[test]
    fn who_is_unknown_is_named_and_revoked_devices_are_told_where_there_are_no_others() {
        let found = || {
            vec![
                known("bob", 8, true),
                known("bob", 9, false),
                known("carol", 5, true),
            ]
        };
        let lines = resolved(&["bob", "carol", "dave"], &[77], found());
        assert_eq!(
            lines,
            [
                (Some(user("bob")), Some(device(9)), Failure::Exhausted),
                (Some(user("carol")), Some(device(5)), Failure::Revoked),
                (Some(user("dave")), None, Failure::Unknown),
                (None, Some(device(77)), Failure::Unknown),
            ]
        );
        let lines = resolved(&[], &[8], found());
        assert_eq!(lines, [(Some(user("bob")), Some(device(8)), Failure::Revoked)]);
    }

    /// A directory with an embedded store, in which bob's device 2 has published so many packages.
    async fn directory(
        folder: &tempfile::TempDir,
        one_time: u64,
    ) -> (Directory, Arc<dyn Store>, VerifierFeed) {
        let config = Config {
            database: folder.path().join("directory.db").into(),
            ..Config::default()
        };
        let store = store::open(&config.database).await.unwrap();
        let clock = Clock::system();
        let usable = clock.unix_seconds() + 100 * 24 * 3600;
        let packages = (0..one_time).map(|number| NewPackage {
            suite: 1,
            last_resort: false,
            not_after: usable,
            certificate_not_after: usable,
            init_key_digest: [number as u8; 32],
            message: number.to_be_bytes().to_vec(),
        });
        let publication = Publication {
            user: user("bob"),
            device: device(2),
            signature_key: vec![7; 32],
            packages: packages.collect(),
            usable: Usable {
                not_after_from: 0,
                certificate_not_after_from: 0,
            },
            capacity: 100,
        };
        store.publish(publication).await.unwrap();
        let anchor = CertifiedIssuer::self_signed(
            CertificateParams::default(),
            KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        );
        let bundle = TrustBundle::from_der([anchor.unwrap().der().to_vec()]).unwrap();
        let (verifier, feed) = Verifier::new("issuer", clock.clone(), bundle);
        let directory = Directory::new(&config, Arc::clone(&store), verifier, clock, Notices::none());
        (directory, store, feed)
    }

    async fn claim_bobs(directory: &Directory, feed: &VerifierFeed) -> Result<(), Failure> {
        feed.heard(0).unwrap();
        let alice = user("alice");
        let claim = Claim {
            user: &alice,
            device: device(1),
            users: Vec::new(),
            devices: vec![device(2)],
            suite: 1,
        };
        let mut claimed = directory.claim(claim).await.unwrap();
        let claimed = claimed.pop().unwrap();
        assert_eq!(claimed.user, Some(user("bob")));
        claimed.result.map(drop)
    }

    #[tokio::test]
    async fn of_a_device_that_is_remembered_one_is_told_what_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, store, feed) = directory(&folder, 2).await;
        assert!(directory.known_devices.all(&[device(2)]).is_none());
        assert_eq!(claim_bobs(&directory, &feed).await, Ok(()));
        assert!(directory.known_devices.all(&[device(2)]).is_some());
        assert_eq!(claim_bobs(&directory, &feed).await, Ok(()));
        assert_eq!(claim_bobs(&directory, &feed).await, Err(Failure::Exhausted));
        // As another replica does it.
        store.purge(vec![device(2)]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(claim_bobs(&directory, &feed).await, Err(Failure::Revoked));
            assert!(directory.known_devices.all(&[device(2)]).is_none());
        }
    }
}
