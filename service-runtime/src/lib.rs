//! What every Valise service runs on, and what knows nothing of what they do.
//!
//! - [`config::load`]: a TOML file, overridden by the environment; [`ServerConfig`], [`TelemetryConfig`].
//! - [`serve`]: gRPC over HTTP/2 with everything that happens around a handler (`stack.rs`), health, reflection, and a soft
//!   and a hard shutdown.
//! - [`Lifecycle`]: background tasks that are owned and joined.
//! - [`watch_certificates`]: says in time that the service's own certificate is to be renewed.
//! - [`Telemetry`]: logs, traces and metrics. Their names are in [`names`].
//! - [`KeyedLimiter`]: a rate limit per caller.
//!
//! A service's `run`, in full:
//!
//! ```ignore
//! let readiness = Readiness::new();
//! let mut routes = tonic::service::RoutesBuilder::default();
//! service.add_routes(&mut routes);
//! readiness.ready("valise.directory.v1.KeyPackageDirectoryService").await;
//! serve(listener, routes.routes(), readiness, token_layer, config.server, shutdown).await?;
//! service.stop().await;
//! ```

mod certificate_watch;
pub mod config;
mod health;
mod lifecycle;
mod limits;
pub mod names;
mod quiet;
mod reflection;
mod rpc;
mod serve;
mod stack;
mod telemetry;
mod tls;

pub use certificate_watch::watch_certificates;
pub use config::{ConfigError, LogFormat, LogLevel, ServerConfig, TelemetryConfig, TlsConfig};
pub use health::{LIVENESS, Readiness};
pub use lifecycle::{Lifecycle, termination};
pub use limits::{KeyedLimiter, RateLimit};
pub use serve::{ServeError, bind, serve};
pub use stack::MapErrors;
pub use telemetry::{Telemetry, TelemetryError};
pub use tls::TlsError;
