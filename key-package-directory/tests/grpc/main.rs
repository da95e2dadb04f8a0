//! The directory as its clients see it: a real socket, real tokens, real certificates, real key packages.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

mod claim;
mod fakes;
mod notices;
mod people;
mod process;
mod publish;
mod replica;
mod replicas;
mod revocation;
mod scene;
mod start_errors;
mod suites;
