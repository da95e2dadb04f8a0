//! What a store can do without anything around it: for the embedded one its own table, on the same disk.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::redis_reference::Raw;
use crate::server::Server;
use crate::{Bench, Result};

/// Keeps one message after the other.
pub(crate) enum Bare {
    Table(Table),
    Redis(Raw),
}

impl Bare {
    /// Of the store that is measured; `name` is that of a new file.
    pub(crate) async fn open(bench: &mut Bench, name: &str) -> Result<Self> {
        Ok(match &bench.server {
            Server::Embedded(_) => Self::Table(Table::create(&bench.data.path().join(name))?),
            Server::Production(_) => Self::Redis(Raw::open(&bench.server.redis()?.url()).await?),
        })
    }

    /// What it does.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Table(_) => "one insert, one transaction",
            Self::Redis(_) => "one raw XADD, there and back",
        }
    }

    /// Returns when the message is durable.
    pub(crate) async fn keep(&mut self, message: &[u8]) -> Result<()> {
        match self {
            Self::Table(table) => table.insert(message),
            Self::Redis(raw) => raw.add(message).await,
        }
    }
}

/// The delivery service's schema, with all its indexes.
const SCHEMA: &str = include_str!("../../delivery-service/src/log/sqlite/schema.sql");

/// One connection, one transaction for each insert.
pub(crate) struct Table {
    connection: Connection,
    position: i64,
}

impl Table {
    /// A new file with the settings of the delivery service's store.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self {
            connection,
            position: 0,
        })
    }

    /// Inserts a message: one statement, and so one transaction and one fsync.
    pub(crate) fn insert(&mut self, message: &[u8]) -> Result<()> {
        self.position += 1;
        let (entry_id, key): ([u8; 8], [u8; 16]) = rand::random();
        self.connection
            .prepare_cached(
                "INSERT INTO entries (group_number, position, kind, epoch, accepted_at, entry_id, idempotency_key,
                     sender, bytes) VALUES (1, ?1, 3, 1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![self.position, 1_700_000_000_000_i64 + self.position, entry_id, key, [7_u8; 16], message])?;
        Ok(())
    }
}
