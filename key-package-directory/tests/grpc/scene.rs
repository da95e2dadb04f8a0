//! A directory that serves, with an authentication service's keys and feed in the test's hands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::RoutesBuilder;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use valise_access_token::{
    Caller, Revocation, RevocationSubject, Signer, TokenLayer, Verifier, VerifierFeed,
};
use valise_clock::{Clock, ManualClock};
use valise_key_package_directory::{Config, DeliveryLink, Service};
use valise_proto::Refusal;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_proto::directory::v1::{
    Claim, ClaimKeyPackagesRequest, DeleteKeyPackagesRequest, GetStockRequest, GetStockResponse,
    PublishKeyPackagesRequest, Stock, claim,
};
use valise_service_runtime::{Readiness, ServeError, ServerConfig, serve};

use crate::people::{Authority, Device, SUITE};

pub(crate) const ISSUER: &str = "https://authentication.interieur.example";

const FILE: &str = "directory.db";

/// A running directory.
pub(crate) struct Scene {
    pub(crate) authority: Authority,
    pub(crate) clock: Clock,
    pub(crate) hand: ManualClock,
    pub(crate) signer: Signer,
    pub(crate) verifier: Verifier,
    feed: Arc<VerifierFeed>,
    newest: Arc<AtomicU64>,
    _heartbeat: DropGuard,
    config: Config,
    folder: TempDir,
    running: Option<Running>,
}

struct Running {
    service: Service,
    channel: Channel,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

/// What the claim of one device gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Given {
    OneTime(Vec<u8>),
    LastResort(Vec<u8>),
    Nothing(i32),
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut scene = Self::closed(change);
        scene.start(None).await;
        scene
    }

    /// Before the directory is started.
    pub(crate) fn closed(change: impl FnOnce(&mut Config)) -> Self {
        let authority = Authority::new();
        let (clock, hand) = Clock::movable();
        let signer = Signer::from_seed(&[7; 32], ISSUER).unwrap();
        let (verifier, feed) = Verifier::new(ISSUER, clock.clone(), authority.bundle());
        feed.set_keys(&signer.jwks_json().unwrap()).unwrap();
        feed.heard(0).unwrap();
        let (feed, newest) = (Arc::new(feed), Arc::new(AtomicU64::new(0)));
        let heartbeat = heartbeat(Arc::clone(&feed), Arc::clone(&newest));
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            database: folder.path().join(FILE).into(),
            ..Config::default()
        };
        change(&mut config);
        Self {
            authority,
            clock,
            hand,
            signer,
            verifier,
            feed,
            newest,
            _heartbeat: heartbeat,
            config,
            folder,
            running: None,
        }
    }

    pub(crate) async fn start(&mut self, delivery: Option<DeliveryLink>) {
        let service = Service::open(
            self.config.clone(),
            self.verifier.clone(),
            self.clock.clone(),
            delivery,
        )
        .await
        .unwrap();
        let mut routes = RoutesBuilder::default();
        service.add_routes(&mut routes);
        let (listener, address) = listen().await;
        let shutdown = CancellationToken::new();
        let tokens = TokenLayer::new(self.verifier.clone(), &[]);
        let config = ServerConfig {
            graceful_shutdown: Duration::ZERO,
            ..self.config.server.clone()
        };
        let serving = serve(
            listener,
            routes.routes(),
            Readiness::new(),
            tokens,
            config,
            shutdown.clone(),
        );
        let serving = tokio::spawn(serving);
        self.running = Some(Running {
            service,
            channel: channel(address),
            shutdown,
            serving,
        });
    }

    /// Stops the directory and opens it again on the same file.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        assert!(self.file().exists());
        self.start(None).await;
    }

    /// Its database.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.shutdown.cancel();
        running.serving.await.unwrap().unwrap();
        running.service.stop().await;
    }

    pub(crate) fn device(&self, name: &str) -> Device {
        Device::new(&self.authority, name)
    }

    /// The next line of the revocation feed.
    pub(crate) fn revoke(&self, subject: RevocationSubject) {
        let number = self.newest.load(Ordering::SeqCst) + 1;
        self.feed
            .apply(Revocation {
                number,
                subject,
                at: self.clock.now(),
            })
            .unwrap();
        self.newest.store(number, Ordering::SeqCst);
    }

    pub(crate) fn client(&self) -> KeyPackageDirectoryServiceClient<Channel> {
        KeyPackageDirectoryServiceClient::new(self.running.as_ref().unwrap().channel.clone())
            .max_decoding_message_size(64 << 20)
    }

    pub(crate) fn request<T>(&self, caller: &Caller, message: T) -> Request<T> {
        let token = self
            .signer
            .sign(caller, self.clock.now(), Duration::from_mins(10), "a-token")
            .unwrap();
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }

    pub(crate) async fn publish(
        &self,
        by: &Device,
        key_packages: Vec<Vec<u8>>,
    ) -> Result<Vec<Stock>, Refusal> {
        let request = self.request(&by.caller(), PublishKeyPackagesRequest { key_packages });
        let response = self
            .client()
            .publish_key_packages(request)
            .await
            .map_err(|status| refusal(&status))?;
        Ok(response.into_inner().stock)
    }

    pub(crate) async fn claim(
        &self,
        by: &Device,
        request: ClaimKeyPackagesRequest,
    ) -> Result<Vec<Claim>, Refusal> {
        let request = self.request(&by.caller(), request);
        let response = self
            .client()
            .claim_key_packages(request)
            .await
            .map_err(|status| refusal(&status))?;
        Ok(response.into_inner().claims)
    }

    /// Claims one device and returns what it gave.
    pub(crate) async fn claim_device(&self, by: &Device, of: &Device) -> Given {
        let request = ClaimKeyPackagesRequest {
            user_ids: Vec::new(),
            device_ids: vec![of.id.to_string()],
            cipher_suite: SUITE,
        };
        let mut claims = self.claim(by, request).await.unwrap();
        assert_eq!(claims.len(), 1);
        given(claims.remove(0))
    }

    pub(crate) async fn stock(&self, of: &Device) -> GetStockResponse {
        let request = self.request(&of.caller(), GetStockRequest {});
        self.client().get_stock(request).await.unwrap().into_inner()
    }

    pub(crate) async fn delete(&self, of: &Device) -> u32 {
        let request = self.request(&of.caller(), DeleteKeyPackagesRequest {});
        self.client()
            .delete_key_packages(request)
            .await
            .unwrap()
            .into_inner()
            .deleted
    }
}

pub(crate) fn given(claim: Claim) -> Given {
    match claim.result.unwrap() {
        claim::Result::KeyPackage(message) if claim.last_resort => Given::LastResort(message),
        claim::Result::KeyPackage(message) => Given::OneTime(message),
        claim::Result::Failure(failure) => Given::Nothing(failure),
    }
}

pub(crate) fn refusal(status: &Status) -> Refusal {
    Refusal::from_status(status).unwrap()
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

/// The authentication service's sign of life, for as long as the guard lives.
fn heartbeat(feed: Arc<VerifierFeed>, newest: Arc<AtomicU64>) -> DropGuard {
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        while ended.run_until_cancelled(beat.tick()).await.is_some() {
            feed.heard(newest.load(Ordering::SeqCst)).ok();
        }
    });
    end.drop_guard()
}
