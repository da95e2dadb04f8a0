//! A commit can be wrong in many ways. Each is refused with its own reason, and the group goes on as if it had never come.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod bundle;
mod framing;
mod leaf_nodes;
mod proposals;
mod roles;
mod scene;
mod sender;
