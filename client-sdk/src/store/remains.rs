//! What a store's files hold besides what the database says: looked for in files that are not encrypted.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::{Database, set_up, take};
use crate::Error;

/// Bytes of a secret by which it is recognised.
const PIECE: usize = 64;
/// Ids and public keys are shorter; they may be elsewhere, too.
const SECRET: usize = 256;

impl Database {
    /// Opens a store whose file is not encrypted.
    pub(crate) fn open_in_clear(path: &Path) -> Result<Self, Error> {
        let mut connection = Connection::open(path)?;
        take(&connection)?;
        set_up(&mut connection)?;
        Ok(Self { connection })
    }
}

/// Pieces of what openmls's tables hold: keys, ratchets, trees.
pub(crate) struct Secrets(HashSet<Vec<u8>>);

impl Secrets {
    /// Those that there are now.
    pub(crate) fn of(database: &Database) -> Self {
        let secrets = values(&database.connection, "openmls%");
        let secrets = secrets.iter().filter(|secret| secret.len() > SECRET);
        Self(
            secrets
                .flat_map(|secret| secret.chunks_exact(PIECE))
                .map(<[u8]>::to_vec)
                .collect(),
        )
    }

    /// Those of them that no table holds any more.
    pub(crate) fn deleted(mut self, database: &Database) -> Self {
        for value in values(&database.connection, "%") {
            for piece in value.windows(PIECE) {
                self.0.remove(piece);
            }
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are in the files of this folder.
    pub(crate) fn count_in(&self, folder: &Path) -> usize {
        let mut found: HashSet<Vec<u8>> = HashSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let pieces = bytes.windows(PIECE).filter(|piece| self.0.contains(*piece));
            found.extend(pieces.map(<[u8]>::to_vec));
        }
        found.len()
    }

    /// Are they in the files of this folder? Those that lie across two pages are not found.
    pub(crate) fn are_in(&self, folder: &Path) -> bool {
        self.count_in(folder) > self.0.len() / 10 * 9
    }
}

/// All texts and blobs of the tables with such names.
fn values(connection: &Connection, like: &str) -> Vec<Vec<u8>> {
    // A virtual table's content is in others.
    let mut tables = connection
        .prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE ?1
             AND name NOT LIKE 'sqlite_%' AND sql NOT LIKE 'CREATE VIRTUAL%'",
        )
        .unwrap();
    let tables = tables.query_map([like], |row| row.get(0)).unwrap();
    let tables: Vec<String> = tables.collect::<Result<_, _>>().unwrap();
    let mut values = Vec::new();
    for table in tables {
        let mut rows = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                if let ValueRef::Blob(bytes) | ValueRef::Text(bytes) = row.get_ref(column).unwrap() {
                    values.push(bytes.to_vec());
                }
            }
        }
    }
    values
}
