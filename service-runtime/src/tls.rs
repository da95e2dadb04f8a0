//! The service's own TLS certificate. It may be renewed while the service runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::config::TlsConfig;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_mins(1);

/// Why the TLS certificate cannot be used: one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("tls: cannot read {file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds no certificate in PEM form, or a broken one.
    #[error("tls: no usable certificate in {file}")]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The file holds no private key in PEM form, or a broken one.
    #[error("tls: no usable private key in {file}")]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// Certificate and key do not go together or are of an unknown kind.
    #[error("tls: certificate {certificate} and key {key} cannot be used: {source}")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// What new connections are shown: the certificate in the files, also where it was renewed after the start.
pub(crate) struct ServerCertificate {
    files: TlsConfig,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Reads the files.
    pub(crate) fn open(files: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let first = certified_key(files, chain(&files.certificate)?)?;
        Ok(Arc::new(Self {
            files: files.clone(),
            current: RwLock::new(Arc::new(first)),
        }))
    }

    /// For HTTP/2 only, with rustls's safe protocol versions (TLS 1.2 and 1.3).
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| unusable(&self.files, source))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(server))
    }

    /// Takes renewed files within a minute, until `stopping` is cancelled.
    pub(crate) async fn follow_files(self: Arc<Self>, stopping: CancellationToken) {
        while stopping
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            match self.take_renewed() {
                Ok(true) => tracing::info!("took the renewed tls certificate"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the former tls certificate stays in use"),
            }
        }
    }

    /// Is there another certificate in the files than before? Where they cannot be used, for example because only one of the two is
    /// written yet, the former one stays.
    fn take_renewed(&self) -> Result<bool, TlsError> {
        let chain = chain(&self.files.certificate)?;
        if self.current.read().cert == chain {
            return Ok(false);
        }
        let renewed = certified_key(&self.files, chain)?;
        *self.current.write() = Arc::new(renewed);
        Ok(true)
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

/// The chain with the key of the file, if they go together.
fn certified_key(files: &TlsConfig, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| TlsError::NoKey {
        file: files.key.clone(),
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| unusable(files, source))
}

fn unusable(files: &TlsConfig, source: rustls::Error) -> TlsError {
    TlsError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    }
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::NoCertificate {
        file: file.to_owned(),
    };
    let chain = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| none())?;
    if chain.is_empty() { Err(none()) } else { Ok(chain) }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Unreadable {
        file: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(path("chain.pem"), own.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), own.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("other.pem"), other.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("empty.pem"), "").unwrap();
        let load = |certificate: &str, key: &str| {
            ServerCertificate::open(&TlsConfig {
                certificate: path(certificate),
                key: path(key),
            })
            .map(|_| ())
            .map_err(|error| {
                error
                    .to_string()
                    .replace(&dir.path().display().to_string(), "DIR")
            })
        };

        assert_eq!(load("chain.pem", "key.pem"), Ok(()));
        assert!(
            load("none.pem", "key.pem")
                .unwrap_err()
                .starts_with("tls: cannot read DIR/none.pem: ")
        );
        assert_eq!(
            load("empty.pem", "key.pem").unwrap_err(),
            "tls: no usable certificate in DIR/empty.pem"
        );
        assert_eq!(
            load("chain.pem", "chain.pem").unwrap_err(),
            "tls: no usable private key in DIR/chain.pem"
        );
        let mismatch = load("chain.pem", "other.pem").unwrap_err();
        assert!(
            mismatch.starts_with("tls: certificate DIR/chain.pem and key DIR/other.pem cannot be used: ")
        );
        assert_eq!(mismatch.lines().count(), 1);
    }

    #[test]
    fn renewed_files_are_taken_once_both_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsConfig {
            certificate: dir.path().join("chain.pem"),
            key: dir.path().join("key.pem"),
        };
        let make = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (former, renewed) = (make(), make());
        std::fs::write(&files.certificate, former.cert.pem()).unwrap();
        std::fs::write(&files.key, former.signing_key.serialize_pem()).unwrap();
        let certificate = ServerCertificate::open(&files).unwrap();
        let shown = || certificate.current.read().cert.clone();
        assert!(!certificate.take_renewed().unwrap());

        std::fs::write(&files.certificate, renewed.cert.pem()).unwrap();
        assert!(certificate.take_renewed().is_err(), "the key is the former one");
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(certificate.take_renewed().is_err(), "there is none");
        assert_eq!(shown(), [former.cert.der().clone()]);

        std::fs::write(&files.certificate, renewed.cert.pem()).unwrap();
        std::fs::write(&files.key, renewed.signing_key.serialize_pem()).unwrap();
        assert!(certificate.take_renewed().unwrap());
        assert_eq!(shown(), [renewed.cert.der().clone()]);
        assert!(!certificate.take_renewed().unwrap());
    }
}
