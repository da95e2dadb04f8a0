//! X.509 credentials (RFC 9420 §5.3): certificate chains in leaves.

use openmls::prelude::tls_codec::{DeserializeBytes, Serialize, VLBytes};
use openmls::prelude::{Credential, CredentialType};
use valise_device_certificate::{CertificateError, Subject, TrustBundle, VerifiedCertificate, read};
use valise_proto::{DeviceId, UserId};

use crate::RuleViolation;

/// Who a leaf belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its user.
    pub user: UserId,
    /// Its device.
    pub device: DeviceId,
    /// Last second of the certificate's validity, since 1970-01-01 UTC.
    pub certificate_not_after: u64,
}

/// The credential of a certificate chain (leaf first, DER).
///
/// The content is the concatenation of `cert_data<V>` **without** an outer length: openmls writes that one, and with two of
/// them other MLS stacks read the wrong certificate.
pub fn credential(chain: &[Vec<u8>]) -> Credential {
    let mut content = Vec::new();
    for der in chain {
        // Writing to a vector fails only beyond 2^30 bytes; certificates are 4 KiB at most.
        let _ = VLBytes::new(der.clone()).tls_serialize(&mut content);
    }
    Credential::new(CredentialType::X509, content)
}

/// The certificate chain in a credential.
pub fn chain(credential: &Credential) -> Result<Vec<Vec<u8>>, RuleViolation> {
    if credential.credential_type() != CredentialType::X509 {
        return Err(RuleViolation("credential_type"));
    }
    let mut rest = credential.serialized_content();
    let mut chain = Vec::new();
    while !rest.is_empty() {
        let (der, after) =
            VLBytes::tls_deserialize_bytes(rest).map_err(|_| RuleViolation("credential_encoding"))?;
        if chain.len() == valise_device_certificate::MAX_CHAIN {
            return Err(RuleViolation("certificate_chain_size"));
        }
        chain.push(Vec::from(der));
        rest = after;
    }
    Ok(chain)
}

/// Who a leaf says it belongs to. Says nothing about whether the certificate is to be believed.
pub fn claimed_identity(credential: &Credential, signature_key: &[u8]) -> Result<Identity, RuleViolation> {
    device(read(&chain(credential)?).map_err(violation)?, signature_key)
}

/// Who a leaf belongs to: the chain leads to the bundle, is valid at that time, and its key **equals** the leaf's signature key
/// (RFC 9420 §5.3; openmls does not check that).
pub fn identify(
    credential: &Credential,
    signature_key: &[u8],
    bundle: &TrustBundle,
    at_unix_seconds: u64,
) -> Result<Identity, RuleViolation> {
    device(
        bundle
            .verify(&chain(credential)?, at_unix_seconds)
            .map_err(violation)?,
        signature_key,
    )
}

/// The same for somebody who is a member already: a certificate that had ended by that time is judged as it was in its last second
/// (RFC 9420 §5.3.2), so that nobody is kept out by it.
pub fn identify_member(
    credential: &Credential,
    signature_key: &[u8],
    bundle: &TrustBundle,
    at_unix_seconds: u64,
) -> Result<Identity, RuleViolation> {
    device(
        bundle
            .verify_as_was(&chain(credential)?, at_unix_seconds)
            .map_err(violation)?,
        signature_key,
    )
}

fn device(certificate: VerifiedCertificate, signature_key: &[u8]) -> Result<Identity, RuleViolation> {
    if certificate.public_key != signature_key {
        return Err(RuleViolation("certificate_key_mismatch"));
    }
    match certificate.subject {
        Subject::Device { user, device } => Ok(Identity {
            user,
            device,
            certificate_not_after: certificate.not_after,
        }),
        Subject::Service { .. } => Err(RuleViolation("certificate_names")),
    }
}

pub(crate) fn violation(error: CertificateError) -> RuleViolation {
    RuleViolation(match error {
        CertificateError::ChainSize => "certificate_chain_size",
        CertificateError::Encoding => "certificate_encoding",
        CertificateError::Untrusted => "certificate_untrusted",
        CertificateError::Expired => "certificate_expired",
        CertificateError::Names => "certificate_names",
        CertificateError::Key => "certificate_key",
        CertificateError::File => "certificate_file",
    })
}
