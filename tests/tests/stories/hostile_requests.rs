//! Every RPC of every service, with what should never come: nothing, garbage, too much, somebody else's, the same again. Each has
//! one answer, none tells what is inside, and the services go on.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod answers;
mod contract;
mod enrolment;
mod garbage;
mod groups;
mod key_packages;
mod messages;
mod scene;
mod tokens;
