//! The certificate authority: one root, which signs the certificates of devices and services.

mod request;
mod root;

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use valise_device_certificate::{TrustBundle, service_uri};
use valise_proto::{DeviceId, UserId};

pub(crate) use request::RequestedKey;

use crate::error::{Error, StartError};
use crate::store::Store;
use crate::{Config, random};

/// Certificates are valid from a little before they are made, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Signs certificates with the root's key.
pub(crate) struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    root_expires_at: SystemTime,
    bundle: TrustBundle,
}

/// A certificate that was just made.
pub(crate) struct Issued {
    /// Leaf first, DER, without the root.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) expires_at: SystemTime,
}

impl Authority {
    /// The root of the store or of the configured file; makes it where there is none.
    pub(crate) async fn open(
        config: &Config,
        store: &dyn Store,
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let root = root::open(config, store, now).await?;
        let bundle = TrustBundle::from_der([root.certificate.clone()])
            .map_err(|_| StartError::Root("its certificate is damaged"))?;
        let issuer = Issuer::from_ca_cert_der(&root.certificate.into(), root.key)
            .map_err(|_| StartError::Root("its certificate is damaged"))?;
        Ok(Self {
            trust_domain: config.trust_domain.clone(),
            issuer,
            root_expires_at: root.expires_at,
            bundle,
        })
    }

