//! Handing out: one statement, whatever the number of claims and devices.

use std::collections::{HashMap, VecDeque};

use futures::FutureExt as _;
use sqlx::{PgConnection, Row};
use valise_proto::DeviceId;

use super::together::Shared;
use super::{Done, device, key, stored, suite};
use crate::store::{Handed, StoreError, Wanted};

// `chosen` is computed once, before the first row is deleted. A row that another claim has locked is skipped, one that
// another claim has deleted since the statement began is left out, and the next one is taken: as many as are wanted, if
// they are there. Last-resort packages are looked for only where fewer were taken in all than are wanted ($6), which is
// rare: to find out for which device costs more, each time, than to read those of all.
pub(super) const CLAIM: &str = "
    WITH taken AS (
        DELETE FROM key_package WHERE number = ANY (ARRAY(
            SELECT chosen.number
            FROM unnest($1::bytea[], $2::integer[], $3::bigint[]) AS wanted (device, suite, claims)
            CROSS JOIN LATERAL (
                SELECT number FROM key_package
                WHERE device = wanted.device AND suite = wanted.suite AND NOT last_resort
                  AND not_after >= $4 AND certificate_not_after >= $5
                ORDER BY not_after, certificate_not_after LIMIT wanted.claims
                FOR UPDATE SKIP LOCKED) AS chosen))
        RETURNING device, suite, not_after, certificate_not_after, message
    )
    SELECT device, suite, false AS last_resort, not_after, certificate_not_after, message FROM taken
    UNION ALL
    SELECT device, suite, true, NULL, NULL, message FROM key_package
    WHERE (SELECT count(*) FROM taken) < $6
      AND last_resort AND not_after >= $4 AND certificate_not_after >= $5
      AND (device, suite) IN (SELECT * FROM unnest($1::bytea[], $2::integer[]))";

/// Claims that are done together.
pub(super) struct Claims;

/// What was got of a device and suite.
#[derive(Default)]
struct Got {
    /// With their ends.
    one_time: VecDeque<(i64, i64, Vec<u8>)>,
    last_resort: Option<Vec<u8>>,
}

impl Shared for Claims {
    type Request = Wanted;
    type Answer = Vec<Handed>;

    fn weight(request: &Wanted) -> usize {
        request.devices.len()
    }

    fn run<'a>(requests: &'a [Wanted], connection: &'a mut PgConnection) -> Done<'a, VecDeque<Vec<Handed>>> {
        async move {
            let mut got = take(requests, connection).await?;
            Ok(requests.iter().map(|wanted| share(wanted, &mut got)).collect())
        }
        .boxed()
    }
}

async fn take(
    requests: &[Wanted],
    connection: &mut PgConnection,
) -> Result<HashMap<(DeviceId, u16), Got>, StoreError> {
    let mut claims = HashMap::<_, i64>::new();
    for wanted in requests {
        for &device in &wanted.devices {
            *claims.entry((device, wanted.suite)).or_default() += 1;
        }
    }
    // They came within moments: the latest of their nows is right for all.
    let from = |end: fn(&Wanted) -> u64| stored(requests.iter().map(end).max().unwrap_or_default());
    let rows = sqlx::query(CLAIM)
        .bind(claims.keys().map(|of| key(of.0)).collect::<Vec<_>>())
        .bind(claims.keys().map(|of| i32::from(of.1)).collect::<Vec<_>>())
        .bind(claims.values().copied().collect::<Vec<_>>())
        .bind(from(|wanted| wanted.usable.not_after_from))
        .bind(from(|wanted| wanted.usable.certificate_not_after_from))
        .bind(claims.values().sum::<i64>())
        .fetch_all(connection)
        .await?;
    let mut got = HashMap::<_, Got>::new();
    for row in &rows {
        let of = got.entry((device(row, "device")?, suite(row)?)).or_default();
        if row.try_get("last_resort")? {
            of.last_resort = Some(row.try_get("message")?);
        } else {
            let ends = (row.try_get("not_after")?, row.try_get("certificate_not_after")?);
            of.one_time.push_back((ends.0, ends.1, row.try_get("message")?));
        }
    }
    for got in got.values_mut() {
        got.one_time
            .make_contiguous()
            .sort_unstable_by_key(|&(end, certificate_end, _)| (end, certificate_end));
    }
    Ok(got)
}

/// One claim's part.
fn share(wanted: &Wanted, got: &mut HashMap<(DeviceId, u16), Got>) -> Vec<Handed> {
    let hand = |&device: &DeviceId| {
        let got = got.get_mut(&(device, wanted.suite))?;
        let one_time = got.one_time.pop_front().map(|(_, _, message)| message);
        let last_resort = one_time.is_none();
        let message = one_time.or_else(|| got.last_resort.clone())?;
        Some(Handed {
            device,
            message,
            last_resort,
        })
    };
    wanted.devices.iter().filter_map(hand).collect()
}
