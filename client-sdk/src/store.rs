//! The store: one SQLite database (SQLCipher), opened exclusively, with openmls's tables and the SDK's own.

mod adds;
mod copies;
mod delivery_chain;
mod device;
mod events;
mod groups;
mod history;
mod intents;
mod key_packages;
mod key_updates;
mod limits;
#[cfg(test)]
pub(crate) mod remains;
mod reports;
mod resets;

use std::path::Path;

use openmls_sqlite_storage::SqliteStorageProvider;
use rusqlite::Connection;
use zeroize::Zeroizing;

pub(crate) use adds::{AddId, AddRow, FailedAdd};
pub(crate) use device::Enrolled;
pub(crate) use groups::GroupRow;
pub(crate) use history::{Failure, MessageNumber, Named, NewMessage, Place as MessagePlace};
pub(crate) use intents::{IntentId, IntentRow, NewIntent, Prepared};
pub(crate) use key_packages::KeyPackageRow;
pub(crate) use reports::ReportRow;
pub(crate) use resets::{Known, OldGroup, ResetRow, ResetStep};

use crate::mls::Json;
use crate::options::{Place, StoreKey};
use crate::{Error, Store};

/// The SDK's migrations; the number of the last one is the schema (`user_version`).
const MIGRATIONS: &[&str] = &[
    include_str!("store/1_initial.sql"),
    include_str!("store/2_history.sql"),
    include_str!("store/3_keys.sql"),
    include_str!("store/4_roles.sql"),
    include_str!("store/5_delivery_chain.sql"),
    include_str!("store/6_copies.sql"),
    include_str!("store/7_limits.sql"),
    include_str!("store/8_resets.sql"),
    include_str!("store/9_group_time.sql"),
    include_str!("store/10_group_limit.sql"),
    include_str!("store/11_adds_and_reports.sql"),
    include_str!("store/12_left_epoch.sql"),
    include_str!("store/13_seen_messages.sql"),
];

/// An open store.
pub(crate) struct Database {
    pub(crate) connection: Connection,
}

impl Database {
    /// Opens the store, creates it if it is not there, and brings its schema up to date.
    pub(crate) fn open(store: &Store) -> Result<Self, Error> {
        let mut connection = match &store.place {
            Place::Memory => Connection::open_in_memory()?,
            Place::File(path, key) => open_file(path, key)?,
        };
        set_up(&mut connection)?;
        Ok(Self { connection })
    }

