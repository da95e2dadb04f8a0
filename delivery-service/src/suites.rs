//! Which cipher suites new groups may have, and as whom the service acts in groups.
//!
//! A proposal of an external sender is signed with the group's own signature scheme (RFC 9420 §12.1.8), so the service needs a
//! key of each kind that groups have: always an Ed25519 key, and a P-256 key where groups may have a suite with P-256.

use std::path::Path;

use openmls::prelude::{Ciphersuite, ExternalSender};
use valise_device_certificate::{CertificateError, KeyKind, ServiceIdentity};
use valise_group_rules::{credential, is_allowed_suite, key_kind, suites};

use crate::config::{Config, SettingError};
use crate::service::StartError;

/// The service in groups of one kind of key.
struct Acting {
    identity: ServiceIdentity,
    external_sender: ExternalSender,
}

/// Suites and keys. Groups that exist go on whatever suites are allowed now.
pub(crate) struct Suites {
    /// Best first.
    allowed: Vec<Ciphersuite>,
    ed25519: Acting,
    p256: Option<Acting>,
}

impl Suites {
    /// Reads the keys and judges the settings.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let ed25519 = Acting::load(&config.key_file, &config.chain_file, KeyKind::Ed25519)?;
        let wrong = |setting, rule| Err(SettingError { setting, rule }.into());
        let p256 = match (&config.p256_key_file, &config.p256_chain_file) {
            (None, None) => None,
            (Some(key), Some(chain)) => Some(Acting::load(key, chain, KeyKind::P256)?),
            (Some(_), None) => return wrong("p256_chain_file", "needed with p256_key_file"),
            (None, Some(_)) => return wrong("p256_key_file", "needed with p256_chain_file"),
        };
        let allowed = allowed(config.cipher_suites.as_deref(), p256.is_some())?;
        Ok(Self {
            allowed,
            ed25519,
            p256,
        })
    }

    /// What new groups may have, best first.
    pub(crate) fn allowed(&self) -> &[Ciphersuite] {
        &self.allowed
    }

    /// The service as external sender of groups whose members have keys of that kind, and so itself.
    pub(crate) fn external_sender(&self, kind: KeyKind) -> Option<&ExternalSender> {
        self.acting(kind).map(|acting| &acting.external_sender)
    }

    /// Each kind of key that the service has, and itself as external sender with it.
    pub(crate) fn external_senders(&self) -> impl Iterator<Item = (KeyKind, &ExternalSender)> {
        [KeyKind::Ed25519, KeyKind::P256]
            .into_iter()
            .filter_map(|kind| Some((kind, self.external_sender(kind)?)))
    }

    /// The keys of the service, with their certificates.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &ServiceIdentity> {
        [Some(&self.ed25519), self.p256.as_ref()]
            .into_iter()
            .flatten()
            .map(|acting| &acting.identity)
    }

    /// With which key the service acts in groups with that suite.
    pub(crate) fn identity(&self, suite: Ciphersuite) -> Option<&ServiceIdentity> {
        self.acting(key_kind(suite)?).map(|acting| &acting.identity)
    }

    fn acting(&self, kind: KeyKind) -> Option<&Acting> {
        match kind {
            KeyKind::Ed25519 => Some(&self.ed25519),
            KeyKind::P256 => self.p256.as_ref(),
        }
    }
}

impl Acting {
    fn load(key_file: &Path, chain_file: &Path, kind: KeyKind) -> Result<Self, StartError> {
        let identity = ServiceIdentity::load(key_file, chain_file)
            .and_then(|identity| {
                let fits = identity.kind() == kind;
                fits.then_some(identity).ok_or(CertificateError::Key)
            })
            .map_err(|source| StartError::Identity {
                file: key_file.to_owned(),
                source,
            })?;
        let external_sender = ExternalSender::new(
            identity.public_key().to_vec().into(),
            credential(identity.chain()),
        );
        Ok(Self {
            identity,
            external_sender,
        })
    }
}

/// The suites that are configured, or else all for which there is a key.
fn allowed(configured: Option<&[u16]>, p256: bool) -> Result<Vec<Ciphersuite>, SettingError> {
    let wrong = |rule| SettingError {
        setting: "cipher_suites",
        rule,
    };
    let has_key = |suite: Ciphersuite| p256 || key_kind(suite) != Some(KeyKind::P256);
    let Some(configured) = configured else {
        return Ok(suites().iter().copied().filter(|suite| has_key(*suite)).collect());
    };
    if configured.is_empty() {
        return Err(wrong("must name at least one suite"));
    }
    let mut allowed = Vec::new();
    for number in configured {
        let suite = Ciphersuite::try_from(*number)
            .ok()
            .filter(|suite| is_allowed_suite(*suite));
        let suite = suite.ok_or_else(|| wrong("may name 0x0001, 0x0002, 0x0003, 0x004E and 0x004F"))?;
        if !has_key(suite) {
            return Err(wrong("0x0002 needs p256_key_file and p256_chain_file"));
        }
        if allowed.contains(&suite) {
            return Err(wrong("must name each suite once"));
        }
        allowed.push(suite);
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(configured: Option<&[u16]>, p256: bool) -> Result<Vec<u16>, &'static str> {
        allowed(configured, p256)
            .map(|suites| suites.into_iter().map(u16::from).collect())
            .map_err(|error| error.rule)
    }

    #[test]
    fn the_order_is_the_configured_one() {
        assert_eq!(numbers(Some(&[0x4F, 1, 2]), true), Ok(vec![0x4F, 1, 2]));
        assert_eq!(numbers(None, true), Ok(vec![1, 3, 2, 0x4F, 0x4E]));
        assert_eq!(numbers(None, false), Ok(vec![1, 3, 0x4F, 0x4E]));
    }

    #[test]
    fn pure_ml_kem_and_unknown_suites_are_refused() {
        let rule = "may name 0x0001, 0x0002, 0x0003, 0x004E and 0x004F";
        for suite in [0x42, 0x50, 0x51, 0x906, 0x907, 0xF042, 0, 4, 0xFFFF] {
            assert_eq!(numbers(Some(&[1, suite]), true), Err(rule), "{suite:#06x}");
        }
    }

    #[test]
    fn each_suite_is_named_once_and_has_its_key() {
        assert_eq!(numbers(Some(&[]), true), Err("must name at least one suite"));
        assert_eq!(numbers(Some(&[1, 1]), true), Err("must name each suite once"));
        assert_eq!(
            numbers(Some(&[1, 2]), false),
            Err("0x0002 needs p256_key_file and p256_chain_file")
        );
    }
}
