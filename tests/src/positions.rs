//! How far the logs of groups are, as the stores of the delivery service have it.

use std::collections::BTreeMap;
use std::process::Command;

use uuid::Uuid;
use valise_client_sdk::{GroupId, Position};
use valise_local_stack::{LocalStack, Postgres, Redis};

/// The newest entry of each group.
pub type Positions = BTreeMap<GroupId, Position>;

/// Of each group's stream: the group, and the number of its newest entry.
const NEWEST: &str = "local lines = {}
for _, key in ipairs(redis.call('KEYS', '{p*}s:*')) do
  local id = string.gsub(string.sub(key, -16), '.', function(byte) return string.format('%02x', string.byte(byte)) end)
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if newest then lines[#lines + 1] = id .. ' ' .. string.match(newest[1], '^%d+') end
end
return lines";
const ARCHIVED: &str = "SELECT encode(group_id, 'hex') || ' ' || position FROM groups";

/// Of the groups that this primary has.
pub async fn in_redis(primary: &Redis) -> Positions {
    read(&primary.command(&["EVAL", NEWEST, "0"]).await)
}

/// Of all groups; of none while PostgreSQL is away.
pub async fn in_archive(stack: &LocalStack) -> Positions {
    let mut psql = psql(stack, ARCHIVED);
    let output = tokio::task::spawn_blocking(move || psql.output().unwrap())
        .await
        .unwrap();
    read(&String::from_utf8(output.stdout).unwrap())
}

/// A statement in the delivery service's database, to be run; it writes what it finds, a row a line.
pub fn psql(stack: &LocalStack, statement: &str) -> Command {
    let mut psql = Command::new(Postgres::program("psql"));
    psql.arg(stack.postgres().url("delivery")).args([
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--command",
        statement,
    ]);
    psql
}

fn read(lines: &str) -> Positions {
    let read = |line: &str| {
        let (group, position) = line.split_once(' ')?;
        let group = Uuid::try_parse(group).ok()?.into_bytes();
        Some((GroupId::from_bytes(group), Position(position.parse().ok()?)))
    };
    let positions = lines
        .lines()
        .map(|line| read(line).unwrap_or_else(|| panic!("no position: {line}")));
    positions.collect()
}
