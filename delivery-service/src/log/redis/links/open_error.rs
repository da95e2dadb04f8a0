//! What operators are told.

use super::dial::Address;

/// Why the servers of the ordered log cannot be used. One line each, for operators, without user and password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong in itself.
    #[error("setting {setting}: {rule}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it must be.
        rule: String,
    },
    /// No answer.
    #[error("Redis at {place} cannot be reached (setting redis.urls): {reason}")]
    Unreachable {
        /// Host and port.
        place: Address,
        /// Why.
        reason: String,
    },
    /// It answers, and lets nobody in.
    #[error("Redis at {place} refuses the connection (setting {setting}): {reason}")]
    Refused {
        /// Host and port.
        place: Address,
        /// Where user and password come from.
        setting: &'static str,
        /// What the server says.
        reason: String,
    },
    /// No trust.
    #[error("Redis at {place}: TLS fails (settings redis.urls and redis.ca_certificate): {reason}")]
    Tls {
        /// Host and port.
        place: Address,
        /// Why.
        reason: String,
    },
    /// A command is forbidden, or renamed.
    #[error(
        "Redis at {place} does not permit {command} (setting redis.urls): the user must be allowed to run it"
    )]
    Forbidden {
        /// Host and port.
        place: Address,
        /// Which.
        command: &'static str,
    },
    /// Standalone, sentinel or cluster: not what the setting says.
    #[error("Redis at {place} runs as {found}, and the setting redis.mode is {mode}")]
    WrongMode {
        /// Host and port.
        place: Address,
        /// What it is.
        found: String,
        /// What it should be.
        mode: &'static str,
    },
    /// Too old a server.
    #[error("Redis at {place} is {found}: Redis 7.0 or Valkey 8.0, or a newer one, is needed")]
    TooOld {
        /// Host and port.
        place: Address,
        /// Its name and version.
        found: String,
    },
    /// Not the primary.
    #[error("Redis at {place} is a replica: name the primary in the setting redis.urls")]
    Replica {
        /// Host and port.
        place: Address,
    },
    /// It has just been started.
    #[error("Redis at {place} is loading its data")]
    Loading {
        /// Host and port.
        place: Address,
    },
    /// An answered append may be lost.
    #[error("Redis at {place} has {setting} {found}: an answered append may be lost; it must be {needed}")]
    Unsafe {
        /// Host and port.
        place: Address,
        /// The server's setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// The sentinels know no such primary.
    #[error("the sentinels know no primary named {master:?} (setting redis.sentinel_master)")]
    UnknownMaster {
        /// The name.
        master: String,
    },
    /// A cluster that is not whole.
    #[error("{count} of the log's 1024 partitions belong to no node of the cluster (setting redis.urls)")]
    Uncovered {
        /// How many.
        count: usize,
    },
    /// Channels that nobody lets us hear.
    #[error("Redis at {place} does not confirm all subscriptions: {reason}")]
    Unheard {
        /// Host and port.
        place: Address,
        /// What it said last.
        reason: String,
    },
}

impl OpenError {
    /// May it pass by itself within seconds, as a failover or a restart does?
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Replica { .. }
            | Self::Loading { .. }
            | Self::Uncovered { .. }
            | Self::Unheard { .. } => true,
            Self::Setting { .. }
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::Forbidden { .. }
            | Self::WrongMode { .. }
            | Self::TooOld { .. }
            | Self::Unsafe { .. }
            | Self::UnknownMaster { .. } => false,
        }
    }
}
