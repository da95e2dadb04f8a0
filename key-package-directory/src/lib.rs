//! The key-package directory: how do I invite this user?
//!
//! To add a device to an MLS group one needs a key package of it (RFC 9420 §10), also while the device is off. Devices
//! leave a stock of them here, and whoever wants to add them takes one. The service is `valise.directory.v1`.
//!
//! The story of a package, file by file:
//!
//! 1. `publish.rs`: a device sends up to a hundred. Each is judged (whose it is, signatures, suite, lifetime, never seen
//!    before), then all of them are stored, or none.
//! 2. `claim.rs`: somebody wants to add users. Their devices are looked up, those that are revoked or were asked for too
//!    often are told apart, and each of the others gives a package: a one-time package, which leaves the store in the
//!    same transaction and is never seen again, or else its last-resort package, which is only read.
//! 3. `stock.rs`: what a device has left; `notices.rs` tells it through its inbox when that is little.
//! 4. `sweep.rs`: what cannot be handed out any more is deleted: packages that would not outlive the retention window,
//!    and all packages of a revoked device.
//!
//! `grpc.rs` is the door, `store.rs` the trait of what is below, `store/sqlite.rs` the embedded store and
//! `store/postgres.rs` that of many replicas. Nothing that must hold exactly is kept in the process: replicas share one
//! store.

mod claim;
mod command;
mod config;
mod directory;
mod find_suites;
mod grpc;
mod known_devices;
mod notices;
mod peers;
mod publish;
mod stock;
mod store;
mod sweep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use valise_access_token::{Feed, TokenLayer, Verifier};
use valise_clock::Clock;
use valise_device_certificate::CertificateError;
use valise_proto::directory::v1::key_package_directory_service_server::KeyPackageDirectoryServiceServer;
use valise_service_runtime::{Lifecycle, Readiness, ServeError, serve, watch_certificates};
use valise_sql_database::OpenError;

pub use command::{Arguments, migrate};
pub use config::{Config, LimitConfig, PackageConfig, PeerConfig, StoreConfig};
pub use notices::DeliveryLink;

use directory::Directory;
use grpc::Grpc;
use notices::Notices;
use store::Store;

/// The full names of its gRPC services, as the contract has them: under each of them health is reported.
pub const GRPC_SERVICES: &[&str] =
    &[valise_proto::directory::v1::key_package_directory_service_server::SERVICE_NAME];

/// The largest request: a hundred packages of 16 KiB, and their frame.
const MAX_REQUEST_BYTES: usize = 2 * 1024 * 1024;
/// Time that background tasks have to end.
const GRACE: Duration = Duration::from_secs(10);
/// Between attempts to purge the packages of a revoked device.
const PURGE_AGAIN: Duration = Duration::from_secs(1);

