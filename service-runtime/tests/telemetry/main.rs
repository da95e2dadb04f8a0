//! Traces and metrics arrive at a collector, and the server's span is a child of the client's. In a process of its own:
//! telemetry belongs to the process, and other tests' requests would be among what is counted.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "also in what tests are written with, a failure is a panic"
)]

#[path = "../runtime/server.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod server;

use std::sync::Arc;

use opentelemetry::trace::TraceContextExt;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_proto::directory::v1::{GetStockRequest, PublishKeyPackagesRequest};
use valise_service_runtime::{ServerConfig, Telemetry, TelemetryConfig, names};
use valise_trace_context::Inject;

use server::{PUBLISH, SECRET, Server, THEN_FAIL, soon, watch};

/// One test at a time, where all run in one process.
static PROCESS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn traces_and_metrics_arrive() {
    let _alone = PROCESS.lock().await;
    let collector = Collector::start().await;
    let telemetry = Telemetry::start(&collector.config(), "test-service").unwrap();
    let server = Server::start(ServerConfig::default()).await;

    let span = tracing::info_span!("the client's");
    let caller = span.context().span().span_context().clone();
    let mut client = KeyPackageDirectoryServiceClient::with_interceptor(server.channel().await, Inject);
    async {
        soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
            .await
            .unwrap();
        soon(client.get_stock(GetStockRequest {})).await.unwrap_err();
    }
    .instrument(span)
    .await;
    soon(watch(server.channel().await, THEN_FAIL).await.unwrap().message())
        .await
        .unwrap_err();
    server.stop().await;
    soon(telemetry.shutdown()).await;

    let received = collector.received.lock();
    let spans: Vec<&Span> = received
        .traces
        .iter()
        .flat_map(|export| &export.resource_spans)
        .flat_map(|of_resource| &of_resource.scope_spans)
        .flat_map(|of_scope| &of_scope.spans)
        .collect();
    let published = PUBLISH.trim_start_matches('/');
    let publish = spans
        .iter()
        .find(|span| span.name == published)
        .expect("a span named by the method");
    assert_eq!(publish.trace_id, caller.trace_id().to_bytes());
    assert_eq!(publish.parent_span_id, caller.span_id().to_bytes());
    assert_eq!(
        publish.kind(),
        opentelemetry_proto::tonic::trace::v1::span::SpanKind::Server
    );
    assert_eq!(text(&publish.attributes, names::SYSTEM), "grpc");
    assert_eq!(text(&publish.attributes, names::METHOD), published);
    assert_eq!(text(&publish.attributes, names::STATUS), "OK");
    let panicked = spans
        .iter()
        .find(|span| span.name.ends_with("/GetStock"))
        .unwrap();
    assert_eq!(text(&panicked.attributes, names::STATUS), "INTERNAL");
    assert_eq!(text(&panicked.attributes, names::ERROR_TYPE), "INTERNAL");
    assert_eq!(text(&panicked.attributes, names::REASON), "INTERNAL");
    let streamed = spans
        .iter()
        .find(|span| span.name.ends_with("/WatchRevocations"))
        .unwrap();
    assert_eq!(text(&streamed.attributes, names::REASON), "INTERNAL");
    assert!(!format!("{:?}", received.traces).contains(SECRET));

    let metrics: Vec<&Metric> = received
        .metrics
        .iter()
        .flat_map(|export| &export.resource_metrics)
        .flat_map(|of_resource| &of_resource.scope_metrics)
        .flat_map(|of_scope| &of_scope.metrics)
        .collect();
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    for name in [
        names::REQUESTS,
        names::DURATION,
        names::IN_FLIGHT,
        names::CONNECTIONS,
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let requests = metrics
        .iter()
        .rev()
        .find(|metric| metric.name == names::REQUESTS)
        .unwrap();
    let Some(Data::Sum(requests)) = &requests.data else {
        panic!("{requests:?}")
    };
    assert!(requests.data_points.iter().any(|point| {
        text(&point.attributes, names::METHOD) == published && text(&point.attributes, names::STATUS) == "OK"
    }));
    // All that began has ended.
    let in_flight = metrics
        .iter()
        .rev()
        .find(|metric| metric.name == names::IN_FLIGHT)
        .unwrap();
    let Some(Data::Sum(in_flight)) = &in_flight.data else {
        panic!("{in_flight:?}")
    };
    for point in &in_flight.data_points {
        use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsInt;
        assert_eq!(point.value, Some(AsInt(0)), "{point:?}");
    }
}

#[tokio::test]
async fn telemetry_can_be_started_again() {
    let _alone = PROCESS.lock().await;
    let first = Collector::start().await;
    let telemetry = Telemetry::start(&first.config(), "first").unwrap();
    tracing::info_span!("one").in_scope(|| {});
    soon(telemetry.shutdown()).await;
    let second = Collector::start().await;
    let telemetry = Telemetry::start(&second.config(), "second").unwrap();
    tracing::info_span!("two").in_scope(|| {});
    soon(telemetry.shutdown()).await;
    assert!(format!("{:?}", first.received.lock().traces).contains("\"one\""));
    assert!(format!("{:?}", second.received.lock().traces).contains("\"two\""));
    assert!(!format!("{:?}", second.received.lock().traces).contains("\"one\""));
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes
        .iter()
        .find(|attribute| attribute.key == key)
        .and_then(|found| found.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

/// A collector in the test's own process.
#[derive(Clone)]
struct Collector {
    endpoint: String,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self {
            endpoint,
            received: Arc::default(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        collector
    }

    fn config(&self) -> TelemetryConfig {
        TelemetryConfig {
            otlp_endpoint: Some(self.endpoint.parse().unwrap()),
            ..TelemetryConfig::default()
        }
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.received.lock().traces.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.received.lock().metrics.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
