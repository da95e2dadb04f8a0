//! The runtime as its services use it: a real server on a port of the system's choice, real clients.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "also in what tests are written with, a failure is a panic"
)]

mod load;
mod refusals;
mod server;
mod shutdown;
mod token_layer;
mod transport;
