//! PKCS#10 requests signed with a key that only the caller holds.

use rcgen::{
    CertificateParams, DistinguishedName, PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey,
};

use crate::CertificateError;

struct Ed25519<'a, F> {
    public_key: &'a [u8],
    sign: F,
}

impl<F> PublicKeyData for Ed25519<'_, F> {
    fn der_bytes(&self) -> &[u8] {
        self.public_key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl<F: Fn(&[u8]) -> Option<Vec<u8>>> SigningKey for Ed25519<'_, F> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        (self.sign)(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

/// A PKCS#10 request (RFC 2986), DER, for an Ed25519 key. It names nobody: the authentication service decides on names.
///
/// `sign` makes an Ed25519 signature (RFC 8032, 64 bytes), or `None` where the key cannot be used.
pub fn certification_request(
    public_key: &[u8],
    sign: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(&Ed25519 { public_key, sign })
        .map_err(|_| CertificateError::Key)?;
    Ok(request.der().to_vec())
}
