//! Feeds a verifier of a service that runs in its own process: keys, trust bundle and revocations come from the
//! authentication service, over the network, for as long as the service runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use valise_clock::Clock;
use valise_device_certificate::{ServiceIdentity, TrustBundle};
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::watch_revocations_response::Event;
use valise_proto::authentication::v1::{
    GetJwksRequest, GetTrustBundleRequest, WatchRevocationsRequest, WatchRevocationsResponse,
};
use valise_proto::{Reason, Refusal};

use crate::revocations::{FeedError, MAX_SILENCE};
use crate::service_tokens::ServiceTokens;
use crate::verifier::{Verifier, VerifierFeed};

/// How often keys and trust bundle are asked for again.
const REFRESH: Duration = Duration::from_secs(60);
/// An unknown key makes them be asked for sooner, but not sooner than this after the last time.
const REFRESH_AT_MOST: Duration = Duration::from_secs(1);
/// Waits between attempts to reach the authentication service. Short: after [`MAX_SILENCE`] nobody is let in.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(800);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A verifier that follows the authentication service.
pub struct Feed {
    /// What the service judges calls with.
    pub verifier: Verifier,
    /// What the service calls other services with.
    pub tokens: ServiceTokens,
    /// Ends after `shutdown`.
    pub task: JoinHandle<()>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

impl Feed {
    /// Asks for the trust bundle, for as long as it takes, and then follows the feed in a task of its own. `None` where
    /// `shutdown` came first.
    ///
    /// The verifier refuses all tokens until the feed has been caught up with: see [`Verifier::current`].
    /// `issuer` is the `iss` of the authentication service's tokens.
    pub async fn start(
        channel: Channel,
        identity: Arc<ServiceIdentity>,
        issuer: impl Into<String>,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> Option<Self> {
        let tokens = ServiceTokens::new(channel.clone(), identity, clock.clone());
        let client = AuthenticationServiceClient::new(channel);
        let bundle = shutdown.run_until_cancelled(first_bundle(&client)).await?;
        let (verifier, feed) = Verifier::new(issuer, clock, bundle);
        let follower = Follower {
            client,
            tokens: tokens.clone(),
            feed,
        };
        let task = tokio::spawn(async move {
            let work = async { tokio::join!(follower.follow_revocations(), follower.refresh_keys()) };
            shutdown.run_until_cancelled(work).await;
        });
        Some(Self {
            verifier,
            tokens,
            task,
        })
    }
}

struct Follower {
    client: AuthenticationServiceClient<Channel>,
    tokens: ServiceTokens,
    feed: VerifierFeed,
}

/// Why the feed has to be taken up again.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the authentication service cannot be reached: {0:?}")]
    Unreachable(tonic::Code),
    #[error("the authentication service ended the feed")]
    Ended,
    #[error("the authentication service fell silent")]
    Silent,
    #[error(transparent)]
    Feed(#[from] FeedError),
}

impl From<Status> for Interrupted {
    fn from(status: Status) -> Self {
        Refusal::from_status(&status).map_or_else(|| Self::Unreachable(status.code()), Self::Refused)
    }
}

impl From<Refusal> for Interrupted {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn first_bundle(client: &AuthenticationServiceClient<Channel>) -> TrustBundle {
    let mut wait = FIRST_WAIT;
    loop {
        match ask_bundle(client).await {
            Ok(bundle) => return bundle,
            Err(error) => tracing::warn!(%error, "no trust bundle yet, asking again"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn ask_bundle(client: &AuthenticationServiceClient<Channel>) -> Result<TrustBundle, Interrupted> {
    let mut request = Request::new(GetTrustBundleRequest {});
    request.set_timeout(PATIENCE);
    let bundle = client
        .clone()
        .get_trust_bundle(request)
        .await?
        .into_inner()
        .trust_bundle;
    let bundle = bundle.ok_or(FeedError::Malformed)?;
    Ok(TrustBundle::from_der(bundle.certificates).map_err(|_| FeedError::Malformed)?)
}

impl Follower {
    async fn follow_revocations(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let Err(error) = self.follow_once().await;
            tracing::warn!(%error, "revocation feed interrupted, following it again");
            match error {
                // A token of a database that is no more, or of a key that was withdrawn.
                Interrupted::Refused(Refusal {
                    reason: Reason::TokenInvalid | Reason::TokenExpired,
                    ..
                }) => {
                    self.tokens.forget().await;
                }
                Interrupted::Feed(FeedError::WentBack) => {
                    tracing::error!(
                        "the revocation feed went back in time: was the authentication store restored?"
                    );
                    self.feed.start_over();
                }
                _ => {}
            }
            if began.elapsed() > MAX_SILENCE {
                wait = FIRST_WAIT;
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn follow_once(&self) -> Result<std::convert::Infallible, Interrupted> {
        let mut request = Request::new(WatchRevocationsRequest {
            after_number: self.feed.newest(),
        });
        self.tokens.authorize(&mut request).await?;
        let mut client = self.client.clone();
        let opening = timeout(PATIENCE, client.watch_revocations(request))
            .await
            .map_err(|_| Interrupted::Silent)?;
        let mut stream: Streaming<WatchRevocationsResponse> = opening?.into_inner();
        loop {
            let next = timeout(MAX_SILENCE, stream.next())
                .await
                .map_err(|_| Interrupted::Silent)?;
            match next
                .ok_or(Interrupted::Ended)??
                .event
                .ok_or(FeedError::Malformed)?
            {
                Event::Revocation(revocation) => self.feed.apply(revocation.try_into()?)?,
                Event::Heartbeat(heartbeat) => self.feed.heard(heartbeat.newest_number)?,
            }
        }
    }

    /// Keys and trust bundle, at once, every minute, and when a token shows a key that is not known.
    async fn refresh_keys(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.refresh_once().await {
                Ok(()) => {
                    wait = FIRST_WAIT;
                    sleep(REFRESH_AT_MOST).await;
                    let _ = timeout(REFRESH.saturating_sub(REFRESH_AT_MOST), self.feed.unknown_key()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "no keys from the authentication service, asking again");
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    async fn refresh_once(&self) -> Result<(), Interrupted> {
        let mut request = Request::new(GetJwksRequest {});
        request.set_timeout(PATIENCE);
        let jwks = self
            .client
            .clone()
            .get_jwks(request)
            .await?
            .into_inner()
            .jwks_json;
        self.feed.set_keys(&jwks)?;
        self.feed.set_trust_bundle(ask_bundle(&self.client).await?);
        Ok(())
    }
}
