//! Device and service certificates: what they say, whether they chain to the trust bundle, and how one is requested.
//!
//! A device certificate binds a device's MLS signature key to two URIs (subjectAltName): its user's
//! `mimi://domain/u/name` and its own `mimi://domain/d/uuid`. A service certificate has one: `valise://domain/s/name`.
//! Nothing here knows MLS.

mod bundle;
mod key_kind;
mod request;
mod service;

pub use bundle::{
    MAX_CERTIFICATE_BYTES, MAX_CHAIN, Subject, TrustBundle, VerifiedCertificate, common_validity, read,
};
pub use key_kind::KeyKind;
pub use request::certification_request;
pub use service::{ServiceIdentity, ServiceKey, service_uri};

/// Why a certificate, chain, request or key cannot be used. Stable, short texts: they are shown to callers as a rule's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Empty, too long, or a certificate is too large.
    #[error("certificate_chain_size")]
    ChainSize,
    /// Not X.509 in DER.
    #[error("certificate_encoding")]
    Encoding,
    /// Does not chain to the trust bundle by valid signatures, or has the wrong usage.
    #[error("certificate_untrusted")]
    Untrusted,
    /// Not valid yet or no longer.
    #[error("certificate_expired")]
    Expired,
    /// The subjectAltNames are not those of a device or a service.
    #[error("certificate_names")]
    Names,
    /// A key of a kind that is not supported.
    #[error("certificate_key")]
    Key,
    /// A file could not be read or written, or is not what it should be.
    #[error("certificate_file")]
    File,
}
