//! What administrators do with users.

use valise_proto::{DeviceId, Reason, UserId};

use crate::app::App;
use crate::audit::{self, Action};
use crate::error::Error;
use crate::store::User;

/// A page of users, by user id.
pub(crate) async fn list_users(app: &App, after: &str, limit: u32) -> Result<Vec<User>, Error> {
    Ok(app.store.users(after, limit).await?)
}

/// Suspends a user (or resumes one): tokens of all their devices are refused, and none is issued.
pub(crate) async fn set_suspended(
    app: &App,
    administrator: DeviceId,
    user: &UserId,
    suspended: bool,
) -> Result<User, Error> {
    let action = if suspended {
        Action::UserSuspended
    } else {
        Action::UserResumed
    };
    let act = audit::act(app.now(), administrator, action, user);
    let user = app
        .store
        .set_suspended(user, suspended, &act)
        .await?
        .ok_or(Reason::UnknownUser)?;
    app.revocations.announce().await;
    Ok(user)
}
