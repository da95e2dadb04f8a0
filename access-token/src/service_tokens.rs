//! What a service calls other services with.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use uuid::Uuid;
use valise_clock::Clock;
use valise_device_certificate::ServiceIdentity;
use valise_proto::authentication::v1::IssueTokenRequest;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::{Reason, Refusal};

use crate::claims::ASSERTION_AUDIENCE;

/// A token is replaced so long before it ends: more than a call takes, and clocks may differ.
const MARGIN: Duration = Duration::from_secs(60);
/// In seconds: longer lives are not believed.
const MAX_LIFETIME: u64 = 24 * 60 * 60;
/// How long the exchange of an assertion for a token may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fresh access tokens of a service, got from the authentication service when they are needed. Cheap to clone; clones
/// share one token.
#[derive(Clone)]
pub struct ServiceTokens {
    inner: Arc<Inner>,
}

struct Inner {
    client: AuthenticationServiceClient<Channel>,
    identity: Arc<ServiceIdentity>,
    clock: Clock,
    held: Mutex<Option<Held>>,
}

struct Held {
    bearer: MetadataValue<Ascii>,
    renew_at: SystemTime,
}

impl fmt::Debug for ServiceTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceTokens({})", self.inner.identity.name())
    }
}

impl ServiceTokens {
    /// Tokens for `identity`, from the authentication service at the other end of `channel` (which may be a lazy one:
    /// nothing is asked before the first token is needed).
    pub fn new(channel: Channel, identity: Arc<ServiceIdentity>, clock: Clock) -> Self {
        let client = AuthenticationServiceClient::new(channel);
        Self {
            inner: Arc::new(Inner {
                client,
                identity,
                clock,
                held: Mutex::new(None),
            }),
        }
    }

    /// The value of a valid `authorization` header. Errors: those of `IssueToken`; `STORE_UNAVAILABLE` where the
    /// authentication service cannot be reached.
    pub async fn bearer(&self) -> Result<MetadataValue<Ascii>, Refusal> {
        // Held while the exchange runs, so that many callers cause one exchange.
        let mut held = self.inner.held.lock().await;
        let now = self.inner.clock.now();
        if let Some(token) = held.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.bearer.clone());
        }
        let token = self.inner.exchange(now).await?;
        let bearer = token.bearer.clone();
        *held = Some(token);
        Ok(bearer)
    }

    /// Puts a valid token on a request.
    pub async fn authorize<T>(&self, request: &mut Request<T>) -> Result<(), Refusal> {
        let bearer = self.bearer().await?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(())
    }

    /// Forgets the token that is held, for example after `TOKEN_INVALID`.
    pub async fn forget(&self) {
        *self.inner.held.lock().await = None;
    }
}

impl Inner {
    async fn exchange(&self, now: SystemTime) -> Result<Held, Refusal> {
        let unusable = || Refusal::new(Reason::Internal);
        let mut signed = true;
        let jti = Uuid::new_v4().to_string();
        let (name, kind) = (self.identity.name(), self.identity.kind());
        let assertion = crate::assertion(name, ASSERTION_AUDIENCE, now, &jti, kind, |message| {
            self.identity.sign(message).unwrap_or_else(|_| {
                signed = false;
                Vec::new()
            })
        });
        if !signed {
            return Err(unusable());
        }
        let mut request = Request::new(IssueTokenRequest { assertion });
        request.set_timeout(PATIENCE);
        let answer = self
            .client
            .clone()
            .issue_token(request)
            .await
            .map_err(|status| {
                Refusal::from_status(&status).unwrap_or_else(|| Reason::StoreUnavailable.into())
            })?
            .into_inner();
        let seconds = answer
            .expires_in
            .and_then(|lifetime| u64::try_from(lifetime.seconds).ok());
        let lifetime = Duration::from_secs(seconds.unwrap_or_default().min(MAX_LIFETIME));
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", answer.access_token)
            .parse()
            .map_err(|_| unusable())?;
        bearer.set_sensitive(true);
        // Of a very short life, half is used.
        let renew_after = lifetime.saturating_sub(MARGIN).max(lifetime / 2);
        Ok(Held {
            bearer,
            renew_at: now + renew_after,
        })
    }
}
