//! What devices have offered of frozen groups, until they are repaired.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Row, query};
use valise_proto::{DeviceId, Epoch, GroupId, Position, UserId};

use super::read::{kind, kind_code, sender_bytes};
use super::{PostgresArchive, bytes, device_id, entry_id, position, unsigned, user_id, within};
use crate::log::offers::{
    Candidate, MAX_BYTES, MAX_DEVICE_BYTES, MAX_POSITIONS, MAX_VARIANTS, OfferRefused, OfferedEntry,
};
use crate::log::{Entry, StoreError};

impl PostgresArchive {
    /// Keeps what a device offers, all or nothing. Says the newest position that the device has offered.
    pub(crate) async fn offer(
        &self,
        group: GroupId,
        by: (&UserId, DeviceId),
        offered: &[OfferedEntry],
    ) -> Result<Result<Position, OfferRefused>, StoreError> {
        within(async {
            let mut transaction = self.pool.begin().await?;
            let Some((number, archived)) = lock_frozen(&mut transaction, group).await? else {
                return Ok(Err(OfferRefused::NotFrozen));
            };
            for OfferedEntry { entry, .. } in offered {
                if entry.position <= archived {
                    return Ok(Err(OfferRefused::Archived));
                }
                if entry.position.0 - archived.0 > MAX_POSITIONS {
                    return Ok(Err(OfferRefused::TooFar));
                }
            }
            keep(&mut transaction, number, by.1, offered).await?;
            if !vote(&mut transaction, number, by, offered).await? {
                return Ok(Err(OfferRefused::Otherwise));
            }
            if !fits(&mut transaction, number, by.1, offered).await? {
                return Ok(Err(OfferRefused::TooMany));
            }
            let newest = newest(&mut transaction, number, Some(by.1)).await?;
            transaction.commit().await?;
            Ok(Ok(newest))
        })
        .await
    }

    /// The newest position that a device, or anybody, has offered for a group.
    pub(crate) async fn newest_offer(
        &self,
        group: GroupId,
        device: Option<DeviceId>,
    ) -> Result<Position, StoreError> {
        let Some(known) = self.group(group).await? else {
            return Ok(Position::NONE);
        };
        within(async {
            let mut connection = self.pool.acquire().await?;
            newest(&mut connection, known.number, device).await
        })
        .await
    }

