//! A service of the deployment gets a certificate, with which it shows other services who it is.

use std::fmt;

use valise_proto::Refusal;

use crate::app::App;
use crate::audit::{self, Action};
use crate::certificate::{Issued, RequestedKey};
use crate::enrol::key_in_use;
use crate::error::Error;
use crate::store::ServiceCertificate;

/// The services that can have a certificate.
pub const SERVICE_NAMES: &[&str] = &["delivery-service", "key-package-directory"];

/// A certificate for the service's key; the service may have several, one for each replica.
pub(crate) async fn issue(
    app: &App,
    name: &str,
    key: &RequestedKey,
    actor: impl fmt::Display,
) -> Result<Issued, Error> {
    if !SERVICE_NAMES.contains(&name) {
        return Err(Refusal::malformed("service_name").into());
    }
    let now = app.now();
    let issued = app
        .authority
        .certify_service(key, name, now, app.config.lifetimes.service_certificate())?;
    let certificate = ServiceCertificate {
        name: name.to_owned(),
        public_key: key.as_bytes().to_vec(),
        certificate: issued.chain.concat(),
        expires_at: issued.expires_at,
    };
    let act = audit::act(now, actor, Action::ServiceCertificateIssued, name);
    if !app.store.add_service_certificate(&certificate, &act).await? {
        return Err(key_in_use());
    }
    tracing::info!(service = name, "service certificate issued");
    Ok(issued)
}
