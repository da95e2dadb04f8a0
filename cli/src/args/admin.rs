//! `valise admin`.

use std::time::Duration;

use clap::Subcommand;
use valise_proto::{DeviceId, GroupId, UserId};

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Make a one-time code with which one device of a user enrols.
    Code {
        /// The user, as name@domain.
        user: UserId,
        /// The device may administer as well.
        #[arg(long)]
        administrator: bool,
        /// How long the code can be used: 1m to 30d.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::when::duration)]
        valid_for: Duration,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List all users.
    Users {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Have all services refuse a user's devices.
    Suspend {
        /// The user.
        user: UserId,
    },
    /// End a suspension.
    Resume {
        /// The user.
        user: UserId,
    },
    /// List the devices of a user.
    Devices {
        /// The user.
        user: UserId,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a device of anybody, for ever.
    Revoke {
        /// The device's id.
        device: DeviceId,
    },
    /// Deal with a group that a service has frozen.
    Group {
        #[command(subcommand)]
        command: AdminGroupCommand,
    },
    /// Show the audit log.
    Audit {
        /// Only what comes after this number.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminGroupCommand {
    /// Put a group whose log went back in time (LOG_REGRESSED) back to what is archived and what its devices have given back, and open
    /// it. What came after that is lost.
    Repair {
        /// The group's id.
        group: GroupId,
        /// Only show what would be done. Devices that come online later may know more.
        #[arg(long)]
        dry_run: bool,
        /// Take nothing after this position from devices.
        #[arg(long, value_name = "POSITION")]
        up_to: Option<u64>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// End a group that its members cannot go on in, for ever. They go on under a new id, which is printed, by themselves.
    Reset {
        /// The group's id.
        group: GroupId,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List the commits that members reported because they cannot process them.
    Reports {
        /// Print one JSON object for each commit.
        #[arg(long)]
        json: bool,
    },
    /// Show where a group stands, and what its members reported.
    Show {
        /// The group's id.
        group: GroupId,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}
