//! What may be published and added (RFC 9420 §10.1).

use openmls::prelude::{
    DeserializeBytes, KeyPackage, MlsMessageBodyIn, MlsMessageIn, OpenMlsCrypto, ProtocolVersion,
};
use valise_device_certificate::TrustBundle;

use crate::{Identity, ROLES_EXTENSION, RuleViolation, identify, is_allowed_suite};

/// Largest key package, in bytes.
pub const MAX_KEY_PACKAGE_BYTES: usize = 16 * 1024;

/// Longest lifetime of a key package in all, in seconds: 84 days, and an hour that it may begin early, as clocks differ. Nothing that lives
/// longer is accepted (RFC 9420 §7.2), whatever a policy says.
pub const MAX_KEY_PACKAGE_LIFETIME: u64 = 84 * 24 * 3600 + 3600;

/// How long key packages live.
#[derive(Clone, Copy, Debug)]
pub struct LifetimePolicy {
    /// Longest lifetime in all, in seconds; at most [`MAX_KEY_PACKAGE_LIFETIME`].
    pub maximum_total: u64,
    /// Shortest lifetime that must be left, in seconds: at least the time for which entries are kept. A member that reads an accepted
    /// Add after the added package expired rejects it for ever and is forked out.
    pub minimum_remaining: u64,
}

/// A key package that keeps all rules.
#[derive(Clone, Debug)]
pub struct VerifiedKeyPackage {
    /// The package.
    pub key_package: KeyPackage,
    /// Whose it is.
    pub identity: Identity,
    /// Its KeyPackageRef (RFC 9420 §5.2).
    pub reference: Vec<u8>,
    /// Marked by the `last_resort` extension.
    pub last_resort: bool,
    /// Last second of its lifetime, since 1970-01-01 UTC.
    pub not_after: u64,
}

/// Reads and judges a key package (an MLSMessage) at that time.
pub fn verify_key_package(
    bytes: &[u8],
    crypto: &impl OpenMlsCrypto,
    bundle: &TrustBundle,
    now_unix_seconds: u64,
    policy: LifetimePolicy,
) -> Result<VerifiedKeyPackage, RuleViolation> {
    if bytes.len() > MAX_KEY_PACKAGE_BYTES {
        return Err(RuleViolation("size"));
    }
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| RuleViolation("encoding"))?;
    let MlsMessageBodyIn::KeyPackage(unverified) = message.extract() else {
        return Err(RuleViolation("wire_format"));
    };
    let claimed = unverified.unverified_credential();
    let key_package = unverified
        .validate(crypto, ProtocolVersion::Mls10)
        .map_err(|_| RuleViolation("key_package"))?;
    if !is_allowed_suite(key_package.ciphersuite()) {
        return Err(RuleViolation("cipher_suite"));
    }
    let leaf = key_package.leaf_node();
    let roles = openmls::prelude::ExtensionType::Unknown(ROLES_EXTENSION);
    let capable = leaf.capabilities().extensions().contains(&roles)
        && leaf
            .capabilities()
            .credentials()
            .contains(&openmls::prelude::CredentialType::X509);
    if !capable {
        return Err(RuleViolation("capabilities"));
    }
    let lifetime = key_package.life_time();
    let (not_before, not_after) = (lifetime.not_before(), lifetime.not_after());
    if not_before > now_unix_seconds || not_after < now_unix_seconds {
        return Err(RuleViolation("lifetime"));
    }
    if not_after - not_before > policy.maximum_total.min(MAX_KEY_PACKAGE_LIFETIME) {
        return Err(RuleViolation("lifetime_too_long"));
    }
    if not_after - now_unix_seconds < policy.minimum_remaining {
        return Err(RuleViolation("lifetime_too_short"));
    }
    let identity = identify(
        &claimed.credential,
        claimed.signature_key.as_slice(),
        bundle,
        now_unix_seconds,
    )?;
    let reference = key_package
        .hash_ref(crypto)
        .map_err(|_| RuleViolation("key_package"))?;
    Ok(VerifiedKeyPackage {
        identity,
        reference: reference.as_slice().to_vec(),
        last_resort: key_package.last_resort(),
        not_after,
        key_package,
    })
}

#[cfg(test)]
mod tests {
    use openmls::prelude::Lifetime;

    use super::*;

    #[test]
    fn the_longest_lifetime_is_what_openmls_takes() {
        let takes = |seconds| Lifetime::init(0, seconds).has_acceptable_range();
        assert!(takes(MAX_KEY_PACKAGE_LIFETIME));
        assert!(!takes(MAX_KEY_PACKAGE_LIFETIME + 1));
    }
}
