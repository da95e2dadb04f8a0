//! Ends a group that its members cannot use any more, for ever; it goes on under a new id (RFC 9420 §16.12).
//!
//! The service has no keys, so it cannot make the successor: it names it. A device that was a member makes it, under that id and with the old
//! group's roles ([`super::create_group`]), and adds the others.

use valise_group_rules::Roles;
use valise_proto::{DeviceId, GroupId, Reason, Refusal};
use valise_service_runtime::names;

use crate::audit::Act;
use crate::log::Reset;
use crate::send_message::refusal;
use crate::service::Delivery;

impl Delivery {
    /// For administrators. The act is in the audit log before anything of it is done.
    pub(crate) async fn reset_group(
        &self,
        administrator: DeviceId,
        group: GroupId,
    ) -> Result<Reset, Refusal> {
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        if head.frozen {
            return Err(Reason::LogRegressed.into());
        }
        let kept = self.log.successor(group).await?;
        if let (Some(successor), true) = (kept, head.reset) {
            return Ok(Reset {
                group,
                successor,
                last: head.position,
            });
        }
        let successor = kept.unwrap_or_else(|| GroupId::random(&mut rand::rng()));
        self.audit
            .write_down(administrator, Act::GroupReset { group, successor })
            .await?;
        let at = self.clock.unix_millis();
        let reset = self.log.reset(group, successor, at).await?.map_err(refusal)?;
        let meter = opentelemetry::global::meter(names::SCOPE);
        meter.u64_counter(names::RESETS).build().add(1, &[]);
        tracing::warn!(
            audit = "group_reset",
            %group,
            successor = %reset.successor,
            by = %administrator,
            position = reset.last.0,
            "a group was ended by an administrator: its members go on under a new id"
        );
        Ok(reset)
    }

    /// What whoever writes to a group that was reset is told.
    pub(crate) async fn was_reset(&self, group: GroupId) -> Result<Refusal, Refusal> {
        let refusal = Refusal::new(Reason::GroupReset);
        Ok(match self.log.successor(group).await? {
            Some(successor) => refusal.with("successor_group_id", successor),
            None => refusal,
        })
    }

    /// The roles of a group that was reset, for a device that was a member at its end and nobody else.
    pub(crate) async fn roles_to_inherit(&self, old: GroupId, device: DeviceId) -> Result<Roles, Refusal> {
        let windows = self.log.windows(old, device).await?;
        if windows.iter().all(|window| window.until.is_some()) {
            return Err(Reason::NotAMember.into());
        }
        // As they were at its end: the log takes nothing more.
        let view = self.states.refresh(old).await?;
        Ok(view.authority.roles().clone())
    }
}
