//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use valise_clock::Clock;
use valise_proto::UserId;
use valise_service_runtime::config::Endpoint;

use crate::error::CliError;
use crate::up::Options;

/// Sovereign, end-to-end encrypted group messaging: the services in one process, and a device in a terminal.
#[derive(Debug, Parser)]
#[command(name = "valise", version)]
pub(crate) struct Arguments {
    /// Send traces and metrics to this collector (OTLP over gRPC), for example http://127.0.0.1:4317.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<Endpoint>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all three services in one process on one port, with embedded stores.
    Up(UpArgs),
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
    /// Once the services answer, print one JSON object on one line instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl UpArgs {
    pub(crate) fn into_options(self) -> Result<Options, CliError> {
        let Self {
            listen,
            data,
            domain,
            user,
            administrator,
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

    fn up(more: &[&str]) -> Result<Options, String> {
        let line = ["valise", "up"].iter().chain(more);
        match Arguments::try_parse_from(line)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Up(arguments) => arguments.into_options().map_err(|error| error.line()),
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
