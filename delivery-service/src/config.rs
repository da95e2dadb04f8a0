//! The delivery service's configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use valise_group_rules::GroupLimits;
use valise_service_runtime::{ServerConfig, TelemetryConfig};

/// All settings; a file's keys, overridden by `VALISE_DELIVERY_<SECTION>__<KEY>`. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The SQLite file of the embedded store.
    pub database: PathBuf,
    /// The service's key, PKCS#8, PEM.
    pub key_file: PathBuf,
    /// The service's certificate chain, PEM, leaf first.
    pub chain_file: PathBuf,
    /// Where the authentication service is; not used inside `valise up`.
    #[serde(default = "default_authentication_url")]
    pub authentication_url: String,
    /// `iss` of the access tokens; not used inside `valise up`.
    #[serde(default = "default_token_issuer")]
    pub token_issuer: String,
    /// The listener and its limits.
    #[serde(default)]
    pub server: ServerConfig,
    /// Logs, traces, metrics.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Limits of what clients may do.
    #[serde(default)]
    pub limits: Limits,
    /// How long entries are kept at least, in seconds; 1 hour to 365 days. Key packages must live longer (30 days by default).
    #[serde(default = "default_retention")]
    pub retention_seconds: u64,
    /// Groups whose state is kept in memory.
    #[serde(default = "default_cached_groups")]
    pub cached_groups: u64,
}

fn default_authentication_url() -> String {
    "http://127.0.0.1:7401".to_owned()
}

fn default_token_issuer() -> String {
    "valise://valise.example".to_owned()
}

const fn default_retention() -> u64 {
    30 * 24 * 3600
}

const fn default_cached_groups() -> u64 {
    10_000
}

impl Config {
    /// With defaults for all but the files.
    pub fn new(database: PathBuf, key_file: PathBuf, chain_file: PathBuf) -> Self {
        Self {
            database,
            key_file,
            chain_file,
            authentication_url: default_authentication_url(),
            token_issuer: default_token_issuer(),
            server: ServerConfig::default(),
            telemetry: TelemetryConfig::default(),
            limits: Limits::default(),
            retention_seconds: default_retention(),
            cached_groups: default_cached_groups(),
        }
    }
}

/// Limits of what clients may do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest application message, in bytes.
    pub message_bytes: usize,
    /// Largest commit, Welcome or GroupInfo, in bytes.
    pub commit_bytes: usize,
    /// Largest proposal, in bytes.
    pub proposal_bytes: usize,
    /// Largest ephemeral message, in bytes.
    pub ephemeral_bytes: usize,
    /// Most members (devices) of a group.
    pub members: usize,
    /// Most Adds in a commit.
    pub adds_per_commit: usize,
    /// Most groups on the stream of a device.
    pub groups_per_device: usize,
    /// Most bytes that a device may have unacknowledged on its stream.
    pub unacknowledged_bytes: usize,
    /// Most entries that a device may have unacknowledged on its stream.
    pub unacknowledged_entries: usize,
    /// A device that acknowledges nothing for so many seconds while its window is full is a slow reader.
    pub slow_reader_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let group = GroupLimits::default();
        Self {
            message_bytes: 256 * 1024,
            commit_bytes: 2 * 1024 * 1024,
            proposal_bytes: 64 * 1024,
            ephemeral_bytes: 16 * 1024,
            members: group.members,
            adds_per_commit: group.adds_per_commit,
            groups_per_device: 2000,
            unacknowledged_bytes: 4 * 1024 * 1024,
            unacknowledged_entries: 1000,
            slow_reader_seconds: 60,
        }
    }
}

impl Limits {
    pub(crate) fn group(&self) -> GroupLimits {
        GroupLimits {
            members: self.members,
            adds_per_commit: self.adds_per_commit,
        }
    }

    pub(crate) fn slow_reader(&self) -> Duration {
        Duration::from_secs(self.slow_reader_seconds)
    }
}
