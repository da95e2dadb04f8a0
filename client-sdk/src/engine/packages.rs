//! Key packages: one's own, and those of others that were claimed.

use std::collections::HashSet;

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{Ciphersuite, KeyPackage, KeyPackageRef, MlsMessageOut};
use openmls_traits::storage::StorageProvider as _;
use valise_group_rules::verify_key_package;
use valise_proto::directory::v1 as wire;
use valise_proto::{DeviceId, GroupId, UserId};

use super::intents::AddPackage;
use super::{Engine, live};
use crate::store::KeyPackageRow;
use crate::{AddFailure, Error, Peer, kill_point};

/// Packages that could be added, and devices that could not.
pub(crate) type Sifted = (Vec<AddPackage>, Vec<(UserId, Option<DeviceId>, AddFailure)>);

impl Engine {
    /// The directory has said how long a package may live, in seconds.
    pub(crate) fn limit_lifetimes(&mut self, longest: u64) {
        self.longest_lifetime = longest;
    }

    /// Makes key packages, and stores them until they are published.
    pub(crate) fn make_key_packages(
        &mut self,
        suite: Ciphersuite,
        one_time: usize,
        last_resort: bool,
    ) -> Result<(), Error> {
        self.transaction(|engine| {
            for number in 0..one_time + usize::from(last_resort) {
                engine.make_key_package(suite, number >= one_time)?;
            }
            kill_point::storing("make_key_packages");
            Ok(())
        })
    }

    pub(super) fn make_key_package(&mut self, suite: Ciphersuite, last_resort: bool) -> Result<(), Error> {
        const DOING: &str = "making a key package";
        let wanted = self.options.key_packages.lifetime.as_secs();
        let lifetime = crate::mls::lifetime(self.now(), wanted.min(self.longest_lifetime));
        let mut builder = KeyPackage::builder()
            .key_package_lifetime(lifetime)
            .leaf_node_capabilities(valise_group_rules::capabilities());
        if last_resort {
            builder = builder.mark_as_last_resort();
        }
        let bundle = builder
            .build(
                suite,
                &self.provider(),
                &self.device.signer,
                self.device.credential.clone(),
            )
            .map_err(|error| Error::mls(DOING)(&error))?;
        let package = bundle.into_key_package();
        let reference = package
            .hash_ref(&self.crypto)
            .map_err(|error| Error::mls(DOING)(&error))?
            .as_slice()
            .to_vec();
        let not_after = package.life_time().not_after();
        let message = MlsMessageOut::from(package).to_bytes();
        let message = message.map_err(|error| Error::mls(DOING)(&error))?;
        self.db.put_key_package(&KeyPackageRow {
            reference,
            suite: u16::from(suite),
            last_resort,
            not_after,
            message,
            tried: false,
        })
    }

    /// Packages to publish. From now on they count as tried.
    pub(crate) fn key_packages_to_publish(&mut self, limit: usize) -> Result<Vec<KeyPackageRow>, Error> {
        self.transaction(|engine| {
            let mut packages = engine.db.unpublished_key_packages()?;
            packages.truncate(limit);
            let references: Vec<_> = packages.iter().map(|package| package.reference.clone()).collect();
            engine.db.mark_tried(&references)?;
            if !references.is_empty() {
                kill_point::storing("publish_key_packages");
            }
            Ok(packages)
        })
    }

    /// How many one-time packages and whether a last-resort package of that suite wait to be published.
    pub(crate) fn unpublished(&mut self, suite: Ciphersuite) -> Result<(usize, bool), Error> {
        let mut packages = self.db.unpublished_key_packages()?;
        packages.retain(|package| package.suite == u16::from(suite));
        let last_resort = packages.iter().any(|package| package.last_resort);
        Ok((
            packages.iter().filter(|package| !package.last_resort).count(),
            last_resort,
        ))
    }

    pub(crate) fn key_packages_published(&mut self, references: &[Vec<u8>]) -> Result<(), Error> {
        self.transaction(|engine| {
            kill_point::applying("publish_key_packages");
            engine.db.mark_published(references)
        })
    }

    /// Deletes the private keys of packages that nobody can be added with any more.
    pub(crate) fn sweep_key_packages(&mut self) -> Result<(), Error> {
        self.transaction(|engine| {
            // A Welcome may be read as long as the service keeps entries.
            let before = engine.now().saturating_sub(engine.device.retention);
            for reference in engine.db.take_expired_key_packages(before)? {
                let storage = crate::mls::Storage::new(&engine.db.connection);
                storage.delete_key_package(&key_package_ref(&reference)?)?;
            }
            Ok(())
        })
    }

    /// Judges claimed packages: the service is not believed about whose they are.
    pub(crate) fn sift_claims(&mut self, group: GroupId, claims: Vec<wire::Claim>) -> Result<Sifted, Error> {
        let (now, policy) = (self.now(), self.package_policy());
        let live = live::get(&mut self.live, &self.db, group)?;
        let mut seen = HashSet::new();
        let mut packages = Vec::new();
        let mut failed = Vec::new();
        for claim in claims {
            let user: UserId = claim.user_id.parse().map_err(|_| Error::Unreachable)?;
            let device: Option<DeviceId> = claim.device_id.parse().ok();
            let message = match claim.result {
                Some(wire::claim::Result::KeyPackage(message)) => message,
                Some(wire::claim::Result::Failure(failure)) => {
                    failed.push((user, device, claim_failure(failure)));
                    continue;
                }
                None => return Err(Error::Unreachable),
            };
            let verified = match verify_key_package(&message, &self.crypto, &self.device.bundle, now, policy)
            {
                Ok(verified) => verified,
                Err(violation) => {
                    failed.push((user, device, AddFailure::BadKeyPackage(violation.0)));
                    continue;
                }
            };
            let peer = live::peer(&verified.identity);
            if peer.user != user || Some(peer.device) != device {
                failed.push((user, device, AddFailure::BadKeyPackage("identity")));
            } else if live.roster.device(peer.device).is_some() {
                failed.push((user, device, AddFailure::AlreadyMember));
            } else if verified.key_package.ciphersuite() != live.mls.ciphersuite() {
                failed.push((user, device, AddFailure::BadKeyPackage("cipher_suite")));
            } else if seen.insert(peer.device) {
                packages.push(AddPackage {
                    peer: Peer { user, ..peer },
                    message,
                });
            }
        }
        Ok((packages, failed))
    }
}

pub(super) fn key_package_ref(bytes: &[u8]) -> Result<KeyPackageRef, Error> {
    // The type has no constructor from bytes; its encoding is opaque<V>.
    let encoded = VLBytes::new(bytes.to_vec()).tls_serialize_detached();
    encoded
        .and_then(|encoded| KeyPackageRef::tls_deserialize_exact_bytes(&encoded))
        .map_err(|error| Error::mls("reading a key package's reference")(&error))
}

fn claim_failure(failure: i32) -> AddFailure {
    match wire::ClaimFailure::try_from(failure) {
        Ok(wire::ClaimFailure::UnknownUser) => AddFailure::UnknownUser,
        Ok(wire::ClaimFailure::DeviceRevoked) => AddFailure::Revoked,
        Ok(wire::ClaimFailure::RateLimited) => AddFailure::RateLimited,
        Ok(wire::ClaimFailure::Exhausted | wire::ClaimFailure::Unspecified) | Err(_) => {
            AddFailure::NoKeyPackage
        }
    }
}
