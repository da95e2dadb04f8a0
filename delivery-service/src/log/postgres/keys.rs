//! Idempotency keys that a sender has used before. Redis knows a key for as long as it has the entry; a sender that uses it again
//! later, and does not say that it repeats anything, gets a second entry. The archive has one entry under each key: the first.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{Row as _, query};
use valise_proto::IdempotencyKey;

use super::read::sender_bytes;
use super::{PostgresArchive, within};
use crate::log::redis::HotRow;
use crate::log::{Entry, StoreError};

impl PostgresArchive {
    /// Gives new entries of a group other keys where theirs are taken, by archived entries or by those before them. Says whether any was.
    pub(crate) async fn free_keys(&self, group: i64, rows: &mut [HotRow]) -> Result<bool, StoreError> {
        let keys: Vec<&[u8]> = rows.iter().map(|row| row.key.as_bytes().as_slice()).collect();
        let archived = within(async {
            query(
                "SELECT idempotency_key, sender FROM entries WHERE group_number = $1 AND idempotency_key = ANY($2)",
            )
            .bind(group)
            .bind(keys)
            .try_map(|row: PgRow| Ok((row.try_get::<Vec<u8>, _>(0)?, row.try_get::<Vec<u8>, _>(1)?)))
            .fetch_all(&self.pool)
            .await
        })
        .await?;
        let mut taken: HashSet<(Vec<u8>, Vec<u8>)> = archived.into_iter().collect();
        let mut changed = false;
        for row in rows {
            let sender = sender_bytes(row.entry.sender.as_ref()).to_vec();
            if taken.contains(&(row.key.as_bytes().to_vec(), sender.clone())) {
                row.key = spare_key(&row.entry);
                changed = true;
            }
            taken.insert((row.key.as_bytes().to_vec(), sender));
        }
        Ok(changed)
    }
}

/// A key that no sender can have used: it is made of the entry's id, which the service chooses by chance.
fn spare_key(entry: &Entry) -> IdempotencyKey {
    let mut hash = Sha256::new();
    hash.update(b"an entry whose key was taken");
    hash.update(entry.position.0.to_be_bytes());
    hash.update(entry.id.as_bytes());
    let mut key = [0; 16];
    key.iter_mut()
        .zip(hash.finalize())
        .for_each(|(to, from)| *to = from);
    IdempotencyKey::from_bytes(key)
}
