//! The delivery service's configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use valise_group_rules::GroupLimits;
use valise_service_runtime::{ServerConfig, TelemetryConfig};
use valise_sql_database::{Database, PostgresUrl};

use crate::group_state::GROUP_WEIGHT;
use crate::log::redis::config::RedisConfig;
use crate::offer_entries;

/// All settings; a file's keys, overridden by `VALISE_DELIVERY_<SECTION>__<KEY>`. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The SQLite file of the embedded store, or the PostgreSQL database of the production store, which needs `[redis]` beside it.
    pub database: Database,
    /// With a PostgreSQL database: where the ordered log is.
    #[serde(default)]
    pub redis: Option<RedisConfig>,
    /// With a PostgreSQL database: how the ordered log is archived there.
    #[serde(default)]
    pub archive: ArchiveConfig,
    /// The service's key, PKCS#8, PEM.
    pub key_file: PathBuf,
    /// The service's certificate chain, PEM, leaf first.
    pub chain_file: PathBuf,
    /// The service's P-256 key, PKCS#8, PEM, with which it acts in groups with the suite 0x0002; without it there are none.
    #[serde(default)]
    pub p256_key_file: Option<PathBuf>,
    /// The certificate chain of that key, PEM, leaf first.
    #[serde(default)]
    pub p256_chain_file: Option<PathBuf>,
    /// MLS cipher suites that new groups may have (RFC 9420 §17.1), best first: of those that the devices of a group's first
    /// members share, it gets the first of these. 0x0001, 0x0002, 0x0003, 0x004E, 0x004F; by default all of them for which the
    /// service has a key, hybrid post-quantum ones last.
    #[serde(default)]
    pub cipher_suites: Option<Vec<u16>>,
    /// Where the authentication service is; by default where it listens by default, `http://127.0.0.1:50051`. Not used inside `valise up`.
    #[serde(default = "default_authentication_url")]
    pub authentication_url: String,
    /// PEM file with the authority of an `https` address of the authentication service.
    #[serde(default)]
    pub authentication_ca_certificate: Option<PathBuf>,
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
    /// How long entries are kept that not every member has acknowledged, in seconds; 1 hour to 365 days (30 days by default). A group's policy
    /// may say less. Key packages must live longer. The embedded store never deletes entries: there it is only what clients are told, and how
    /// long key packages must live.
    #[serde(default = "default_retention")]
    pub retention_seconds: u64,
    /// Groups whose state is kept in memory: how many members (devices) they have in all, each group counted as 8 more; at least
    /// as many as one group may have, with these. Each takes about 3 KB.
    #[serde(default = "default_cached_members")]
    pub cached_members: u64,
}

/// All that the command `migrate` needs of the [`Config`]: it looks at nothing else, so that nobody has to give it other secrets.
#[derive(Clone, Debug, Deserialize)]
pub struct DatabaseConfig {
    /// As in [`Config`].
    pub database: Database,
}

fn default_authentication_url() -> String {
    format!("http://{}", ServerConfig::default().listen)
}

fn default_token_issuer() -> String {
    "valise://valise.example".to_owned()
}

const fn default_retention() -> u64 {
    30 * 24 * 3600
}

const fn default_cached_members() -> u64 {
    250_000
}

impl Config {
    /// With defaults for all but the files.
    pub fn new(database: impl Into<Database>, key_file: PathBuf, chain_file: PathBuf) -> Self {
        Self {
            database: database.into(),
            redis: None,
            archive: ArchiveConfig::default(),
            key_file,
            chain_file,
            p256_key_file: None,
            p256_chain_file: None,
            cipher_suites: None,
            authentication_url: default_authentication_url(),
            authentication_ca_certificate: None,
            token_issuer: default_token_issuer(),
            server: ServerConfig::default(),
            telemetry: TelemetryConfig::default(),
            limits: Limits::default(),
            retention_seconds: default_retention(),
            cached_members: default_cached_members(),
        }
    }
}

