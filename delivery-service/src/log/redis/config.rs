//! The section `[redis]` of the configuration.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use serde::{Deserialize, Deserializer, de};

/// Where the ordered log is, in production.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// How the servers work together.
    #[serde(default)]
    pub mode: RedisMode,
    /// `redis://user:password@host:port`, or `rediss://` for TLS: the server; for `sentinel` the sentinels; for `cluster` any
    /// of its nodes, whose user and password are those of the first URL.
    pub urls: Vec<RedisUrl>,
    /// Under `sentinel`: what the sentinels call the primary.
    #[serde(default)]
    pub sentinel_master: Option<String>,
    /// Under `sentinel`: the user at the primary.
    #[serde(default)]
    pub username: Option<String>,
    /// Under `sentinel`: the password at the primary.
    #[serde(default)]
    pub password: Option<Secret>,
    /// For `rediss://`: PEM of the authorities that sign the servers' certificates, instead of the system's.
    #[serde(default)]
    pub ca_certificate: Option<PathBuf>,
    /// Replicas that must have what is shown to anybody. By default 0 on a standalone server and 1 else. As many as each primary has:
    /// with fewer, one may be elected that lacks what was answered. While a primary has fewer replicas, nothing of it is written or read.
    #[serde(default)]
    pub wait_replicas: Option<u32>,
    /// Use servers whose settings lose answered entries. For tests and development only.
    #[serde(default)]
    pub allow_unsafe_persistence: bool,
}

impl RedisConfig {
    /// With defaults for all else.
    pub fn new(mode: RedisMode, urls: Vec<RedisUrl>) -> Self {
        Self {
            mode,
            urls,
            sentinel_master: None,
            username: None,
            password: None,
            ca_certificate: None,
            wait_replicas: None,
            allow_unsafe_persistence: false,
        }
    }

    /// Replicas that must have what is shown to anybody.
    pub(crate) fn wait_replicas(&self) -> u32 {
        self.wait_replicas
            .unwrap_or(u32::from(self.mode != RedisMode::Standalone))
    }
}

/// How the servers work together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// One primary.
    #[default]
    Standalone,
    /// One primary at a time, named by sentinels.
    Sentinel,
    /// A Redis Cluster.
    Cluster,
}

impl RedisMode {
    /// As the setting spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

/// A server's address, with user and password. Shown without them.
#[derive(Clone)]
pub struct RedisUrl {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) login: RedisConnectionInfo,
}

impl std::str::FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "redis.urls: not of the form redis://user:password@host:port or rediss://…";
        if !text.starts_with("redis://") && !text.starts_with("rediss://") {
            return Err(FORM);
        }
        let info: ConnectionInfo = text.into_connection_info().map_err(|_| FORM)?;
        let login = info.redis_settings().clone();
        if login.db() != 0 {
            return Err("redis.urls: no database number: channels are common to all databases of a server");
        }
        match info.addr() {
            ConnectionAddr::Tcp(host, port) => Ok(Self {
                host: host.clone(),
                port: *port,
                tls: false,
                login,
            }),
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                ..
            } => Ok(Self {
                host: host.clone(),
                port: *port,
                tls: true,
                login,
            }),
            ConnectionAddr::TcpTls { .. } => {
                Err("redis.urls: #insecure is not supported: set redis.ca_certificate")
            }
            _ => Err(FORM),
        }
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// A password. Never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(crate) String);

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read_and_no_secret_shown() {
        let config: RedisConfig = serde_json::from_str(
            r#"{"mode": "sentinel", "urls": ["redis://valise:hush@db", "redis://[::1]:7001"],
                "sentinel_master": "valise", "username": "valise", "password": "hush"}"#,
        )
        .unwrap();
        assert_eq!(
            (
                config.urls[0].host.as_str(),
                config.urls[0].port,
                config.urls[0].login.username()
            ),
            ("db", 6379, Some("valise"))
        );
        assert_eq!((config.urls[1].host.as_str(), config.urls[1].port), ("::1", 7001));
        assert_eq!(config.wait_replicas(), 1);
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hush") && shown.contains("redis://db:6379"),
            "{shown}"
        );
        assert_eq!(
            RedisConfig::new(RedisMode::Standalone, Vec::new()).wait_replicas(),
            0
        );
        assert_eq!(
            RedisConfig::new(RedisMode::Cluster, Vec::new()).wait_replicas(),
            1
        );
    }

    #[test]
    fn a_wrong_url_is_named_and_not_shown() {
        for wrong in [
            "",
            "db:6379",
            "http://hush@db",
            "unix:///hush",
            "redis://",
            "redis://:hush@db/1",
            "redis://:hush@db:port",
            "rediss://:hush@db/#insecure",
        ] {
            let error = serde_json::from_value::<RedisUrl>(wrong.into())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("redis.urls: ") && !error.contains("hush"),
                "{wrong}: {error}"
            );
        }
        let unknown = serde_json::from_str::<RedisConfig>(r#"{"urls": [], "wait": 1}"#);
        assert!(unknown.unwrap_err().to_string().contains("unknown field"));
    }
}
