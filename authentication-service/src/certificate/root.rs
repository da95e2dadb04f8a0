//! The root's key and certificate: made at the first start, the same ever after.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ED25519,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{BACKDATED, serial_number};
use crate::Config;
use crate::error::StartError;
use crate::store::Store;

/// In the store: the certificate, PEM, and before it the key where that has no file of its own.
const SECRET: &str = "root";

pub(super) struct Root {
    pub(super) key: KeyPair,
    /// DER.
    pub(super) certificate: Vec<u8>,
    pub(super) expires_at: SystemTime,
}

pub(super) async fn open(config: &Config, store: &dyn Store, now: SystemTime) -> Result<Root, StartError> {
    let file = config.root_key_file.as_deref();
    let kept = match store.find_secret(SECRET).await.map_err(|_| StartError::Store)? {
        Some(kept) => kept,
        None => {
            let fresh = make(config, now)?;
            // Another replica may have been faster: then its root is the root.
            store
                .keep_secret(SECRET, fresh.as_bytes())
                .await
                .map_err(|_| StartError::Store)?
        }
    };
    let kept = String::from_utf8(kept)
        .map(Zeroizing::new)
        .map_err(|_| damaged())?;
    let key = match file {
        Some(file) => read_key(file)?,
        None => key_of(&kept).ok_or(StartError::Root(
            "its key is in a file: name it with root_key_file",
        ))?,
    };
    let certificate = CertificateDer::from_pem_slice(kept.as_bytes())
        .map_err(|_| damaged())?
        .to_vec();
    let expires_at = check(&certificate, &key, now)?;
    check_name(&certificate, config)?;
    Ok(Root {
        key,
        certificate,
        expires_at,
    })
}

fn damaged() -> StartError {
    StartError::Root("its certificate is damaged")
}

/// What is to be kept of a new root. A key with a file of its own is there before the certificate is: a start that was
/// interrupted between the two is made good by the next.
fn make(config: &Config, now: SystemTime) -> Result<Zeroizing<String>, StartError> {
    let new_key = || KeyPair::generate_for(&PKCS_ED25519).map_err(|_| StartError::Root("no key can be made"));
    let Some(file) = &config.root_key_file else {
        let key = new_key()?;
        let pem = Zeroizing::new(key.serialize_pem());
        return Ok(Zeroizing::new(format!(
            "{}{}",
            *pem,
            certificate_pem(config, &key, now)?
        )));
    };
    if !file.exists() {
        write_key(file, &Zeroizing::new(new_key()?.serialize_pem()))?;
    }
    certificate_pem(config, &read_key(file)?, now).map(Zeroizing::new)
}

fn key_of(pem: &str) -> Option<KeyPair> {
    KeyPair::from_pem(pem)
        .ok()
        .filter(|key| key.algorithm() == &PKCS_ED25519)
}

fn certificate_pem(config: &Config, key: &KeyPair, now: SystemTime) -> Result<String, StartError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name(config));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial_number());
    // Before any certificate that it signs.
    params.not_before = (now - 2 * BACKDATED).into();
    params.not_after = (now + config.lifetimes.root_certificate()).into();
    params
        .self_signed(key)
        .map(|certificate| certificate.pem())
        .map_err(|_| StartError::Root("it cannot be made"))
}

/// When it ends, if it can be used.
fn check(certificate: &[u8], key: &KeyPair, now: SystemTime) -> Result<SystemTime, StartError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| damaged())?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(StartError::Root("its key is not that of its certificate"));
    }
    let end = u64::try_from(certificate.validity.not_after.timestamp()).unwrap_or(0);
    let end = UNIX_EPOCH + Duration::from_secs(end);
    if end <= now {
        Err(StartError::Root("it has expired"))
    } else {
        Ok(end)
    }
}

/// It never changes: a replica with another trust domain would issue certificates that the rest of the deployment does not know.
fn check_name(certificate: &[u8], config: &Config) -> Result<(), StartError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| damaged())?;
    let found = certificate.subject().iter_common_name().next();
    match found.and_then(|found| found.as_str().ok()) {
        Some(found) if found == name(config) => Ok(()),
        Some(_) => Err(StartError::Setting {
            setting: "trust_domain",
            problem: "not the one that the database's root certificate was made for",
        }),
        None => Err(damaged()),
    }
}

fn name(config: &Config) -> String {
    format!("Valise root {}", config.trust_domain)
}

fn read_key(file: &Path) -> Result<KeyPair, StartError> {
    let unreadable = |error: &std::io::Error| {
        StartError::Root(match error.kind() {
            ErrorKind::NotFound => "its key file does not exist",
            _ => "its key file cannot be read",
        })
    };
    let metadata = fs::metadata(file).map_err(|error| unreadable(&error))?;
    // A group may be allowed: that is how Kubernetes hands secrets to a container that does not run as root.
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o007 != 0 {
        return Err(StartError::Root("its key file is readable by others"));
    }
    let pem = fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| unreadable(&error))?;
    key_of(&pem).ok_or(StartError::Root("its key file holds no Ed25519 key"))
}

/// Readable by its owner alone, and durable before the first certificate is signed with it.
fn write_key(file: &Path, pem: &str) -> Result<(), StartError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(file)
        .and_then(|mut file| file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|_| StartError::Root("its key file cannot be written"))
}
