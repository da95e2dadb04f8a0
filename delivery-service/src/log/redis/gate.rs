//! The gate: a server is used only if what it answered is not lost.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use super::config::{RedisConfig, RedisMode};
use super::links::OpenError;
use super::links::dial::{Address, one_line, text};

/// The oldest servers that are tested.
const OLDEST_REDIS: (u32, u32) = (7, 0);
const OLDEST_VALKEY: (u32, u32) = (8, 0);

/// Settings of a server under which an answered append is on disk, and stays.
const DURABLE: [(&str, &str); 4] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("no-appendfsync-on-rewrite", "no"),
    ("maxmemory-policy", "noeviction"),
];

/// Tells one history of a server's data from another. The run id changes with each start; the replication id with that, and
/// with each failover.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    run_id: String,
    pub(super) replication_id: String,
}

/// A server that may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Passed {
    pub(super) identity: Identity,
    /// Connected now.
    pub(super) replicas: u32,
}

/// What a server must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    mode: RedisMode,
    allow_unsafe_persistence: bool,
}

impl Gate {
    pub(super) fn new(config: &RedisConfig) -> Self {
        Self {
            mode: config.mode,
            allow_unsafe_persistence: config.allow_unsafe_persistence,
        }
    }

    /// Asks a server, and judges it.
    pub(super) async fn judge(
        self,
        place: &Address,
        connection: &mut MultiplexedConnection,
    ) -> Result<Passed, OpenError> {
        let info = ask_info(place, connection).await?;
        let passed = self.judge_info(place, &info)?;
        if !self.allow_unsafe_persistence {
            let mut command = redis::cmd("CONFIG");
            command.arg("GET");
            for (setting, _) in DURABLE {
                command.arg(setting);
            }
            let answer = connection
                .send_packed_command(&command)
                .await
                .map_err(|error| unreachable(place, &error))?;
            judge_settings(place, &answer)?;
        }
        Ok(passed)
    }

    /// The version first: the others are read from answers that it may not know.
    fn judge_info(self, place: &Address, info: &str) -> Result<Passed, OpenError> {
        let place = || place.clone();
        judge_version(&place(), info)?;
        let found = field(info, "redis_mode")
            .or(field(info, "server_mode"))
            .unwrap_or("unknown");
        let needed = if self.mode == RedisMode::Cluster {
            "cluster"
        } else {
            "standalone"
        };
        if found != needed {
            return Err(OpenError::WrongMode {
                place: place(),
                found: found.to_owned(),
                mode: self.mode.name(),
            });
        }
        if field(info, "loading") == Some("1") || field(info, "async_loading") == Some("1") {
            return Err(OpenError::Loading { place: place() });
        }
        if field(info, "role") != Some("master") {
            return Err(OpenError::Replica { place: place() });
        }
        let (Some(run_id), Some(replication_id)) = (field(info, "run_id"), field(info, "master_replid"))
        else {
            return Err(OpenError::Unreachable {
                place: place(),
                reason: "its INFO has no run_id and master_replid".to_owned(),
            });
        };
        Ok(Passed {
            identity: Identity {
                run_id: run_id.to_owned(),
                replication_id: replication_id.to_owned(),
            },
            replicas: field(info, "connected_slaves")
                .and_then(|count| count.parse().ok())
                .unwrap_or(0),
        })
    }
}

/// Whose data the server at the other end of a connection has.
pub(super) async fn identity(
    place: &Address,
    connection: &mut MultiplexedConnection,
) -> Result<Option<Identity>, OpenError> {
    let info = ask_info(place, connection).await?;
    let (run_id, replication_id) = (field(&info, "run_id"), field(&info, "master_replid"));
    Ok(run_id
        .zip(replication_id)
        .map(|(run_id, replication_id)| Identity {
            run_id: run_id.to_owned(),
            replication_id: replication_id.to_owned(),
        }))
}

/// The replication id in `INFO replication` of a primary.
pub(super) fn replication_id_of_primary(info: &str) -> Option<&str> {
    (field(info, "role") == Some("master"))
        .then(|| field(info, "master_replid"))
        .flatten()
}

