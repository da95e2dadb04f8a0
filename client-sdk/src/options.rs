//! How a client is set up.

mod cipher_suite;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use valise_clock::Clock;
use valise_device_certificate::KeyKind;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use cipher_suite::CipherSuite;

use crate::Error;
use crate::session::blocking;
use crate::store::Database;

/// The 32-byte key of a store file. It is the app's task to keep it (in the system's key store).
///
/// ```
/// use valise_client_sdk::StoreKey;
///
/// let key = StoreKey::random();
/// let kept = *key.as_bytes(); // in the platform's key store
/// assert_eq!(StoreKey::from_bytes(kept).as_bytes(), key.as_bytes());
/// assert_eq!(format!("{key:?}"), "StoreKey(…)"); // it gets into no log
/// ```
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// A new random key.
    ///
    /// ```
    /// use valise_client_sdk::StoreKey;
    ///
    /// assert_ne!(StoreKey::random().as_bytes(), StoreKey::random().as_bytes());
    /// ```
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
        Self(bytes)
    }

    /// With these bytes, which must come from a cryptographic random generator or key derivation.
    ///
    /// ```
    /// use valise_client_sdk::StoreKey;
    ///
    /// let from_the_key_store = [7; 32];
    /// assert_eq!(StoreKey::from_bytes(from_the_key_store).as_bytes(), &from_the_key_store);
    /// ```
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be kept in a safe place.
    ///
    /// ```
    /// use valise_client_sdk::StoreKey;
    ///
    /// let to_the_key_store: [u8; 32] = *StoreKey::random().as_bytes();
    /// ```
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(…)")
    }
}

/// Where a device keeps its keys, groups, outbox and events.
///
/// ```
/// use valise_client_sdk::{Store, StoreKey};
///
/// let on_disk = Store::file("alice.valise", StoreKey::random());
/// let for_a_test = Store::memory();
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) place: Place,
}

#[derive(Debug, Clone)]
pub(crate) enum Place {
    File(PathBuf, StoreKey),
    Memory,
}

impl Store {
    /// An encrypted file (SQLCipher, AES-256), created if it is not there. One client at a time has it open.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Store, StoreKey};
    ///
    /// let file = folder.join("alice.valise");
    /// let store = Store::file(&file, StoreKey::random());
    /// let alice = Client::enrol(server, code, "laptop", store).await?;
    /// assert!(file.exists());
    /// # Ok(()) });
    /// ```
    pub fn file(path: impl AsRef<Path>, key: StoreKey) -> Self {
        Self {
            place: Place::File(path.as_ref().to_owned(), key),
        }
    }

    /// In memory: gone with the client.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Store};
    ///
    /// let for_a_test = Client::enrol(server, code, "test", Store::memory()).await?;
    /// # Ok(()) });
    /// ```
    pub fn memory() -> Self {
        Self { place: Place::Memory }
    }

    /// Does it hold an enrolled device? [`crate::Client::open`] opens that; [`crate::Client::enrol`] makes one where there is none. A file
    /// that is not there is not made. Fails as opening does, for example where the store is in use.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Store, StoreKey};
    ///
    /// let store = Store::file(folder.join("alice.valise"), StoreKey::random());
    /// assert!(!store.is_enrolled().await?);
    /// Client::enrol(server, code, "laptop", store.clone()).await?.close().await;
    /// assert!(store.is_enrolled().await?);
    /// # Ok(()) });
    /// ```
    pub async fn is_enrolled(&self) -> Result<bool, Error> {
        let store = self.clone();
        blocking(move || match &store.place {
            Place::File(path, _) if path.exists() => {
                let device = Database::open(&store)?.device()?;
                Ok(device.is_some_and(|device| device.enrolled.is_some()))
            }
            Place::File(..) | Place::Memory => Ok(false),
        })
        .await
    }
}

/// Where the services are. One URL for all three, or one for each.
///
/// ```
/// use valise_client_sdk::Servers;
///
/// // A trial on one machine: one address for all three services.
/// let trial = Servers::one("http://127.0.0.1:7400");
///
/// // A ministry's cluster, with its own certificate authority.
/// let ministry = Servers::each(
///     "https://authentication.chat.interieur.example",
///     "https://directory.chat.interieur.example",
///     "https://delivery.chat.interieur.example",
/// )
/// .with_certificate_authority("-----BEGIN CERTIFICATE-----\n…");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    pub(crate) authentication: String,
    pub(crate) directory: String,
    pub(crate) delivery: String,
    pub(crate) certificate_authority: Option<String>,
}

impl Servers {
    /// One URL, `http(s)://host:port`, for all services.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Servers, Store};
    ///
    /// let alice = Client::enrol(Servers::one(server), code, "laptop", Store::memory()).await?;
    /// # Ok(()) });
    /// ```
    pub fn one(url: impl Into<String>) -> Self {
        let url = url.into();
        Self {
            authentication: url.clone(),
            directory: url.clone(),
            delivery: url,
            certificate_authority: None,
        }
    }

