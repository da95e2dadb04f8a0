//! A device publishes key packages: all are checked before any is stored (checklist K3, K4).

use std::collections::HashSet;

use openmls_rust_crypto::RustCrypto;
use sha2::{Digest as _, Sha256};
use valise_device_certificate::TrustBundle;
use valise_group_rules::{LifetimePolicy, MAX_KEY_PACKAGE_BYTES, RuleViolation, verify_key_package};
use valise_proto::{DeviceId, Reason, Refusal, UserId};

use crate::directory::{Directory, rate_limited};
use crate::stock::StockStatus;
use crate::store::{NewPackage, Publication, PublishOutcome, Usable};

/// The most packages in one call.
const MAX_PACKAGES: usize = 100;

impl Directory {
    /// Stores all of the messages as key packages of the calling device, or none of them. Returns its stock.
    pub(crate) async fn publish(
        &self,
        user: &UserId,
        device: DeviceId,
        messages: Vec<Vec<u8>>,
    ) -> Result<Vec<StockStatus>, Refusal> {
        check_sizes(&messages)?;
        let cost = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        self.limits.publish.check(&device, cost).map_err(rate_limited)?;

        let judge = self.judge(user.clone(), device);
        let usable = judge.usable;
        // A hundred packages are some hundred signatures to verify: not on a thread that serves others.
        let judged = tokio::task::spawn_blocking(move || judge.all(messages)).await;
        let Judged {
            signature_key,
            packages,
        } = judged.map_err(|_| Reason::Internal)??;

        let capacity = self.packages.capacity;
        let user = user.clone();
        let publication = Publication {
            user,
            device,
            signature_key,
            packages,
            usable,
            capacity,
        };
        match self.store.publish(publication).await? {
            PublishOutcome::Stored => self.stock(device).await,
            PublishOutcome::SeenBefore { index } => Err(invalid(index, RuleViolation("seen_before"))),
            PublishOutcome::Full => Err(Refusal::too_large(
                "key_packages",
                usize::try_from(capacity).unwrap_or(usize::MAX),
            )),
            PublishOutcome::Revoked => Err(Reason::DeviceRevoked.into()),
        }
    }

    fn judge(&self, user: UserId, device: DeviceId) -> Judge {
        let now = self.clock.unix_seconds();
        let lifetimes = LifetimePolicy {
            maximum_total: self.packages.maximum_lifetime.as_secs(),
            // More than the window, or it could not be handed out even once.
            minimum_remaining: self.packages.retention.as_secs().saturating_add(1),
        };
        let usable = self.usable_at(now);
        Judge {
            user,
            device,
            now,
            lifetimes,
            usable,
            bundle: (*self.verifier.trust_bundle()).clone(),
        }
    }
}

fn check_sizes(messages: &[Vec<u8>]) -> Result<(), Refusal> {
    if messages.is_empty() {
        return Err(Refusal::malformed("key_packages"));
    }
    if messages.len() > MAX_PACKAGES {
        return Err(Refusal::too_large("key_packages", MAX_PACKAGES));
    }
    match messages
        .iter()
        .position(|message| message.len() > MAX_KEY_PACKAGE_BYTES)
    {
        Some(index) => Err(Refusal::too_large("key_packages", MAX_KEY_PACKAGE_BYTES).with("index", index)),
        None => Ok(()),
    }
}

fn invalid(index: usize, rule: RuleViolation) -> Refusal {
    Refusal::new(Reason::InvalidKeyPackage)
        .with("index", index)
        .with("rule", rule)
}

/// Judges the packages of one call, without a look into the store.
struct Judge {
    user: UserId,
    device: DeviceId,
    now: u64,
    lifetimes: LifetimePolicy,
    usable: Usable,
    bundle: TrustBundle,
}

/// The packages of one call, found good.
struct Judged {
    signature_key: Vec<u8>,
    packages: Vec<NewPackage>,
}

impl Judge {
    fn all(&self, messages: Vec<Vec<u8>>) -> Result<Judged, Refusal> {
        let crypto = RustCrypto::default();
        let mut signature_key = None;
        let mut init_keys = HashSet::new();
        let mut packages = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            let (key, package) = self.one(&crypto, message).map_err(|rule| invalid(index, rule))?;
            if *signature_key.get_or_insert_with(|| key.clone()) != key {
                return Err(invalid(index, RuleViolation("signature_keys_differ")));
            }
            if !init_keys.insert(package.init_key_digest) {
                return Err(invalid(index, RuleViolation("seen_before")));
            }
            packages.push(package);
        }
        Ok(Judged {
            signature_key: signature_key.unwrap_or_default(),
            packages,
        })
    }

    fn one(&self, crypto: &RustCrypto, message: Vec<u8>) -> Result<(Vec<u8>, NewPackage), RuleViolation> {
        let verified = verify_key_package(&message, crypto, &self.bundle, self.now, self.lifetimes)?;
        let identity = &verified.identity;
        if identity.user != self.user || identity.device != self.device {
            return Err(RuleViolation("identity"));
        }
        if identity.certificate_not_after < self.usable.certificate_not_after_from {
            return Err(RuleViolation("certificate_expired"));
        }
        let signature_key = verified
            .key_package
            .leaf_node()
            .signature_key()
            .as_slice()
            .to_vec();
        let package = NewPackage {
            suite: verified.key_package.ciphersuite().into(),
            last_resort: verified.last_resort,
            not_after: verified.not_after,
            certificate_not_after: identity.certificate_not_after,
            init_key_digest: Sha256::digest(verified.key_package.hpke_init_key().as_slice()).into(),
            message,
        };
        Ok((signature_key, package))
    }
}
