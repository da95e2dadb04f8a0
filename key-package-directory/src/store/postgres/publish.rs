//! Storing a publication: all checks, then all writes.

use std::collections::HashMap;

use sqlx::{Connection as _, PgConnection, Row};

use super::{key, stored, suite};
use crate::store::{NewPackage, Publication, PublishOutcome, StoreError, Usable};

pub(super) async fn publish(
    publication: &Publication,
    connection: &mut PgConnection,
) -> Result<PublishOutcome, StoreError> {
    loop {
        if let Some(outcome) = attempt(publication, connection).await? {
            return Ok(outcome);
        }
    }
}

/// `None`: the device's first publication came through another replica meanwhile. The checks have to be made anew.
async fn attempt(
    publication: &Publication,
    connection: &mut PgConnection,
) -> Result<Option<PublishOutcome>, StoreError> {
    let mut transaction = connection.begin().await?;
    // From here on this device's other publications, and its revocation, wait.
    let known = sqlx::query("SELECT revoked, signature_key FROM device WHERE id = $1 FOR UPDATE")
        .bind(key(publication.device))
        .fetch_optional(&mut *transaction)
        .await?;
    let mut another_key = false;
    if let Some(row) = &known {
        if row.try_get("revoked")? {
            return Ok(Some(PublishOutcome::Revoked));
        }
        another_key = row.try_get::<&[u8], _>("signature_key")? != publication.signature_key;
    }
    if let Some(index) = first_seen(publication, &mut transaction).await? {
        return Ok(Some(PublishOutcome::SeenBefore { index }));
    }
    if is_too_much(publication, another_key, &mut transaction).await? {
        return Ok(Some(PublishOutcome::Full));
    }
    // Nothing was written up to here, nothing is refused from here.
    if known.is_none() && !add_device(publication, &mut transaction).await? {
        return Ok(None);
    }
    make_room(publication, another_key, &mut transaction).await?;
    insert(publication, &mut transaction).await?;
    transaction.commit().await?;
    Ok(Some(PublishOutcome::Stored))
}

async fn first_seen(
    publication: &Publication,
    connection: &mut PgConnection,
) -> Result<Option<usize>, StoreError> {
    const FIRST: &str = "
        SELECT min(new.number) FROM unnest($2::bytea[]) WITH ORDINALITY AS new (digest, number)
        WHERE EXISTS (SELECT FROM seen_init_key WHERE device = $1 AND seen_init_key.digest = new.digest)";
    let first: Option<i64> = sqlx::query_scalar(FIRST)
        .bind(key(publication.device))
        .bind(column(&publication.packages, |package| package.init_key_digest))
        .fetch_one(connection)
        .await?;
    Ok(first.and_then(|number| usize::try_from(number - 1).ok()))
}

async fn is_too_much(
    publication: &Publication,
    another_key: bool,
    connection: &mut PgConnection,
) -> Result<bool, StoreError> {
    const COUNT: &str = "
        SELECT suite, count(*) AS one_time FROM key_package
        WHERE device = $1 AND NOT last_resort AND not_after >= $2 AND certificate_not_after >= $3 GROUP BY suite";
    let Usable {
        not_after_from,
        certificate_not_after_from,
    } = publication.usable;
    let mut one_time = HashMap::<u16, i64>::new();
    if !another_key {
        let rows = sqlx::query(COUNT)
            .bind(key(publication.device))
            .bind(stored(not_after_from))
            .bind(stored(certificate_not_after_from))
            .fetch_all(connection)
            .await?;
        for row in rows {
            one_time.insert(suite(&row)?, row.try_get("one_time")?);
        }
    }
    let mut new = publication.packages.iter().filter(|package| !package.last_resort);
    Ok(new.any(|package| {
        let count = one_time.entry(package.suite).or_default();
        *count += 1;
        *count > i64::from(publication.capacity)
    }))
}

