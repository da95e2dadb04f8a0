//! The delivery service as a whole: what its use cases work with, and how it starts and stops.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use valise_access_token::{Feed, TokenLayer, Verifier};
use valise_clock::Clock;
use valise_device_certificate::{CertificateError, ServiceIdentity};
use valise_proto::delivery::v1::delivery_administration_service_server::DeliveryAdministrationServiceServer;
use valise_proto::delivery::v1::delivery_internal_service_server::DeliveryInternalServiceServer;
use valise_proto::delivery::v1::delivery_service_server::DeliveryServiceServer;
use valise_proto::{Epoch, GroupId};
use valise_service_runtime::{Lifecycle, Readiness, ServeError, serve, watch_certificates};

use crate::audit::AuditLink;
use crate::authentication_link;
use crate::certificate_verdicts::CertificateVerdicts;
use crate::config::{Config, Limits, SettingError};
use crate::fingerprint::Fingerprint;
use crate::group_state::GroupStates;
use crate::grpc::Grpc;
use crate::log::production;
use crate::log::sqlite::OpenError;
use crate::log::{OrderedLog, StoreError};
use crate::stores::Stores;
use crate::subscribe::fan_out::FanOut;
use crate::subscribe::pages::Pages;
use crate::subscribe::stuck::StuckEntries;
use crate::suites::Suites;

/// The full names of its gRPC services, as the contract has them: under each of them health is reported.
pub const GRPC_SERVICES: &[&str] = &[
    valise_proto::delivery::v1::delivery_service_server::SERVICE_NAME,
    valise_proto::delivery::v1::delivery_administration_service_server::SERVICE_NAME,
    valise_proto::delivery::v1::delivery_internal_service_server::SERVICE_NAME,
];
/// Trees that joiners may ask for again, in bytes.
const TREE_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// The largest request of administrators and of other services: a thousand notices.
const MAX_INTERNAL_REQUEST_BYTES: usize = 512 * 1024;

