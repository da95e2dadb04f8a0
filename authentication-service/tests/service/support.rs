//! A running service, and people who use it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, SigningKey};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use uuid::Uuid;
use valise_access_token::{ASSERTION_AUDIENCE, TokenLayer, assertion};
use valise_authentication_service::{Config, Kind, OPEN_PATHS, Service};
use valise_clock::{Clock, ManualClock};
use valise_device_certificate::{KeyKind, certification_request};
use valise_proto::authentication::v1::administration_service_client::AdministrationServiceClient;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_proto::authentication::v1::{EnrolRequest, EnrolResponse, IssueTokenRequest};
use valise_proto::{Reason, Refusal, UserId};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

/// A service on a port of its own, with a clock to move.
pub(crate) struct Scene {
    pub(crate) service: Service,
    pub(crate) clock: Clock,
    pub(crate) hand: ManualClock,
    pub(crate) channel: Channel,
    address: String,
    pub(crate) directory: TempDir,
    server: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

pub(crate) fn config(directory: &Path) -> Config {
    Config::new(
        directory.join("authentication.db"),
        "valise.example",
        vec!["interieur.example".into()],
    )
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        change(&mut config);
        let (clock, hand) = Clock::movable();
        Self::open(config, "127.0.0.1:0", clock, hand, directory).await
    }

    async fn open(config: Config, at: &str, clock: Clock, hand: ManualClock, directory: TempDir) -> Self {
        let service = Service::open(config, clock.clone()).await.unwrap();
        let mut routes = RoutesBuilder::default();
        service.add_routes(&mut routes);
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = CancellationToken::new();
        let layer = TokenLayer::new(service.verifier(), OPEN_PATHS);
        let router = Server::builder().layer(layer).add_routes(routes.routes());
        let stopped = server.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            router
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped)
                .await
                .unwrap();
        });
        let channel = Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            service,
            clock,
            hand,
            channel,
            address,
            directory,
            server,
            serving,
        }
    }

    /// Stops the service and starts it again on the same files and the same port.
    pub(crate) async fn restarted(self) -> Self {
        let Self {
            service,
            clock,
            hand,
            channel,
            address,
            directory,
            server,
            serving,
        } = self;
        service.close_streams();
        drop(channel);
        server.cancel();
        serving.await.unwrap();
        service.stop().await;
        let config = config(directory.path());
        Self::open(config, &address, clock, hand, directory).await
    }

    pub(crate) fn client(&self) -> AuthenticationServiceClient<Channel> {
        AuthenticationServiceClient::new(self.channel.clone())
    }

    pub(crate) fn administration(&self) -> AdministrationServiceClient<Channel> {
        AdministrationServiceClient::new(self.channel.clone())
    }

    /// A token of that service.
    pub(crate) async fn service_token(&self, name: &str) -> String {
        let identity = self
            .service
            .issue_service_identity(name, KeyKind::Ed25519)
            .await
            .unwrap();
        let assertion = assertion(
            identity.name(),
            ASSERTION_AUDIENCE,
            self.clock.now(),
            &jti(),
            identity.kind(),
            |message| identity.sign(message).unwrap(),
        );
        self.exchange(&assertion).await.unwrap()
    }

    pub(crate) async fn code(&self, name: &str, kind: Kind) -> String {
        let made = self
            .service
            .create_enrolment_code(&user(name), kind, HOUR)
            .await
            .unwrap();
        made.code.as_str().to_owned()
    }

    pub(crate) async fn try_enrol(&self, code: &str, key: &Key) -> Result<EnrolResponse, Status> {
        let request = EnrolRequest {
            proof: Some(Proof::EnrolmentCode(code.into())),
            certification_request: key.request(),
            device_name: "my phone".into(),
        };
        self.client().enrol(request).await.map(Response::into_inner)
    }

    /// An enrolled device with a token.
    pub(crate) async fn device(&self, name: &str, kind: Kind) -> Device {
        let (code, key) = (self.code(name, kind).await, Key::generate());
        let id = self.try_enrol(&code, &key).await.unwrap().device_id;
        let token = self.token(&id, &key).await.unwrap();
        Device { id, key, token }
    }

    pub(crate) fn assertion(&self, subject: &str, key: &Key) -> String {
        key.assertion(subject, self.clock.now())
    }

    pub(crate) async fn exchange(&self, assertion: &str) -> Result<String, Status> {
        let request = IssueTokenRequest {
            assertion: assertion.into(),
        };
        Ok(self
            .client()
            .issue_token(request)
            .await?
            .into_inner()
            .access_token)
    }

    pub(crate) async fn token(&self, subject: &str, key: &Key) -> Result<String, Status> {
        self.exchange(&self.assertion(subject, key)).await
    }
}

pub(crate) fn jti() -> String {
    Uuid::new_v4().to_string()
}

/// A device's own key.
pub(crate) struct Key(pub(crate) KeyPair);

impl Key {
    pub(crate) fn generate() -> Self {
        Self::generate_of(KeyKind::Ed25519)
    }

    pub(crate) fn generate_of(kind: KeyKind) -> Self {
        Self(KeyPair::generate_for(kind.algorithm()).unwrap())
    }

    fn kind(&self) -> KeyKind {
        KeyKind::of(self.0.public_key_raw()).unwrap()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).unwrap()
    }

    pub(crate) fn assertion(&self, subject: &str, at: SystemTime) -> String {
        assertion(subject, ASSERTION_AUDIENCE, at, &jti(), self.kind(), |message| {
            self.sign(message)
        })
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        certification_request(self.0.public_key_raw(), |message| Some(self.sign(message))).unwrap()
    }
}

pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) key: Key,
    pub(crate) token: String,
}

/// With a token.
pub(crate) fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Why it was refused.
pub(crate) fn refusal<T>(outcome: Result<T, Status>) -> Refusal {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(status) => Refusal::from_status(&status).unwrap_or_else(|| panic!("not one of ours: {status:?}")),
    }
}

pub(crate) fn reason<T>(outcome: Result<T, Status>) -> Reason {
    refusal(outcome).reason
}

pub(crate) fn rule<T>(outcome: Result<T, Status>) -> (Reason, String) {
    let refusal = refusal(outcome);
    (
        refusal.reason,
        refusal.metadata.get("rule").cloned().unwrap_or_default(),
    )
}