    /// The authentication service's, the key-package directory's and the delivery service's URL.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Servers, Store};
    ///
    /// // Here one process is all three.
    /// let servers = Servers::each(server, server, server);
    /// assert_eq!(servers, Servers::one(server));
    /// let alice = Client::enrol(servers, code, "laptop", Store::memory()).await?;
    /// # Ok(()) });
    /// ```
    pub fn each(
        authentication: impl Into<String>,
        directory: impl Into<String>,
        delivery: impl Into<String>,
    ) -> Self {
        Self {
            authentication: authentication.into(),
            directory: directory.into(),
            delivery: delivery.into(),
            certificate_authority: None,
        }
    }

    /// The certificate authority (PEM) that the servers' TLS certificates chain to: needed for `https`.
    ///
    /// ```
    /// use valise_client_sdk::Servers;
    ///
    /// let pem = "-----BEGIN CERTIFICATE-----\n…"; // comes with the app, not from the network
    /// let servers = Servers::one("https://chat.interieur.example").with_certificate_authority(pem);
    /// ```
    pub fn with_certificate_authority(mut self, pem: impl Into<String>) -> Self {
        self.certificate_authority = Some(pem.into());
        self
    }
}

impl From<&str> for Servers {
    fn from(url: &str) -> Self {
        Self::one(url)
    }
}

impl From<&String> for Servers {
    fn from(url: &String) -> Self {
        Self::one(url)
    }
}

impl From<String> for Servers {
    fn from(url: String) -> Self {
        Self::one(url)
    }
}

/// How many key packages are kept in stock, and for how long they live.
///
/// ```
/// use valise_client_sdk::{KeyPackageOptions, Options};
///
/// let mut options = Options::default();
/// options.key_packages = KeyPackageOptions {
///     one_time: 100, // a device that is added to many groups at a time
///     ..KeyPackageOptions::default()
/// };
/// ```
#[derive(Debug, Clone)]
pub struct KeyPackageOptions {
    /// One-time packages that are published when the stock is low; the directory keeps at most its own capacity.
    pub one_time: usize,
    /// Lifetime of a package, counted from an hour before it is made, as clocks differ. More than 84 days and an hour is refused by the
    /// directory and by other devices; where the directory takes less, it is that. Default 84 days.
    pub lifetime: Duration,
    /// For which suites packages are published besides [`Options::cipher_suite`]: the device can be added to groups with these.
    pub cipher_suites: Vec<CipherSuite>,
}

impl Default for KeyPackageOptions {
    fn default() -> Self {
        Self {
            one_time: 20,
            lifetime: Duration::from_hours(84 * 24),
            cipher_suites: Vec::new(),
        }
    }
}

/// What a device does by itself.
///
/// ```
/// use valise_client_sdk::{ByItself, RejoinPolicy};
///
/// assert_eq!(RejoinPolicy::default().lost, ByItself::Always);
/// assert_eq!(RejoinPolicy::default().bad_commit, ByItself::Never);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByItself {
    /// Whenever there is reason to.
    Always,
    /// Only when the app asks for it.
    Never,
}

/// When a device comes (back) into a group by an external commit (RFC 9420 §12.4.3.2) without being asked. It does so once it has
/// read everything else that it missed, and tells the app. The service and every member let in only devices of users who are members.
///
/// ```
/// use valise_client_sdk::{ByItself, Options};
///
/// let mut options = Options::default();
/// // A tool without anybody to ask: its new devices take up the groups of the old ones.
/// options.rejoin.other_devices = ByItself::Always;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejoinPolicy {
    /// After it was away for longer than the service keeps entries. On by default: the device was a member and still is; all that it
    /// lost is what it would have had to read.
    pub lost: ByItself,
    /// Into the groups of this user's other devices, for example on a new device after the old one's store was lost. Off by default:
    /// nobody who is in the group agrees to it, and a device that an attacker enrolled would come in alike. An app that asks its user
    /// first uses [`crate::Client::groups_elsewhere`] and [`crate::Client::come_in`].
    pub other_devices: ByItself,
    /// After a commit that this device cannot process. Off by default, and better left so: whoever can make one commit that fails
    /// could then make members accept whatever state of the group they are shown next (RFC 9750 §5.3, §6.6).
    pub bad_commit: ByItself,
    /// How long an invitation may take to a device that the service already names as a member. After that it counts as lost, and the device
    /// comes in as `lost` says. Shorter than a failover of the service's stores takes, it makes commits that nobody needs. Default 2 minutes.
    pub invitation_wait: Duration,
}

