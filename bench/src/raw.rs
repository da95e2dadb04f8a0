//! Devices without the SDK: what they do is as cheap as it can be, so that the server is measured.

use std::future::Future;

use bytes::Bytes;
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;
use openmls_traits::types::SignatureScheme;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use valise_access_token::{ASSERTION_AUDIENCE, assertion};
use valise_clock::Clock;
use valise_device_certificate::{KeyKind, certification_request};
use valise_proto::authentication::v1::administration_service_client::AdministrationServiceClient;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::{
    CreateEnrolmentCodeRequest, EnrolRequest, IssueTokenRequest, enrol_request::Proof,
};
use valise_proto::delivery::v1::SendMessageRequest;
use valise_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use valise_proto::{DeviceId, IdempotencyKey, UserId};

use crate::server::Server;
use crate::{Result, say};

/// Enrolments at the same time.
const AT_ONCE: usize = 16;
/// A commit, its GroupInfo and its Welcome travel together.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// What makes a leaf: a key and its certificate.
pub(crate) struct Identity {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) signer: SignatureKeyPair,
    pub(crate) chain: Vec<Vec<u8>>,
}

impl Identity {
    async fn enrol(channel: Channel, code: String) -> Result<Self> {
        let signer = SignatureKeyPair::new(SignatureScheme::ED25519).map_err(say)?;
        let request = certification_request(signer.public(), |message| signer.sign(message).ok())?;
        let request = EnrolRequest {
            proof: Some(Proof::EnrolmentCode(code)),
            certification_request: request,
            device_name: String::new(),
        };
        let answer = AuthenticationServiceClient::new(channel)
            .enrol(request)
            .await?
            .into_inner();
        Ok(Self {
            user: answer.user_id.parse()?,
            device: answer.device_id.parse()?,
            signer,
            chain: answer.chain.ok_or("no certificate")?.certificates,
        })
    }
}

/// A device with a connection to the delivery service, and an access token.
pub(crate) struct Device {
    pub(crate) identity: Identity,
    authentication: Channel,
    channel: Channel,
    authorization: MetadataValue<Ascii>,
}

impl Device {
    /// On a connection of its own to the first replica. To the authentication service it shares one.
    async fn connect(server: &Server, authentication: Channel, identity: Identity) -> Result<Self> {
        let authorization = authorization(&authentication, &identity).await?;
        Ok(Self {
            identity,
            authentication,
            channel: server.delivery(0).await?,
            authorization,
        })
    }

    /// From now on it talks to another replica.
    pub(crate) async fn move_to(&mut self, server: &Server, replica: usize) -> Result<()> {
        self.channel = server.delivery(replica).await?;
        Ok(())
    }

    /// A new token: they are valid for minutes, a benchmark may take longer.
    pub(crate) async fn renew(&mut self) -> Result<()> {
        self.authorization = authorization(&self.authentication, &self.identity).await?;
        Ok(())
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        request
    }

    pub(crate) fn delivery(&self) -> DeliveryServiceClient<Channel> {
        DeliveryServiceClient::new(self.channel.clone())
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// Sends a message that is encrypted already.
    pub(crate) fn send(&self, mls_message: Bytes) -> impl Future<Output = Result<()>> + Send + use<> {
        let request = self.request(SendMessageRequest {
            mls_message,
            idempotency_key: new_key(),
            may_be_repeat: false,
        });
        let mut client = self.delivery();
        async move {
            let answer: std::result::Result<Response<_>, Status> = client.send_message(request).await;
            answer?;
            Ok(())
        }
    }
}

async fn authorization(channel: &Channel, identity: &Identity) -> Result<MetadataValue<Ascii>> {
    let jti = format!("{:032x}", rand::random::<u128>());
    let mut signed = None;
    let assertion = assertion(
        &identity.device.to_string(),
        ASSERTION_AUDIENCE,
        Clock::system().now(),
        &jti,
        KeyKind::Ed25519,
        |message| {
            signed = identity.signer.sign(message).ok();
            signed.clone().unwrap_or_default()
        },
    );
    let mut client = AuthenticationServiceClient::new(channel.clone());
    let answer = client
        .issue_token(IssueTokenRequest { assertion })
        .await?
        .into_inner();
    Ok(format!("Bearer {}", answer.access_token).parse()?)
}

/// A new idempotency key.
pub(crate) fn new_key() -> Bytes {
    Bytes::copy_from_slice(IdempotencyKey::random(&mut rand::rng()).as_bytes())
}

/// Hands out identities.
pub(crate) struct Administrator {
    device: Device,
    domain: String,
    users: usize,
}

impl Administrator {
    /// The first administrator of a fresh server.
    pub(crate) async fn enrol(server: &Server) -> Result<Self> {
        let code = server
            .enrolment_code()
            .ok_or("the server has an administrator already")?;
        let authentication = server.authentication().await?;
        let identity = Identity::enrol(authentication.clone(), code).await?;
        let domain = identity.user.domain().to_owned();
        Ok(Self {
            device: Device::connect(server, authentication, identity).await?,
            domain,
            users: 0,
        })
    }

    /// The domain of all users.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// Enrols so many devices, each of a user of its own.
    pub(crate) async fn identities(&mut self, count: usize) -> Result<Vec<Identity>> {
        self.device.renew().await?;
        let mut identities = Vec::with_capacity(count);
        let mut enrolling = JoinSet::new();
        for _ in 0..count {
            if enrolling.len() == AT_ONCE
                && let Some(identity) = enrolling.join_next().await
            {
                identities.push(identity??);
            }
            let (_, request) = self.next_code();
            let request = self.device.request(request);
            let channel = self.device.authentication.clone();
            enrolling.spawn(async move {
                let mut client = AdministrationServiceClient::new(channel.clone());
                let code = client
                    .create_enrolment_code(request)
                    .await?
                    .into_inner()
                    .enrolment_code;
                Identity::enrol(channel, code).await
            });
        }
        while let Some(identity) = enrolling.join_next().await {
            identities.push(identity??);
        }
        Ok(identities)
    }

    /// A new user, and the request for a code with which a device of theirs enrols.
    fn next_code(&mut self) -> (String, CreateEnrolmentCodeRequest) {
        self.users += 1;
        let user = format!("user{}@{}", self.users, self.domain);
        let request = CreateEnrolmentCodeRequest {
            user_id: user.clone(),
            ..CreateEnrolmentCodeRequest::default()
        };
        (user, request)
    }

    /// A new user, and a code with which a device of theirs enrols.
    pub(crate) async fn code(&mut self) -> Result<(UserId, String)> {
        self.device.renew().await?;
        let (user, request) = self.next_code();
        let request = self.device.request(request);
        let answer = AdministrationServiceClient::new(self.device.authentication.clone())
            .create_enrolment_code(request)
            .await?
            .into_inner();
        Ok((user.parse()?, answer.enrolment_code))
    }

    /// The same, each with a connection and a token.
    pub(crate) async fn devices(&mut self, server: &Server, count: usize) -> Result<Vec<Device>> {
        let mut devices = Vec::with_capacity(count);
        for identity in self.identities(count).await? {
            let authentication = self.device.authentication.clone();
            devices.push(Device::connect(server, authentication, identity).await?);
        }
        Ok(devices)
    }
}
