//! The three services in this process, behind one socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use valise_authentication_service as authentication;
use valise_clock::Clock;
use valise_delivery_service as delivery;
use valise_key_package_directory as directory;
use valise_proto::{Refusal, UserId};
use valise_service_runtime::{ServeError, ServerConfig, bind};

use super::data::{DataDirectory, DataError};
use super::services::Services;

/// How long requests may go on after the end has begun.
const GRACE: Duration = Duration::from_secs(5);
/// How long the code of the first user is valid.
pub(super) const CODE_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// How the services are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port to listen on; port 0 is any free one.
    pub listen: SocketAddr,
    /// Where everything is kept; made if it is not there. One process at a time.
    pub data: PathBuf,
    /// The domain of all users, and the name of the deployment. It stays with the data.
    pub domain: String,
    /// Who becomes the first administrator.
    pub administrator: UserId,
    /// For whom an enrolment code is made at the start.
    pub user: UserId,
    /// MLS cipher suites that new groups may have, best first; `None` for all that the services know.
    pub cipher_suites: Option<Vec<u16>>,
    /// Limits of what clients may do at the delivery service.
    pub delivery_limits: delivery::Limits,
    /// What time it is.
    pub clock: Clock,
}

impl Options {
    /// In this directory, on a free port of the loopback interface, for `alice` and `admin` of `valise.example`.
    pub fn new(data: impl Into<PathBuf>) -> Result<Self, UpError> {
        let user = |name: &str| name.parse().map_err(|_| UpError::User);
        Ok(Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: data.into(),
            domain: "valise.example".to_owned(),
            administrator: user("admin@valise.example")?,
            user: user("alice@valise.example")?,
            cipher_suites: None,
            delivery_limits: delivery::Limits::default(),
            clock: Clock::system(),
        })
    }
}

