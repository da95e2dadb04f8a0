//! What a PKCS#10 request (RFC 2986) asks for: a certificate for a key. All else in it is ignored.

use valise_proto::{Reason, Refusal};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, X509Version};

/// Largest request.
pub(crate) const MAX_REQUEST_BYTES: usize = 4096;

/// An Ed25519 public key whose holder asked for a certificate, and proved that they hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestedKey([u8; 32]);

impl RequestedKey {
    /// Reads a request, DER, and verifies its signature: `MESSAGE_TOO_LARGE` or `INVALID_CERTIFICATE_REQUEST` with the rule.
    ///
    /// By x509-parser rather than rcgen, which refuses extensions it does not know and takes the key's algorithm from
    /// the signature.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(Refusal::too_large("certification_request", MAX_REQUEST_BYTES));
        }
        let refused = |rule: &str| Refusal::new(Reason::InvalidCertificateRequest).with("rule", rule);
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| refused("encoding"))?;
        let whole = rest.is_empty() && request.signature_value.unused_bits == 0;
        if !whole || request.certification_request_info.version != X509Version::V1 {
            return Err(refused("encoding"));
        }
        let key = &request.certification_request_info.subject_pki;
        if !is_ed25519(&key.algorithm) || !is_ed25519(&request.signature_algorithm) {
            return Err(refused("algorithm"));
        }
        let bits = &key.subject_public_key;
        let bytes: [u8; 32] = bits.data.as_ref().try_into().map_err(|_| refused("key"))?;
        if bits.unused_bits != 0 {
            return Err(refused("key"));
        }
        request.verify_signature().map_err(|_| refused("signature"))?;
        Ok(Self(bytes))
    }

    /// The raw key.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == OID_SIG_ED25519 && algorithm.parameters.is_none()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use valise_device_certificate::certification_request;

    use super::*;

    fn rule(der: &[u8]) -> String {
        let refusal = RequestedKey::read(der).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidCertificateRequest);
        refusal.metadata["rule"].clone()
    }

    #[test]
    fn only_the_key_counts() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec!["someone.else.example".into()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
        let request = params.serialize_request(&key).unwrap();
        assert_eq!(
            RequestedKey::read(request.der()).unwrap().as_bytes(),
            key.public_key_raw()
        );
    }

    #[test]
    fn other_keys_are_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        assert_eq!(rule(request.der()), "algorithm");
    }

    #[test]
    fn a_request_must_be_signed_with_its_own_key() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let sign = |message: &[u8]| rcgen::SigningKey::sign(&other, message).ok();
        assert_eq!(
            rule(&certification_request(key.public_key_raw(), sign).unwrap()),
            "signature"
        );
        assert_eq!(
            rule(&certification_request(key.public_key_raw(), |_| Some(vec![0; 64])).unwrap()),
            "signature"
        );
        assert_eq!(
            rule(&certification_request(key.public_key_raw(), |_| Some(vec![])).unwrap()),
            "signature"
        );
        assert_eq!(
            rule(&certification_request(&[7; 31], |_| Some(vec![0; 64])).unwrap()),
            "key"
        );
    }

    #[test]
    fn garbage_is_refused() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let sign = |message: &[u8]| rcgen::SigningKey::sign(&key, message).ok();
        let good = certification_request(key.public_key_raw(), sign).unwrap();
        for garbage in [
            &b""[..],
            b"\x30",
            b"\x30\x80",
            b"-----BEGIN CERTIFICATE REQUEST-----",
            &[0; 4096],
        ] {
            assert_eq!(rule(garbage), "encoding");
        }
        assert_eq!(rule(&good[..good.len() - 1]), "encoding");
        assert_eq!(rule(&[&good[..], b"\0"].concat()), "encoding");
        let too_large = RequestedKey::read(&[0; 4097]).unwrap_err();
        assert_eq!(too_large, Refusal::too_large("certification_request", 4096));
        let key = RequestedKey::read(&good).unwrap();
        // No changed bit makes it a request for another key. (Tags outside the signed part are read leniently.)
        for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            assert!(
                RequestedKey::read(&changed).map_or(true, |read| read == key),
                "byte {at}, bit {bit}"
            );
        }
        // The signature is whole bytes, whatever its last bit is.
        let mut partial = good.clone();
        partial[good.len() - 65] = 1;
        assert_eq!(rule(&partial), "encoding");
    }
}
