//! What administrators do with groups is written to the authentication service's audit log, before it is done.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Request};
use valise_access_token::ServiceTokens;
use valise_proto::authentication::v1::authentication_internal_service_client::AuthenticationInternalServiceClient;
use valise_proto::authentication::v1::{RecordActRequest, ServiceAct};
use valise_proto::{DeviceId, GroupId, Reason, Refusal};

/// How long the authentication service may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to the audit log.
#[derive(Clone, Debug)]
pub struct AuditLink {
    /// To the authentication service's endpoint; may be a lazy one.
    pub channel: Channel,
    /// Tokens of kind service, as `RecordAct` needs.
    pub tokens: ServiceTokens,
}

/// An act of an administrator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// The group ends, and goes on under a new id.
    GroupReset { group: GroupId, successor: GroupId },
    /// The frozen group is repaired.
    GroupRepaired { group: GroupId },
}

impl AuditLink {
    /// Writes down what that device asked for. Where it fails, the act must not be done: `STORE_UNAVAILABLE` where the authentication service
    /// cannot be reached, else what it says.
    pub(crate) async fn write_down(&self, administrator: DeviceId, act: Act) -> Result<(), Refusal> {
        let request = wire(administrator, act);
        match self.attempt(request.clone()).await {
            // The token may have been of another signing key.
            Err(refusal) if matches!(refusal.reason, Reason::TokenInvalid | Reason::TokenExpired) => {
                self.tokens.forget().await;
                self.attempt(request).await.map_err(ours)
            }
            outcome => outcome.map_err(ours),
        }
    }

    async fn attempt(&self, request: RecordActRequest) -> Result<(), Refusal> {
        let mut request = Request::new(request);
        request.set_timeout(PATIENCE);
        self.tokens.authorize(&mut request).await?;
        let answer = AuthenticationInternalServiceClient::new(self.channel.clone())
            .record_act(request)
            .await;
        answer.map(|_| ()).map_err(|status| {
            let unknown = match status.code() {
                // One of an older version, which cannot write it down.
                Code::Unimplemented => Reason::Internal,
                _ => Reason::StoreUnavailable,
            };
            Refusal::from_status(&status).unwrap_or_else(|| unknown.into())
        })
    }
}

/// What the caller is told: it is not its token that failed here.
fn ours(refusal: Refusal) -> Refusal {
    let rule = refusal.metadata.get("rule").map(String::as_str);
    match refusal.reason {
        // Revoked or suspended since its token was looked at.
        Reason::PolicyDenied if rule == Some("administrator_only") => refusal,
        Reason::UnknownDevice => Refusal::new(Reason::PolicyDenied).with("rule", "administrator_only"),
        Reason::StoreUnavailable | Reason::DeadlineExceeded | Reason::Overloaded | Reason::RateLimited => {
            Reason::StoreUnavailable.into()
        }
        reason => {
            tracing::error!(%reason, "an act of an administrator was not written down, and not done");
            Reason::Internal.into()
        }
    }
}

fn wire(administrator: DeviceId, act: Act) -> RecordActRequest {
    let (act, group, successor) = match act {
        Act::GroupReset { group, successor } => (ServiceAct::GroupReset, group, Some(successor)),
        Act::GroupRepaired { group } => (ServiceAct::GroupRepaired, group, None),
    };
    RecordActRequest {
        administrator_device_id: administrator.to_string(),
        act: act.into(),
        group_id: group.to_vec(),
        successor_group_id: successor.map(|successor| successor.to_vec()).unwrap_or_default(),
    }
}
