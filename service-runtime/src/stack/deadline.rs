//! Ends requests whose time is up. Streams have no deadline: they live as long as both sides want.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt};
use valise_proto::Reason;

use super::{Answer, refuse};
use crate::rpc;

#[derive(Clone)]
pub(super) struct DeadlineLayer {
    longest: Duration,
}

impl DeadlineLayer {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline {
            inner,
            longest: self.longest,
        }
    }
}

#[derive(Clone)]
pub(super) struct Deadline<S> {
    inner: S,
    longest: Duration,
}

impl<S> Service<Request<Body>> for Deadline<S>
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
        if rpc::is_stream(request.uri().path()) {
            return Box::pin(self.inner.clone().oneshot(request));
        }
        let within = grpc_timeout(request.headers()).map_or(self.longest, |client| client.min(self.longest));
        let answer = tokio::time::timeout(within, self.inner.clone().oneshot(request));
        Box::pin(async move {
            answer
                .await
                .unwrap_or_else(|_elapsed| Ok(refuse(Reason::DeadlineExceeded)))
        })
    }
}

/// The client's own deadline: up to eight digits and a unit. A malformed one counts as none.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tower::service_fn;
    use valise_proto::Refusal;

    use super::*;

    const UNARY: &str = "/valise.directory.v1.KeyPackageDirectoryService/GetStock";
    const STREAM: &str = "/valise.delivery.v1.DeliveryService/Subscribe";

    /// The reason with which a request is answered that its handler never answers, or answers at last.
    async fn reason(path: &str, timeout: &str, longest: Duration, at_last: bool) -> Option<Reason> {
        let handler = service_fn(move |_: Request<Body>| async move {
            if !at_last {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            Ok(refuse(Reason::UnknownUser))
        });
        let request = Request::builder()
            .uri(path)
            .header("grpc-timeout", timeout)
            .body(Body::empty())
            .unwrap();
        let answer = DeadlineLayer::new(longest)
            .layer(handler)
            .oneshot(request)
            .await
            .unwrap();
        Refusal::from_status(&Status::from_header_map(answer.headers())?).map(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn the_earlier_of_both_deadlines_holds() {
        let long = Duration::from_hours(1);
        assert_eq!(
            reason(UNARY, "1n", long, false).await,
            Some(Reason::DeadlineExceeded)
        );
        assert_eq!(
            reason(UNARY, "1H", Duration::from_nanos(1), false).await,
            Some(Reason::DeadlineExceeded)
        );
        assert_eq!(reason(UNARY, "1H", long, true).await, Some(Reason::UnknownUser));
    }

    #[tokio::test]
    async fn streams_have_no_deadline() {
        assert_eq!(
            reason(STREAM, "0n", Duration::ZERO, true).await,
            Some(Reason::UnknownUser)
        );
    }

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        grpc_timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parsed("2H"), Some(Duration::from_hours(2)));
        assert_eq!(parsed("3M"), Some(Duration::from_mins(3)));
        assert_eq!(parsed("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parsed("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(parsed("6u"), Some(Duration::from_micros(6)));
        assert_eq!(parsed("0n"), Some(Duration::ZERO));
    }

    #[test]
    fn a_malformed_timeout_is_none() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
