//! What a user, or an administrator, does with devices.

use valise_access_token::Caller;
use valise_proto::{DeviceId, Reason, Refusal, UserId};

use crate::app::App;
use crate::audit::{self, Action};
use crate::error::Error;
use crate::store::Device;

/// The devices of that user, oldest first. Those of others as often as the limit lets the caller's user ask: whoever could ask without end would
/// find out who there is. Administrators are told that anyway.
pub(crate) async fn list(app: &App, caller: &Caller, user: &UserId) -> Result<Vec<Device>, Error> {
    let (own, _) = caller.device()?;
    if user != own && caller.administrator().is_err() {
        let limited = |wait| Refusal::new(Reason::RateLimited).retry_after(wait);
        app.devices_of_others.check(own, 1).map_err(limited)?;
    }
    Ok(app.store.devices_of(user).await?.ok_or(Reason::UnknownUser)?)
}

/// Changes the name of a device of the caller's user.
pub(crate) async fn rename(
    app: &App,
    caller: &Caller,
    device: DeviceId,
    name: &str,
) -> Result<Device, Error> {
    let (user, _) = caller.device()?;
    Ok(app
        .store
        .rename(device, user, name)
        .await?
        .ok_or(Reason::UnknownDevice)?)
}

/// Revokes a device, for ever: its tokens are refused here when this returns, and by all services within 2 s.
pub(crate) async fn revoke(app: &App, caller: &Caller, device: DeviceId) -> Result<Device, Error> {
    let (user, actor) = caller.device()?;
    let only_of = if caller.administrator().is_ok() {
        None
    } else {
        Some(user)
    };
    let act = audit::act(app.now(), actor, Action::DeviceRevoked, device);
    let revoked = app
        .store
        .revoke(device, only_of, &act)
        .await?
        .ok_or(Reason::UnknownDevice)?;
    tracing::info!(%device, "device revoked");
    app.revocations.announce().await;
    Ok(revoked)
}
