//! The scripts, and how commands and scripts are sent.

use std::sync::{Arc, LazyLock};

use redis::{Cmd, Value};

use super::links::{Command, Links, Script};
use super::partition::Partition;
use crate::log::StoreError;

macro_rules! script {
    ($name:ident, $($part:literal)+) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!(concat!("scripts/", $part, ".lua")), "\n"),+)));
    };
}

script!(APPEND, "common" "windows" "append");
script!(CREATE, "common" "windows" "create");
script!(INBOX_PUT, "common" "inbox_put");
script!(INBOX_ACKNOWLEDGE, "inbox_acknowledge");
script!(WELCOME_TAKEN, "welcome_taken");
script!(USER_GROUP, "user_group");
script!(REPEAT, "repeat");
script!(HANDSHAKES, "handshakes");
script!(FLOOR, "floor");
script!(STANDINGS, "standings");
script!(TRIM, "trim");
script!(FREEZE, "freeze");
script!(RESTORE, "common" "restore");
script!(RESET, "common" "windows" "reset");

/// The way to the servers, for all parts of the log.
#[derive(Clone)]
pub(super) struct Store(pub(super) Arc<Links>);

impl Store {
    /// The fenced answer to a command.
    pub(super) async fn ask(&self, partition: Partition, command: Cmd) -> Result<Value, StoreError> {
        self.0.call(partition, Command::Plain(command)).await
    }

    /// The answers to several commands, fenced once.
    pub(super) async fn ask_all<const N: usize>(
        &self,
        partition: Partition,
        commands: [Cmd; N],
    ) -> Result<[Value; N], StoreError> {
        let commands = commands.into_iter().map(Command::Plain).collect();
        super::value::tuple(self.0.calls(partition, commands).await?)
    }

    /// What a script returned, fenced.
    pub(super) async fn run(
        &self,
        partition: Partition,
        script: &'static LazyLock<Script>,
        keys: Vec<Vec<u8>>,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Value, StoreError> {
        let command = Command::Script {
            script,
            keys,
            arguments,
        };
        self.0.call(partition, command).await
    }
}

/// A number as an argument.
pub(super) fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// A write that failed: nobody knows whether it happened.
pub(super) fn unknown(error: StoreError) -> StoreError {
    let StoreError(reason) = error;
    if reason.contains("outcome unknown") {
        return StoreError(reason);
    }
    StoreError(format!("{reason}: outcome unknown, repeat with the same key"))
}
