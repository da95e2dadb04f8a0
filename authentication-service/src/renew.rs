//! A device gets a new certificate, for the same or for a new key.

use valise_proto::{DeviceId, Reason, UserId};

use crate::app::App;
use crate::audit::{self, Action};
use crate::certificate::{Issued, RequestedKey};
use crate::enrol::key_in_use;
use crate::error::Error;
use crate::store::RenewOutcome;

/// From now on the device's assertions are signed with that key.
pub(crate) async fn renew(
    app: &App,
    user: &UserId,
    device: DeviceId,
    key: &RequestedKey,
) -> Result<Issued, Error> {
    let now = app.now();
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
