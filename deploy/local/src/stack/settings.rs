//! The services' settings, and the files with which they show who they are.

#![expect(
    clippy::unnecessary_debug_formatting,
    reason = "quoted and escaped as TOML wants it"
)]

use std::path::{Path, PathBuf};

use super::replica::Replica;

/// The program of the authentication service.
pub(super) const AUTHENTICATION: &str = "valise-authentication-service";
/// The program of the key-package directory.
pub(super) const DIRECTORY: &str = "valise-key-package-directory";
/// The program of the delivery service.
pub(super) const DELIVERY: &str = "valise-delivery-service";

/// What the settings of all services follow from.
pub(super) struct Peers<'a> {
    pub(super) domain: &'a str,
    /// Of the authentication service, the directory, the delivery service.
    pub(super) databases: [String; 3],
    /// The content of the section `redis`.
    pub(super) redis: String,
    pub(super) identities: &'a Path,
}

impl Peers<'_> {
    pub(super) fn authentication(&self, replica: &Replica) -> String {
        let Self {
            domain, databases, ..
        } = self;
        format!(
            "database = {:?}\ntrust_domain = {domain:?}\ndomains = [{domain:?}]\n{}",
            databases[0],
            server(replica)
        )
    }

    pub(super) fn directory(&self, replica: &Replica, tokens: &Replica, notices: &Replica) -> String {
        let (key, chain) = identity(self.identities, DIRECTORY);
        format!(
            "database = {:?}\n{}[peers]\nauthentication = {:?}\ndelivery = {:?}\nissuer = {:?}\nkey = {key:?}\n\
             certificate = {chain:?}\n",
            self.databases[1],
            server(replica),
            tokens.url(),
            notices.url(),
            self.issuer(),
        )
    }

    pub(super) fn delivery(&self, replica: &Replica, tokens: &Replica) -> String {
        let (key, chain) = identity(self.identities, DELIVERY);
        let (p256_key, p256_chain) = p256_identity(self.identities);
        format!(
            "database = {:?}\nkey_file = {key:?}\nchain_file = {chain:?}\np256_key_file = {p256_key:?}\n\
             p256_chain_file = {p256_chain:?}\nauthentication_url = {:?}\n\
             token_issuer = {:?}\n{}[redis]\n{}",
            self.databases[2],
            tokens.url(),
            self.issuer(),
            server(replica),
            self.redis,
        )
    }

    fn issuer(&self) -> String {
        format!("valise://{}", self.domain)
    }
}

fn server(replica: &Replica) -> String {
    format!("[server]\nlisten = \"127.0.0.1:{}\"\n", replica.port())
}

/// The files with a service's key and certificate. Its replicas share them: groups know the delivery service by its key.
pub(super) fn identity(identities: &Path, program: &str) -> (PathBuf, PathBuf) {
    let file = |what: &str| identities.join(format!("{program}.{what}.pem"));
    (file("key"), file("chain"))
}

/// The delivery service's second key and certificate, for groups with a P-256 suite.
pub(super) fn p256_identity(identities: &Path) -> (PathBuf, PathBuf) {
    let file = |what: &str| identities.join(format!("{DELIVERY}.p256.{what}.pem"));
    (file("key"), file("chain"))
}
