//! Serves gRPC until it is told to stop, and then stops in order.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry::metrics::UpDownCounter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service, ServiceExt};

use crate::config::ServerConfig;
use crate::health::Readiness;
use crate::lifecycle::{Lifecycle, Spawner};
use crate::stack::{self, MapErrors, Stack};
use crate::tls::{ServerCertificate, TlsError};
use crate::{names, reflection};

/// A connection that says nothing for so long is asked whether it still lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// And is closed if it does not answer for so long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A new connection must begin to speak, and finish its TLS handshake, within so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure to accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a service cannot be served. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The TLS certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The contract's descriptors cannot be read.
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Listens on the configured address.
pub async fn bind(config: &ServerConfig) -> Result<TcpListener, ServeError> {
    listen(config.listen).await
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
}

/// Serves `routes`, with the whole stack around them, beside health checks and reflection, until `shutdown` is cancelled.
///
/// Health checks are answered at `config.health_listen` as well, if that is set. The token layer stands before `routes` only; [`Identity`](tower::layer::util::Identity) is none. Metrics go to the
/// meter provider of the moment: start [`Telemetry`](crate::Telemetry) first.
///
/// Shutdown: health says `NOT_SERVING`, no more connections are accepted, clients are told to go elsewhere, and what has
/// begun may end within the grace time. Streams end by themselves only if their handlers watch `shutdown` too. Then what
/// is left is dropped. When this returns, nothing of it runs any more.
pub async fn serve<L>(
    listener: TcpListener,
    routes: Routes,
    readiness: Readiness,
    token_layer: L,
    config: ServerConfig,
    shutdown: CancellationToken,
) -> Result<(), ServeError>
where
    L: Layer<MapErrors<Routes>>,
    L::Service: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    <L::Service as Service<Request<Body>>>::Error: Send,
    <L::Service as Service<Request<Body>>>::Future: Send + 'static,
{
    let certificate = config.tls.as_ref().map(ServerCertificate::open).transpose()?;
    let tls = certificate
        .as_ref()
        .map(ServerCertificate::server_config)
        .transpose()?
        .map(TlsAcceptor::from);
    let probes = match config.health_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let mut infrastructure = RoutesBuilder::default();
    infrastructure.add_service(readiness.service().await);
    if config.reflection {
        reflection::add_to(&mut infrastructure)?;
    }
    // Not a child of `shutdown`: health must say `NOT_SERVING` before connections begin to close.
    let lifecycle = Lifecycle::new(&CancellationToken::new());
    let closing = lifecycle.stopping().clone();
    if let Some(certificate) = certificate {
        lifecycle.spawn("tls certificate", certificate.follow_files(closing.clone()));
    }
    let health = stack::infrastructure(Routes::new(readiness.service().await), closing.clone());
    let stack = stack::stack(routes, infrastructure.routes(), token_layer, &config, closing);
    let connections = Connections::new(stack, tls, &config, &lifecycle);
    tracing::info!(address = ?listener.local_addr().ok(), tls = config.tls.is_some(), "serving");
    let probed = async {
        if let Some(listener) = probes {
            let connections = Connections::new(health, None, &config, &lifecycle);
            connections.accept(listener, &lifecycle, &shutdown).await;
        }
    };
    tokio::join!(connections.accept(listener, &lifecycle, &shutdown), probed);

    tracing::info!("shutting down");
    readiness.stop().await;
    if !lifecycle.stop(config.graceful_shutdown).await {
        tracing::warn!("the grace time was over: dropped what was left");
    }
    Ok(())
}

/// What every connection needs.
#[derive(Clone)]
struct Connections {
    stack: Stack,
    tls: Option<TlsAcceptor>,
    http: http2::Builder<Spawner>,
    stopping: CancellationToken,
    places: Arc<Semaphore>,
    open: UpDownCounter<i64>,
}

impl Connections {
    fn new(stack: Stack, tls: Option<TlsAcceptor>, config: &ServerConfig, lifecycle: &Lifecycle) -> Self {
        let mut http = http2::Builder::new(lifecycle.spawner());
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(config.max_streams_per_connection);
        let places = config.max_connections.get().min(Semaphore::MAX_PERMITS);
        Self {
            stack,
            tls,
            http,
            stopping: lifecycle.stopping().clone(),
            places: Arc::new(Semaphore::new(places)),
            open: opentelemetry::global::meter(names::SCOPE)
                .i64_up_down_counter(names::CONNECTIONS)
                .build(),
        }
    }

    /// Accepts until shutdown, as long as there is a free place. Drops the listener: its port is free at once.
    async fn accept(&self, listener: TcpListener, lifecycle: &Lifecycle, shutdown: &CancellationToken) {
        let next = async || {
            let place = Arc::clone(&self.places).acquire_owned().await;
            (place, listener.accept().await)
        };
        while let Some((place, accepted)) = shutdown.run_until_cancelled(next()).await {
            match accepted {
                Ok((socket, peer)) => {
                    let connection = self.clone();
                    lifecycle.spawn("connection", async move {
                        connection.open.add(1, &[]);
                        connection.serve(socket, peer).await;
                        connection.open.add(-1, &[]);
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(kind = ?error.kind(), "cannot accept a connection");
                    shutdown
                        .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                        .await;
                }
            }
        }
    }

    async fn serve(&self, socket: TcpStream, peer: SocketAddr) {
        // Small messages must not wait for more to come.
        let _ = socket.set_nodelay(true);
        let info = TcpConnectInfo {
            local_addr: socket.local_addr().ok(),
            remote_addr: Some(peer),
        };
        let Some(tls) = &self.tls else {
            if let Some(Ok(())) = self.in_time(socket.readable()).await {
                self.serve_http(socket, info).await;
            }
            return;
        };
        match self.in_time(tls.accept(socket)).await {
            Some(Ok(socket)) => self.serve_http(socket, info).await,
            Some(Err(error)) => tracing::debug!(kind = ?error.kind(), "tls handshake failed"),
            None => {}
        }
    }

    /// None if the client took too long, or shutdown came first.
    async fn in_time<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake);
        self.stopping.run_until_cancelled(handshake).await?.ok()
    }

    async fn serve_http(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        info: TcpConnectInfo,
    ) {
        let stack = self.stack.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(info.clone());
            let answer = stack.clone().oneshot(request);
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let mut connection = std::pin::pin!(self.http.serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(timeout = error.is_timeout(), "connection ended with an error");
        }
    }
}
