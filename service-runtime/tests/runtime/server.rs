//! A server with handlers that misbehave in every way that the tests need.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Ready, ready};
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use tower::layer::util::Identity;
use tower::{Layer, Service};
use valise_proto::authentication::v1::{WatchRevocationsRequest, WatchRevocationsResponse};
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_proto::directory::v1::key_package_directory_service_server::{
    KeyPackageDirectoryService, KeyPackageDirectoryServiceServer,
};
use valise_proto::directory::v1::{
    ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, DeleteKeyPackagesRequest, DeleteKeyPackagesResponse,
    FindCipherSuitesRequest, FindCipherSuitesResponse, GetStockRequest, GetStockResponse,
    PublishKeyPackagesRequest, PublishKeyPackagesResponse,
};
use valise_proto::{Reason, Refusal};
use valise_service_runtime::{MapErrors, Readiness, ServeError, ServerConfig, serve};

pub(crate) const DIRECTORY: &str = "valise.directory.v1.KeyPackageDirectoryService";
pub(crate) const PUBLISH: &str = "/valise.directory.v1.KeyPackageDirectoryService/PublishKeyPackages";
/// What must never be seen by a client.
pub(crate) const SECRET: &str = "hunter2";

/// Awaits what must come, however long it takes on a busy machine, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), what)
        .await
        .expect("it did not come in time")
}

pub(crate) fn reason_of(status: &Status) -> Reason {
    assert!(!format!("{status:?}").contains(SECRET), "{status:?}");
    Refusal::from_status(status)
        .unwrap_or_else(|| panic!("no reason in {status:?}"))
        .reason
}

/// Holds the claims that are at work until a test lets them go.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) entered: Arc<Semaphore>,
    pub(crate) release: Arc<Semaphore>,
}

impl Gate {
    pub(crate) async fn until_entered(&self) {
        soon(self.entered.acquire()).await.unwrap().forget();
    }
}

/// The largest request that is decoded.
pub(crate) const MAX_REQUEST_BYTES: usize = 1000;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Gate,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        Self::start_with(config, Identity::new()).await
    }

    pub(crate) async fn start_with<L>(config: ServerConfig, token_layer: L) -> Self
    where
        L: Layer<MapErrors<Routes>> + Send + 'static,
        L::Service: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Error: Send,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
    {
        let gate = Gate {
            entered: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
        };
        let shutdown = CancellationToken::new();
        let directory = KeyPackageDirectoryServiceServer::new(Directory { gate: gate.clone() })
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let mut routes = RoutesBuilder::default();
        routes.add_service(directory);
        routes.add_service(Watch {
            shutdown: shutdown.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::new();
        let serving = serve(
            listener,
            routes.routes(),
            readiness.clone(),
            token_layer,
            config,
            shutdown.clone(),
        );
        Self {
            address,
            gate,
            readiness,
            shutdown,
            serving: tokio::spawn(serving),
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        soon(self.endpoint().connect()).await.unwrap()
    }

    pub(crate) async fn directory(&self) -> KeyPackageDirectoryServiceClient<Channel> {
        KeyPackageDirectoryServiceClient::new(self.channel().await)
    }

    /// When it has ended, by itself or because it was told to.
    pub(crate) async fn ended(self) {
        soon(self.serving).await.unwrap().unwrap();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await;
    }
}

struct Directory {
    gate: Gate,
}

#[tonic::async_trait]
impl KeyPackageDirectoryService for Directory {
    /// Works.
    async fn publish_key_packages(
        &self,
        request: tonic::Request<PublishKeyPackagesRequest>,
    ) -> Result<tonic::Response<PublishKeyPackagesResponse>, Status> {
        assert!(request.remote_addr().is_some(), "handlers see the peer's address");
        Ok(tonic::Response::new(PublishKeyPackagesResponse::default()))
    }

    /// Waits for the gate.
    async fn claim_key_packages(
        &self,
        _request: tonic::Request<ClaimKeyPackagesRequest>,
    ) -> Result<tonic::Response<ClaimKeyPackagesResponse>, Status> {
        self.gate.entered.add_permits(1);
        self.gate.release.acquire().await.unwrap().forget();
        Ok(tonic::Response::new(ClaimKeyPackagesResponse::default()))
    }

    /// Works.
    async fn find_cipher_suites(
        &self,
        _request: tonic::Request<FindCipherSuitesRequest>,
    ) -> Result<tonic::Response<FindCipherSuitesResponse>, Status> {
        Ok(tonic::Response::new(FindCipherSuitesResponse::default()))
    }

    /// Panics.
    async fn get_stock(
        &self,
        _request: tonic::Request<GetStockRequest>,
    ) -> Result<tonic::Response<GetStockResponse>, Status> {
        panic!("{SECRET}")
    }

    /// Says too much.
    async fn delete_key_packages(
        &self,
        _request: tonic::Request<DeleteKeyPackagesRequest>,
    ) -> Result<tonic::Response<DeleteKeyPackagesResponse>, Status> {
        Err(Status::unknown(SECRET))
    }
}

/// Streams one heartbeat and then does what the request's number says.
#[derive(Clone)]
struct Watch {
    shutdown: CancellationToken,
}

pub(crate) const UNTIL_SHUTDOWN: u64 = 0;
pub(crate) const THEN_PANIC: u64 = 1;
pub(crate) const THEN_FAIL: u64 = 2;
pub(crate) const FOR_EVER: u64 = 3;

pub(crate) async fn watch(
    channel: Channel,
    then: u64,
) -> Result<Streaming<WatchRevocationsResponse>, Status> {
    use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
    let mut client = AuthenticationServiceClient::new(channel);
    let mut stream = soon(client.watch_revocations(WatchRevocationsRequest { after_number: then }))
        .await?
        .into_inner();
    soon(stream.message()).await?.expect("the first heartbeat");
    Ok(stream)
}

impl NamedService for Watch {
    const NAME: &'static str = "valise.authentication.v1.AuthenticationService";
}

impl Service<Request<Body>> for Watch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let handler = self.clone();
        let codec = ProstCodec::<WatchRevocationsResponse, WatchRevocationsRequest>::default();
        Box::pin(async move { Ok(Grpc::new(codec).server_streaming(handler, request).await) })
    }
}

impl ServerStreamingService<WatchRevocationsRequest> for Watch {
    type Response = WatchRevocationsResponse;
    type ResponseStream =
        Pin<Box<dyn futures::Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<WatchRevocationsRequest>) -> Self::Future {
        let shutdown = self.shutdown.clone();
        let then: BoxStream<'static, _> = match request.into_inner().after_number {
            UNTIL_SHUTDOWN => stream::once(async move {
                shutdown.cancelled_owned().await;
                Err(Reason::StoreUnavailable.into())
            })
            .boxed(),
            THEN_PANIC => stream::once(async {
                // tonic sends what it has when there is nothing more to get.
                tokio::task::yield_now().await;
                panic!("{SECRET}")
            })
            .boxed(),
            THEN_FAIL => stream::once(ready(Err(Status::internal(SECRET)))).boxed(),
            _ => stream::pending().boxed(),
        };
        let first = stream::once(ready(Ok(WatchRevocationsResponse::default())));
        ready(Ok(tonic::Response::new(Box::pin(first.chain(then)))))
    }
}
