//! Carries the trace context (W3C `traceparent`) between processes in gRPC metadata.
//!
//! The form on the wire is that of the process's propagator (`opentelemetry::global::set_text_map_propagator`). A process
//! that set none, for example an app that does no tracing, sends and reads nothing.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::{Context, global};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Adds the context of the current span to every outgoing request.
///
/// As an interceptor of one client, or of a channel:
/// `tower::ServiceBuilder::new().layer(tonic::service::InterceptorLayer::new(Inject)).service(channel)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inject;

impl Interceptor for Inject {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        inject(request.metadata_mut());
        Ok(request)
    }
}

/// Adds the context of the current span to metadata that is about to be sent.
pub fn inject(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    let mut headers = std::mem::take(metadata).into_headers();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut Outgoing(&mut headers));
    });
    *metadata = MetadataMap::from_headers(headers);
}

/// The context that came with a request; an empty one if there was none.
pub fn extract(headers: &HeaderMap) -> Context {
    global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &Incoming(headers))
    })
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        // What is not a legal header is left out: a request goes before its trace.
        if let (Ok(key), Ok(value)) = (key.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceContextExt, TracerProvider};
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_other_side_reads_the_trace_of_the_current_span() {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);

        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("caller");
            let _entered = span.enter();
            let mut request = Request::new(());
            request.metadata_mut().insert("kept", "yes".parse().unwrap());
            let request = Inject.call(request).unwrap();
            assert_eq!(request.metadata().get("kept").unwrap(), "yes");

            let there = extract(&request.metadata().clone().into_headers());
            let here = span.context();
            assert!(there.span().span_context().is_remote());
            assert_eq!(
                there.span().span_context().trace_id(),
                here.span().span_context().trace_id()
            );
            assert_eq!(
                there.span().span_context().span_id(),
                here.span().span_context().span_id()
            );
        });
    }

    #[test]
    fn garbage_is_no_context() {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("00-zz-zz-01"));
        assert!(!extract(&headers).span().span_context().is_valid());
        headers.insert("traceparent", HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(!extract(&headers).span().span_context().is_valid());
    }
}
