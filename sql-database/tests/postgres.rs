//! What a real server makes of it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what tests are written with fails as a test does"
)]

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use valise_local_stack::Postgres;
use valise_sql_database::{
    OpenError, PostgresUrl, is_conflict, is_unavailable, migrate, open, reachable, within,
};

const DEADLINE: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it did not come in time")
}

fn url(text: &str) -> PostgresUrl {
    text.parse().unwrap()
}

/// Migrations 1, 2… of these statements.
async fn migrations(statements: &[&str]) -> Migrator {
    let folder = tempfile::tempdir().unwrap();
    for (index, statement) in statements.iter().enumerate() {
        let file = folder.path().join(format!("{:04}_step.sql", index + 1));
        std::fs::write(file, statement).unwrap();
    }
    Migrator::new(Path::new(folder.path())).await.unwrap()
}

async fn execute(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
}

async fn refusal(url: &PostgresUrl, migrations: &Migrator) -> OpenError {
    let error = open(url, migrations, 2).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("setting database: PostgreSQL at "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for secret in ["valise@", "hush", "stranger"] {
        assert!(!text.contains(secret), "{text}");
    }
    error
}

const ONE: &str = "CREATE TABLE a (n BIGINT PRIMARY KEY, v BIGINT)";
const TWO: &str = "CREATE TABLE b (n BIGINT PRIMARY KEY)";

#[tokio::test]
async fn a_schema_must_be_exactly_what_the_program_knows() {
    let server = Postgres::start().await;
    let text = server.database("a").await;
    let (database, first, both) = (
        url(&text),
        migrations(&[ONE]).await,
        migrations(&[ONE, TWO]).await,
    );
    let older = async |expected: &str| match refusal(&database, &both).await {
        OpenError::OlderSchema { found, needed: 2, .. } => assert_eq!(found, expected),
        other => panic!("{other}"),
    };
    older("no schema").await;
    migrate(&database, &first).await.unwrap();
    open(&database, &first, 2).await.unwrap().close().await;
    older("schema version 1").await;

    // Two at the same time, and once more.
    let (one, other) = tokio::join!(migrate(&database, &both), migrate(&database, &both));
    one.and(other).unwrap();
    migrate(&database, &both).await.unwrap();
    open(&database, &both, 2).await.unwrap().close().await;
    for outcome in [
        refusal(&database, &first).await,
        migrate(&database, &first).await.unwrap_err(),
    ] {
        assert!(
            matches!(
                outcome,
                OpenError::NewerSchema {
                    found: 2,
                    needed: 1,
                    ..
                }
            ),
            "{outcome}"
        );
    }

    let other = migrations(&["CREATE TABLE a (n BIGINT)", TWO]).await;
    for outcome in [
        refusal(&database, &other).await,
        migrate(&database, &other).await.unwrap_err(),
    ] {
        assert!(
            matches!(outcome, OpenError::ChangedSchema { version: 1, .. }),
            "{outcome}"
        );
    }
    execute(
        &text,
        "UPDATE _sqlx_migrations SET success = false WHERE version = 2",
    )
    .await;
    let half_done = refusal(&database, &both).await;
    assert!(
        matches!(half_done, OpenError::ChangedSchema { version: 2, .. }),
        "{half_done}"
    );
    execute(
        &text,
        "UPDATE _sqlx_migrations SET success = true; DELETE FROM _sqlx_migrations WHERE version = 1",
    )
    .await;
    older("schema version 2 in part").await;
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    let server = Postgres::start().await;
    let text = server.database("a").await;
    let wrong = migrations(&[ONE, "CREATE TABLE c (n BIGINT); SELECT nonsense"]).await;
    let error = migrate(&url(&text), &wrong).await.unwrap_err();
    assert!(matches!(error, OpenError::Migration { .. }), "{error}");
    assert!(error.to_string().contains("nonsense"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
    let pool = PgPool::connect(&text).await.unwrap();
    let row = sqlx::query("SELECT to_regclass('a') IS NOT NULL, to_regclass('c') IS NULL")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((row.get::<bool, _>(0), row.get::<bool, _>(1)), (true, true));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let server = Postgres::start().await;
    let text = server.database("a").await;
    let none = migrations(&[]).await;
    let refused = async |url: PostgresUrl, expected: &str| match refusal(&url, &none).await {
        OpenError::Refused { reason, .. } => assert_eq!(reason, expected),
        other => panic!("{other}"),
    };
    execute(&text, "CREATE ROLE guarded LOGIN PASSWORD 'hush'").await;
    let at = format!("127.0.0.1:{}", server.port());
    refused(
        url(&format!("postgres://valise@{at}/b")),
        "there is no such database",
    )
    .await;
    let unknown = url(&format!("postgres://stranger@{at}/a"));
    refused(
        unknown,
        "wrong user or password, or not let in by its pg_hba.conf",
    )
    .await;
    let rules = server.folder().join("data/pg_hba.conf");
    let trusting = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("host all guarded all scram-sha-256\n{trusting}")).unwrap();
    execute(&text, "SELECT pg_reload_conf()").await;
    let wrong = url(&format!("postgres://guarded:hushhush@{at}/a"));
    // Until the server has heard of it, everybody is let in.
    soon(async { while open(&wrong, &none, 1).await.is_ok_or_no_schema() {} }).await;
    refused(wrong, "wrong user or password, or not let in by its pg_hba.conf").await;
    let right = url(&format!("postgres://guarded:hush@{at}/a"));
    assert!(open(&right, &none, 1).await.is_ok_or_no_schema());

    execute(&text, "REVOKE CONNECT ON DATABASE a FROM PUBLIC").await;
    refused(right, "the user lacks a privilege").await;
    let secure = url(&format!("postgres://valise@{at}/a?sslmode=require"));
    refused(
        secure,
        "error occurred while attempting to establish a TLS connection: server does not support TLS",
    )
    .await;
}

trait IsLetIn {
    fn is_ok_or_no_schema(&self) -> bool;
}

impl IsLetIn for Result<PgPool, OpenError> {
    fn is_ok_or_no_schema(&self) -> bool {
        matches!(self, Ok(_) | Err(OpenError::OlderSchema { .. }))
    }
}

#[tokio::test]
async fn who_does_not_answer_cannot_be_reached() {
    let none = migrations(&[]).await;
    let unreachable =
        async |at: &str| match refusal(&url(&format!("postgres://valise:hush@{at}/a")), &none).await {
            OpenError::Unreachable { place, reason } => {
                assert_eq!(place, format!("{at}/a"));
                reason
            }
            other => panic!("{other}"),
        };
    // One that accepts and says nothing, and then one that is not there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    assert_eq!(unreachable(&at).await, "no answer within 5 s");
    drop(listener);
    assert!(unreachable(&at).await.starts_with("Connection refused"));
    let reason = unreachable("nobody.invalid:5432").await;
    assert!(reason.contains("lookup"), "{reason}");
}

#[tokio::test]
async fn a_server_that_may_forget_is_refused() {
    let mut server = Postgres::start().await;
    let text = server.database("a").await;
    let (database, first) = (url(&text), migrations(&[ONE]).await);
    migrate(&database, &first).await.unwrap();
    let may_forget = async |expected: &str| {
        for outcome in [
            refusal(&database, &first).await,
            migrate(&database, &first).await.unwrap_err(),
        ] {
            match outcome {
                OpenError::Unsafe { setting, .. } => assert_eq!(setting, expected),
                other => panic!("{other}"),
            }
        }
    };
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        server.restart_with(&[&format!("{setting}=off")]).await;
        may_forget(setting).await;
    }
    server.restart_with(&[]).await;
    execute(&text, "ALTER DATABASE a SET synchronous_commit = off").await;
    may_forget("synchronous_commit").await;
}

#[tokio::test]
async fn a_replica_is_refused_and_not_ready() {
    let mut server = Postgres::start().await;
    let (database, first) = (url(&server.database("a").await), migrations(&[ONE]).await);
    migrate(&database, &first).await.unwrap();
    let pool = open(&database, &first, 2).await.unwrap();
    assert!(reachable(&pool).await);
    server.restart_as_replica().await;
    for outcome in [
        refusal(&database, &first).await,
        migrate(&database, &first).await.unwrap_err(),
    ] {
        assert!(matches!(outcome, OpenError::Replica { .. }), "{outcome}");
    }
    // What was the primary when it was opened.
    assert!(!reachable(&pool).await);
    let error = sqlx::query("INSERT INTO a VALUES (1, 1)")
        .execute(&pool)
        .await
        .unwrap_err();
    assert!(is_unavailable(&error), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_told_from_what_does_not() {
    let server = Postgres::start().await;
    let (database, first) = (url(&server.database("a").await), migrations(&[ONE]).await);
    migrate(&database, &first).await.unwrap();
    let pool = open(&database, &first, 4).await.unwrap();
    for n in [1, 2] {
        let added = sqlx::query("INSERT INTO a VALUES ($1, 0)").bind(n);
        added.execute(&pool).await.unwrap();
    }
    let twice = sqlx::query("INSERT INTO a VALUES (1, 0)")
        .execute(&pool)
        .await
        .unwrap_err();
    assert!(!is_unavailable(&twice) && !is_conflict(&twice), "{twice}");

    // Each has what the other wants.
    let (mut one, mut other) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    let change = "UPDATE a SET v = v + 1 WHERE n = $1";
    sqlx::query(change).bind(1).execute(&mut *one).await.unwrap();
    sqlx::query(change).bind(2).execute(&mut *other).await.unwrap();
    let (one, other) = soon(async {
        tokio::join!(
            async {
                let done = sqlx::query(change).bind(2).execute(&mut *one).await;
                drop(one);
                done
            },
            async {
                let done = sqlx::query(change).bind(1).execute(&mut *other).await;
                drop(other);
                done
            }
        )
    })
    .await;
    let lost = one.and(other).unwrap_err();
    assert!(is_conflict(&lost) && !is_unavailable(&lost), "{lost}");

    // Who cuts the connection.
    let mut cut = pool.acquire().await.unwrap();
    let id: i32 = sqlx::query("SELECT pg_backend_pid()")
        .fetch_one(&mut *cut)
        .await
        .unwrap()
        .get(0);
    sqlx::query("SELECT pg_terminate_backend($1)")
        .bind(id)
        .execute(&pool)
        .await
        .unwrap();
    let gone = sqlx::query("SELECT 1").execute(&mut *cut).await.unwrap_err();
    assert!(is_unavailable(&gone), "{gone}");

    // A replica that stands still, whose locks the others want.
    let mut still = pool.begin().await.unwrap();
    sqlx::query(change).bind(1).execute(&mut *still).await.unwrap();
    soon(sqlx::query(change).bind(1).execute(&pool)).await.unwrap();
    let ended = sqlx::query("SELECT 1").execute(&mut *still).await.unwrap_err();
    assert!(is_unavailable(&ended), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_outlives_the_server() {
    let mut server = Postgres::start().await;
    let (database, first) = (url(&server.database("a").await), migrations(&[ONE]).await);
    migrate(&database, &first).await.unwrap();
    let pool = open(&database, &first, 2).await.unwrap();
    let add = async |n: i64| {
        let added = sqlx::query("INSERT INTO a VALUES ($1, 0)").bind(n);
        within::<_, sqlx::Error>(async { added.execute(&pool).await.map(drop) }).await
    };
    add(1).await.unwrap();
    server.stop().await;
    let error = soon(add(2)).await.unwrap_err();
    assert!(is_unavailable(&error), "{error}");
    assert!(!soon(reachable(&pool)).await);
    server.restart().await;
    assert!(soon(reachable(&pool)).await);
    add(2).await.unwrap();

    // It stands still in the middle of a statement of each connection: every wait has an end, and every place is free
    // again, though the server never says a word.
    let mut busy = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    server.pause();
    let [one, other] = &mut busy;
    let (one, other) = tokio::join!(
        within::<_, sqlx::Error>(sqlx::query("SELECT 1").execute(&mut **one)),
        within::<_, sqlx::Error>(sqlx::query("SELECT 1").execute(&mut **other)),
    );
    for error in [one.unwrap_err(), other.unwrap_err()] {
        assert!(is_unavailable(&error), "{error}");
    }
    drop(busy);
    soon(async {
        while pool.size() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    server.resume();
    assert!(soon(reachable(&pool)).await);
    add(3).await.unwrap();
}
