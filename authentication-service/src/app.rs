//! What all use cases work with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use valise_access_token::{Signer, Verifier};
use valise_clock::Clock;
use valise_device_certificate::TrustBundle;
use valise_proto::{Reason, Refusal, UserId};
use valise_service_runtime::{KeyedLimiter, Lifecycle};
use zeroize::Zeroizing;

use crate::certificate::Authority;
use crate::error::{Error, StartError};
use crate::revocations::RevocationFeed;
use crate::store::{self, Store};
use crate::{Config, random};

/// In the store: the 32 secret bytes of the key that access tokens are signed with.
const SIGNING_KEY: &str = "access_token_signing_key";
/// Callers that are remembered by a limiter.
const LIMITED_CALLERS: u64 = 100_000;

pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Authority,
    pub(crate) signer: Signer,
    pub(crate) jwks_json: String,
    pub(crate) revocations: Arc<RevocationFeed>,
    /// Of failed enrolments.
    pub(crate) failures: KeyedLimiter<()>,
    /// Of lists of other users' devices, by who asks.
    pub(crate) devices_of_others: KeyedLimiter<UserId>,
    pub(crate) lifecycle: Lifecycle,
    /// Cancelled when streams are to end.
    pub(crate) streams: CancellationToken,
}

impl App {
    pub(crate) async fn open(config: Config, clock: Clock) -> Result<Self, StartError> {
        config.check()?;
        let store = store::open(&config.database).await?;
        match Self::with_store(config, clock, Arc::clone(&store)).await {
            Ok(app) => Ok(app),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    async fn with_store(config: Config, clock: Clock, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let authority = Authority::open(&config, store.as_ref(), clock.now()).await?;
        let signer = signer(&config, store.as_ref()).await?;
        let jwks_json = signer.jwks_json().map_err(|_| StartError::SigningKey)?;
        let (verifier, feed) = Verifier::new(config.issuer(), clock.clone(), authority.bundle().clone());
        feed.set_keys(&jwks_json).map_err(|_| StartError::SigningKey)?;
        let revocations = Arc::new(RevocationFeed::new(Arc::clone(&store), verifier, feed));
        revocations.catch_up().await.map_err(|_| StartError::Store)?;
        let lifecycle = Lifecycle::new(&CancellationToken::new());
        lifecycle.spawn(
            "revocations",
            Arc::clone(&revocations).follow(lifecycle.stopping().clone()),
        );
        let failures = KeyedLimiter::new(config.failed_enrolments, 1, clock.clone());
        let devices_of_others = KeyedLimiter::new(config.devices_of_others, LIMITED_CALLERS, clock.clone());
        let streams = lifecycle.stopping().child_token();
        Ok(Self {
            config,
            clock,
            store,
            authority,
            signer,
            jwks_json,
            revocations,
            failures,
            devices_of_others,
            lifecycle,
            streams,
        })
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        self.revocations.verifier()
    }

    pub(crate) fn trust_bundle(&self) -> &TrustBundle {
        self.authority.bundle()
    }

    /// `POLICY_DENIED` for users of domains that are not in the list.
    pub(crate) fn check_domain(&self, user: &UserId) -> Result<(), Error> {
        if self.config.domains.iter().any(|domain| domain == user.domain()) {
            return Ok(());
        }
        Err(Refusal::new(Reason::PolicyDenied).with("rule", "domain").into())
    }

    pub(crate) fn close_streams(&self) {
        self.streams.cancel();
    }

    pub(crate) async fn stop(&self, grace: Duration) {
        self.lifecycle.stop(grace).await;
        self.store.close().await;
    }
}

async fn signer(config: &Config, store: &dyn Store) -> Result<Signer, StartError> {
    let fresh = Zeroizing::new(random::<32>());
    let seed = store
        .keep_secret(SIGNING_KEY, &fresh[..])
        .await
        .map_err(|_| StartError::Store)?;
    let seed = Zeroizing::new(seed);
    let seed: &[u8; 32] = seed.as_slice().try_into().map_err(|_| StartError::SigningKey)?;
    Signer::from_seed(seed, config.issuer()).map_err(|_| StartError::SigningKey)
}
