//! Opening PostgreSQL, and working on it with an end to every wait.

use std::io;
use std::time::Duration;

use sqlx::Connection;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use tokio::time::timeout;

use crate::{OpenError, PostgresUrl, judge};

/// How long a caller waits for a connection before the store counts as unreachable.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a piece of a store's work may take. More than the server's own limits, which say more clearly what was wrong.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection that comes back may take to show that it still lives.
const RELEASE: Duration = Duration::from_secs(5);
/// The server's own limits: a replica that stands still in the middle of a transaction must not keep its locks from the
/// others for long, and nobody waits for one for ever.
const LIMITS: [(&str, &str); 2] = [
    ("idle_in_transaction_session_timeout", "5s"),
    ("statement_timeout", "10s"),
];

/// Connects, judges server and schema, and returns a pool of at most so many connections.
pub async fn open(url: &PostgresUrl, migrations: &Migrator, connections: u32) -> Result<PgPool, OpenError> {
    let mut connection = connect(url).await?;
    judge::server(url, &mut connection).await?;
    judge::schema(url, &mut connection, migrations).await?;
    // It may have gone already.
    let _ = connection.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        // A connection whose work was dropped, to a server that is gone without a word, would else hold its place until
        // the operating system gives it up: a quarter of an hour.
        .after_release(|connection, _| {
            Box::pin(async move {
                match timeout(RELEASE, connection.ping()).await {
                    Ok(alive) => alive.map(|()| true),
                    Err(_) => Err(silent()),
                }
            })
        })
        .connect_lazy_with(url.options().clone().options(LIMITS)))
}

/// Brings the schema up to date. Safe to run at the same time as another one; refuses a newer schema.
pub async fn migrate(url: &PostgresUrl, migrations: &Migrator) -> Result<(), OpenError> {
    let mut connection = connect(url).await?;
    judge::server(url, &mut connection).await?;
    let run = migrations.run(&mut connection).await;
    run.map_err(|error| OpenError::migrating(url, judge::newest(migrations), &error))
}

/// Can the store be read and written? For readiness.
pub async fn reachable(pool: &PgPool) -> bool {
    let asked = sqlx::query_scalar::<_, bool>("SELECT NOT pg_is_in_recovery()").fetch_one(pool);
    within::<_, sqlx::Error>(asked).await.unwrap_or(false)
}

/// Gives a piece of a store's work 15 s. After that it is dropped, and the outcome is unknown ([`is_unavailable`]): a
/// server that is gone without a word would keep it waiting for a quarter of an hour.
///
/// [`is_unavailable`]: crate::is_unavailable
pub async fn within<T, E: From<sqlx::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(silent().into()),
    }
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

async fn connect(url: &PostgresUrl) -> Result<PgConnection, OpenError> {
    match timeout(ACQUIRE, PgConnection::connect_with(url.options())).await {
        Ok(connected) => connected.map_err(|error| OpenError::connecting(url, &error)),
        Err(_) => Err(OpenError::Unreachable {
            place: url.place(),
            reason: format!("no answer within {} s", ACQUIRE.as_secs()),
        }),
    }
}
