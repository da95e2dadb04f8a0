//! The authentication service: who is this device?
//!
//! A device makes its own key and sends a certification request with a one-time [enrolment code](EnrolmentCode)
//! (`enrol.rs`). It gets a certificate (`certificate.rs`) that binds the key to its user; every member of a group can check
//! it against the trust bundle. With the key it signs assertions, and exchanges them for short-lived access tokens
//! (`issue_token.rs`) that all services verify by themselves. A revocation (`devices.rs`, `admin.rs`) takes effect at once,
//! because all services follow one feed of them (`revocations.rs`). Every administrative act is in the audit log
//! (`audit.rs`), those at other services too (`record_act.rs`).
//!
//! `grpc.rs` converts, calls, maps. Each use case is a file. What they know is in a `store`.

mod admin;
mod app;
mod audit;
mod bootstrap;
mod certificate;
mod code;
mod command;
mod config;
mod devices;
mod enrol;
mod error;
mod grpc;
mod issue_token;
mod record_act;
mod renew;
mod revocations;
mod service_certificate;
mod store;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use valise_access_token::{TokenLayer, Verifier};
use valise_clock::Clock;
use valise_proto::authentication::v1::administration_service_server::AdministrationServiceServer;
use valise_proto::authentication::v1::authentication_internal_service_server::AuthenticationInternalServiceServer;
use valise_proto::authentication::v1::authentication_service_server::AuthenticationServiceServer;
use valise_service_runtime::{Readiness, serve};

pub use code::EnrolmentCode;
pub use command::{Arguments, Command, migrate};
pub use config::{Config, Lifetimes};
pub use enrol::{Kind, NewEnrolmentCode};
pub use error::StartError;
pub use service_certificate::SERVICE_NAMES;

use app::App;
use grpc::{Administration, Authentication, Internal};

/// The calls that need no access token: for [`TokenLayer::new`].
pub const OPEN_PATHS: &[&str] = &[
    "/valise.authentication.v1.AuthenticationService/Enrol",
    "/valise.authentication.v1.AuthenticationService/IssueToken",
    "/valise.authentication.v1.AuthenticationService/GetTrustBundle",
    "/valise.authentication.v1.AuthenticationService/GetJwks",
];

/// The full names of its gRPC services, as the contract has them: under each of them health is reported.
pub const GRPC_SERVICES: &[&str] = &[
    valise_proto::authentication::v1::authentication_service_server::SERVICE_NAME,
    valise_proto::authentication::v1::administration_service_server::SERVICE_NAME,
    valise_proto::authentication::v1::authentication_internal_service_server::SERVICE_NAME,
];

/// The largest request: an identity token of 16 KiB, and the rest.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// How long what has begun may go on when the service stops.
const GRACE: Duration = Duration::from_secs(5);

/// An opened authentication service, with its background tasks.
pub struct Service {
    app: Arc<App>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Service {
    /// Opens the store, makes keys and root certificate where there are none, and follows the revocations.
    pub async fn open(config: Config, clock: Clock) -> Result<Self, StartError> {
        App::open(config, clock)
            .await
            .map(|app| Self { app: Arc::new(app) })
    }

    /// Adds its gRPC services. They expect the [`TokenLayer`] before them, with [`OPEN_PATHS`].
    pub fn add_routes(&self, routes: &mut RoutesBuilder) {
        let authentication = AuthenticationServiceServer::new(Authentication::new(Arc::clone(&self.app)));
        let administration = AdministrationServiceServer::new(Administration::new(Arc::clone(&self.app)));
        routes.add_service(authentication.max_decoding_message_size(MAX_REQUEST_BYTES));
        routes.add_service(administration.max_decoding_message_size(MAX_REQUEST_BYTES));
        let internal = AuthenticationInternalServiceServer::new(Internal::new(Arc::clone(&self.app)));
        routes.add_service(internal.max_decoding_message_size(MAX_REQUEST_BYTES));
    }

    /// What calls are judged with in this process: fed from the store directly.
    pub fn verifier(&self) -> Verifier {
        self.app.verifier().clone()
    }

    /// Can the store be used now? For readiness.
    pub async fn reachable(&self) -> bool {
        self.app.store.reachable().await
    }

    /// Ends the revocation streams, so that a server that is shutting down need not wait for them.
    pub fn close_streams(&self) {
        self.app.close_streams();
    }

    /// Ends the background tasks and closes the store.
    pub async fn stop(self) {
        self.app.stop(GRACE).await;
    }
}

/// Opens the service and serves it until `shutdown`.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let server = config.server.clone();
    let service = Service::open(config, Clock::system()).await?;
    let mut routes = RoutesBuilder::default();
    service.add_routes(&mut routes);
    let readiness = Readiness::new();
    for name in GRPC_SERVICES {
        readiness.ready(name).await;
    }
    let layer = TokenLayer::new(service.verifier(), OPEN_PATHS);
    let mut serving = std::pin::pin!(serve(
        listener,
        routes.routes(),
        readiness.clone(),
        layer,
        server,
        shutdown.clone()
    ));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        never = readiness.follow(GRPC_SERVICES, || service.reachable()) => match never {},
        () = shutdown.cancelled() => {
            service.close_streams();
            serving.await
        }
    };
    service.stop().await;
    Ok(served?)
}

/// So many random bytes of the operating system's seeding.
fn random<const N: usize>() -> [u8; N] {
    rand::random()
}
