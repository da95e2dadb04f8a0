//! Whose devices are whose: one statement, whatever the number of claims that ask.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::FutureExt as _;
use sqlx::{PgConnection, Row};
use valise_proto::{DeviceId, UserId};

use super::together::Shared;
use super::{Done, device, keys, stored, user};
use crate::store::{KnownDevice, StoreError};

// The limit is each user's, so that a user with very many devices hides none of another's.
pub(super) const FIND: &str = "
    SELECT found.user_id, found.id, found.revoked, true AS of_user
    FROM unnest($1::text[]) AS sought (user_id) CROSS JOIN LATERAL (
        SELECT user_id, id, revoked FROM device WHERE user_id = sought.user_id LIMIT $2) AS found
    UNION ALL
    SELECT user_id, id, revoked, false FROM device WHERE id = ANY ($3::bytea[])";

/// Look-ups that are done together.
pub(super) struct Finds;

/// Who is looked up for one claim.
pub(super) struct Sought {
    pub(super) users: Vec<UserId>,
    pub(super) devices: Vec<DeviceId>,
    pub(super) limit: u32,
}

/// What was found for all of them.
#[derive(Default)]
struct Found {
    by_user: HashMap<UserId, Vec<KnownDevice>>,
    by_device: HashMap<DeviceId, KnownDevice>,
}

impl Shared for Finds {
    type Request = Sought;
    type Answer = Vec<KnownDevice>;

    fn weight(request: &Sought) -> usize {
        request.users.len() + request.devices.len()
    }

    fn run<'a>(
        requests: &'a [Sought],
        connection: &'a mut PgConnection,
    ) -> Done<'a, VecDeque<Vec<KnownDevice>>> {
        async move {
            let found = find(requests, connection).await?;
            Ok(requests.iter().map(|sought| found.of(sought)).collect())
        }
        .boxed()
    }
}

async fn find(requests: &[Sought], connection: &mut PgConnection) -> Result<Found, StoreError> {
    let users: HashSet<_> = requests.iter().flat_map(|sought| &sought.users).collect();
    let devices: HashSet<_> = requests
        .iter()
        .flat_map(|sought| &sought.devices)
        .copied()
        .collect();
    let limit = requests.iter().map(|sought| sought.limit).max().unwrap_or(0);
    let rows = sqlx::query(FIND)
        .bind(users.into_iter().map(UserId::as_str).collect::<Vec<_>>())
        .bind(stored(limit.into()))
        .bind(keys(&devices.into_iter().collect::<Vec<_>>()))
        .fetch_all(connection)
        .await?;
    let mut found = Found::default();
    for row in &rows {
        let known = KnownDevice {
            user: user(row)?,
            device: device(row, "id")?,
            revoked: row.try_get("revoked")?,
        };
        if row.try_get("of_user")? {
            found.by_user.entry(known.user.clone()).or_default().push(known);
        } else {
            found.by_device.insert(known.device, known);
        }
    }
    Ok(found)
}

impl Found {
    /// One claim's part.
    fn of(&self, sought: &Sought) -> Vec<KnownDevice> {
        let mut listed = HashSet::new();
        let users: HashSet<_> = sought.users.iter().collect();
        let of_users = users.into_iter().filter_map(|user| self.by_user.get(user));
        let devices = sought
            .devices
            .iter()
            .filter_map(|device| self.by_device.get(device));
        of_users
            .flatten()
            .chain(devices)
            .filter(|known| listed.insert(known.device))
            .take(sought.limit as usize)
            .cloned()
            .collect()
    }
}
