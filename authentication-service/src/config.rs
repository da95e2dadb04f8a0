//! Settings, each with its default. A setting that is not known is an error.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use valise_proto::UserId;
use valise_service_runtime::{RateLimit, ServerConfig, TelemetryConfig};
use valise_sql_database::Database;

use crate::StartError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Settings of the authentication service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The path of an SQLite file, or the `postgres://` URL of a database of its own. It holds the service's keys: a file
    /// is made readable by its owner alone, a server must be guarded alike.
    pub database: Database,
    /// Names the deployment in its certificates and tokens, for example `interieur.example`. It never changes.
    pub trust_domain: String,
    /// The `iss` of access tokens, which all services expect. Default `valise://<trust_domain>`.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The domains whose users may enrol, for example `["interieur.example"]`.
    pub domains: Vec<String>,
    /// PEM file with the root certificate's private key, made at the first start. Without it the key is kept in the
    /// database. It must be readable by its owner alone.
    #[serde(default)]
    pub root_key_file: Option<PathBuf>,
    /// How long certificates and tokens are valid.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// How many failed enrolments a replica answers as such; more are answered with `RATE_LIMITED`. Default 30 a minute.
    #[serde(default = "failed_enrolments")]
    pub failed_enrolments: RateLimit,
    /// How many lists of other users' devices a user gets of a replica; for users that there are not, too. Administrators, who can list all
    /// users, get any number. Default 10,000 an hour, as many as the key-package directory's `limits.find_suites`.
    #[serde(default = "devices_of_others")]
    pub devices_of_others: RateLimit,
    /// How it listens.
    #[serde(default)]
    pub server: ServerConfig,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// How long certificates and tokens are valid.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    /// Of a device certificate. 1 to 825; default 90.
    pub device_certificate_days: u16,
    /// Of a service certificate. 1 to 825; default 365.
    pub service_certificate_days: u16,
    /// Of the root certificate, when it is made. 30 to 7,300; default 3,650.
    pub root_certificate_days: u16,
    /// Of an access token. 60 to 3,600; default 600.
    pub access_token_seconds: u16,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            device_certificate_days: 90,
            service_certificate_days: 365,
            root_certificate_days: 3650,
            access_token_seconds: 600,
        }
    }
}

impl Lifetimes {
    pub(crate) fn device_certificate(&self) -> Duration {
        DAY * u32::from(self.device_certificate_days)
    }

    pub(crate) fn service_certificate(&self) -> Duration {
        DAY * u32::from(self.service_certificate_days)
    }

    pub(crate) fn root_certificate(&self) -> Duration {
        DAY * u32::from(self.root_certificate_days)
    }

    pub(crate) fn access_token(&self) -> Duration {
        Duration::from_secs(self.access_token_seconds.into())
    }
}

fn failed_enrolments() -> RateLimit {
    RateLimit::new(30, 60)
}

fn devices_of_others() -> RateLimit {
    RateLimit::new(10_000, 3600)
}

impl Config {
    /// With defaults for all that has one.
    pub fn new(database: impl Into<Database>, trust_domain: impl Into<String>, domains: Vec<String>) -> Self {
        Self {
            database: database.into(),
            trust_domain: trust_domain.into(),
            issuer: None,
            domains,
            root_key_file: None,
            lifetimes: Lifetimes::default(),
            failed_enrolments: failed_enrolments(),
            devices_of_others: devices_of_others(),
            server: ServerConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }

    /// The `iss` of access tokens.
    pub fn issuer(&self) -> String {
        self.issuer
            .clone()
            .unwrap_or_else(|| format!("valise://{}", self.trust_domain))
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |setting, problem| Err(StartError::Setting { setting, problem });
        if !is_domain(&self.trust_domain) {
            return wrong("trust_domain", "not a domain name in lower case");
        }
        if self
            .issuer
            .as_ref()
            .is_some_and(|issuer| issuer.is_empty() || issuer.len() > 256)
        {
            return wrong("issuer", "must have 1 to 256 characters");
        }
        if self.domains.is_empty() {
            return wrong("domains", "nobody could enrol: name at least one");
        }
        if !self.domains.iter().all(|domain| is_domain(domain)) {
            return wrong("domains", "not a domain name in lower case");
        }
        let Lifetimes {
            device_certificate_days,
            service_certificate_days,
            root_certificate_days,
            access_token_seconds,
        } = self.lifetimes;
        if !(1..=825).contains(&device_certificate_days) {
            return wrong("lifetimes.device_certificate_days", "must be 1 to 825");
        }
        if !(1..=825).contains(&service_certificate_days) {
            return wrong("lifetimes.service_certificate_days", "must be 1 to 825");
        }
        if !(30..=7300).contains(&root_certificate_days) {
            return wrong("lifetimes.root_certificate_days", "must be 30 to 7300");
        }
        if !(60..=3600).contains(&access_token_seconds) {
            return wrong("lifetimes.access_token_seconds", "must be 60 to 3600");
        }
        Ok(())
    }
}

/// As in a user id.
fn is_domain(text: &str) -> bool {
    format!("a@{text}")
        .parse::<UserId>()
        .is_ok_and(|user| user.domain() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        "database = 'a.db'\ntrust_domain = 'valise.example'\ndomains = ['interieur.example']\n";

    fn parse(more: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("{LEAST}{more}"))
    }

    #[test]
    fn little_has_to_be_said() {
        let config = parse("").unwrap();
        config.check().unwrap();
        assert_eq!(config.issuer(), "valise://valise.example");
        assert_eq!(config.lifetimes.device_certificate(), DAY * 90);
        assert_eq!(config.lifetimes.access_token(), Duration::from_secs(600));
        assert_eq!(config.devices_of_others, RateLimit::new(10_000, 3600));
        let config = parse("devices_of_others = { requests = 5, seconds = 60 }").unwrap();
        assert_eq!(config.devices_of_others, RateLimit::new(5, 60));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        assert!(parse("domain = 'x.example'").is_err());
        assert!(parse("[lifetimes]\ndevice_certificate_hours = 1").is_err());
        assert!(toml::from_str::<Config>("").is_err());
    }

    #[test]
    fn what_could_not_work_is_an_error() {
        let wrong = |change: fn(&mut Config), setting: &str| {
            let mut config = parse("").unwrap();
            change(&mut config);
            let text = config.check().unwrap_err().to_string();
            assert!(text.starts_with(&format!("configuration: {setting}: ")), "{text}");
        };
        wrong(
            |config| config.trust_domain = "Valise.example".into(),
            "trust_domain",
        );
        wrong(|config| config.issuer = Some(String::new()), "issuer");
        wrong(|config| config.domains.clear(), "domains");
        wrong(|config| config.domains.push("a/b.example".into()), "domains");
        wrong(
            |config| config.lifetimes.device_certificate_days = 0,
            "lifetimes.device_certificate_days",
        );
        wrong(
            |config| config.lifetimes.service_certificate_days = 826,
            "lifetimes.service_certificate_days",
        );
        wrong(
            |config| config.lifetimes.root_certificate_days = 29,
            "lifetimes.root_certificate_days",
        );
        wrong(
            |config| config.lifetimes.access_token_seconds = 3601,
            "lifetimes.access_token_seconds",
        );
    }
}