/// Why the service cannot start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process was asked for something else than it does.
    #[error("usage: valise-delivery-service [migrate | replace-identity] [CONFIGURATION]")]
    Arguments,
    /// The SQLite file cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Redis and PostgreSQL cannot be opened.
    #[error(transparent)]
    Production(#[from] production::OpenError),
    /// The schema of the PostgreSQL database cannot be brought up to date.
    #[error(transparent)]
    Migration(#[from] valise_sql_database::OpenError),
    /// The service's key or certificate cannot be used.
    #[error("{file}: not a service key and its certificate: {source}")]
    Identity {
        /// The key's file.
        file: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// The other replicas have another key, or one of another name.
    #[error(
        "settings key_file and chain_file: the replicas of this deployment have another key or name \
         (fingerprint {kept}; of these files it is {own}): give all of them the same files, or run it with \
         `replace-identity`, after which no replica with the former files may serve"
    )]
    OtherIdentity {
        /// That of the other replicas.
        kept: Fingerprint,
        /// That of the files.
        own: Fingerprint,
    },
    /// The identity of the other replicas cannot be read.
    #[error("the replicas' identity cannot be compared (setting database): {0}")]
    IdentityUnknown(StoreError),
    /// A setting does not fit.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The authentication service's address is not one.
    #[error("setting authentication_url: not an address of the form http://host:port")]
    AuthenticationUrl,
    /// The authority of the authentication service's address cannot be used.
    #[error("setting authentication_ca_certificate: {file}: {source}")]
    AuthenticationAuthority {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What the use cases work with.
pub(crate) struct Delivery {
    pub(crate) log: Arc<dyn OrderedLog>,
    pub(crate) states: GroupStates,
    pub(crate) fan_out: FanOut,
    pub(crate) pages: Pages,
    pub(crate) stuck_entries: StuckEntries,
    pub(crate) verifier: Verifier,
    pub(crate) certificates: Arc<CertificateVerdicts>,
    pub(crate) audit: AuditLink,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) retention_seconds: u64,
    /// How long devices keep what could be lost here; `None` where nothing can.
    pub(crate) entry_copies: Option<Duration>,
    pub(crate) suites: Suites,
    /// One at a time of the repairs that are planned for devices.
    pub(crate) plans_asked_for: Semaphore,
    pub(crate) trees: Cache<(GroupId, Epoch), Bytes>,
    pub(crate) lifecycle: Lifecycle,
}

/// The delivery service, opened, with its background tasks.
pub struct Service {
    delivery: Arc<Delivery>,
    stores: Stores,
}

impl Service {
    /// Opens the store and starts the background tasks. It goes on until [`Service::stop`].
    /// What administrators do is written down through `audit` first.
    pub async fn open(
        config: Config,
        verifier: Verifier,
        audit: AuditLink,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let suites = Suites::open(&config)?;
        let stores = Stores::open(&config, &suites).await?;
        Ok(Self::start(&config, suites, stores, verifier, audit, clock))
    }

    fn start(
        config: &Config,
        suites: Suites,
        stores: Stores,
        verifier: Verifier,
        audit: AuditLink,
        clock: Clock,
    ) -> Self {
        let log = Arc::clone(&stores.log);
        let weigh = |_: &(GroupId, Epoch), tree: &Bytes| u32::try_from(tree.len()).unwrap_or(u32::MAX);
        let delivery = Arc::new(Delivery {
            states: GroupStates::new(Arc::clone(&log), config.cached_members),
            log,
            fan_out: FanOut::default(),
            pages: Pages::default(),
            stuck_entries: StuckEntries::default(),
            verifier,
            certificates: Arc::new(CertificateVerdicts::new()),
            audit,
            clock,
            limits: config.limits,
            retention_seconds: config.retention_seconds,
            entry_copies: config.entry_copies(),
            suites,
            plans_asked_for: Semaphore::new(1),
            trees: Cache::builder()
                .max_capacity(TREE_CACHE_BYTES)
                .weigher(weigh)
                .build(),
            lifecycle: Lifecycle::new(&CancellationToken::new()),
        });
        let worker = Arc::clone(&delivery);
        let news = delivery.log.news();
        delivery.lifecycle.spawn("fan-out", async move {
            worker
                .fan_out
                .run(news, worker.lifecycle.stopping().clone())
                .await;
        });
        delivery
            .lifecycle
            .spawn("revocations", Arc::clone(&delivery).follow_revocations());
        let watched = Arc::clone(&delivery);
        delivery.lifecycle.spawn("certificates", async move {
            let identities: Vec<_> = watched.suites.identities().collect();
            watch_certificates(&identities, &watched.clock, watched.lifecycle.stopping()).await;
        });
        stores.start(&delivery);
        Self { delivery, stores }
    }

    /// Can the store be used now? For readiness.
    pub async fn reachable(&self) -> bool {
        self.stores.reachable().await
    }

    /// Adds the service's gRPC services.
    pub fn add_routes(&self, routes: &mut RoutesBuilder) {
        let grpc = Grpc::new(Arc::clone(&self.delivery));
        let largest = self.delivery.limits.request_bytes();
        let devices = DeliveryServiceServer::new(grpc.clone());
        routes.add_service(devices.max_decoding_message_size(largest));
        let administration = DeliveryAdministrationServiceServer::new(grpc.clone());
        routes.add_service(administration.max_decoding_message_size(MAX_INTERNAL_REQUEST_BYTES));
        let internal = DeliveryInternalServiceServer::new(grpc);
        routes.add_service(internal.max_decoding_message_size(MAX_INTERNAL_REQUEST_BYTES));
    }

    /// Number of devices with an open stream.
    pub fn open_streams(&self) -> usize {
        self.delivery.fan_out.streams()
    }

    /// Tells streams and background tasks to end, before connections are closed.
    pub fn begin_stop(&self) {
        self.delivery.lifecycle.stopping().cancel();
    }

    /// Ends the background tasks and joins them.
    pub async fn stop(self) {
        if !self.delivery.lifecycle.stop(GRACE).await {
            tracing::warn!("streams did not end in time");
        }
        self.stores.close().await;
    }
}

/// The delivery service in a process of its own, until `shutdown`.
pub async fn run(
    config: Config,
    listener: tokio::net::TcpListener,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let clock = Clock::system();
    let server = config.server.clone();
    let channel = authentication_link::channel(&config)?;
    let issuer = config.token_issuer.clone();
    let feed_identity = identity(&config)?;
    let suites = Suites::open(&config)?;
    // Whatever is wrong with the stores is said at once, whether or not the authentication service is there.
    let stores = Stores::open(&config, &suites).await?;
    let Some(feed) = Feed::start(
        channel.clone(),
        Arc::new(feed_identity),
        issuer,
        clock.clone(),
        shutdown.clone(),
    )
    .await
    else {
        stores.close().await;
        return Ok(());
    };
    let tokens = feed.tokens.clone();
    let audit = AuditLink { channel, tokens };
    let verifier = feed.verifier.clone();
    let service = Service::start(&config, suites, stores, verifier, audit, clock);
    let mut routes = RoutesBuilder::default();
    service.add_routes(&mut routes);
    let readiness = Readiness::new();
    let (ready, verifier) = (readiness.clone(), feed.verifier.clone());
    let becoming_ready = async {
        verifier.current().await;
        // A replica that cannot judge tokens refuses every call.
        let reachable = || async { verifier.is_current() && service.reachable().await };
        ready.follow(GRPC_SERVICES, reachable).await
    };
    let delivery = Arc::clone(&service.delivery);
    let told = shutdown.clone();
    let stopping = async move {
        told.cancelled().await;
        delivery.lifecycle.stopping().cancel();
        std::future::pending::<()>().await;
    };
    let layer = TokenLayer::new(feed.verifier, &[]);
    let served = tokio::select! {
        served = serve(listener, routes.routes(), readiness, layer, server, shutdown) => served,
        never = becoming_ready => match never {},
        () = stopping => Ok(()),
    };
    service.stop().await;
    if feed.task.await.is_err() {
        tracing::error!("the revocation feed ended by a panic");
    }
    Ok(served?)
}

fn identity(config: &Config) -> Result<ServiceIdentity, StartError> {
    ServiceIdentity::load(&config.key_file, &config.chain_file).map_err(|source| StartError::Identity {
        file: config.key_file.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    #[test]
    fn health_knows_all_services_of_the_contract() {
        let set = prost_types::FileDescriptorSet::decode(valise_proto::FILE_DESCRIPTOR_SET).unwrap();
        let own = set
            .file
            .iter()
            .filter(|file| file.package() == "valise.delivery.v1");
        let contract: BTreeSet<_> = own
            .flat_map(|file| &file.service)
            .map(|service| format!("valise.delivery.v1.{}", service.name()))
            .collect();
        let told: BTreeSet<_> = GRPC_SERVICES.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(told, contract);
    }
}
