//! A caller that goes away, or whose time is up, stops nothing of what the log has by then.

use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use valise_client_sdk::Position;
use valise_tests::people::Town;
use valise_tests::raw::{Device, Plan};
use valise_tests::retention::{database, snapshot_after};
use valise_tests::service::Service;
use valise_tests::wait::until;

/// An entry takes a second or more to be written.
const SLOW: &str = "CREATE VIEW slow AS
        WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted LIMIT 3000000)
        SELECT count(*) AS n FROM counted;
    CREATE TRIGGER takes_long BEFORE INSERT ON entries BEGIN SELECT n FROM slow; END;";

/// Does the service write to it now?
fn is_written_to(store: &Connection) -> bool {
    match store.execute_batch("BEGIN IMMEDIATE; ROLLBACK;") {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy),
                "{error}"
            );
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_adds_has_its_snapshot_also_where_nobody_waits_for_the_answer() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    let mut group = alice.new_group();
    alice.register(&group).await.unwrap();
    let id = group.group_id().as_slice().try_into().unwrap();
    let bundle = alice.commit(&mut group, Plan::add(vec![bob.key_package()]));

    let store = database(&service);
    store.execute_batch(SLOW).unwrap();
    store.busy_timeout(Duration::ZERO).unwrap();
    let writing = until("the commit is being written", async || {
        is_written_to(&store).then_some(())
    });
    tokio::select! {
        answer = alice.submit(&bundle) => unreachable!("it was to take longer: {answer:?}"),
        () = writing => {}
    }
    // The call is given up by now.
    snapshot_after(&service, id, Position::NONE).await;
}