/// Why the services cannot start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The address cannot be listened on, or not be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The authentication service does not start.
    #[error(transparent)]
    Authentication(#[from] authentication::StartError),
    /// The key-package directory does not start.
    #[error(transparent)]
    Directory(#[from] directory::StartError),
    /// The delivery service does not start.
    #[error(transparent)]
    Delivery(#[from] delivery::StartError),
    /// An enrolment code cannot be made.
    #[error("cannot make an enrolment code: {0}")]
    Code(Refusal),
    /// A user is not one, or not of the domain.
    #[error("the users must be of the form name@domain, and of the deployment's domain")]
    User,
    /// They ran, and ended without being told to.
    #[error("the services have ended by themselves")]
    Ended,
}

/// The running services. They end with [`Embedded::stop`]; if it is dropped, they are told to end.
pub struct Embedded {
    address: SocketAddr,
    administrator_code: Option<authentication::EnrolmentCode>,
    user_code: Option<authentication::EnrolmentCode>,
    services: Services,
    /// `None` once it has ended and that was told.
    serving: Option<JoinHandle<Result<(), ServeError>>>,
    shutdown: DropGuard,
    data: DataDirectory,
}

impl Embedded {
    /// Starts the services. When it returns, they answer.
    pub async fn start(options: Options) -> Result<Self, UpError> {
        let of_domain = |user: &UserId| user.domain() == options.domain;
        if !(of_domain(&options.user) && of_domain(&options.administrator)) {
            return Err(UpError::User);
        }
        let data = DataDirectory::lock(&options.data)?;
        data.belongs_to(&options.domain)?;
        let server = ServerConfig {
            listen: options.listen,
            graceful_shutdown: GRACE,
            ..ServerConfig::default()
        };
        let listener = bind(&server).await?;
        let address = listener.local_addr().map_err(|source| ServeError::Listen {
            address: options.listen,
            source,
        })?;
        let services = Services::open(&options, &data, address).await?;
        let (administrator_code, user_code) = match services.codes(&options).await {
            Ok(codes) => codes,
            Err(refusal) => {
                services.stop().await;
                return Err(UpError::Code(refusal));
            }
        };
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(services.serve(listener, server, shutdown.clone()).await);
        let shutdown = shutdown.drop_guard();
        Ok(Self {
            address,
            administrator_code,
            user_code,
            services,
            serving: Some(serving),
            shutdown,
            data,
        })
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients on this machine reach them: `http://host:port`.
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// With it the first administrator enrols. `None` once one has.
    pub fn administrator_enrolment_code(&self) -> Option<&str> {
        self.administrator_code
            .as_ref()
            .map(authentication::EnrolmentCode::as_str)
    }

    /// With it a device of [`Options::user`] enrols. `None` where that user is suspended.
    pub fn user_enrolment_code(&self) -> Option<&str> {
        self.user_code.as_ref().map(authentication::EnrolmentCode::as_str)
    }

    /// One more code, with which a device of that user enrols within a day.
    pub async fn enrolment_code(&self, user: &UserId) -> Result<String, UpError> {
        let kind = authentication::Kind::Device;
        let made = self
            .services
            .authentication
            .create_enrolment_code(user, kind, CODE_VALIDITY)
            .await;
        made.map(|new| new.code.as_str().to_owned())
            .map_err(UpError::Code)
    }

    /// Number of devices that are connected now.
    pub fn open_streams(&self) -> usize {
        self.services.delivery.open_streams()
    }

    /// Waits until the services end, which they do by themselves only if something is badly wrong, and says why.
    pub async fn ended(&mut self) -> UpError {
        let Some(serving) = &mut self.serving else {
            return UpError::Ended;
        };
        let ended = serving.await;
        self.serving = None;
        match ended {
            Ok(Err(error)) => UpError::Serve(error),
            Ok(Ok(())) | Err(_) => UpError::Ended,
        }
    }

    /// Ends the services in order: streams, requests, background tasks, stores.
    pub async fn stop(self) {
        drop(self.shutdown);
        if let Some(serving) = self.serving {
            match serving.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the server ended"),
                Err(_) => tracing::error!("the server panicked"),
            }
        }
        self.services.stop().await;
        drop(self.data);
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// An unspecified address is reached through the loopback interface.
pub(super) fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_one_that_can_be_called() {
        assert_eq!(url(([127, 0, 0, 1], 7400).into()), "http://127.0.0.1:7400");
        assert_eq!(url(([0, 0, 0, 0], 7400).into()), "http://127.0.0.1:7400");
        assert_eq!(url((Ipv6Addr::UNSPECIFIED, 1).into()), "http://[::1]:1");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn services_start_again_where_they_stopped() {
        let parent = tempfile::tempdir().unwrap();
        let options = Options::new(parent.path()).unwrap();
        let first = Embedded::start(options.clone()).await.unwrap();
        assert_ne!(first.address().port(), 0);
        let in_use = Embedded::start(options.clone()).await.unwrap_err();
        assert!(
            matches!(in_use, UpError::Data(DataError::InUse { .. })),
            "{in_use}"
        );
        let code = first.administrator_enrolment_code().unwrap().to_owned();
        first.stop().await;

        let certificate = |name: &str| std::fs::read(parent.path().join(name)).unwrap();
        let before = certificate("delivery-service.chain.pem");
        let second = Embedded::start(options.clone()).await.unwrap();
        assert_eq!(certificate("delivery-service.chain.pem"), before);
        assert_ne!(
            second.administrator_enrolment_code().unwrap(),
            code,
            "nobody has enrolled with the first"
        );
        assert!(second.enrolment_code(&options.user).await.is_ok());
        second.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn services_that_end_by_themselves_are_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let options = Options::new(parent.path()).unwrap();
        let mut embedded = Embedded::start(options.clone()).await.unwrap();
        embedded.serving.as_ref().unwrap().abort();
        assert!(matches!(embedded.ended().await, UpError::Ended));
        embedded.stop().await;
        Embedded::start(options).await.unwrap().stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn services_start_again_when_their_certificates_have_ended() {
        let parent = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::movable();
        let options = Options {
            clock,
            ..Options::new(parent.path()).unwrap()
        };
        let of = |service: &str| {
            let read =
                |what: &str| std::fs::read(parent.path().join(format!("{service}.{what}.pem"))).unwrap();
            (read("key"), read("chain"))
        };
        Embedded::start(options.clone()).await.unwrap().stop().await;
        let before = (of("delivery-service"), of("key-package-directory"));
        hand.advance(Duration::from_hours(24 * 200));
        Embedded::start(options.clone()).await.unwrap().stop().await;
        assert_eq!((of("delivery-service"), of("key-package-directory")), before);
        hand.advance(Duration::from_hours(24 * 200));
        Embedded::start(options).await.unwrap().stop().await;
        let (delivery, directory) = (of("delivery-service"), of("key-package-directory"));
        assert_eq!(delivery.0, before.0.0, "groups know it by its key");
        assert_ne!(delivery.1, before.0.1);
        assert_ne!(directory.1, before.1.1);
    }

    #[tokio::test]
    async fn users_of_another_domain_are_refused_at_once() {
        let parent = tempfile::tempdir().unwrap();
        let options = Options {
            domain: "other.example".into(),
            ..Options::new(parent.path()).unwrap()
        };
        assert!(matches!(Embedded::start(options).await, Err(UpError::User)));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
