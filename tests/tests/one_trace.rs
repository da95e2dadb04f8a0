//! One send is one trace, from the app's device to the service; and metrics arrive beside it. In a process of its own:
//! telemetry belongs to the process.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::sync::Arc;

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
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use valise_service_runtime::{Telemetry, TelemetryConfig, names};
use valise_tests::command::run;
use valise_tests::homes::Homes;
use valise_tests::people::Town;
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

const SEND: &str = "valise.delivery.v1.DeliveryService/SendMessage";
const SECRET: &str = "le mot de passe est pamplemousse";

#[tokio::test(flavor = "multi_thread")]
async fn a_send_is_one_trace_across_processes() {
    let collector = Collector::start().await;
    let config = TelemetryConfig {
        otlp_endpoint: Some(collector.endpoint.parse().unwrap()),
        ..TelemetryConfig::default()
    };
    let telemetry = Telemetry::start(&config, "an-app").unwrap();
    let service = Service::start_with(&["--otlp-endpoint", &collector.endpoint]).await;
    let town = Town::of(&service).await;
    let device = town.device("anna").await;
    let group = device.create_group("Traced").await.unwrap();

    async { group.send(SECRET).await.unwrap() }
        .instrument(tracing::info_span!("the app's"))
        .await;
    device.close().await;
    soon(telemetry.shutdown()).await;

    let served = until("the service's span arrives", async || {
        collector.span("valise-up", |span| span.name == SEND)
    })
    .await;
    let sent = collector
        .span("an-app", |span| span.name == "valise.send")
        .unwrap();
    let apps = collector.span("an-app", |span| span.name == "the app's").unwrap();
    assert_eq!(
        (&served.trace_id, &sent.trace_id),
        (&apps.trace_id, &apps.trace_id)
    );
    assert_eq!(sent.parent_span_id, apps.span_id);
    assert_eq!(
        served.parent_span_id, sent.span_id,
        "what the service does is part of the send"
    );
    // The group was made on its own.
    let created = collector
        .span("an-app", |span| span.name == "valise.create_group")
        .unwrap();
    assert_ne!(created.trace_id, apps.trace_id);
    collector.tells_nothing_secret(&["anna", "pamplemousse", "Traced"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_the_services_metrics_arrive_when_a_process_ends() {
    let collector = Collector::start().await;
    let service = Service::start_with(&["--otlp-endpoint", &collector.endpoint]).await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    let group = homes.new_group("anna", "Measured").await;
    run(homes.command(
        "anna",
        &["--otlp-endpoint", &collector.endpoint, "send", &group, SECRET],
    ))
    .await
    .ok();
    // The command has sent what it had when it ended.
    let sent = collector
        .span("valise-device", |span| span.name == "valise.send")
        .unwrap();
    service.terminate().await;
    let served = collector
        .span("valise-up", |span| {
            span.name == SEND && span.trace_id == sent.trace_id
        })
        .unwrap();
    assert_eq!(served.parent_span_id, sent.span_id);
    let metrics = collector.metrics();
    for name in [
        names::REQUESTS,
        names::DURATION,
        names::IN_FLIGHT,
        names::CONNECTIONS,
    ] {
        assert!(
            metrics.iter().any(|metric| metric == name),
            "{name} in {metrics:?}"
        );
    }
    collector.tells_nothing_secret(&["anna", "pamplemousse", "Measured"]);
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

    /// The first span of that service for which that holds.
    fn span(&self, service: &str, holds: impl Fn(&Span) -> bool) -> Option<Span> {
        let received = self.received.lock();
        let resources = received.traces.iter().flat_map(|export| &export.resource_spans);
        let of_service =
            resources.filter(|spans| format!("{:?}", spans.resource).contains(&format!("\"{service}\"")));
        let spans = of_service
            .flat_map(|spans| &spans.scope_spans)
            .flat_map(|scope| &scope.spans);
        spans.into_iter().find(|span| holds(span)).cloned()
    }

    fn metrics(&self) -> Vec<String> {
        let received = self.received.lock();
        let resources = received
            .metrics
            .iter()
            .flat_map(|export| &export.resource_metrics);
        let metrics = resources
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| &scope.metrics);
        metrics.map(|metric| metric.name.clone()).collect()
    }

    /// Neither what was written nor who wrote it.
    fn tells_nothing_secret(&self, secrets: &[&str]) {
        let received = self.received.lock();
        let all = format!("{:?} {:?}", received.traces, received.metrics);
        for secret in secrets {
            assert!(!all.contains(secret), "{secret} is told");
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
