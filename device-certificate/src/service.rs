//! The key and certificate with which a service shows who it is.

use std::fmt;
use std::fs;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;

use pem::Pem;
use rcgen::{KeyPair, SigningKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::{CertificateError, KeyKind, Subject, certification_request, common_validity, read};

/// The URI of a service: `valise://<domain>/s/<name>`.
pub fn service_uri(domain: &str, name: &str) -> String {
    format!("valise://{domain}/s/{name}")
}

/// A service's key, for which a certificate is wanted: the first one, or a renewed one.
pub struct ServiceKey(KeyPair);

impl ServiceKey {
    /// A new Ed25519 key.
    pub fn generate() -> Result<Self, CertificateError> {
        Self::generate_of(KeyKind::Ed25519)
    }

    /// A new key of that kind.
    pub fn generate_of(kind: KeyKind) -> Result<Self, CertificateError> {
        KeyPair::generate_for(kind.algorithm())
            .map(Self)
            .map_err(|_| CertificateError::Key)
    }

    /// Reads a key, PKCS#8 in PEM.
    pub fn load(key_file: &Path) -> Result<Self, CertificateError> {
        let key = fs::read_to_string(key_file).map_err(|_| CertificateError::File)?;
        KeyPair::from_pem(&key)
            .map(Self)
            .map_err(|_| CertificateError::File)
    }

    /// Of what kind it is; `None` for one that no service can have.
    pub fn kind(&self) -> Option<KeyKind> {
        KeyKind::of(self.0.public_key_raw())
    }

    /// A PKCS#10 request for it, DER.
    pub fn request(&self) -> Result<Vec<u8>, CertificateError> {
        certification_request(self.0.public_key_raw(), |message| self.0.sign(message).ok())
    }

    /// The key with the certificate that was issued for it (leaf first, DER).
    pub fn with_chain(self, chain: Vec<Vec<u8>>) -> Result<ServiceIdentity, CertificateError> {
        let certificate = read(&chain)?;
        let Subject::Service { name, .. } = certificate.subject else {
            return Err(CertificateError::Names);
        };
        if certificate.public_key != self.0.public_key_raw() {
            return Err(CertificateError::Key);
        }
        Ok(ServiceIdentity {
            name,
            kind: certificate.key_kind,
            key: self.0,
            validity: common_validity(&chain)?,
            chain,
        })
    }
}

/// A service's key and certificate chain.
pub struct ServiceIdentity {
    name: String,
    kind: KeyKind,
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    validity: RangeInclusive<u64>,
}

impl fmt::Debug for ServiceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceIdentity({})", self.name)
    }
}

impl ServiceIdentity {
    /// Reads the key (PKCS#8, PEM) and the chain (PEM, leaf first).
    pub fn load(key_file: &Path, chain_file: &Path) -> Result<Self, CertificateError> {
        let key = ServiceKey::load(key_file)?;
        let chain = CertificateDer::pem_file_iter(chain_file)
            .map_err(|_| CertificateError::File)?
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertificateError::File)?;
        key.with_chain(chain)
    }

    /// Writes both, the key readable by its owner alone.
    pub fn save(&self, key_file: &Path, chain_file: &Path) -> Result<(), CertificateError> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(key_file)
            .and_then(|mut file| write_through(&mut file, &self.key.serialize_pem()))
            .and_then(|()| fs::File::create(chain_file))
            .and_then(|mut file| write_through(&mut file, &self.chain_pem()))
            .map_err(|_| CertificateError::File)
    }

    /// Writes the chain alone, in place of the one that was there: whoever reads the file finds one of them, whole, also after a loss
    /// of power.
    pub fn save_chain(&self, chain_file: &Path) -> Result<(), CertificateError> {
        let part = chain_file.with_extension("part");
        fs::File::create(&part)
            .and_then(|mut file| write_through(&mut file, &self.chain_pem()))
            .and_then(|()| fs::rename(&part, chain_file))
            .map_err(|_| CertificateError::File)
    }

    fn chain_pem(&self) -> String {
        let blocks: Vec<_> = self
            .chain
            .iter()
            .map(|der| Pem::new("CERTIFICATE", der.as_slice()))
            .collect();
        pem::encode_many(&blocks)
    }

    /// The key alone, for another certificate.
    pub fn into_key(self) -> ServiceKey {
        ServiceKey(self.key)
    }

    /// For example `delivery-service`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of what kind its key is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The raw public key, in the form that its [kind](KeyKind) has.
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key_raw()
    }

    /// The certificate and its issuers, DER.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The seconds since 1970-01-01 UTC in which the whole chain is valid.
    pub fn validity(&self) -> &RangeInclusive<u64> {
        &self.validity
    }

    /// Are two thirds of the certificate's life over? `now` is in seconds since 1970-01-01 UTC.
    pub fn is_due(&self, now: u64) -> bool {
        let (from, until) = (*self.validity.start(), *self.validity.end());
        now >= from.saturating_add(until.saturating_sub(from) / 3 * 2)
    }

    /// A signature, in the form that its [kind](KeyKind) has.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CertificateError> {
        self.key.sign(message).map_err(|_| CertificateError::Key)
    }
}

/// Also to the disk: what is renamed after it must not be empty after a loss of power.
fn write_through(file: &mut fs::File, text: &str) -> std::io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
