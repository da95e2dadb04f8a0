//! The authentication service, as this one reaches it.

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::config::{Config, SettingError};
use crate::service::StartError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A channel that connects when it is first used, and again after it broke.
pub(crate) fn channel(config: &Config) -> Result<Channel, StartError> {
    let mut endpoint = Endpoint::from_shared(config.authentication_url.clone())
        .map_err(|_| StartError::AuthenticationUrl)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true);
    if endpoint.uri().scheme_str() == Some("https") {
        // Without one it would try for ever.
        let Some(file) = &config.authentication_ca_certificate else {
            let setting = "authentication_ca_certificate";
            let rule = "needed with an https:// authentication_url";
            return Err(SettingError { setting, rule }.into());
        };
        let tls = ClientTlsConfig::new().ca_certificate(read_pem(file)?);
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|_| StartError::AuthenticationUrl)?;
    }
    Ok(endpoint.connect_lazy())
}

fn read_pem(file: &Path) -> Result<Certificate, StartError> {
    std::fs::read(file)
        .map(Certificate::from_pem)
        .map_err(|source| StartError::AuthenticationAuthority {
            file: file.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn problem(change: impl FnOnce(&mut Config)) -> Option<String> {
        let mut config = Config::new(PathBuf::from("delivery.db"), PathBuf::new(), PathBuf::new());
        change(&mut config);
        channel(&config).err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_used_is_named_by_its_setting() {
        let https = "https://authentication.interieur.example";
        assert_eq!(problem(|_| {}), None);
        assert_eq!(
            problem(|config| config.authentication_url = https.to_owned()).unwrap(),
            "setting authentication_ca_certificate: needed with an https:// authentication_url"
        );
        let missing = problem(|config| {
            config.authentication_url = https.to_owned();
            config.authentication_ca_certificate = Some("nowhere/ca.crt".into());
        });
        assert!(
            missing
                .unwrap()
                .starts_with("setting authentication_ca_certificate: nowhere/ca.crt: ")
        );
        let malformed = problem(|config| config.authentication_url = "not a url".to_owned());
        assert!(malformed.unwrap().starts_with("setting authentication_url: "));
    }
}