impl Default for RejoinPolicy {
    fn default() -> Self {
        Self {
            lost: ByItself::Always,
            other_devices: ByItself::Never,
            bad_commit: ByItself::Never,
            invitation_wait: Duration::from_mins(2),
        }
    }
}

/// How a device's keys are kept fresh.
///
/// ```
/// use std::time::Duration;
/// use valise_client_sdk::{KeyUpkeep, Options};
///
/// let mut options = Options::default();
/// options.key_upkeep = KeyUpkeep {
///     self_update: Duration::from_secs(7 * 24 * 3600), // weekly
///     ..KeyUpkeep::default()
/// };
/// ```
#[derive(Debug, Clone)]
pub struct KeyUpkeep {
    /// The device gives itself new keys in each group about this often (RFC 9750 §6.2): between three quarters of it and all of it,
    /// so that members do not all commit at once. 0 turns it off. Default 30 days.
    pub self_update: Duration,
    /// And once after joining a group, between a quarter of this time and all of it later. Default 24 hours.
    ///
    /// After joining through a last-resort key package, with whose key others may have been welcomed, too (RFC 9420 §16.8), it does so
    /// sooner, whatever is set here: at once in a group of up to eight devices; in a larger one by chance within 300 milliseconds for each
    /// device beyond eight, and within five minutes at most, or when the client is opened again.
    pub after_joining: Duration,
    /// Members whose certificate ended this long ago have not renewed their keys for a long time: where this device's user may
    /// remove, it removes them (RFC 9420 §16.6). That time must have passed by this device's clock and by the acceptance time of the newest
    /// entry in the group's log: neither a wrong clock nor a service that lies about the time removes anybody alone. `None` turns it
    /// off. Default 90 days.
    pub evict_stale: Option<Duration>,
}

impl Default for KeyUpkeep {
    fn default() -> Self {
        Self {
            self_update: Duration::from_hours(30 * 24),
            after_joining: Duration::from_hours(24),
            evict_stale: Some(Duration::from_hours(90 * 24)),
        }
    }
}

/// How a client behaves. The default is right for an app.
///
/// ```
/// use std::time::Duration;
/// use valise_client_sdk::Options;
///
/// let mut options = Options::default();
/// options.history = false;
/// options.commit_delay = Duration::from_secs(1);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// What time it is.
    pub clock: Clock,
    /// Key packages.
    pub key_packages: KeyPackageOptions,
    /// Keys in groups.
    pub key_upkeep: KeyUpkeep,
    /// The suite of groups that this device creates ([`crate::Client::create_group`]). When it enrols, its key is made of the kind
    /// that this suite needs; from then on only suites of that kind fit ([`Error::SuiteOfOtherKey`]).
    pub cipher_suite: CipherSuite,
    /// Keep messages on the device, to be shown and searched ([`crate::Group::history`]). Without it nothing is kept beyond
    /// unconfirmed events, what was kept before is deleted at the next start, and it cannot be checked whether edits and
    /// deletions are of the one who sent the message.
    pub history: bool,
    /// How long a member waits, for each active member before it in the tree, before it commits somebody's proposal.
    pub commit_delay: Duration,
    /// When this device comes back into groups without being asked.
    pub rejoin: RejoinPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            key_packages: KeyPackageOptions::default(),
            key_upkeep: KeyUpkeep::default(),
            cipher_suite: CipherSuite::default(),
            history: true,
            commit_delay: Duration::from_millis(200),
            rejoin: RejoinPolicy::default(),
        }
    }
}

impl Options {
    /// The suites of groups that the device can be in, its own first, each once.
    pub(crate) fn suites(&self) -> Vec<CipherSuite> {
        let mut suites = vec![self.cipher_suite];
        for suite in &self.key_packages.cipher_suites {
            if !suites.contains(suite) {
                suites.push(*suite);
            }
        }
        suites
    }

    /// Do all suites fit a key of that kind?
    pub(crate) fn fit(&self, kind: KeyKind) -> Result<(), Error> {
        match self.suites().into_iter().find(|suite| suite.key_kind() != kind) {
            Some(suite) => Err(Error::SuiteOfOtherKey(suite)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_of_one_device_are_of_one_kind_of_key() {
        let mut options = Options::default();
        options.key_packages.cipher_suites = vec![CipherSuite::X25519ChaCha20, CipherSuite::X25519Aes128];
        assert_eq!(
            options.suites(),
            [CipherSuite::X25519Aes128, CipherSuite::X25519ChaCha20]
        );
        assert!(options.fit(KeyKind::Ed25519).is_ok());
        assert!(options.fit(KeyKind::P256).is_err());
        options.key_packages.cipher_suites.push(CipherSuite::P256Aes128);
        let refused = options.fit(KeyKind::Ed25519).unwrap_err();
        assert!(matches!(refused, Error::SuiteOfOtherKey(CipherSuite::P256Aes128)));
    }
}