async fn ask_info(place: &Address, connection: &mut MultiplexedConnection) -> Result<String, OpenError> {
    let mut pipeline = redis::pipe();
    // One section each: several in one command are not known to servers that are too old.
    for section in ["server", "replication", "persistence"] {
        pipeline.cmd("INFO").arg(section);
    }
    let answers = connection
        .send_packed_commands(&pipeline, 0, 3)
        .await
        .map_err(|error| unreachable(place, &error))?;
    let mut info = String::new();
    for answer in &answers {
        match text(answer) {
            Some(section) => info.push_str(section),
            None => return Err(forbidden(place, "INFO", answer)),
        }
    }
    Ok(info)
}

fn unreachable(place: &Address, error: &RedisError) -> OpenError {
    OpenError::Unreachable {
        place: place.clone(),
        reason: one_line(error),
    }
}

fn forbidden(place: &Address, command: &'static str, answer: &Value) -> OpenError {
    match answer {
        Value::ServerError(error) if error.code() == "LOADING" => OpenError::Loading { place: place.clone() },
        _ => OpenError::Forbidden {
            place: place.clone(),
            command,
        },
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_end())
}

fn judge_version(place: &Address, info: &str) -> Result<(), OpenError> {
    let (name, found, oldest) = match field(info, "valkey_version") {
        Some(found) => ("Valkey", found, OLDEST_VALKEY),
        None => (
            "Redis",
            field(info, "redis_version").unwrap_or("unknown"),
            OLDEST_REDIS,
        ),
    };
    let mut parts = found.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < oldest {
        return Err(OpenError::TooOld {
            place: place.clone(),
            found: format!("{name} {found}"),
        });
    }
    Ok(())
}

fn judge_settings(place: &Address, answer: &Value) -> Result<(), OpenError> {
    let Value::Map(pairs) = answer else {
        return Err(forbidden(place, "CONFIG GET", answer));
    };
    for (setting, needed) in DURABLE {
        let found = pairs
            .iter()
            .find(|(key, _)| text(key) == Some(setting))
            .and_then(|(_, value)| text(value));
        match found {
            Some(found) if found == needed => {}
            Some(found) => {
                return Err(OpenError::Unsafe {
                    place: place.clone(),
                    setting,
                    found: found.to_owned(),
                    needed,
                });
            }
            None => return Err(forbidden(place, "CONFIG GET", &Value::Nil)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:r\r\n# Replication\r\n\
                        role:master\r\nconnected_slaves:2\r\nmaster_replid:i\r\n# Persistence\r\nloading:0\r\n";

    fn place() -> Address {
        Address::new("db", 6379)
    }

    fn judge(mode: RedisMode, info: &str) -> Result<Passed, OpenError> {
        let gate = Gate {
            mode,
            allow_unsafe_persistence: false,
        };
        gate.judge_info(&place(), info)
    }

    #[test]
    fn a_primary_that_is_new_enough_passes() {
        let passed = judge(RedisMode::Standalone, INFO).unwrap();
        assert_eq!((passed.replicas, passed.identity.run_id.as_str()), (2, "r"));
        let valkey = INFO.replace("7.0.15", "7.2.4\r\nvalkey_version:8.1.0");
        assert!(judge(RedisMode::Sentinel, &valkey).is_ok());
    }

    #[test]
    fn a_server_that_is_something_else_is_refused() {
        let refused =
            |mode, from: &str, to: &str| judge(mode, &INFO.replace(from, to)).unwrap_err().to_string();
        assert_eq!(
            refused(RedisMode::Standalone, "7.0.15", "6.2.14"),
            "Redis at db:6379 is Redis 6.2.14: Redis 7.0 or Valkey 8.0, or a newer one, is needed"
        );
        assert_eq!(
            refused(RedisMode::Standalone, "7.0.15", "7.2.4\r\nvalkey_version:7.2.9"),
            "Redis at db:6379 is Valkey 7.2.9: Redis 7.0 or Valkey 8.0, or a newer one, is needed"
        );
        assert_eq!(
            refused(RedisMode::Standalone, "mode:standalone", "mode:cluster"),
            "Redis at db:6379 runs as cluster, and the setting redis.mode is standalone"
        );
        assert_eq!(
            refused(RedisMode::Sentinel, "role:master", "role:slave"),
            "Redis at db:6379 is a replica: name the primary in the setting redis.urls"
        );
        assert_eq!(
            refused(RedisMode::Standalone, "loading:0", "loading:1"),
            "Redis at db:6379 is loading its data"
        );
    }
}