/// False where another replica has just done it.
async fn add_device(publication: &Publication, connection: &mut PgConnection) -> Result<bool, StoreError> {
    const ADD: &str =
        "INSERT INTO device (id, user_id, signature_key) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
    let added = sqlx::query(ADD)
        .bind(key(publication.device))
        .bind(publication.user.as_str())
        .bind(&publication.signature_key)
        .execute(connection)
        .await?;
    Ok(added.rows_affected() == 1)
}

async fn make_room(
    publication: &Publication,
    another_key: bool,
    connection: &mut PgConnection,
) -> Result<(), StoreError> {
    const REPLACE: [&str; 2] = [
        "DELETE FROM key_package WHERE device = $1",
        "DELETE FROM published_suite WHERE device = $1",
    ];
    const UNUSABLE: &str = "
        DELETE FROM key_package
        WHERE device = $1 AND (not_after < $2 OR certificate_not_after < $3 OR last_resort AND suite = ANY ($4))";
    if another_key {
        sqlx::query("UPDATE device SET signature_key = $2 WHERE id = $1")
            .bind(key(publication.device))
            .bind(&publication.signature_key)
            .execute(&mut *connection)
            .await?;
        for all in REPLACE {
            sqlx::query(all)
                .bind(key(publication.device))
                .execute(&mut *connection)
                .await?;
        }
        return Ok(());
    }
    let replaced = publication.packages.iter().filter(|new| new.last_resort);
    sqlx::query(UNUSABLE)
        .bind(key(publication.device))
        .bind(stored(publication.usable.not_after_from))
        .bind(stored(publication.usable.certificate_not_after_from))
        .bind(column(replaced, |new| i32::from(new.suite)))
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert(publication: &Publication, connection: &mut PgConnection) -> Result<(), StoreError> {
    const SUITES: &str = "
        INSERT INTO published_suite (device, suite)
        SELECT DISTINCT $1::bytea, new.suite FROM unnest($2::integer[]) AS new (suite) ON CONFLICT DO NOTHING";
    const SEEN: &str = "
        INSERT INTO seen_init_key (device, digest, not_after)
        SELECT $1::bytea, new.* FROM unnest($2::bytea[], $3::bigint[]) AS new";
    const PACKAGES: &str = "
        INSERT INTO key_package (device, suite, last_resort, not_after, certificate_not_after, message)
        SELECT $1::bytea, new.* FROM unnest($2::integer[], $3::boolean[], $4::bigint[], $5::bigint[], $6::bytea[]) AS new";
    let device = key(publication.device);
    let packages = &publication.packages;
    sqlx::query(SUITES)
        .bind(device)
        .bind(column(packages, |package| i32::from(package.suite)))
        .execute(&mut *connection)
        .await?;
    sqlx::query(SEEN)
        .bind(device)
        .bind(column(packages, |package| package.init_key_digest))
        .bind(column(packages, |package| stored(package.not_after)))
        .execute(&mut *connection)
        .await?;
    let stay = staying(packages);
    sqlx::query(PACKAGES)
        .bind(device)
        .bind(column(stay.iter().copied(), |package| i32::from(package.suite)))
        .bind(column(stay.iter().copied(), |package| package.last_resort))
        .bind(column(stay.iter().copied(), |package| stored(package.not_after)))
        .bind(column(stay.iter().copied(), |package| {
            stored(package.certificate_not_after)
        }))
        .bind(column(stay.iter().copied(), |package| package.message.as_slice()))
        .execute(connection)
        .await?;
    Ok(())
}

/// Of several last-resort packages of a suite, the last one stays.
fn staying(packages: &[NewPackage]) -> Vec<&NewPackage> {
    let is_replaced = |index: usize, package: &NewPackage| {
        let mut later = packages.iter().skip(index + 1);
        package.last_resort && later.any(|later| later.last_resort && later.suite == package.suite)
    };
    let stay = packages.iter().enumerate();
    stay.filter(|(index, package)| !is_replaced(*index, package))
        .map(|(_, package)| package)
        .collect()
}

fn column<'a, T>(
    packages: impl IntoIterator<Item = &'a NewPackage>,
    of: impl Fn(&'a NewPackage) -> T,
) -> Vec<T> {
    packages.into_iter().map(of).collect()
}
