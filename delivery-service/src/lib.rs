//! The delivery service: one ordered log for each group, delivered live to every member's device.
//!
//! The way of a message: `grpc.rs` converts, `send_message.rs` reads what is in clear, looks up the sender in the roster of its epoch
//! (`group_state.rs`), and appends to the log ([`log`]); after the fsync the log tells `subscribe/fan_out.rs`, which puts the entry into the
//! mailbox of each stream that follows the group; `subscribe/stream.rs` sends it on.
//!
//! The way of a commit: `submit_commit.rs` holds the group's state, verifies the commit with openmls and with the rules of groups
//! (`valise-group-rules`), checks that GroupInfo and Welcome belong to it, appends all as one step, and merges it into the state. The log
//! decides which commit of an epoch wins; who is refused is judged once more if the state was behind the log.
//!
//! What the service knows is what the log says: everything else is a cache.

mod audit;
mod authentication_link;
mod certificate_verdicts;
mod command;
mod commit_reports;
mod config;
mod create_group;
mod deliver_notice;
mod door;
mod fingerprint;
mod group_info;
mod group_state;
mod grpc;
mod list_groups;
pub mod log;
mod log_standing;
mod offer_entries;
mod read_entries;
mod repair_group;
mod report_commit;
mod reset_group;
mod revocation;
mod send_ephemeral;
mod send_message;
mod service;
mod stores;
mod submit_commit;
mod submit_proposal;
mod subscribe;
mod suites;

pub use audit::AuditLink;
pub use command::{Arguments, Command, migrate, replace_identity};
pub use config::{ArchiveConfig, Config, DatabaseConfig, Limits, SettingError};
pub use fingerprint::Fingerprint;
pub use service::{GRPC_SERVICES, Service, StartError, run};
