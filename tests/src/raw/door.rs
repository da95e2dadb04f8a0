//! The way to the services, with a token or without.

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use valise_proto::Refusal;
use valise_proto::authentication::v1::administration_service_client::AdministrationServiceClient;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::delivery::v1::delivery_internal_service_client::DeliveryInternalServiceClient;
use valise_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;

const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A channel whose calls carry a token, or none.
pub type Calls = InterceptedService<Channel, Bearer>;

/// What stands after `authorization:`.
#[derive(Clone, Debug, Default)]
pub struct Bearer(pub Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(request)
    }
}

/// The clients of all services.
#[derive(Clone)]
pub struct Door {
    authentication: Channel,
    directory: Channel,
    delivery: Channel,
    bearer: Bearer,
}

impl Door {
    /// Calls without a token, over one connection.
    pub fn open(channel: Channel) -> Self {
        Self::each(channel.clone(), channel.clone(), channel)
    }

    /// Calls without a token, over a connection to each service: the authentication service, the key-package directory, the
    /// delivery service.
    pub fn each(authentication: Channel, directory: Channel, delivery: Channel) -> Self {
        Self {
            authentication,
            directory,
            delivery,
            bearer: Bearer(None),
        }
    }

    /// Calls with that token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            bearer: Bearer(Some(token.to_owned())),
            ..self.clone()
        }
    }

    fn calls(&self, channel: &Channel) -> Calls {
        InterceptedService::new(channel.clone(), self.bearer.clone())
    }

    /// The authentication service.
    pub fn authentication(&self) -> AuthenticationServiceClient<Calls> {
        AuthenticationServiceClient::new(self.calls(&self.authentication))
    }

    /// The authentication service's administration.
    pub fn administration(&self) -> AdministrationServiceClient<Calls> {
        AdministrationServiceClient::new(self.calls(&self.authentication))
    }

    /// The key-package directory.
    pub fn directory(&self) -> KeyPackageDirectoryServiceClient<Calls> {
        KeyPackageDirectoryServiceClient::new(self.calls(&self.directory))
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// The delivery service.
    pub fn delivery(&self) -> DeliveryServiceClient<Calls> {
        DeliveryServiceClient::new(self.calls(&self.delivery)).max_decoding_message_size(MAX_ANSWER)
    }

    /// The delivery service's door for other services.
    pub fn internal(&self) -> DeliveryInternalServiceClient<Calls> {
        DeliveryInternalServiceClient::new(self.calls(&self.delivery))
    }
}

/// The reason that a service gave. A status without one is a fault.
pub fn refusal(status: &Status) -> Refusal {
    Refusal::from_status(status).unwrap_or_else(|| panic!("a status without a reason: {status:?}"))
}
