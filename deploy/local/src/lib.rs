//! Servers for tests and for the local stack: real Redis, Valkey and PostgreSQL, each started on free loopback ports
//! with its data in a folder of its own.
//!
//! A value is a running server, or several. What a test starts is killed when its value is dropped, and also when the
//! test itself is killed. This is tooling, not part of a service: where a server does not start, or does not answer
//! within a generous time, it panics and says what the server last wrote.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test without its server has nothing to go on with"
)]
#![expect(clippy::format_push_string, reason = "short texts, once each")]

mod cluster;
mod folder;
mod port;
mod postgres;
mod process;
mod programs;
mod record;
mod redis;
mod resp;
mod sentinel;
mod stack;
mod up;

pub use cluster::RedisCluster;
pub use port::Port;
pub use postgres::{Postgres, other_user};
pub use programs::RedisProgram;
pub use redis::Redis;
pub use sentinel::RedisSentinel;
pub use stack::{LocalStack, RedisShape, Replica, StackOptions};
pub use up::{Arguments, run};
