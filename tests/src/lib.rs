//! What the tests across services are written with: real processes, real sockets, real stores.
//!
//! - [`service`]: a `valise up` process of one's own, which can be killed and started again.
//! - [`command`]: any other `valise` command as a process.
//! - [`embedded`]: the services in the test's own process, with a clock that it can move.
//! - [`example`]: services and people for the examples in the SDK's documentation.
//! - [`homes`]: people whose devices are profiles of that command.
//! - [`people`]: devices that use the SDK.
//! - [`crowd`]: many of them that talk in groups, and a log book for each, which are compared at the end.
//! - [`faults`]: what goes wrong in a cluster, on purpose.
//! - [`under_fire`]: the cluster and the crowd to which that happens.
//! - [`liar`]: a delivery service that shows devices another log.
//! - [`lossy_proxy`]: a way to the services on which requests and answers get lost, by seed.
//! - [`positions`]: how far the logs of groups are, in Redis and in the archive.
//! - [`proxy`]: connections that a test can cut.
//! - [`raw`]: a device without the SDK: it sends whatever bytes a test wants.
//! - [`replicas`]: two replicas of the delivery service, and devices at either.
//! - [`retention`]: what a log has forgotten.
//! - [`wait`]: awaiting a condition, with a deadline.
//!
//! `cargo nextest run --workspace` and `cargo test --workspace` build the `valise` binary on the way; where it is not there,
//! the first test that needs it has cargo build it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "in what tests are written with, a failure is a panic"
)]

pub mod command;
pub mod crowd;
pub mod embedded;
pub mod example;
pub mod faults;
pub mod homes;
pub mod liar;
pub mod lossy_proxy;
pub mod people;
pub mod positions;
pub mod proxy;
pub mod raw;
pub mod replicas;
pub mod retention;
pub mod service;
pub mod under_fire;
pub mod wait;
