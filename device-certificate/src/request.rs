//! PKCS#10 requests signed with a key that only the caller holds.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm, SigningKey};

use crate::{CertificateError, KeyKind};

struct RemoteKey<'a, F> {
    kind: KeyKind,
    public_key: &'a [u8],
    sign: F,
}

impl<F> PublicKeyData for RemoteKey<'_, F> {
    fn der_bytes(&self) -> &[u8] {
        self.public_key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.kind.algorithm()
    }
}

impl<F: Fn(&[u8]) -> Option<Vec<u8>>> SigningKey for RemoteKey<'_, F> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        (self.sign)(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

/// A PKCS#10 request (RFC 2986), DER, for a key of one of the [kinds](KeyKind). It names nobody: the authentication service
/// decides on names.
///
/// `sign` makes a signature in the form that its [kind](KeyKind) has, or `None` where the key cannot be used.
pub fn certification_request(
    public_key: &[u8],
    sign: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, CertificateError> {
    let kind = KeyKind::of(public_key).ok_or(CertificateError::Key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(&RemoteKey {
            kind,
            public_key,
            sign,
        })
        .map_err(|_| CertificateError::Key)?;
    Ok(request.der().to_vec())
}
