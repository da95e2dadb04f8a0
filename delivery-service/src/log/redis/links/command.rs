//! What is sent, and what is heard.

use std::sync::LazyLock;

use bytes::Bytes;
use redis::Cmd;

use crate::log::redis::partition::Partition;

/// A Lua script, called by its hash.
#[derive(Debug)]
pub(crate) struct Script {
    pub(super) source: &'static str,
    pub(super) sha: String,
}

impl Script {
    /// With this source.
    pub(crate) fn new(source: &'static str) -> Self {
        Self {
            source,
            sha: redis::Script::new(source).get_hash().to_owned(),
        }
    }
}

/// A command whose keys are all in one partition.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// An ordinary one.
    Plain(Cmd),
    /// A script; where the server does not know it, its source is sent.
    Script {
        /// Which.
        script: &'static LazyLock<Script>,
        /// `KEYS`.
        keys: Vec<Vec<u8>>,
        /// `ARGV`.
        arguments: Vec<Vec<u8>>,
    },
}

impl Command {
    /// As it goes over the wire.
    pub(super) fn pack(&self, by_source: bool) -> Cmd {
        match self {
            Self::Plain(command) => command.clone(),
            Self::Script {
                script,
                keys,
                arguments,
            } => {
                let mut command = if by_source {
                    redis::cmd("EVAL").arg(script.source).take()
                } else {
                    redis::cmd("EVALSHA").arg(&script.sha).take()
                };
                command.arg(keys.len());
                for argument in keys.iter().chain(arguments) {
                    command.arg(argument.as_slice());
                }
                command
            }
        }
    }
}

/// A message of a partition's channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Push {
    /// Whose channel.
    pub(crate) partition: Partition,
    /// What was published.
    pub(crate) payload: Bytes,
}

/// What is heard on the channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// A message, fenced.
    Message(Push),
    /// Messages of these partitions may have been missed, and are heard again from now on: what happened since must be read.
    Lost(Vec<Partition>),
}
