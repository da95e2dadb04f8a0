//! The other services of a deployment, as far as the directory asks them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use valise_access_token::{Caller, TokenLayer};
use valise_proto::Reason;
use valise_proto::authentication::v1::authentication_service_server::{
    AuthenticationService, AuthenticationServiceServer,
};
use valise_proto::authentication::v1::watch_revocations_response::Event;
use valise_proto::authentication::v1::{
    EnrolRequest, EnrolResponse, GetJwksRequest, GetJwksResponse, GetTrustBundleRequest,
    GetTrustBundleResponse, IssueTokenRequest, IssueTokenResponse, ListDevicesRequest, ListDevicesResponse,
    RenameDeviceRequest, RenameDeviceResponse, RenewCertificateRequest, RenewCertificateResponse,
    RevocationHeartbeat, RevokeDeviceRequest, RevokeDeviceResponse, TrustBundle, WatchRevocationsRequest,
    WatchRevocationsResponse,
};
use valise_proto::delivery::v1::delivery_internal_service_server::{
    DeliveryInternalService, DeliveryInternalServiceServer,
};
use valise_proto::delivery::v1::{DeliverNoticeRequest, DeliverNoticeResponse, DeviceNotice};
use valise_service_runtime::{Readiness, ServerConfig, serve};

use crate::scene::{Scene, channel, listen};

/// The directory's name as a service.
pub(crate) const NAME: &str = "key-package-directory";

/// An authentication and a delivery service on one port.
pub(crate) struct Peers {
    pub(crate) url: String,
    pub(crate) channel: Channel,
    /// What the delivery service accepted.
    pub(crate) notices: mpsc::UnboundedReceiver<DeviceNotice>,
}

impl Peers {
    pub(crate) async fn start(scene: &Scene) -> Self {
        let caller = Caller::Service { name: NAME.into() };
        let token = scene
            .signer
            .sign(&caller, scene.clock.now(), Duration::from_mins(10), "a-token")
            .unwrap();
        let authentication = Authentication {
            token,
            jwks: scene.signer.jwks_json().unwrap(),
            bundle: scene.authority.bundle().certificates().to_vec(),
        };
        let (accepted, notices) = mpsc::unbounded_channel();
        let mut routes = RoutesBuilder::default();
        routes.add_service(AuthenticationServiceServer::new(authentication));
        routes.add_service(DeliveryInternalServiceServer::new(Delivery {
            accepted,
            calls: AtomicU32::new(0),
        }));
        let (listener, address) = listen().await;
        let open = &["/valise.authentication.v1.AuthenticationService/"];
        let tokens = TokenLayer::new(scene.verifier.clone(), open);
        let (config, never) = (ServerConfig::default(), CancellationToken::new());
        tokio::spawn(serve(
            listener,
            routes.routes(),
            Readiness::new(),
            tokens,
            config,
            never,
        ));
        Self {
            url: format!("http://{address}"),
            channel: channel(address),
            notices,
        }
    }

    /// The next notice that the delivery service accepts.
    pub(crate) async fn notice(&mut self) -> DeviceNotice {
        tokio::time::timeout(Duration::from_secs(20), self.notices.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

/// The delivery service's inner door. Every second call fails, the first one too.
struct Delivery {
    accepted: mpsc::UnboundedSender<DeviceNotice>,
    calls: AtomicU32,
}

#[tonic::async_trait]
impl DeliveryInternalService for Delivery {
    async fn deliver_notice(
        &self,
        request: Request<DeliverNoticeRequest>,
    ) -> Result<Response<DeliverNoticeResponse>, Status> {
        assert_eq!(Caller::of(&request)?.service()?, NAME);
        if self.calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return Err(Reason::StoreUnavailable.into());
        }
        request
            .into_inner()
            .notices
            .into_iter()
            .for_each(|notice| self.accepted.send(notice).unwrap());
        Ok(Response::new(DeliverNoticeResponse {}))
    }
}

/// Gives a service's token to everybody. Nobody is ever revoked.
struct Authentication {
    token: String,
    jwks: String,
    bundle: Vec<Vec<u8>>,
}

#[tonic::async_trait]
impl AuthenticationService for Authentication {
    type WatchRevocationsStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn issue_token(
        &self,
        _: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let expires_in = Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        });
        Ok(Response::new(IssueTokenResponse {
            access_token: self.token.clone(),
            expires_in,
        }))
    }

    async fn get_trust_bundle(
        &self,
        _: Request<GetTrustBundleRequest>,
    ) -> Result<Response<GetTrustBundleResponse>, Status> {
        Ok(Response::new(GetTrustBundleResponse {
            trust_bundle: Some(TrustBundle {
                certificates: self.bundle.clone(),
            }),
        }))
    }

    async fn get_jwks(&self, _: Request<GetJwksRequest>) -> Result<Response<GetJwksResponse>, Status> {
        Ok(Response::new(GetJwksResponse {
            jwks_json: self.jwks.clone(),
        }))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let beats = IntervalStream::new(tokio::time::interval(Duration::from_millis(100)));
        let beat = |_| {
            let event = Event::Heartbeat(RevocationHeartbeat { newest_number: 0 });
            Ok(WatchRevocationsResponse { event: Some(event) })
        };
        Ok(Response::new(Box::pin(beats.map(beat))))
    }

    async fn enrol(&self, _: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew_certificate(
        &self,
        _: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_devices(
        &self,
        _: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rename_device(
        &self,
        _: Request<RenameDeviceRequest>,
    ) -> Result<Response<RenameDeviceResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_device(
        &self,
        _: Request<RevokeDeviceRequest>,
    ) -> Result<Response<RevokeDeviceResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
