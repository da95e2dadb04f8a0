//! Cipher suites.

use std::fmt;
use std::str::FromStr;

use openmls::prelude::Ciphersuite;
use valise_device_certificate::KeyKind;

use crate::Error;

/// Cipher suites that groups may have (RFC 9420 §17.1).
///
/// A device can be in groups with suites of its key's kind: either [`P256Aes128`](Self::P256Aes128), or all the others, whose
/// signatures are Ed25519. Which kind it has is settled when it enrols.
///
/// ```
/// use valise_client_sdk::{CipherSuite, Options};
///
/// let mut options = Options::default();
/// // Groups that this device makes are safe from recorded traffic being opened by a quantum computer later…
/// options.cipher_suite = CipherSuite::MlKem768X25519Aes128;
/// // …and it can be added to such groups, and to others.
/// options.key_packages.cipher_suites = vec![CipherSuite::MlKem768X25519Aes128, CipherSuite::X25519Aes128];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CipherSuite {
    /// 0x0001: X25519, AES-128-GCM, SHA-256.
    #[default]
    X25519Aes128,
    /// 0x0002: P-256, AES-128-GCM, SHA-256, ECDSA P-256 signatures.
    P256Aes128,
    /// 0x0003: X25519, ChaCha20-Poly1305, SHA-256.
    X25519ChaCha20,
    /// 0x004F: hybrid post-quantum, ML-KEM-768 with X25519, AES-128-GCM, SHA-256.
    MlKem768X25519Aes128,
}

impl CipherSuite {
    pub(crate) const fn mls(self) -> Ciphersuite {
        match self {
            Self::X25519Aes128 => Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
            Self::P256Aes128 => Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
            Self::X25519ChaCha20 => Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
            Self::MlKem768X25519Aes128 => Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
        }
    }

    /// All that there are.
    pub const ALL: [Self; 4] = [
        Self::X25519Aes128,
        Self::P256Aes128,
        Self::X25519ChaCha20,
        Self::MlKem768X25519Aes128,
    ];

    /// Its number (RFC 9420 §17.1).
    ///
    /// ```
    /// use valise_client_sdk::CipherSuite;
    ///
    /// assert_eq!(CipherSuite::MlKem768X25519Aes128.number(), 0x004F);
    /// ```
    pub fn number(self) -> u32 {
        u32::from(u16::from(self.mls()))
    }

    /// The suite with that number, if it is one of these: suites with pure ML-KEM, for example, are not.
    ///
    /// ```
    /// use valise_client_sdk::CipherSuite;
    ///
    /// assert_eq!(CipherSuite::from_number(0x0001), Some(CipherSuite::X25519Aes128));
    /// assert_eq!(CipherSuite::from_number(0x0004), None);
    /// ```
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.number() == number)
    }

    pub(crate) const fn key_kind(self) -> KeyKind {
        match self {
            Self::P256Aes128 => KeyKind::P256,
            Self::X25519Aes128 | Self::X25519ChaCha20 | Self::MlKem768X25519Aes128 => KeyKind::Ed25519,
        }
    }
}

/// As RFC 9420 writes numbers of suites: `0x0001`.
impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}", self.number())
    }
}

/// Reads what [`Display`](fmt::Display) writes, also in lower case or without zeros in front.
impl FromStr for CipherSuite {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
        digits
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(Self::from_number)
            .ok_or(Error::InvalidInput(
                "cipher suites are 0x0001, 0x0002, 0x0003 and 0x004F",
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_read_as_they_are_written_and_pure_ml_kem_is_none() {
        for suite in CipherSuite::ALL {
            assert_eq!(suite.to_string().parse::<CipherSuite>().unwrap(), suite);
            assert!(valise_group_rules::is_allowed_suite(suite.mls()));
            assert_eq!(valise_group_rules::key_kind(suite.mls()), Some(suite.key_kind()));
        }
        assert_eq!(
            "0x4f".parse::<CipherSuite>().unwrap(),
            CipherSuite::MlKem768X25519Aes128
        );
        for text in [
            "0x0042", "0x0050", "0x0051", "0x0906", "0x0907", "0xF042", "1", "0x", "0x+1", "", "x25519",
        ] {
            assert!(text.parse::<CipherSuite>().is_err(), "{text}");
        }
    }
}