/// A setting that does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("setting {setting}: {rule}")]
pub struct SettingError {
    /// Which.
    pub setting: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// Where the log is kept, judged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreConfig<'a> {
    /// In one SQLite file.
    Embedded(&'a Path),
    /// Hot on Redis, archived in PostgreSQL.
    Production {
        database: &'a PostgresUrl,
        redis: &'a RedisConfig,
        archive: &'a ArchiveConfig,
    },
}

impl Config {
    /// The stores that the settings ask for, or the setting that does not fit.
    pub(crate) fn store(&self) -> Result<StoreConfig<'_>, SettingError> {
        let wrong = |setting, rule| Err(SettingError { setting, rule });
        if !(3600..=365 * 24 * 3600).contains(&self.retention_seconds) {
            return wrong(
                "retention_seconds",
                "must be 3600 to 31536000 (1 hour to 365 days)",
            );
        }
        if !(2..=GroupLimits::default().members).contains(&self.limits.members) {
            return wrong("limits.members", "must be 2 to 10000");
        }
        if self.cached_members < (self.limits.members as u64).saturating_add(u64::from(GROUP_WEIGHT)) {
            return wrong("cached_members", "must be limits.members and 8 or more");
        }
        match (&self.database, &self.redis) {
            (Database::Sqlite(file), None) => Ok(StoreConfig::Embedded(file)),
            (Database::Sqlite(_), Some(_)) => wrong(
                "redis",
                "only with a PostgreSQL database: an SQLite file holds the log itself",
            ),
            (Database::Postgres(_), None) => wrong(
                "redis",
                "needed with a PostgreSQL database: the log's order is decided there",
            ),
            (Database::Postgres(database), Some(redis)) => {
                self.archive.judge()?;
                Ok(StoreConfig::Production {
                    database,
                    redis,
                    archive: &self.archive,
                })
            }
        }
    }
}

impl Config {
    /// How long devices keep copies of entries: the embedded log, whose entries are where their order is decided, cannot lose any.
    pub(crate) fn entry_copies(&self) -> Option<Duration> {
        match self.database {
            Database::Sqlite(_) => None,
            Database::Postgres(_) => Some(Duration::from_secs(self.archive.device_copies_seconds)),
        }
    }
}

/// How the ordered log is archived, and how much of it stays in Redis.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Newest entries of a group that stay in Redis, unless they are older than `max_hot_seconds`.
    pub hot_entries: u64,
    /// Entries that are younger, in seconds, stay in Redis, too; 10 or more.
    pub hot_seconds: u64,
    /// Archived entries that are older, in seconds, leave Redis, all but a group's newest: of a group in which nothing happens that one
    /// stays; `hot_seconds` or more.
    pub max_hot_seconds: u64,
    /// A replica that does not say that it is alive for so many seconds gives up its part of the archiving; 2 to 300.
    pub lease_seconds: u64,
    /// Milliseconds between two looks at what has changed; 10 to 60,000.
    pub sweep_milliseconds: u64,
    /// While PostgreSQL cannot be reached, entries are taken up to this number that are not archived; then they are refused.
    pub max_unarchived_entries: u64,
    /// How often a group's old entries are looked at, in seconds; 1 to 86,400.
    pub retention_sweep_seconds: u64,
    /// Devices keep what they have applied for so long, in seconds, to give it back if it is lost before it is archived; 60 to 604,800.
    /// Longer than PostgreSQL may be away.
    pub device_copies_seconds: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            hot_entries: 1000,
            hot_seconds: 3600,
            max_hot_seconds: 86_400,
            lease_seconds: 10,
            sweep_milliseconds: 2000,
            max_unarchived_entries: 1_000_000,
            retention_sweep_seconds: 3600,
            device_copies_seconds: 86_400,
        }
    }
}

