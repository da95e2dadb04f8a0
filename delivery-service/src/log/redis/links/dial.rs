//! Connections to servers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisConnectionInfo, RedisError, TlsCertificates, Value,
};

use super::open_error::OpenError;
use crate::log::redis::config::{RedisConfig, RedisMode};

/// A connection that is not made by then is not made.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes that a connection collects before it writes them.
const WRITE_BUFFER: usize = 256 * 1024;

/// Host and port of a server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

impl Address {
    pub(in crate::log::redis) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// A node as another one names it: an empty host is its own.
    pub(super) fn named_by(asked: &Self, host: &str, port: u16) -> Self {
        match host {
            "" | "?" => Self::new(&asked.host, port),
            host => Self::new(host, port),
        }
    }

    /// Where a redirection (`MOVED 3999 host:port`, without its code) leads: the slot and its node.
    pub(super) fn of_redirection(asked: &Self, details: &str) -> Option<(u16, Self)> {
        let (slot, place) = details.split_once(' ')?;
        let (host, port) = place.trim().rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some((
            slot.parse().ok()?,
            Self::named_by(asked, host, port.parse().ok()?),
        ))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A server, and how to log in there.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) address: Address,
    login: RedisConnectionInfo,
    /// Where user and password come from.
    setting: &'static str,
}

/// Makes connections.
pub(super) struct Dialer {
    tls: bool,
    authorities: Option<Vec<u8>>,
    doors: Vec<Door>,
    login: RedisConnectionInfo,
    setting: &'static str,
}

impl Dialer {
    /// Judges the settings.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, OpenError> {
        let wrong = |setting, rule: &str| {
            let rule = rule.to_owned();
            Err(OpenError::Setting { setting, rule })
        };
        let Some(first) = config.urls.first() else {
            return wrong("redis.urls", "at least one is needed");
        };
        if config.mode == RedisMode::Standalone && config.urls.len() > 1 {
            return wrong("redis.urls", "redis.mode standalone takes one");
        }
        if config.urls.iter().any(|url| url.tls != first.tls) {
            return wrong("redis.urls", "all must be redis://, or all rediss://");
        }
        let authorities = match &config.ca_certificate {
            Some(_) if !first.tls => {
                return wrong("redis.ca_certificate", "only for redis.urls with rediss://");
            }
            Some(file) => match std::fs::read(file) {
                Ok(pem) => Some(pem),
                Err(error) => return wrong("redis.ca_certificate", &format!("cannot be read: {error}")),
            },
            None => None,
        };
        let (mut login, mut setting) = (first.login.clone(), "redis.urls");
        if config.mode == RedisMode::Sentinel {
            (login, setting) = (RedisConnectionInfo::default(), "redis.username, redis.password");
            if let Some(username) = &config.username {
                login = login.set_username(username);
            }
            if let Some(password) = &config.password {
                login = login.set_password(&password.0);
            }
        } else if config.username.is_some() || config.password.is_some() {
            return wrong(
                "redis.username, redis.password",
                "only with redis.mode sentinel: else they belong into redis.urls",
            );
        }
        let doors = config.urls.iter().map(|url| Door {
            address: Address::new(&url.host, url.port),
            login: url.login.clone(),
            setting: "redis.urls",
        });
        let dialer = Self {
            tls: first.tls,
            authorities,
            doors: doors.collect(),
            login,
            setting,
        };
        if dialer.client(&dialer.doors[0]).is_err() {
            return wrong("redis.ca_certificate", "not certificates in PEM");
        }
        Ok(dialer)
    }

    /// The servers that the settings name: data nodes, or sentinels.
    pub(super) fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// A data node.
    pub(super) fn door(&self, address: &Address) -> Door {
        Door {
            address: address.clone(),
            login: self.login.clone(),
            setting: self.setting,
        }
    }

    fn client(&self, door: &Door) -> redis::RedisResult<Client> {
        let (host, port) = (door.address.host.as_ref().to_owned(), door.address.port);
        let place = if self.tls {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let login = door
            .login
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        let info = place.into_connection_info()?.set_redis_settings(login);
        match &self.authorities {
            Some(pem) => Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(pem.clone()),
                },
            ),
            None => Client::open(info),
        }
    }

    /// A connection whose answers must come within `patience`.
    pub(super) async fn connect(
        &self,
        door: &Door,
        patience: Duration,
    ) -> Result<MultiplexedConnection, OpenError> {
        self.dial(door, settings(patience)).await
    }

    /// A connection that hears pushes.
    pub(super) async fn listen(
        &self,
        door: &Door,
        patience: Duration,
        hear: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, OpenError> {
        let hear = move |info| {
            hear(info);
            Ok::<(), ()>(())
        };
        self.dial(door, settings(patience).set_push_sender(hear)).await
    }

    async fn dial(
        &self,
        door: &Door,
        settings: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, OpenError> {
        let dialling = async {
            self.client(door)?
                .get_multiplexed_async_connection_with_config(&settings)
                .await
        };
        match tokio::time::timeout(CONNECT, dialling).await {
            Ok(connected) => connected.map_err(|error| self.error(door, &error)),
            Err(_) => Err(OpenError::Unreachable {
                place: door.address.clone(),
                reason: format!("no answer within {} s", CONNECT.as_secs()),
            }),
        }
    }

    fn error(&self, door: &Door, error: &RedisError) -> OpenError {
        let (place, reason) = (door.address.clone(), one_line(error));
        let network = error.is_connection_refusal() || error.is_connection_dropped() || error.is_timeout();
        match error.kind() {
            ErrorKind::RESP3NotSupported => OpenError::TooOld {
                place,
                found: "without RESP3".to_owned(),
            },
            ErrorKind::AuthenticationFailed | ErrorKind::Server(_) | ErrorKind::Extension => {
                OpenError::Refused {
                    place,
                    setting: door.setting,
                    reason,
                }
            }
            ErrorKind::Io if self.tls && !network => OpenError::Tls { place, reason },
            _ => OpenError::Unreachable { place, reason },
        }
    }
}

fn settings(patience: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(patience))
        .set_write_backpressure_boundary(WRITE_BUFFER)
}

/// What is wrong, without what was sent.
pub(in crate::log::redis) fn one_line(error: &RedisError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The text of an answer.
pub(in crate::log::redis) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
