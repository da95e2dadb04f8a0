//! Configuration: a TOML file, overridden by the environment. What is not known is an error.

mod secret_file;
mod source;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

/// Why a configuration cannot be used: one line that names the setting and where it came from.
///
/// It never shows a value, which may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration: cannot read {file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration: {file} is not valid TOML: {problem}")]
    NotToml {
        /// The file.
        file: PathBuf,
        /// Line and column, and what is wrong there.
        problem: String,
    },
    /// A setting is unknown, missing or not usable.
    #[error("configuration: {problem} ({origin})")]
    Setting {
        /// What is wrong with which setting.
        problem: String,
        /// Where it is set, or could be.
        origin: String,
    },
}

/// Loads a configuration: `file`, if given, overridden by environment variables.
///
/// The variable of the setting `key` in the section `section` is `PREFIX_SECTION__KEY`, where `env_prefix` is `PREFIX`. A
/// variable's value is taken as text, number or boolean, as the setting requires; one that begins with `[` or `{` is a
/// list or table in TOML's form. `T` and its sections must be `deny_unknown_fields`, so that a misspelt setting is an
/// error.
///
/// Each of `secrets` (`key`, or `section.key`) may also stand in a file of its own: `key_file`, in the configuration file or the
/// environment, names it, and its content without white space around it is the value, read like a variable's. A secret that is
/// set both ways in one place is an error.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    secrets: &[&str],
) -> Result<T, ConfigError> {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    source::load(file, env_prefix, secrets, variables)
}

/// How a service listens and what it takes on.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port to listen on. Default `127.0.0.1:50051`.
    pub listen: SocketAddr,
    /// Where health checks are answered too, and nothing else is: always without TLS, which the probes of Kubernetes do
    /// not speak. Without it they are answered at `listen` alone.
    pub health_listen: Option<SocketAddr>,
    /// Longest time that a request other than a stream may take, whatever the client allows. Default 30 s.
    #[serde(rename = "request_deadline_seconds", deserialize_with = "positive_seconds")]
    pub request_deadline: Duration,
    /// Requests at work at the same time; more are refused with `OVERLOADED`. A stream counts until it has begun.
    /// Default 1,024.
    pub concurrency_limit: NonZeroUsize,
    /// Connections at the same time; more wait to be accepted. Default 10,000.
    pub max_connections: NonZeroUsize,
    /// Requests and streams at the same time on one connection; a client waits with more. Default 256.
    pub max_streams_per_connection: u32,
    /// With it, the service speaks TLS only.
    pub tls: Option<TlsConfig>,
    /// How long requests and streams may go on after shutdown has begun. Default 20 s.
    #[serde(rename = "graceful_shutdown_seconds", deserialize_with = "seconds")]
    pub graceful_shutdown: Duration,
    /// Whether clients may ask for the contract (gRPC server reflection). Default yes: the contract is public.
    pub reflection: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            health_listen: None,
            request_deadline: Duration::from_secs(30),
            concurrency_limit: const { NonZeroUsize::new(1024).unwrap() },
            max_connections: const { NonZeroUsize::new(10_000).unwrap() },
            max_streams_per_connection: 256,
            tls: None,
            graceful_shutdown: Duration::from_secs(20),
            reflection: true,
        }
    }
}

/// The service's own TLS certificate. New connections are shown a renewed one within a minute after the files have changed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, the service's own first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Logs, traces and metrics.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Where traces and metrics go, OTLP over gRPC, for example `http://127.0.0.1:4317`. Without it there are none.
    pub otlp_endpoint: Option<Endpoint>,
    /// PEM file with the authority of an `https` endpoint.
    pub otlp_ca_certificate: Option<PathBuf>,
    /// Name of the service in traces and metrics, instead of its own.
    pub service_name: Option<String>,
    /// Form of the log lines on standard error. Default text.
    pub log_format: LogFormat,
    /// What is logged: this and what is more severe, where `RUST_LOG` does not say otherwise. Default info.
    pub log_level: LogLevel,
    /// Share of traces that are recorded, 0 to 1. It is decided by the trace id, so that all services with the same
    /// ratio record the same traces; what a client asks for does not count. Default 1.
    #[serde(deserialize_with = "ratio")]
    pub sample_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_ca_certificate: None,
            service_name: None,
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            sample_ratio: 1.0,
        }
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// No log lines.
    Off,
}

/// How severe something is that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Somebody must act.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What an operator may want to know.
    #[default]
    Info,
    /// What a developer may want to know.
    Debug,
}

/// The URL of a collector: `http` or `https`, without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl std::str::FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: http::Uri = text.parse().map_err(|_| "not a URL")?;
        let authority = uri.authority().ok_or("not a URL with scheme and host")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("not an http or https URL");
        }
        if authority.as_str().contains('@') {
            return Err("a URL must not hold a password: use OTEL_EXPORTER_OTLP_HEADERS");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// For `#[serde(deserialize_with)]`: a duration given as a number of seconds, with or without a fraction.
pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| D::Error::custom("not a number of seconds"))
}

/// Like [`seconds`], but more than none.
pub fn positive_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = seconds(deserializer)?;
    if duration.is_zero() {
        Err(D::Error::custom("must be more than 0 seconds"))
    } else {
        Ok(duration)
    }
}

fn ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(D::Error::custom("must be 0 to 1"))
    }
}
