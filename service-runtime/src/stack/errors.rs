//! Gives every refusal one of Valise's reasons, also those that tonic makes by itself, and takes out what is internal.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};
use valise_proto::{Reason, Refusal};

use super::Answer;

/// The routes as the token layer sees them.
#[derive(Clone, Debug)]
pub struct MapErrors<S> {
    inner: S,
}

impl<S> MapErrors<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Request<Body>> for MapErrors<S>
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
        let answer = self.inner.clone().oneshot(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            // tonic puts a refusal of a whole request into the headers, and one of a stream into the trailers.
            if let Some(status) = Status::from_header_map(answer.headers()) {
                return Ok(match map(&status) {
                    None => answer,
                    Some(mapped) => mapped.into_http(),
                });
            }
            *answer.body_mut() = Body::new(MapErrorsBody {
                body: std::mem::take(answer.body_mut()),
            });
            Ok(answer)
        })
    }
}

struct MapErrorsBody {
    body: Body,
}

impl HttpBody for MapErrorsBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body)
            .poll_frame(cx)
            .map_ok(|frame| match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(map_trailers(trailers)),
                Err(frame) => frame,
            })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn map_trailers(trailers: HeaderMap) -> HeaderMap {
    let Some(mapped) = Status::from_header_map(&trailers).as_ref().and_then(map) else {
        return trailers;
    };
    let mut trailers = HeaderMap::new();
    match mapped.add_header(&mut trailers) {
        Ok(()) => trailers,
        // Cannot be: reasons and their messages are legal headers.
        Err(_status) => HeaderMap::from_iter([(Status::GRPC_STATUS, Code::Internal.into_header())]),
    }
}

trait IntoHeader {
    fn into_header(self) -> http::HeaderValue;
}

impl IntoHeader for Code {
    fn into_header(self) -> http::HeaderValue {
        http::HeaderValue::from(i32::from(self))
    }
}

/// What to say instead, if the status cannot be said as it is.
fn map(status: &Status) -> Option<Status> {
    if status.code() == Code::Ok || Refusal::from_status(status).is_some() {
        return None;
    }
    match status.code() {
        // The contract lets these be: the RPC does not exist here, or the client has gone.
        Code::Unimplemented | Code::Cancelled => Some(Status::new(status.code(), "")),
        _ => Some(refusal(status).into()),
    }
}

fn refusal(status: &Status) -> Refusal {
    let text = status.message();
    match status.code() {
        Code::OutOfRange if text.starts_with("Error, decoded message length too large") => too_large(text),
        Code::ResourceExhausted if text.starts_with("Error decompressing: size limit") => too_large(text),
        _ if UNREADABLE.iter().any(|beginning| text.starts_with(beginning)) => Refusal::malformed("request"),
        code => {
            // Not the text: it may quote what the handler was working on.
            tracing::error!(?code, "a handler failed without a reason");
            Refusal::new(Reason::Internal)
        }
    }
}

/// How tonic and prost begin to say that a request cannot be read.
const UNREADABLE: [&str; 6] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message",
    "Error decompressing",
    // The client broke off in the middle.
    "h2 protocol error",
];

/// tonic says the limit in bytes after "limit is: " or "size limit, of ".
fn too_large(text: &str) -> Refusal {
    let limit = ["limit is: ", "size limit, of "]
        .iter()
        .find_map(|before| text.split_once(before))
        .map(|(_, after)| after.chars().take_while(char::is_ascii_digit).collect::<String>())
        .and_then(|digits| digits.parse().ok());
    match limit {
        Some(limit) => Refusal::too_large("request", limit),
        None => Refusal::new(Reason::MessageTooLarge).with("field", "request"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(status: &Status) -> Refusal {
        Refusal::from_status(&map(status).unwrap()).unwrap()
    }

    #[test]
    fn reasons_pass_as_they_are() {
        assert!(map(&Reason::EpochConflict.into()).is_none());
        assert!(map(&Status::ok("")).is_none());
    }

    #[test]
    fn texts_without_a_reason_do_not_pass() {
        for code in [
            Code::Unknown,
            Code::Internal,
            Code::NotFound,
            Code::PermissionDenied,
            Code::Unavailable,
        ] {
            let status = Status::new(code, "the password is hunter2");
            assert_eq!(mapped(&status), Refusal::new(Reason::Internal));
        }
        for code in [Code::Unimplemented, Code::Cancelled] {
            let status = map(&Status::new(code, "the password is hunter2")).unwrap();
            assert_eq!((status.code(), status.message()), (code, ""));
        }
    }

    #[test]
    fn the_limit_is_said_where_tonic_says_it() {
        let decoded = Status::out_of_range(
            "Error, decoded message length too large: found 12 bytes, the limit is: 10 bytes",
        );
        assert_eq!(mapped(&decoded), Refusal::too_large("request", 10));
        let compressed = Status::resource_exhausted(
            "Error decompressing: size limit, of 10 bytes, exceeded while decompressing message",
        );
        assert_eq!(mapped(&compressed), Refusal::too_large("request", 10));
    }

    #[test]
    fn an_answer_that_is_too_large_is_a_fault_of_the_service() {
        let encoded = Status::out_of_range(
            "Error, encoded message length too large: found 12 bytes, the limit is: 10 bytes",
        );
        assert_eq!(mapped(&encoded), Refusal::new(Reason::Internal));
    }
}
