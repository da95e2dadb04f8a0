//! Groups that were reset, and the successor that each got first. Redis is closed by it, and closed again where it forgot.

use sqlx::postgres::PgRow;
use sqlx::query;
use valise_proto::GroupId;

use super::{PostgresArchive, group_id, unsigned, within};
use crate::log::StoreError;

/// A reset, as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeptReset {
    pub(crate) group: GroupId,
    pub(crate) successor: GroupId,
    /// In milliseconds since 1970-01-01 UTC.
    pub(crate) at: u64,
}

fn kept(row: &PgRow) -> sqlx::Result<KeptReset> {
    Ok(KeptReset {
        group: group_id(row, 0)?,
        successor: group_id(row, 1)?,
        at: unsigned(row, 2)?,
    })
}

impl PostgresArchive {
    /// Keeps a reset; of several the first. `None` for a group that is not known.
    pub(crate) async fn keep_reset(&self, reset: KeptReset) -> Result<Option<KeptReset>, StoreError> {
        within(async {
            query(
                "UPDATE groups SET successor = coalesce(successor, $2), reset_at = coalesce(reset_at, $3)
                 WHERE group_id = $1 RETURNING group_id, successor, reset_at",
            )
            .bind(reset.group.as_bytes().as_slice())
            .bind(reset.successor.as_bytes().as_slice())
            .bind(reset.at.cast_signed())
            .try_map(|row| kept(&row))
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// All of them: there are few.
    pub(crate) async fn resets(&self) -> Result<Vec<KeptReset>, StoreError> {
        within(async {
            query(
                "SELECT group_id, successor, reset_at FROM groups WHERE successor IS NOT NULL ORDER BY group_id",
            )
            .try_map(|row| kept(&row))
            .fetch_all(&self.pool)
            .await
        })
        .await
    }

    /// That of a group, if it was.
    pub(crate) async fn kept_reset(&self, group: GroupId) -> Result<Option<KeptReset>, StoreError> {
        within(async {
            query(
                "SELECT group_id, successor, reset_at FROM groups WHERE group_id = $1 AND successor IS NOT NULL",
            )
            .bind(group.as_bytes().as_slice())
            .try_map(|row| kept(&row))
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// Forgets one that was not carried out.
    pub(crate) async fn withdraw_reset(&self, reset: KeptReset) -> Result<(), StoreError> {
        within(async {
            query(
                "UPDATE groups SET successor = NULL, reset_at = NULL WHERE group_id = $1 AND successor = $2",
            )
            .bind(reset.group.as_bytes().as_slice())
            .bind(reset.successor.as_bytes().as_slice())
            .execute(&self.pool)
            .await
        })
        .await
        .map(drop)
    }

    /// The group that goes on under that id.
    pub(crate) async fn predecessor(&self, successor: GroupId) -> Result<Option<GroupId>, StoreError> {
        within(async {
            query("SELECT group_id FROM groups WHERE successor = $1")
                .bind(successor.as_bytes().as_slice())
                .try_map(|row| group_id(&row, 0))
                .fetch_optional(&self.pool)
                .await
        })
        .await
    }
}
