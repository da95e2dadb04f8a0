//! The service's own TLS certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::TlsConfig;

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

/// For HTTP/2 only, with rustls's safe protocol versions (TLS 1.2 and 1.3).
pub(crate) fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = chain(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&config.key)?).map_err(|_| TlsError::NoKey {
        file: config.key.clone(),
    })?;
    let unusable = |source| TlsError::Unusable {
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        source,
    };
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(server))
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
            server_config(&TlsConfig {
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
}
