//! What administrators do at other services is written down here, before it is done there.

use std::fmt;

use valise_proto::{DeviceId, GroupId, Reason, Refusal};

use crate::app::App;
use crate::audit::{self, Action};
use crate::error::Error;
use crate::store::DeviceKind;

/// An administrator's act at another service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServiceAct {
    /// A group ends, and goes on under a new id.
    GroupReset { group: GroupId, successor: GroupId },
    /// A frozen group is repaired.
    GroupRepaired { group: GroupId },
}

impl ServiceAct {
    /// Only this service does it.
    const fn service(self) -> &'static str {
        match self {
            Self::GroupReset { .. } | Self::GroupRepaired { .. } => "delivery-service",
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::GroupReset { .. } => Action::GroupReset,
            Self::GroupRepaired { .. } => Action::GroupRepaired,
        }
    }
}

/// The subject of the line.
impl fmt::Display for ServiceAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GroupReset { group, successor } => write!(f, "{group} {successor}"),
            Self::GroupRepaired { group } => group.fmt(f),
        }
    }
}

/// Writes it down. `service` vouches that the administrator's device asked for it; that the device is one is checked here, so that no line
/// names somebody who could not have done it.
pub(crate) async fn record_act(
    app: &App,
    service: &str,
    administrator: DeviceId,
    act: ServiceAct,
) -> Result<(), Error> {
    if act.service() != service {
        return Err(denied("foreign_act"));
    }
    let device = app
        .store
        .device(administrator)
        .await?
        .ok_or(Reason::UnknownDevice)?;
    if device.kind != DeviceKind::Administrator || device.revoked_at.is_some() || device.user_suspended {
        return Err(denied("administrator_only"));
    }
    let line = audit::act(app.now(), administrator, act.action(), act);
    Ok(app.store.record(&line).await?)
}

fn denied(rule: &str) -> Error {
    Refusal::new(Reason::PolicyDenied).with("rule", rule).into()
}
