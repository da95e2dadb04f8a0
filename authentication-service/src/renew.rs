//! A device gets a new certificate, for the same or for a new key.

use valise_device_certificate::KeyKind;
use valise_proto::{DeviceId, Reason, Refusal, UserId};

use crate::app::App;
use crate::audit::{self, Action};
use crate::certificate::{Issued, RequestedKey};
use crate::enrol::key_in_use;
use crate::error::Error;
use crate::store::RenewOutcome;

/// From now on the device's assertions are signed with that key, which is of the same kind as the one before.
pub(crate) async fn renew(
    app: &App,
    user: &UserId,
    device: DeviceId,
    key: &RequestedKey,
) -> Result<Issued, Error> {
    let now = app.now();
    // Its groups are of suites that need a key of this kind.
    let found = app.store.device(device).await?.ok_or(Reason::DeviceRevoked)?;
    if KeyKind::of(&found.public_key) != Some(key.kind()) {
        return Err(Refusal::new(Reason::InvalidCertificateRequest)
            .with("rule", "key_kind")
            .into());
    }
    let lifetime = app.config.lifetimes.device_certificate();
    let issued = app.authority.certify_device(key, user, device, now, lifetime)?;
    let act = audit::act(now, device, Action::CertificateRenewed, device);
    match app
        .store
        .renew(device, key.as_bytes(), issued.expires_at, &act)
        .await?
    {
        RenewOutcome::Renewed => Ok(issued),
        // Its token was good a moment ago.
        RenewOutcome::NoSuchDevice => Err(Reason::DeviceRevoked.into()),
        RenewOutcome::KeyInUse => Err(key_in_use()),
    }
}
