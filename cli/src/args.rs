//! What can be said on the command line.

mod admin;
mod devices;
mod group;
mod up;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use valise_client_sdk::CipherSuite;
use valise_proto::UserId;
use valise_service_runtime::config::Endpoint;

pub(crate) use self::admin::{AdminCommand, AdminGroupCommand};
pub(crate) use self::devices::{DevicesArgs, DevicesCommand};
pub(crate) use self::group::{GroupCommand, PolicyArgs};
pub(crate) use self::up::UpArgs;

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::up::Options;

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
