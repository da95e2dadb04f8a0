//! The other services of the deployment, as this one reaches them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use valise_device_certificate::ServiceIdentity;

use crate::StartError;
use crate::config::PeerConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(10);

impl PeerConfig {
    /// Who this service is.
    pub(crate) fn identity(&self) -> Result<Arc<ServiceIdentity>, StartError> {
        let identity = ServiceIdentity::load(&self.key, &self.certificate);
        identity.map(Arc::new).map_err(|source| StartError::Identity {
            file: self.certificate.clone(),
            source,
        })
    }

    /// A channel that connects when it is first used, and again after it broke.
    pub(crate) fn channel(&self, url: &str, setting: &'static str) -> Result<Channel, StartError> {
        let unusable = |_| StartError::Url { setting };
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(unusable)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_while_idle(true);
        if let Some(file) = &self.ca_certificate {
            let tls = ClientTlsConfig::new().ca_certificate(read_pem(file)?);
            endpoint = endpoint.tls_config(tls).map_err(unusable)?;
        }
        Ok(endpoint.connect_lazy())
    }
}

fn read_pem(file: &Path) -> Result<Certificate, StartError> {
    let unreadable = |source| StartError::Unreadable {
        file: file.to_owned(),
        source,
    };
    std::fs::read(file).map(Certificate::from_pem).map_err(unreadable)
}
