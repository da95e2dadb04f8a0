//! The authentication service over a real socket, as devices, services and administrators meet it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests are written with fails as a test does"
)]

mod administration;
mod devices;
mod enrolment;
mod feed;
mod lost_answer;
mod process;
mod program;
mod replicas;
mod support;
mod tokens;
