//! The rules of Valise's MLS groups, judged by the delivery service and by every member's SDK with this same code: a rule
//! that one side applied and another did not would fork groups (RFC 9750 §6.5).
//!
//! - [`suites`], [`capabilities`], [`create_config`], [`join_config`]: how groups are made.
//! - [`credential`], [`identify`], [`claimed_identity`]: X.509 credentials (RFC 9420 §5.3).
//! - [`is_same_sender`], [`judge_external_senders`], [`identify_sender`]: the service as external sender (RFC 9420 §12.1.8.1).
//! - [`verify_key_package`]: what may be published and added (RFC 9420 §10.1).
//! - [`Roster`], [`judge_commit`]: what a commit may do.
//! - [`judge_proposal`]: what may stand alone.
//! - [`Roles`]: who is what, and the [`Policy`] of what that allows, kept in the GroupContext; [`Authority`]: what that means for
//!   those who are in the group.
//!
//! Rules that every member must judge alike (the shape of a commit) are in [`judge_commit`]; those that depend on time or on
//! the trust bundle are in [`judge_credentials`]. A member that is shown an accepted commit that fails the second must still
//! merge it and then quarantine the group, as refusing would fork it.

mod authority;
mod commit;
mod config;
mod credential;
mod external_sender;
mod key_package;
mod policy;
mod proposal;
mod roles;
mod roster;

pub use authority::{Authority, RolesChange};
pub use commit::{
    Added, CommitSummary, Committer, GroupLimits, judge_commit, judge_credentials, judge_credentials_with,
    may_join,
};
pub use config::{
    GROUP_EXTENSIONS, PADDING, capabilities, create_config, group_context_extensions, is_allowed_suite,
    join_config, judge_group_context, judge_successor_context, key_kind, signature_scheme, successor_config,
    suites,
};
pub use credential::{Identity, chain, claimed_identity, credential, identify, identify_member};
pub use external_sender::{
    ServiceSender, claimed_sender, identify_sender, is_same_sender, judge_external_senders,
};
pub use key_package::{
    LifetimePolicy, MAX_KEY_PACKAGE_BYTES, MAX_KEY_PACKAGE_LIFETIME, VerifiedKeyPackage, verify_key_package,
};
pub use policy::{Act, AfterBadCommit, ExternalJoin, Policy, Retention};
pub use proposal::judge_proposal;
pub use roles::{MAX_LISTED, ROLES_EXTENSION, Role, Roles};
pub use roster::{Member, Roster};

/// The rule that something breaks: a short, stable name, shown to callers as metadata `rule`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleViolation(pub &'static str);

impl RuleViolation {
    /// Is it about who may do something (`POLICY_DENIED`), and not about what nobody may (`INVALID_COMMIT`)?
    pub fn is_policy(self) -> bool {
        matches!(
            self.0,
            "role_add"
                | "role_remove"
                | "role_rename"
                | "role_change"
                | "role_send"
                | "role_above"
                | "last_owner"
                | "external_joiner"
                | "external_remove"
        )
    }
}
