//! `valise up`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use valise_client_sdk::CipherSuite;
use valise_clock::Clock;
use valise_proto::UserId;

use crate::error::CliError;
use crate::up::Options;

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
