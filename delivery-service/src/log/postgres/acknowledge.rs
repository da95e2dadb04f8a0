//! What devices have applied: retention goes by it.

use sqlx::query;
use valise_proto::{DeviceId, GroupId, Position};

use super::{PostgresArchive, within};
use crate::log::StoreError;

impl PostgresArchive {
    /// Keeps what devices have applied; never goes backwards, but by a repair. No (group, device) twice in one call. Of a group whose log
    /// went back in time nothing is kept: it may be of entries that are no more.
    pub(crate) async fn acknowledge(
        &self,
        positions: &[(GroupId, DeviceId, Position)],
    ) -> Result<(), StoreError> {
        let groups: Vec<&[u8]> = positions
            .iter()
            .map(|(group, ..)| group.as_bytes().as_slice())
            .collect();
        let devices: Vec<&[u8]> = positions
            .iter()
            .map(|(_, device, _)| device.as_uuid().as_bytes().as_slice())
            .collect();
        let positions: Vec<i64> = positions
            .iter()
            .map(|(.., position)| position.0.cast_signed())
            .collect();
        within(async {
            // In one order in all replicas: no two wait for each other.
            query(
                "INSERT INTO acknowledgements AS a (group_number, device, position)
                 SELECT g.number, n.device, n.position
                 FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS n (group_id, device, position)
                     JOIN groups g ON g.group_id = n.group_id AND g.regressed_at IS NULL
                 ORDER BY g.number, n.device
                 ON CONFLICT (group_number, device) DO UPDATE SET position = excluded.position
                     WHERE a.position < excluded.position",
            )
            .bind(groups)
            .bind(devices)
            .bind(positions)
            .execute(&self.pool)
            .await
        })
        .await
        .map(drop)
    }
}
