//! Logs to standard error; traces and metrics to a collector, where one is configured.

use std::io::IsTerminal;
use std::path::PathBuf;

use opentelemetry::Context;
use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::{SpanBuilder, Tracer};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, LogLevel, TelemetryConfig};
use crate::names;

/// Why telemetry cannot be started. One line each.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` cannot be read.
    #[error("telemetry: RUST_LOG is not valid: {0}")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// The authority's certificate cannot be read.
    #[error("telemetry: cannot read {file}: {source}")]
    Certificate {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An `https` endpoint needs the authority that its certificate is checked against.
    #[error("telemetry: an https otlp_endpoint needs otlp_ca_certificate")]
    NoAuthority,
    /// The exporter cannot be made.
    #[error("telemetry: otlp_endpoint cannot be used: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Running telemetry. End it with [`shutdown`](Self::shutdown), or the last traces and metrics are lost.
#[derive(Debug)]
#[must_use = "what was not exported yet is lost without `shutdown`"]
pub struct Telemetry {
    exporters: Option<Exporters>,
}

#[derive(Debug)]
struct Exporters {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Starts telemetry for this process, which is `service` where the configuration names no other.
    ///
    /// Must be called in a tokio runtime, before [`serve`](crate::serve). Logs go to standard error, filtered by `RUST_LOG`, else
    /// by `config.log_level`. Where somebody has set up logging before, for example a test, that stays; a second start replaces
    /// the collector of the first, if the first had one too.
    pub fn start(config: &TelemetryConfig, service: &str) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::builder()
            .with_default_directive(LevelFilter::from(config.log_level).into())
            .from_env()?;
        let exporters = Exporters::new(config, service)?;
        global::set_text_map_propagator(TraceContextPropagator::new());
        if let Some(exporters) = &exporters {
            global::set_tracer_provider(exporters.traces.clone());
            global::set_meter_provider(exporters.metrics.clone());
        }
        let installed = tracing_subscriber::registry()
            .with(
                log_layer(
                    config.log_format,
                    std::io::stderr,
                    std::io::stderr().is_terminal(),
                )
                .with_filter(filter),
            )
            .with(exporters.is_some().then(trace_layer))
            .try_init();
        if installed.is_err() {
            tracing::debug!("logging was set up before");
        }
        Ok(Self { exporters })
    }

    /// Sends what was not sent yet and ends.
    pub async fn shutdown(self) {
        let Some(Exporters { traces, metrics }) = self.exporters else {
            return;
        };
        // The exporters block until the runtime has done their sending.
        let ended = tokio::task::spawn_blocking(move || (traces.shutdown(), metrics.shutdown())).await;
        if !matches!(ended, Ok((Ok(()), Ok(())))) {
            tracing::warn!("the last traces or metrics could not be sent");
        }
    }
}

impl Exporters {
    fn new(config: &TelemetryConfig, service: &str) -> Result<Option<Self>, TelemetryError> {
        let Some(endpoint) = &config.otlp_endpoint else {
            return Ok(None);
        };
        let mut spans = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.as_str());
        let mut metrics = MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.as_str());
        if endpoint.is_https() {
            let tls = client_tls(config)?;
            spans = spans.with_tls_config(tls.clone());
            metrics = metrics.with_tls_config(tls);
        }
        let name = config.service_name.as_deref().unwrap_or(service).to_owned();
        let resource = Resource::builder().with_service_name(name).build();
        let traces = SdkTracerProvider::builder()
            // Not by the parent: else any client could have all its requests recorded.
            .with_sampler(Sampler::TraceIdRatioBased(config.sample_ratio))
            .with_resource(resource.clone())
            .with_batch_exporter(spans.build()?)
            .build();
        let metrics = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_periodic_exporter(metrics.build()?)
            .build();
        Ok(Some(Self { traces, metrics }))
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

fn client_tls(config: &TelemetryConfig) -> Result<ClientTlsConfig, TelemetryError> {
    let file = config
        .otlp_ca_certificate
        .clone()
        .ok_or(TelemetryError::NoAuthority)?;
    let pem = std::fs::read(&file).map_err(|source| TelemetryError::Certificate { file, source })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

fn log_layer<S, W>(format: LogFormat, writer: W, ansi: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer.with_ansi(ansi).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Off => tracing_subscriber::layer::Identity::new().boxed(),
    }
}

fn trace_layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    // The exporter's own requests must not be traced: each would make the next.
    let ours = [
        "h2",
        "hyper",
        "hyper_util",
        "tonic",
        "tower",
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry-otlp",
    ]
    .into_iter()
    .fold(
        Targets::new().with_default(LevelFilter::INFO),
        |targets, target| targets.with_target(target, LevelFilter::OFF),
    );
    tracing_opentelemetry::layer()
        .with_tracer(CurrentTracer)
        .with_location(false)
        .with_threads(false)
        .with_filter(ours)
}

/// The tracer of the provider of the moment: the layer is there for the life of the process, its collector may change.
struct CurrentTracer;

impl Tracer for CurrentTracer {
    type Span = BoxedSpan;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> BoxedSpan {
        global::tracer(names::SCOPE).build_with_context(builder, parent)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn logged(format: LogFormat) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(file.reopen().unwrap());
        let subscriber = tracing_subscriber::registry().with(log_layer(format, writer, false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("rpc", method = "m").in_scope(|| tracing::warn!(position = 7, "slow"));
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object() {
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "slow");
        assert_eq!(line["position"], 7);
        assert_eq!(line["span"]["method"], "m");
    }

    #[test]
    fn a_line_is_text() {
        let line = logged(LogFormat::Text);
        assert!(
            line.contains(" WARN rpc{method=\"m\"}: ") && line.ends_with("slow position=7\n"),
            "{line}"
        );
    }

    #[tokio::test]
    async fn an_https_collector_needs_its_authority() {
        let endpoint = Some("https://collector:4317".parse().unwrap());
        let config = TelemetryConfig {
            otlp_endpoint: endpoint,
            ..TelemetryConfig::default()
        };
        let error = Telemetry::start(&config, "test").unwrap_err();
        assert_eq!(
            error.to_string(),
            "telemetry: an https otlp_endpoint needs otlp_ca_certificate"
        );
    }
}
