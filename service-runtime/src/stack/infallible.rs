//! Turns the errors of a layer, which are faults of the service, into answers.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tower::{Service, ServiceExt};
use valise_proto::Reason;

use super::{Answer, refuse};

#[derive(Clone)]
pub(super) struct Infallibly<S> {
    inner: S,
}

impl<S> Infallibly<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Request<Body>> for Infallibly<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let answer = self.inner.clone().oneshot(request);
        Box::pin(async move {
            Ok(answer.await.unwrap_or_else(|_error| {
                tracing::error!("a layer failed");
                refuse(Reason::Internal)
            }))
        })
    }
}
