//! The delivery service as a whole: what its use cases work with, and how it starts and stops.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use openmls::prelude::ExternalSender;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use valise_access_token::{Feed, TokenLayer, Verifier};
use valise_clock::Clock;
use valise_device_certificate::{CertificateError, ServiceIdentity};
use valise_group_rules::credential;
use valise_proto::delivery::v1::delivery_internal_service_server::DeliveryInternalServiceServer;
use valise_proto::delivery::v1::delivery_service_server::DeliveryServiceServer;
use valise_proto::{Epoch, GroupId};
use valise_service_runtime::{Lifecycle, Readiness, ServeError, serve};

use crate::config::{Config, Limits};
use crate::group_state::GroupStates;
use crate::grpc::Grpc;
use crate::log::OrderedLog;
use crate::log::sqlite::{OpenError, SqliteLog};
use crate::subscribe::fan_out::FanOut;

/// The service's full gRPC name, as health checks ask for it.
pub const SERVICE_NAME: &str = "valise.delivery.v1.DeliveryService";
/// Trees that joiners may ask for again, in bytes.
const TREE_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// Beyond the largest fields: a commit, its GroupInfo and its Welcome travel together.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// Why the service cannot start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The service's key or certificate cannot be used.
    #[error("{file}: not a service key and its certificate: {source}")]
    Identity {
        /// The key's file.
        file: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// A setting is out of its range.
    #[error("setting {setting}: {rule}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The authentication service's address is not one.
    #[error("setting authentication_url: not an address of the form http://host:port")]
    AuthenticationUrl,
    /// It cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What the use cases work with.
pub(crate) struct Delivery {
    pub(crate) log: Arc<dyn OrderedLog>,
    pub(crate) states: GroupStates,
    pub(crate) fan_out: FanOut,
    pub(crate) verifier: Verifier,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) retention_seconds: u64,
    pub(crate) identity: ServiceIdentity,
    pub(crate) external_sender: ExternalSender,
    pub(crate) trees: Cache<(GroupId, Epoch), Bytes>,
    pub(crate) lifecycle: Lifecycle,
}

/// The delivery service, opened, with its background tasks.
pub struct Service {
    delivery: Arc<Delivery>,
}

impl Service {
    /// Opens the store and starts the background tasks. It goes on until [`Service::stop`].
    pub async fn open(config: Config, verifier: Verifier, clock: Clock) -> Result<Self, StartError> {
        if !(3600..=365 * 24 * 3600).contains(&config.retention_seconds) {
            let rule = "must be 3600 to 31536000 (1 hour to 365 days)";
            return Err(StartError::Setting {
                setting: "retention_seconds",
                rule,
            });
        }
        let identity = ServiceIdentity::load(&config.key_file, &config.chain_file).map_err(|source| {
            StartError::Identity {
                file: config.key_file.clone(),
                source,
            }
        })?;
        let path = config.database.clone();
        let log: Arc<dyn OrderedLog> = match tokio::task::spawn_blocking(move || SqliteLog::open(&path)).await
        {
            Ok(log) => Arc::new(log?),
            Err(_) => {
                let reason = "opening it failed".to_owned();
                return Err(OpenError::Damaged {
                    path: config.database,
                    reason,
                }
                .into());
            }
        };
        let external_sender = ExternalSender::new(
            identity.public_key().to_vec().into(),
            credential(identity.chain()),
        );
        let weigh = |_: &(GroupId, Epoch), tree: &Bytes| u32::try_from(tree.len()).unwrap_or(u32::MAX);
        let delivery = Arc::new(Delivery {
            states: GroupStates::new(Arc::clone(&log), config.cached_groups),
            log,
            fan_out: FanOut::default(),
            verifier,
            clock,
            limits: config.limits,
            retention_seconds: config.retention_seconds,
            identity,
            external_sender,
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
        Ok(Self { delivery })
    }

    /// Adds the service's gRPC services.
    pub fn add_routes(&self, routes: &mut RoutesBuilder) {
        let grpc = Grpc::new(Arc::clone(&self.delivery));
        routes.add_service(
            DeliveryServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        );
        routes.add_service(DeliveryInternalServiceServer::new(grpc));
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
    let identity = ServiceIdentity::load(&config.key_file, &config.chain_file).map_err(|source| {
        StartError::Identity {
            file: config.key_file.clone(),
            source,
        }
    })?;
    let channel = tonic::transport::Endpoint::from_shared(config.authentication_url.clone())
        .map_err(|_| StartError::AuthenticationUrl)?
        .connect_lazy();
    let issuer = config.token_issuer.clone();
    let Some(feed) = Feed::start(
        channel,
        Arc::new(identity),
        issuer,
        clock.clone(),
        shutdown.clone(),
    )
    .await
    else {
        return Ok(());
    };
    let service = Service::open(config, feed.verifier.clone(), clock).await?;
    let mut routes = RoutesBuilder::default();
    service.add_routes(&mut routes);
    let readiness = Readiness::new();
    let (ready, verifier) = (readiness.clone(), feed.verifier.clone());
    let becoming_ready = async move {
        verifier.current().await;
        ready.ready(SERVICE_NAME).await;
        std::future::pending::<()>().await;
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
        () = becoming_ready => Ok(()),
        () = stopping => Ok(()),
    };
    service.stop().await;
    if feed.task.await.is_err() {
        tracing::error!("the revocation feed ended by a panic");
    }
    Ok(served?)
}
