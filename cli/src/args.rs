//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use valise_client_sdk::{AfterBadCommit, CipherSuite, ExternalJoin, Role};
use valise_clock::Clock;
use valise_proto::{DeviceId, GroupId, UserId};
use valise_service_runtime::config::Endpoint;

use crate::error::CliError;
use crate::roles::KeptFor;
use crate::up::Options;

/// Sovereign, end-to-end encrypted group messaging: the services in one process, and a device in a terminal.
#[derive(Debug, Parser)]
#[command(name = "valise", version)]
pub(crate) struct Arguments {
    /// Send traces and metrics to this collector (OTLP over gRPC), for example http://127.0.0.1:4317.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<Endpoint>,
    /// Directory of one device: its encrypted store, and the key of that beside it (a real app keeps the key in the
    /// platform's key store) [default: ~/.local/share/valise].
    #[arg(long, global = true, value_name = "DIR", env = "VALISE_PROFILE")]
    pub(crate) profile: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all three services in one process on one port, with embedded stores.
    Up(UpArgs),
    /// Show everything in a few seconds: services, people with devices, a group; and check what is shown.
    Demo(DemoArgs),
    /// Make a new device with a one-time code.
    Enrol(EnrolArgs),
    /// Say whose device the profile holds.
    Whoami {
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The devices of this user; without a command, lists them.
    Devices(DevicesArgs),
    /// Groups, and who is in them. GROUP is an id, the beginning of one, or a name.
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Send a message, or one for each line of standard input. Succeeds only when all are accepted.
    Send(SendArgs),
    /// Show messages and events in their order, each once: it is confirmed when it has been written out.
    Listen(ListenArgs),
    /// Talk: on the whole screen of a terminal; line by line where standard input or output is none.
    Chat(ChatArgs),
    /// Show what was said in a group, as this device remembers it. Needs no connection.
    History(HistoryArgs),
    /// Compare the keys of your devices with another user's: both must see the same number.
    SafetyNumber(SafetyNumberArgs),
    /// Administer the deployment, with an administrator's device.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Address and port to listen on (plain HTTP/2); port 0 is any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Directory for everything that is kept; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "./valise-data")]
    data: PathBuf,
    /// Domain of all users. It stays with the data.
    #[arg(long, default_value = "valise.example")]
    domain: String,
    /// For whom the first user code is made [default: alice@DOMAIN]
    #[arg(long)]
    user: Option<UserId>,
    /// Who becomes the first administrator [default: admin@DOMAIN]
    #[arg(long)]
    administrator: Option<UserId>,
    /// Cipher suites that new groups may have, best first, for example 0x004F,0x0001: a group made for users gets the first that
    /// all of their devices have [default: 0x0001, 0x0003, 0x0002 and the hybrid post-quantum 0x004F]
    #[arg(long, value_name = "SUITES", value_delimiter = ',')]
    suites: Vec<CipherSuite>,
    /// Once the services answer, print one JSON object on one line instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// People in the group at first, each with two devices.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(3..=50))]
    pub(crate) members: u16,
    /// Messages in the first conversation.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) messages: u32,
    /// Print one JSON object instead of a story.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// URL of the services, for example http://127.0.0.1:7400; where they are apart, of the authentication service.
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// URL of the key-package directory, where it is not the server's.
    #[arg(long, value_name = "URL")]
    pub(crate) directory: Option<String>,
    /// URL of the delivery service, where it is not the server's.
    #[arg(long, value_name = "URL")]
    pub(crate) delivery: Option<String>,
    /// PEM file with the authority of the server's certificate, for an https URL.
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate_authority: Option<PathBuf>,
    /// The one-time code, from an administrator or from `valise up`.
    #[arg(long)]
    pub(crate) code: String,
    /// Name of the device, for its user.
    #[arg(long, default_value = "terminal")]
    pub(crate) name: String,
    /// Cipher suites of groups that the device can be in: 0x0002, or any of 0x0001, 0x0003 and the hybrid post-quantum 0x004F.
    /// The groups that it makes have the first.
    #[arg(long, value_name = "SUITES", value_delimiter = ',', default_value = "0x0001")]
    pub(crate) suites: Vec<CipherSuite>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    #[command(subcommand)]
    command: Option<DevicesCommand>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// List them, oldest first.
    List {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Give one another name.
    Rename {
        /// Its id, or the beginning of it.
        device: String,
        /// The new name.
        name: String,
    },
    /// Revoke one, for ever.
    Revoke {
        /// Its id, or the beginning of it.
        device: String,
    },
}

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

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The group.
    pub(crate) group: String,
    /// The message; without it, each line of standard input is one.
    pub(crate) text: Option<String>,
    /// Print one JSON object for each accepted message.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Only this group; what happens in others stays for the next time.
    pub(crate) group: Option<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The group that is shown first. On the screen the others can be reached from it.
    pub(crate) group: Option<String>,
    /// Line by line in a terminal, too: what is typed is sent, what others say is shown.
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SafetyNumberArgs {
    /// The other user, as name@domain.
    pub(crate) user: UserId,
    /// Only the devices in this group [default: in all groups that both are in].
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Draw a QR code of it as well.
    #[arg(long)]
    pub(crate) qr: bool,
    /// Print a JSON object.
    #[arg(long, conflicts_with = "qr")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The group.
    pub(crate) group: String,
    /// Only messages with all these words; the last may be the beginning of one.
    #[arg(long, value_name = "WORDS")]
    pub(crate) search: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

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

impl DevicesArgs {
    pub(crate) fn into_command(self) -> Result<DevicesCommand, CliError> {
        match self.command {
            None => Ok(DevicesCommand::List { json: self.json }),
            Some(DevicesCommand::List { json }) => Ok(DevicesCommand::List {
                json: json || self.json,
            }),
            Some(_) if self.json => Err(CliError::failed("--json is for the list of devices")),
            Some(command) => Ok(command),
        }
    }
}

impl UpArgs {
    pub(crate) fn into_options(self) -> Result<Options, CliError> {
        let Self {
            listen,
            data,
            domain,
            user,
            administrator,
            suites,
            ..
        } = self;
        let of_domain = |given: Option<UserId>, name: &str| match given {
            Some(user) if user.domain() == domain => Ok(user),
            Some(user) => Err(CliError::failed(format!(
                "{user} is not of the domain {domain}: see --domain"
            ))),
            None => format!("{name}@{domain}")
                .parse::<UserId>()
                .ok()
                .filter(|user| user.domain() == domain)
                .ok_or_else(|| CliError::failed(format!("{domain} is not a domain name in lower case"))),
        };
        Ok(Options {
            user: of_domain(user, "alice")?,
            administrator: of_domain(administrator, "admin")?,
            listen,
            data,
            domain,
            cipher_suites: (!suites.is_empty())
                .then(|| suites.iter().map(|suite| suite.number() as u16).collect()),
            delivery_limits: valise_delivery_service::Limits::default(),
            clock: Clock::system(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn unknown_flags_are_errors() {
        assert!(Arguments::try_parse_from(["valise", "up", "--lisen", "x"]).is_err());
    }

    #[test]
    fn devices_are_listed_unless_something_else_is_said() {
        let understood = |line: &[&str]| {
            let line = ["valise", "devices"].iter().chain(line);
            match Arguments::try_parse_from(line).unwrap().command {
                Command::Devices(arguments) => arguments.into_command(),
                command => panic!("{command:?}"),
            }
        };
        for (line, as_json) in [
            (&[][..], false),
            (&["--json"][..], true),
            (&["list"][..], false),
            (&["--profile", "p", "list", "--json"][..], true),
        ] {
            let command = understood(line).unwrap();
            assert!(
                matches!(command, DevicesCommand::List { json } if json == as_json),
                "{line:?}: {command:?}"
            );
        }
        let revoke = understood(&["revoke", "0a"]).unwrap();
        assert!(matches!(revoke, DevicesCommand::Revoke { .. }), "{revoke:?}");
        assert!(understood(&["--json", "revoke", "0a"]).is_err());
        assert!(Arguments::try_parse_from(["valise", "devices", "lst"]).is_err());
    }

    #[test]
    fn durations_and_users_are_checked_at_the_door() {
        let accepts =
            |line: &[&str]| Arguments::try_parse_from([&["valise", "admin", "code"], line].concat()).is_ok();
        assert!(accepts(&["bob@valise.example", "--valid-for", "7d"]));
        assert!(!accepts(&["bob@valise.example", "--valid-for", "soon"]));
        assert!(!accepts(&["bob"]));
    }

    fn up(more: &[&str]) -> Result<Options, String> {
        let line = ["valise", "up"].iter().chain(more);
        match Arguments::try_parse_from(line)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Up(arguments) => arguments.into_options().map_err(|error| error.line()),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn users_are_of_the_domain() {
        let options = up(&["--domain", "interieur.example"]).unwrap();
        assert_eq!(options.user.as_str(), "alice@interieur.example");
        assert_eq!(options.administrator.as_str(), "admin@interieur.example");
        assert!(
            up(&["--user", "bob@other.example"])
                .unwrap_err()
                .contains("--domain")
        );
        assert!(
            up(&["--domain", "Interieur.example"])
                .unwrap_err()
                .contains("lower case")
        );
        assert!(up(&["--user", "bob"]).is_err());
    }
}
