//! The client SDK of Valise: what an app links to talk in end-to-end encrypted groups (MLS, RFC 9420).
//!
//! ```
//! # valise_tests::example::with_server(async |server, code, folder| {
//! use valise_client_sdk::{Client, EventKind, Store, StoreKey};
//!
//! let store = Store::file(folder.join("alice.valise"), StoreKey::random());
//! let alice = Client::enrol(server, code, "laptop", store).await?;
//! let group = alice.create_group("Budget 2027").await?;
//! group.add(&["bob@interieur.example"]).await?;
//! group.send("Bonjour").await?;
//! let mut events = alice.events();
//! while let Some(event) = events.next().await {
//!     if let EventKind::Message { sender, content } = &event.kind {
//!         println!("{}: {}", sender.user, content.as_text().unwrap_or("?"));
//! #       break;
//!     }
//!     alice.confirm(event.id).await?;
//! }
//! # Ok(()) });
//! ```
//!
//! # How it works
//!
//! - One **engine** thread owns the store: a SQLite file (SQLCipher) with one connection. MLS state, log cursors, outbox and
//!   events change in the same transaction, so a crash at any moment loses nothing and repeats nothing.
//! - **Outbox**: every operation is a row with one outcome. Its exact bytes and idempotency key are stored before they leave,
//!   and sent again, unchanged, until the service has answered. A commit changes no state until it comes back in the
//!   group's log (RFC 9420 §14); where another commit was first, the operation is built again on the new epoch.
//! - **Inbox**: entries of a group's log are applied strictly in order, each once. A gap is read again, never skipped.
//! - **Events** are kept until the app confirms them.
//! - **Verifiable delivery**: what a device sends says, by a hash, what it was shown of the log. Whoever was shown something else raises
//!   [`EventKind::DeliveryForked`] (`docs/verifiable-delivery.md`).
//! - **Messages** are IETF MIMI content ([`Content`]): text, replies, reactions, edits, deletions, receipts, or any other type. What was
//!   said is remembered, with the status of own messages, and can be searched ([`Group::history`]).
//!
//! One message: [`Group::send`] -> `engine/intents.rs` -> `engine/prepare.rs` -> `session/upload.rs` -> `transport.rs` -> the service ->
//! `session/subscribe.rs` -> `engine/inbox.rs` -> [`Events`].

mod adding;
mod administration;
mod client;
mod commit_fault;
mod content;
mod delivery_chain;
mod engine;
mod error;
mod event;
mod group;
mod history;
#[cfg(feature = "kill-points")]
#[doc(hidden)]
pub mod kill_point;
#[cfg(not(feature = "kill-points"))]
mod kill_point;
mod mls;
mod new_group;
mod options;
mod progress;
mod repair;
mod safety_number;
mod session;
mod state;
mod store;
mod transport;

pub use administration::{
    Administration, AuditEvent, EnrolmentCode, GroupStanding, ReportedCommit, UserKind, UserSummary,
};
pub use client::Client;
pub use commit_fault::CommitFault;
pub use content::{
    Body, Content, Disposition, Expiry, External, Kind, MessageId, Part, ReceiptStatus, Semantics,
};
pub use delivery_chain::ChainValue;
pub use error::{Error, WhatNow};
pub use event::{Event, EventId, EventKind, Events, Peer};
pub use group::{AsUser, Group, Users};
pub use history::{History, HistoryMessage, Reaction, SendStatus};
pub use new_group::NewGroup;
pub use options::{
    ByItself, CipherSuite, KeyPackageOptions, KeyUpkeep, Options, RejoinPolicy, Servers, Store, StoreKey,
};
pub use progress::{Progress, ProgressReports, Work};
pub use repair::{Repair, RepairCandidate, RepairEnd};
pub use safety_number::SafetyNumber;
pub use state::{
    Act, AddFailure, Added, AfterBadCommit, Connection, DeviceSummary, ExternalJoin, GroupState, GroupStatus,
    Member, OfflineReason, Pending, Policy, Removed, Retention, Role, Sent,
};
pub use valise_clock::Clock;
pub use valise_proto::{DeviceId, EntryId, Epoch, GroupId, Position, Reason, Refusal, UserId};