    /// What was offered after a position (exclusive), up to another one (inclusive), by position.
    pub(crate) async fn candidates(
        &self,
        group: GroupId,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Candidate>, StoreError> {
        let Some(known) = self.group(group).await? else {
            return Ok(Vec::new());
        };
        within(async {
            let mut connection = self.pool.acquire().await?;
            let mut by = voters(&mut connection, known.number, after, up_to).await?;
            let rows = query(
                "SELECT position, kind, epoch, accepted_at, entry_id, sender, bytes, group_info, digest
                 FROM offered_entries WHERE group_number = $1 AND position > $2 AND position <= $3
                 ORDER BY position, digest",
            )
            .bind(known.number)
            .bind(after.0.cast_signed())
            .bind(up_to.0.cast_signed())
            .try_map(|row: PgRow| {
                let digest: Vec<u8> = row.try_get(8)?;
                Ok((candidate(group, &row)?, digest))
            })
            .fetch_all(&mut *connection)
            .await?;
            let with_voters = rows.into_iter().map(|(mut candidate, digest)| {
                let key = (candidate.entry.position, digest);
                candidate.by = by.remove(&key).unwrap_or_default();
                candidate
            });
            Ok(with_voters.collect())
        })
        .await
    }
}

/// The group's number and its newest archived position, if it is frozen: it stays so until the transaction ends.
async fn lock_frozen(
    transaction: &mut PgConnection,
    group: GroupId,
) -> sqlx::Result<Option<(i64, Position)>> {
    query("SELECT number, position FROM groups WHERE group_id = $1 AND regressed_at IS NOT NULL FOR UPDATE")
        .bind(group.as_bytes().as_slice())
        .try_map(|row: PgRow| Ok((row.try_get(0)?, position(&row, 1)?)))
        .fetch_optional(transaction)
        .await
}

async fn keep(
    transaction: &mut PgConnection,
    number: i64,
    device: DeviceId,
    offered: &[OfferedEntry],
) -> sqlx::Result<()> {
    for offer in offered {
        let entry = &offer.entry;
        query(
            "INSERT INTO offered_entries AS e (group_number, position, digest, kind, epoch, accepted_at, entry_id,
                 sender, bytes, group_info, first_device, size)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (group_number, position, digest) DO UPDATE SET group_info = excluded.group_info,
                 size = e.size + octet_length(excluded.group_info)
                 WHERE e.group_info IS NULL AND excluded.group_info IS NOT NULL",
        )
        .bind(number)
        .bind(entry.position.0.cast_signed())
        .bind(offer.digest().as_slice())
        .bind(kind_code(entry.kind))
        .bind(entry.epoch.0.cast_signed())
        .bind(entry.accepted_at.cast_signed())
        .bind(entry.id.as_bytes().as_slice())
        .bind(sender_bytes(entry.sender.as_ref()))
        .bind(entry.bytes.as_ref())
        .bind(offer.group_info.as_deref())
        .bind(device.as_uuid().as_bytes().as_slice())
        .bind(i64::try_from(offer.size()).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}

/// Notes who offers it. False where the device has offered something else for one of the positions.
async fn vote(
    transaction: &mut PgConnection,
    number: i64,
    (user, device): (&UserId, DeviceId),
    offered: &[OfferedEntry],
) -> sqlx::Result<bool> {
    for offer in offered {
        let digest = offer.digest();
        let standing: Vec<u8> = query(
            // The update changes nothing, and returns the row that is there.
            "INSERT INTO offers AS o (group_number, position, device, user_id, digest) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (group_number, device, position) DO UPDATE SET digest = o.digest
             RETURNING digest",
        )
        .bind(number)
        .bind(offer.entry.position.0.cast_signed())
        .bind(device.as_uuid().as_bytes().as_slice())
        .bind(user.as_str())
        .bind(digest.as_slice())
        .try_map(|row: PgRow| row.try_get(0))
        .fetch_one(&mut *transaction)
        .await?;
        if standing != digest {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Is what is kept by now within the bounds?
async fn fits(
    transaction: &mut PgConnection,
    number: i64,
    device: DeviceId,
    offered: &[OfferedEntry],
) -> sqlx::Result<bool> {
    let within = |most: usize, size: i64| usize::try_from(size).is_ok_and(|size| size <= most);
    let (all, own): (i64, i64) = query(
        "SELECT coalesce(sum(size), 0)::bigint, coalesce(sum(size) FILTER (WHERE first_device = $2), 0)::bigint
         FROM offered_entries WHERE group_number = $1",
    )
    .bind(number)
    .bind(device.as_uuid().as_bytes().as_slice())
    .try_map(|row: PgRow| Ok((row.try_get(0)?, row.try_get(1)?)))
    .fetch_one(&mut *transaction)
    .await?;
    let positions: Vec<i64> = offered
        .iter()
        .map(|offer| offer.entry.position.0.cast_signed())
        .collect();
    let variants: i64 = query(
        "SELECT coalesce(max(variants), 0)::bigint FROM (
             SELECT count(*) AS variants FROM offered_entries
             WHERE group_number = $1 AND position = ANY($2) GROUP BY position) AS counted",
    )
    .bind(number)
    .bind(positions)
    .try_map(|row: PgRow| row.try_get(0))
    .fetch_one(&mut *transaction)
    .await?;
    Ok(within(MAX_BYTES, all) && within(MAX_DEVICE_BYTES, own) && within(MAX_VARIANTS, variants))
}

async fn newest(
    connection: &mut PgConnection,
    number: i64,
    device: Option<DeviceId>,
) -> sqlx::Result<Position> {
    let device = device.map(|device| device.as_uuid().as_bytes().to_vec());
    query(
        "SELECT coalesce(max(position), 0)::bigint FROM offers
         WHERE group_number = $1 AND ($2::bytea IS NULL OR device = $2)",
    )
    .bind(number)
    .bind(device)
    .try_map(|row: PgRow| position(&row, 0))
    .fetch_one(connection)
    .await
}

type Voters = HashMap<(Position, Vec<u8>), Vec<(UserId, DeviceId)>>;

async fn voters(
    connection: &mut PgConnection,
    number: i64,
    after: Position,
    up_to: Position,
) -> sqlx::Result<Voters> {
    let rows = query(
        "SELECT position, digest, user_id, device FROM offers
         WHERE group_number = $1 AND position > $2 AND position <= $3 ORDER BY device",
    )
    .bind(number)
    .bind(after.0.cast_signed())
    .bind(up_to.0.cast_signed())
    .try_map(|row: PgRow| {
        let digest: Vec<u8> = row.try_get(1)?;
        Ok((
            (position(&row, 0)?, digest),
            (user_id(&row, 2)?, device_id(&row, 3)?),
        ))
    })
    .fetch_all(connection)
    .await?;
    let mut voters = Voters::new();
    for (of, by) in rows {
        voters.entry(of).or_default().push(by);
    }
    Ok(voters)
}

fn candidate(group: GroupId, row: &PgRow) -> sqlx::Result<Candidate> {
    let sender = match row.try_get::<&[u8], _>(5)? {
        [] => None,
        _ => Some(device_id(row, 5)?),
    };
    let group_info: Option<Vec<u8>> = row.try_get(7)?;
    Ok(Candidate {
        entry: Arc::new(Entry {
            group,
            position: position(row, 0)?,
            kind: kind(row, 1)?,
            epoch: Epoch(unsigned(row, 2)?),
            accepted_at: unsigned(row, 3)?,
            id: entry_id(row, 4)?,
            sender,
            bytes: bytes(row, 6)?,
        }),
        group_info: group_info.map(Bytes::from),
        by: Vec::new(),
    })
}
