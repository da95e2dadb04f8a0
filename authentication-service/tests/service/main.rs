//! The authentication service over a real socket, as devices, services and administrators meet it.

mod administration;
mod devices;
mod enrolment;
mod feed;
mod process;
mod support;
mod tokens;
