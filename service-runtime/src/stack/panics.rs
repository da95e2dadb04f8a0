//! A panic in a handler or in its stream fails that one request with `INTERNAL`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use valise_proto::Reason;

use super::{Answer, refuse};
use crate::quiet::{Panicked, quietly};

#[derive(Clone)]
pub(super) struct CatchPanics<S> {
    inner: S,
}

impl<S> CatchPanics<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Request<Body>> for CatchPanics<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let mut answer: Answer = Box::pin(self.inner.clone().oneshot(request));
        Box::pin(async move {
            let answered = std::future::poll_fn(|cx| match quietly("handler", || answer.as_mut().poll(cx)) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(answer)) => Poll::Ready(Some(answer)),
                Err(Panicked) => Poll::Ready(None),
            });
            match answered.await {
                Some(Ok(answer)) => Ok(answer.map(|body| Body::new(CatchPanicsBody { body: Some(body) }))),
                None => Ok(refuse(Reason::Internal)),
            }
        })
    }
}

struct CatchPanicsBody {
    /// None after a panic.
    body: Option<Body>,
}

impl HttpBody for CatchPanicsBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        quietly("handler", || Pin::new(body).poll_frame(cx)).unwrap_or_else(|Panicked| {
            self.body = None;
            let mut trailers = HeaderMap::new();
            Poll::Ready(Some(
                match Status::from(Reason::Internal).add_header(&mut trailers) {
                    Ok(()) => Ok(Frame::trailers(trailers)),
                    Err(status) => Err(status),
                },
            ))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