impl ArchiveConfig {
    fn judge(&self) -> Result<(), SettingError> {
        let most = 1 << 40;
        let ranges = [
            (
                self.hot_entries,
                1..=most,
                "archive.hot_entries",
                "must be 1 or more",
            ),
            // A write whose answer was lost is repeated for 8 s; its key must still be there then.
            (
                self.hot_seconds,
                10..=most,
                "archive.hot_seconds",
                "must be 10 or more",
            ),
            (
                self.max_hot_seconds,
                self.hot_seconds..=most,
                "archive.max_hot_seconds",
                "must be archive.hot_seconds or more",
            ),
            (
                self.lease_seconds,
                2..=300,
                "archive.lease_seconds",
                "must be 2 to 300",
            ),
            (
                self.sweep_milliseconds,
                10..=60_000,
                "archive.sweep_milliseconds",
                "must be 10 to 60000",
            ),
            (
                self.max_unarchived_entries,
                1..=most,
                "archive.max_unarchived_entries",
                "must be 1 or more",
            ),
            (
                self.retention_sweep_seconds,
                1..=86_400,
                "archive.retention_sweep_seconds",
                "must be 1 to 86400",
            ),
            (
                self.device_copies_seconds,
                60..=604_800,
                "archive.device_copies_seconds",
                "must be 60 to 604800",
            ),
        ];
        match ranges
            .into_iter()
            .find(|(value, range, ..)| !range.contains(value))
        {
            Some((_, _, setting, rule)) => Err(SettingError { setting, rule }),
            None => Ok(()),
        }
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    pub(crate) fn sweep(&self) -> Duration {
        Duration::from_millis(self.sweep_milliseconds)
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
    /// Most members (devices) of a group; 2 to 10,000. Devices judge each commit, too, and hold a group that has more.
    pub members: usize,
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
        Self {
            message_bytes: 256 * 1024,
            commit_bytes: 2 * 1024 * 1024,
            proposal_bytes: 64 * 1024,
            ephemeral_bytes: 16 * 1024,
            members: GroupLimits::default().members,
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
            ..GroupLimits::default()
        }
    }

    /// The largest request that a device may need, in bytes; larger ones are not read.
    pub(crate) fn request_bytes(&self) -> usize {
        /// What is around the largest fields: keys, positions, and the like of up to 200 offered entries.
        const FRAME: usize = 64 * 1024;
        /// A group on a stream: id, position, entry id.
        const GROUP: usize = 64;
        let largest = [
            // A commit, its GroupInfo and its Welcome travel together.
            self.commit_bytes.saturating_mul(3),
            self.message_bytes,
            self.proposal_bytes,
            self.ephemeral_bytes,
            self.groups_per_device.saturating_mul(GROUP),
        ];
        largest
            .into_iter()
            .fold(offer_entries::MAX_BYTES, usize::max)
            .saturating_add(FRAME)
    }

    pub(crate) fn slow_reader(&self) -> Duration {
        Duration::from_secs(self.slow_reader_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::redis::config::RedisMode;

    fn config(database: &str, redis: bool) -> Config {
        let database: Database = database.parse().unwrap();
        let redis = redis.then(|| {
            RedisConfig::new(
                RedisMode::Standalone,
                vec!["redis://127.0.0.1:6379".parse().unwrap()],
            )
        });
        Config {
            redis,
            ..Config::new(database, PathBuf::new(), PathBuf::new())
        }
    }

    #[test]
    fn stores_go_together_or_not_at_all() {
        let postgres = "postgres://valise@db/delivery";
        assert!(matches!(
            config("delivery.db", false).store(),
            Ok(StoreConfig::Embedded(_))
        ));
        assert!(matches!(
            config(postgres, true).store(),
            Ok(StoreConfig::Production { .. })
        ));
        for (database, redis) in [("delivery.db", true), (postgres, false)] {
            let error = config(database, redis).store().unwrap_err();
            assert_eq!(error.setting, "redis", "{error}");
        }
    }

    #[test]
    fn the_authentication_service_is_looked_for_where_it_listens() {
        let config = Config::new(PathBuf::new(), PathBuf::new(), PathBuf::new());
        assert_eq!(config.authentication_url, "http://127.0.0.1:50051");
    }

    #[test]
    fn a_request_may_be_as_large_as_the_limits_let_its_parts_be() {
        let with = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.request_bytes()
        };
        assert!(with(|_| ()) >= 6 * 1024 * 1024);
        assert!(with(|limits| limits.commit_bytes = 10_000_000) >= 30_000_000);
        assert!(with(|limits| limits.message_bytes = 10_000_000) >= 10_000_000);
        assert!(with(|limits| limits.proposal_bytes = 10_000_000) >= 10_000_000);
        assert!(with(|limits| limits.groups_per_device = 1_000_000) >= 40_000_000);
        assert!(with(|limits| limits.commit_bytes = 1) >= offer_entries::MAX_BYTES);
        assert_eq!(with(|limits| limits.commit_bytes = usize::MAX), usize::MAX);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = config("postgres://valise@db/delivery", true);
            change(&mut config);
            config.store().unwrap_err().setting
        };
        assert_eq!(wrong(|config| config.retention_seconds = 60), "retention_seconds");
        // What devices would refuse is not accepted.
        assert_eq!(wrong(|config| config.limits.members = 10_001), "limits.members");
        assert_eq!(wrong(|config| config.cached_members = 10_007), "cached_members");
        assert_eq!(
            wrong(|config| config.archive.hot_entries = 0),
            "archive.hot_entries"
        );
        assert_eq!(
            wrong(|config| config.archive.hot_seconds = 9),
            "archive.hot_seconds"
        );
        assert_eq!(
            wrong(|config| config.archive.max_hot_seconds = config.archive.hot_seconds - 1),
            "archive.max_hot_seconds"
        );
        assert_eq!(
            wrong(|config| config.archive.lease_seconds = 0),
            "archive.lease_seconds"
        );
        assert_eq!(
            wrong(|config| config.archive.sweep_milliseconds = 0),
            "archive.sweep_milliseconds"
        );
    }
}