/// Why the directory does not run. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process was asked for something else than it does.
    #[error("usage: valise-key-package-directory [migrate] [CONFIGURATION]")]
    Arguments,
    /// A setting contradicts another one or is missing.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// A setting is not a usable URL.
    #[error("configuration: {setting} is not a usable URL")]
    Url {
        /// Which.
        setting: &'static str,
    },
    /// The SQLite file cannot be used.
    #[error("cannot open the key-package store {file}: {problem}")]
    Store {
        /// Where it is.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The PostgreSQL database cannot be used.
    #[error(transparent)]
    Postgres(#[from] OpenError),
    /// This service's key or certificate cannot be used.
    #[error("cannot use the service's certificate {file} and its key: {source}")]
    Identity {
        /// The certificate.
        file: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The service cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// The directory, open, with its background tasks.
pub struct Service {
    directory: Arc<Directory>,
    lifecycle: Lifecycle,
}

impl Service {
    /// Opens the store and starts the background tasks. Without `delivery` nobody is told of low stock.
    pub async fn open(
        config: Config,
        verifier: Verifier,
        clock: Clock,
        delivery: Option<DeliveryLink>,
    ) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let store = store::open(&config.database).await?;
        Ok(Self::start(&config, store, verifier, clock, delivery))
    }

    fn start(
        config: &Config,
        store: Arc<dyn Store>,
        verifier: Verifier,
        clock: Clock,
        delivery: Option<DeliveryLink>,
    ) -> Self {
        let lifecycle = Lifecycle::new(&CancellationToken::new());
        let stopping = || lifecycle.stopping().clone();
        let (notices, courier) = match delivery {
            None => (Notices::none(), None),
            Some(link) => {
                let (notices, courier) = Notices::new(link, clock.clone());
                (notices, Some(courier))
            }
        };
        let directory = Arc::new(Directory::new(config, store, verifier, clock, notices));
        if let Some(courier) = courier {
            let courier = courier.run(Arc::clone(&directory), stopping());
            lifecycle.spawn("low-stock notices", courier);
        }
        let sweep = sweep::run(Arc::clone(&directory), config.store.sweep_interval, stopping());
        lifecycle.spawn("sweep", sweep);
        let purge = sweep::purge_revoked(Arc::clone(&directory), PURGE_AGAIN, stopping());
        lifecycle.spawn("purge of revoked devices", purge);
        Self { directory, lifecycle }
    }

    /// Adds the gRPC service.
    pub fn add_routes(&self, routes: &mut RoutesBuilder) {
        let server = KeyPackageDirectoryServiceServer::new(Grpc(Arc::clone(&self.directory)))
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        routes.add_service(server);
    }

    /// Can the store be used now? For readiness.
    pub async fn reachable(&self) -> bool {
        self.directory.store.reachable().await
    }

    /// Ends the background tasks and closes the store. Requests that still come are refused.
    pub async fn stop(self) {
        if !self.lifecycle.stop(GRACE).await {
            tracing::warn!("a background task of the directory did not end in time");
        }
        self.directory.store.close().await;
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Runs the directory as a process of its own, until `shutdown`.
///
/// It answers when the authentication service has been reached once, and is ready when its revocation feed is
/// caught up with, while the store can be reached.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let peers = config
        .peers
        .clone()
        .ok_or(StartError::Config("the section peers is missing"))?;
    config.check().map_err(StartError::Config)?;
    let clock = Clock::system();
    let authentication = peers.channel(&peers.authentication, "peers.authentication")?;
    let delivery = peers
        .delivery
        .as_ref()
        .map(|url| peers.channel(url, "peers.delivery"))
        .transpose()?;
    let identity = peers.identity()?;
    // Before anything is waited for: what is wrong here is wrong now.
    let store = store::open(&config.database).await?;

    // Followed until the last request has ended, so not ended by `shutdown` itself.
    let done = CancellationToken::new();
    let done_on_return = done.clone().drop_guard();
    tracing::info!("waiting for the authentication service");
    let feed = Feed::start(
        authentication,
        Arc::clone(&identity),
        peers.issuer,
        clock.clone(),
        done.clone(),
    );
    let Some(feed) = shutdown.run_until_cancelled(feed).await.flatten() else {
        store.close().await;
        return Ok(());
    };

    let delivery = delivery.map(|channel| DeliveryLink {
        channel,
        tokens: feed.tokens.clone(),
    });
    let service = Service::start(&config, store, feed.verifier.clone(), clock.clone(), delivery);
    let stopping = service.lifecycle.stopping().clone();
    service.lifecycle.spawn("certificate", async move {
        watch_certificates(&[identity.as_ref()], &clock, &stopping).await;
    });
    let readiness = Readiness::new();
    let mut routes = RoutesBuilder::default();
    service.add_routes(&mut routes);
    let tokens = TokenLayer::new(feed.verifier.clone(), &[]);
    let serving = serve(
        listener,
        routes.routes(),
        readiness.clone(),
        tokens,
        config.server,
        shutdown,
    );
    let follow = async {
        feed.verifier.current().await;
        // A replica that cannot judge tokens refuses every call.
        let reachable = || async { feed.verifier.is_current() && service.reachable().await };
        readiness.follow(GRPC_SERVICES, reachable).await
    };
    let served = tokio::select! {
        served = serving => served,
        never = follow => match never {},
    };
    service.stop().await;
    drop(done_on_return);
    if feed.task.await.is_err() {
        tracing::error!("the task that follows the authentication service panicked");
    }
    served.map_err(StartError::from)
}
