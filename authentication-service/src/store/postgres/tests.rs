//! The store on a real PostgreSQL.

mod locks;

use valise_local_stack::Postgres as Server;

use super::*;
use crate::store::conformance;

async fn empty(server: &Server, name: &str) -> PostgresUrl {
    let url = server.database(name).await.parse().unwrap();
    migrate(&url).await.unwrap();
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let server = Server::start().await;
    let mut number = 0;
    conformance::run(async || {
        number += 1;
        let url = empty(&server, &format!("a{number}")).await;
        Postgres::open(&url).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_two_replicas() {
    let server = Server::start().await;
    let mut number = 0;
    conformance::run_on_replicas(async || {
        number += 1;
        let url = empty(&server, &format!("a{number}")).await;
        [
            Postgres::open(&url).await.unwrap(),
            Postgres::open(&url).await.unwrap(),
        ]
    })
    .await;
}

#[tokio::test]
async fn what_was_written_down_stays() {
    let server = Server::start().await;
    let store = Postgres::open(&empty(&server, "a").await).await.unwrap();
    let code = conformance::code(1, "alice");
    store
        .create_code(&code, &conformance::act(0, "code"))
        .await
        .unwrap();
    store
        .set_suspended(&code.user, true, &conformance::act(1, "suspend"))
        .await
        .unwrap();
    for change in [
        "UPDATE audit_events SET actor = 'nobody'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "UPDATE revocations SET at = 0",
        "DELETE FROM revocations",
        "TRUNCATE revocations",
    ] {
        let refused = sqlx::query(change).execute(&store.pool).await.unwrap_err();
        assert!(refused.to_string().contains(" is append-only"), "{refused}");
    }
    assert_eq!(store.audit_events(0, 10).await.unwrap().len(), 2);
    assert_eq!(store.revocations(0, 10).await.unwrap().lines.len(), 1);
}
