//! The profile directory: the encrypted store of one device, and its key.
//!
//! The key lies beside the store because a terminal has no better place. An app keeps it in the platform's key store.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use valise_client_sdk::{CipherSuite, Client, Connection, OfflineReason, Options, Store, StoreKey};

use crate::error::CliError;
use crate::progress::ProgressLine;

/// How long a server may take to be reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// A profile directory, which may not be there yet.
pub(crate) struct Profile {
    directory: PathBuf,
}

impl Profile {
    /// That directory, or the usual one.
    pub(crate) fn new(directory: Option<PathBuf>) -> Result<Self, CliError> {
        let usual = || {
            let data = std::env::var_os("XDG_DATA_HOME").filter(|path| Path::new(path).is_absolute());
            let home = || std::env::home_dir().map(|home| home.join(".local/share"));
            data.map(PathBuf::from)
                .or_else(home)
                .map(|data| data.join("valise"))
        };
        match directory.or_else(usual) {
            Some(directory) => Ok(Self { directory }),
            None => Err(CliError::failed("there is no home directory: name a --profile")),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of what was shown already ([`crate::feed`]).
    pub(crate) fn shown_file(&self) -> PathBuf {
        self.directory.join("shown.json")
    }

    fn store_file(&self) -> PathBuf {
        self.directory.join("device.db")
    }

    fn key_file(&self) -> PathBuf {
        self.directory.join("device.key")
    }

    /// Of the groups that the device can be in.
    fn suites_file(&self) -> PathBuf {
        self.directory.join("suites")
    }

    /// Notes which cipher suites the device is enrolled with, the one of its own groups first.
    pub(crate) fn set_suites(&self, suites: &[CipherSuite]) -> Result<(), CliError> {
        let file = self.suites_file();
        let lines: Vec<_> = suites.iter().map(ToString::to_string).collect();
        fs::write(&file, lines.join("\n")).map_err(CliError::io(format!("cannot write {}", file.display())))
    }

    /// The suites that were noted; none where nothing was.
    pub(crate) fn suites(&self) -> Result<Vec<CipherSuite>, CliError> {
        let file = self.suites_file();
        match fs::read_to_string(&file) {
            Ok(text) => Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(CliError::io(format!("cannot read {}", file.display()))(error)),
        }
    }

    /// With the suites that were noted.
    pub(crate) fn options(&self) -> Result<Options, CliError> {
        let suites = self.suites()?;
        let mut options = Options::default();
        if let Some(own) = suites.first() {
            options.cipher_suite = *own;
        }
        options.key_packages.cipher_suites = suites;
        Ok(options)
    }

    /// For a device that is to be enrolled: the directory and the key are made, unless an attempt before has made them.
    pub(crate) fn prepare(&self) -> Result<Store, CliError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&self.directory)
            .map_err(CliError::io(format!("cannot make {}", self.directory.display())))?;
        match make_key(&self.key_file()) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(CliError::io(format!(
                "cannot write {}",
                self.key_file().display()
            ))(error)),
            Ok(()) | Err(_) => self.store(),
        }
    }

    fn store(&self) -> Result<Store, CliError> {
        let file = self.key_file();
        let key = fs::read(&file).map_err(|error| match error.kind() {
            ErrorKind::NotFound => CliError::failed(format!(
                "there is no enrolled device in {}: see `valise enrol --help`",
                self.directory.display()
            )),
            _ => CliError::io(format!("cannot read {}", file.display()))(error),
        })?;
        let key = <[u8; 32]>::try_from(key)
            .map_err(|_| CliError::failed(format!("{} is not a key of 32 bytes", file.display())))?;
        Ok(Store::file(self.store_file(), StoreKey::from_bytes(key)))
    }

    /// The enrolled device. Works without a connection.
    pub(crate) async fn open(&self) -> Result<Client, CliError> {
        Ok(Client::open_with(self.store()?, self.options()?).await?)
    }

    /// The enrolled device, when it knows all that the service knows.
    pub(crate) async fn open_synced(&self) -> Result<Client, CliError> {
        let client = self.open().await?;
        let _progress = ProgressLine::start(&client);
        match synced(&client).await {
            Ok(()) => Ok(client),
            Err(error) => {
                client.close().await;
                Err(error)
            }
        }
    }
}

async fn synced(client: &Client) -> Result<(), CliError> {
    let mut connection = client.connection();
    let reached = connection.wait_for(|state| {
        !matches!(
            state,
            Connection::Offline {
                reason: OfflineReason::Starting | OfflineReason::Unreachable
            }
        )
    });
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        return Err(valise_client_sdk::Error::Unreachable.into());
    }
    Ok(client.synced().await?)
}

/// Resolves when the client will not come back by itself.
pub(crate) async fn offline_for_good(client: &Client) -> CliError {
    let mut connection = client.connection();
    let state = connection
        .wait_for(|state| {
            matches!(
                state,
                Connection::Offline {
                    reason: OfflineReason::Displaced | OfflineReason::Refused(_)
                }
            )
        })
        .await
        .map(|state| state.clone());
    match state {
        Ok(Connection::Offline {
            reason: OfflineReason::Refused(reason),
        }) => CliError::failed(format!("refused: {reason}: {}", reason.message())),
        Ok(_) => CliError::failed("another client with this device took over"),
        Err(_) => valise_client_sdk::Error::Closed.into(),
    }
}

/// Makes the key file, unless it is there.
fn make_key(file: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    file.write_all(StoreKey::random().as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let profile = Profile::new(Some(directory.path().join("a/b"))).unwrap();
        assert!(matches!(profile.store(), Err(CliError::Failed(_))));
        profile.prepare().unwrap();
        let key = fs::read(profile.key_file()).unwrap();
        assert_eq!(key.len(), 32);
        profile.prepare().unwrap();
        assert_eq!(fs::read(profile.key_file()).unwrap(), key);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&profile.key_file()), 0o600);
            assert_eq!(mode(profile.directory()), 0o700);
        }
    }

    #[test]
    fn suites_are_noted_with_the_profile() {
        let directory = tempfile::tempdir().unwrap();
        let profile = Profile::new(Some(directory.path().to_owned())).unwrap();
        assert_eq!(profile.options().unwrap().cipher_suite, CipherSuite::X25519Aes128);
        let suites = [CipherSuite::MlKem768X25519Aes128, CipherSuite::X25519Aes128];
        profile.set_suites(&suites).unwrap();
        let options = profile.options().unwrap();
        assert_eq!(options.cipher_suite, CipherSuite::MlKem768X25519Aes128);
        assert_eq!(options.key_packages.cipher_suites, suites);
        fs::write(directory.path().join("suites"), "0x0042\n").unwrap();
        assert!(profile.options().is_err(), "pure ML-KEM");
    }

    #[test]
    fn a_key_of_another_size_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let profile = Profile::new(Some(directory.path().to_owned())).unwrap();
        fs::write(profile.key_file(), "short").unwrap();
        assert!(profile.store().is_err());
    }
}
