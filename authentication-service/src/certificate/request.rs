//! What a PKCS#10 request (RFC 2986) asks for: a certificate for a key. All else in it is ignored.

use rcgen::{PublicKeyData, SignatureAlgorithm};
use valise_device_certificate::KeyKind;
use valise_proto::{Reason, Refusal};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// Largest request.
pub(crate) const MAX_REQUEST_BYTES: usize = 4096;

/// A public key whose holder asked for a certificate, and proved that they hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestedKey {
    kind: KeyKind,
    bytes: Vec<u8>,
}

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
        KeyKind::of_algorithm(&key.algorithm)
            .filter(|kind| kind.signs_as(&request.signature_algorithm))
            .ok_or_else(|| refused("algorithm"))?;
        let (kind, bytes) = KeyKind::read(key).map_err(|_| refused("key"))?;
        request.verify_signature().map_err(|_| refused("signature"))?;
        Ok(Self {
            kind,
            bytes: bytes.to_vec(),
        })
    }

    /// Of what kind it is.
    pub(crate) fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The raw key.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.kind.algorithm()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
        PKCS_ED25519, SigningKey,
    };
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

    /// A key as it says that it is, and signatures as another says.
    struct Odd<'a> {
        algorithm: &'static SignatureAlgorithm,
        public: &'a [u8],
        signs: Option<&'a KeyPair>,
    }

    impl PublicKeyData for Odd<'_> {
        fn der_bytes(&self) -> &[u8] {
            self.public
        }

        fn algorithm(&self) -> &'static SignatureAlgorithm {
            self.algorithm
        }
    }

    impl SigningKey for Odd<'_> {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            self.signs.map_or(Ok(vec![0; 64]), |key| key.sign(message))
        }
    }

    fn odd(algorithm: &'static SignatureAlgorithm, public: &[u8], signs: Option<&KeyPair>) -> String {
        let key = Odd {
            algorithm,
            public,
            signs,
        };
        rule(
            CertificateParams::default()
                .serialize_request(&key)
                .unwrap()
                .der(),
        )
    }

    #[test]
    fn keys_of_both_kinds_are_taken() {
        for kind in [KeyKind::Ed25519, KeyKind::P256] {
            let key = KeyPair::generate_for(kind.algorithm()).unwrap();
            let sign = |message: &[u8]| key.sign(message).ok();
            let request = certification_request(key.public_key_raw(), sign).unwrap();
            let read = RequestedKey::read(&request).unwrap();
            assert_eq!((read.kind(), read.as_bytes()), (kind, key.public_key_raw()));
        }
    }

    #[test]
    fn a_p256_key_must_be_a_point_whose_holder_signs() {
        let algorithm = &PKCS_ECDSA_P256_SHA256;
        let key = KeyPair::generate_for(algorithm).unwrap();
        let other = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(odd(algorithm, key.public_key_raw(), Some(&other)), "signature");
        assert_eq!(odd(algorithm, key.public_key_raw(), None), "signature");
        assert_eq!(odd(algorithm, &[4; 65], Some(&key)), "signature");
        assert_eq!(odd(algorithm, &key.public_key_raw()[..64], Some(&key)), "key");
        assert_eq!(odd(algorithm, &[2; 33], Some(&key)), "key");
        assert_eq!(odd(algorithm, &[], Some(&key)), "key");
        assert_eq!(odd(&PKCS_ED25519, &[7; 31], None), "key");
    }

    #[test]
    fn other_keys_are_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
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
