//! Who wants to read what somebody else is changing waits, and goes by what it is then.
//!
//! Chance rarely brings two together. Here one transaction holds what others want, until all of these wait.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sqlx::Row;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::store::MAX_DEVICES;
use crate::store::conformance::{act, at, code, device, enrolled, hash, user};

const DEADLINE: Duration = Duration::from_secs(30);

async fn opened(server: &Server) -> Arc<Postgres> {
    Arc::new(Postgres::open(&empty(server, "a").await).await.unwrap())
}

/// Waits until each of the tasks waits for a lock.
async fn all_wait<T>(store: &Postgres, tasks: &[JoinHandle<T>]) {
    let waiting = async {
        loop {
            let row = sqlx::query(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
            );
            let count: i64 = row.fetch_one(&store.pool).await.unwrap().get(0);
            if count == tasks.len() as i64 {
                return;
            }
            assert!(!tasks.iter().any(JoinHandle::is_finished), "one did not wait");
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, waiting).await.expect("they do not wait");
}

/// Ends the transaction when each of the tasks waits, and returns what became of them.
async fn commit_when_all_wait<T>(
    store: &Postgres,
    held: Transaction<'static, Driver>,
    tasks: Vec<JoinHandle<T>>,
) -> Vec<T> {
    all_wait(store, &tasks).await;
    held.commit().await.unwrap();
    ended(tasks).await
}

async fn ended<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let ended = timeout(DEADLINE, join_all(tasks)).await.expect("they do not end");
    ended.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_being_suspended_gets_no_code_and_no_device() {
    let server = Server::start().await;
    let store = opened(&server).await;
    for (n, name) in [(1, "alice"), (2, "bob")] {
        store.create_code(&code(n, name), &act(0, "code")).await.unwrap();
    }
    // Whoever suspends has the user first, and says so last.
    let lock = async |name| {
        let mut held = store.write().await.unwrap();
        assert!(!users::lock(&mut held, &user(name)).await.unwrap());
        held
    };
    let (mut held, other) = (lock("alice").await, Arc::clone(&store));
    let asked = vec![tokio::spawn(async move {
        other
            .create_code(&code(3, "alice"), &act(1, "code"))
            .await
            .unwrap()
    })];
    all_wait(&store, &asked).await;
    users::set_suspended(&mut held, &user("alice"), true)
        .await
        .unwrap();
    held.commit().await.unwrap();
    assert_eq!(ended(asked).await, [CodeOutcome::UserSuspended]);

    let (mut held, other) = (lock("bob").await, Arc::clone(&store));
    let asked = vec![tokio::spawn(async move {
        other.enrol(&hash(2), &device(2), &act(1, "enrol")).await.unwrap()
    })];
    all_wait(&store, &asked).await;
    users::set_suspended(&mut held, &user("bob"), true).await.unwrap();
    held.commit().await.unwrap();
    assert_eq!(ended(asked).await, [EnrolOutcome::UserSuspended]);
    assert!(store.devices_of(&user("bob")).await.unwrap().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_place_of_a_user_goes_to_one_device() {
    let server = Server::start().await;
    let store = opened(&server).await;
    for n in [1, 2] {
        store
            .create_code(&code(n, "alice"), &act(0, "code"))
            .await
            .unwrap();
    }
    sqlx::query(
        "INSERT INTO devices (device_id, user_id, name, kind, public_key, enrolled_at, certificate_expires_at)
         SELECT 'device ' || n, $1, '', 'device', ''::bytea, 0, 0 FROM generate_series(2, $2) n",
    )
    .bind(user("alice").as_str())
    .bind(MAX_DEVICES.cast_signed())
    .execute(&store.pool)
    .await
    .unwrap();
    let mut held = store.write().await.unwrap();
    assert!(!users::lock(&mut held, &user("alice")).await.unwrap());
    let asked = [1, 2].map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.enrol(&hash(n), &device(n), &act(1, "enrol")).await.unwrap() })
    });
    let outcomes = commit_when_all_wait(&store, held, asked.into()).await;
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let counts = (count(EnrolOutcome::Enrolled), count(EnrolOutcome::TooManyDevices));
    assert_eq!(counts, (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_with_a_code_finds_the_answer_of_the_first() {
    let server = Server::start().await;
    let store = opened(&server).await;
    store
        .create_code(&code(0, "alice"), &act(0, "code"))
        .await
        .unwrap();
    let mut held = store.write().await.unwrap();
    assert!(!users::lock(&mut held, &user("alice")).await.unwrap());
    // Both have seen that the code can be used.
    let asked = [1, 2].map(|n| {
        let store = Arc::clone(&store);
        let new = NewDevice {
            public_key: vec![0; 32],
            ..device(n)
        };
        tokio::spawn(async move {
            let outcome = store.enrol(&hash(0), &new, &act(1, "enrol")).await.unwrap();
            let answer = store.answer(&hash(0), &[0; 32], at(1)).await.unwrap();
            (outcome, answer.unwrap().device.id)
        })
    });
    let outcomes = commit_when_all_wait(&store, held, asked.into()).await;
    let [(first, one), (second, other)] = outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(one, other);
    assert_ne!(first, second);
    for outcome in [first, second] {
        assert!(matches!(
            outcome,
            EnrolOutcome::Enrolled | EnrolOutcome::CodeUnusable
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_numbered_waits_for_the_number_before_it() {
    let server = Server::start().await;
    let store = opened(&server).await;
    for (n, name) in [(1, "alice"), (2, "bob")] {
        enrolled(store.as_ref(), n, name, 0).await;
    }
    // An act that is written down, and not there yet.
    let mut held = store.write().await.unwrap();
    records::write_down(&mut held, &act(1, "held")).await.unwrap();
    let asked = [3, 4].map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store
                .create_code(&code(n, "carol"), &act(2, "code"))
                .await
                .is_ok()
        })
    });
    assert_eq!(
        commit_when_all_wait(&store, held, asked.into()).await,
        [true, true]
    );
    let events = store.audit_events(0, 100).await.unwrap();
    let numbers: Vec<_> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=7).collect::<Vec<_>>());
    assert_eq!(events[4].action, "held");

    // And a revocation.
    let mut held = store.write().await.unwrap();
    records::add_revocation(&mut held, "suspended", &user("carol"), None, at(3))
        .await
        .unwrap();
    let asked = [1, 2].map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.revoke(device(n).id, None, &act(4, "revoke")).await.is_ok() })
    });
    assert_eq!(
        commit_when_all_wait(&store, held, asked.into()).await,
        [true, true]
    );
    let page = store.revocations(0, 100).await.unwrap();
    let numbers: Vec<_> = page.lines.iter().map(|line| line.number).collect();
    assert_eq!((page.newest, numbers), (3, vec![1, 2, 3]));
}
