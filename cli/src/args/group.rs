//! `valise group`.

use clap::{Args, Subcommand};
use valise_client_sdk::{AfterBadCommit, ExternalJoin, Role};
use valise_proto::UserId;

use crate::roles::KeptFor;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Make a group; prints its id.
    New {
        /// Its name, which only members learn.
        name: String,
        /// Add all devices of these users; the group then has the best cipher suite that all of them can use.
        #[arg(long, value_name = "USER", value_delimiter = ',')]
        with: Vec<UserId>,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Add all devices of users.
    Add {
        /// The group.
        group: String,
        /// Users, as name@domain.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserId>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Remove all devices of users.
    Remove {
        /// The group.
        group: String,
        /// Users, as name@domain.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserId>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Leave it with this device.
    Leave {
        /// The group.
        group: String,
    },
    /// Bring this device back into a group that it cannot go on in, by an external commit.
    Rejoin {
        /// The group.
        group: String,
    },
    /// List the ids of groups that other devices of this user are in, and this one is not.
    Elsewhere,
    /// Bring this device into a group of another device of this user; all members see it.
    ComeIn {
        /// The group's id, as `group elsewhere` lists it.
        group: String,
    },
    /// Give it another name, which only members learn.
    Rename {
        /// The group.
        group: String,
        /// The new name.
        name: String,
    },
    /// Make a user something else.
    Role {
        /// The group.
        group: String,
        /// The user, as name@domain.
        user: UserId,
        /// reader, member, moderator or owner.
        #[arg(value_parser = crate::roles::role)]
        role: Role,
    },
    /// Show what roles allow, or change it.
    Policy(PolicyArgs),
    /// List the groups of this device.
    List {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show how a group stands, and its members.
    Show {
        /// The group.
        group: String,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Without any change: shows the policy.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// The group.
    pub(crate) group: String,
    /// The least role to add devices of other users: reader, member, moderator or owner.
    #[arg(long, value_name = "ROLE", value_parser = crate::roles::role)]
    pub(crate) add: Option<Role>,
    /// The least role to remove devices of other users.
    #[arg(long, value_name = "ROLE", value_parser = crate::roles::role)]
    pub(crate) remove: Option<Role>,
    /// The least role to rename the group.
    #[arg(long, value_name = "ROLE", value_parser = crate::roles::role)]
    pub(crate) rename: Option<Role>,
    /// The least role to change roles and this policy.
    #[arg(long, value_name = "ROLE", value_parser = crate::roles::role)]
    pub(crate) change_roles: Option<Role>,
    /// The least role to send.
    #[arg(long, value_name = "ROLE", value_parser = crate::roles::role)]
    pub(crate) send: Option<Role>,
    /// Which devices may come in without being added: nobody, member_devices (that lost their state) or member_users (theirs).
    #[arg(long, value_name = "WHO", value_parser = crate::roles::external_join)]
    pub(crate) external_join: Option<ExternalJoin>,
    /// What devices do after a commit that they cannot process: hold (and wait for somebody to decide) or rejoin.
    #[arg(long, value_name = "WHAT", value_parser = crate::roles::after_bad_commit)]
    pub(crate) bad_commit: Option<AfterBadCommit>,
    /// For how many seconds the service's archive keeps what not everybody has read: 3600 to 31536000, or `default` for as long as in other groups.
    /// Its hot store keeps up to a day by default, and `valise up` keeps everything.
    #[arg(long, value_name = "SECONDS", value_parser = crate::roles::kept_for)]
    pub(crate) retention: Option<KeptFor>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
