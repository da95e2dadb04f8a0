//! A device or service shows that it holds its key, and gets an access token.

use std::time::SystemTime;

use uuid::Uuid;
use valise_access_token::{ASSERTION_AUDIENCE, Assertion, Caller, MAX_CLOCK_SKEW, VerifiedAssertion};
use valise_proto::{DeviceId, Reason, Refusal};

use crate::SERVICE_NAMES;
use crate::app::App;
use crate::error::Error;
use crate::store::DeviceKind;

/// The token for the assertion's subject. An assertion is good for one token.
pub(crate) async fn issue_token(app: &App, assertion: &str) -> Result<String, Error> {
    let now = app.now();
    let read = Assertion::read(assertion).map_err(refused)?;
    let (caller, verified) = match read.subject().parse::<DeviceId>() {
        Ok(device) => device_caller(app, &read, device, now).await?,
        Err(_) => service_caller(app, &read, now).await?,
    };
    // Noted only now: nobody but the holder of the key can fill the store with them. For longer than it is good here: a
    // replica whose clock is behind must still find it when one whose clock is ahead would have forgotten it.
    let until = verified.expires_at + MAX_CLOCK_SKEW;
    if !app
        .store
        .use_assertion(read.subject(), &verified.jti, until, now)
        .await?
    {
        return Err(refused("replay"));
    }
    let jti = Uuid::new_v4().to_string();
    let lifetime = app.config.lifetimes.access_token();
    app.signer
        .sign(&caller, now, lifetime, &jti)
        .map_err(|_| Error::Signing("the token key cannot be used"))
}

fn refused(rule: &'static str) -> Error {
    Refusal::new(Reason::InvalidAssertion).with("rule", rule).into()
}

async fn device_caller(
    app: &App,
    assertion: &Assertion<'_>,
    device: DeviceId,
    now: SystemTime,
) -> Result<(Caller, VerifiedAssertion), Error> {
    let found = app.store.device(device).await?.ok_or(Reason::UnknownDevice)?;
    // First of all: what state a device is in is told to itself alone.
    let verified = assertion
        .verify(&found.public_key, ASSERTION_AUDIENCE, now)
        .map_err(refused)?;
    if found.revoked_at.is_some() {
        return Err(Reason::DeviceRevoked.into());
    }
    if found.user_suspended {
        return Err(Reason::UserSuspended.into());
    }
    let administrator = found.kind == DeviceKind::Administrator;
    Ok((
        Caller::Device {
            user: found.user,
            device,
            administrator,
        },
        verified,
    ))
}

async fn service_caller(
    app: &App,
    assertion: &Assertion<'_>,
    now: SystemTime,
) -> Result<(Caller, VerifiedAssertion), Error> {
    let name = assertion.subject();
    if !SERVICE_NAMES.contains(&name) {
        return Err(Reason::UnknownDevice.into());
    }
    // Each replica may have its own key.
    let mut rule = "certificate";
    for key in app.store.service_keys(name, now).await? {
        match assertion.verify(&key, ASSERTION_AUDIENCE, now) {
            Ok(verified) => {
                return Ok((
                    Caller::Service {
                        name: name.to_owned(),
                    },
                    verified,
                ));
            }
            Err(broken) if rule == "certificate" || broken != "signature" => rule = broken,
            Err(_) => {}
        }
    }
    Err(refused(rule))
}
