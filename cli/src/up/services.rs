//! The three services as they are opened, served and stopped in one process.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use valise_access_token::{ServiceTokens, TokenLayer};
use valise_authentication_service as authentication;
use valise_delivery_service as delivery;
use valise_device_certificate::KeyKind;
use valise_key_package_directory as directory;
use valise_proto::{Reason, Refusal};
use valise_service_runtime::{Readiness, ServeError, ServerConfig, serve};

use super::data::{DataDirectory, KeyLasts, Wanted};
use super::embedded::{CODE_VALIDITY, Options, UpError, url};

const DELIVERY: &str = "delivery-service";
/// The files of the key with which the delivery service calls others. Groups know it by another one, which stays the same.
const DELIVERY_CALLER: &str = "delivery-service.caller";
const DIRECTORY: &str = "key-package-directory";

/// The opened services.
pub(super) struct Services {
    pub(super) authentication: Arc<authentication::Service>,
    directory: Arc<directory::Service>,
    pub(super) delivery: Arc<delivery::Service>,
}

pub(super) type Codes = (
    Option<authentication::EnrolmentCode>,
    Option<authentication::EnrolmentCode>,
);

impl Services {
    pub(super) async fn open(
        options: &Options,
        data: &DataDirectory,
        address: SocketAddr,
    ) -> Result<Self, UpError> {
        let config = authentication::Config::new(
            data.file("authentication.db"),
            &options.domain,
            vec![options.domain.clone()],
        );
        let authentication = authentication::Service::open(config, options.clock.clone()).await?;
        match Self::open_others(options, data, address, &authentication).await {
            Ok((directory, delivery)) => Ok(Self {
                authentication: Arc::new(authentication),
                directory: Arc::new(directory),
                delivery: Arc::new(delivery),
            }),
            Err(error) => {
                authentication.stop().await;
                Err(error)
            }
        }
    }

    async fn open_others(
        options: &Options,
        data: &DataDirectory,
        address: SocketAddr,
        authentication: &authentication::Service,
    ) -> Result<(directory::Service, delivery::Service), UpError> {
        let clock = &options.clock;
        for kind in [KeyKind::Ed25519, KeyKind::P256] {
            let in_groups = Wanted {
                service: DELIVERY,
                files: DELIVERY,
                kind,
                key_lasts: KeyLasts::ForEver,
            };
            data.identity(in_groups, authentication, clock).await?;
        }
        let caller = |service, files| Wanted {
            service,
            files,
            kind: KeyKind::Ed25519,
            key_lasts: KeyLasts::AsItsCertificate,
        };
        let delivery_identity = data
            .identity(caller(DELIVERY, DELIVERY_CALLER), authentication, clock)
            .await?;
        let identity = data
            .identity(caller(DIRECTORY, DIRECTORY), authentication, clock)
            .await?;
        // The directory tells devices of low stock through their inboxes, and what administrators do with groups is written to the audit log:
        // calls like those of other processes.
        let channel = tonic::transport::Endpoint::from_shared(url(address))
            .map_err(|_| delivery::StartError::AuthenticationUrl)?
            .connect_lazy();
        let audit = delivery::AuditLink {
            tokens: ServiceTokens::new(channel.clone(), Arc::new(delivery_identity), clock.clone()),
            channel: channel.clone(),
        };
        let link = directory::DeliveryLink {
            tokens: ServiceTokens::new(channel.clone(), Arc::new(identity), clock.clone()),
            channel,
        };
        let config = directory::Config {
            database: data.file("directory.db").into(),
            ..directory::Config::default()
        };
        let verifier = authentication.verifier();
        let directory = directory::Service::open(config, verifier.clone(), clock.clone(), Some(link)).await?;
        let config = delivery::Config {
            p256_key_file: Some(data.key_file(DELIVERY, KeyKind::P256)),
            p256_chain_file: Some(data.chain_file(DELIVERY, KeyKind::P256)),
            cipher_suites: options.cipher_suites.clone(),
            limits: options.delivery_limits,
            ..delivery::Config::new(
                data.file("delivery.db"),
                data.key_file(DELIVERY, KeyKind::Ed25519),
                data.chain_file(DELIVERY, KeyKind::Ed25519),
            )
        };
        match delivery::Service::open(config, verifier, audit, clock.clone()).await {
            Ok(delivery) => Ok((directory, delivery)),
            Err(error) => {
                directory.stop().await;
                Err(error.into())
            }
        }
    }

    /// The administrator's and the user's.
    pub(super) async fn codes(&self, options: &Options) -> Result<Codes, Refusal> {
        let administrator = self.authentication.bootstrap(&options.administrator).await?;
        let kind = authentication::Kind::Device;
        let user = match self
            .authentication
            .create_enrolment_code(&options.user, kind, CODE_VALIDITY)
            .await
        {
            Ok(new) => Some(new.code),
            // A suspended user must not keep the services down.
            Err(refusal) if refusal.reason == Reason::UserSuspended => None,
            Err(refusal) => return Err(refusal),
        };
        Ok((administrator.map(|new| new.code), user))
    }

    fn routes(&self) -> Routes {
        let mut routes = RoutesBuilder::default();
        self.authentication.add_routes(&mut routes);
        self.directory.add_routes(&mut routes);
        self.delivery.add_routes(&mut routes);
        routes.routes()
    }

    /// What serves until `shutdown`. Each service is ready for as long as its own store can be reached.
    pub(super) async fn serve(
        &self,
        listener: TcpListener,
        config: ServerConfig,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), ServeError>> + Send + use<> {
        let readiness = Readiness::new();
        // Their stores have just been opened.
        for name in [
            authentication::GRPC_SERVICES,
            directory::GRPC_SERVICES,
            delivery::GRPC_SERVICES,
        ]
        .concat()
        {
            readiness.ready(name).await;
        }
        let layer = TokenLayer::new(self.authentication.verifier(), authentication::OPEN_PATHS);
        let routes = self.routes();
        let authentication = Arc::clone(&self.authentication);
        let (directory, delivery) = (Arc::clone(&self.directory), Arc::clone(&self.delivery));
        async move {
            let served = serve(
                listener,
                routes,
                readiness.clone(),
                layer,
                config,
                shutdown.clone(),
            );
            let followed = async {
                let (never, ..) = tokio::join!(
                    readiness.follow(authentication::GRPC_SERVICES, || authentication.reachable()),
                    readiness.follow(directory::GRPC_SERVICES, || directory.reachable()),
                    readiness.follow(delivery::GRPC_SERVICES, || delivery.reachable()),
                );
                never
            };
            // The streams are told, or the server would wait for them.
            let told = async {
                shutdown.cancelled().await;
                delivery.begin_stop();
                authentication.close_streams();
            };
            let (served, ()) = tokio::join!(
                async {
                    let served = tokio::select! {
                        served = served => served,
                        never = followed => match never {},
                    };
                    shutdown.cancel();
                    served
                },
                told
            );
            served
        }
    }

    pub(super) async fn stop(self) {
        let Self {
            authentication,
            directory,
            delivery,
        } = self;
        if let Some(directory) = Arc::into_inner(directory) {
            directory.stop().await;
        }
        if let Some(delivery) = Arc::into_inner(delivery) {
            delivery.stop().await;
        }
        if let Some(authentication) = Arc::into_inner(authentication) {
            authentication.stop().await;
        }
    }
}
