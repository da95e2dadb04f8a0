//! Certificate chains that were found good, so that a chain's signatures are verified once and not with each commit of its device.
//!
//! A verdict depends on the chain, the leaf's key, the trust bundle and the time. So it is remembered for these very bytes and this very
//! bundle, and for the time in which every certificate of the chain is valid. What was found bad is not remembered.

use std::ops::RangeInclusive;
use std::sync::Arc;

use moka::sync::Cache;
use openmls::prelude::Credential;
use parking_lot::RwLock;
use valise_device_certificate::{TrustBundle, common_validity};
use valise_group_rules::{RuleViolation, chain, identify};

/// Bytes of chains that are remembered; a chain is about a kilobyte.
const REMEMBERED: u64 = 32 * 1024 * 1024;
/// What remembering a chain takes besides.
const OVERHEAD: usize = 200;

/// Credential and signature key of a leaf. Compared whole: what differs in a bit is another leaf.
type Leaf = (Vec<u8>, Vec<u8>);

/// What is known of the chains of one bundle.
struct Verdicts {
    bundle: Arc<TrustBundle>,
    /// When each is good, in seconds since 1970-01-01 UTC.
    good: Cache<Leaf, RangeInclusive<u64>>,
}

impl Verdicts {
    fn of(bundle: &Arc<TrustBundle>) -> Arc<Self> {
        Arc::new(Self {
            bundle: Arc::clone(bundle),
            good: Cache::builder().max_capacity(REMEMBERED).weigher(weigh).build(),
        })
    }
}

fn weigh((chain, key): &Leaf, _: &RangeInclusive<u64>) -> u32 {
    u32::try_from(chain.len() + key.len() + OVERHEAD).unwrap_or(u32::MAX)
}

/// Judges leaves as [`identify`] does, and remembers.
pub(crate) struct CertificateVerdicts(RwLock<Option<Arc<Verdicts>>>);

impl CertificateVerdicts {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(None))
    }

    /// Does the credential's chain lead to the bundle, for that key, at that time (seconds since 1970-01-01 UTC)?
    pub(crate) fn judge(
        &self,
        credential: &Credential,
        signature_key: &[u8],
        bundle: &Arc<TrustBundle>,
        at: u64,
    ) -> Result<(), RuleViolation> {
        let verdicts = self.of_bundle(bundle);
        let leaf = (credential.serialized_content().to_vec(), signature_key.to_vec());
        if verdicts.good.get(&leaf).is_some_and(|times| times.contains(&at)) {
            return Ok(());
        }
        identify(credential, signature_key, bundle, at)?;
        if let Ok(times) = common_validity(&chain(credential)?) {
            verdicts.good.insert(leaf, times);
        }
        Ok(())
    }

    /// Another bundle begins anew.
    fn of_bundle(&self, bundle: &Arc<TrustBundle>) -> Arc<Verdicts> {
        let of_this = |known: &&Arc<Verdicts>| Arc::ptr_eq(&known.bundle, bundle);
        if let Some(known) = self.0.read().as_ref().filter(of_this) {
            return Arc::clone(known);
        }
        let mut held = self.0.write();
        if let Some(known) = held.as_ref().filter(of_this) {
            return Arc::clone(known);
        }
        Arc::clone(held.insert(Verdicts::of(bundle)))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        PKCS_ED25519, PublicKeyData as _, SanType, date_time_ymd,
    };
    use valise_group_rules::credential;

    use super::*;

    const USER: &str = "mimi://interieur.example/u/alice";
    const DEVICE: &str = "mimi://interieur.example/d/7f1f1d9e-5c1c-4f2f-9a2b-0e4a3c1d2b60";
    /// 2026-06-01, and the year after.
    const DURING: u64 = 1_780_272_000;
    const AFTERWARDS: u64 = DURING + 365 * 24 * 3600;

    struct Scene {
        verdicts: CertificateVerdicts,
        bundle: Arc<TrustBundle>,
        credential: Credential,
        key: Vec<u8>,
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap()
    }

    fn bundle(of: &CertifiedIssuer<'static, KeyPair>) -> Arc<TrustBundle> {
        Arc::new(TrustBundle::from_der([of.der().to_vec()]).unwrap())
    }

    impl Scene {
        fn new() -> Self {
            let authority = authority();
            let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let mut params = CertificateParams::default();
            params.not_before = date_time_ymd(2026, 5, 1);
            params.not_after = date_time_ymd(2026, 7, 1);
            params.subject_alt_names = [USER, DEVICE]
                .map(|uri| SanType::URI(uri.try_into().unwrap()))
                .to_vec();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = params.signed_by(&key, &authority).unwrap();
            Self {
                verdicts: CertificateVerdicts::new(),
                bundle: bundle(&authority),
                credential: credential(&[certificate.der().to_vec()]),
                key: key.der_bytes().to_vec(),
            }
        }

        fn judge(&self, key: &[u8], bundle: &Arc<TrustBundle>, at: u64) -> Result<(), &'static str> {
            self.verdicts
                .judge(&self.credential, key, bundle, at)
                .map_err(|RuleViolation(rule)| rule)
        }

        /// What is remembered of the bundle that was judged by last.
        fn remembered(&self) -> usize {
            let held = self.verdicts.0.read();
            held.as_ref().map_or(0, |verdicts| verdicts.good.iter().count())
        }
    }

    #[test]
    fn what_was_found_good_is_remembered_and_nothing_else() {
        let scene = Scene::new();
        assert_eq!(
            scene.judge(&scene.key, &scene.bundle, AFTERWARDS),
            Err("certificate_expired")
        );
        assert_eq!(
            scene.judge(&[7; 32], &scene.bundle, DURING),
            Err("certificate_key_mismatch")
        );
        assert_eq!(scene.remembered(), 0);
        for _ in 0..2 {
            assert_eq!(scene.judge(&scene.key, &scene.bundle, DURING), Ok(()));
            assert_eq!(scene.remembered(), 1);
        }
    }

    #[test]
    fn a_good_chain_is_good_for_its_time_its_key_and_its_bundle() {
        let scene = Scene::new();
        assert_eq!(scene.judge(&scene.key, &scene.bundle, DURING), Ok(()));
        assert_eq!(
            scene.judge(&scene.key, &scene.bundle, AFTERWARDS),
            Err("certificate_expired")
        );
        assert_eq!(
            scene.judge(&[7; 32], &scene.bundle, DURING),
            Err("certificate_key_mismatch")
        );
        assert_eq!(
            scene.judge(&scene.key, &bundle(&authority()), DURING),
            Err("certificate_untrusted")
        );
        assert_eq!(scene.remembered(), 0, "another bundle begins anew");
        assert_eq!(scene.judge(&scene.key, &scene.bundle, DURING), Ok(()));
    }
}
