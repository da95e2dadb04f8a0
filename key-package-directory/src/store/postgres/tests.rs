//! On a real server.

use std::sync::Arc;

use sqlx::{Connection as _, PgConnection};
use valise_local_stack::Postgres;
use valise_sql_database::Database;

use super::*;
use crate::store::conformance::{self, concurrency};

struct Server {
    _server: Postgres,
    url: String,
}

impl Server {
    async fn start() -> Self {
        let server = Postgres::start().await;
        let url = server.database("directory").await;
        migrate(&postgres(&url)).await.unwrap();
        Self { _server: server, url }
    }

    async fn open(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::open(&postgres(&self.url)).await.unwrap())
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

fn postgres(url: &str) -> PostgresUrl {
    let Database::Postgres(url) = url.parse().unwrap() else {
        panic!("not a server")
    };
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let server = Server::start().await;
    let (one, other) = (server.open().await, server.open().await);
    conformance::run(&one).await;
    concurrency::replicas(&one, &other).await;
    let before = concurrency::publish_and_claim_half(&*one).await;
    one.close().await;
    other.close().await;
    assert!(matches!(
        one.claim(conformance::wanted(&[1], 0)).await,
        Err(StoreError::Closed)
    ));
    let again = server.open().await;
    concurrency::claim_the_other_half(&*again, &before).await;
}

/// K1, K2: a claim takes what no other one has, and waits for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_claim_holds_is_skipped_and_what_is_left_is_taken() {
    let server = Server::start().await;
    let store = server.open().await;
    conformance::publish_numbered(&*store, 1, 5, 9).await;
    let mut holding = server.connect().await;
    let mut other = holding.begin().await.unwrap();
    sqlx::query("SELECT FROM key_package WHERE NOT last_resort ORDER BY number LIMIT 3 FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    let mut one_time = Vec::new();
    for _ in 0..2 {
        let handed = conformance::claim(&*store, 1).await.unwrap();
        assert!(!handed.last_resort, "two are free");
        one_time.push(conformance::number(&handed));
    }
    let handed = conformance::claim(&*store, 1).await.unwrap();
    assert_eq!((handed.last_resort, conformance::number(&handed)), (true, 9));
    // The last-resort package itself may be held.
    sqlx::query("SELECT FROM key_package FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    assert!(conformance::claim(&*store, 1).await.unwrap().last_resort);
    other.rollback().await.unwrap();
    for _ in 0..3 {
        let handed = conformance::claim(&*store, 1).await.unwrap();
        assert!(!handed.last_resort, "the other one did not take them");
        one_time.push(conformance::number(&handed));
    }
    one_time.sort_unstable();
    assert_eq!(one_time, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_claim_reads_a_whole_table() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for (name, value) in PLANNING {
        sqlx::query("SELECT set_config($1, $2, false)")
            .bind(name)
            .bind(value)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let statements = [
        ("claim", claim::CLAIM, "'{}', '{}', '{}', 0, 0, 0"),
        ("find", find::FIND, "'{}', 0, '{}'"),
        ("low", stock::LOW, "'{}', '{}', 0, 0, 0"),
        ("stock", stock::STOCK, "'', 0, 0"),
        ("suites", stock::SUITES, "'{}', 0, 0"),
    ];
    for (name, statement, parameters) in statements {
        let explain = format!("PREPARE {name} AS {statement}; EXPLAIN EXECUTE {name} ({parameters})");
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let plan: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("Index"), "{name}: {plan}");
        assert!(!plan.contains("Seq Scan"), "{name}: {plan}");
    }
}
