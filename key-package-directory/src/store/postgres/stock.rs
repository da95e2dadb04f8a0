//! Counting what is left.

use sqlx::{PgConnection, Row};
use valise_proto::DeviceId;

use super::{device, key, keys, stored, suite};
use crate::store::{LowStock, StockLine, StoreError, Usable};

pub(super) const LOW: &str = "
    SELECT suspect.device, suspect.suite, stock.one_time
    FROM unnest($1::bytea[], $2::integer[]) AS suspect (device, suite) CROSS JOIN LATERAL (
        SELECT count(*) AS one_time FROM (
            SELECT FROM key_package
            WHERE device = suspect.device AND suite = suspect.suite AND NOT last_resort
              AND not_after >= $3 AND certificate_not_after >= $4
            LIMIT $5) AS usable) AS stock
    WHERE stock.one_time < $5";

pub(super) const STOCK: &str = "
    SELECT published_suite.suite,
           count(*) FILTER (WHERE NOT last_resort) AS one_time,
           coalesce(bool_or(last_resort), false) AS last_resort,
           min(not_after) AS first_not_after,
           min(certificate_not_after) AS first_certificate_not_after
    FROM published_suite LEFT JOIN key_package
         ON key_package.device = published_suite.device AND key_package.suite = published_suite.suite
        AND not_after >= $2 AND certificate_not_after >= $3
    WHERE published_suite.device = $1 GROUP BY published_suite.suite ORDER BY published_suite.suite";

pub(super) const SUITES: &str = "
    SELECT device, suite FROM published_suite
    WHERE device = ANY ($1::bytea[])
      AND EXISTS (SELECT FROM key_package
                  WHERE key_package.device = published_suite.device AND key_package.suite = published_suite.suite
                    AND not_after >= $2 AND certificate_not_after >= $3)";

pub(super) async fn low(
    suspects: &[(DeviceId, u16)],
    usable: Usable,
    below: u32,
    connection: &mut PgConnection,
) -> Result<Vec<LowStock>, StoreError> {
    let rows = sqlx::query(LOW)
        .bind(suspects.iter().map(|of| key(of.0)).collect::<Vec<_>>())
        .bind(suspects.iter().map(|of| i32::from(of.1)).collect::<Vec<_>>())
        .bind(stored(usable.not_after_from))
        .bind(stored(usable.certificate_not_after_from))
        .bind(stored(below.into()))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(LowStock {
                device: device(row, "device")?,
                suite: suite(row)?,
                one_time: count(row.try_get("one_time")?),
            })
        })
        .collect()
}

pub(super) async fn stock(
    of: DeviceId,
    usable: Usable,
    connection: &mut PgConnection,
) -> Result<Vec<StockLine>, StoreError> {
    let rows = sqlx::query(STOCK)
        .bind(key(of))
        .bind(stored(usable.not_after_from))
        .bind(stored(usable.certificate_not_after_from))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let end =
                |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.map(i64::unsigned_abs));
            Ok(StockLine {
                suite: suite(row)?,
                one_time: count(row.try_get("one_time")?),
                last_resort: row.try_get("last_resort")?,
                first_not_after: end("first_not_after")?,
                first_certificate_not_after: end("first_certificate_not_after")?,
            })
        })
        .collect()
}

pub(super) async fn suites(
    of: &[DeviceId],
    usable: Usable,
    connection: &mut PgConnection,
) -> Result<Vec<(DeviceId, u16)>, StoreError> {
    let rows = sqlx::query(SUITES)
        .bind(keys(of))
        .bind(stored(usable.not_after_from))
        .bind(stored(usable.certificate_not_after_from))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| Ok((device(row, "device")?, suite(row)?)))
        .collect()
}

fn count(rows: i64) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}
