//! Configuration of the directory.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use valise_group_rules::MAX_KEY_PACKAGE_LIFETIME;
use valise_service_runtime::config::{positive_seconds, seconds};
use valise_service_runtime::{RateLimit, ServerConfig, TelemetryConfig};
use valise_sql_database::Database;

/// All of it. Every section and setting may be left out but `peers`, which only [`run`](crate::run) needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where packages are kept: an SQLite file, made if there is none, or the `postgres://` URL of a database of this
    /// service alone, which any number of replicas share. Default `directory.db`.
    pub database: Database,
    /// How the service listens.
    pub server: ServerConfig,
    /// Logs, traces and metrics.
    pub telemetry: TelemetryConfig,
    /// Upkeep of the store.
    pub store: StoreConfig,
    /// Which packages are accepted and handed out.
    pub packages: PackageConfig,
    /// How much callers may do.
    pub limits: LimitConfig,
    /// The other services.
    pub peers: Option<PeerConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: PathBuf::from("directory.db").into(),
            server: ServerConfig::default(),
            telemetry: TelemetryConfig::default(),
            store: StoreConfig::default(),
            packages: PackageConfig::default(),
            limits: LimitConfig::default(),
            peers: None,
        }
    }
}

/// Upkeep of the store.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How often packages that cannot be handed out any more are deleted. Default 600 s.
    #[serde(rename = "sweep_interval_seconds", deserialize_with = "positive_seconds")]
    pub sweep_interval: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            sweep_interval: Duration::from_mins(10),
        }
    }
}

/// Which packages are accepted and handed out.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PackageConfig {
    /// The deployment's retention window: how long a device may be away and still catch up. A package is handed out
    /// only while it lives longer than that: a member that reads an accepted Add after the added package has expired
    /// rejects it for ever. The same as the delivery service's. Default 30 days.
    #[serde(rename = "retention_seconds", deserialize_with = "seconds")]
    pub retention: Duration,
    /// Longest lifetime of a package, at most 84 days and an hour: clients refuse more. That is the default.
    #[serde(rename = "maximum_lifetime_seconds", deserialize_with = "positive_seconds")]
    pub maximum_lifetime: Duration,
    /// The most one-time packages of one device and suite. Default 200.
    pub capacity: u32,
    /// Below so many one-time packages the stock of a device and suite is low. Default 20.
    pub low_level: u32,
}

impl Default for PackageConfig {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            retention: Duration::from_secs(30 * DAY),
            maximum_lifetime: Duration::from_secs(MAX_KEY_PACKAGE_LIFETIME),
            capacity: 200,
            low_level: 20,
        }
    }
}

/// How much callers may do (RFC 9420 §16.8), counted by each replica for itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// Packages that a device publishes. Default 2,000 an hour.
    pub publish: RateLimit,
    /// Devices that a user claims packages of; users of whom nothing is known count too. Default 10,000 an hour.
    pub claim: RateLimit,
    /// Packages of one device that a user claims. Default 60 an hour.
    pub claim_of_one_device: RateLimit,
    /// Devices whose cipher suites a user asks for; users of whom nothing is known count too. Default 10,000 an hour.
    pub find_suites: RateLimit,
}

impl Default for LimitConfig {
    fn default() -> Self {
        const HOUR: u32 = 3600;
        Self {
            publish: RateLimit::new(2_000, HOUR),
            claim: RateLimit::new(10_000, HOUR),
            claim_of_one_device: RateLimit::new(60, HOUR),
            find_suites: RateLimit::new(10_000, HOUR),
        }
    }
}

/// The other services, and who this one is to them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// URL of the authentication service.
    pub authentication: String,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// URL of the delivery service, which takes low-stock notices. Without it there are none.
    pub delivery: Option<String>,
    /// PEM file with the authority of `https` URLs.
    pub ca_certificate: Option<PathBuf>,
    /// PEM file with this service's private key.
    pub key: PathBuf,
    /// PEM file with its certificate chain, issued by the authentication service.
    pub certificate: PathBuf,
}

impl Config {
    /// What serde cannot say. The error names the setting.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let packages = &self.packages;
        if packages.maximum_lifetime <= packages.retention {
            return Err("packages.maximum_lifetime_seconds must be more than packages.retention_seconds");
        }
        if packages.maximum_lifetime.as_secs() > MAX_KEY_PACKAGE_LIFETIME {
            return Err("packages.maximum_lifetime_seconds must be at most 7261200 (84 days and an hour)");
        }
        if packages.capacity == 0 {
            return Err("packages.capacity must be at least 1");
        }
        if packages.low_level > packages.capacity {
            return Err("packages.low_level must be at most packages.capacity");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_contradictions_are_named() {
        Config::default().check().unwrap();
        let with = |change: fn(&mut PackageConfig)| {
            let mut config = Config::default();
            change(&mut config.packages);
            config.check().unwrap_err()
        };
        assert!(
            with(|packages| packages.retention = packages.maximum_lifetime)
                .contains("maximum_lifetime_seconds")
        );
        assert!(
            with(|packages| packages.maximum_lifetime += Duration::from_secs(1))
                .contains(&MAX_KEY_PACKAGE_LIFETIME.to_string())
        );
        assert!(with(|packages| packages.capacity = 0).contains("capacity"));
        assert!(with(|packages| packages.low_level = packages.capacity + 1).contains("low_level"));
    }

    fn load(toml: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        valise_service_runtime::config::load(Some(file.path()), "VALISE_DIRECTORY_TEST", &[])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_sets_everything_and_what_is_unknown_is_an_error() {
        let config = load(
            r#"
            database = "postgres://valise:hush@db/directory"
            [store]
            sweep_interval_seconds = 60
            [packages]
            retention_seconds = 86400
            maximum_lifetime_seconds = 172800
            capacity = 50
            low_level = 5
            [limits]
            publish = { requests = 1, seconds = 2 }
            claim = { requests = 3, seconds = 4 }
            claim_of_one_device = { requests = 5, seconds = 6 }
            [peers]
            authentication = "https://authentication.interieur.example"
            issuer = "https://authentication.interieur.example"
            key = "key.pem"
            certificate = "chain.pem"
            "#,
        )
        .unwrap();
        config.check().unwrap();
        assert!(matches!(config.database, Database::Postgres(_)));
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(config.store.sweep_interval, Duration::from_mins(1));
        assert_eq!(config.packages.retention, Duration::from_hours(24));
        assert_eq!(config.limits.claim_of_one_device, RateLimit::new(5, 6));
        assert!(config.peers.unwrap().delivery.is_none());
        for unknown in [
            "retention = 1",
            "[store]\nfile = 'directory.db'",
            "[packages]\nretention = 1",
            "[peers]\nurl = 1",
        ] {
            assert!(load(unknown).is_err(), "{unknown}");
        }
    }
}
