//! The contract between Valise's services and their clients: generated gRPC code, typed identifiers and numbers, and the
//! closed set of error reasons.
//!
//! - [`authentication::v1`], [`directory::v1`], [`delivery::v1`]: generated from `protos/`.
//! - [`UserId`], [`DeviceId`], [`GroupId`], [`EntryId`], [`IdempotencyKey`]: identifiers that can only be valid.
//! - [`Epoch`], [`Position`]: numbers that are not mixed up.
//! - [`Reason`] and [`Refusal`]: every error that a service answers with, and its gRPC form.

mod id;
mod number;

mod reason;

pub use uuid::Uuid;

pub use id::{DeviceId, EntryId, GroupId, IdError, IdempotencyKey, UserId};
pub use number::{Epoch, Position};
pub use reason::{DOMAIN, Reason, Refusal};

/// The authentication service's contract.
pub mod authentication {
    /// Version 1.
    #[allow(
        clippy::all,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("valise.authentication.v1");
    }
}

/// The key-package directory's contract.
pub mod directory {
    /// Version 1.
    #[allow(
        clippy::all,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("valise.directory.v1");
    }
}

/// The delivery service's contract.
pub mod delivery {
    /// Version 1.
    #[allow(
        clippy::all,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("valise.delivery.v1");
    }
}

/// All message and service descriptors, encoded, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/valise.bin"));
