//! What tells one identity of the service from another: a key and the name in its certificate, by which groups know it as their external
//! sender (RFC 9420 §12.1.8.1). The rest of the certificate is renewed.
//!
//! All replicas must be the same one. A replica with another key would make groups in which the others' Removes are void, and have
//! clients refuse each other's groups, and nobody would see why. So they compare a fingerprint with the one in SQL before they serve.

use std::array::TryFromSliceError;
use std::fmt;

use openmls::prelude::ExternalSender;
use openmls::prelude::tls_codec::Serialize as _;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::types::HashType;
use valise_device_certificate::service_uri;
use valise_group_rules::claimed_sender;

use crate::log::StoreError;
use crate::service::StartError;

/// SHA-256 of a service's URI, a zero byte and its public key. Shown by its first 16 digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Fingerprint {
    type Error = TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What tells an external sender from others.
pub(crate) fn fingerprint(external_sender: &ExternalSender) -> Result<Fingerprint, StartError> {
    let sender = claimed_sender(external_sender).map_err(|_| unknown())?;
    let uri = service_uri(&sender.domain, &sender.name);
    hash(&[uri.as_bytes(), &[0], &sender.signature_key].concat())
}

/// The same as it was before certificates could be renewed: SHA-256 of the whole sender, as it is encoded in groups.
pub(crate) fn former_fingerprint(external_sender: &ExternalSender) -> Result<Fingerprint, StartError> {
    let encoded = external_sender.tls_serialize_detached();
    hash(&encoded.map_err(|_| unknown())?)
}

fn hash(bytes: &[u8]) -> Result<Fingerprint, StartError> {
    let hash = RustCrypto::default().hash(HashType::Sha2_256, bytes);
    hash.ok()
        .and_then(|hash| Fingerprint::try_from(hash.as_slice()).ok())
        .ok_or_else(unknown)
}

fn unknown() -> StartError {
    StartError::IdentityUnknown(StoreError("it has no fingerprint".to_owned()))
}
