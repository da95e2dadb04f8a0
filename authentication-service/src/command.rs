//! What the process is asked to do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use valise_clock::Clock;
use valise_device_certificate::{KeyKind, ServiceIdentity, ServiceKey};
use valise_proto::{Refusal, UserId};
use valise_sql_database::Database;

use crate::{Config, Service, StartError, store};

/// What the process does, before the name of the configuration file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing was said: it serves.
    Serve,
    /// `migrate`: brings the schema of the database up to date.
    Migrate,
    /// `bootstrap USER`: makes a code with which the first administrator enrols, and prints it.
    Bootstrap(UserId),
    /// `identity SERVICE KEY-FILE CHAIN-FILE`: issues the key and certificate that one of the other services runs with. Where there is a key
    /// already it stays as it is, and only gets a new certificate.
    /// `identity-p256 …`: those with which the delivery service acts in groups with a P-256 suite.
    Identity {
        /// One of [`SERVICE_NAMES`](crate::SERVICE_NAMES).
        service: String,
        /// Of which kind the key is.
        kind: KeyKind,
        /// Where the key is, or goes to, PEM; readable by its owner alone.
        key: PathBuf,
        /// Where the certificate chain goes, PEM.
        chain: PathBuf,
    },
}

/// What the process is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// What to do.
    pub command: Command,
    /// The TOML file with the settings; without it they are all in the environment.
    pub configuration: Option<PathBuf>,
}

impl Arguments {
    /// Reads them. The program's name is not one of them.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, StartError> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let is_option = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"-");
        if arguments.iter().any(is_option) {
            return Err(StartError::Usage);
        }
        let text = |argument: &OsString| argument.to_str().map(str::to_owned).ok_or(StartError::Usage);
        let (command, rest) = match &arguments[..] {
            [name, rest @ ..] if name == "migrate" => (Command::Migrate, rest),
            [name, user, rest @ ..] if name == "bootstrap" => {
                let user = text(user)?.parse().map_err(|_| StartError::Usage)?;
                (Command::Bootstrap(user), rest)
            }
            [name, service, key, chain, rest @ ..] if identity_kind(name).is_some() => {
                let identity = Command::Identity {
                    service: text(service)?,
                    kind: identity_kind(name).ok_or(StartError::Usage)?,
                    key: key.into(),
                    chain: chain.into(),
                };
                (identity, rest)
            }
            [name, ..] if name == "bootstrap" || identity_kind(name).is_some() => {
                return Err(StartError::Usage);
            }
            rest => (Command::Serve, rest),
        };
        let configuration = match rest {
            [] => None,
            [file] => Some(file.into()),
            _ => return Err(StartError::Usage),
        };
        Ok(Self {
            command,
            configuration,
        })
    }
}

fn identity_kind(name: &OsString) -> Option<KeyKind> {
    match name.to_str() {
        Some("identity") => Some(KeyKind::Ed25519),
        Some("identity-p256") => Some(KeyKind::P256),
        _ => None,
    }
}

impl Command {
    /// Does it, and says what was done in one line: on standard output, for whoever asked. Not to serve: see
    /// [`run`](crate::run).
    pub async fn perform(self, config: Config) -> Result<(), StartError> {
        let done = match self {
            Self::Serve => return Err(StartError::Usage),
            Self::Migrate => migrate(&config).await?.to_owned(),
            Self::Bootstrap(administrator) => {
                with_service(config, async |service| {
                    let made = service.bootstrap(&administrator).await?;
                    let made = made.ok_or(StartError::Bootstrapped)?;
                    Ok(made.code.as_str().to_owned())
                })
                .await?
            }
            Self::Identity {
                service,
                kind,
                key,
                chain,
            } => {
                with_service(config, async |issuer| {
                    issue(issuer, &service, kind, &key, &chain).await
                })
                .await?
            }
        };
        #[expect(clippy::print_stdout, reason = "the one line for whoever asked")]
        {
            println!("{done}");
        }
        Ok(())
    }
}

/// Brings the schema of a PostgreSQL database up to date. An SQLite file needs none of it: the service itself does that
/// at its start. Says what it did.
pub async fn migrate(config: &Config) -> Result<&'static str, StartError> {
    match &config.database {
        Database::Sqlite(_) => {
            Ok("nothing to migrate: an SQLite file is brought up to date when the service starts")
        }
        Database::Postgres(url) => {
            store::migrate(url).await?;
            Ok("the database has the schema of this program")
        }
    }
}

/// One more replica, for a moment.
async fn with_service<T>(
    config: Config,
    work: impl AsyncFnOnce(&Service) -> Result<T, StartError>,
) -> Result<T, StartError> {
    let service = Service::open(config, Clock::system()).await?;
    let outcome = work(&service).await;
    service.stop().await;
    outcome
}

/// Groups know the delivery service by its key: one that is there is kept. Says what it did.
async fn issue(
    issuer: &Service,
    service: &str,
    kind: KeyKind,
    key: &Path,
    chain: &Path,
) -> Result<String, StartError> {
    let not_written = |_| StartError::IdentityNotWritten;
    if key.exists() {
        let held = held(service, kind, key, chain).ok_or(StartError::OtherIdentity)?;
        let renewed = issuer.certify_service_key(service, held).await?;
        renewed.save_chain(chain).map_err(not_written)?;
        return Ok(format!("issued a new certificate for the key of {service}"));
    }
    if chain.exists() {
        return Err(StartError::OtherIdentity);
    }
    let identity = issuer.issue_service_identity(service, kind).await?;
    identity.save(key, chain).map_err(not_written)?;
    Ok(format!("issued a certificate for {service}"))
}

/// The key that is there, if it is of that kind, and its certificate, where there is one, of that service.
fn held(service: &str, kind: KeyKind, key: &Path, chain: &Path) -> Option<ServiceKey> {
    let held = if chain.exists() {
        let identity = ServiceIdentity::load(key, chain).ok()?;
        (identity.name() == service).then(|| identity.into_key())
    } else {
        ServiceKey::load(key).ok()
    };
    held.filter(|held| held.kind() == Some(kind))
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Option<(Command, Option<PathBuf>)> {
        let words = arguments.split_whitespace().map(OsString::from);
        let parsed = Arguments::parse(words).ok()?;
        Some((parsed.command, parsed.configuration))
    }

    #[test]
    fn the_configuration_comes_last() {
        let bootstrap = Command::Bootstrap("root@interieur.example".parse().unwrap());
        let identity = |kind| Command::Identity {
            service: "delivery-service".into(),
            kind,
            key: "key.pem".into(),
            chain: "chain.pem".into(),
        };
        for (words, command) in [
            ("", Command::Serve),
            ("migrate", Command::Migrate),
            ("bootstrap root@interieur.example", bootstrap),
            (
                "identity delivery-service key.pem chain.pem",
                identity(KeyKind::Ed25519),
            ),
            (
                "identity-p256 delivery-service key.pem chain.pem",
                identity(KeyKind::P256),
            ),
        ] {
            assert_eq!(parse(words), Some((command.clone(), None)));
            let file = Some(PathBuf::from("a.toml"));
            assert_eq!(parse(&format!("{words} a.toml")), Some((command, file)));
            assert_eq!(parse(&format!("{words} a.toml b.toml")), None);
            assert_eq!(parse(&format!("{words} --help")), None);
        }
        for wrong in [
            "bootstrap",
            "bootstrap a.toml",
            "identity",
            "identity s k",
            "identity-p256 s k",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
