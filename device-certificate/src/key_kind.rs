//! The kinds of signature keys that devices and services may have.

use std::fmt;

use p256::ecdsa::Signature;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519,
};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::CertificateError;

/// A kind of signature key. Which one a device has decides which MLS cipher suites it can be in: a leaf's signature key
/// is of the suite's scheme and equals that of its certificate (RFC 9420 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyKind {
    /// Ed25519 (RFC 8032): 32 bytes; signatures of 64 bytes.
    Ed25519,
    /// ECDSA on P-256 with SHA-256 (FIPS 186): 65 bytes, the uncompressed point; signatures in DER (RFC 9420 §5.1.2).
    P256,
}

impl KeyKind {
    /// The kind of a raw public key, as MLS has it; `None` where it has the form of none.
    pub fn of(public_key: &[u8]) -> Option<Self> {
        match *public_key {
            [4, ..] if public_key.len() == 65 => Some(Self::P256),
            _ if public_key.len() == 32 => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// The kind and the raw key of a SubjectPublicKeyInfo (RFC 5480, RFC 8410): [`CertificateError::Key`] where it is of
    /// none, or does not have that kind's form.
    pub fn read<'a>(info: &'a SubjectPublicKeyInfo<'_>) -> Result<(Self, &'a [u8]), CertificateError> {
        let kind = Self::of_algorithm(&info.algorithm).ok_or(CertificateError::Key)?;
        let bits = &info.subject_public_key;
        let key: &[u8] = &bits.data;
        if bits.unused_bits == 0 && Self::of(key) == Some(kind) {
            Ok((kind, key))
        } else {
            Err(CertificateError::Key)
        }
    }

    /// The kind of key that an algorithm identifier names.
    pub fn of_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Option<Self> {
        if algorithm.algorithm == OID_SIG_ED25519 && algorithm.parameters.is_none() {
            return Some(Self::Ed25519);
        }
        let curve = algorithm.parameters.as_ref()?.as_oid().ok()?;
        let is_p256 = algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256;
        is_p256.then_some(Self::P256)
    }

    /// Does this algorithm identifier name the signatures of such a key?
    pub fn signs_as(self, algorithm: &AlgorithmIdentifier<'_>) -> bool {
        let oid = match self {
            Self::Ed25519 => OID_SIG_ED25519,
            Self::P256 => OID_SIG_ECDSA_WITH_SHA256,
        };
        algorithm.algorithm == oid && algorithm.parameters.is_none()
    }

    /// As rcgen knows it.
    pub fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ed25519 => &PKCS_ED25519,
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
        }
    }

    /// The `alg` of such a key's signatures in a JWS (RFC 7518 §3.1, RFC 8037).
    pub const fn jws_algorithm(self) -> &'static str {
        match self {
            Self::Ed25519 => "EdDSA",
            Self::P256 => "ES256",
        }
    }

    /// A signature as a JWS has it: ECDSA's two numbers in 64 bytes (RFC 7518 §3.4), not in DER. `None` where it is no
    /// signature of this kind.
    pub fn jws_signature(self, signature: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Ed25519 => Some(signature),
            Self::P256 => Signature::from_der(&signature)
                .ok()
                .map(|signature| signature.to_bytes().to_vec()),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519 => "Ed25519",
            Self::P256 => "P-256",
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData};
    use x509_parser::prelude::FromDer;

    use super::*;

    fn read(der: &[u8]) -> Result<(KeyKind, Vec<u8>), CertificateError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).unwrap();
        KeyKind::read(&info).map(|(kind, key)| (kind, key.to_vec()))
    }

    #[test]
    fn keys_of_both_kinds_are_read_and_no_others() {
        for kind in [KeyKind::Ed25519, KeyKind::P256] {
            let key = KeyPair::generate_for(kind.algorithm()).unwrap();
            let raw = key.public_key_raw();
            assert_eq!(KeyKind::of(raw), Some(kind));
            assert_eq!(read(&key.subject_public_key_info()), Ok((kind, raw.to_vec())));
        }
        let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(KeyKind::of(other.public_key_raw()), None);
        assert_eq!(read(&other.subject_public_key_info()), Err(CertificateError::Key));
    }

    #[test]
    fn a_key_must_have_its_kinds_form() {
        let key = KeyPair::generate_for(KeyKind::P256.algorithm()).unwrap();
        let mut info = key.subject_public_key_info();
        // The point's first byte: "compressed" stands for a form of 33 bytes.
        let point = info.len() - 65;
        info[point] = 2;
        assert_eq!(read(&info), Err(CertificateError::Key));
        assert_eq!(KeyKind::of(&[4; 64]), None);
        assert_eq!(KeyKind::of(&[]), None);
        assert_eq!(KeyKind::of(&[4; 32]), Some(KeyKind::Ed25519));
    }

    #[test]
    fn ecdsa_signatures_have_another_form_in_a_jws() {
        let der = vec![0x30, 6, 2, 1, 1, 2, 1, 2];
        let mut two_numbers = vec![0; 64];
        (two_numbers[31], two_numbers[63]) = (1, 2);
        assert_eq!(KeyKind::P256.jws_signature(der), Some(two_numbers));
        assert_eq!(KeyKind::P256.jws_signature(vec![1; 64]), None);
        assert_eq!(KeyKind::Ed25519.jws_signature(vec![1; 64]), Some(vec![1; 64]));
    }
}
