//! The data directory: one process has it, and what is in it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use valise_authentication_service::Service;
use valise_clock::Clock;
use valise_device_certificate::{CertificateError, KeyKind, ServiceIdentity, ServiceKey};
use valise_proto::Refusal;

/// Why a data directory cannot be used. One line each.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It cannot be made or written to.
    #[error("cannot write in {}: {source}", directory.display())]
    NotWritable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another `valise up`", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// It was made for another domain.
    #[error("{} belongs to the domain {found}: start it with --domain {found}", directory.display())]
    OtherDomain {
        /// The directory.
        directory: PathBuf,
        /// Its domain.
        found: String,
    },
    /// A service's key and certificate cannot be read or written.
    #[error("{}: not a service key with its certificate, or not to be written ({source})", file.display())]
    Identity {
        /// The key.
        file: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// A service's certificate is not of this deployment, or has expired.
    #[error("{}: not a valid certificate of this directory's authentication service ({source})", file.display())]
    Foreign {
        /// The certificate.
        file: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// The authentication service did not issue one.
    #[error("cannot issue the certificate of {service}: {refusal}")]
    NotIssued {
        /// For which service.
        service: &'static str,
        /// Why.
        refusal: Refusal,
    },
}

/// A directory that this process alone uses, until it is dropped.
pub(super) struct DataDirectory {
    directory: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if there is none, readable by its owner alone, and locks it.
    pub(super) fn lock(directory: &Path) -> Result<Self, DataError> {
        let not_writable = |source| DataError::NotWritable {
            directory: directory.to_owned(),
            source,
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(not_writable)?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("lock"))
            .map_err(not_writable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataError::InUse {
                directory: directory.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(not_writable(source)),
        }
    }

    /// The directory is this domain's from its first start on: certificates and tokens name it.
    pub(super) fn belongs_to(&self, domain: &str) -> Result<(), DataError> {
        let not_writable = |source| DataError::NotWritable {
            directory: self.directory.clone(),
            source,
        };
        let file = self.file("domain");
        match fs::read_to_string(&file) {
            Ok(found) if found.trim_end() == domain => Ok(()),
            Ok(found) => Err(DataError::OtherDomain {
                directory: self.directory.clone(),
                found: found.trim_end().to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let part = self.file("domain.part");
                fs::write(&part, format!("{domain}\n"))
                    .and_then(|()| fs::rename(&part, &file))
                    .map_err(not_writable)
            }
            Err(error) => Err(not_writable(error)),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn key_file(&self, service: &str, kind: KeyKind) -> PathBuf {
        self.file(&format!("{service}{}.key.pem", suffix(kind)))
    }

    pub(super) fn chain_file(&self, service: &str, kind: KeyKind) -> PathBuf {
        self.file(&format!("{service}{}.chain.pem", suffix(kind)))
    }

    /// The service's key of that kind and its certificate: issued at the first start, and renewed at the first one when two thirds of the
    /// certificate's life are over. A key that lasts for ever gets another certificate where the file of the last one is missing, too.
    pub(super) async fn identity(
        &self,
        wanted: Wanted,
        authentication: &Service,
        clock: &Clock,
    ) -> Result<ServiceIdentity, DataError> {
        let Wanted {
            service,
            files,
            kind,
            key_lasts,
        } = wanted;
        let (key, chain) = (self.key_file(files, kind), self.chain_file(files, kind));
        let unusable = |source| DataError::Identity {
            file: key.clone(),
            source,
        };
        let not_issued = |refusal| DataError::NotIssued { service, refusal };
        let now = clock.unix_seconds();
        let mut to_certify = None;
        if chain.exists() {
            let held = ServiceIdentity::load(&key, &chain).map_err(unusable)?;
            match key_lasts {
                _ if !held.is_due(now) => {}
                KeyLasts::AsItsCertificate => {
                    fs::remove_file(&chain).map_err(|_| unusable(CertificateError::File))?;
                }
                KeyLasts::ForEver => to_certify = Some(held.into_key()),
            }
        } else if key_lasts == KeyLasts::ForEver && key.exists() {
            // To the groups that know it, the service with another key would be another one.
            to_certify = Some(ServiceKey::load(&key).map_err(unusable)?);
        }
        if let Some(held) = to_certify {
            let renewed = authentication
                .certify_service_key(service, held)
                .await
                .map_err(not_issued)?;
            renewed.save_chain(&chain).map_err(unusable)?;
        }
        // The chain is put there last: with it, the key is there too.
        if !chain.exists() {
            let identity = authentication
                .issue_service_identity(service, kind)
                .await
                .map_err(not_issued)?;
            let part = |file: &Path| file.with_extension("part");
            identity.save(&part(&key), &part(&chain)).map_err(unusable)?;
            for file in [&key, &chain] {
                fs::rename(part(file), file).map_err(|_| unusable(CertificateError::File))?;
            }
        }
        let identity = ServiceIdentity::load(&key, &chain).map_err(unusable)?;
        authentication
            .verifier()
            .trust_bundle()
            .verify(identity.chain(), now)
            .map_err(|source| DataError::Foreign { file: chain, source })?;
        Ok(identity)
    }
}

fn suffix(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Ed25519 => "",
        KeyKind::P256 => ".p256",
    }
}

/// A key of a service, with its certificate.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Whose.
    pub(super) service: &'static str,
    /// What the files' names begin with.
    pub(super) files: &'static str,
    pub(super) kind: KeyKind,
    pub(super) key_lasts: KeyLasts,
}

/// How long a service has the same key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyLasts {
    /// It gets tokens with it: a new key comes with a new certificate.
    AsItsCertificate,
    /// Groups know the service by it, as long as they live: only its certificate is renewed.
    ForEver,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use valise_authentication_service::Config;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[tokio::test]
    async fn certificates_are_renewed_in_time_and_only_the_key_that_groups_know_stays() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::lock(folder.path()).unwrap();
        let (clock, hand) = Clock::movable();
        let domain = "a.example".to_owned();
        let config = Config::new(data.file("authentication.db"), &domain, vec![domain.clone()]);
        let authentication = Service::open(config, clock.clone()).await.unwrap();
        let identity = async |files, key_lasts| {
            let wanted = Wanted {
                service: "delivery-service",
                files,
                kind: KeyKind::P256,
                key_lasts,
            };
            data.identity(wanted, &authentication, &clock).await.unwrap()
        };
        let in_groups = async || identity("in-groups", KeyLasts::ForEver).await;
        let caller = async || identity("caller", KeyLasts::AsItsCertificate).await;
        let (first, other) = (in_groups().await, caller().await);
        // Of a year, two thirds are 243 days.
        hand.advance(DAY * 242);
        assert_eq!(in_groups().await.chain(), first.chain());
        assert_eq!(caller().await.chain(), other.chain());
        hand.advance(DAY * 2);
        let renewed = in_groups().await;
        assert_eq!(renewed.public_key(), first.public_key());
        assert!(renewed.validity().end() > first.validity().end());
        assert_ne!(caller().await.public_key(), other.public_key());
        // The same after a time in which it was never started.
        hand.advance(DAY * 500);
        let again = in_groups().await;
        assert_eq!(again.public_key(), first.public_key());
        assert!(again.validity().end() > renewed.validity().end());
        // And where the certificate's file is lost.
        fs::remove_file(data.chain_file("in-groups", KeyKind::P256)).unwrap();
        assert_eq!(in_groups().await.public_key(), first.public_key());
        authentication.stop().await;
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let held = DataDirectory::lock(&directory).unwrap();
        assert!(matches!(
            DataDirectory::lock(&directory),
            Err(DataError::InUse { .. })
        ));
        drop(held);
        DataDirectory::lock(&directory).unwrap();
    }

    #[test]
    fn a_directory_stays_with_its_domain() {
        let parent = tempfile::tempdir().unwrap();
        let held = DataDirectory::lock(parent.path()).unwrap();
        held.belongs_to("a.example").unwrap();
        held.belongs_to("a.example").unwrap();
        let error = held.belongs_to("b.example").unwrap_err().to_string();
        assert!(error.ends_with("--domain a.example"), "{error}");
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(
            DataDirectory::lock(&file),
            Err(DataError::NotWritable { .. })
        ));
    }
}
