//! The trust anchors and what chains to them.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use valise_proto::{DeviceId, UserId};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{CertificateError, KeyKind};

/// Most certificates in a chain, without the trust anchor.
pub const MAX_CHAIN: usize = 4;
/// Largest certificate, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 4096;
/// Most trust anchors in a bundle.
const MAX_ANCHORS: usize = 16;

static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] =
    &[ring::ED25519, ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA384];

/// Whose certificate it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A device of a user.
    Device {
        /// Its user.
        user: UserId,
        /// The device.
        device: DeviceId,
    },
    /// A service of the deployment.
    Service {
        /// The deployment's domain.
        domain: String,
        /// For example `delivery-service`.
        name: String,
    },
}

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCertificate {
    /// Whose it is.
    pub subject: Subject,
    /// Of what kind its key is.
    pub key_kind: KeyKind,
    /// The raw public key, as MLS has it: 32 bytes for Ed25519, 65 (the uncompressed point) for P-256.
    pub public_key: Vec<u8>,
    /// First second of validity, since 1970-01-01 UTC.
    pub not_before: u64,
    /// Last second of validity, since 1970-01-01 UTC.
    pub not_after: u64,
}

/// The certificates that a deployment trusts.
#[derive(Clone)]
pub struct TrustBundle {
    anchors: Arc<Vec<Vec<u8>>>,
    /// The same, read.
    trusted: Arc<Vec<TrustAnchor<'static>>>,
}

/// The same certificates in the same order.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.anchors == other.anchors
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({} anchors)", self.anchors.len())
    }
}

impl TrustBundle {
    /// A bundle of self-signed certificates, DER; 1 to 16.
    pub fn from_der(anchors: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, CertificateError> {
        let anchors: Vec<Vec<u8>> = anchors.into_iter().collect();
        if anchors.is_empty() || anchors.len() > MAX_ANCHORS {
            return Err(CertificateError::ChainSize);
        }
        let read = |anchor: &Vec<u8>| {
            anchor_from_trusted_cert(&CertificateDer::from(anchor.as_slice()))
                .map(|anchor| anchor.to_owned())
                .map_err(|_| CertificateError::Encoding)
        };
        let trusted = anchors.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self {
            trusted: Arc::new(trusted),
            anchors: Arc::new(anchors),
        })
    }

    /// Its certificates, DER.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.anchors
    }

    /// Does the chain (leaf first, without the anchor) lead to this bundle, and is it valid at that time?
    ///
    /// `at_unix_seconds` is the time at which validity is judged: for log entries their acceptance, not local time.
    pub fn verify(
        &self,
        chain: &[Vec<u8>],
        at_unix_seconds: u64,
    ) -> Result<VerifiedCertificate, CertificateError> {
        let certificate = read(chain)?;
        self.judge(chain, at_unix_seconds)?;
        Ok(certificate)
    }

    /// The same, but a certificate that had ended by that time is judged as it was in its last second: for members who were let in
    /// while it was valid.
    pub fn verify_as_was(
        &self,
        chain: &[Vec<u8>],
        at_unix_seconds: u64,
    ) -> Result<VerifiedCertificate, CertificateError> {
        let certificate = read(chain)?;
        self.judge(chain, at_unix_seconds.min(certificate.not_after))?;
        Ok(certificate)
    }

    /// The same at whatever time: in the last second in which all of its certificates were valid. For who is known by its key for longer
    /// than a certificate lasts, as the delivery service is in groups. [`CertificateError::Expired`] where they were never valid together.
    pub fn verify_undated(&self, chain: &[Vec<u8>]) -> Result<VerifiedCertificate, CertificateError> {
        let certificate = read(chain)?;
        self.judge(chain, *common_validity(chain)?.end())?;
        Ok(certificate)
    }

    fn judge(&self, chain: &[Vec<u8>], at_unix_seconds: u64) -> Result<(), CertificateError> {
        let ders: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let (leaf, intermediates) = ders.split_first().ok_or(CertificateError::ChainSize)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| CertificateError::Encoding)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at_unix_seconds));
        leaf.verify_for_usage(
            ALGORITHMS,
            &self.trusted,
            intermediates,
            at,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                CertificateError::Expired
            }
            _ => CertificateError::Untrusted,
        })?;
        Ok(())
    }
}

/// The seconds since 1970-01-01 UTC in which all certificates of a chain are valid; may be none. A chain that
/// [`TrustBundle::verify`] found good at one of them is good at all of them.
pub fn common_validity(chain: &[Vec<u8>]) -> Result<RangeInclusive<u64>, CertificateError> {
    let (mut from, mut until) = (0, u64::MAX);
    for der in chain {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Encoding)?;
        from = from.max(seconds(certificate.validity.not_before));
        until = until.min(seconds(certificate.validity.not_after));
    }
    Ok(from..=until)
}

fn seconds(time: x509_parser::time::ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or(0)
}

/// What the first certificate of a chain says, **without** judging whether to believe it.
pub fn read(chain: &[Vec<u8>]) -> Result<VerifiedCertificate, CertificateError> {
    if chain.is_empty()
        || chain.len() > MAX_CHAIN
        || chain.iter().any(|der| der.len() > MAX_CERTIFICATE_BYTES)
    {
        return Err(CertificateError::ChainSize);
    }
    let der = chain.first().ok_or(CertificateError::ChainSize)?;
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Encoding)?;
    if !rest.is_empty() {
        return Err(CertificateError::Encoding);
    }
    let leaf_der = CertificateDer::from(der.as_slice());
    let leaf = EndEntityCert::try_from(&leaf_der).map_err(|_| CertificateError::Encoding)?;
    let uris: Vec<&str> = leaf.valid_uri_names().collect();
    let subject = subject(&uris)?;
    let (key_kind, public_key) = KeyKind::read(&certificate.subject_pki)?;
    Ok(VerifiedCertificate {
        subject,
        key_kind,
        public_key: public_key.to_vec(),
        not_before: seconds(certificate.validity.not_before),
        not_after: seconds(certificate.validity.not_after),
    })
}

fn subject(uris: &[&str]) -> Result<Subject, CertificateError> {
    let names = || CertificateError::Names;
    match *uris {
        [one] => {
            let (domain, name) = one
                .strip_prefix("valise://")
                .and_then(|rest| rest.split_once("/s/"))
                .ok_or_else(names)?;
            let plain = |text: &str| {
                (1..=253).contains(&text.len())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
            };
            if plain(domain) && plain(name) {
                Ok(Subject::Service {
                    domain: domain.to_owned(),
                    name: name.to_owned(),
                })
            } else {
                Err(names())
            }
        }
        [a, b] => {
            let (user_uri, device_uri) = if a.contains("/u/") { (a, b) } else { (b, a) };
            let user = UserId::from_uri(user_uri).map_err(|_| names())?;
            let device: DeviceId = device_uri
                .rsplit_once("/d/")
                .and_then(|(_, uuid)| uuid.parse().ok())
                .ok_or_else(names)?;
            // Both names in the one spelling they have, and in one domain.
            if user.uri() == user_uri && device.uri(&user) == device_uri {
                Ok(Subject::Device { user, device })
            } else {
                Err(names())
            }
        }
        _ => Err(names()),
    }
}
