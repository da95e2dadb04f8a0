//! A span and measurements for every request, from its arrival to the end of its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use opentelemetry::trace::TraceContextExt;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service, ServiceExt};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use valise_proto::Refusal;

use super::Answer;
use crate::{names, rpc};

/// The RPC system of all requests.
const GRPC: &str = "grpc";
/// Upper bounds of the histogram, in seconds.
const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

#[derive(Clone)]
pub(super) struct TraceLayer {
    instruments: Arc<Instruments>,
}

struct Instruments {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
}

impl TraceLayer {
    pub(super) fn new() -> Self {
        let meter = opentelemetry::global::meter(names::SCOPE);
        let instruments = Instruments {
            requests: meter.u64_counter(names::REQUESTS).build(),
            duration: meter
                .f64_histogram(names::DURATION)
                .with_unit("s")
                .with_boundaries(BOUNDS.to_vec())
                .build(),
            in_flight: meter.i64_up_down_counter(names::IN_FLIGHT).build(),
        };
        Self {
            instruments: Arc::new(instruments),
        }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace {
            inner,
            instruments: Arc::clone(&self.instruments),
        }
    }
}

#[derive(Clone)]
pub(super) struct Trace<S> {
    inner: S,
    instruments: Arc<Instruments>,
}

impl<S> Service<Request<Body>> for Trace<S>
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
        let method = rpc::name(request.uri().path());
        let span = span(method, request.headers());
        let measured = Measured::begin(method, span.clone(), Arc::clone(&self.instruments));
        let answer = self.inner.clone().oneshot(request);
        Box::pin(async move { Ok(measured.follow(answer.instrument(span).await?)) })
    }
}

/// The request's span, a child of the caller's if it sent one. It says nothing of the contents.
fn span(method: &'static str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        { names::SYSTEM } = GRPC,
        { names::METHOD } = method,
        { names::STATUS } = Empty,
        { names::ERROR_TYPE } = Empty,
        { names::REASON } = Empty,
    );
    let caller = valise_trace_context::extract(headers);
    if caller.span().span_context().is_valid() {
        // Fails where traces are not exported, which is no matter.
        let _ = span.set_parent(caller);
    }
    span
}

/// A request that has not ended. If it is dropped, the client has gone.
struct Measured {
    method: &'static str,
    span: Span,
    began: Instant,
    instruments: Arc<Instruments>,
    ended: bool,
}

impl Measured {
    fn begin(method: &'static str, span: Span, instruments: Arc<Instruments>) -> Self {
        instruments.in_flight.add(1, &attributes(method));
        Self {
            method,
            span,
            began: Instant::now(),
            instruments,
            ended: false,
        }
    }

    /// Until the end of the answer's body, if the status is not in its headers.
    fn follow(mut self, answer: Response<Body>) -> Response<Body> {
        if let Some(status) = Status::from_header_map(answer.headers()) {
            self.end(&status);
            return answer;
        }
        answer.map(|body| Body::new(MeasuredBody { body, measured: self }))
    }

    fn end(&mut self, status: &Status) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let code = code_name(status.code());
        let reason = Refusal::from_status(status).map_or("", |refusal| refusal.reason.as_str());
        self.span.record(names::STATUS, code);
        self.span.record(names::REASON, reason);
        let [system, method] = attributes(self.method);
        self.instruments
            .in_flight
            .add(-1, &[system.clone(), method.clone()]);
        let mut labels = vec![
            system,
            method,
            KeyValue::new(names::STATUS, code),
            KeyValue::new(names::REASON, reason),
        ];
        if is_fault(status.code()) {
            self.span.record("otel.status_code", "ERROR");
            self.span.record(names::ERROR_TYPE, code);
            labels.push(KeyValue::new(names::ERROR_TYPE, code));
        }
        self.instruments.requests.add(1, &labels);
        self.instruments
            .duration
            .record(self.began.elapsed().as_secs_f64(), &labels);
    }
}

fn attributes(method: &'static str) -> [KeyValue; 2] {
    [
        KeyValue::new(names::SYSTEM, GRPC),
        KeyValue::new(names::METHOD, method),
    ]
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.end(&Status::new(Code::Cancelled, ""));
    }
}

struct MeasuredBody {
    body: Body,
    measured: Measured,
}

impl HttpBody for MeasuredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = this
            .measured
            .span
            .in_scope(|| Pin::new(&mut this.body).poll_frame(cx));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    this.measured.end(&status);
                }
            }
            Poll::Ready(Some(Err(status))) => this.measured.end(status),
            Poll::Ready(None) => this.measured.end(&Status::new(Code::Unknown, "")),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What counts as a fault of the service, as OpenTelemetry has it for servers.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