    pub(crate) fn begin(&self) -> Result<(), Error> {
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    pub(crate) fn commit(&self) -> Result<(), Error> {
        Ok(self.connection.execute_batch("COMMIT")?)
    }

    pub(crate) fn rollback(&self) {
        if let Err(error) = self.connection.execute_batch("ROLLBACK") {
            tracing::error!(%error, "rolling back failed");
        }
    }

    /// What follows can be taken back alone, inside the transaction.
    pub(crate) fn savepoint(&self) -> Result<(), Error> {
        Ok(self.connection.execute_batch("SAVEPOINT entry")?)
    }

    pub(crate) fn release(&self) -> Result<(), Error> {
        Ok(self.connection.execute_batch("RELEASE entry")?)
    }

    pub(crate) fn rollback_to_savepoint(&self) -> Result<(), Error> {
        Ok(self
            .connection
            .execute_batch("ROLLBACK TO entry; RELEASE entry")?)
    }
}

/// The most memory that a store's pages take.
const CACHE_KIB: u32 = 16 * 1024;

/// What every store has, and the newest schema.
fn set_up(connection: &mut Connection) -> Result<(), Error> {
    // What is deleted is overwritten: consumed secrets must not stay readable to who gets hold of the key later (RFC 9420 §9.2).
    connection
        .execute_batch("PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;")?;
    migrate(connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn open_file(path: &Path, key: &StoreKey) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    // Whoever calls gets the error; nothing is written to the app's standard error.
    connection.execute_batch("PRAGMA cipher_log_source = NONE;")?;
    let pragma = Zeroizing::new(format!("PRAGMA key = \"x'{}'\"", &*hex(key.as_bytes())));
    connection.execute_batch(&pragma)?;
    take(&connection)?;
    // Pages that are not in the cache are decrypted each time.
    connection.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB};"))?;
    Ok(connection)
}

/// Takes the file for this connection alone.
fn take(connection: &Connection) -> Result<(), Error> {
    // Exclusive: two engines on one store would each think that they alone move its ratchets. FULL: a ratchet that goes back after
    // a power cut encrypts twice with one key.
    connection.execute_batch("PRAGMA busy_timeout = 0; PRAGMA locking_mode = EXCLUSIVE;")?;
    let _mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.execute_batch("PRAGMA synchronous = FULL; BEGIN EXCLUSIVE; COMMIT;")?;
    Ok(())
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    use std::fmt::Write as _;
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(Error::StoreTooNew { found, known });
    }
    SqliteStorageProvider::<Json, &mut Connection>::new(connection)
        .run_migrations()
        .map_err(|error| Error::Store(std::sync::Arc::new(error)))?;
    for (number, migration) in (1u32..).zip(MIGRATIONS).skip(found as usize) {
        connection.execute_batch(&format!(
            "BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use valise_device_certificate::KeyKind;

    use super::remains::Secrets;
    use super::*;

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device.valise");
        (directory, path)
    }

    #[test]
    fn a_store_is_opened_once_at_a_time() {
        let (_directory, path) = file();
        let key = StoreKey::random();
        let store = Store::file(&path, key);
        let first = Database::open(&store).unwrap();
        assert!(matches!(Database::open(&store), Err(Error::StoreInUse)));
        drop(first);
        Database::open(&store).unwrap();
    }

    #[test]
    fn another_key_does_not_open_it() {
        let (_directory, path) = file();
        drop(Database::open(&Store::file(&path, StoreKey::random())).unwrap());
        assert!(matches!(
            Database::open(&Store::file(&path, StoreKey::random())),
            Err(Error::StoreKey)
        ));
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let (_directory, path) = file();
        let store = Store::file(&path, StoreKey::random());
        let database = Database::open(&store).unwrap();
        database
            .connection
            .execute_batch("PRAGMA user_version = 99")
            .unwrap();
        drop(database);
        let error = Database::open(&store).map(drop).unwrap_err();
        assert!(
            matches!(error, Error::StoreTooNew { found: 99, known } if known as usize == MIGRATIONS.len()),
            "{error}"
        );
    }

    #[test]
    fn nothing_readable_is_on_disk() {
        let (directory, path) = file();
        let database = Database::open(&Store::file(&path, StoreKey::random())).unwrap();
        database
            .connection
            .execute(
                "INSERT INTO events (group_id, position, at, detail, body) VALUES (x'00', 1, 1, 'needle-in-json', ?1)",
                [b"needle-in-body".repeat(1000)],
            )
            .unwrap();
        drop(database);
        let mut files = 0;
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            files += 1;
            assert!(!bytes.windows(6).any(|window| window == b"needle"));
            assert!(!bytes.starts_with(b"SQLite format 3"));
        }
        assert!(files > 0);
    }

    #[test]
    fn the_key_can_be_changed() {
        let (_directory, path) = file();
        let (first, second) = (StoreKey::random(), StoreKey::random());
        let database = Database::open(&Store::file(&path, first.clone())).unwrap();
        database
            .connection
            .execute_batch("CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (7)")
            .unwrap();
        database.change_key(&second).unwrap();
        drop(database);
        assert!(matches!(
            Database::open(&Store::file(&path, first)),
            Err(Error::StoreKey)
        ));
        let database = Database::open(&Store::file(&path, second)).unwrap();
        let kept: i64 = database
            .connection
            .query_row("SELECT n FROM kept", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 7);
    }

    #[test]
    fn in_memory_there_is_no_key_to_change() {
        let database = Database::open(&Store::memory()).unwrap();
        database
            .connection
            .execute_batch("CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (7)")
            .unwrap();
        database.change_key(&StoreKey::random()).unwrap();
        let kept: i64 = database
            .connection
            .query_row("SELECT n FROM kept", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 7);
    }

    /// The file is not encrypted here: what it holds must be gone all the same.
    #[test]
    fn deleted_secrets_are_gone_from_the_file() {
        use openmls::prelude::{CredentialWithKey, KeyPackage};
        use openmls_traits::storage::StorageProvider as _;

        let (directory, path) = file();
        let database = Database::open_in_clear(&path).unwrap();
        let signer = crate::mls::new_signer(&database.connection, KeyKind::Ed25519).unwrap();
        let crypto = openmls_rust_crypto::RustCrypto::default();
        let provider = crate::mls::Provider::new(&crypto, &database.connection);
        let credential = CredentialWithKey {
            credential: valise_group_rules::credential(&[vec![5; 600]]),
            signature_key: signer.public().into(),
        };
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(valise_group_rules::capabilities())
            .build(valise_group_rules::suites()[0], &provider, &signer, credential)
            .unwrap();
        let secrets = Secrets::of(&database);
        database.scrub().unwrap();
        assert!(secrets.are_in(directory.path()));
        let reference = bundle.key_package().hash_ref(&crypto).unwrap();
        crate::mls::Storage::new(&database.connection)
            .delete_key_package(&reference)
            .unwrap();
        database.scrub().unwrap();
        let deleted = secrets.deleted(&database);
        assert!(!deleted.is_empty());
        assert_eq!(deleted.count_in(directory.path()), 0);
    }
}
