//! Everything that happens to a request before and after its handler, in one function, [`stack`].

mod deadline;
mod ending;
mod errors;
mod infallible;
mod load_shed;
mod panics;
mod trace;

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use valise_proto::Refusal;

pub use errors::MapErrors;

use crate::config::ServerConfig;
use crate::rpc;

/// What all layers answer with.
pub(crate) type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// The finished stack.
pub(crate) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Puts the stack around a service's routes, outermost first.
///
/// `infrastructure` (health and reflection) stays outside the inner layers: a probe must be answered under load and
/// without a token. Its streams end when `closing` is cancelled; a service ends its own streams itself.
pub(crate) fn stack<L>(
    routes: Routes,
    infrastructure: Routes,
    token_layer: L,
    config: &ServerConfig,
    closing: CancellationToken,
) -> Stack
where
    L: Layer<MapErrors<Routes>>,
    L::Service: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    <L::Service as Service<Request<Body>>>::Error: Send,
    <L::Service as Service<Request<Body>>>::Future: Send + 'static,
{
    let service = ServiceBuilder::new()
        // Before all work, so that refusing is cheap. It counts until the headers of the answer: a stream that has begun
        // is idle most of its life and must not keep others out.
        .layer(load_shed::LoadShedLayer::new(config.concurrency_limit))
        // Inside the limit: a handler that is given up gives back its place. Outside the token check, which may wait too.
        .layer(deadline::DeadlineLayer::new(config.request_deadline))
        // A layer's own errors are faults of the service.
        .layer_fn(infallible::Infallibly::new)
        // Who is calling? Handlers see only requests whose caller is known.
        .layer(token_layer)
        // Next to the handlers: from here on, every refusal has a reason, and nothing internal is in any.
        .layer_fn(MapErrors::new)
        .service(routes.prepare());
    let by_path = ByPath {
        service,
        infrastructure: ending::Ending::new(infrastructure.prepare(), closing),
    };
    let all = ServiceBuilder::new()
        // Outermost, so that every answer is measured and every log line of a request is in its span.
        .layer(trace::TraceLayer::new())
        // Around all that could panic: one request fails, not the connection with all its other requests.
        .layer_fn(panics::CatchPanics::new)
        .service(by_path);
    BoxCloneSyncService::new(all)
}

/// What is put around health checks that have a listener of their own.
pub(crate) fn infrastructure(routes: Routes, closing: CancellationToken) -> Stack {
    let ending = ending::Ending::new(routes.prepare(), closing);
    BoxCloneSyncService::new(panics::CatchPanics::new(ending))
}

/// The answer to a request that is refused.
pub(crate) fn refuse(refusal: impl Into<Refusal>) -> Response<Body> {
    Status::from(refusal.into()).into_http()
}

/// Health and reflection go one way, all else the other.
#[derive(Clone)]
struct ByPath<S, I> {
    service: S,
    infrastructure: I,
}

impl<S, I> Service<Request<Body>> for ByPath<S, I>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    I::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        if rpc::is_infrastructure(request.uri().path()) {
            Box::pin(self.infrastructure.clone().oneshot(request))
        } else {
            Box::pin(self.service.clone().oneshot(request))
        }
    }
}