    /// What its certificates chain to.
    pub(crate) fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// A certificate that binds the key to the device and its user.
    pub(crate) fn certify_device(
        &self,
        key: &RequestedKey,
        user: &UserId,
        device: DeviceId,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, Error> {
        self.certify(
            key,
            &device.to_string(),
            &[user.uri(), device.uri(user)],
            now,
            lifetime,
        )
    }

    /// A certificate that binds the key to the service.
    pub(crate) fn certify_service(
        &self,
        key: &RequestedKey,
        name: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, Error> {
        self.certify(key, name, &[service_uri(&self.trust_domain, name)], now, lifetime)
    }

    /// Nothing of what was asked for gets into a certificate but the key.
    fn certify(
        &self,
        key: &RequestedKey,
        name: &str,
        uris: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, Error> {
        let expires_at = (now + lifetime).min(self.root_expires_at);
        if expires_at <= now {
            return Err(Error::Signing("the root certificate has expired"));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for uri in uris {
            let uri = uri
                .as_str()
                .try_into()
                .map_err(|_| Error::Signing("a name is not ASCII"))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.serial_number = Some(serial_number());
        params.not_before = (now - BACKDATED).into();
        params.not_after = expires_at.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(|_| Error::Signing("the root key cannot be used"))?;
        Ok(Issued {
            chain: vec![certificate.der().to_vec()],
            expires_at,
        })
    }
}

/// Random and positive (RFC 5280 §4.1.2.2).
fn serial_number() -> SerialNumber {
    let mut bytes = random::<16>();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ED25519;
    use valise_clock::Clock;
    use valise_device_certificate::{CertificateError, ServiceKey, Subject};

    use super::*;
    use crate::store::Sqlite;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn config(directory: &std::path::Path) -> Config {
        Config::new(
            directory.join("a.db"),
            "valise.example",
            vec!["interieur.example".into()],
        )
    }

    fn key() -> RequestedKey {
        RequestedKey::read(&ServiceKey::generate().unwrap().request().unwrap()).unwrap()
    }

    fn seconds(at: SystemTime) -> u64 {
        at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    #[tokio::test]
    async fn a_replica_that_is_somebody_else_does_not_start() {
        let directory = tempfile::tempdir().unwrap();
        let (store, now) = (Sqlite::in_memory().await.unwrap(), Clock::system().now());
        let mut first = config(directory.path());
        first.root_key_file = Some(directory.path().join("root.pem"));
        Authority::open(&first, &store, now).await.unwrap();
        let refused = async |change: &dyn Fn(&mut Config)| {
            let mut other = first.clone();
            change(&mut other);
            let opened = Authority::open(&other, &store, now).await;
            opened.err().unwrap().to_string()
        };
        let trust_domain = refused(&|config| config.trust_domain = "other.example".into()).await;
        assert_eq!(
            trust_domain,
            "configuration: trust_domain: not the one that the database's root certificate was made for"
        );
        let file = directory.path().join("other.pem");
        let mut other = first.clone();
        other.root_key_file = Some(file.clone());
        let elsewhere = Sqlite::in_memory().await.unwrap();
        Authority::open(&other, &elsewhere, now).await.unwrap();
        let key = refused(&|config| config.root_key_file = Some(file.clone())).await;
        assert_eq!(
            key,
            "cannot use the root certificate: its key is not that of its certificate"
        );
        Authority::open(&first, &store, now).await.unwrap();
    }

    #[tokio::test]
    async fn its_certificates_say_who_they_are_for_and_how_long() {
        let directory = tempfile::tempdir().unwrap();
        let (store, now) = (Sqlite::in_memory().await.unwrap(), Clock::system().now());
        let authority = Authority::open(&config(directory.path()), &store, now)
            .await
            .unwrap();
        let user: UserId = "alice@interieur.example".parse().unwrap();
        let device = DeviceId::from_uuid(uuid::Uuid::new_v4());
        let key = key();

        let issued = authority
            .certify_device(&key, &user, device, now, DAY * 90)
            .unwrap();
        let read = authority.bundle().verify(&issued.chain, seconds(now)).unwrap();
        assert_eq!(read.subject, Subject::Device { user, device });
        assert_eq!(read.public_key, key.as_bytes());
        assert_eq!(read.not_after, seconds(now + DAY * 90));
        let late = authority.bundle().verify(&issued.chain, seconds(now + DAY * 91));
        assert_eq!(late, Err(CertificateError::Expired));

        let issued = authority
            .certify_service(&key, "delivery-service", now, DAY * 365)
            .unwrap();
        let read = authority.bundle().verify(&issued.chain, seconds(now)).unwrap();
        assert_eq!(
            read.subject,
            Subject::Service {
                domain: config(directory.path()).trust_domain,
                name: "delivery-service".into()
            }
        );
    }

    #[tokio::test]
    async fn the_root_stays_the_same_and_outlives_its_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let (store, now) = (Sqlite::in_memory().await.unwrap(), Clock::system().now());
        let mut config = config(directory.path());
        config.lifetimes.root_certificate_days = 30;
        let first = Authority::open(&config, &store, now).await.unwrap();
        let again = Authority::open(&config, &store, now + DAY).await.unwrap();
        assert_eq!(first.bundle().certificates(), again.bundle().certificates());
        let issued = first
            .certify_service(&key(), "delivery-service", now, DAY * 365)
            .unwrap();
        assert_eq!(seconds(issued.expires_at), seconds(now + DAY * 30));
        assert!(again.bundle().verify(&issued.chain, seconds(now)).is_ok());
        let late = Authority::open(&config, &store, now + DAY * 31).await;
        assert_eq!(
            late.err().unwrap().to_string(),
            "cannot use the root certificate: it has expired"
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_root_key_can_be_kept_in_a_file_of_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (store, now) = (Sqlite::in_memory().await.unwrap(), Clock::system().now());
        let file = directory.path().join("root.key.pem");
        let config = Config {
            root_key_file: Some(file.clone()),
            ..config(directory.path())
        };
        let first = Authority::open(&config, &store, now).await.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = Authority::open(&config, &store, now).await.unwrap();
        assert_eq!(first.bundle().certificates(), again.bundle().certificates());
        let kept = store.find_secret("root").await.unwrap().unwrap();
        assert!(!String::from_utf8(kept).unwrap().contains("PRIVATE KEY"));

        let start = async || {
            Authority::open(&config, &store, now)
                .await
                .err()
                .unwrap()
                .to_string()
        };
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(start().await.ends_with("its key file is readable by others"));
        std::fs::remove_file(&file).unwrap();
        // The certificate is there already: a new key would not be its key.
        assert!(start().await.ends_with("its key file does not exist"));
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
        std::fs::write(&file, other).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(start().await.ends_with("its key is not that of its certificate"));
        std::fs::write(&file, "no key").unwrap();
        assert!(start().await.ends_with("its key file holds no Ed25519 key"));
    }
}
